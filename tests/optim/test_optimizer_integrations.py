"""recopt.Optimizer inside other people's loops: MLflow and FSDP2. (Trainers: tests/integrations.)"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt import RecoptError

from ..processes import of_two

foreign = pytest.mark.filterwarnings("ignore")
"""Other libraries warn of what is deprecated among themselves."""


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).double()


def batches(count: int = 20) -> Tensor:
    return torch.randn(count, 8, 6, generator=torch.Generator().manual_seed(1)).double()


def train(model: nn.Module, optimizer: recopt.Optimizer, data: Tensor, part: slice = slice(None)) -> list[float]:
    losses = []
    for batch in data:
        x = batch[part]
        optimizer.zero_grad()
        loss = (model(x) - x[:, :3].sin()).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# MLflow


@foreign
def test_callback_writes_to_an_mlflow_store(tmp_path: Path) -> None:
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    try:
        model = mlp()
        optimizer = recopt.Optimizer(
            model.parameters(), callback=lambda step, values: mlflow.log_metrics(values, step=step), log_every=5
        )
        with mlflow.start_run() as run:
            train(model, optimizer, batches())
        history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "paced.rate")
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # mlflow sets it; recopt reads it
    assert [point.step for point in history] == [5, 10, 15, 20]
    assert history[-1].value == optimizer.hyperparameters()["paced.rate"]
    assert len({point.value for point in history}) > 1


# FSDP2

STACKS = (
    "adam/adagrad(lr=1)[lr]",
    "paced(base=adam,steps=100)",
    "adam(lr=0.01)/sgd/sgd",
    "sgd(lr=30,momentum=0.9)/adagrad(lr=1)[lr]",
)
OF_PARTS = "paced(steps=100)"
"""The default, which orthogonalizes each process's part of a matrix by itself."""


def _sharded() -> nn.Sequential:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # Nine and three rows on two processes: the parts are of unequal size.
    model, mesh = mlp(), init_device_mesh("cpu", (2,))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _message(build: Callable[[], object]) -> str:
    try:
        build()
    except RecoptError as error:
        return str(error)
    return "not refused"


def _of_all(losses: list[float]) -> list[float]:
    total = torch.tensor(losses, dtype=torch.float64)
    torch.distributed.all_reduce(total)
    return (total / 2).tolist()


def _rank(rank: int) -> Any:
    part, data, found = slice(rank * 4, rank * 4 + 4), batches(), []
    for stack in (*STACKS, OF_PARTS):
        model = _sharded()
        optimizer = recopt.Optimizer(model.parameters(), stack, average=True)
        losses = train(model, optimizer, data[:10], part)
        optimizer.keep_best(float(rank))  # 0.5 for both
        best = [p.full_tensor().tolist() for p in model.parameters()]
        again = recopt.Optimizer(model.parameters(), stack, average=True)
        again.load_state_dict(optimizer.state_dict())
        losses += train(model, again, data[10:], part)
        again.keep_best(1.0 - rank / 2)  # 0.75: worse, though better than what one of them was told
        with again.averaged():
            means = [p.full_tensor().tolist() for p in model.parameters()]
        with again.best():
            assert [p.full_tensor().tolist() for p in model.parameters()] == best
        assert again.stale == 1
        found.append((_of_all(losses), again.hyperparameters(), again.guards(), means))
    model = _sharded()
    messages = [
        _message(lambda: recopt.Optimizer(model.parameters(), "adam/sgd", fused=False)),
        _message(lambda: recopt.Optimizer(model.parameters(), "annealing")),
        _message(lambda: recopt.Optimizer(model.parameters(), "muon/sgd")),
        _message(lambda: recopt.Optimizer(model.parameters(), "paced(base=muon)")),
        _message(lambda: recopt.Optimizer(model.parameters(), "sgd/adam", scope="coordinate")),
        _message(lambda: recopt.Optimizer([*model.parameters(), nn.Parameter(torch.zeros(2))])),
        _message(lambda: recopt.Optimizer(model.parameters()).step(valid_loss=model(data[0][part]).sum())),
    ]
    return found, messages


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return of_two(_rank, tmp_path_factory.mktemp("ranks"))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(STACKS)), ids=STACKS)
def test_sharded_training_is_that_of_one_process(ranks: list[Any], number: int) -> None:
    (losses, values, guards, means), other = ranks[0][0][number], ranks[1][0][number]
    assert (losses, values, guards, means) == other
    model = mlp()
    single = recopt.Optimizer(model.parameters(), STACKS[number], average=True)
    assert losses == pytest.approx(train(model, single, batches()), rel=1e-9)
    assert values == pytest.approx(single.hyperparameters(), rel=1e-9)
    assert guards == single.guards()
    with single.averaged():
        for p, mean in zip(model.parameters(), means, strict=True):
            assert torch.allclose(p, torch.tensor(mean, dtype=p.dtype), rtol=1e-9)
    if "lr=30" in STACKS[number]:
        assert guards["bounded"] > 0, "the norms that the guard compares were not exercised"


@pytest.mark.slow
def test_of_the_default_each_process_orthogonalizes_its_part(ranks: list[Any]) -> None:
    (losses, _, guards, means), other = ranks[0][0][-1], ranks[1][0][-1]
    assert (losses, guards, means) == (other[0], other[2], other[3])
    model = mlp()
    single = train(model, recopt.Optimizer(model.parameters(), OF_PARTS), batches())
    assert losses != single
    assert losses == pytest.approx(single, rel=0.2)


@pytest.mark.slow
def test_what_cannot_be_sharded_is_refused(ranks: list[Any]) -> None:
    for _, (taped, searched, matrices, paced, apart, mixed, held_out) in ranks:
        assert "'adam' on level 1 needs whole tensors" in taped
        assert "'annealing' on level 1 needs whole tensors" in searched
        assert "'muon' on level 1 needs whole tensors" in matrices
        assert "'paced' on level 1 needs whole tensors" in paced
        assert "scope='coordinate' needs whole tensors" in apart
        assert "call fully_shard on the whole model" in mixed
        assert "valid_loss is not supported for sharded parameters" in held_out
