"""What models draw from torch's global generators belongs to their run, and to nobody else in the process."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt.contracts.task import Batch
from recopt.engine import checkpoint
from recopt.engine.engine import STRETCH, Engine

from .. import engines

EXACT = {"gradient": "unroll", "second_order": True, "every": 3}
STACKS: dict[str, tuple[str, dict[int, dict[str, Any]]]] = {
    "one level": ("adam(lr=0.02)", {}),
    "exact": ("sgd(lr=0.02)/adam", {2: EXACT}),
    "trials": ("sgd(lr=0.02)/annealing", {2: {"every": 4}}),
}


class Dropping(engines.Regression):
    """A net with dropout, and noise in its loss."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(self.width, 6), nn.Dropout(0.4), nn.Tanh(), nn.Linear(6, 1))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch) * (1 + 0.1 * torch.rand((), dtype=torch.float64))


def made(name: str, seed: int = 0, tasks: int = 1) -> Engine:
    stack, settings = STACKS[name]
    return engines.engine(Dropping(seed=seed), stack, settings, seed=seed, tasks=tasks)


def same(one: Engine, other: Engine) -> None:
    assert engines.losses(one) == engines.losses(other)
    for name, values in engines.everything(one).items():
        for a, b in zip(values, engines.everything(other)[name], strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize("name", STACKS)
def test_runs_that_take_turns_are_as_if_alone(name: str, tasks: int) -> None:
    alone = [made(name, seed, tasks) for seed in (0, 1)]
    for engine in alone:
        engine.run(20)
    turns = [made(name, seed, tasks) for seed in (0, 1)]
    while min(engine.state.step for engine in turns) < 20:
        for engine in turns:
            if engine.state.step < 20:
                engine.step()
            torch.rand(3)  # and so does whoever draws in between
    for one, other in zip(alone, turns, strict=True):
        one.flush()
        other.flush()
        same(one, other)
    assert engines.losses(alone[0]) != engines.losses(alone[1])


@pytest.mark.parametrize("name", STACKS)
def test_runs_in_threads_are_as_if_alone(name: str) -> None:
    alone = [made(name, seed) for seed in (0, 1)]
    threads = [made(name, seed) for seed in (0, 1)]
    for engine in alone:
        engine.run(2 * STRETCH + 5)
    before, interval = torch.get_rng_state(), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda engine: engine.run(2 * STRETCH + 5), threads))
    finally:
        sys.setswitchinterval(interval)
    for one, other in zip(alone, threads, strict=True):
        one.flush()
        other.flush()
        same(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_who_reads_the_record_of_a_run_neither_draws_from_it_nor_disturbs_it() -> None:
    alone, read, drawn = made("exact"), made("exact"), list[float]()
    alone.run(2 * STRETCH)
    alone.flush()
    sink = read.sink

    def reading(*point: Any) -> None:
        assert sink is not None
        sink(*point)
        drawn.append(torch.rand(()).item())

    read.sink = reading
    torch.manual_seed(5)
    read.run(2 * STRETCH)
    read.sink = sink
    same(alone, read)
    torch.manual_seed(5)
    assert drawn == [torch.rand(()).item() for _ in drawn]
    assert len(drawn) > 2 * STRETCH


@pytest.mark.parametrize("name", STACKS)
def test_a_resumed_run_draws_on_whatever_else_was_drawn(name: str, tmp_path: Path) -> None:
    whole = made(name)
    whole.run(15)
    checkpoint.save(whole, tmp_path / "it")
    whole.run(30)
    torch.manual_seed(99)
    again = made(name)
    checkpoint.load(again, tmp_path / "it")
    torch.rand(5)
    again.run(30)
    for engine in (whole, again):
        engine.flush()
    assert engines.losses(again) == engines.losses(whole)[-len(engines.losses(again)) :]
    for a, b in zip(engines.params(whole), engines.params(again), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("choose", [None, {"every": 5, "tasks": 2, "steps": 3}])
def test_a_run_leaves_torchs_generator_as_it_was(choose: Any) -> None:
    before = torch.get_rng_state()
    recopt.run(Dropping(), "adam/sgd", steps=12, measure=4, choose=choose, track=False)
    assert torch.equal(before, torch.get_rng_state())


def test_a_step_that_fails_gives_the_generator_back() -> None:
    class Failing(Dropping):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            raise MemoryError

    engine = engines.engine(Failing(), "sgd")
    before = torch.get_rng_state()
    with pytest.raises(MemoryError):
        engine.step()
    assert torch.equal(before, torch.get_rng_state())
