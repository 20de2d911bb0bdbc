"""recopt.Optimizer and LightningCallback under Lightning's Trainer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt import RecoptError

from ..loops import X, model_of

lightning = pytest.importorskip("lightning")
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint  # noqa: E402
from lightning.pytorch.loggers import CSVLogger  # noqa: E402

from recopt.integrations import LightningCallback  # noqa: E402

# Lightning warns of what is deprecated in torch, and of few workers.
pytestmark = pytest.mark.filterwarnings("ignore")
AVERAGED = "adam/kesten[lr]"


class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
    """A regression that keeps its losses, and where it was validated."""

    def __init__(self, stack: str | None, **given: Any) -> None:
        super().__init__()
        self.net, self.losses, self.seen = model_of(), list[float](), list[Tensor]()
        self.stack = stack
        self.make: Callable[[], Any] = lambda: recopt.Optimizer(self.parameters(), stack, **given)
        self.breaks = False

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        loss = (self.net(batch) - batch[:, :3].sin()).square().mean()
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: Tensor, index: int) -> None:
        if self.breaks and not self.trainer.sanity_checking:
            raise ValueError("broken data")
        self.seen = flat(self)

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        return self.make()


def flat(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def mean_of(trainer: Any, module: Module) -> list[Tensor]:
    with trainer.optimizers[0].averaged():
        return flat(module)


def saved_in(checkpoint: Path) -> list[Tensor]:
    return list(torch.load(checkpoint, weights_only=True)["state_dict"].values())


def loader() -> Any:
    return torch.utils.data.DataLoader(X.repeat(3, 1)[:160].view(20, 8, 6), batch_size=None)


def trainer_of(*callbacks: Any, **given: Any) -> Any:
    usual = {"logger": False, "enable_checkpointing": any(isinstance(x, ModelCheckpoint) for x in callbacks)}
    return lightning.Trainer(
        accelerator="cpu", callbacks=list(callbacks), enable_progress_bar=False, enable_model_summary=False,
        **{"max_epochs": 2, **usual, **given},
    )  # fmt: skip


@pytest.mark.parametrize("stack", [None, "adam(lr=0.01)/sgd", "adam/annealing", "learned"])
def test_clipping_accumulation_and_resume(tmp_path: Path, stack: str | None) -> None:
    def fit(epochs: int, resume: Path | None = None) -> tuple[Any, Any]:
        trainer = trainer_of(LightningCallback(), max_epochs=epochs, gradient_clip_val=0.5, accumulate_grad_batches=2)
        module = Module(stack)
        trainer.fit(module, loader(), ckpt_path=resume)
        return module, trainer

    whole, trainer = fit(4)
    half, stopped = fit(2)
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    rest, resumed = fit(4, tmp_path / "half.ckpt")
    assert half.losses + rest.losses == whole.losses
    assert sum(whole.losses[-20:]) < sum(whole.losses[:20])
    values = trainer.optimizers[0].hyperparameters()
    assert resumed.optimizers[0].hyperparameters() == values
    for key, value in values.items():
        assert float(trainer.callback_metrics[key]) == pytest.approx(value)
    assert float(trainer.callback_metrics["guards/skipped"]) == 0


@pytest.mark.parametrize("stack", [AVERAGED, "schedule-free(lr=0.02)"])
def test_it_validates_and_saves_at_the_mean_and_trains_as_without(tmp_path: Path, stack: str) -> None:
    given = {"average": True} if stack == AVERAGED else {}
    plain, module = Module(stack, **given), Module(stack, **given)
    # Validated in the middle of an epoch, and there between two batches of one step.
    often = {"val_check_interval": 10, "accumulate_grad_batches": 4}
    trainer_of(**often).fit(plain, loader(), loader())
    saves = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=5, save_top_k=-1, save_weights_only=True)
    trainer = trainer_of(LightningCallback(), saves, **often)
    trainer.fit(module, loader(), loader())
    assert module.losses == plain.losses
    assert not same(flat(module), flat(plain))
    for found in (flat(module), module.seen, saved_in(tmp_path / "step=10.ckpt")):
        assert same(found, mean_of(trainer, module))
    trainer.optimizers[0].train()
    assert same(flat(module), flat(plain))


def test_a_checkpoint_of_the_mean_goes_on_from_where_it_trained(tmp_path: Path) -> None:
    """Saved inside validation, in the middle of an epoch, and at its end.

    In the middle of an epoch Lightning begins its data anew, so all batches are the same.
    """
    data = torch.utils.data.DataLoader(X[:8].expand(20, 8, 6), batch_size=None)

    class SavesInside(Module):
        def on_validation_epoch_end(self) -> None:
            if self.trainer.global_step:
                self.trainer.save_checkpoint(tmp_path / f"inside{self.trainer.global_step}.ckpt")

    whole = SavesInside(AVERAGED, average=True)
    saves = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=15, save_top_k=-1)
    trainer = trainer_of(LightningCallback(), saves, val_check_interval=10)
    trainer.fit(whole, data, data)
    end = mean_of(trainer, whole)
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["inside10.ckpt", "inside20.ckpt", "inside30.ckpt", "inside40.ckpt", "step=15.ckpt", "step=30.ckpt"]
    for name in ("inside10.ckpt", "inside20.ckpt", "step=15.ckpt"):
        module = Module(AVERAGED, average=True)
        again = trainer_of(LightningCallback(), val_check_interval=10)
        again.fit(module, data, data, ckpt_path=tmp_path / name)
        assert module.losses == whole.losses[-len(module.losses) :]
        assert 0 < len(module.losses) < 40
        assert same(mean_of(again, module), end)
    without = trainer_of(val_check_interval=10)
    with pytest.raises(RecoptError, match=r"call opt.train\(\) first"):
        without.fit(Module(AVERAGED, average=True), data, ckpt_path=tmp_path / "step=15.ckpt")


def test_an_error_in_validation_leaves_the_mean_and_the_way_back(tmp_path: Path) -> None:
    plain, module = Module(AVERAGED, average=True), Module(AVERAGED, average=True)
    trainer_of().fit(plain, loader(), loader())
    module.breaks = True
    optimizer = module.make()
    module.make = lambda: optimizer
    trainer = trainer_of(LightningCallback(), max_epochs=1)
    with pytest.raises(ValueError, match="broken data"):
        trainer.fit(module, loader(), loader())
    assert same(flat(module), mean_of(trainer, module))
    trainer.save_checkpoint(tmp_path / "broken.ckpt")
    assert same(saved_in(tmp_path / "broken.ckpt"), flat(module))
    module.breaks = False
    trainer_of(LightningCallback(), max_epochs=1).fit(module, loader(), loader())
    assert module.losses == plain.losses
    optimizer.train()
    assert same(flat(module), flat(plain))


def test_a_loaded_checkpoint_is_tested_as_it_is(tmp_path: Path) -> None:
    module = Module(AVERAGED, average=True)
    trainer = trainer_of(LightningCallback())
    trainer.fit(module, loader(), loader())
    trainer.test(module, loader(), verbose=False)
    assert same(module.seen, mean_of(trainer, module))
    other = {key: torch.zeros_like(value) for key, value in module.state_dict().items()}
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)
    torch.save({**saved, "state_dict": other}, tmp_path / "zeros.ckpt")
    trainer.test(module, loader(), ckpt_path=tmp_path / "zeros.ckpt", verbose=False)
    assert not any(p.any() for p in module.seen)


def test_a_rule_is_told_the_loss_that_was_differentiated() -> None:
    """Accumulated over three batches, of which the last step has two only."""
    told: list[float] = []

    class Listening(Module):
        def configure_optimizers(self) -> Any:
            optimizer = self.make()
            take = optimizer._observed.take

            def heard() -> Any:
                told.append(take())
                return told[-1]

            optimizer._observed.take = heard
            return optimizer

    module = Listening("learned")
    trainer_of(LightningCallback(), max_epochs=1, accumulate_grad_batches=3).fit(module, loader())
    threes = [module.losses[i : i + 3] for i in range(0, 20, 3)]
    assert [float(x) for x in told] == pytest.approx([sum(x) / 3 for x in threes])


def test_a_scaled_loss_is_told_unscaled() -> None:
    from lightning.pytorch.plugins import MixedPrecision

    module, plain = Module("learned"), Module("learned")
    scaled = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10))
    with torch.autocast("cpu", enabled=False):
        trainer_of(LightningCallback(), max_epochs=1, plugins=[scaled]).fit(module, loader())
    trainer_of(LightningCallback(), max_epochs=1).fit(plain, loader())
    assert module.losses == pytest.approx(plain.losses, rel=1e-2)


def test_several_optimizers_are_logged_by_number_and_told_no_loss() -> None:
    class Two(Module):
        def __init__(self, stack: str) -> None:
            super().__init__(stack)
            self.automatic_optimization = False

        def training_step(self, batch: Tensor, index: int) -> Any:  # type: ignore[override]
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                loss = (self.net(batch) - batch[:, :3].sin()).square().mean()
                self.manual_backward(loss)
                optimizer.step()

        def configure_optimizers(self) -> Any:
            halves = list(self.parameters())
            return [
                recopt.Optimizer(halves[:2], self.stack),
                torch.optim.SGD([halves[2]]),
                recopt.Optimizer(halves[3:]),
            ]

    trainer = trainer_of(LightningCallback(), max_epochs=1)
    trainer.fit(Two("adam/sgd"), loader())
    assert {"optimizer0/adam.lr", "optimizer0/sgd.lr", "optimizer1/paced.rate"} <= set(trainer.callback_metrics)
    with pytest.raises(RecoptError, match=r"reads the loss besides the gradients: call opt.step\(loss=loss\)"):
        trainer_of(LightningCallback(), max_epochs=1).fit(Two("learned"), loader())


@pytest.mark.parametrize(
    ("stack", "words"),
    [
        (None, "shows group.* the tuned one is logged as 'paced.rate'"),
        ("adam/sgd", "shows group.* the tuned one is logged as 'adam.lr'"),
        ("learned", "the rule finds its own"),
        ("adam", None),
    ],
)
def test_a_learning_rate_monitor_that_shows_another_rate_is_warned_of(
    tmp_path: Path, stack: str | None, words: str | None
) -> None:
    trainer = trainer_of(LightningCallback(), LearningRateMonitor(), logger=CSVLogger(tmp_path), max_steps=1)
    with warnings.catch_warnings(), pytest.warns(UserWarning, match=words) if words else nullcontext():
        if not words:
            warnings.filterwarnings("error", message="LearningRateMonitor")
        trainer.fit(Module(stack), loader())


def test_hyperparameters_are_in_the_trainers_own_logger(tmp_path: Path) -> None:
    trainer = trainer_of(LightningCallback(), logger=CSVLogger(tmp_path), log_every_n_steps=10)
    trainer.fit(Module(None), loader())
    rows = (Path(trainer.logger.log_dir) / "metrics.csv").read_text().splitlines()
    assert {"paced.rate", "guards/skipped", "step"} <= set(rows[0].split(","))
    assert len(rows) == 1 + 4


def test_a_trainer_without_one_of_ours_is_refused() -> None:
    module = Module(None)
    module.make = lambda: torch.optim.SGD(module.parameters())
    with pytest.raises(RecoptError, match=r"LightningCallback found no recopt.Optimizer .* has SGD: return one from"):
        trainer_of(LightningCallback()).fit(module, loader())
