"""Checkpoints: a resumed run goes on bit for bit, and a bad file is refused in a sentence."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from recopt.checking.errors import RecoptError
from recopt.contracts.strategy import Params, State, Strategy, Trial
from recopt.contracts.trees import tensors
from recopt.engine import checkpoint
from recopt.engine.engine import Engine

from .. import engines

EXACT = {"gradient": "unroll", "second_order": True}


class Noisy(engines.Regression):
    """With batch statistics and dropout, so that buffers and torch's own generator matter."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 1))


class Learned(Strategy):
    """A small recurrent rule on each coordinate; its weights are drawn when it is made."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.inner = nn.Linear(2, 4)
        self.outer = nn.Linear(4, 2)

    def init(self, point: Params) -> State:
        return {"h": [torch.zeros_like(p) for p in point]}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        deltas, hidden = [], []
        for g, h in zip(trials[0].grads or [], state["h"], strict=True):
            out: Tensor = self.outer(torch.tanh(self.inner(torch.stack([g, h], -1))))
            deltas.append(-0.05 * out[..., 0] - 0.02 * g)
            hidden.append(torch.tanh(out[..., 1]))
        return deltas, {"h": hidden}


CASES: dict[str, tuple[str, dict[int, dict[str, Any]], dict[str, Any]]] = {
    "one level": ("adam(lr=0.02)", {}, {}),
    "online tower": ("adam(lr=0.02)/sgd(lr=0.01)/sgd(lr=0.01)", {}, {}),
    "windows of 7": ("adam(lr=0.02)/sgd", {2: {"every": 7, "gradient": "unroll"}}, {}),
    "exact": ("adam(lr=0.02)/sgd/sgd", {2: {**EXACT, "every": 3}, 3: {**EXACT, "every": 2}}, {}),
    "three kinds": ("adam(lr=0.02)/hypergradient/annealing", {3: {"every": 11}}, {}),
    "nested searches": ("adam(lr=0.02)/annealing/annealing@b", {2: {"every": 6}, 3: {"every": 2}}, {}),
    "a distribution of points": ("adam(lr=0.02)/cmaes", {2: {"every": 4, "population": 4}}, {}),
    "members with runs of their own": (
        "adam(lr=0.02)/pbt(population=3)/annealing", {2: {"every": 4}, 3: {"every": 2}}, {}),
    "episodes of a learned rule": (
        "learned/adam", {2: {"every": 4, "gradient": "unroll", "episode": 12}}, {}),
    "a teacher": (
        "learned/adam",
        {2: {"every": 2, "gradient": "unroll", "episode": 8, "teacher": "adam(lr=0.02)", "imitate": 15}}, {}),
    "a teacher by turns": (
        "learned/adam",
        {2: {"every": 2, "gradient": "unroll", "episode": 8, "teacher": "adam(lr=0.02)", "imitate": 15,
             "stagger": True}},
        {"tasks": 3}),
    "curriculum": (
        "learned/adam", {2: {"every": 2, "gradient": "unroll", "episode": 12, "curriculum": 20}}, {}),
    "tasks": ("learned/adam", {2: {"every": 4, "gradient": "unroll", "episode": 8}}, {"tasks": 3}),
    "tasks by turns": (
        "learned/adam", {2: {"every": 2, "gradient": "unroll", "episode": 8, "curriculum": 9, "stagger": True}},
        {"tasks": 3}),
    "counts of tasks by turns": (
        "adam(lr=0.02)/adam/annealing",
        {1: {"normalize": "rms"}, 2: {**EXACT, "every": 3, "episode": 9, "stagger": True}, 3: {"every": 4}},
        {"tasks": 2}),
    "searches side by side": (
        "adam(lr=0.02)/annealing@a[lr]+annealing@b[beta*]", {2: {"every": 5}, 3: {"every": 8}}, {}),
    "search over a taped group": (
        "adam(lr=0.02)/sgd[lr]+annealing[beta*]", {2: {"every": 3, "gradient": "unroll"}, 3: {"every": 7}}, {}),
    "zero order on the task": ("annealing/annealing@b", {2: {"every": 9}}, {}),
    "a rate that moves its step": ("self-tied(lr=0.5)", {}, {}),
    "self-loop": ("adam(lr=0.02)/hypergradient/self", {}, {}),
    "self-loop of a learned rule": ("learned@a/learned@a", {2: {"every": 4, "gradient": "unroll"}}, {}),
    "self-loop of a search": ("adam(lr=0.02)/annealing@a/annealing@a", {2: {"every": 6}, 3: {"every": 2}}, {}),
    "null steps, held-out": ("adam(lr=0.02)/sgd(lr=0.5)", {2: {"every": 3, "on": "valid", "null_step": True}}, {}),
}  # fmt: skip


def make(name: str) -> Engine:
    stack, settings, options = CASES[name]
    return engines.engine(Noisy(seed=5), stack, settings, rules={"learned": Learned}, seed=5, **options)


def record(made: Engine) -> list[tuple[int, int, dict[str, float]]]:
    sink = made.sink
    assert isinstance(sink, engines.Recorder)
    return [(n, step, {k: float(v) for k, v in values.items()}) for n, step, values in sink.points]


def drive(made: Engine, calls: int) -> None:
    for _ in range(calls):
        made.step()


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_goes_on_bit_for_bit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recopt.engine.engine.REPLAY", 10)
    whole = make(name)
    halves = []
    for calls in (1, 12, 23, 14):
        drive(whole, calls)
        halves.append((checkpoint.save(whole, tmp_path / f"{len(halves)}.safetensors"), len(record(whole)))[1])
        # Torch's generator belongs to the run: what others draw between two steps of another run must not matter.
    drive(whole, 40)
    for number, written in enumerate(halves):
        part = make(name)
        torch.manual_seed(99)
        checkpoint.load(part, tmp_path / f"{number}.safetensors")
        drive(part, sum((1, 12, 23, 14)[number + 1 :]) + 40)
        assert record(part) == record(whole)[written:], number
        for slot, values in engines.everything(whole).items():
            for a, b in zip(values, engines.params(part, slot), strict=True):
                assert torch.equal(a, b), (number, slot)
        states = [dataclasses.replace(made.state, rng=[]) for made in (whole, part)]
        for a, b in zip(*map(tensors, states), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        theirs = [{k: v for k, v in row.items() if k != "seconds"} for row in whole.budget.plain()]
        assert [{k: v for k, v in row.items() if k != "seconds"} for row in part.budget.plain()] == theirs


def test_what_a_checkpoint_holds(tmp_path: Path) -> None:
    made = make("online tower")
    made.run(7)
    checkpoint.save(made, tmp_path / "a.safetensors", note={"kept": [1, 2], "values": [torch.ones(2)]})
    assert checkpoint.check(tmp_path / "a.safetensors") == 7
    note = checkpoint.load(make("online tower"), tmp_path / "a.safetensors")
    assert note["kept"] == [1, 2]
    assert note["values"][0].tolist() == [1.0, 1.0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors"]


def test_refusals(tmp_path: Path) -> None:
    made = make("online tower")
    good = tmp_path / "good.safetensors"
    made.run(3)
    checkpoint.save(made, good)
    with pytest.raises(RecoptError, match=r"no checkpoint at .*absent"):
        checkpoint.load(made, tmp_path / "absent")
    damaged = tmp_path / "damaged.safetensors"
    for keep in (0, 5, 200, good.stat().st_size - 3):
        damaged.write_bytes(good.read_bytes()[:keep])
        with pytest.raises(RecoptError, match="damaged"):
            checkpoint.load(made, damaged)
    damaged.write_bytes(bytes(1000))
    with pytest.raises(RecoptError, match="damaged"):
        checkpoint.load(made, damaged)
    save_file({"x": torch.zeros(2)}, damaged)
    with pytest.raises(RecoptError, match="no checkpoint of this version of recopt"):
        checkpoint.load(made, damaged)
    save_file({"x": torch.zeros(2)}, damaged, metadata={"format": "99", "recopt": "", "sha256": ""})
    with pytest.raises(RecoptError, match="format 99"):
        checkpoint.load(made, damaged)
    for other in ("one level", "three kinds"):
        with pytest.raises(RecoptError, match=r"another graph|of another"):
            checkpoint.load(make(other), good)


def test_only_plain_states_are_written(tmp_path: Path) -> None:
    made = make("online tower")
    made.clean.levels[1].parts[0].strategy["odd"] = object()
    with pytest.raises(RecoptError, match="holds something of type object, which cannot be saved"):
        checkpoint.save(made, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_special_numbers_survive(tmp_path: Path) -> None:
    made = make("online tower")
    kept = {"inf": float("inf"), "none": None, "nested": {"t": (1, [2.5, True])}, 3: "x"}
    made.clean.levels[1].parts[0].strategy["odd"] = kept
    checkpoint.save(made, tmp_path / "a.safetensors")
    state, _ = checkpoint.read(tmp_path / "a.safetensors")
    assert state.levels[1].parts[0].strategy["odd"] == kept


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from recopt.engine import checkpoint
    from tests.engine import test_checkpoint as t
    path = Path(sys.argv[1])
    made = t.make("online tower")
    made.run(5)
    checkpoint.save(made, path)
    made.run(9)
    real = checkpoint.save_file
    def half(tensors, name, metadata):
        real(tensors, name, metadata=metadata)
        data = Path(name).read_bytes()
        Path(name).write_bytes(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    checkpoint.save_file = half
    checkpoint.save(made, path)
"""


def test_a_kill_in_the_middle_of_saving_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(path)], cwd=root, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(root)}, check=False,
    )  # fmt: skip
    assert found.returncode == -signal.SIGKILL, found.stderr
    made = make("online tower")
    checkpoint.load(made, path)
    assert made.state.step == 5
