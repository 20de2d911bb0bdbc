"""Basin hopping: quasi-Newton descent on finite differences, and random hops from where it ends.

Wales & Doye 1997, with T = 0 (monotonic: Leary 2000). Of n coordinates, each in its tensor's unit, a descent takes two
steps in turn, whose points are scored side by side, on the same batch or over the same window:

- differences: x and x + h e_i for each i, so that g_i = (f(x + h e_i) − f(x)) / h, with h = ``difference``
- a line: x and x + t d, d = −B g, for t = 4, 1, 1/4 … 4⁻⁷; the best of them becomes x

B is the inverse Hessian of Broyden, Fletcher, Goldfarb & Shanno (Nocedal & Wright 2006, eq. 6.17, scaled first by eq.
6.20); it starts as the identity, with d as long as ``step``. Where no point of a line is better, the descent starts
anew from the identity; where that is no better either, or all differences are 0, it has ended. From there on, ``hops``
points

    x' = x + step · r ⊙ ε,    ε one coordinate times a Cauchy number, or with ``moves: all`` normal / √n

are scored beside x at every step, and the first that are better begin another descent at the best of them.

It is for a few coordinates whose loss is smooth between its barriers, and finds the bottom of a valley in fewer trials
than a population does. h has to stand out of the noise that paired losses have left: 0.1 is for hyperparameters, and
1e-7 for exact losses in float64. With ``hops=0`` it is the descent alone, which is tried again on other batches.

State: ``{"phase": 0 differences, 1 line, 2 hops, "fresh": whether B is the identity, "g", "s": [n] the slope, and the
last move (0: none), "B": [n, n], "spread": [one number per tensor]}``, float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from recopt import Params, RecoptError, State, Strategy, Trial, option, positive
from recopt.toolkit.blocks import coordinates, shaped
from recopt.toolkit.random import along_one, displaced, normal, spreads
from recopt.toolkit.scores import scores

DIFFERENCES, LINE, HOPS = range(3)
LENGTHS = tuple(4.0**k for k in range(1, -8, -1))
MOST = 1000
"""The most coordinates, of whose square B is."""


class BasinHopping(Strategy):
    """Basin hopping: quasi-Newton descent on finite differences, and random hops from where it ends."""

    order = 0
    vectorize = False
    level: ClassVar[Mapping[str, Any]] = {"window": 100}

    hops = option(8, "points that are tried at each step from where a descent has ended; 0: none", least=0)
    moves = option("one", "the coordinates that a hop changes", choices=("one", "all"))
    step = positive(1.0, "length of a descent's first step and of a hop, in each tensor's unit")
    difference = positive(0.1, "difference by which slopes are measured, in each tensor's unit")

    def init(self, point: Params) -> State:
        """Before the first differences."""
        count = sum(p.numel() for p in point)
        if count > MOST:
            raise RecoptError(f"basin-hopping moves at most {MOST:,} coordinates, not {count:,}: take evolution.")
        line = torch.zeros(count, dtype=torch.float64)
        whole = torch.eye(count, dtype=torch.float64)
        return {"phase": DIFFERENCES, "fresh": True, "g": line, "s": line.clone(), "B": whole, "spread": spreads(point)}

    @torch.no_grad()
    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        """The present point, and those that the phase asks for."""
        state = _near(state)
        count, spread = len(state["g"]), state["spread"]
        if state["phase"] == HOPS:
            return [point, *(self._hop(point, spread, rng) for _ in range(self.hops))]
        at = coordinates(point, spread)
        if state["phase"] == DIFFERENCES:
            moves = list(float(self.difference) * torch.eye(count, dtype=torch.float64))
        else:
            moves = [t * self._direction(state) for t in LENGTHS]
        return [point, *(shaped(at + move, point, spread) for move in moves)]

    @torch.no_grad()
    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """Measure the slope, or go to the best trial of a line or of hops."""
        losses, still, state = scores(trials), [torch.zeros_like(p) for p in point], _near(state)
        if state["phase"] == DIFFERENCES:
            return still, self._sloped(point, trials, losses, state)
        best = int(losses.argmin())  # of equals the first, which is the present point
        if not best:
            again = state["phase"] == LINE and (not state["fresh"] or not self.hops)
            return still, self._anew(state, DIFFERENCES if again else HOPS)
        delta = [q - p for p, q in zip(point, trials[best].point, strict=True)]
        if state["phase"] == HOPS:
            return delta, self._anew(state, DIFFERENCES)
        return delta, {**state, "phase": DIFFERENCES, "s": coordinates(delta, state["spread"])}

    def _anew(self, state: State, phase: int) -> State:
        """The state of a descent that begins."""
        whole, none = torch.eye(len(state["g"]), dtype=torch.float64), torch.zeros_like(state["g"])
        return {**state, "phase": phase, "fresh": True, "B": whole, "s": none}

    def _sloped(self, point: Params, trials: Sequence[Trial], losses: Tensor, state: State) -> State:
        """The state after differences: the slope, and B by how it has changed."""
        at = coordinates(point, state["spread"])
        rows = [coordinates(t.point, state["spread"])[i] - at[i] for i, t in enumerate(trials[1:])]
        slope = (losses[1:] - losses[0]) / torch.stack(rows) if rows else state["g"]
        slope = torch.where(slope.isfinite(), slope, 0.0)
        if not slope.any():
            return self._anew(state, HOPS if self.hops else DIFFERENCES)
        s, y, B = state["s"], slope - state["g"], state["B"]
        curved = float(s @ y)
        if curved <= 1e-10 * float(s.norm() * y.norm()):  # no move before, or no valley along it
            return {**state, "phase": LINE, "g": slope}
        B = B * curved / float(y @ y) if state["fresh"] else B
        part = torch.eye(len(s), dtype=torch.float64) - torch.outer(s, y) / curved
        after = part @ B @ part.T + torch.outer(s, s) / curved  # (eq. 6.17)
        return {**state, "phase": LINE, "fresh": False, "g": slope, "B": after}

    def _direction(self, state: State) -> Tensor:
        """The line's unit step."""
        down: Tensor = -state["B"] @ state["g"]
        return down * float(self.step) / down.norm() if state["fresh"] else down

    def _hop(self, point: Params, spread: Sequence[Tensor], rng: Generator) -> Params:
        """A point around ``point``."""
        noise = along_one(point, rng) if self.moves == "one" else normal(point, rng)
        length = self.step / max(1, sum(p.numel() for p in point)) ** 0.5
        return displaced(point, length, spread, noise)


def _near(state: State) -> State:
    """``state`` with the slope, the move and B on the CPU, wherever it was loaded to."""
    return {**state, **{name: state[name].cpu() for name in ("g", "s", "B")}}
