"""Replays: a run on its own seed gives the same model again, and what cannot be replayed is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import recopt
from recopt.running.export import write_export
from recopt.running.plan import plan, replan
from recopt.running.relocated import relocated
from recopt.running.schedules import write_schedules
from recopt.running.session import RunOptions, Session
from recopt.running.spec import read_spec, write_spec
from recopt.tracking.mlflow.store import open_store

from .. import engines
from ..commands import Recopt

STEPS = 36


@pytest.fixture(autouse=True)
def _somewhere(here: Path) -> None:
    """In an empty folder."""


@pytest.fixture
def _store(here: Path, empty_store: Path) -> None:
    (here / "runs").mkdir()
    shutil.copyfile(empty_store, here / "runs" / "mlflow.db")


def run(stack: str, *settings: str, **more: Any) -> recopt.Result:
    """A run of which no more is kept, in a folder called ``source``, than a replay reads."""
    task = engines.Noisy(seed=1) if "annealing" in stack else engines.Regression(seed=1)
    found = recopt.run(task, stack, steps=STEPS, settings=settings, progress=None, track=False, **more)
    return kept(found, "source")


def kept(found: recopt.Result, name: str) -> recopt.Result:
    Path(name).mkdir()
    Path(name, "spec.yaml").write_text(write_spec(found.spec))
    write_schedules(found.engine, found.trace, Path(name))
    return found


def replay(source: recopt.Result, name: str = "source", **more: Any) -> recopt.Result:
    return recopt.run(source.engine.family.task, replay=name, progress=None, track=False, **more)


def weights(result: recopt.Result) -> list[torch.Tensor]:
    return [p.detach() for p in result.model().parameters()]


def apart(a: recopt.Result, b: recopt.Result) -> float:
    """The largest difference of two runs' losses."""
    return float(np.abs(a.losses - b.losses).max())


