"""Hypergradients by the implicit function theorem, at a point where the training loss f(θ, φ) is stationary.

Where ∂f/∂θ = 0 holds for all φ, the derivative of a loss F(θ, φ) at that point is ∂F/∂φ − (∂²f/∂φ∂θ) x with
(∂²f/∂θ²) x = ∂F/∂θ (Bengio 2000; Pedregosa 2016, 1602.02355, algorithm 1). No step that led there is needed. x comes
from Hessian-vector products, by conjugate gradients (Hestenes & Stiefel 1952), or by a Neumann series (Lorraine et al.
2020, 1911.02590, algorithm 3), which a few iterations cut off as an unroll of as many steps would be.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..checking.errors import Notice
from ..contracts.strategy import Params
from ..levels.estimator import Closing, estimator
from ..levels.level import BILEVEL, INIT, Level
from ..levels.state import Signal, Window
from ..levels.structure import Structure
from .tape import value

FAR = 1e-2
"""The best step along the gradient, relative to what it moves, above which no point is taken for a stationary one."""

Product = Callable[[Params], Params]


class Solved(NamedTuple):
    """An answer to Hx = v, task by task: x, r = v − Hx, Hessian-vector products, and tasks with pᵀHp ≤ 0 for some p."""

    x: Params
    rest: Params
    products: int
    bent: Tensor


@estimator("implicit")
class Implicit:
    """The point alone that a window ends at, taken for one where the training loss is stationary."""

    gradients: ClassVar[bool] = True
    closed: ClassVar[bool] = False
    tapes: ClassVar[bool] = False

    def refusal(self, graph: Structure, number: int) -> str | None:
        """A sentence for what has no part in where the loss is stationary, or asks for the steps that led there."""
        level = graph.levels[number]
        if level.moves == INIT and level.proximal is None:
            return "an episode that ends at a stationary point forgets its start: set 'proximal', or gradient=unroll."
        if level.moves not in BILEVEL:
            return (f"gradient=implicit differentiates the point where the training loss is stationary, which "
                    f"'{level.moves}' has no part in: a rate says how fast it is reached. Use it over 'loss:', or set "
                    "gradient=unroll.")  # fmt: skip
        if level.second_order:
            return "gradient=implicit differentiates no step: leave 'second_order' out."
        if level.objective != "last":
            return "gradient=implicit is of the point where a window ends: leave 'objective' out."
        for what in ("teacher", "penalty_update", "penalty_moved"):
            if getattr(level, what):
                return f"gradient=implicit knows no '{what}': drop it."
        return None

    def close(self, level: Level, window: Window, slots: Sequence[str], moved: Params, how: Closing) -> Signal:
        """The derivative of the loss where the window ends."""
        assert how.landing is not None
        at = how.landing()
        ones = torch.ones_like(at.measured)
        own = torch.autograd.grad(at.measured, [*at.point, *at.moved], ones, retain_graph=True, allow_unused=True)
        wanted, direct = own[: len(at.point)], own[len(at.point) :]
        live = [(g, p, w) for g, p, w in zip(at.grads, at.point, wanted, strict=True) if g is not None]
        live = [(g, p, w) for g, p, w in live if g.requires_grad]
        outs, ins, v = [g for g, _, _ in live], [p for _, p, _ in live], [_or_zero(w, p) for _, p, w in live]
        dot = _Dot(at.measured.ndim > 0)

        def product(p: Params) -> Params:
            found = torch.autograd.grad(outs, ins, p, retain_graph=True, allow_unused=True)
            return [_or_zero(g, t) for g, t in zip(found, ins, strict=True)]

        solver = neumann if level.solver == "neumann" else conjugate_gradients
        solved = solver(product, v, dot, level.iterations or 0, level.tolerance or 0.0)
        mixed: Sequence[Tensor | None] = [None] * len(at.moved)
        if outs:
            mixed = torch.autograd.grad(outs, at.moved, solved.x, retain_graph=True, allow_unused=True)
        signal = Signal(value(level, window, slots, moved))
        if any(g is not None for g in (*direct, *mixed)):
            each = zip(direct, mixed, at.moved, strict=True)
            signal.grads = [(_or_zero(d, m) - _or_zero(x, m)) / at.measured.numel() for d, x, m in each]
        found = self._apart(product, [g.detach() for g in outs], [p.detach() for p in ins], dot)
        self._tell(level, how, found, v, solved, dot)
        return signal

    def _apart(self, product: Product, g: Params, point: Params, dot: _Dot) -> dict[str, float]:
        """‖g‖, and the length of the best step along g relative to the point: the means over tasks."""
        square = dot(g, g)
        # On the way from θ along the gradient a quadratic is least after gᵀg / gᵀHg of it.
        curve = dot(g, product(g)) if bool((square > 0).any()) else square
        best = torch.where(curve > 0, square.sqrt() ** 3 / curve.clamp(min=0), torch.where(square > 0, torch.inf, 0.0))
        apart = torch.where(best > 0, best / dot(point, point).sqrt(), 0.0)
        return {"residual": float(square.sqrt().mean()), "distance": float(apart.mean())}

    def _tell(
        self, level: Level, how: Closing, found: dict[str, float], v: Params, solved: Solved, dot: _Dot
    ) -> None:  # fmt: skip
        """Record how far this is from a stationary point and from a solution, and say so once where it is far."""
        size, left = dot(v, v).sqrt(), dot(solved.rest, solved.rest).sqrt()
        unsolved = float((left / size.clamp(min=torch.finfo(size.dtype).tiny)).max())
        for key in ("bent", "unsolved", "far"):  # the same in all processes
            how.told.setdefault(key, False)
        how.log({**found, "unsolved": unsolved, "products": solved.products})
        tolerance = level.tolerance or 0.0
        if bool(solved.bent.any()):
            _once(how, "bent", "the training loss curves downwards along a direction (no minimum is there), so that "
                  "its system of equations is solved in part only: train longer, penalize the weights, or set "
                  "gradient=unroll or forward")  # fmt: skip
        elif unsolved > max(tolerance, 1e-3):
            _once(how, "unsolved", f"after {solved.products} iterations {unsolved:.1%} of its system of equations are "
                  "unsolved: set 'iterations' higher")  # fmt: skip
        if not found["distance"] <= FAR:
            longer = "episode" if level.moves == INIT else "every"
            _once(how, "far", f"the model is away from a stationary point of the training loss (‖gradient‖ "
                  f"{found['residual']:.3g}; the best step along it would still move the model by "
                  f"{found['distance']:.1%}): set '{longer}' higher, or gradient=unroll")  # fmt: skip


class _Dot:
    """The inner product of lists of tensors: 0-dimensional, or one per task where those lead."""

    def __init__(self, many: bool) -> None:
        self.many = many

    def __call__(self, a: Params, b: Params) -> Tensor:
        each = [(x * y).reshape(len(x), -1).sum(1) if self.many else (x * y).sum() for x, y in zip(a, b, strict=True)]
        return torch.stack(each).sum(0) if each else torch.zeros(())


def conjugate_gradients(product: Product, v: Params, dot: _Dot, iterations: int, tolerance: float) -> Solved:
    """x with Hx = v up to ‖v − Hx‖ ≤ ``tolerance`` ‖v‖, from 0; a task stops where H shows not to be positive."""
    x, rest, along = [torch.zeros_like(t) for t in v], list(v), list(v)
    square = first = dot(v, v)
    bent, products = torch.zeros_like(square, dtype=torch.bool), 0
    while products < iterations:
        active = (square > tolerance**2 * first) & ~bent
        if not bool(active.any()):
            break
        turned, products = product(along), products + 1
        curve = dot(along, turned)
        bent = bent | (active & (curve <= 0))
        active = active & ~bent
        step = torch.where(active, square / torch.where(active, curve, 1.0), 0.0)
        x, rest = _plus(x, step, along), _plus(rest, -step, turned)
        after = dot(rest, rest)
        along = _plus(rest, torch.where(active, after / torch.where(active, square, 1.0), 0.0), along)
        square = after
    return Solved(x, rest, products, bent)


def neumann(product: Product, v: Params, dot: _Dot, iterations: int, tolerance: float) -> Solved:
    """x = η Σₖ (1 − ηH)ᵏ v, cut off after ``iterations`` terms or where ‖v − Hx‖ ≤ ``tolerance`` ‖v‖.

    η begins at vᵀv / vᵀHv, and is halved for good where ‖v − Hx‖ would grow: the series then goes on from there.
    """
    x, rest = [torch.zeros_like(t) for t in v], list(v)
    square = first = dot(v, v)
    bent, products = torch.zeros_like(square, dtype=torch.bool), 0
    rate = torch.full_like(square, torch.inf)
    while products < iterations:
        active = (square > tolerance**2 * first) & ~bent
        if not bool(active.any()):
            break
        turned, products = product(rest), products + 1
        curve, turn = dot(rest, turned), dot(turned, turned)
        bent = bent | (active & (curve <= 0))
        active = active & ~bent
        rate = torch.minimum(rate, torch.where(active, square / torch.where(active, curve, 1.0), torch.inf))
        # ‖r − ηHr‖² = ‖r‖² − 2η rᵀHr + η² ‖Hr‖² falls for η below 2 rᵀHr / ‖Hr‖².
        most = torch.where(active, 2 * curve / torch.where(active, turn, 1.0), torch.inf)
        while bool((over := active & (rate >= most)).any()):
            rate = torch.where(over, rate / 2, rate)
        step = torch.where(active, rate, 0.0)
        x, rest = _plus(x, step, rest), _plus(rest, -step, turned)
        square = dot(rest, rest)
    return Solved(x, rest, products, bent)


def _plus(a: Params, factor: Tensor, b: Params) -> Params:
    """a + factor b, with a factor for each leading index unless it is 0-dimensional."""
    rows = [factor.view(-1, *[1] * (y.ndim - 1)) if factor.ndim else factor for y in b]
    return [x + row * y for x, row, y in zip(a, rows, b, strict=True)]


def _or_zero(g: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if g is None else g.detach()


def _once(how: Closing, key: str, said: str) -> None:
    if not how.told.get(key):
        how.told[key] = True
        warnings.warn(f"gradient=implicit: {said}.", Notice, stacklevel=2)
