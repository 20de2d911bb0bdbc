"""A gate: moves a number away from where it began only while paired comparisons say that this pays.

The number is mostly the factor on a term that is 0 at first, ``gamma`` of ``gated``. A comparison scores two windows,
from the same state of the run and on the same batches: one with the number where it began (closed), one with it
``size`` · r farther (open). The winners make odds that opening pays, which begin at 1:

    odds ← odds · 3/2 if the open one won, else odds / 2,    within [1 / evidence, evidence]

(the wealth of a gambler who bets half of it on the open window at even chances). Where opening wins half of the time,
the gate opens once in some 140 comparisons, and is open at one in 17; where it wins eight times in ten, after some 8.

- **Closed**, the run goes on from the end of the closed window, whoever won. So a run whose gate never opens is, but
  for what the comparisons cost, the run without what is behind it, to the bit.
- **It opens** when the odds reach ``evidence``. Where the open window wins, the run goes on from its end, and ``rest``
  windows with the gate open follow before the next comparison.
- **Rollback**: where the open window loses, the run goes on from the end of the closed one, so that nothing is left of
  the other, and the next window is a comparison again.
- **It closes** when the odds fall below 1: after three losses in a row at the most.

r grows by 2^¼ at a win and is halved at a loss, within 1024 either way: it settles where four comparisons in five are
won. While the gate is closed, windows without a comparison follow a loss: 1, 3, 7 and then 15 after each, so that a
term that does not pay costs a sixteenth more in the end.

A level above the task scores each window over ``window`` evaluations of it; ``every`` sets that in steps of the level
beneath. Several numbers are moved together, each by the same.

State: ``{"closed": [tensors], "odds", "ratio": log2 r, "open": 0 or 1, "wait": windows without a comparison after
the next loss, "left": of those to come, "compared", "won", "rolled_back": counts}``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator

from recopt import Params, RecoptError, State, Strategy, Trial, option, positive

WON, LOST = 1.5, 0.5
"""Factors on the odds."""
LARGER, SMALLER, REACH = 0.25, 1.0, 10.0
"""Steps of log2 r up and down, and its largest size."""
LEAST = 1.01
"""The least evidence: the odds stay between it and its reciprocal, so below 1 there would be none."""
LONGEST = 15
"""The most windows without a comparison while the gate is closed."""


class Gate(Strategy):
    """Opens what is behind it only while paired comparisons say that it pays, and takes back what made it worse."""

    order = 0
    vectorize = False
    paired: ClassVar[bool] = True
    level: ClassVar[Mapping[str, Any]] = {"window": 200}

    size = positive(0.01, "how far the number is moved at the first comparison")
    evidence = positive(4.0, "the odds that opening pays at which it opens")
    rest = option(3, "windows from one comparison to the next while it is open", least=0)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.evidence < LEAST:
            raise RecoptError(
                f"gate.evidence, the odds at which it opens, must be {LEAST:g} or more, not {self.evidence:g}."
            )

    def init(self, point: Params) -> State:
        """Closed, at ``point``."""
        counts = {"compared": 0, "won": 0, "rolled_back": 0}
        closed = [p.detach().clone() for p in point]
        return {"closed": closed, "odds": 1.0, "ratio": 0.0, "open": 0, "wait": 0, "left": 0, **counts}

    def tells(self, state: State, hyper: Mapping[str, float]) -> dict[str, float]:
        """The odds, and the counts of comparisons, of those won, and of windows that were taken back."""
        return {key: float(state[key]) for key in ("odds", "compared", "won", "rolled_back")}

    @torch.no_grad()
    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        """``[closed, open]``, or the present point alone in a window without a comparison."""
        if state["left"] > 0:
            return [point]
        away = self.size * 2.0 ** state["ratio"]
        return [list(state["closed"]), [c + away.to(c) for c in state["closed"]]]

    @torch.no_grad()
    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """Go on from the one or the other, from the losses of the two trials."""
        if len(trials) == 1:
            return [torch.zeros_like(p) for p in point], {**state, "left": state["left"] - 1}
        closed, opened = (float(t.loss) if t.loss is not None else math.nan for t in trials)
        won = math.isfinite(opened) and not closed <= opened
        most = max(float(self.evidence), LEAST)
        odds = min(max(state["odds"] * (WON if won else LOST), 1 / most), most)
        is_open = int(odds >= (1.0 if state["open"] else most))
        wait = 0 if won or is_open else min(2 * state["wait"] + 1, LONGEST)
        after = {
            "closed": state["closed"], "odds": odds,
            "ratio": min(max(state["ratio"] + (LARGER if won else -SMALLER), -REACH), REACH),
            "open": is_open, "wait": wait, "left": self.rest if won and is_open else wait,
            "compared": state["compared"] + 1, "won": state["won"] + int(won),
            "rolled_back": state["rolled_back"] + int(bool(state["open"]) and not won),
        }  # fmt: skip
        target = trials[1].point if won and is_open else state["closed"]
        return [t.to(p) - p for t, p in zip(target, point, strict=True)], after
