"""The pages that links open: the runs they list, by MLflow's own search, and the columns they show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recopt.tracking.mlflow.store import Store
from recopt.tracking.mlflow.ui import page_of

from ...records import copied, points, started


@pytest.fixture
def root(tmp_path: Path, empty_store: Path) -> Path:
    return copied(empty_store, tmp_path)


def opened(store: Store, page: str) -> tuple[dict[str, Any], list[str]]:
    """The view that ``page`` opens, and the names of the runs in it, in its order."""
    experiment, _, key = page.removeprefix("#/experiments/").partition(
        "/runs?workflowType=machine_learning&viewStateShareKey="
    )
    view = json.loads(store.client.get_experiment(experiment).tags[f"mlflow.sharedViewState.{key}"])
    order = f"{view['orderByKey']} {'ASC' if view['orderByAsc'] else 'DESC'}"
    found = store.client.search_runs([experiment], view["searchFilter"], order_by=[order])
    return view, [run.info.run_name for run in found]


def test_the_list_shows_runs_without_their_levels_best_first(root: Path) -> None:
    for name, loss in (("worse", 0.5), ("best", 0.1), ("worst", 0.9)):
        tracker = started(root, name=name)
        tracker.log(points(range(2)))
        tracker.finish(
            "FINISHED", {"final_loss": loss, "test_loss": loss, "test_accuracy": 0.5, "evaluations": 2}, step=2
        )
    view, names = opened(tracker.store, page_of(tracker.store, None, None, root))
    assert names == ["best", "worse", "worst"]
    assert view["selectedColumns"] == [
        "params.`stack`", "metrics.`final_loss`", "metrics.`test_loss`", "metrics.`test_accuracy`",
        "metrics.`evaluations`", "params.`seed`",
    ]  # fmt: skip
    assert view["columnOrder"][1:] == view["selectedColumns"]


def test_the_link_to_a_run_opens_its_charts_and_that_to_a_comparison_its_contenders(root: Path) -> None:
    run, compared = started(root), started(root, name="compare digits", tags={"recopt.kind": "comparison"})
    for number, score in ((1, 0.7), (2, 0.3)):
        compared.log(points(range(1), number, "score"))
        compared._outbox.keep({"run": compared.levels[number], "points": [["score", score, 1, 1]]})
    compared.finish("FINISHED", {})
    run.finish("FINISHED", {})
    page = page_of(run.store, None, run.run_id, root)
    assert page == f"#/experiments/1/runs/{run.run_id}/model-metrics?workflowType=machine_learning"
    view, names = opened(run.store, page_of(run.store, None, "compare digits", root))
    assert names == ["sgd", "adam"]
    assert "metrics.`score`" in view["selectedColumns"]
