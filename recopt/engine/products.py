"""The count of Hessian-vector products, by whatever differentiates a gradient of the task once more.

An exact unroll of T steps takes one for each gradient that it goes through, tangents one for each number at each step,
conjugate gradients one an iteration: what counts is that autograd passes through a gradient's graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor


class Products:
    """The passes through gradients since they were last asked for."""

    def __init__(self) -> None:
        self._taken = 0

    def watch(self, grads: Sequence[Tensor | None]) -> None:
        """Count the passes through a gradient that has its graph: as many as through the tensor that sees most."""
        nodes = {g.grad_fn for g in grads if g is not None and g.grad_fn is not None}
        passes = [0] * len(nodes)
        for k, node in enumerate(nodes):
            node.register_prehook(partial(self._passed, passes, k))

    def _passed(self, passes: list[int], k: int, _: Sequence[Tensor]) -> None:
        self._taken += passes[k] == max(passes)
        passes[k] += 1

    def take(self) -> int:
        """The products since the last call."""
        taken, self._taken = self._taken, 0
        return taken
