"""The part of :class:`recopt.Optimizer` that checkpoints, copies and wrappers meet: its state and its groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..checking.errors import StateError
from .groups import STATE, check_untouched, same_tensors
from .kept import Kept
from .state_dict import restored, saved
from .towers import Towers


class Stateful(torch.optim.Optimizer):
    """A torch optimizer whose state is that of towers, over the tensors that its groups hold."""

    _towers: Towers
    _steps = 0
    _kept: Kept
    _home: Mapping[Tensor, Tensor] | None = None  # in eval mode, where the parameters train
    _inside = ""  # the context that this is by, and where the model is there
    _whole = False  # whether the state is told before the first step as well
    _text = ""
    _shown: set[tuple[int, str]]

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """By parameter, tensors under names, from the first step on; what others put there is kept beside them."""
        return self._told(self._whole or bool(self._steps))

    @state.setter
    def state(self, value: defaultdict[Tensor, Any]) -> None:
        self.__dict__["state"], self._shown = value, set()

    def _told(self, ours: bool) -> defaultdict[Tensor, Any]:
        """The state, with what the towers hold or without."""
        state: defaultdict[Tensor, Any] = self.__dict__["state"]
        for p in [p for p in state if isinstance(state[p], dict)]:
            state[p] = {k: v for k, v in state[p].items() if (id(p), k) not in self._shown}
            if not state[p]:
                del state[p]
        self._shown = set()
        if ours and self.param_groups:
            self._text, entries = saved(self._towers, self.param_groups, self._steps, self._home or {}, self._kept)
            for p, told in entries.items():
                state[p] = {**state.get(p, {}), **told}
                self._shown |= {(id(p), name) for name in told}
        return state

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on, per parameter as torch's are; strings, numbers and tensors (shared)."""
        self._told(True)
        first = self.param_groups[0]
        self._whole, first[STATE] = True, self._text
        try:
            return super().state_dict()
        finally:
            self._whole, first[STATE] = False, ""

    def load_state_dict(self, state_dict: Any) -> None:
        """Continue exactly where :meth:`state_dict` was taken: in ``eval`` mode if it was.

        Raises:
            RecoptError: if it is another optimizer's, another stack's, damaged, or of parameters of other shapes, or
                inside ``averaged()`` or ``best()``; nothing is changed then.
        """
        self._check_outside("opt.load_state_dict()")
        self._follow()

        def take(_: Any, given: Any) -> dict[str, Any]:
            states, steps, home, kept, rest = restored(given, self._towers, self.param_groups)
            for tower, state in zip(self._towers.all, states, strict=True):
                tower.state = state
            self._steps, self._home, self._kept = steps, home or None, kept
            return rest

        if not isinstance(state_dict, dict):
            restored(state_dict, self._towers, self.param_groups)
        if not isinstance(state_dict, Mapping):
            take(self, state_dict)
        hook = self.register_load_state_dict_pre_hook(take)  # the last of them
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: the towers go with the groups (torch keeps only groups and state)."""
        self._told(False)
        return {**self.__dict__, "_inside": ""}

    def _check_outside(self, what: str) -> None:
        """Raise StateError inside ``averaged()`` and ``best()``."""
        if self._inside:
            raise StateError(f"{what} inside {self._inside}: leave that first.")

    def _follow(self) -> None:
        """Refuse groups that were changed; build anew if they were given other tensors before the first step."""
        check_untouched(self.param_groups, self._towers.groups)
        if same_tensors(self.param_groups, self._towers.groups):
            return
        if self._steps or self._home is not None or self._kept.points:
            raise StateError(
                "The groups hold other tensors than those that the steps so far were made on, whose state would be "
                "lost: make a new optimizer, and load this one's state_dict if it should go on."
            )
        self._towers.follow(self.param_groups)
