"""The only file that imports ``higher``: modules as functions of their parameters and buffers.

``higher`` (Grefenstette et al. 2019, 1910.01727) patches a module so that its parameters are replaced by
tensors that carry a graph. Its optimizers are not used: see docs/higher.md for what is wrong with them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import multi_head_attention_forward, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from ..contracts.errors import RecoptError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import higher


class Patched:
    """A module patched once, then called with any parameters and buffers.

    Args:
        module: left untouched. Its class and submodules may be anything ``higher`` can patch.

    Attributes:
        attends: whether it uses attention, whose fused kernels have no second derivative; None if nobody looked yet.

    Raises:
        RecoptError: if the module is compiled or already patched.
    """

    def __init__(self, module: nn.Module) -> None:
        if any(hasattr(m, "_orig_mod") for m in module.modules()):
            raise RecoptError("A compiled model cannot be patched: give the model itself, before torch.compile.")
        if hasattr(module, "fast_params"):
            raise RecoptError("This model is already patched by higher: give the model itself.")
        # No initial copy (it would cut a self-loop's gradient), and no history of past parameters.
        self.module: Any = higher.monkeypatch(module, copy_initial_weights=False, track_higher_grads=False)
        self.attends: bool | None = None
        self._places = [(m, name) for m in self.module.modules() for name, b in m._buffers.items() if b is not None]
        self._weights = [(m._parameters, name) for m in self.module.modules() for name in m._param_names]

    def load(self, values: Sequence[Tensor], buffers: Sequence[Tensor] = ()) -> nn.Module:
        """The module with these values in the order of ``parameters()`` and ``buffers()``.

        Buffers are cloned, since a module may change them in place (batch statistics).
        """
        # What update_params does, without its checks: a task may read a weight without calling the model.
        self.module.fast_params = values
        for (owner, name), value in zip(self._weights, self.module._expand_params(values), strict=True):
            owner[name] = value
        for (module, name), buffer in zip(self._places, buffers, strict=False):
            module._buffers[name] = buffer.clone()
        return self.module  # type: ignore[no-any-return]

    def buffers(self) -> list[Tensor]:
        """The buffers as the last call left them, in the order that :meth:`load` takes."""
        return [owner._buffers[name] for owner, name in self._places]


class _Watch(TorchFunctionMode):
    """Notes whether attention is called."""

    seen: bool = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (scaled_dot_product_attention, multi_head_attention_forward):
            self.seen = True
        return func(*args, **(kwargs or {}))


def attends(call: Callable[[], object]) -> bool:
    """True if ``call`` uses attention, whose fused kernels have no second derivative."""
    with _Watch() as watch:
        call()
    return bool(watch.seen)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention kernels that have a second derivative; the fused ones have none."""
    with sdpa_kernel(SDPBackend.MATH):
        yield
