"""Runs on a GPU: the CPU's figures, the same twice, resumed to the bit and on the other kind of processor, exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt.contracts.trees import tree_map
from recopt.running.export import write_export
from recopt.running.plan import plan
from recopt.running.session import RunOptions, Session

from ..commands import Recopt
from .places import GPU, needs_a_gpu

pytestmark = needs_a_gpu
WINDOWS = ["level2.every=3"]
EXACT = [*WINDOWS, "level2.second_order=true"]
Case = tuple[str, str, dict[str, Any]]
CASES: dict[str, Case] = {
    "adam": ("digits(hidden=[8])", "adam", {}),
    "the default": ("digits(hidden=[8])", "paced", {}),
    "convolutions": ("digits(net=cnn)", "adam/sgd", {}),
    "tower": ("digits(hidden=[8])", "adam/hypergradient/annealing", {"settings": ["level3.every=3"]}),
    "height 5": ("digits(hidden=[8])", "adam/sgd", {"depth": 5}),
    "groups": ("digits(hidden=[8])", "adam[*weight]+sgd[*bias]/hypergradient", {}),
    "muon": ("digits(hidden=[8])", "muon/kesten[lr]", {}),
    "learned": ("quadratic", "lstm/adam", {"tasks": 2, "settings": ["level2.every=4", "level2.episode=8"]}),
    "trained": ("digits(net=cnn)", "learned", {}),
    "self-loop": ("digits(hidden=[8])", "lstm@a/lstm@a", {"settings": ["level2.every=4"]}),
    "exact": ("quadratic", "adam/sgd", {"settings": EXACT}),
    "tangents": ("digits(hidden=[8])", "adam/sgd", {"settings": ["level2.gradient=forward", "level2.every=3"]}),
    "tasks side by side": ("digits(hidden=[8])", "adam/hypergradient", {"tasks": 3}),
    "members": ("digits(hidden=[8])", "sgd/pbt(population=6)", {"settings": WINDOWS}),
    "points": ("digits(hidden=[8])", "cmaes(population=6)", {}),
    "points of a rule": ("digits(hidden=[8])", "adam/cmaes(population=6)", {"settings": WINDOWS}),
    "annealing": ("quadratic", "annealing", {}),
    "start": ("sinusoid", "sgd/init:adam", {"tasks": 2, "settings": ["level2.episode=4"]}),
    "pace": ("digits(hidden=[8])", "adam/hypergradient/annealing[every]",
             {"settings": ["level2.every=2", "level3.every=2"]}),
    "switch": ("digits(hidden=[8])", "switch(among=[sgd(lr=0.1), adam])/annealing[which]", {"settings": WINDOWS}),
    "recurrent": ("sequence", "adam/sgd", {}),
}  # fmt: skip
RESUMED = [name for name in CASES if name not in ("convolutions", "trained", "height 5", "annealing")]


class Noisy(recopt.Task):
    """Dropout and batch statistics: what the GPU draws at random matters."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 1))

    def batch(self, index: int, split: Any = "train") -> Any:
        x = torch.randn(8, 3, generator=self.generator(index, len(split)))
        return x, x.sum(1, keepdim=True).sin()

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return ((model(batch[0]) - batch[1]) ** 2).mean()


def made(case: Case | str, device: str, steps: int = 13, **more: Any) -> Any:
    if case == "dropout":
        return plan(Noisy(), "adam/sgd", steps=steps, device=device, measure=0, **more)
    task, stack, options = CASES[case] if isinstance(case, str) else case
    return plan(task, stack, steps=steps, device=device, measure=0, **{**options, **more})


def session(case: Case | str, device: str, saved: Path | None = None, **more: Any) -> Session:
    return Session(made(case, device, **more), RunOptions(track=False, saved=saved))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_a_run_finds_on_a_gpu_what_it_finds_on_the_cpu(name: str, dtype: str) -> None:
    here, there = (session(name, device, dtype=dtype).run() for device in ("cpu", GPU))
    rel = 5e-3 if dtype == "float32" else 1e-7
    assert there.losses == pytest.approx(here.losses, rel=rel, abs=1e-12)
    assert there.hyperparameters == pytest.approx(here.hyperparameters, rel=rel, abs=1e-12)
    assert there.after["loss"] == pytest.approx(here.after["loss"], rel=rel)
    assert there.budget.total.gradient == here.budget.total.gradient


