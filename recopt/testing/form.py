"""Checks of a strategy's form: its settings, its signatures, its order, and its file's imports."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Collection
from typing import Any

from ..contracts.settings import Hyper, Option, declared
from ..contracts.strategy import Params, Strategy
from . import probe
from .probe import PLAIN, STEPS, Broken, Make

PUBLIC_MODULES = ("toolkit",)
"""Submodules that plugins may import, besides the names that ``recopt`` exports."""


def imports(source: str, beside: Collection[str] = ()) -> None:
    """The file imports torch, recopt's public names, the standard library and modules ``beside`` it, nothing else."""
    from ..public import HOME

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = f"{node.module}." if node.module else ""
            names = [f"{base}{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            public = rest in HOME or rest.partition(".")[0] in PUBLIC_MODULES
            elsewhere = first == "torch" or first in sys.stdlib_module_names or (first == "recopt" and public)
            if first not in beside and (not elsewhere or (isinstance(node, ast.ImportFrom) and node.level)):
                raise Broken(
                    f"line {node.lineno} imports {name}: import only torch, the standard library and recopt's public "
                    "names, so that the file works wherever recopt does."
                )


def settings(make: Make) -> None:
    """The strategy can be made without arguments: every default lies in its domain and among its choices."""
    try:
        strategy = make()
    except Exception as why:
        raise Broken(f"it cannot be made without arguments ({why}): give every setting a default that works.") from why
    if not isinstance(strategy, Strategy):
        raise Broken(f"it makes a {type(strategy).__name__}: derive the class from recopt.Strategy.")
    for name, hyper in declared(type(strategy), Hyper).items():
        try:
            assert hyper.default == hyper.off or strategy._domains[name].coordinate(hyper.default) is not None
        except ValueError as why:
            raise Broken(f"the default of '{name}' is {hyper.default}: it must be {why}.") from None
    check_defaults(type(strategy))


def check_defaults(plugin: type) -> None:
    """Raise Broken if an option refuses its own default."""
    for name, option in declared(plugin, Option).items():
        try:
            option.parse(option.default, name)
        except Exception as why:
            raise Broken(f"the default of option '{name}' is refused ({why}): give one that it takes.") from None


def documented(make: Callable[[], Any]) -> None:
    """The class has a docstring."""
    if not (type(make()).__doc__ or "").strip():
        raise Broken("the class has no docstring: its first line is what listings show; write one.")


def signature(make: Make) -> None:
    """``init``, ``propose`` and ``forward`` take what the contract says."""
    strategy = make()
    for name, count in (("init", 1), ("propose", 3), ("forward", 4)):
        taken = inspect.signature(getattr(strategy, name))
        try:
            taken.bind(*range(count))
        except TypeError:
            wanted = ("point", "trials", "state", "rng") if name == "forward" else ("point", "state", "rng")
            raise Broken(f"{name} must take ({', '.join(wanted[:count])}), not {taken}.") from None


def order(make: Make) -> None:
    """``order`` is 1 if and only if gradients are read."""
    strategy = make().double()
    point = probe.some(PLAIN, 1)

    def end(with_gradients: bool, factor: float, with_losses: bool = True) -> Params:
        with probe.seeded():
            return reached(with_gradients, factor, with_losses)

    def reached(with_gradients: bool, factor: float, with_losses: bool) -> Params:
        at: Params = [p.clone() for p in point]  # a rule that changes it in place is found by another check
        state, rng = strategy.init(point), probe.generator()
        for step in range(STEPS):
            points = strategy.propose(at, state, rng)
            trials = [probe.scored(int(with_gradients), p, step, factor) for p in points]
            known = [t._replace(loss=t.loss / factor if t.loss is not None and with_losses else None) for t in trials]
            delta, state = strategy(at, known, state, rng)
            at = [p + d for p, d in zip(at, delta, strict=True)]
        return at

    if strategy.order not in (0, 1):
        raise Broken(f"order is {strategy.order!r}: set it to 1 if it reads gradients and to 0 if only losses.")
    try:
        given = end(True, 1.0)
    except Exception:
        return  # another fault, which the next rule reports
    if strategy.order == 1:
        if probe.same(given, end(True, -0.5)):
            raise Broken("order is 1, but its deltas are the same whatever the gradients: set order = 0.")
        finite = all(bool(p.isfinite().all()) for p in given)
        if finite and not strategy.reads_loss and not _alike(given, lambda: end(True, 1.0, with_losses=False)):
            raise Broken(
                "it reads trial.loss, which is not always known: set reads_loss = True, or read gradients only."
            )
        return
    if not _alike(given, lambda: end(False, 1.0)):
        raise Broken("order is 0, but it reads trial.grads, which are then None: set order = 1, or read losses only.")


def _alike(given: Params, other: Callable[[], Params]) -> bool:
    """True if ``other`` works and gives the same."""
    try:
        return probe.close(given, other())
    except Exception:
        return False


def runs(make: Make) -> None:
    """A few plain steps work, and return what the contract says: a dict, lists of tensors, a pair."""
    try:
        _run(make().double(), probe.some(PLAIN, 1))
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError, IndexError) as why:
        raise Broken(f"it fails on two plain tensors ({type(why).__name__}: {why}): correct that first.") from why


def _run(strategy: Strategy, point: Params) -> None:
    state, rng = strategy.init(point), probe.generator()
    for step in range(STEPS):
        if not isinstance(state, dict):
            raise Broken(f"the state is a {type(state).__name__}: make it a dict.")
        points = strategy.propose(point, state, rng)
        if not (isinstance(points, list) and points and all(isinstance(p, list) for p in points)):
            raise Broken("propose must give a list of at least one point, each a list of tensors.")
        answer = strategy(point, [probe.scored(strategy.order, p, step) for p in points], state, rng)
        if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], list)):
            raise Broken("forward must give a pair: a list of deltas, and the next state.")
        delta, state = answer
        if not probe.finite(delta):
            raise Broken(f"its deltas are not finite at step {step + 1} of an easy problem: look for a division by 0.")
        point = [p + d.detach() for p, d in zip(point, delta, strict=True)]
