"""The callback for the Trainer of Hugging Face's transformers, and for those that are made of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from .common import check_found, figures, found_in


class HuggingFaceCallback(TrainerCallback):
    """Has a Trainer save at the mean, log what is tuned, and tell losses to rules that read them.

        trainer = transformers.Trainer(model, args, train_dataset=data, optimizers=(optimizer, None))
        trainer.add_callback(HuggingFaceCallback(trainer))

    - A Trainer evaluates at the mean by itself, since :class:`recopt.Optimizer` has ``eval`` and ``train``. With the
      callback, whatever it saves is at the mean as well, and so is the model after training. Training goes on from
      where it was, and a run that is resumed goes on to the bit.
    - What is logged while it trains has the hyperparameters as ``adam.lr``, and what the guards did as
      ``guards/skipped``. ``learning_rate`` is the scheduler's.
    - Rules that read the loss are told what was differentiated for the step, the mean over all processes.

    Args:
        trainer: the one that it is added to; a callback is told its events and not the trainer itself.

    Raises:
        RecoptError: when training starts and the trainer's optimizer is no :class:`recopt.Optimizer`.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._losses: list[Tensor] = []
        trainer.log = partial(self._log, trainer.log)
        trainer.training_step = partial(self._training_step, trainer.training_step)

    def _log(self, log: Callable[..., None], logs: dict[str, float], *rest: Any, **given: Any) -> None:
        if "loss" in logs:
            logs |= figures(found_in([self._trainer.optimizer]))
        log(logs, *rest, **given)

    def _training_step(self, step: Callable[..., Tensor], *args: Any, **given: Any) -> Tensor:
        loss = step(*args, **given)
        if any(optimizer.needs_loss for optimizer in found_in([self._trainer.optimizer])):
            self._losses.append(loss.detach())
        return loss

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Check the optimizer."""
        self._losses = []
        remedy = "give optimizers=(recopt.Optimizer(model.parameters()), None), or leave the callback out"
        check_found([self._trainer.optimizer], "HuggingFaceCallback", remedy)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Tell the losses of all that was accumulated."""
        losses, self._losses = self._losses, []
        if losses:
            total = self._trainer.accelerator.reduce(torch.stack(losses).sum(), "mean")
            found_in([self._trainer.optimizer])[0].observe(total)

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Go to the mean, if the model is saved next; a Trainer itself goes back before it trains on."""
        if control.should_save or control.should_training_stop:
            self.on_epoch_end(args, state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Go to the mean: this comes before every end, and before the best model is loaded in its place."""
        for optimizer in found_in([self._trainer.optimizer]):
            optimizer.eval()
