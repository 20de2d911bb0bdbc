"""A rough run, resumed from a checkpoint after every step, goes on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt.contracts.trees import tree_map
from recopt.running.plan import plan
from recopt.running.session import RunOptions, Session
from recopt.stacks.plugins import list_strategies

from .. import rough

EXACT = ["level2.second_order=true", "level2.every=3"]
WINDOWS = ["level2.every=3"]
ZERO_ORDER = (
    "annealing", "tempering", "random-search", "quasi-random", "evolution", "basin-hopping", "rnn-opt", "cmaes",
    "self-adaptive", "cmaes(restarts=bipop)", "optuna", "optuna(sampler=cmaes)",
)  # fmt: skip
CASES: list[tuple[str, list[str], int]] = [
    *((stack, [], 1) for stack in (*rough.ALONE, *ZERO_ORDER, *rough.TOWERS, *rough.HIGH)),
    *((f"{rule}/hypergradient", WINDOWS, 1) for rule in rough.WILD),
    *((f"{rule}/annealing", WINDOWS, 1) for rule in rough.WILD),
    ("adam(lr=2)/adam", EXACT, 1), ("sgd(lr=3)/sgd/sgd", EXACT, 1), ("lstm/self", [], 1),
    ("adam(lr=2)/hypergradient/self", [], 1), ("adam(lr=2)/self", WINDOWS, 1),
    ("annealing/self", ["level2.every=3"], 1),
    ("adam(lr=2)/evolution(population=2)/self", ["level2.every=2"], 1),
    *((stack, WINDOWS, 1) for stack in ("switch/annealing[which]", "switch/optuna[which]", "sgd/pbt")),
    ("adam(lr=2)/random-search", WINDOWS, 1),
    ("adam(lr=2)/sgd", ["level1.average=8"], 1),
    ("gated(base=adam(lr=2),rule=lstm)/gate(evidence=1.2,rest=1)", ["level2.every=2"], 1),
    ("lstm(hidden=3)/gated(rule=lstm(hidden=3),tied=true,lag=2)/gate(evidence=1.2,rest=0)",
     ["level2.every=2", "level2.episode=6", "level3.every=1"], 1),
    ("adam(lr=2)/sgd/annealing[every]", ["level2.every=2", "level3.every=2"], 1),
    *((stack, WINDOWS, 2) for stack in ("adam(lr=2)/adam", "lstm/adam", "sgd(lr=3)/annealing")),
]  # fmt: skip


def test_no_shipped_strategy_is_left_out() -> None:
    text = " ".join([*(stack for stack, _, _ in CASES), "replay"])  # which needs a record: tests/running/test_replay.py
    assert [info.name for info in list_strategies([]) if info.name not in text and not info.trained] == []


class Rough(recopt.Task):
    """A small net on batches of which some are bad."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def batch(self, index: int, split: str = "train") -> Any:
        return rough.batch(index)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, targets = batch
        return ((model(inputs) - targets) ** 2).mean()


def session(stack: str, settings: list[str], tasks: int, saved: Path | None = None) -> Session:
    made = plan(Rough(), stack, settings=settings, tasks=tasks, steps=rough.STEPS, measure=0)
    return Session(made, RunOptions(track=False, saved=saved))


def seen(run: Session) -> str:
    """All that a run is and has recorded, its numbers to the bit."""
    state = run.engine.state
    levels = [(own.parts, own.rng, own.steps, own.counts, own.silent) for own in state.levels]
    record = [(at, [x.tobytes() for x in run.trace.series(*at)]) for at in run.trace.keys() if "seconds" not in at[1]]  # noqa: SIM118
    whole = (state.slots, levels, state.guard, state.good, state.step, record)
    return repr(
        tree_map(lambda t: (t.dtype, t.shape, t.detach().reshape(-1).view(torch.uint8).numpy().tobytes()), whole)
    )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("stack", "settings", "tasks"), CASES)
def test_a_rough_run_is_resumed_bit_for_bit_from_any_step(
    stack: str, settings: list[str], tasks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)
    whole, ends = session(stack, settings, tasks), []
    for number in range(rough.STEPS):
        whole.engine.step()
        whole.checkpoints.save(tmp_path / str(number))
        ends.append(seen(whole))
    assert whole.engine.state.guard is not None
    counts = whole.engine.state.guard.counts
    # Each member of a population has batches and counts of its own.
    assert "pbt" in stack or (counts["skipped"] and (stack not in rough.TOWERS or counts["bounded"]))
    for number in range(rough.STEPS - 1):
        again = session(stack, settings, tasks, tmp_path / str(number))
        assert seen(again) == ends[number], f"resumed after {number}"
        again.engine.step()
        assert seen(again) == ends[number + 1], f"resumed after {number}, one step later"
