"""The callback for Lightning's Trainer."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError:  # the same library under its older name
    from pytorch_lightning import Callback

from .common import at_mean, check_found, figures, found_in


class LightningCallback(Callback):
    """Has Lightning evaluate and save at the mean, log what is tuned, and tell losses to rules that read them.

        trainer = lightning.Trainer(callbacks=[LightningCallback()])

    - During ``fit``, the model is at its mean (``average=True``, ``schedule-free``) while it is validated and while a
      checkpoint of whatever kind is written, and trains on from where it was. A run that is resumed from such a
      checkpoint goes on to the bit, with this callback. After ``fit``, or an error in it, the model stays at its mean.
    - After each batch hyperparameters are logged as ``adam.lr``, what the guards did as ``guards/skipped``; of several
      optimizers after ``optimizer0/`` and so on.
    - Rules that read the loss are told what was differentiated for the step, the mean over all processes. With several
      optimizers in one module that is not known: call ``step(loss=…)``.

    Raises:
        RecoptError: when training starts and no optimizer is a :class:`recopt.Optimizer`.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._stepped = False

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Have checkpoints written at the mean."""
        if stage == "fit" and not isinstance(trainer.save_checkpoint, _SaveAtMean):
            trainer.save_checkpoint = _SaveAtMean(trainer)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Go to where the model trains, after a run that was resumed or broken off."""
        remedy = "return one from configure_optimizers, or leave the callback out"
        check_found(trainer.optimizers, "LightningCallback", remedy)
        for optimizer in found_in(trainer.optimizers):
            optimizer.train()
        self._stepped = False

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Go to the mean."""
        if trainer.state.fn == "fit":
            for optimizer in found_in(trainer.optimizers):
                optimizer.eval()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Go back."""
        if trainer.state.fn == "fit":
            for optimizer in found_in(trainer.optimizers):
                optimizer.train()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave the model at its mean."""
        for optimizer in found_in(trainer.optimizers):
            optimizer.eval()
        if isinstance(trainer.save_checkpoint, _SaveAtMean):
            trainer.save_checkpoint = trainer.save_checkpoint.save

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the model at its mean."""
        self._losses = []
        self.on_train_end(trainer, pl_module)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        """Note the loss."""
        optimizers = found_in(trainer.optimizers)
        if len(trainer.optimizers) == 1 and optimizers and optimizers[0].needs_loss:
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            self._losses.append(loss.detach() / (scaler.get_scale() if scaler is not None else 1.0))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Tell the losses of all that was accumulated."""
        losses, self._losses = self._losses, []
        if losses:
            total = torch.stack(losses).sum()
            found_in([optimizer])[0].observe(trainer.strategy.reduce(total, reduce_op="mean"))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        """Log."""
        pl_module.log_dict(figures(found_in(trainer.optimizers)))
        if not self._stepped:
            self._stepped = True
            _warn_of_monitor(trainer)


class _SaveAtMean:
    """A trainer's ``save_checkpoint``, with the model at its mean."""

    def __init__(self, trainer: Any) -> None:
        self._trainer, self.save = trainer, trainer.save_checkpoint

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        with at_mean(found_in(self._trainer.optimizers)):
            self.save(*args, **kwargs)


def _warn_of_monitor(trainer: Any) -> None:
    """Warn where LearningRateMonitor shows another rate than the one that is applied."""
    monitors = any(type(callback).__name__ == "LearningRateMonitor" for callback in trainer.callbacks)
    for optimizer in found_in(trainer.optimizers) if monitors else []:
        known = optimizer.hyperparameters()
        found, given = ([key for key in known if key.endswith(end)] for end in (".rate", ".lr"))
        if any("/" in stack for stack in optimizer.describe()) or found or not given:
            rates = found or given
            shown = f"the tuned one is logged as {rates[0]!r}" if rates else "the rule finds its own"
            warnings.warn(
                f"LearningRateMonitor shows group['lr'], {optimizer.param_groups[0]['lr']:g}, which a scheduler moves "
                f"and nothing else: {shown}.",
                UserWarning,
                stacklevel=2,
            )
