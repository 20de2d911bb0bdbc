"""Steps of unit size, whose length another rule finds (``paced``): Adam's, plain and factored, Muon's, and of both.

Each keeps its columns in a rule's state, under ``"start"``, the first point, ``"mean"`` and ``"square"``. Of float32
parameters they take three times their memory; of matrices those of :class:`FactoredBase` take 1.5.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .matrices import by_kind, is_matrix, orthogonal_steps

__all__ = ["AdamBase", "FactoredBase", "MixedBase", "MuonBase"]

Column = Any


class AdamBase:
    """Steps along the mean of gradients over the root of the mean of their squares."""

    def begin(self, point: list[Tensor]) -> dict[str, list[Tensor]]:
        """The columns before the first step, at ``point``."""
        zeros = {name: [torch.zeros_like(p) for p in point] for name in ("mean", "square")}
        return {"start": [p.clone() for p in point], **zeros}

    def second(self, ops: Any, grads: Column, mean: Column, state: Any, hyper: Any) -> Column:
        """The running mean of squares."""
        return ops.lerp_square(state["square"], grads, hyper["beta2"])

    def squares(self, square: Column, like: Column) -> Column:
        """The running mean of squares, in the shape of ``like``."""
        return square

    def own(self, ops: Any, grads: Column) -> Column:
        """The squares of gradients, of which there is no mean yet."""
        return ops.mul(grads, grads)

    def last(self, ops: Any, state: Any) -> Column:
        """The direction of the last step, but for sizes."""
        return ops.div(state["mean"], ops.roots(self.squares(state["square"], state["mean"])))

    def term(
        self, ops: Any, rate: Any, sizes: Column, grads: Column, state: Any, hyper: Any
    ) -> tuple[Any, Column, Column | None]:
        """Scale, numerator and denominator of the step: ``rate``, and a size for each tensor, by the direction."""
        steps = state["steps"]
        if ops.differentiates and steps == 1:  # the means are then the gradient's own whatever the betas are
            return rate, ops.mul(grads, sizes), ops.roots(self.own(ops, grads), hyper["eps"])
        correction = ops.sqrt(1 - hyper["beta2"] ** steps)
        spread = ops.roots(self.squares(state["square"], state["mean"]), correction * hyper["eps"])
        return rate * correction / (1 - hyper["beta1"] ** steps), ops.mul(state["mean"], sizes), spread


class FactoredBase(AdamBase):
    """Adam's steps with the mean of a matrix's squares kept as its rows' means r and its columns' c: r cᵀ / mean(r).

    Shazeer & Stern 2018 (1804.04235, algorithm 2). The first point of a matrix is kept in bfloat16: only its direction
    from the present one is read.
    """

    def begin(self, point: list[Tensor]) -> dict[str, list[Tensor]]:
        """The columns before the first step, at ``point``; ``"square"`` of a matrix has its rows, then its columns."""
        square = [p.new_zeros(sum(p.flatten(1).shape)) if is_matrix(p) else torch.zeros_like(p) for p in point]
        start = [p.to(torch.bfloat16) if is_matrix(p) else p.clone() for p in point]
        return {"start": start, "mean": [torch.zeros_like(p) for p in point], "square": square}

    def second(self, ops: Any, grads: Column, mean: Column, state: Any, hyper: Any) -> Column:
        """The running means of squares."""

        def matrices(g: Column, factors: Column) -> tuple[Column]:
            return (ops.lerp(factors, [_factors(x) for x in g], 1 - hyper["beta2"]),)

        def rest(g: Column, square: Column) -> tuple[Column]:
            return (ops.lerp_square(square, g, hyper["beta2"]),)

        return by_kind(matrices, rest, grads, state["square"])[0]

    def squares(self, square: Column, like: Column) -> Column:
        """The running mean of squares, in the shape of ``like``."""

        def matrices(like: Column, factors: Column) -> tuple[Column]:
            return ([_product(f, x) for f, x in zip(factors, like, strict=True)],)

        return by_kind(matrices, lambda like, square: (square,), like, square)[0]

    def own(self, ops: Any, grads: Column) -> Column:
        """The squares of gradients, factored, of which there is no mean yet."""

        def rest(g: Column) -> tuple[Column]:
            return (ops.mul(g, g),)

        return by_kind(lambda g: ([_product(_factors(x), x) for x in g],), rest, grads)[0]


class MixedBase(AdamBase):
    """Steps of matrices half along Adam's direction and half along the orthogonalized mean of gradients.

    With a as Adam's step of unit size and O as Muon's, it is (a + O · rms(a) / rms(O)) / √2: both halves are as long as
    Adam's, as by grafting (Agarwal et al. 2020, 2002.11803). Other tensors have Adam's steps.
    """

    def term(
        self, ops: Any, rate: Any, sizes: Column, grads: Column, state: Any, hyper: Any
    ) -> tuple[Any, Column, Column | None]:
        """The step: ``rate``, and a size for each tensor, by the direction."""
        scale, numer, denom = super().term(ops, 1.0, sizes, grads, state, hyper)
        adams = ops.mul(ops.div(numer, denom), scale)
        first = ops.differentiates and state["steps"] == 1

        def matrices(g: Column, mean: Column, adams: Column) -> tuple[Column]:
            turned = orthogonal_steps(g if first else _ahead(ops, mean, g, hyper))
            return ([_equally(*pair) for pair in zip(adams, turned, strict=True)],)

        return rate, by_kind(matrices, lambda g, mean, adams: (adams,), grads, state["mean"], adams)[0], None


class MuonBase(AdamBase):
    """Steps of matrices along their orthogonalized means of gradients; Adam's for other tensors."""

    def second(self, ops: Any, grads: Column, mean: Column, state: Any, hyper: Any) -> Column:
        """The step of a matrix, with Nesterov's look ahead; the running mean of squares for other tensors."""
        first = ops.differentiates and state["steps"] == 0

        def matrices(g: Column, mean: Column, _: Column) -> tuple[Column]:
            return (orthogonal_steps(g if first else _ahead(ops, mean, g, hyper)),)

        def rest(g: Column, _: Column, square: Column) -> tuple[Column]:
            return (ops.lerp_square(square, g, hyper["beta2"]),)

        return by_kind(matrices, rest, grads, mean, state["square"])[0]

    def last(self, ops: Any, state: Any) -> Column:
        """The direction of the last step, but for sizes."""

        def rest(mean: Column, square: Column) -> tuple[Column]:
            return (ops.div(mean, ops.roots(square)),)

        return by_kind(lambda mean, step: (step,), rest, state["mean"], state["square"])[0]

    def term(
        self, ops: Any, rate: Any, sizes: Column, grads: Column, state: Any, hyper: Any
    ) -> tuple[Any, Column, Column | None]:
        """The step: ``rate``, and a size for each tensor, by what :meth:`second` has or Adam's direction."""

        def rest(g: Column, mean: Column, square: Column, sizes: Column) -> tuple[Column]:
            own = {"steps": state["steps"], "mean": mean, "square": square}
            scale, numer, denom = super(MuonBase, self).term(ops, 1.0, sizes, g, own, hyper)
            return (ops.mul(ops.div(numer, denom), scale),)

        def matrices(g: Column, mean: Column, step: Column, sizes: Column) -> tuple[Column]:
            return (ops.mul(step, sizes),)

        return rate, by_kind(matrices, rest, grads, state["mean"], state["square"], sizes)[0], None


