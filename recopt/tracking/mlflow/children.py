"""Nested runs that are made while their parent goes on: the trials of a sweep."""

from __future__ import annotations

import time
from collections.abc import Mapping

from .address import in_words
from .spool import Unreachable
from .store import NOTE, PARENT, Store, metric_name

NUMBER = "recopt.trial"
"""The tag with a trial's number; the runs of a level have ``recopt.level`` instead."""
_PAGE = 1000


class Children:
    """The nested runs of run ``root``, by number.

    A store that does not answer takes what it missed at the next call that it answers, each point once.
    """

    def __init__(self, store: Store, root: str) -> None:
        self.store, self.root = store, root
        self._experiment = str(store.client.get_run(root).info.experiment_id)
        self._ids, self._steps, self._ended = dict[int, str](), dict[int, int](), set[int]()
        token: str | None = ""
        while token is not None:
            page = store.client.search_runs(
                [self._experiment], f"tags.`{PARENT}` = '{root}'", max_results=_PAGE, page_token=token or None
            )
            for run in page:
                if number := int(run.data.tags.get(NUMBER, "0")):
                    self._ids[number] = run.info.run_id
                    self._steps[number] = max((int(m.step) for m in run.data._metric_objs), default=-1)
                    if run.info.status != "RUNNING":
                        self._ended.add(number)
            token = page.token or None

    def log(
        self, number: int, name: str, params: Mapping[str, str], metrics: Mapping[str, float], step: int,
        status: str | None = None, note: str = "",
    ) -> None:  # fmt: skip
        """Record ``metrics`` of child ``number`` at ``step``, unless it has them; ``status`` ends it.

        Raises:
            Unreachable: if the store does not answer.
        """
        try:
            self._log(number, name, params, metrics, step, status, note)
        except Exception as why:
            raise Unreachable(in_words(why, self.store.address)) from None

    def _log(
        self, number: int, name: str, params: Mapping[str, str], metrics: Mapping[str, float], step: int,
        status: str | None, note: str,
    ) -> None:  # fmt: skip
        client, now = self.store.client, int(time.time() * 1000)
        if number not in self._ids:
            tags = {PARENT: self.root, "recopt.root": self.root, NUMBER: str(number), "mlflow.source.name": "recopt"}
            tags |= {NOTE: note} if note else {}
            self._ids[number] = str(client.create_run(self._experiment, run_name=name, tags=tags).info.run_id)
        if self._steps.get(number, -1) < step:
            self.store.log_values(self._ids[number], params, {metric_name(k): v for k, v in metrics.items()}, now, step)
            self._steps[number] = step
        if status and number not in self._ended:
            client.set_terminated(self._ids[number], status, now)
            self._ended.add(number)
