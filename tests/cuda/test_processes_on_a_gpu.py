"""Processes that use a GPU: torchrun with NCCL, DTensors, DistributedDataParallel, workers of a sweep."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import recopt
from recopt.search.executors import make_executor
from recopt.sweeps.trial import TrialRun

from .places import GPU, needs_a_gpu

pytestmark = [needs_a_gpu, pytest.mark.slow]
HOME = Path(__file__).parents[2]
RUN = ("-m", "recopt", "run", "quadratic", "lstm/adam", "--tasks", "3", "--steps", "16", "--set", "level2.every=4",
       "--dtype", "float64", "--measure", "0", "--no-track", "--json", "--device", GPU)  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(HOME), *sys.path])}


def launched(*head: str, cwd: Path) -> Any:
    done = subprocess.run(
        [sys.executable, *head, *RUN],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout[done.stdout.index("{") :])


def test_torchrun_with_nccl_finds_what_one_process_finds(tmp_path: Path) -> None:
    there = launched("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", cwd=tmp_path)
    here = launched(cwd=tmp_path)
    assert there["after"]["loss"] == pytest.approx(here["after"]["loss"], rel=1e-10)


def test_two_processes_are_refused_where_there_is_one_gpu(tmp_path: Path) -> None:
    if torch.cuda.device_count() > 1:
        pytest.skip("there are more GPUs than one")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *RUN], cwd=tmp_path,
        env=environment(), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "The process has no GPU of its own, as 2 were started and this machine has 1" in done.stdout + done.stderr


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).double().to(GPU)


def _trained(net: nn.Module, optimizer: Any) -> list[Any]:
    for number in range(12):
        x = torch.linspace(-1, 1, 96, dtype=torch.float64).add(number).sin().reshape(16, 6).to(GPU)
        optimizer.zero_grad()
        (net(x) - x[:, :3]).square().mean().backward()
        optimizer.step()
    parts: list[Any] = [p.detach() for p in net.parameters()]
    return [(p.full_tensor() if hasattr(p, "full_tensor") else p).cpu() for p in parts]


def _split(rank: int, how: str, stack: str | None, meeting: str, results: Any) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    torch.cuda.set_device(0)
    torch.distributed.init_process_group("nccl", meeting, rank=0, world_size=1, timeout=timedelta(seconds=120))
    net: Any = _net()
    if how == "fully_shard":
        fully_shard(net)
    else:
        net = DistributedDataParallel(net, device_ids=[0])
    ends = _trained(net, recopt.Optimizer(net.parameters(), stack))
    plain = _net()
    alone = _trained(plain, recopt.Optimizer(plain.parameters(), stack))
    results.put(max(float((a - b).abs().max()) for a, b in zip(ends, alone, strict=True)))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("how", ["fully_shard", "data parallel"])
@pytest.mark.parametrize("stack", [None, "adam/sgd/sgd"])
def test_nccl_moves_split_and_copied_models_as_one(how: str, stack: str | None, tmp_path: Path) -> None:
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_split, args=(0, how, stack, f"file://{tmp_path / 'meeting'}", results))
    process.start()
    try:
        assert results.get(timeout=120) < 1e-9
    finally:
        process.join(timeout=20)
        process.kill()


def test_workers_find_what_this_process_finds() -> None:
    words = {"task": "digits(hidden=[8])", "stack": "adam/sgd", "steps": 20, "measure": 0, "device": GPU}
    jobs, found = [TrialRun(words, {}, seed) for seed in range(3)], {}
    for kind, workers in (("inline", 1), ("processes", 2)):
        with make_executor(kind, workers) as executor:
            for number, job in enumerate(jobs):
                executor.submit(number, job)
            answers = [executor.next() for _ in jobs]
        assert all(answer.failure is None for answer in answers), answers
        found[kind] = {answer.number: _without_times(answer.found) for answer in answers}
    assert found["inline"] == found["processes"]


def _without_times(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _without_times(value) for key, value in found.items() if "second" not in key and key != "took"}
    return found
