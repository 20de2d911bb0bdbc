"""The share of noise in successive gradients: those that do not vanish, and neither go on nor turn back."""

from __future__ import annotations

from typing import Any

from .columns import between

__all__ = ["UNHEARD", "heard", "noise", "quieted"]

Column = Any

UNHEARD = {"power": 0.0, "most": 0.0, "accord": 0.0, "touched": 1.0}
"""A number for each tensor, before the first gradient g: the running mean of ‖g‖² over all tensors, its largest value,
and the running means of ⟨g, m⟩, with m the mean of the gradients before g, and of the part of ‖m‖² where g is not 0."""
SPAN, FIRST, EVERY = 20, 5, 8
"""The steps that the running means look back, the step from which the largest counts, and the steps from one look at
zeros to the next."""
LEAST = 0.05
"""The smallest share of touched entries that is made up for."""
SMALL, LARGE = 0.15, 0.45
"""The root of the mean of ‖g‖² over its largest: up to the first gradients have vanished, from the second on not."""
TURNED, AWAY, TOWARD, ON = -0.8, -0.5, 0.1, 0.5
"""Agreements of gradients: up to the first and from the last on none is noise, between the others all."""


def heard(ops: Any, grads: Column, mean: Column, state: Any, steps: int, decay: Any) -> dict[str, Column]:
    """The numbers of :data:`UNHEARD` after the gradient of step ``steps``.

    Args:
        mean: the running mean of the gradients before it, which began at zero.
        decay: that of ``mean``.
    """
    if steps == 1:
        return {name: state[name] for name in UNHEARD}
    new = max(1 / SPAN, 1 / steps)
    square, product = (ops.together(ops.inner(grads, each)) for each in (grads, mean))
    accord = ops.lerp(state["accord"], ops.mul(product, 1 / (1 - decay ** (steps - 1))), new)
    power = ops.lerp(state["power"], square, new)
    return {
        "accord": accord,
        "power": power,
        "most": ops.maximum(state["most"], power) if steps >= FIRST else state["most"],
        "touched": state["touched"] if steps % EVERY else _touched(ops, grads, mean, state["touched"], steps),
    }


def _touched(ops: Any, grads: Column, mean: Column, before: Column, steps: int) -> Column:
    """The running mean of the part of ‖mean‖² that is in entries whose gradient is not 0; as before, if all are."""
    some = ops.mul(ops.magnitude(ops.sign(grads)), mean)
    part, whole = (ops.together(ops.inner(each, each)) for each in (some, mean))
    root = ops.roots(whole)
    apart = ops.add(ops.div(ops.div(part, root), root), before, -1.0)
    return ops.add(before, ops.mul(apart, ops.mul(ops.sign(whole), max(1 / SPAN, EVERY / steps))))


def noise(ops: Any, numbers: Any, decay: Any) -> Column:
    """The share of noise in the last gradients, from 0 to 1: the product of three lines between the limits above.

    Their agreement is ⟨g, m⟩ / ‖g‖² · (1 + decay) / (1 − decay), by the running means. It is 0 where gradients are
    independent, −1 where each is the last one turned round, as those of steps too long for a bowl are, and above 0 as
    long as they descend. Sparse gradients, each 0 in most entries, agree by no more than the share of entries that one
    of them touches, however steadily those entries go on. So an agreement above 0 is divided by that share.
    """
    root = ops.roots(numbers["power"])
    agreement = ops.mul(ops.div(ops.div(numbers["accord"], root), root), (1 + decay) / (1 - decay))
    left = ops.div(root, ops.roots(numbers["most"]))
    onward = ops.div(agreement, ops.at_least(numbers["touched"], LEAST))
    lines = (agreement, TURNED, AWAY), (onward, ON, TOWARD), (left, SMALL, LARGE)
    first, second, third = (between(ops, *line) for line in lines)
    return ops.mul(ops.mul(first, second), third)


def quieted(ops: Any, numbers: Column, share: Column, by: float) -> Column:
    """numbers · max(0, 1 − by · share), with the share of noise, a number for each of them."""
    return ops.mul(numbers, ops.at_least(ops.add(ops.mul(share, -by), 1.0), 0.0))
