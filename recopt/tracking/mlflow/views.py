"""The pages of MLflow that links open, with the columns by which runs are compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...checking.errors import RecoptError
from .address import shown
from .runs import RunRow, find_run, list_runs
from .store import Store

_TRAINING = "workflowType=machine_learning"  # else MLflow opens its pages of language models
_VIEW = "recopt"
_ORDER = ("score", "score_low", "score_high", "difference_mean", "p_holm", "diverged", "evaluations")
"""What contenders are compared by."""


def page_of(store: Store, given: str | None, run: str | None, root: Path) -> str:
    """The part of a link after the server's address: the list of runs, the charts of ``run``, or its contenders.

    MLflow's own front page shows no runs, and its list none of their figures. The columns are those of a view, which
    MLflow keeps as a tag of the experiment.

    Args:
        given: the store as it was named.
        run: the id or name of a run or comparison; None for all runs.

    Raises:
        RecoptError: if there is no such run, or none at all.
    """
    if run is None:
        latest = list_runs(given, 100, root)
        if not latest:
            raise RecoptError(f"There are no runs yet in {shown(store.address)}: start one with 'recopt run'.")
        experiment = latest[0].experiment
        key, view = _VIEW, _runs([row for row in latest if row.experiment == experiment])
    else:
        found = find_run(given, run, root)
        if found.tags.get("recopt.kind") != "comparison":
            return f"#/experiments/{found.experiment}/runs/{found.id}/model-metrics?{_TRAINING}"
        experiment, key = found.experiment, f"{_VIEW}-{found.id[:8]}"
        nested = f"tags.`recopt.root` = '{found.id}' AND tags.`recopt.level` != '0'"
        view = _view(nested, _ORDER, "score", ["params.`kind`"])
    with suppress(Exception):  # a store that may only be read: then MLflow's own columns are shown
        store.client.set_experiment_tag(experiment, f"mlflow.sharedViewState.{key}", json.dumps(view))
    return f"#/experiments/{experiment}/runs?{_TRAINING}&viewStateShareKey={key}"


def _runs(rows: Sequence[RunRow]) -> dict[str, Any]:
    """The view of all runs, without those of their levels, best first."""
    keys = {key for row in rows for key in row.metrics}
    tests = sorted(key for key in keys if key.startswith("test_") and key != "test_loss")
    wanted = ("final_loss", "test_loss", *tests, "reference_score", "best_other_score", "evaluations", "seconds")
    best = next((key for key in ("test_loss", "reference_score") if key in keys), None)
    return _view("tags.`recopt.level` = '0'", [key for key in wanted if key in keys], best, ["params.`seed`"])


def _view(condition: str, metrics: Sequence[str], best: str | None, more: Sequence[str]) -> dict[str, Any]:
    shown = [f"metrics.`{key}`" for key in metrics]
    columns = ["params.`stack`", *shown, *more]
    return {
        "searchFilter": condition, "startTime": "ALL", "lifecycleFilter": "Active",
        "orderByKey": f"metrics.`{best}`" if best else "attributes.start_time", "orderByAsc": best is not None,
        "selectedColumns": columns, "columnOrder": ["attributes.`Run Name`", *columns],
        "columnWidths": {"attributes.`Run Name`": 300, "params.`stack`": 250, **dict.fromkeys(shown, 120)},
    }  # fmt: skip
