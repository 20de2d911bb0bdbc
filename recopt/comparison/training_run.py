"""The training of a competitor as a job, for any process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from ..checking.errors import RecoptError
from ..engine.measure import settled
from ..running.plan import resolve
from ..running.repeats import held_at
from ..running.result import Result
from ..running.session import RunOptions, Session
from ..running.task_runs import graph_in_words
from ..tracking.mlflow.address import local_file, shown
from ..tracking.mlflow.runs import find_run


def _quiet(step: int) -> None:
    """Nobody is told."""


@dataclass(frozen=True)
class TrainingRun:
    """An ordinary run, whose exported values are then compared.

    Attributes:
        key: it is known by this.
        spec: the whole spec of the run.
        store: the full address of the store that it is recorded in; ``root``: the folder of this machine's runs.
        note: a file for the id of its run as soon as it has begun: if the run is cut short, it goes on from its last
            checkpoint. None to begin anew.
        progress: called with the step; in this process alone.
    """

    key: str
    spec: Mapping[str, Any]
    name: str
    store: str | None
    track: bool
    root: str
    note: str | None = None
    progress: Callable[[int], None] = _quiet

    def words(self) -> dict[str, Any]:
        """Its fields."""
        return {key: value for key, value in self.__dict__.items() if key != "progress"}

    @classmethod
    def read(cls, words: Mapping[str, Any]) -> Self:
        """The job with these fields."""
        return cls(**words)

    def run(self) -> dict[str, Any]:
        """Train.

        Returns:
            ``seed``; ``evaluations``, including those for choosing values; ``run``: its id, or None; ``graph``: what
            it exports, fixed (:func:`recopt.running.task_runs.graph_of` reads it).

        Raises:
            RecoptError: for a run that cannot work, or a store that is not on this machine.
            RunFailed: for an error in a strategy or task.
            KeyboardInterrupt: if it was interrupted.
        """
        file = local_file(self.store) if self.store else None
        if self.track and file is not None and not file.exists():
            raise RecoptError(
                f"The store {shown(str(self.store))} is not on the machine of this worker: give --store the address of "
                "a server, or --no-track."
            )
        found = self._trained()
        if found.status != "FINISHED":
            raise KeyboardInterrupt
        engine, chosen, total = found.engine, found.chosen, found.budget.total
        values = chosen.values if chosen else {name: slot.params for name, slot in settled(engine).slots.items()}
        graph = held_at(engine.levels, engine.graph.slots, values, guards=True)
        spent = total.evaluations + (chosen.evaluations if chosen else 0)
        return {"seed": found.spec.seed, "evaluations": round(spent), "run": found.run_id,
                "graph": graph_in_words(graph, found.spec.plugins)}  # fmt: skip

    def _trained(self) -> Result:
        options = RunOptions(store=self.store, track=self.track, name=f"train {self.name}", progress=self._report,
                             root=Path(self.root))  # fmt: skip
        if self.note and Path(self.note).is_file():
            with suppress(RecoptError):  # it has no checkpoint yet, or its record is not closed
                run = find_run(self.store, Path(self.note).read_text(), Path(self.root))
                if run.status != "FINISHED":
                    return Session(resolve(self.spec), replace(options, resume=run.id)).run()
        return Session(resolve(self.spec), options).run()

    def _report(self, session: Session) -> None:
        if self.note and session.step == session.first_step + 1 and session.recorder.run_id:
            Path(self.note).write_text(session.recorder.run_id)
        self.progress(session.step)
