"""Hypergradient descent in its multiplicative, dimensionless form.

Baydin et al. 2018 (1703.04782, section 2, the multiplicative rule, eq. 5-8) tune a learning rate α by

    α_t = α_{t−1} (1 − κ h / (‖g_t‖ ‖∂u_{t−1}/∂α‖)),    h = ∂f(θ_{t-1})/∂α = g_t · ∂u_{t−1}/∂α

where u is the update that α made and g_t the gradient that came after it. The quotient is a cosine, so κ has no
unit: the same κ serves any loss, any model and any α. Here the rate is moved in its own coordinate,

    log α ← log α − κ cos,

which agrees to first order in κ, cannot make α negative, and is symmetric (κ up and κ down cancel). In general,
for any hyperparameter in its coordinate x, or any other optimizee,

    x ← x − κ · signal,

and the level's ``normalize: cosine`` (this strategy's default) divides the signal by the norms that turn it into
the cosine. Where updates go on agreeing with the negative gradients that follow them, the signal is negative and
the rate grows; where they overshoot, it falls.

κ: n steps whose mean cosine is c change the rate by a factor e^{κ c n}. On minibatches c is small even where the rate
is far too small (measured 0.04 to 0.14 on digits, MLP, at 1/100 of the best rate), so 0.1 corrects a factor of ten in
160 to 600 steps. Noise alone is a random walk: with cosines of ±0.15, log α strays by 0.1 · 0.15 · √1000 ≈ 0.5 in
1,000 steps. Both suit runs of that length; take κ in [1e-3, 1] otherwise, smaller for longer runs. On digits over
600 steps, the mean of the last 50 losses (two seeds): Adam from lr 1e-3 goes from 1.07 and 1.13 to 0.024 and 0.030,
from lr 1e-5 from 2.35 and 2.32 to 0.013 and 0.027. One-step signals are greedy (Wu et al. 2018, 1803.02021): with
noisy gradients they drive the rate too low. So a rate that is right already gets worse (Adam from lr 0.1: from 0.002
and 0.012 to 0.010 and 0.038), which a longer ``every`` or ``on: valid`` mends in part. Its steps do not fall: over
tens of thousands of steps on a set that is learned by heart it lets a rate fall to nothing (docs/results.md), where
``adagrad`` does not.

Tied to itself (``adam/hypergradient/self``) κ moves too. The cosine of what is a single number would be its sign, and
κ change by ±κ. So the loop's level has ``normalize: cosines``: its signal is the derivative by κ in the units in which
that by log α is the cosine c, −c c' with c' the cosine before (log α moved by κ c'), and

    log κ ← log κ + κ c c',    κ at most 1; then log α ← log α + κ c,

with nothing in it that has a unit. Unlike a rate that is its own step (Chandra et al. 2022, 1909.13371) it neither
stands still where κ is small nor runs away where it is large. Measured in docs/depth.md.

State: ``{}``; all that is remembered is in the point itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from recopt import Column, Hypers, Ops, Rule, State, Term, positive


class Hypergradient(Rule):
    """Hypergradient descent: moves a log learning rate against the cosine of its updates and what came after."""

    level: ClassVar[Mapping[str, Any]] = {"normalize": "cosine"}
    linear: ClassVar[str | None] = "kappa"

    kappa = positive(0.1, "step in the coordinate (for a rate: in its logarithm) where the cosine is 1", most=1.0)

    def delta(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> list[Term]:
        """−κ · signal."""
        return [Term(-hyper["kappa"], grads)]
