"""recopt.Optimizer inside other people's loops: MLflow, FSDP2, Lightning and Hugging Face's Trainer."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
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
        history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "adam.lr")
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # mlflow sets it; recopt reads it
    assert [point.step for point in history] == [5, 10, 15, 20]
    assert history[-1].value == optimizer.hyperparameters()["adam.lr"]
    assert len({point.value for point in history}) == 4


# FSDP2

STACKS = ("adam/adagrad(lr=1)[lr]", "adam(lr=0.01)/sgd/sgd", "sgd(lr=30,momentum=0.9)/adagrad(lr=1)[lr]")


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
    for stack in STACKS:
        model = _sharded()
        optimizer = recopt.Optimizer(model.parameters(), stack, average=True)
        losses = train(model, optimizer, data[:10], part)
        again = recopt.Optimizer(model.parameters(), stack, average=True)
        again.load_state_dict(optimizer.state_dict())
        losses += train(model, again, data[10:], part)
        with again.averaged():
            means = [p.full_tensor().tolist() for p in model.parameters()]
        found.append((_of_all(losses), again.hyperparameters(), again.guards(), means))
    model = _sharded()
    messages = [
        _message(lambda: recopt.Optimizer(model.parameters(), "adam/sgd", fused=False)),
        _message(lambda: recopt.Optimizer(model.parameters(), "annealing")),
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
def test_what_cannot_be_sharded_is_refused(ranks: list[Any]) -> None:
    for _, (taped, searched, mixed, held_out) in ranks:
        assert "'adam' on level 1 needs whole tensors" in taped
        assert "'annealing' on level 1 needs whole tensors" in searched
        assert "call fully_shard on the whole model" in mixed
        assert "valid_loss is not supported for sharded parameters" in held_out


# Lightning


@foreign
@pytest.mark.parametrize("stack", [None, "adam(lr=0.01)/sgd", "adam/annealing"])
def test_lightning_with_clipping_accumulation_and_resume(tmp_path: Path, stack: str | None) -> None:
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net, self.losses = mlp(), list[float]()

        def training_step(self, batch: Tensor, index: int) -> Tensor:
            loss = (self.net(batch) - batch[:, :3].sin()).square().mean()
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> recopt.Optimizer:
            return recopt.Optimizer(self.parameters(), stack)

    class Log(lightning.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
            module.log_dict(trainer.optimizers[0].hyperparameters())

    def fit(epochs: int, resume: Path | None = None) -> tuple[Any, Any]:
        trainer = lightning.Trainer(
            accelerator="cpu", max_epochs=epochs, gradient_clip_val=0.5, accumulate_grad_batches=2, callbacks=[Log()],
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        module = Module()
        loader = torch.utils.data.DataLoader(batches(), batch_size=None)
        trainer.fit(module, loader, ckpt_path=resume)
        return module, trainer

    whole, trainer = fit(4)
    half, stopped = fit(2)
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    rest, resumed = fit(4, tmp_path / "half.ckpt")
    assert half.losses + rest.losses == whole.losses
    assert sum(whole.losses[-20:]) < sum(whole.losses[:20])
    values = trainer.optimizers[0].hyperparameters()
    assert resumed.optimizers[0].hyperparameters() == values
    assert float(trainer.callback_metrics["adam.lr"]) == pytest.approx(values["adam.lr"])


@foreign
def test_lightning_validates_at_the_mean() -> None:
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net, self.seen = mlp(), list[Tensor]()

        def training_step(self, batch: Tensor, index: int) -> Tensor:
            loss: Tensor = (self.net(batch) - batch[:, :3].sin()).square().mean()
            return loss

        def validation_step(self, batch: Tensor, index: int) -> None:
            self.seen = [p.detach().clone() for p in self.net.parameters()]

        def configure_optimizers(self) -> recopt.Optimizer:
            return recopt.Optimizer(self.parameters(), "adam/kesten[lr]", average=True)

    class AtTheMean(lightning.Callback):  # type: ignore[misc, name-defined]
        def on_validation_start(self, trainer: Any, module: Any) -> None:
            self.inside = ExitStack()
            self.inside.enter_context(trainer.optimizers[0].averaged())

        def on_validation_end(self, trainer: Any, module: Any) -> None:
            self.inside.close()

    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=3, callbacks=[AtTheMean()], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(batches(), batch_size=None)
    module = Module()
    trainer.fit(module, loader, loader)
    last = [p.detach().clone() for p in module.net.parameters()]
    assert not all(torch.equal(a, b) for a, b in zip(last, module.seen, strict=True))
    with trainer.optimizers[0].averaged():
        assert all(torch.equal(a, b) for a, b in zip(module.net.parameters(), module.seen, strict=True))


# Hugging Face


@foreign
@pytest.mark.parametrize("stack", [None, "adam(lr=0.01)/sgd", "learned"])
def test_hugging_face_trainer_with_scheduler_and_resume(tmp_path: Path, stack: str | None) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    draw = torch.Generator().manual_seed(1)
    texts = [torch.randint(1, 3, (12,), generator=draw).cumsum(0) % 16 for _ in range(64)]
    config = transformers.GPT2Config(
        vocab_size=16, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )

    class Log(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.seen: list[dict[str, float]] = []

        def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **rest: Any) -> None:
            self.seen.append(optimizer.optimizer.hyperparameters())  # accelerate wraps the optimizer

    def fit(folder: Path, resume: Path | None = None) -> tuple[Any, list[dict[str, float]], Any]:
        torch.manual_seed(0)
        model, log = transformers.GPT2LMHeadModel(config), Log()
        optimizer = recopt.Optimizer(model.parameters(), stack)
        if stack == "learned":
            optimizer.observe(model)
        scheduler = transformers.get_cosine_schedule_with_warmup(optimizer, 2, 20)
        options = transformers.TrainingArguments(
            str(folder), max_steps=20, save_steps=10, logging_steps=5, per_device_train_batch_size=4, use_cpu=True,
            gradient_accumulation_steps=2, report_to=[], disable_tqdm=True,
        )  # fmt: skip
        data = [{"input_ids": text, "labels": text} for text in texts]
        trainer = transformers.Trainer(
            model, options, train_dataset=data, optimizers=(optimizer, scheduler), callbacks=[log]
        )
        trainer.train(resume_from_checkpoint=resume and str(resume))
        return model, log.seen, trainer

    model, seen, trainer = fit(tmp_path / "whole")
    again, rest, _ = fit(tmp_path / "rest", tmp_path / "whole" / "checkpoint-10")
    assert len(seen) == 20
    assert seen[10:] == rest
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    assert stack == "learned" or len({values["adam.lr"] for values in seen}) > 10


@foreign
@pytest.mark.parametrize("stack", ["learned", "adam/annealing", None])
def test_accelerate_with_accumulation_and_an_observed_loss(stack: str | None, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    ends = []
    for ours in (False, True):
        model = mlp()
        optimizer = recopt.Optimizer(model.parameters(), stack)
        if ours:
            for pair in batches(8).split(2):
                optimizer.zero_grad()
                losses = [(model(x) - x[:, :3].sin()).square().mean() for x in pair]
                (losses[0] / 2 + losses[1] / 2).backward()
                optimizer.step(loss=(losses[0] + losses[1]) / 2)
        else:
            accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
            wrapped, prepared = accelerator.prepare(model, optimizer)
            for x in batches(8):
                with accelerator.accumulate(wrapped):
                    loss = (wrapped(x) - x[:, :3].sin()).square().mean()
                    optimizer.observe(loss)
                    accelerator.backward(loss)
                    prepared.step()
                    prepared.zero_grad()
            accelerator.save_state(str(tmp_path / "state"))
            accelerator.load_state(str(tmp_path / "state"))
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.allclose(*ends, rtol=1e-9)
