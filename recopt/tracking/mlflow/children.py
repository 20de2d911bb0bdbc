"""Nested runs that are made while their parent goes on: the trials of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
NUMBER = "recopt.trial"
"""The tag with a trial's number; the runs of a level have ``recopt.level`` instead."""
_PAGE = 1000


class Children:
    """The nested runs of run ``root``, by number.

    Args:
        write: sets params and metrics of a run, at a time and a step.
    """

    def __init__(self, client: Any, root: str, write: Callable[..., None]) -> None:
        self.client, self.root, self.write = client, root, write
        self._experiment = str(client.get_run(root).info.experiment_id)
        self._ids, self._steps, self._ended = dict[int, str](), dict[int, int](), set[int]()
        token: str | None = ""
        while token is not None:
            page = client.search_runs(
                [self._experiment], f"tags.`{PARENT}` = '{root}'", max_results=_PAGE, page_token=token or None
            )
            for run in page:
                if number := int(run.data.tags.get(NUMBER, "0")):
                    self._ids[number] = run.info.run_id
                    self._steps[number] = max((int(m.step) for m in run.data._metric_objs), default=-1)
                    if run.info.status != "RUNNING":
                        self._ended.add(number)
            token = page.token or None

    def take(self, message: Mapping[str, Any]) -> None:
        """Write what a message has of child ``child`` that the store does not have: ``metrics`` at ``step``, its end.

        So it may be taken twice.
        """
        number, now, step = int(message["child"]), int(message["time"]), int(message["step"])
        if number not in self._ids:
            tags = {PARENT: self.root, "recopt.root": self.root, NUMBER: str(number), "mlflow.source.name": "recopt"}
            made = self.client.create_run(
                self._experiment, start_time=now, run_name=message["name"], tags={**tags, NOTE: message["note"]}
            )
            self._ids[number] = str(made.info.run_id)
        if self._steps.get(number, -1) < step:
            self.write(self._ids[number], message["params"], message["metrics"], now, step)
            self._steps[number] = step
        if message["status"] and number not in self._ended:
            self.client.set_terminated(self._ids[number], message["status"], now)
            self._ended.add(number)
