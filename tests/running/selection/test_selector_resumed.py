"""Choosing in runs that were broken off: resumed, made longer, exported as they are."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from recopt.comparison import CompetitorSpec, make_compare_spec
from recopt.comparison.competitors import competitor
from recopt.engine.checkpoint import load
from recopt.running.checkpoints import CHECKPOINT
from recopt.running.export import write_export
from recopt.running.plan import Plan, plan, replan
from recopt.running.selection.selector import saved_selection
from recopt.running.session import RunOptions, Session

from ...choices import CHOOSE, exported, rate, rising, same
from ...engines import Bowl


def halted(made: Plan, at: int, folder: Path) -> Session:
    """Carry a plan out until step ``at``, save it in ``folder``, and go on a little before it is lost."""

    def progress(session: Session) -> None:
        if session.step == at:
            session.checkpoints.save(folder)
        if session.step == at + 25:
            raise MemoryError

    lost = Session(made, RunOptions(track=False, progress=progress))
    with pytest.raises(MemoryError):
        lost.run()
    return lost


@pytest.mark.parametrize(("patience", "descendants"), [(None, 0), (3, 0), (None, 2)])
@pytest.mark.parametrize("at", [37, 110])
def test_a_resumed_run_chooses_as_the_unbroken_one(
    tmp_path: Path, at: int, patience: int | None, descendants: int
) -> None:
    def made() -> Plan:
        how = {**CHOOSE, "patience": patience, "descendants": descendants}
        return plan(Bowl(), rising(), steps=170, choose=how)

    halted(made(), at, tmp_path)
    again = Session(made(), RunOptions(track=False, saved=tmp_path))
    result, whole = again.run(), Session(made(), RunOptions(track=False)).run()
    same(result, whole)
    for key in ("choose_score", "choose_diverged"):
        for a, b in zip(result.history(key), whole.history(key), strict=True):
            np.testing.assert_array_equal(a, b)
    assert result.chosen is not None
    assert whole.chosen is not None
    told = [{k: v for k, v in run.chosen.facts().items() if k != "spent"} for run in (result, whole) if run.chosen]
    assert told[0] == told[1]
    assert result.chosen.evaluations == whole.chosen.evaluations
    assert result.hyperparameters == whole.hyperparameters


def test_a_run_made_longer_is_the_unbroken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = plan("quadratic(dim=2)", "adam/sgd(lr=0.5)", steps=30, choose={**CHOOSE, "every": 12})
    short = Session(first, RunOptions()).run()
    assert short.folder is not None
    assert "none of which the values were trained or chosen on" in (short.folder / "export" / "card.md").read_text()
    # Choosing is part of what the values took.
    assert short.chosen is not None
    total, spec = short.budget.total, make_compare_spec({"task": "quadratic"})
    prepared = competitor(CompetitorSpec(stack=str(short.folder / "export")), "quadratic", spec).prepared
    assert prepared == total.evaluations + short.chosen.evaluations
    data = first.spec.model_dump(mode="json")
    result = Session(replan(data, steps=60), RunOptions(resume=short.run_id)).run()
    whole = Session(replan(data, steps=60), RunOptions(track=False)).run()
    assert result.history("choose_score")[0].tolist() == [0, 12, 24, 36, 48, 60]
    np.testing.assert_array_equal(result.history("choose_score")[1], whole.history("choose_score")[1])


def test_what_an_unfinished_run_exports_is_the_best_so_far(tmp_path: Path) -> None:
    made = plan(Bowl(), rising(), steps=400, choose=CHOOSE)
    lost = halted(made, 150, tmp_path)
    assert lost.selector is not None
    assert lost.selector.best is not None
    again = Session(plan(Bowl(), rising(), steps=400, choose=CHOOSE), RunOptions(track=False))
    note = load(again.engine, tmp_path / CHECKPOINT)
    chosen = saved_selection(note, again.spec.choose, again.engine, again.plan.task)
    assert chosen is not None
    assert (chosen.score, chosen.report) == (lost.selector.best, {})
    write_export(again.engine, again.spec, tmp_path / "export", chosen=chosen)
    assert rate(exported(tmp_path / "export")) == pytest.approx(0.05 * math.exp(0.1 * (chosen.step // 5)), rel=0.15)
    assert saved_selection(note, None, again.engine, again.plan.task) is None