def _ahead(ops: Any, mean: Column, grads: Column, hyper: Any) -> Column:
    """The mean of gradients with Nesterov's look ahead."""
    return ops.add(mean, ops.add(grads, mean, -1.0), 1 - hyper["beta1"])


def _equally(adams: Tensor, turned: Tensor) -> Tensor:
    """The sum of both over √2, the second made as long as the first."""
    half = math.sqrt(0.5)
    length = torch.linalg.vector_norm(turned).clamp_min(torch.finfo(turned.dtype).tiny)
    ratio = half * torch.linalg.vector_norm(adams) / length
    step: Tensor = torch.addcmul(adams * half, turned, ratio)
    return step


def _factors(grad: Tensor) -> Tensor:
    """The means of squares over a matrix's rows, then over its columns."""
    square = grad.flatten(1).square()
    return torch.cat((square.mean(1), square.mean(0)))


def _product(factors: Tensor, like: Tensor) -> Tensor:
    """r cᵀ / mean(r) in the shape of ``like``; divided first, as squares of tiny gradients would underflow."""
    rows, columns = factors.split(like.flatten(1).shape)
    share = rows / rows.mean().clamp_min(torch.finfo(rows.dtype).tiny)
    product: Tensor = share[:, None] * columns
    return product.view_as(like)
