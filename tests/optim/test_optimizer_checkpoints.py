"""recopt.Optimizer in torch.distributed.checkpoint: got, set, saved and loaded in one process, under DDP and FSDP2."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import recopt
from recopt import RecoptError

from ..processes import of_two

quiet = pytest.mark.filterwarnings("ignore")
"""torch warns of what it deprecated itself."""
DATA = torch.randn(14, 8, 6, generator=torch.Generator().manual_seed(1)).double()
OPTIONS = {
    "plain": StateDictOptions(),
    "full": StateDictOptions(full_state_dict=True),
    "flat": StateDictOptions(flatten_optimizer_state_dict=True),
}
STACKS = [None, "adam/sgd[*]", "sgd(momentum=0.9)/adam", "lstm/adam", "learned", "adam/rmsprop/sgd"]
SHARDED = ["adam/adagrad(lr=1)[lr]", "adam(lr=0.01)/sgd[*]", "sgd(lr=0.1,momentum=0.9)/adagrad(lr=1)[lr]"]


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).double()


def train(model: nn.Module, optimizer: recopt.Optimizer, data: Tensor) -> list[float]:
    losses = []
    for x in data:
        optimizer.zero_grad()
        loss = (model(x) - x[:, :3].sin()).square().mean()
        loss.backward()
        optimizer.step(loss=loss)
        losses.append(loss.item())
    return losses


def other(model: nn.Module, weights: dict[str, Tensor], stack: str | None, **options: Any) -> recopt.Optimizer:
    """A new optimizer with a state to load into: torch makes that by a step without gradients."""
    model.load_state_dict(weights)
    optimizer = recopt.Optimizer(model.parameters(), stack, **options)
    optimizer.observe(0.0)
    get_optimizer_state_dict(model, optimizer)
    model.load_state_dict(weights)
    return optimizer


@quiet
@pytest.mark.parametrize("how", OPTIONS)
@pytest.mark.parametrize(
    ("stack", "scope"), [*((stack, "group") for stack in STACKS), ("sgd(momentum=0.9)/adam[lr]", "coordinate")]
)
def test_a_state_goes_through_torchs_checkpoints_and_disk_to_the_bit(
    stack: str | None, scope: Any, how: str, tmp_path: Path
) -> None:
    options, model = OPTIONS[how], mlp()
    optimizer = recopt.Optimizer(model.parameters(), stack, average=True, scope=scope)
    train(model, optimizer, DATA[:7])
    state = get_optimizer_state_dict(model, optimizer, options=options)
    weights = copy.deepcopy(model.state_dict())
    dcp.save({"optimizer": state}, checkpoint_id=tmp_path / "saved", no_dist=True)
    state = copy.deepcopy(state)
    losses = train(model, optimizer, DATA[7:])
    for disk in (False, True):
        again = mlp()
        resumed = other(again, weights, stack, average=True, scope=scope)
        room = {"optimizer": get_optimizer_state_dict(again, resumed, options=options)}
        if disk:
            dcp.load(room, checkpoint_id=tmp_path / "saved", no_dist=True)
        set_optimizer_state_dict(again, resumed, room["optimizer"] if disk else state, options=options)
        assert train(again, resumed, DATA[7:]) == losses
        assert resumed.hyperparameters() == optimizer.hyperparameters()


@quiet
@pytest.mark.parametrize("how", OPTIONS)
def test_a_best_point_goes_through_torchs_checkpoints_into_one_that_has_room(how: str, tmp_path: Path) -> None:
    options, model = OPTIONS[how], mlp()
    optimizer = recopt.Optimizer(model.parameters())
    train(model, optimizer, DATA[:3])
    optimizer.keep_best(1.0)
    best = copy.deepcopy(model.state_dict())
    train(model, optimizer, DATA[3:7])
    optimizer.keep_best(2.0)
    weights = copy.deepcopy(model.state_dict())
    state = get_optimizer_state_dict(model, optimizer, options=options)
    dcp.save({"optimizer": state}, checkpoint_id=tmp_path / "saved", no_dist=True)
    losses = train(model, optimizer, DATA[7:])
    for room_for_it in (True, False):
        again = mlp()
        resumed = other(again, weights, None)
        if room_for_it:
            resumed.keep_best(0)
        room = {"optimizer": get_optimizer_state_dict(again, resumed, options=options)}
        dcp.load(room, checkpoint_id=tmp_path / "saved", no_dist=True)
        if not room_for_it:
            with pytest.raises(RecoptError, match="has no copy of it. A checkpointer that fills a state_dict"):
                set_optimizer_state_dict(again, resumed, room["optimizer"], options=options)
            continue
        set_optimizer_state_dict(again, resumed, room["optimizer"], options=options)
        assert resumed.stale == 1
        with resumed.best():
            assert all(torch.equal(value, best[name]) for name, value in again.state_dict().items())
        assert train(again, resumed, DATA[7:]) == losses


def test_the_state_is_per_parameter_as_that_of_torchs_adam() -> None:
    found = []
    for make in (torch.optim.Adam, recopt.Optimizer):
        model = mlp()
        optimizer: Any = make(model.parameters())
        assert not optimizer.state and not optimizer.state_dict()["param_groups"][0].get("missing")
        model(DATA[0]).square().mean().backward()
        optimizer.step()
        state = optimizer.state_dict()
        shapes = [{tuple(t.shape) for t in entry.values() if t.ndim} for entry in state["state"].values()]
        found.append((list(state), list(state["state"]), [g["params"] for g in state["param_groups"]], shapes))
        assert list(optimizer.state) == list(model.parameters())
    assert found[0] == found[1]


def test_what_others_keep_in_the_state_is_kept_and_saved() -> None:
    model = mlp()
    optimizer = recopt.Optimizer(model.parameters(), "adam/sgd")
    first = next(iter(model.parameters()))
    optimizer.state[first]["slow"] = torch.ones(3)
    train(model, optimizer, DATA[:2])
    assert set(optimizer.state[first]) == {"step", "slow", "mean", "square"}
    other = recopt.Optimizer(model.parameters(), "adam/sgd")
    other.load_state_dict(optimizer.state_dict())
    assert torch.equal(other.state[first]["slow"], torch.ones(3))


def test_open_tapes_over_a_large_model_are_tensors_of_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp()
    optimizer = recopt.Optimizer(model.parameters(), "lstm/adam")
    train(model, optimizer, DATA[:3])
    small = optimizer.state_dict()
    monkeypatch.setattr("recopt.optim.state_dict.LARGEST", 0)
    large = copy.deepcopy(optimizer.state_dict())
    assert len(large["state"][0]) > len(small["state"][0])
    weights, losses = copy.deepcopy(model.state_dict()), train(model, optimizer, DATA[3:])
    model.load_state_dict(weights)
    again = recopt.Optimizer(model.parameters(), "lstm/adam")
    again.load_state_dict(large)
    assert train(model, again, DATA[3:]) == losses


# two processes


def _shard(model: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))  # rows of 9 and 3: the parts are of unequal size
    fully_shard(model[0], mesh=mesh)  # type: ignore[index]
    return fully_shard(model, mesh=mesh)


def _mine(rank: int, model: nn.Module, optimizer: recopt.Optimizer, data: Tensor) -> list[float]:
    losses = []
    for x in data[:, rank * 4 : rank * 4 + 4]:
        optimizer.zero_grad()
        loss = (model(x) - x[:, :3].sin()).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _resumed(rank: int, wrap: Any, stack: str, folder: str) -> dict[str, bool]:
    """By the way that a state went, whether training went on to the bit."""
    model = wrap(mlp())
    optimizer = recopt.Optimizer(model.parameters(), stack, average=True)
    _mine(rank, model, optimizer, DATA[:7])
    weights = copy.deepcopy(model.state_dict())
    states = {how: get_optimizer_state_dict(model, optimizer, options=OPTIONS[how]) for how in ("plain", "full")}
    dcp.save({"optimizer": states["plain"]}, checkpoint_id=folder)
    states = {how: copy.deepcopy(state) for how, state in states.items()}
    losses = _mine(rank, model, optimizer, DATA[7:])
    found = {}
    for how in ("plain", "full", "disk"):
        again = wrap(mlp())
        resumed = other(again, weights, stack, average=True)
        if how == "disk":
            room = {"optimizer": get_optimizer_state_dict(again, resumed)}
            dcp.load(room, checkpoint_id=folder)
        state, options = (room["optimizer"], None) if how == "disk" else (states[how], OPTIONS[how])
        set_optimizer_state_dict(again, resumed, state, options=options)
        same = _mine(rank, again, resumed, DATA[7:]) == losses
        found[how] = same and resumed.hyperparameters() == optimizer.hyperparameters()
    return found


def _given_others(rank: int, stack: str) -> bool:
    """Whether an optimizer of the whole model, given the parts as Accelerate does, trains like one of the parts."""
    model = mlp()
    early = recopt.Optimizer(model.parameters(), stack)
    _shard(model)
    early.param_groups[0]["params"] = list(model.parameters())
    again = _shard(mlp())
    late = recopt.Optimizer(again.parameters(), stack)
    same = _mine(rank, model, early, DATA) == _mine(rank, again, late, DATA)
    return same and early.hyperparameters() == late.hyperparameters()


def _rank(rank: int, folder: str) -> Any:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    warnings.simplefilter("ignore")
    wraps = {"FSDP2": _shard, "DDP": nn.parallel.DistributedDataParallel}
    found = {(name, stack): _resumed(rank, wrap, stack, f"{folder}/{name}{number}")
             for name, wrap in wraps.items() for number, stack in enumerate(SHARDED)}  # fmt: skip
    try:
        ZeroRedundancyOptimizer(mlp().parameters(), optimizer_class=recopt.Optimizer)
        refusal = ""
    except RecoptError as why:
        refusal = str(why)
    return found, [_given_others(rank, stack) for stack in SHARDED], refusal


@pytest.mark.slow
def test_two_processes_resume_to_the_bit_and_zero_is_refused(tmp_path: Path) -> None:
    for found, given_others, refusal in of_two(partial(_rank, folder=str(tmp_path)), tmp_path):
        assert [where for where, ways in found.items() if not all(ways.values())] == []
        assert given_others == [True] * len(SHARDED)
        assert "ZeroRedundancyOptimizer gives each process some of the tensors" in refusal


def test_other_tensors_are_taken_before_the_first_step_and_refused_after_it() -> None:
    model, twin = mlp(), mlp()
    one, two = recopt.Optimizer(model.parameters(), "adam/sgd"), recopt.Optimizer(twin.parameters(), "adam/sgd")
    again = mlp()
    one.param_groups[0]["params"] = list(again.parameters())
    assert train(again, one, DATA) == train(twin, two, DATA)
    one.param_groups[0]["params"] = list(model.parameters())
    with pytest.raises(RuntimeError, match="other tensors than those that the steps so far were made on"):
        one.step()
