"""Wrong in what they are, or wholly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, nn

from recopt import Params, State, Strategy, Trial, option, positive

from . import Good, GoodSearch, broken


@broken("settings")
class NeedsAnArgument(Good):
    """Cannot be made without an argument."""

    def __init__(self, size: int, **settings: Any) -> None:
        super().__init__(**settings)


@broken("settings")
class DefaultOutsideItsDomain(Good):
    """A rate of 0."""

    lr = positive(0.0)


@broken("settings")
class DefaultIsNoChoice(Good):
    """A default that could not be given."""

    kind = option("green", choices=("red", "blue"))


broken("settings")(nn.Identity)


@broken("documented")
class Undocumented(Good):
    pass


@broken("signature")
class WithoutGenerator(Good):
    """Leaves rng out."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State) -> Any:  # type: ignore[override]
        return super().forward(point, trials, state, Generator())


@broken("order")
class SaysItReadsGradients(Good):
    """Says 1, reads none."""

    def read(self, trials: Sequence[Trial]) -> Params:
        return [p.detach() for p in trials[0].point]


@broken("order")
class SaysItReadsNone(Good):
    """Says 0, reads them."""

    order = 0


@broken("order")
class ReadsThemIfThere(GoodSearch):
    """Says 0, reads them where it can."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, state = super().forward(point, trials, state, rng)
        return (delta if trials[0].grads is None else [-g for g in trials[0].grads]), state


@broken("order")
class ReadsTheLossToo(Good):
    """Does not say that it reads losses."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, state = super().forward(point, trials, state, rng)
        loss = trials[0].loss
        assert loss is not None
        return [d * loss.tanh() for d in delta], state


@broken("order")
class OrderTwo(Good):
    """There is no such order."""

    order = 2  # type: ignore[assignment]


@broken("runs")
class Unfinished(Strategy):
    """Has no forward."""

    lr = positive(0.1)


@broken("runs")
class ForgetsTheState(Good):
    """Gives only deltas."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> Any:
        return super().forward(point, trials, state, rng)[0]


@broken("runs")
class DividesByZero(Good):
    """Divides by the number of steps so far."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return [d / torch.tensor(float(state["steps"])) for d in delta], after
