"""Population-based training of whole runs: trials go on from each other's checkpoints, with other settings."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import recopt
from recopt.engine.carry import carry
from recopt.engine.engine import Engine
from recopt.search.executors import make_executor
from recopt.sweeps import make_sweep_spec, plan_sweep
from recopt.sweeps.conduct import Conduct, trial_journal
from recopt.sweeps.schedule import Part, Rounds
from recopt.sweeps.trial import Before, TrialRun

from .. import engines
from .plugins import conducted, numbers

PBT = "pbt(population=4, step=1.0)"
SPEC: dict[str, Any] = {"task": "digits", "stack": "sgd(momentum=0.9)", "steps": 12, "measure": 0, "by": PBT,
                        "trials": 16, "over": {"sgd.lr": "1e-4..1e-1"}}  # fmt: skip
STACKS: dict[str, Any] = {**SPEC, "over": {"stack": ["sgd(momentum=0.9)", "adam/hypergradient"], "sgd.lr": "1e-3..1e-1",
                                           "level2.every": [1, 2]}}  # fmt: skip


def alike(slot: str, name: str) -> bool:
    return True


def made(stack: str, steps: int = 0, settings: Any = None) -> Engine:
    found = engines.engine(engines.Regression(seed=2), stack, settings, seed=2)
    found.run(steps)
    return found


def carried(old: Engine, stack: str, settings: Any = None, same: Any = alike) -> Engine:
    new = made(stack, settings=settings)
    carry(old, new, same)
    return new


def test_a_run_that_goes_on_unchanged_goes_where_it_would_have_gone() -> None:
    for stack in ("sgd(momentum=0.9)", "adam", "adam/hypergradient", "adam(weight_decay=0.1)/sgd"):
        old = made(stack, 7)
        new = carried(old, stack)
        for engine in (old, new):
            engine.run(9)
        # A level above begins its window anew, so its own next step may come later.
        if "/" not in stack:
            assert all(map(torch.equal, engines.params(old), engines.params(new)))
        assert new.state.step == 9 and new.state.task.seen == old.state.task.seen
        assert new.budget.total.gradient == old.budget.total.gradient


def test_what_both_have_is_kept_and_the_rest_begins_afresh() -> None:
    old = made("sgd(lr=0.05, momentum=0.9)/hypergradient", 8)
    new = carried(old, "sgd(lr=0.2, momentum=0.9)/hypergradient", same=lambda slot, name: name != "lr")
    value: Any = new.state.slots["sgd"]
    tuned: Any = old.state.slots["sgd"]
    assert value.value["lr"] == pytest.approx(0.2) and value.value["momentum"] == tuned.value["momentum"]
    assert tuned.value["lr"] != pytest.approx(0.05)
    (mine,), (theirs,) = new.state.levels[0].parts, old.state.levels[0].parts
    assert all(map(torch.equal, mine.strategy["momentum"], theirs.strategy["momentum"]))
    other = carried(old, "adam/hypergradient")
    assert not other.state.levels[0].parts  # Adam has no use for the momentum of another rule
    assert all(map(torch.equal, engines.params(other), engines.params(old)))
    plain = carried(old, "sgd(lr=0.05)")
    assert not plain.state.levels[0].parts and plain.budget.total.gradient == old.budget.total.gradient
    other.run(12)
    plain.run(12)


def test_another_model_is_refused() -> None:
    class Wide(engines.Regression):
        width = 4

    new = engines.engine(Wide(seed=2), "sgd", seed=2)
    with pytest.raises(recopt.RecoptError, match="has other shapes"):
        carry(made("sgd", 2), new, alike)


def schedule(conduct: Conduct) -> Rounds:
    found = conduct.plan.schedule
    assert isinstance(found, Rounds)
    return found


def test_members_go_on_from_the_best_with_other_settings(tmp_path: Path) -> None:
    conduct = conducted(SPEC, make_executor("inline"), tmp_path)
    rounds = schedule(conduct)
    assert conduct.plan.rungs == [3, 6, 9, 12] and len(rounds.trials) == 16
    assert sorted(rounds.origins) == list(range(4, 16)) and all(o // 4 == n // 4 - 1 for n, o in rounds.origins.items())
    copied = [n for n, o in rounds.origins.items() if rounds.trials[n] != rounds.trials[o]]
    assert 3 <= len(copied) < 12
    losses = {key.trial: entry.found["figures"]["loss"] for key, entry in conduct.journal.entries.items()}
    for n in copied:
        group = [losses[k] for k in range(4 * (n // 4) - 4, 4 * (n // 4))]
        assert losses[rounds.origins[n]] == min(group)
    # A member that keeps its settings is one run, to the bit.
    alone = next(n for n in range(12, 16) if n not in copied)
    line = [alone]
    while line[-1] in rounds.origins:
        line.append(rounds.origins[line[-1]])
    if len({str(rounds.trials[n]) for n in line}) == 1:
        whole = recopt.run("digits", SPEC["stack"], settings=[f"sgd.lr={rounds.trials[alone]['sgd.lr']}"], steps=12,
                           measure=0, track=False)  # fmt: skip
        assert conduct.entries(Part(alone, 3))[0].found["test"] == whole.after


@pytest.mark.parametrize("spec", [SPEC, STACKS], ids=["a rate", "a choice among stacks"])
def test_numbers_do_not_depend_on_the_executor_nor_on_kept_checkpoints(spec: dict[str, Any], tmp_path: Path) -> None:
    inline = conducted(spec, make_executor("inline"), tmp_path / "a")
    found = numbers(inline)
    assert found == numbers(conducted(spec, make_executor("processes", 2), tmp_path / "b"))
    last = max(inline.journal.entries)
    before = inline._before(last)
    lost = [Before(one.settings, one.until, None) for one in before]  # as on a machine that has none of the folders
    plan = inline.plan
    job = TrialRun(plan.spec.run, plan.schedule.trials[last.trial], 0, None, None, lost)
    again = TrialRun.read(json.loads(json.dumps(job.words()))).run()
    assert {k: v for k, v in again.items() if k != "seconds"} == found[last][1]


def test_a_choice_among_stacks_is_explored(tmp_path: Path) -> None:
    rounds = schedule(conducted({**STACKS, "seed": 1}, make_executor("inline"), tmp_path))
    stacks = [one["stack"] for one in rounds.trials]
    assert len(set(stacks)) == 2
    assert any(stacks[n] != stacks[o] for n, o in rounds.origins.items())


def test_a_sweep_that_was_killed_goes_on_to_the_same_end(tmp_path: Path) -> None:
    class Cut(Exception):
        pass

    spec, file = make_sweep_spec(SPEC), tmp_path / "trials.jsonl"
    whole = conducted(SPEC, make_executor("inline"), tmp_path / "whole")

    def told(part: Any) -> None:
        if part.trial == 6:
            raise Cut

    with pytest.raises(Cut), make_executor("inline") as executor:
        Conduct(plan_sweep(spec), executor, trial_journal(file), tmp_path / "parts", told).run()
    with make_executor("inline") as executor:
        found = Conduct(plan_sweep(spec), executor, trial_journal(file), tmp_path / "parts")
        found.run()
    assert numbers(found) == numbers(whole)
    assert {path.name for path in (tmp_path / "parts").iterdir()} <= {f"{n}-0" for n in range(8, 16)}


def test_the_table_says_where_each_trial_goes_on_from_and_the_best_model_is_kept(here: Path) -> None:
    found = recopt.sweep(SPEC["task"], SPEC["stack"], over=SPEC["over"], by=PBT, trials=16, steps=12, measure=0,
                         output=here / "out")  # fmt: skip
    rows = list(csv.DictReader((here / "out/trials.csv").read_text().splitlines()))
    assert [row["from"] for row in rows[:4]] == [""] * 4 and all(int(row["from"]) <= 12 for row in rows[4:])
    assert found.best.number > 12 and found.best.step == 12 and found.best.test
    assert {one.outcome for one in found.trials[:12]} == {"went on", "stopped"}
    assert (found.made, found.whole) == (48, 16 * 12)
    assert found.folder is not None and not (here / "out/best.yaml").is_file()


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "one round": ({"trials": 7}, "4 trials are a round, so 7 are 1 rounds"),
    "more rounds than steps": ({"steps": 3}, "no more than the run has steps .3."),
    "task": ({"over": {"task": ["digits", "mnist"]}}, "'task' has to be the same"),
    "steps": ({"over": {"steps": [5, 6]}}, "'steps' has to be the same"),
    "shapes": ({"over": {"task.hidden": [[10], [20]]}}, "'task.hidden' changes their shapes"),
    "asha": ({"asha": {}}, "not by 'pbt"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_cannot_go_on_is_refused_before_anything_runs(mistake: str) -> None:
    given, words = MISTAKES[mistake]
    with pytest.raises(recopt.RecoptError, match=words):
        plan_sweep(make_sweep_spec({**SPEC, **given}))
