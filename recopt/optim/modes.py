"""The part of :class:`recopt.Optimizer` that has the model where it is to be used, and back where it trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..checking.errors import StateError
from .points import numbers_of, place
from .stateful import Stateful


class Modes(Stateful):
    """A torch optimizer whose parameters are where they train (``train``), or where they are to be used (``eval``)."""

    @property
    def training(self) -> bool:
        """True while the parameters are where they train."""
        return self._home is None

    @torch.no_grad()
    def eval(self) -> None:
        """Put the parameters where the rule would have the model used, until :meth:`train`.

        It is the mean that ``average`` keeps, or that the rule keeps itself (``schedule-free``). Nothing moves if there
        is no mean, or if they are there already. Trainers that know ``schedule_free`` call both (Hugging Face's does).
        """
        if self.training and self._towers.averages:
            mean = self._towers.mean(self.param_groups)
            self._home = {p: numbers_of(p).clone() for p in mean}
            place(mean)

    @torch.no_grad()
    def train(self) -> None:
        """Put the parameters back to where they train: it goes on bit for bit as if they had never left.

        Raises:
            RecoptError: inside ``averaged()``.
        """
        self._check_outside("opt.train()")
        self._go_home()

    @contextmanager
    @torch.no_grad()
    def averaged(self) -> Iterator[None]:
        """While it lasts, the parameters are where the rule would have the model used: evaluate and save it there.

            with opt.averaged():
                accuracy = evaluate(model)

        It is :meth:`eval`, and afterwards :meth:`train`. A :meth:`state_dict` that is taken inside has the way back: an
        optimizer that loads it is in ``eval`` mode, and goes on after ``train()``. Statistics of BatchNorm are not
        averaged: see ``torch.optim.swa_utils.update_bn``.

        Raises:
            RecoptError: if there is no mean; for a step, or another such stay, inside.
        """
        self._check_outside("opt.averaged()")
        if not self._towers.averages:
            raise StateError(
                "No mean is kept here: build the optimizer with average=True, or with a rule that keeps one of its "
                "own, such as 'schedule-free'."
            )
        training = self.training
        try:
            self.eval()
            self._inside = True
            yield
        finally:
            self._inside = False
            if training:
                self._go_home()

    def _go_home(self) -> None:
        home, self._home = self._home, None
        if home is not None:
            place(home)
