"""The page of a run: its facts in ``summary.json``, and ``report.html``, which shows them; what went wrong in it."""

from __future__ import annotations

from pathlib import Path

from ..diagnosis.view import RunView, read_run, write_summary
from ..plots.page import PAGE, write_page
from ..stacks.named import written
from ..tracking.trace import Trace
from .plan import Plan
from .result import Result, found_hyperparameters, level_summary, level_views, summary
from .spec import Spec


def begin_report(plan: Plan, folder: Path) -> None:
    """Write what is known before the first step: a page can be made of a run that goes on, or that failed."""
    stack = plan.graph.describe()
    about = _about(plan.spec, stack, "RUNNING")
    write_summary(folder, RunView(_name(plan.spec, stack), about, {}, level_views(plan.graph), Trace()))


def view_of(result: Result) -> RunView:
    """A run as it is shown, without its diagram."""
    engine = result.engine
    levels = level_views(engine.graph, found_hyperparameters(engine, result.chosen), level_summary(engine))
    about = _about(result.spec, result.stack, result.outcome.upper())
    return RunView(_name(result.spec, result.stack), about, summary(result), levels, result.trace)


def write_report(result: Result) -> Path:
    """Write the page of a run into its folder, and return it. Raises RecoptError if it cannot be written."""
    assert result.folder is not None
    write_summary(result.folder, view_of(result))
    return write_page([read_run(result.folder)], result.folder / PAGE)


def _name(spec: Spec, stack: str) -> str:
    return f"{Path(spec.task.name).stem} {stack}"


def _about(spec: Spec, stack: str, status: str) -> dict[str, str]:
    facts = {"steps": f"{spec.steps:,}", "seed": str(spec.seed), "device": spec.device, "dtype": spec.dtype}
    several = {"tasks": f"{spec.tasks:,}"} if spec.tasks > 1 else {}
    task = written(spec.task.name.replace("-", "_"), spec.task)
    return {"task": task, "stack": stack, "status": status, **facts, **several}
