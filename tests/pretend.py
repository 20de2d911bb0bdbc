"""A device that is none: its tensors lie on the CPU, claim not to, and refuse to be mixed with those that do.

What it finds without an accelerator: tensors made on the wrong device, arithmetic across devices (numbers without
dimensions may cross, as on CUDA), generators of another device, and how often values are read back (``READS``), for
each of which a real device would have to be waited for. Import it in a process of its own: it stays, and counts as
torch's accelerator. Needs torch 2.9.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"
READS: Counter[str] = Counter()
aten = torch.ops.aten


class Far(Tensor):
    """A tensor on the device; ``near`` has its values."""

    near: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near: Tensor) -> Far:
        made: Far = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, near.size(), strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype,
            device=torch.device(NAME, 0),
        )  # fmt: skip
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return carried_out(func, args, kwargs or {})

    def tolist(self) -> Any:
        READS["tolist"] += 1
        return self.near.tolist()


def _near(value: Any) -> Any:
    return value.near if isinstance(value, Far) else value


def carried_out(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """``func`` on the values, if a device could do it; what comes of it lies where it should."""
    given = tree_leaves((args, dict(kwargs)))
    far = [x for x in given if isinstance(x, Far)]
    moves = func in (aten._to_copy.default, aten.copy_.default, aten._copy_from.default)
    if far and not moves and any(isinstance(x, Tensor) and not isinstance(x, Far) and x.ndim for x in given):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device")
    device = kwargs.get("device")
    there = bool(far) if device is None else torch.device(device).type == NAME
    if there and kwargs.get("generator") is not None:
        raise RuntimeError(f"{func}: expected a generator of the device")
    if far and func is aten._local_scalar_dense.default:
        READS["item"] += 1
    near = {**kwargs, "device": torch.device("cpu")} if device is not None else kwargs
    found = func(*tree_map(_near, list(args)), **tree_map(_near, dict(near)))
    known = {id(x.near): x for x in far}  # what was changed in place comes back as itself
    return tree_map(lambda t: known.get(id(t), Far(t)) if there and type(t) is Tensor else t, found)


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return carried_out(func, args, kwargs or {})


def _copy_from(source: Tensor, to: Tensor, non_blocking: bool = False) -> Tensor:
    _near(to).copy_(_near(source))
    return to


def _set_up() -> torch.library.Library:
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("aten", "IMPL")
    for op in (aten.empty_strided.default, aten.empty.memory_format):
        name = op.name().removeprefix("aten::")
        library.impl(name, lambda *args, _op=op, **kwargs: carried_out(_op, args, kwargs), "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    return library


_KEPT = _set_up()  # before anything is differentiated: autograd counts the devices once


@contextmanager
def pretended() -> Iterator[str]:
    """Within, ``device=NAME`` is a device; gives NAME, with the counts of reads at 0."""
    READS.clear()
    with _Mode():
        yield NAME
