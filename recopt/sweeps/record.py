"""The record of a sweep in the store: one run, with a nested run for each trial."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..checking.errors import writing
from ..tracking.mlflow.store import RUNS
from ..tracking.mlflow.tracker import MlflowTracker
from ..tracking.trace import Points
from ..tracking.trackers import RunInfo, Status
from .planning import SweepPlan
from .result import SPEC, Sweep, SweptTrial, value_words
from .sweep_spec import write_sweep_spec

EXPERIMENT = "recopt sweep"


class SweepRecord:
    """Records a sweep: its spec at once, each trial as it gets on, and tables and figures at the end.

    Nobody waits for the store: trials go into the run's spool, and from there to it by a second process.

    Raises:
        RecoptError: from the constructor, if the store cannot be opened, or has no run ``resume``.
    """

    def __init__(
        self, plan: SweepPlan, store: str | None, name: str | None, resume: str | None = None, root: Path = RUNS
    ) -> None:
        self._tracker = MlflowTracker.start(store, _info(plan, name), resume=resume, root_dir=root)
        self.run_id, self.folder = self._tracker.run_id, self._tracker.folder
        self.parts = self._tracker.store.root / "paused" / self.run_id
        self._score, self._known = plan.spec.score, dict[int, tuple[int, str]]()
        with writing(self.folder):
            (self.folder / SPEC).write_text(write_sweep_spec(plan.spec))
        self._tracker.publish()

    def trial(self, one: SweptTrial) -> None:
        """Record a trial where it is now, if that is news."""
        state = one.step, one.outcome
        if self._known.get(one.number) == state:
            return
        self._known[one.number] = state
        values = {self._score: one.score, "score": one.score, **{f"test_{key}": x for key, x in one.test.items()}}
        over = {"finished": "FINISHED", "went on": "FINISHED", "stopped": "KILLED", "waiting": None}
        note = f"Trial {one.number}, {one.outcome}: {one.words or 'no settings'}. {one.reason}"
        self._tracker.child(
            one.number, f"trial {one.number}", {key: value_words(value) for key, value in one.settings.items()},
            {key: value for key, value in values.items() if math.isfinite(value)}, one.step,
            over.get(one.outcome, "FAILED"), note,
        )  # fmt: skip
        self._tracker.flush()

    def finish(self, found: Sweep) -> None:
        """Record the end, and the outcome of trials that it decides on."""
        for one in found.trials:
            if one.outcome != "waiting":
                self.trial(one)
        found.save(self.folder)
        metrics: dict[str, float] = {
            "trials": float(len(found.trials)), "failed": float(len(found.failed)), "updates": float(found.made),
            "seconds": math.fsum(one.seconds for one in found.trials),
        }  # fmt: skip
        with suppress(ValueError):  # no trial has a score
            best = found.best
            metrics |= {"best_score": best.score, **{f"test_{key}": value for key, value in best.test.items()}}
        self._tracker.log(_best_so_far(found))
        self._tracker.finish("FINISHED", metrics, {0: {"recopt.steps": float(found.made)}}, step=len(found.trials))

    def stop(self, status: Status) -> None:
        """End the record of a sweep that may go on later."""
        self._tracker.finish(status)


def _info(plan: SweepPlan, name: str | None) -> RunInfo:
    spec, first = plan.spec, plan.first
    title = Path(first.spec.task.name.rpartition(":")[2]).stem
    stack = " | ".join(map(str, spec.over["stack"])) if "stack" in spec.over else first.graph.describe()
    asha = {"asha": ", ".join(f"{k}={v}" for k, v in spec.asha.model_dump().items())} if spec.asha else {}
    params = {
        "task": first.spec.task.name, "stack": stack, "steps": str(first.spec.steps), "by": spec.by,
        "trials": str(spec.trials or len(plan.schedule.trials)), "seed": str(spec.seed), "repeat": str(spec.repeat),
        "score": spec.score, **{f"over.{key}": str(value) for key, value in spec.over.items()}, **asha,
    }  # fmt: skip
    about = (
        f"Tries **{title}** with `{stack}` over {', '.join(f'`{key}`' for key in spec.over)}, by {spec.by}. "
        "Each trial has a nested run; `sweep.png`, the tables and the spec of the best run are among the artifacts."
    )
    tags = {"recopt.task": first.spec.task.name, "recopt.stack": stack, "recopt.kind": "sweep",
            "recopt.best": "least" if plan.sign > 0 else "greatest"}  # fmt: skip
    return RunInfo(EXPERIMENT, name or f"sweep {title}", params, tags, (), about)


def _best_so_far(found: Sweep) -> list[Points]:
    pick: Callable[[float, float], float] = max if found.plan.sign < 0 else min
    steps, values, best = list[int](), list[float](), math.nan
    for one in found.trials:
        if math.isfinite(one.score) and one.outcome == "finished":
            best = one.score if math.isnan(best) else pick(best, one.score)
            steps.append(one.number)
            values.append(best)
    return [Points(0, "best_so_far", np.array(steps, np.int64), np.array(values))] if steps else []
