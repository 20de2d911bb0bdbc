"""States as JSON with their tensors beside it: what is saved is never pickled."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ..checking.errors import RecoptError
from . import judgement, state

_HELD = {**vars(judgement), **vars(state)}
_CLASSES = {c.__name__: c for c in _HELD.values() if isinstance(c, type) and dataclasses.is_dataclass(c)}


def pack(tree: Any, found: dict[int, tuple[str, Tensor]]) -> Any:
    """``tree`` as JSON; its tensors go to ``found``, by identity, so that what is shared is written once.

    Raises:
        RecoptError: for a leaf that is neither a tensor nor plain.
    """
    if isinstance(tree, Tensor):
        name, _ = found.setdefault(id(tree), (str(len(found)), tree))
        # Files hold tensors row by row, and sums over another layout are rounded otherwise.
        layout = {} if tree.is_contiguous() else {"strides": list(torch.empty_like(tree).stride())}
        return {"$tensor": name, **layout}
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        fields = {f.name: pack(getattr(tree, f.name), found) for f in dataclasses.fields(tree)}
        return {"$class": type(tree).__name__, "fields": fields}
    if isinstance(tree, dict):
        return {"$dict": [[pack(k, found), pack(v, found)] for k, v in tree.items()]}
    if isinstance(tree, tuple):
        return {"$tuple": [pack(x, found) for x in tree]}
    if isinstance(tree, list):
        return [pack(x, found) for x in tree]
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise RecoptError(
        f"The state of a strategy holds something of type {type(tree).__name__}, which cannot be saved: use dicts, "
        "lists, tensors and plain numbers ('recopt check' says where)."
    )


def unpack(node: Any, tensors: dict[str, Tensor], device: torch.device, keep: bool = False) -> Any:
    """The inverse of :func:`pack`, with tensors on ``device``; generators' states (``rng``) stay on the CPU."""
    if isinstance(node, list):
        return [unpack(x, tensors, device, keep) for x in node]
    if not isinstance(node, dict):
        return node
    if "$tensor" in node:
        found = tensors[node["$tensor"]] = _laid_out(tensors[node["$tensor"]], node.get("strides"))
        return found if keep else found.to(device)
    if "$class" in node:
        fields = {k: unpack(v, tensors, device, keep or k == "rng") for k, v in node["fields"].items()}
        return _CLASSES[node["$class"]](**fields)
    if "$tuple" in node:
        return tuple(unpack(x, tensors, device, keep) for x in node["$tuple"])
    return {unpack(k, tensors, device, keep): unpack(v, tensors, device, keep) for k, v in node["$dict"]}


def _laid_out(tensor: Tensor, strides: list[int] | None) -> Tensor:
    if strides is None or tensor.stride() == tuple(strides):
        return tensor
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
