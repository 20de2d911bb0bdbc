"""A task's own module, whose memory the run moves: what torch would train, hooks and all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..contracts.strategy import Params
from ..levels.state import SlotState


class Live:
    """A module whose parameters and buffers are those of the run, as long as nobody differentiates through them.

    Attributes:
        params: the parameters that move.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.params = [p for p in module.parameters() if p.requires_grad]
        self._places = [(m, name) for m in module.modules() for name, b in m._buffers.items() if b is not None]
        self._views = [p.detach() for p in self.params]
        self._fixed = [p.detach() for p in module.parameters() if not p.requires_grad]

    def bind(self, slot: SlotState) -> nn.Module:
        """The module at the value of ``slot``, which takes the module's memory for its own."""
        for i, (view, value) in enumerate(zip(self._views, slot.params, strict=True)):
            if value is not view:
                view.copy_(value)
                slot.params[i] = view
        for i, (mine, value) in enumerate(zip(self._still(), slot.buffers, strict=True)):
            if value is not mine:
                mine.copy_(value)
                slot.buffers[i] = mine
        return self.module

    @contextmanager
    def elsewhere(self, slot: SlotState, params: Params) -> Iterator[nn.Module]:
        """The module at ``params`` for a while; the value of ``slot`` is put back in the end."""
        module = self.bind(slot)
        kept = [[t.clone() for t in side] for side in (self._views, slot.buffers)]
        try:
            with torch.no_grad():
                for view, value in zip(self._views, [p.clone() for p in params], strict=True):
                    view.copy_(value)
            yield module
        finally:
            slot.buffers[:] = self._still()
            for mine, value in zip([*self._views, *slot.buffers], [*kept[0], *kept[1]], strict=True):
                mine.copy_(value)

    def settle(self, slot: SlotState) -> None:
        """After a call: a module may have put other tensors in the place of its buffers."""
        slot.buffers[:] = self._still()

    def _still(self) -> list[Tensor]:
        """The tensors that do not move: parameters without gradients, then the buffers."""
        buffers: list[Any] = [owner._buffers[name] for owner, name in self._places]
        return [*self._fixed, *buffers]