@pytest.mark.parametrize("name", [*RESUMED, "dropout"])
def test_a_run_is_the_same_twice(name: str) -> None:
    one, other = (session(name, GPU).run() for _ in range(2))
    assert one.losses.tobytes() == other.losses.tobytes()
    assert one.hyperparameters == other.hyperparameters


def seen(run: Session) -> str:
    """All that the state of a run holds, to the bit."""
    state = run.engine.state
    levels = [(own.parts, own.rng, own.steps, own.counts, own.silent) for own in state.levels]
    whole = (state.slots, levels, state.guard, state.good, state.step, state.rng)
    return repr(tree_map(lambda t: (t.dtype, t.shape, t.detach().cpu().numpy().tobytes()), whole))


@pytest.mark.parametrize("name", [*RESUMED, "dropout"])
def test_a_run_is_resumed_to_the_bit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)
    whole, ends = session(name, GPU), []
    for number in range(13):
        whole.engine.step()
        whole.checkpoints.save(tmp_path / str(number))
        ends.append(seen(whole))
    for number in (2, 3, 7, 8, 11):
        again = session(name, GPU, tmp_path / str(number))
        assert seen(again) == ends[number], f"resumed after {number}"
        again.engine.step()
        assert seen(again) == ends[number + 1], f"resumed after {number}, one step later"


@pytest.mark.parametrize("name", RESUMED)
def test_a_checkpoint_goes_on_on_the_other_kind(name: str, tmp_path: Path) -> None:
    for one, other in ((GPU, "cpu"), ("cpu", GPU)):
        whole = session(name, one, dtype="float64")
        for _ in range(6):
            whole.engine.step()
        whole.checkpoints.save(tmp_path / one)
        again = session(name, other, tmp_path / one, dtype="float64")
        assert again.run().losses == pytest.approx(whole.run().losses, rel=1e-7)


def test_the_command_line_runs_records_and_resumes_on_a_gpu(recopt: Recopt) -> None:
    words = ("run", "digits(hidden=[8])", "adam/hypergradient/annealing", "--steps", "20", "--json")
    here, there = (json.loads(recopt(*words, "--device", device).out) for device in ("cpu", GPU))
    assert there["after"]["loss"] == pytest.approx(here["after"]["loss"], rel=1e-3)
    for run, device in ((there["run"], "cpu"), (here["run"], GPU)):
        done = recopt("run", "--resume", run, "--steps", "30", "--device", device)
        assert done.status == 0, done.err
        assert "finished, 30 steps" in done.out
    assert "GPU" in recopt("doctor").out or "cuda" in recopt("doctor").out


@pytest.mark.parametrize("stack", ["lstm/adam(lr=0.01)", "adam/hypergradient"])
def test_what_a_gpu_exported_is_used_on_both(stack: str, tmp_path: Path) -> None:
    result = session(("digits(net=logistic)", stack, {}), GPU, steps=41).run()
    write_export(result.engine, result.spec, tmp_path)
    ends = []
    for device in ("cpu", GPU):
        torch.manual_seed(0)
        net = nn.Linear(5, 2).to(device)
        optimizer = recopt.Optimizer(net.parameters(), tmp_path)
        for number in range(5):
            x = torch.linspace(-1, 1, 40).add(number).sin().reshape(8, 5).to(device)
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
        ends.append(net.weight.detach().cpu())
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-6)


def test_members_are_evaluated_in_one_call_on_a_gpu() -> None:
    run = session("members", GPU)
    calls: list[int] = []
    copies = run.engine.source.copies
    groups = copies.groups

    def counted(count: int, size: int) -> list[range]:
        found = groups(count, size)
        calls.append(len(found))
        return found

    copies.groups = counted  # type: ignore[method-assign]
    run.run()
    assert any(calls)


def test_a_result_computed_on_a_gpu_is_plain_numbers() -> None:
    result = session("tower", GPU).run()
    assert isinstance(result.losses, np.ndarray)
    assert all(isinstance(value, float) for value in (*result.after.values(), *result.hyperparameters.values()))
    assert all(p.is_cuda for p in result.model().parameters())
