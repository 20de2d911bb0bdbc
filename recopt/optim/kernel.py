"""The hook by which a strategy offers closed forms of itself, and the lookup.

A strategy is complete with ``forward`` alone: :class:`recopt.Optimizer` then tapes it. One that is to be
fast may also name, in its class, a *kernel* (for a model's tensors) and a *formula* (for the few numbers
that are moved in the upper levels of a tower)::

    class Sgd(Strategy):
        kernel = SgdKernel          # or "package.module:SgdKernel", imported when first used
        formula = SgdFormula

Both do, without autograd, what ``forward`` and one vector-Jacobian product do, on a state laid out as the
strategy's ``init`` makes it (keys may be added). Shipped strategies have no other way in than this one.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from ..contracts.errors import RecoptError
from ..contracts.strategy import Params, State, Strategy

Values = Mapping[str, float]
"""Hyperparameters by name in their natural unit, those that are off included."""
Sums = dict[str, list[Tensor]]
"""Named sums over a model's tensors, as 0-dimensional parts; the caller reads and adds them all at once."""


class Kernel(Protocol):
    """Closed forms of one strategy on tensors. u stands for ``scale`` times the last delta.

    A kernel whose class says ``linear = True`` promises that u is ``lr`` times something that does not depend on
    ``lr``. Where nothing else is moved, windows of any length are then closed without a tape.
    """

    def __init__(self, strategy: Strategy) -> None: ...

    def begin(self, point: Params, moved: frozenset[str]) -> State:
        """The state before the first step. ``moved``: the hyperparameters that levels above move, if there are any;
        :meth:`pull` may say anything of the others, so that what only they need is not kept or computed."""
        ...

    def step(self, point: Params, grads: Params, state: State, value: Values, scale: float) -> None:
        """Advance ``state`` and add u to ``point``, both in place; ``grads`` stay as they are."""
        ...

    def measure(self, point: Params, cotangents: Params, state: State, value: Values, scale: float) -> Sums:
        """What :meth:`pull` needs of the tensors. ``point`` is as the last step left it."""
        ...

    def pull(self, sums: Mapping[str, float], state: State, value: Values, scale: float) -> dict[str, float]:
        """⟨∂u/∂value, cotangents⟩ for each hyperparameter."""
        ...

    def last(self, point: Params, state: State, value: Values, scale: float) -> Params | None:
        """u, computed again: to take the step back, or to measure it. It may be None where nothing is moved."""
        ...


class Formula(Protocol):
    """Closed forms of one strategy on a few numbers: lists of floats where the strategy has lists of tensors."""

    def __init__(self, strategy: Strategy) -> None: ...

    def begin(self, size: int) -> State:
        """The state before the first step at ``size`` numbers."""
        ...

    def step(self, point: Sequence[float], grads: Sequence[float], state: State, value: Values) -> list[float]:
        """The deltas; advances ``state`` in place and keeps in it what :meth:`pull` needs."""
        ...

    def pull(self, cotangents: Sequence[float], state: State, value: Values) -> dict[str, float]:
        """⟨∂u/∂value, cotangents⟩ for each hyperparameter, u being the last deltas."""
        ...


def offered(strategy: Strategy, attribute: str) -> Any:
    """An instance of what the class of ``strategy`` offers as ``attribute`` (``kernel`` or ``formula``), or None.

    A subclass that overrides ``forward`` or ``init`` does not inherit the closed forms of its base, and a
    class with a function ``supports(strategy)`` is used only where that is true.

    Raises:
        RecoptError: if it is named by text and is not there.
    """
    cls: Any = type(strategy)
    owner: Any = next((base for base in cls.__mro__ if vars(base).get(attribute) is not None), None)
    if owner is None or cls.forward is not owner.forward or cls.init is not owner.init:
        return None
    found = vars(owner)[attribute]
    if isinstance(found, str):
        module, _, name = found.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            what = f"{attribute} = '{found}' of {owner.__name__}"
            raise RecoptError(f"{what} names nothing that can be imported: write 'module:Class'.") from None
    supports = getattr(found, "supports", None)
    return found(strategy) if supports is None or supports(strategy) else None
