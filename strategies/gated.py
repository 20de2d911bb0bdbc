"""A rule's step beside another's, which counts as much as a gate lets through.

With u the step of ``base`` and v that of ``rule``, both on the same signal,

    φ ← φ + u(g) + gamma · v(g)

gamma is 0 at first, so that the rule leaves no trace until something opens it: a level above with ``gate``, which does
that only while paired comparisons say that it pays. Entries of v that are not finite count as 0.

With ``tied`` this is a learned rule that moves its own weights φ: v is the rule's step with the weights φ̄, a copy of
what is moved, made anew every ``lag`` steps. So a step that spoils the rule does not at once spoil the next. No
derivative runs through φ̄. The level then has a trust region of 1 % by default, over both steps together.

    recopt run digits 'mlp-rule/gated(base=adam(lr=0.001), rule=mlp-rule, tied=true)/gate' --tasks 4

State: ``{"base", "rule"}``, their own, and if tied ``{"lagged": φ̄, "steps": n}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator
from torch.func import functional_call

from recopt import Params, RecoptError, State, Strategy, Trial, option, real, strategy


class Gated(Strategy):
    """One rule's step and gamma times another's, which may have the weights that it moves; gamma is 0 at first."""

    above: ClassVar[Mapping[str, Any]] = {"only": ("gamma",)}

    base = option("adam", "the rule that steps whatever gamma is, as in a stack, without levels above")
    rule = option("mlp-rule", "the rule whose step is multiplied by gamma, likewise")
    tied = option(False, "the rule has the weights that are moved, as they were at most lag steps ago")
    lag = option(10, "steps from one copy of these weights to the next", least=1)
    gamma = real(0.0, "factor on the rule's step")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.first, rule = strategy(self.base), strategy(self.rule)
        for name, text, made in (("base", self.base, self.first), ("rule", self.rule, rule)):
            if made.order == 0:
                raise RecoptError(f"gated.{name}={text} is zero-order: name a rule that reads gradients.")
        if dict(self.first.level) != dict(rule.level):
            each = f"{self.base} {dict(self.first.level)} and {self.rule} {dict(rule.level)}"
            raise RecoptError(f"The rules of gated ask different things of the level, {each}: take others.")
        if not self.gamma:
            gate = "put gate above, as in gated/gate, or give gamma another value"
            self.above = {**self.above, "without": f"gamma is 0, so rule={self.rule} is never used: {gate}."}  # type: ignore[misc]
        self.level = {**rule.level, **({"trust": 0.01} if self.tied else {})}  # type: ignore[misc]
        self.reads_loss = self.first.reads_loss or rule.reads_loss  # type: ignore[misc]
        self.vectorize = self.first.vectorize and rule.vectorize and not self.tied  # type: ignore[misc]
        held = {"first": self.first}
        if self.tied:  # what it would begin with is of no use, so it is no parameter
            self._form = (rule,)
        else:
            self.second = held["second"] = rule
        self._domains |= {f"{place}.{name}": x for place, one in held.items() for name, x in one._domains.items()}

    def init(self, point: Params) -> State:
        """The first states of both; ``point`` as the copy. Raises RecoptError if it is not the rule's weights."""
        rule, copied = (self._form[0], self._copy(point)) if self.tied else (self.second, {})
        return {"base": self.first.init(point), "rule": rule.init(point), **copied}

    def _copy(self, point: Params) -> State:
        have, want = [tuple(p.shape) for p in point], [tuple(p.shape) for p in self._form[0].parameters()]
        if have != want:
            raise RecoptError(
                f"gated.rule={self.rule} has weights of other shapes than what it is to move: with tied=true write it "
                "as it stands beneath, with its settings."
            )
        return {"lagged": [p.detach().clone() for p in point], "steps": 0}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        own, base = self.first(point, trials, state["base"], rng)
        more, after = self._others(point, trials, state, rng)
        deltas = [u + self.gamma.to(v) * torch.where(v.isfinite(), v, 0.0) for u, v in zip(own, more, strict=True)]
        return deltas, {"base": base, **after}

    def _others(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """The rule's own step, and the part of the state that is its."""
        if not self.tied:
            more, after = self.second(point, trials, state["rule"], rng)
            return more, {"rule": after}
        rule, steps = self._form[0], state["steps"]
        lagged = [p.detach().clone() for p in point] if steps % self.lag == 0 else state["lagged"]
        names = [name for name, _ in rule.named_parameters()]
        weights = dict(zip(names, lagged, strict=True))
        more, after = functional_call(rule, weights, (point, trials, state["rule"], rng))
        return more, {"rule": after, "lagged": lagged, "steps": steps + 1}
