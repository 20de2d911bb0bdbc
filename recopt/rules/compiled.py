"""A rule's texts as one function of plain numbers: its operations in a row, without a call for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ..contracts.strategy import State
from .ops import LEAST_ROOT, NUMBERS, Ops
from .rule import Rule, step

Floats = Sequence[float]
Step = Callable[[Floats, Floats, Sequence[State], Mapping[str, float]], tuple[list[float], list[State]]]
"""The updates, and the states after them, of as many gradients, points and states before, and hyperparameters."""


_WORDS = ("maximum", "magnitude", "sign", "turns", "latest", "at_least", "larger")
"""What asks for values, and is called."""


class _Code:
    """The lines of a function as they are written, with the names of the hyperparameters that they read."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.hypers: dict[str, str] = {}

    def put(self, expression: str) -> _Symbol:
        """A symbol for the value of ``expression``."""
        name = f"x{len(self.lines)}"
        self.lines.append(f"        {name} = {expression}")
        return _Symbol(self, name)


class _Symbol:
    """A number that is not known yet; whoever asks for its value gets a TypeError."""

    def __init__(self, code: _Code, name: str) -> None:
        self.code, self.name = code, name

    def __repr__(self) -> str:
        return self.name

    def _unknown(self, *others: Any) -> Any:
        raise TypeError("a text asks for a value")

    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _unknown
    __hash__ = None  # type: ignore[assignment]

    def __neg__(self) -> _Symbol:
        return self.code.put(f"-{self}")


def _operator(sign: str, swapped: bool) -> Callable[[_Symbol, Any], _Symbol]:
    def put(self: _Symbol, other: Any) -> _Symbol:
        return self.code.put(f"{other!r} {sign} {self}" if swapped else f"{self} {sign} {other!r}")

    return put


for _name, _sign in {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "pow": "**"}.items():
    setattr(_Symbol, f"__{_name}__", _operator(_sign, False))
    setattr(_Symbol, f"__r{_name}__", _operator(_sign, True))


def _call(word: str) -> Any:
    """A word of the vocabulary that asks for values: the function calls it."""
    return lambda self, *given: self.code.put(f"{word}({', '.join(map(repr, given))})")


class _Writing(Ops):
    """The vocabulary on symbols. Nobody differentiates what is written: tangents are made by the texts themselves."""

    differentiates = False

    def __init__(self, code: _Code) -> None:
        self.code = code

    maximum, magnitude, sign, turns, latest, at_least, larger = map(_call, _WORDS)

    def sqrt(self, x: Any) -> Any:
        return self.code.put(f"sqrt({x!r})") if isinstance(x, _Symbol) else math.sqrt(x)

    def roots(self, a: Any, plus: Any = 0.0) -> Any:
        return self.code.put(f"(sqrt({a!r}) if {a!r} > 0 else {LEAST_ROOT}) + {plus!r}")


class _Hypers(dict[str, Any]):
    """Hyperparameters as symbols, each read once for all rows."""

    def __init__(self, code: _Code) -> None:
        self.code = code

    def __missing__(self, name: str) -> _Symbol:
        self[name] = found = _Symbol(self.code, f"h{len(self)}")
        self.code.hypers[name] = found.name
        return found


def compiled(rule: Rule, state: State) -> Step:
    """One function that does what the texts of ``rule`` do; the texts themselves, where they branch on values.

    Args:
        state: that of one number before its first step, for its keys.
    """
    code = _Code()
    try:
        before = {name: code.put(f"state[{name!r}]") for name in state}
        inputs = _Symbol(code, "gradient"), _Symbol(code, "point")
        update, after = step(rule, _Writing(code), *inputs, before, _Hypers(code))
    except Exception:  # whatever a text makes of numbers that are none
        return partial(_by_texts, rule)
    source = [
        "def made(gradients, points, before, hyper):",
        *[f"    {symbol} = hyper[{name!r}]" for name, symbol in code.hypers.items()],
        "    updates, states = [], []",
        "    for gradient, point, state in zip(gradients, points, before):",
        *code.lines,
        f"        updates.append({update!r})",
        f"        states.append({after!r})",
        "    return updates, states",
    ]
    words = {word: getattr(NUMBERS, word) for word in _WORDS}
    space: dict[str, Any] = {"sqrt": math.sqrt, "inf": math.inf, "nan": math.nan, **words}
    exec("\n".join(source), space)
    made: Step = space["made"]
    return made


def _by_texts(
    rule: Rule, gradients: Floats, points: Floats, before: Sequence[State], hyper: Mapping[str, float]
) -> tuple[list[float], list[State]]:
    found = [step(rule, NUMBERS, *row, hyper) for row in zip(gradients, points, before, strict=True)]
    return [update for update, _ in found], [state for _, state in found]
