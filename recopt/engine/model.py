"""A model as a function of its parameters and buffers. The only file that imports ``higher``.

``higher`` (Grefenstette et al. 2019, 1910.01727) patches a module so that its parameters are replaced by
tensors that carry a graph. Its optimizers are not used: see docs/higher.md for what is wrong with them. It makes
modules anew, so hooks and references to parts are lost; ``torch.func.functional_call`` keeps them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import multi_head_attention_forward, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from ..checking.errors import RecoptError
from ..contracts.task import Task

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import higher

Places = list[tuple[nn.Module, str]]
Answer = tuple[Tensor, list[Tensor]]


class Patched:
    """A module patched once by ``higher``, then called with any parameters and buffers.

    Args:
        module: left untouched. Its class and submodules may be anything ``higher`` can patch.

    Raises:
        RecoptError: if the module is compiled or already patched.
    """

    def __init__(self, module: nn.Module) -> None:
        refuse_compiled(module)
        if hasattr(module, "fast_params"):
            raise RecoptError("This model is already patched by higher: give the model itself.")
        # No initial copy (it would cut a self-loop's gradient), and no history of past parameters.
        self.module: Any = higher.monkeypatch(module, copy_initial_weights=False, track_higher_grads=False)
        self._places = buffer_places(self.module, module)
        parts = list(self.module.modules())
        owners = [(m._parameters, name) for m in parts for name in m._param_names]
        self._weights = [(*owner, at) for owner, at in zip(owners, self.module._param_mapping, strict=True)]
        self._known: list[Any] = self.module._fast_params  # of which ``parameters()`` gives the last
        self._recurrent = [m for m in parts if isinstance(m, nn.RNNBase)]
        for part in parts:  # whose weights are in place before any is called: its class's own forward will do
            del type(part).forward

    def load(self, values: Sequence[Tensor], buffers: Sequence[Tensor] = ()) -> nn.Module:
        """The module with these values in the order of ``parameters()`` and ``buffers()``.

        Buffers are cloned, since a module may change them in place (batch statistics).
        """
        # What update_params does, without its checks: a task may read a weight, or call a part, and not the model.
        self._known[0] = list(values)
        for owner, name, at in self._weights:
            owner[name] = values[at]
        for part in self._recurrent:  # which keep their weights in a list besides
            part._flat_weights = [part._parameters[name] for name in part._flat_weights_names]
        for places, buffer in zip(self._places, buffers, strict=False):
            value = buffer.clone()
            for module, name in places:
                module._buffers[name] = value
        return self.module  # type: ignore[no-any-return]

    def buffers(self) -> list[Tensor]:
        """The buffers as the last call left them, in the order that :meth:`load` takes."""
        return [places[0][0]._buffers[places[0][1]] for places in self._places]  # type: ignore[misc]

    def loss(self, task: Task, values: Sequence[Tensor], buffers: Sequence[Tensor], batch: Any) -> Answer:
        """The loss of ``task`` at these values, and the buffers after it."""
        return task.loss(self.load(values, buffers), batch), self.buffers()


class Swapped:
    """A module with other tensors in the place of its own for the time of a call (``torch.func.functional_call``).

    Hooks stay, those on parameters too, and so does what refers to the module's parts, but not what refers to its
    tensors themselves.

    Raises:
        RecoptError: if the module is compiled.
    """

    def __init__(self, module: nn.Module) -> None:
        refuse_compiled(module)
        self._call = _Call(module)
        self._names = [name for name, _ in self._call.named_parameters()]
        self._buffer_names = [name for name, _ in self._call.named_buffers()]
        self._hooks = [tuple((p._backward_hooks or {}).values()) for p in module.parameters()]

    def loss(self, task: Task, values: Sequence[Tensor], buffers: Sequence[Tensor], batch: Any) -> Answer:
        """The loss of ``task`` at these values, and the buffers after it."""
        mine = [_hooked(v, hooks) if hooks else v for v, hooks in zip(values, self._hooks, strict=True)]
        given = dict(zip(self._names, mine, strict=True))
        given |= {name: b.clone() for name, b in zip(self._buffer_names, buffers, strict=True)}
        loss = torch.func.functional_call(self._call, given, (task, batch))
        return loss, [given[name] for name in self._buffer_names]


class _Call(nn.Module):
    """The loss of a model, whether or not it calls the model's own ``forward``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, task: Task, batch: Any) -> Tensor:
        return task.loss(self.model, batch)


def _hooked(value: Tensor, hooks: Sequence[Callable[[Tensor], Tensor | None]]) -> Tensor:
    if not value.requires_grad:
        return value
    alias = value.view_as(value)  # so that the hooks are not on the value for good
    for hook in hooks:
        alias.register_hook(hook)
    return alias


def buffer_places(module: nn.Module, like: nn.Module | None = None) -> list[Places]:
    """The places of each buffer in the order of ``buffers()``; several where modules share one.

    Args:
        like: the module that ``module`` was made from, which says what is shared.
    """
    found: dict[int, Places] = {}
    for mine, other in zip(module.modules(), (like or module).modules(), strict=True):
        for name, buffer in other._buffers.items():
            if buffer is not None:
                found.setdefault(id(buffer), []).append((mine, name))
    return list(found.values())


def refuse_compiled(module: nn.Module) -> None:
    """Raise RecoptError if ``module``, or a part of it, is compiled."""
    if any(hasattr(m, "_orig_mod") for m in module.modules()):
        raise RecoptError("A compiled model cannot be patched: give the model itself, before torch.compile.")


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """``torch._weight_norm``, whose own second derivative is wrong, in plain operations."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


FUSED: dict[Any, Callable[..., Any] | None] = {
    scaled_dot_product_attention: None, multi_head_attention_forward: None,
    torch.lstm: None, torch.gru: None, torch.rnn_tanh: None, torch.rnn_relu: None, torch._weight_norm: _weight_norm,
}  # fmt: skip
"""Functions whose fused kernels have no second derivative or a wrong one, and what stands for them if not a setting."""


class _Plain(TorchFunctionMode):
    """Notes whether fused functions are called, and puts plain ones in their place."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen = self.seen or func in FUSED
        return (FUSED.get(func) or func)(*args, **(kwargs or {}))


@contextmanager
def twice_differentiable() -> Iterator[_Plain]:
    """Kernels that have a second derivative in the place of fused ones; ``seen`` says whether there were any."""
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False), _Plain() as plain:
        yield plain
