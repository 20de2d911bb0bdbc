"""Declared settings of strategies and tasks: values given by name and checked in one place.

``option`` declares a fixed setting (a size, a flag); ``positive``, ``unit`` and ``real`` declare a
hyperparameter of a strategy: a number in a domain that a level above may move.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast, overload

from torch import Tensor, nn

from ..checking.arguments import checked
from ..checking.errors import RecoptError, quoted, shown, unknown
from ..checking.numbers import float_of
from .domains import DOMAINS, Domain

T = TypeVar("T")


@dataclass(eq=False)
class Option(Generic[T]):
    """A fixed setting. Reads as its value on an instance and as itself on the class."""

    default: T
    help: str
    choices: tuple[T, ...] | None
    least: float | None
    name: str = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Option[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Option[T] | T:
        if instance is None:
            return self
        return cast(T, instance.__dict__.get("_options", {}).get(self.name, self.default))

    def parse(self, value: Any, where: str) -> T:
        """``value`` as this option's type. Raises RecoptError naming ``where``."""
        kind = type(self.default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float_of(value)
        if kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if kind is tuple and isinstance(value, list | int | float):
            value = tuple(value) if isinstance(value, list) else (value,)
        if (self.default is not None and not isinstance(value, kind)) or (kind is int and isinstance(value, bool)):
            raise RecoptError(f"{where} must be {_KINDS.get(kind, kind.__name__)}, not {quoted(value)}.")
        if kind is int and abs(cast(int, value)) > LARGEST:
            raise RecoptError(f"{where} must be a whole number within ±{LARGEST:,}, not {quoted(value)}.")
        if self.least is not None and not value >= self.least:
            raise RecoptError(f"{where} must be at least {self.least:g}, not {quoted(value)}.")
        if self.choices is not None and value not in self.choices:
            raise unknown("value", shown(value), map(str, self.choices), f"for {where}")
        return cast(T, value)


LARGEST = 2**63 - 1
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", tuple: "a list"}


@dataclass(eq=False)
class Hyper:
    """A hyperparameter: a number in a domain, moved in that domain's coordinate by a level above.

    On an instance it reads as the natural value, a 0-dimensional tensor that carries the graph.
    ``off`` is one more value that switches its term off (``momentum=0``): the hyperparameter is then no parameter
    and cannot be moved. ``above`` is the default in levels that move logarithms of others' hyperparameters on
    normalized signals, where a step length means something else (:func:`recopt.levels.completion.strides`).
    ``most`` is the largest value that it is moved to, in a level of numbers.
    """

    default: float | str
    domain: Domain
    help: str
    off: float | None = None
    above: float | None = None
    most: float | None = None
    name: str = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Hyper: ...
    @overload
    def __get__(self, instance: nn.Module, owner: type) -> Tensor: ...
    def __get__(self, instance: nn.Module | None, owner: type) -> Hyper | Tensor:
        if instance is None:
            return self
        moved = instance._parameters.get(self.name)
        if moved is None:
            return cast(Tensor, instance._buffers[f"{self.name}_off"])
        domain: Domain = instance.__dict__["_domains"][self.name]
        return domain.natural(moved)

    def __set__(self, instance: nn.Module, value: object) -> None:
        raise AttributeError(f"'{self.name}' is a hyperparameter: give it when the strategy is made.")


@checked
def option(default: T, help: str = "", choices: tuple[T, ...] | None = None, least: float | None = None) -> Option[T]:
    """Declare a fixed setting of the type of ``default``; ``least`` is the smallest number allowed."""
    return Option(default, help, choices, least)


@checked
def positive(
    default: float, help: str = "", off: float | None = None, above: float | None = None, most: float | None = None
) -> Hyper:
    """Declare a hyperparameter in (0, ∞), moved as its logarithm. ``off=0`` also allows 0, which switches it off."""
    return Hyper(default, DOMAINS["positive"], help, off, above, most)


@checked
def unit(default: float, help: str = "", off: float | None = None) -> Hyper:
    """Declare a hyperparameter in (0, 1), moved as its logit. ``off=0`` also allows 0, which switches it off."""
    return Hyper(default, DOMAINS["unit"], help, off)


@checked
def real(default: float, help: str = "") -> Hyper:
    """Declare a hyperparameter on the whole line."""
    return Hyper(default, DOMAINS["real"], help)


def plain_name(owner: type) -> str:
    """The plugin name of a class: ``random-search`` for ``RandomSearch``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", owner.__name__).lower()


def declared(owner: type, kind: type[T]) -> dict[str, T]:
    """All settings of ``kind`` (Option or Hyper) that ``owner`` and its bases declare, bases first."""
    found = (item for base in reversed(owner.__mro__) for item in vars(base).items())
    return {name: value for name, value in found if isinstance(value, kind)}


def parse_options(owner: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of ``owner`` with ``values`` set. Raises RecoptError on an unknown name or a wrong type."""
    options = declared(owner, Option)
    for name in values:
        if name not in options:
            known = [*options, *declared(owner, Hyper)]
            raise unknown("option", name, known, f"of {where}")
    given = {name: options[name].parse(value, f"{where}.{name}") for name, value in values.items()}
    return {name: given.get(name, o.default) for name, o in options.items()}
