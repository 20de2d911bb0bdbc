"""Accelerate's own FSDP2 plugin, in two processes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt

from ..loops import far
from ..processes import of_two


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).double()


def batches(count: int = 20) -> Tensor:
    return torch.randn(count, 8, 6, generator=torch.Generator().manual_seed(1)).double()


def _prepared(rank: int) -> tuple[Any, Any, Any, Any]:
    """Accelerate with its plugin, made to use that on a CPU, and a model and an optimizer in its hands."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="no_wrap", cpu_ram_efficient_loading=False)
    accelerator = Accelerator(fsdp_plugin=plugin, cpu=True)
    AcceleratorState._shared_state["distributed_type"] = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    model = mlp()
    return accelerator, plugin, *accelerator.prepare(model, recopt.Optimizer(model.parameters(), "paced(base=adam)"))


def _fit(rank: int, accelerator: Any, model: Any, optimizer: Any, data: Tensor) -> list[float]:
    losses = []
    for x in data:
        mine = x[rank::2]
        optimizer.zero_grad()
        loss = (model(mine) - mine[:, :3].sin()).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        losses.append(float(accelerator.reduce(loss.detach(), "mean")))
    return losses


def _by_accelerate(rank: int) -> Any:
    from accelerate import utils

    # The group is there already; these only say so.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # fmt: skip
    accelerator, plugin, model, optimizer = _prepared(rank)
    kinds = {type(p).__name__ for p in model.parameters()}
    first = _fit(rank, accelerator, model, optimizer, batches(8))
    folder = [tempfile.mkdtemp()]
    torch.distributed.broadcast_object_list(folder)
    utils.save_fsdp_model(plugin, accelerator, model, folder[0])
    utils.save_fsdp_optimizer(plugin, accelerator, optimizer, model, folder[0])
    ends = []
    for _ in range(2):
        ends.append((_fit(rank, accelerator, model, optimizer, batches(12)[8:]), optimizer.optimizer.hyperparameters()))
        utils.load_fsdp_model(plugin, accelerator, model, folder[0])
        utils.load_fsdp_optimizer(plugin, accelerator, optimizer, model, folder[0])
    return kinds, first, ends


@pytest.mark.filterwarnings("ignore")  # of what is deprecated there
def test_accelerates_own_sharding_is_that_of_one_process_and_is_resumed(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    model, found = mlp(), list[float]()
    optimizer = recopt.Optimizer(model.parameters(), "paced(base=adam)")
    for x in batches(8):
        optimizer.zero_grad()
        loss = (model(x) - x[:, :3].sin()).square().mean()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    (kinds, first, ends), (_, _, others) = of_two(_by_accelerate, tmp_path)
    assert kinds == {"DTensor"} and far(first, found) < 1e-9
    assert ends[0] == ends[1] and [tuned for _, tuned in others] == [tuned for _, tuned in ends]
