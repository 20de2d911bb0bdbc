"""The part of :class:`recopt.Optimizer` that has the model where it is to be used, and back where it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ..checking.errors import StateError
from .kept import agreed
from .points import numbers_of, one_number, place
from .stateful import Stateful

_AT_MEAN = "opt.averaged(), where the model is at its mean"
_AT_BEST = "opt.best(), where the model is at its best point"


class Modes(Stateful):
    """A torch optimizer whose parameters are where they train (``train``), or where they are to be used (``eval``)."""

    @property
    def training(self) -> bool:
        """True while the parameters are where they train."""
        return self._home is None

    @torch.no_grad()
    def eval(self, *, best: bool = False) -> None:
        """Put the parameters where the rule would have the model used, until :meth:`train`.

        It is the mean that ``average`` keeps, or that the rule keeps itself (``schedule-free``). Nothing moves if there
        is no mean, or if they are elsewhere already. Trainers that know ``schedule_free`` call both (Hugging Face's).

        Args:
            best: put them at the best point instead (:meth:`keep_best`), from wherever they are.

        Raises:
            RecoptError: if no best point is kept, or inside ``averaged()`` or ``best()``.
        """
        if best:
            self._check_outside("opt.eval(best=True)")
            self._kept.check()
            self._go_home()
            self._leave_for(self._kept.points)
        elif self.training and self._towers.averages:
            self._leave_for(self._towers.mean(self.param_groups))

    @torch.no_grad()
    def train(self) -> None:
        """Put the parameters back to where they train: it goes on bit for bit as if they had never left.

        Raises:
            RecoptError: inside ``averaged()`` or ``best()``.
        """
        self._check_outside("opt.train()")
        self._go_home()

    @contextmanager
    @torch.no_grad()
    def averaged(self) -> Iterator[None]:
        """While it lasts, the parameters are where the rule would have the model used: evaluate and save it there.

            with opt.averaged():
                accuracy = evaluate(model)

        It is :meth:`eval`, and afterwards the parameters are where they were. A :meth:`state_dict` that is taken inside
        has the way back: an optimizer that loads it is in ``eval`` mode, and goes on after ``train()``. Statistics of
        BatchNorm are not averaged: see ``torch.optim.swa_utils.update_bn``.

        Raises:
            RecoptError: if there is no mean; for a step, or another such stay, inside.
        """
        self._check_outside("opt.averaged()")
        if not self._towers.averages:
            raise StateError(
                "No mean is kept here: build the optimizer with average=True, or with a rule that keeps one of its "
                "own, such as 'schedule-free'."
            )
        with self._stay(self.eval, _AT_MEAN):
            yield

    @torch.no_grad()
    def keep_best(self, loss: Tensor | float) -> None:
        """Tell the loss on held-out data at the present point, as often as you measure it: the best point is kept.

            if step % 20 == 0:
                opt.keep_best(evaluate(model))
            ...
            with opt.best():
                torch.save(model.state_dict(), "best.pt")

        Lower is better (give ``-accuracy``). The best is where a running mean was lowest, in which the last loss counts
        for a tenth, so that no lucky batch decides. No step changes. It costs one copy of the parameters, from the
        first call on; inside of :meth:`averaged` it is the mean that is kept.

        Args:
            loss: one number. What is not finite is no improvement, and a warning says so. In data-parallel training
                give the mean over all ranks, so that all keep the same point; of sharded parameters it is taken here.

        Raises:
            RecoptError: if it is not one number, or inside ``best()``.
        """
        if self._inside == _AT_BEST:
            self._check_outside("opt.keep_best()")
        self._follow()
        number = agreed(one_number(loss, "opt.keep_best(…)"), self._towers.all)
        self._kept.tell(number, [p for group in self.param_groups for p in group["params"]])

    @property
    def stale(self) -> int:
        """Losses told to :meth:`keep_best` since the best point: ``if opt.stale >= 20: break`` stops early."""
        return self._kept.stale

    @contextmanager
    @torch.no_grad()
    def best(self) -> Iterator[None]:
        """While it lasts, the parameters are at the best point (:meth:`keep_best`): use and save the model there.

        ``eval(best=True)`` leaves them there. Buffers, such as the statistics of BatchNorm, stay those of now: measure
        them again by ``torch.optim.swa_utils.update_bn``. A :meth:`state_dict` has the best point, and what is taken
        inside the way back.

        Raises:
            RecoptError: if no best point is kept; for a step, or another such stay, inside.
        """
        self._check_outside("opt.best()")
        with self._stay(lambda: self.eval(best=True), _AT_BEST):
            yield

    @contextmanager
    def _stay(self, go: Callable[[], None], where: str) -> Iterator[None]:
        """While it lasts, the parameters are where ``go`` puts them; afterwards, where they are now."""
        here = {p: numbers_of(p).clone() for p in self._home or ()}
        try:
            self._go_home()
            go()
            self._inside = where
            yield
        finally:
            self._inside = ""
            self._go_home()
            self._leave_for(here)

    def _leave_for(self, points: Mapping[Tensor, Tensor]) -> None:
        """Put parameters to ``points``, if there are any, and note where they train."""
        if points:
            self._home = {p: numbers_of(p).clone() for p in points}
            place(points)

    def _go_home(self) -> None:
        home, self._home = self._home, None
        if home is not None:
            place(home)
