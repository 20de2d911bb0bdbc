"""A recorded run, read from its folder: what is said of it, its levels, and its trace."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..checking.errors import RecoptError
from ..checking.numbers import finite
from ..tracking.trace import Trace, load_trace

SUMMARY, TRACE, DIAGRAM, TRACEBACK = "summary.json", "trace.npz", "graph.svg", "traceback.txt"
EVALUATIONS = {
    "loss_evaluations": "losses",
    "gradient_evaluations": "gradients",
    "hessian_products": "Hessian products",
}
"""Those of the task, by their keys in the store; their sum over levels is the ``evaluations`` of a run."""
_LINE = 300
"""Characters of an error that are shown."""


@dataclass(frozen=True)
class LevelView:
    """A level of a run.

    Attributes:
        name: its strategy's slot; ``moves``: the slot that it moves; ``how``: its settings in words.
        start, end: the strategy's hyperparameters before the first and after the last step.
        spent: evaluations and seconds, steps, and the counts of a guard, by their keys in the store.
        ends: the least and the greatest value that a hyperparameter can take, where there are such.
    """

    number: int
    name: str
    moves: str = ""
    how: str = ""
    start: Mapping[str, float] = field(default_factory=dict)
    end: Mapping[str, float] = field(default_factory=dict)
    spent: Mapping[str, float] = field(default_factory=dict)
    ends: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Its number and its strategy."""
        return f"level {self.number} {self.name}"


def spent_columns(levels: Iterable[Mapping[str, float]]) -> dict[str, str]:
    """The columns of a table of what ``levels`` spent, by key: Hessian products only where some were made."""
    products = any(spent.get("hessian_products") for spent in levels)
    shown = {key: words for key, words in EVALUATIONS.items() if products or key != "hessian_products"}
    return {**shown, "hypergradient_evaluations": "hypergradients"}


@dataclass(frozen=True)
class RunView:
    """One run.

    Attributes:
        about: facts in words: ``task``, ``stack``, ``status``, ``steps``, ``seed`` …
        metrics: its summary metrics, by their keys in the store.
        diagram: its graph as SVG; empty if there is none.
        error: the error that ended it, in one line; empty if none did.
    """

    name: str
    about: Mapping[str, str]
    metrics: Mapping[str, float]
    levels: tuple[LevelView, ...]
    trace: Trace
    diagram: str = ""
    error: str = ""

    @property
    def status(self) -> str:
        """``running``, ``finished``, ``diverged``, ``frozen``, ``failed`` or ``interrupted``."""
        found = self.about.get("status", "RUNNING").lower()
        return {"killed": "interrupted", "scheduled": "running"}.get(found, found)


def write_summary(folder: Path, run: RunView) -> None:
    """Write what :func:`read_run` reads beside the trace and the diagram."""
    levels = [asdict(level) for level in run.levels]
    data = {"name": run.name, "about": run.about, "metrics": run.metrics, "levels": levels}
    (folder / SUMMARY).write_text(json.dumps(finite(data, str), indent=1, allow_nan=False) + "\n")


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {str(key): float(value) for key, value in values.items()}


def _level(x: Mapping[str, Any]) -> LevelView:
    start, end, spent = (_numbers(x[key]) for key in ("start", "end", "spent"))
    ends = {str(key): (float(low), float(high)) for key, (low, high) in x["ends"].items()}
    return LevelView(int(x["number"]), str(x["name"]), str(x["moves"]), str(x["how"]), start, end, spent, ends)


def read_run(folder: Path, name: str | None = None, status: str | None = None) -> RunView:
    """The run that is recorded in ``folder``, with its name and status in the store, which may know of a failure.

    Raises:
        RecoptError: if it is no run's folder, or its files are damaged.
    """
    try:
        data = json.loads((folder / SUMMARY).read_text())
        levels = tuple(_level(x) for x in data["levels"])
        about = {str(key): str(value) for key, value in data["about"].items()}
        name, metrics = name or str(data["name"]), _numbers(data["metrics"])
    except FileNotFoundError:
        raise RecoptError(f"{folder} has no {SUMMARY}: it is not the folder of a run.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as why:
        raise RecoptError(f"{folder / SUMMARY} cannot be read ({why}): restore it from the store.") from None
    trace = load_trace(folder / TRACE) if (folder / TRACE).is_file() else Trace()
    if about["status"] == "RUNNING":  # what was found so far is in the trace only
        levels = tuple(
            replace(level, end={key: _last(trace, level.number, key, value) for key, value in level.start.items()})
            for level in levels
        )
    about |= {"status": status} if status and about["status"] == "RUNNING" else {}
    diagram = (folder / DIAGRAM).read_text() if (folder / DIAGRAM).is_file() else ""
    diagram = diagram[diagram.find("<svg") :] if "<svg" in diagram else ""
    return RunView(name, about, metrics, levels, trace, diagram, _error(folder / TRACEBACK))


def _error(traceback: Path) -> str:
    """The first line of the error at the end of a traceback, without its full stop and its class's package."""
    if not traceback.is_file():
        return ""
    found = re.findall(r"^(?:\w+\.)*([A-Z]\w*(?:: .*)?)$", traceback.read_text(errors="replace"), re.MULTILINE)
    return found[-1].strip().removesuffix(".")[:_LINE] if found else ""


def _last(trace: Trace, level: int, key: str, otherwise: float) -> float:
    values = trace.series(level, key)[1]
    return float(values[-1]) if len(values) else otherwise
