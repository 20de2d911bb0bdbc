"""The specs in runs/, and the published experiments among them, scaled down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import recopt
from recopt.comparison import EACH, Planned, make_compare_spec, plan_series, read_compare_spec, report_seeds
from recopt.comparison.competitors import competitor
from recopt.comparison.training import trainee
from recopt.comparison.tuning import baseline
from recopt.running.plan import replan
from recopt.running.spec import read_spec
from recopt.stacks.build import make_task

ROOT = Path(__file__).parents[1]
DIGITS = "digits(hidden=[16], activation=tanh, batch_size=100)"
SPECS = sorted((ROOT / "runs").glob("*.yaml"))
EPOCH = ROOT / "runs" / "published-chandra-epoch.yaml"


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # specs name plugins from there


def test_there_are_specs() -> None:
    assert EPOCH in SPECS


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_spec_can_be_planned(path: Path) -> None:
    data = read_spec(path)
    if "stacks" not in data and "baselines" not in data:
        made = replan(data, where=str(path))
        assert len(made.graph.levels) >= len(data.get("levels", []))
        return
    data = read_compare_spec(path)
    rows = plan_series(data, str(path)) if EACH in data else [Planned("", make_compare_spec(data, str(path)))]
    for spec in (row.spec for row in rows):
        task = make_task(spec.task, report_seeds(spec)[0], spec.plugins)
        names = [(trainee(one, spec) if one.run else competitor(one, task, spec)).name for one in spec.stacks]
        names += [baseline(text, spec.plugins).text for text in spec.baselines]
        assert names
        assert len(set(names)) == len(names)


def published_on_digits(names: list[str]) -> dict[str, Any]:
    """Some stacks of the published spec, on the digits that need no download, for 60 steps."""
    spec = make_compare_spec(read_compare_spec(EPOCH), str(EPOCH))
    found = recopt.compare(
        DIGITS, [s.model_dump() for s in spec.stacks if s.name in names],
        seeds=2, steps=60, baselines=[], measure="final", guards=True, plugins=spec.plugins, track=False,
    )  # fmt: skip
    return {one.name: one for one in found.figures}


@pytest.mark.parametrize(("above", "share"), [("SGD/SGD raw", 0.98), ("SGD/SGD", 0.98), ("SGD/Adagrad", 0.98)])
def test_a_level_above_beats_its_base_from_a_rate_that_is_too_small(above: str, share: float) -> None:
    found = published_on_digits(["SGD", above])
    assert found[above].difference is not None
    assert found[above].difference.lower == 1.0
    assert found[above].score[0].value < share * found["SGD"].score[0].value


def test_the_raw_forms_start_as_their_bases_do() -> None:
    """The first two losses know nothing of the level above, which first moves after the second gradient."""
    spec = make_compare_spec(read_compare_spec(EPOCH), str(EPOCH))
    names = ["SGD", "SGD/SGD raw"]
    found = recopt.compare(
        DIGITS, [s.model_dump() for s in spec.stacks if s.name in names],
        seeds=2, steps=3, baselines=[], guards=True, plugins=spec.plugins, track=False, dtype="float64",
    )  # fmt: skip
    base, above = (found[name].runs.losses for name in names)
    assert base[:, :2] == pytest.approx(above[:, :2], rel=1e-12)
    assert abs(base[:, 2] - above[:, 2]).min() > 1e-9
