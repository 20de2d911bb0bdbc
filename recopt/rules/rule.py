"""Analytic rules: update rules that are written once, over :mod:`recopt.rules.ops`, and run fast everywhere.

A :class:`Rule` is a strategy like any other: put at any level, over any other. What its text adds to a plain
``forward`` is speed. On a model's tensors it runs in place; on the few numbers of a level above, on floats; and where
``linear`` names the hyperparameter that multiplies its updates, a level that moves that one needs no tape: with u the
update and c the cotangent, ⟨∂u/∂lr, c⟩ = ⟨u, c⟩ / lr.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Generator

from ..contracts.strategy import Params, State, Strategy, Trial
from .ops import TENSORS, Column, Ops, Scalar, Term

Hypers = Mapping[str, Scalar]
"""Hyperparameters by name in their natural unit, those that are off included."""


class Rule(Strategy):
    """An update rule with a closed form, elementwise in its gradients (but see ``whole``).

    Subclasses declare hyperparameters, give the state before the first step (``init``), and two texts over columns:
    :meth:`advance`, the state after a gradient, and :meth:`delta`, the update from the state that it gave::

        class Sign(Rule):
            linear = "lr"
            lr = positive(1e-3, "length of a step")

            def delta(self, ops, grads, point, state, hyper):
                return [Term(-hyper["lr"], ops.sign(grads))]

    A subclass that overrides ``forward`` gives up its base's texts (:func:`text_of`).

    Class attributes:
        linear: the hyperparameter that every update is a multiple of, and the state does not depend on; None if there
            is none. The conformance battery holds a rule to it.
        whole: whether its texts read sums over whole tensors (``ops.inner``), and so are not elementwise. Among
            numbers, each is a tensor of its own.
        also_reads: what the first step of one number does not show that they read, but later steps or those of matrices
            do: ``"grads"``, if ``delta`` does; ``"inside"``, if it reads the point otherwise than as a term of its own
            (the point before a step is kept then); ``"point"``, if any text reads the point.
        split: whether they may run on parts of tensors that are split over processes.
        accelerator: a faster way for ``advance`` and ``delta`` on a model's tensors in place, or None: a class with
            ``step(rule, point, grads, state, hyper, scale)``, True if it did it. It may have the derivatives of an
            update by all hyperparameters in closed form as well: ``differentiates(rule, hyper)``, True if it has;
            ``measure(rule, cotangents, grads, state, hyper)``, sums over tensors by name, each as 0-dimensional parts,
            with the state after the update; and ``slopes(rule, sums, state, hyper)``, the derivatives by name.
    """

    linear: ClassVar[str | None] = None
    whole: ClassVar[bool] = False
    also_reads: tuple[str, ...] = ()
    split: bool = True
    accelerator: ClassVar[Any] = None

    def penalty(self) -> str | None:
        """The hyperparameter that weighs an L2 penalty, whose gradient is added before the texts see any; or None."""
        return None

    def advance(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> State:
        """The state after ``grads``. Columns of ``state`` may be overwritten by ``ops``."""
        return state

    def delta(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> list[Term]:
        """The update that follows from what :meth:`advance` gave, as a sum of terms."""
        raise NotImplementedError(f"{type(self).__name__} has no delta.")

    def tells(self, state: State, hyper: Mapping[str, float]) -> dict[str, float]:
        """Numbers that follow from ``state``, by name: :meth:`recopt.Optimizer.hyperparameters` has them too."""
        return {}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """One step from the gradients of the first trial."""
        grads = trials[0].grads
        assert grads is not None
        hyper = {name: getattr(self, name) for name in self._domains}
        return step(self, TENSORS, grads, point, state, hyper)


def penalized(rule: Rule, ops: Ops, grads: Column, point: Column, hyper: Hypers) -> Column:
    """``grads`` with the gradient of the rule's L2 penalty."""
    weight = rule.penalty()
    return grads if weight is None else ops.add(grads, point, hyper[weight])


def step(rule: Rule, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> tuple[Column, State]:
    """The update of a rule, and its state after it, by its texts."""
    grads = penalized(rule, ops, grads, point, hyper)
    after = rule.advance(ops, grads, point, state, hyper)
    return ops.total(rule.delta(ops, grads, point, after, hyper)), after


def text_of(strategy: Strategy) -> Rule | None:
    """``strategy`` as a rule whose texts say what its ``forward`` does, or None."""
    if isinstance(strategy, Rule) and type(strategy).forward is Rule.forward:
        return strategy
    return None
