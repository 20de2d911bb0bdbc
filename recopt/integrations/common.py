"""The part that is the same in every trainer: its optimizers, their figures, and the place to save the model at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..checking.errors import RecoptError
from ..optim.optimizer import Optimizer


def found_in(optimizers: Iterable[Any]) -> list[Optimizer]:
    """Those that are of recopt, out of whatever a trainer has wrapped them into."""
    return [inner for inner in map(_unwrapped, optimizers) if isinstance(inner, Optimizer)]


def _unwrapped(optimizer: Any) -> Any:
    if isinstance(optimizer, Optimizer) or not hasattr(optimizer, "optimizer"):
        return optimizer
    return _unwrapped(optimizer.optimizer)


def check_found(optimizers: Sequence[Any], who: str, remedy: str) -> None:
    """Raise RecoptError if none of ``optimizers`` is of recopt: the callback ``who`` would do nothing."""
    if not found_in(optimizers):
        names = ", ".join(type(optimizer).__name__ for optimizer in map(_unwrapped, optimizers)) or "none"
        raise RecoptError(f"{who} found no recopt.Optimizer in this trainer, which has {names}: {remedy}.")


def figures(optimizers: Sequence[Optimizer]) -> dict[str, float]:
    """Hyperparameters as ``adam.lr`` and counts of the guards as ``guards/skipped``; of several, after their number."""
    found: dict[str, float] = {}
    for number, optimizer in enumerate(optimizers):
        first = f"optimizer{number}/" if len(optimizers) > 1 else ""
        found |= {f"{first}{key}": value for key, value in optimizer.hyperparameters().items()}
        found |= {f"{first}guards/{key}": float(count) for key, count in optimizer.guards().items()}
    return found


@contextmanager
def at_mean(optimizers: Sequence[Optimizer]) -> Iterator[None]:
    """The model where the rules would have it used; afterwards it is where it was."""
    training = [optimizer for optimizer in optimizers if optimizer.training]
    try:
        for optimizer in training:
            optimizer.eval()
        yield
    finally:
        for optimizer in training:
            optimizer.train()