CASES: list[tuple[str, list[str], float]] = [
    ("adam/hypergradient/annealing", ["level3.every=4"], 0),
    ("adam/sgd[*]", ["level2.on=valid"], 0),
    ("adam[*weight]+sgd[*bias]/hypergradient", [], 0),
    ("sgd(lr=0.1, momentum=0.5)/annealing", ["level2.every=5"], 0),
    ("switch(among=[sgd(lr=0.1), adam])/annealing[which]", ["level2.every=3"], 0),
    ("lstm/adam/hypergradient", ["level2.every=3", "level2.episode=12"], 0),
    ("adam/hypergradient", ["level2.episode=12"], 0),
    ("adam/sgd", ["level2.every=4", "level2.second_order=true"], 1e-12),
    ("adam(lr=3)/hypergradient", [], 1e-12),  # where the guard cuts updates
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("stack", "settings", "tolerance"), CASES)
def test_a_run_replayed_on_its_own_seed_is_the_same_run(stack: str, settings: list[str], tolerance: float) -> None:
    source = run(stack, *settings, dtype="float64", seed=3)
    again = replay(source)
    assert again.spec.replay is not None and again.spec.replay.name == "source"
    assert [level.by.partition("_")[0] for level in again.spec.levels].count("replay") >= 1
    assert apart(source, again) <= tolerance
    assert again.budget.total.hypergradient == (0 if "lstm" not in stack else source.budget.levels[1].hypergradient)
    for a, b in zip(weights(source), weights(again), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize(
    ("stack", "settings", "tolerance"),
    [("sgd(lr=0.05)/pbt(population=3)", ["level2.every=5"], 0),
     ("adam/annealing/pbt(population=3)", ["level2.every=3", "level3.every=2"], 1e-11)],
)  # fmt: skip
def test_a_replay_follows_the_lineage_of_the_member_that_was_chosen_last(
    stack: str, settings: list[str], tolerance: float
) -> None:
    source = run(stack, *settings, dtype="float64", seed=3)
    again = replay(source)
    ends, chosen = source.history("chosen", len(source.spec.levels))
    assert len(set(chosen)) > 1 and apart(source, again) > 1e-6  # the record is of the best member of each window
    last = slice(int(ends[-2]) + 1, int(ends[-1]) + 1)
    assert np.abs(source.losses[last] - again.losses[last]).max() <= tolerance


def test_a_schedule_goes_by_step_or_is_stretched() -> None:
    source = run("adam/hypergradient", seed=3)
    values = source.history("lr", 1)[1]
    longer = replay(source, steps=2 * STEPS, seed=5)
    assert np.array_equal(longer.history("lr", 1)[1], [*values, *[values[-1]] * STEPS])
    stretched = replay(source, steps=2 * STEPS, seed=5, stretch=True)
    assert np.array_equal(stretched.history("lr", 1)[1], np.repeat(values, 2))
    assert (longer.spec.seed, longer.spec.dtype) == (5, "float32") and longer.losses[0] != source.losses[0]
    elsewhere = recopt.run("quadratic", "adam(beta1=0.8)", replay="source", progress=None, track=False)
    assert elsewhere.hyperparameters["adam.beta1"] == 0.8 and elsewhere.engine.state.step == STEPS
    assert np.array_equal(elsewhere.history("lr", 1)[1], values)


def test_a_replay_of_a_replay_is_the_same_again() -> None:
    first = kept(replay(run("adam/hypergradient", seed=3), steps=20), "first")
    second = replay(first, "first")
    assert apart(first, second) == 0 and second.spec.levels == first.spec.levels


@pytest.mark.usefixtures("_store")
def test_a_replay_is_resumed_to_the_bit_from_its_own_copy_and_says_what_it_replays() -> None:
    source = recopt.run(
        "digits", "sgd(lr=0.05)/pbt(population=3)", steps=STEPS, name="found", settings=["level2.every=6"], seed=3
    )
    assert source.folder is not None
    assert not [key for key in open_store().run(source.run_id or "").data.metrics if "member" in key]
    whole = recopt.run(replay="found", seed=2, progress=None, track=False)
    half = Session(plan(None, None, replay="found", seed=2), RunOptions(pause=STEPS // 2)).run()
    with pytest.raises(recopt.RecoptError, match="is not over: recopt run --resume"):
        plan(None, None, replay=half.run_id)
    assert half.status == "KILLED" and half.run_id is not None and half.folder is not None
    assert open_store().run(half.run_id).data.params["replay"] == f"found {source.run_id}"
    shutil.rmtree(source.folder)
    made = replan(relocated(read_spec(half.folder / "spec.yaml"), half.folder))
    rest = Session(made, RunOptions(resume=half.run_id)).run()
    assert rest.run_id == half.run_id and apart(rest, whole) == 0


@pytest.mark.usefixtures("_store")
def test_a_spec_names_the_run_that_it_replays(recopt: Recopt) -> None:
    assert recopt("run", "digits", "adam/hypergradient", "--steps", "12", "--name", "found").status == 0
    Path("again.yaml").write_text("replay: found\nsteps: 24\nstretch: true\n")
    done = recopt("run", "--spec", "again.yaml", "--no-track")
    assert done.status == 0 and "adam/replay(record=…/schedule.safetensors, of=adam, stretch=2)[lr]" in done.out
    assert recopt("run", "--replay", "found", "--seed", "1", "digits(net=logistic)", "--no-track").status == 0
    assert recopt("run", "mnist", "--spec", "none.yaml", "--replay", "found").status == 2


def test_the_optimizer_takes_the_record_of_a_run() -> None:
    source = run("adam/hypergradient", seed=3)
    stack = "adam/replay(record=source/schedule.safetensors)[lr]"
    values = source.history("lr", 1)[1]

    def steps(opt: Any, model: nn.Module, count: int) -> list[float]:
        seen = []
        for _ in range(count):
            opt.zero_grad()
            model(torch.ones(2, 3)).square().mean().backward()
            opt.step()
            seen.append(opt.hyperparameters()["adam.lr"])
        return seen

    model = nn.Linear(3, 1)
    opt = recopt.Optimizer(model.parameters(), stack)
    assert steps(opt, model, 10) == pytest.approx(values[:10], rel=1e-12)
    other = recopt.Optimizer(model.parameters(), stack)
    other.load_state_dict(opt.state_dict())
    assert steps(other, model, 10) == pytest.approx(values[10:20], rel=1e-12)


def _damage(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def _cut(content: bytes) -> bytes:
    return content[:-40]


def _leave(content: bytes) -> bytes:
    return content


@pytest.mark.parametrize(
    ("change", "how", "said"),
    [
        (_damage, {}, "is damaged: what it holds is not what was written"),
        (_cut, {}, "is damaged, or no schedule of recopt"),
        (_leave, {"stack": "sgd"}, "moved adam.lr, and 'sgd' has no 'adam' that trains something"),
        (_leave, {"stack": "sgd@adam"}, None),
        (_leave, {"stack": "schedule-free@adam"}, None),
        (_leave, {"stack": "switch@adam"}, "moved adam.lr, which 'switch@adam' does not have"),
        (_leave, {"stack": recopt.strategy("adam")}, "'replay' puts a record into a stack in words"),
    ],
)
def test_what_cannot_be_replayed_is_refused(change: Callable[[bytes], bytes], how: Any, said: str | None) -> None:
    source, file = run("adam/hypergradient", seed=3), Path("source/schedule.safetensors")
    file.write_bytes(change(file.read_bytes()))
    if said is None:
        assert replay(source, **how).outcome == "finished"
        return
    with pytest.raises(recopt.RecoptError, match=said):
        replay(source, **how)


def test_numbers_for_each_coordinate_are_neither_replayed_nor_put_into_another_model() -> None:
    """A record has the middle of them, which would be another run."""
    source = run("adam/adagrad[lr]", "level2.scope=coordinate")
    with pytest.raises(recopt.RecoptError, match="or one for each coordinate, so there is nothing to replay"):
        replay(source)
    write_export(source.engine, source.spec, Path("rates"))
    with pytest.raises(recopt.RecoptError, match="a lr of 'adam' for each coordinate of the model that it was"):
        recopt.Optimizer([nn.Parameter(torch.ones(3))], Path("rates"))
    assert "a number for each coordinate" in repr(source.engine.graph)


def test_a_run_that_moved_nothing_has_no_schedule() -> None:
    with pytest.raises(recopt.RecoptError, match="Run 'source' moved no hyperparameter of what trains the model"):
        replay(run("adam/annealing", "level2.every=100"))  # no window closed
    with pytest.raises(recopt.RecoptError, match="Give a task and a stack"):
        recopt.run("quadratic")
    with pytest.raises(recopt.RecoptError, match="'stretch' is of a schedule that is replayed"):
        recopt.run("quadratic", "adam", stretch=True)
    with pytest.raises(recopt.RecoptError, match="'replay' needs the record of a run"):
        recopt.run("quadratic", "adam/replay[lr]")


def test_a_level_that_moves_other_parameters_than_the_record_has_is_refused() -> None:
    run("adam/hypergradient", seed=3)
    record = "source/schedule.safetensors"
    with pytest.raises(recopt.RecoptError, match=r"is of lr, and the level moves 4 parameters: write replay\[lr\]"):
        recopt.run("quadratic", f"adam/replay(record={record})", track=False)
    with pytest.raises(recopt.RecoptError, match="has schedules of adam: say which"):
        recopt.run("quadratic", f"adam/replay(record={record}, of=sgd)[lr]", track=False)


def test_a_curriculum_that_a_level_left_out_had_is_refused() -> None:
    source = run("adam/hypergradient", "level2.episode=12", "level2.curriculum=3", seed=3)
    with pytest.raises(recopt.RecoptError, match="'curriculum', which has no place in a replay"):
        replay(source)


@pytest.mark.parametrize("given", ["level2.trust=0.5", "hypergradient.kappa=0.5", "adam.lr=0.1"])
def test_settings_that_the_record_stands_in_for_are_refused(given: str) -> None:
    source = run("adam/hypergradient")
    key = given.partition("=")[0]
    with pytest.raises(recopt.RecoptError, match=f"'{key}' would have no effect, since the record of run 'source'"):
        replay(source, settings=[given])


def test_settings_of_what_stays_in_a_replay_are_taken() -> None:
    source = run("adam/hypergradient")
    found = replay(source, settings=["adam.beta1=0.5", "level1.schedule=cosine", "level1.horizon=30"])
    assert found.engine.levels[0].horizon == 30 and found.spec.strategies["adam"].settings["beta1"] == 0.5
