"""Hyperparameters that have no gradient: whole numbers and choices, which only zero-order levels may move."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..checking.arguments import checked
from ..contracts.domains import Domain
from ..contracts.settings import Hyper


@dataclass(frozen=True)
class Whole(Domain):
    """The whole numbers from ``least`` to ``most``, moved as they are or, if ``log``, as logarithms; then rounded."""

    name: str = "integer"
    least: int = 1
    most: int = 100
    log: bool = False
    smooth: ClassVar[bool] = False

    def natural(self, coordinate: Tensor) -> Tensor:
        return (coordinate.exp() if self.log else coordinate).detach().round().clamp(self.least, self.most)

    def ends(self) -> tuple[float, float]:
        return self.coordinate(self.least), self.coordinate(self.most)

    def coordinate(self, value: Any) -> float:
        if not (self.least <= value <= self.most and value == int(value)):
            raise ValueError(f"a whole number from {self.least:,} to {self.most:,}")
        return math.log(value) if self.log else float(value)


@dataclass(frozen=True)
class Choice(Domain):
    """One of several ``words``, or of those in the option called ``option``; its natural value is the place among them.

    Its coordinate is that place too, and goes round: after the last word comes the first.
    """

    name: str = "choice"
    words: tuple[str, ...] = ()
    option: str | None = None
    smooth: ClassVar[bool] = False
    numeric: ClassVar[bool] = False

    def among(self, options: Mapping[str, Any]) -> Domain:
        return self if self.option is None else Choice(words=tuple(map(str, options[self.option])))

    def natural(self, coordinate: Tensor) -> Tensor:
        return coordinate.detach().round().remainder(len(self.words)).abs()  # without a negative zero

    def coordinate(self, value: Any) -> float:
        if value and value not in self.words:
            raise ValueError(f"one of {', '.join(self.words)}")
        return float(self.words.index(value)) if value else 0.0


@checked
def integer(default: int, least: int, most: int, help: str = "") -> Hyper:
    """Declare a whole number from ``least`` to ``most``: a hyperparameter that only zero-order levels may move."""
    return Hyper(default, Whole(least=least, most=most), help)


@checked
def log_integer(default: int, least: int, most: int, help: str = "") -> Hyper:
    """Declare a whole number from ``least`` (1 or more) to ``most``, moved by factors; otherwise as :func:`integer`."""
    return Hyper(default, Whole("log_integer", max(1, least), most, log=True), help)


@checked
def choice(words: tuple[str, ...] | str, help: str = "", default: str = "") -> Hyper:
    """Declare one of several ``words``, or of those in the option of that name; the first one if no other is said.

    It reads as the place of the word among them, a 0-dimensional tensor. Only zero-order levels may move it.
    """
    domain = Choice(option=words) if isinstance(words, str) else Choice(words=words)
    return Hyper(default, domain, help)
