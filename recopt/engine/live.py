"""A task's own module, whose memory the run moves: what torch would train, hooks and all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..contracts.strategy import Params
from ..levels.state import SlotState
from .model import buffer_places


class Live:
    """A module whose parameters and buffers are those of the run, as long as nobody differentiates through them.

    Attributes:
        params: the parameters that move.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.params = [p for p in module.parameters() if p.requires_grad]
        self._places = [places[0] for places in buffer_places(module)]
        self._views = [p.detach() for p in self.params]
        self._fixed = [p.detach() for p in module.parameters() if not p.requires_grad]

    def put(self, params: Sequence[Tensor], buffers: Sequence[Tensor]) -> nn.Module:
        """The module at these values, which are copied; ``buffers`` are those of :meth:`still`."""
        with torch.no_grad():
            for mine, value in zip([*self._views, *self.still()], [*params, *buffers], strict=True):
                if value is not mine:
                    mine.copy_(value)
        return self.module

    def bind(self, slot: SlotState) -> nn.Module:
        """The module at the value of ``slot``, which takes the module's memory for its own."""
        module = self.put(slot.params, slot.buffers)
        slot.params[:], slot.buffers[:] = self._views, self.still()
        return module

    @contextmanager
    def elsewhere(self, slot: SlotState, params: Params) -> Iterator[nn.Module]:
        """The module at ``params`` for a while; the value of ``slot`` is put back in the end."""
        self.bind(slot)
        kept = [[t.clone() for t in side] for side in (self._views, slot.buffers)]
        try:
            yield self.put([p.clone() for p in params], slot.buffers)
        finally:
            self.put(*kept)
            slot.buffers[:] = self.still()

    def still(self) -> list[Tensor]:
        """The tensors that do not move: parameters without gradients, then the buffers, which a call may replace."""
        return [*self._fixed, *(owner._buffers[name] for owner, name in self._places)]  # type: ignore[list-item]

    def gradient(self, loss: Tensor) -> list[Tensor | None]:
        """The gradients of ``loss`` by what moves, as ``loss.backward()`` leaves them; None where it does not reach."""
        for p in self.params:
            p.grad = None
        if loss.requires_grad:
            loss.sum().backward()
        grads = [p.grad for p in self.params]
        for p in self.params:
            p.grad = None
        return [g.to_dense() if g is not None and g.layout is not torch.strided else g for g in grads]
