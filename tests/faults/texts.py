"""Wrong in their texts, or in what they say of them."""

from __future__ import annotations

from typing import Any

import torch

from recopt import Params, Rule, State, Term, positive

from . import broken


class GoodRule(Rule):
    """Momentum as a text, done right."""

    linear = "lr"
    lr = positive(0.1)
    beta = positive(0.5)

    def init(self, point: Params) -> State:
        return {"steps": 0, "memory": [torch.zeros_like(p) for p in point]}

    def advance(self, ops: Any, grads: Any, point: Any, state: State, hyper: Any) -> State:
        memory = ops.decay_add(state["memory"], grads, hyper["beta"])
        return {"steps": state["steps"] + 1, "memory": memory}

    def delta(self, ops: Any, grads: Any, point: Any, state: State, hyper: Any) -> list[Term]:
        return [Term(-hyper["lr"], state["memory"])]


@broken("back_ends")
class ReadsWhatIsOverwritten(GoodRule):
    """Goes on with the memory as it was, which is not there any more."""

    def advance(self, ops: Any, grads: Any, point: Any, state: State, hyper: Any) -> State:
        after = super().advance(ops, grads, point, state, hyper)
        return {**after, "memory": ops.add(after["memory"], state["memory"], 0.1)}


@broken("back_ends")
class OverwritesTheGradients(GoodRule):
    """Lets the gradients be the first argument of an operation in place."""

    def delta(self, ops: Any, grads: Any, point: Any, state: State, hyper: Any) -> list[Term]:
        return [Term(-hyper["lr"], ops.lerp(grads, state["memory"], 0.5))]


@broken("reads")
class ReadsGradientsLater(GoodRule):
    """Steps along the gradient itself from the tenth step on."""

    def delta(self, ops: Any, grads: Any, point: Any, state: State, hyper: Any) -> list[Term]:
        return [Term(-hyper["lr"], grads if state["steps"] >= 10 else state["memory"])]


@broken("linear")
class SquareOfTheRate(GoodRule):
    """Moves by the square of the rate."""

    def delta(self, ops: Any, grads: Any, point: Any, state: State, hyper: Any) -> list[Term]:
        return [Term(-hyper["lr"] * hyper["lr"], state["memory"])]


@broken("linear")
class RateInTheState(GoodRule):
    """Remembers updates instead of gradients."""

    def advance(self, ops: Any, grads: Any, point: Any, state: State, hyper: Any) -> State:
        return super().advance(ops, ops.mul(grads, hyper["lr"]), point, state, hyper)

    def delta(self, ops: Any, grads: Any, point: Any, state: State, hyper: Any) -> list[Term]:
        return [Term(-1.0, state["memory"])]


@broken("linear")
class NoSuchRate(GoodRule):
    """Names a setting that is not there."""

    linear = "rate"
