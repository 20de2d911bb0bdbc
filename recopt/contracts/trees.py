"""Trees: nested dicts, lists, tuples and dataclasses whose leaves are tensors and plain values.

The engine never changes a tensor in place, so copying the containers of a tree copies the tree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T")


def tree_map(fn: Callable[[Tensor], Any], tree: T) -> T:
    """A copy of ``tree`` with ``fn`` applied to every tensor; other leaves stay as they are."""
    node: Any = tree
    if isinstance(node, Tensor):
        out: Any = fn(node)
    elif isinstance(node, dict):
        out = {key: tree_map(fn, value) for key, value in node.items()}
    elif isinstance(node, list | tuple):
        found = [fn(value) if isinstance(value, Tensor) else tree_map(fn, value) for value in node]
        out = type(node)(*found) if hasattr(node, "_fields") else type(node)(found)
    elif names := _fields(node.__class__):
        out = type(node)(**{name: tree_map(fn, getattr(node, name)) for name in names})
    else:
        out = node
    return out  # type: ignore[no-any-return]


@cache
def _fields(kind: type) -> list[str]:
    """The fields of a dataclass; none of any other class."""
    return [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []


def detach(tree: T) -> T:
    """``tree`` without any graph; tensors that have none are shared."""
    return tree_map(_plain, tree)


def _plain(leaf: Tensor) -> Tensor:
    return leaf.detach() if leaf.requires_grad else leaf


def tensors(tree: Any) -> list[Tensor]:
    """The tensors of ``tree``, in a fixed order."""
    found: list[Tensor] = []
    tree_map(found.append, tree)
    return found


def refill(tree: T, leaves: Sequence[Tensor]) -> T:
    """``tree`` with its tensors replaced by ``leaves``, in the order of :func:`tensors`."""
    source: Iterator[Tensor] = iter(leaves)
    return tree_map(lambda _: next(source), tree)


def aligned(tree: T, like: Any) -> T:
    """``tree`` with the keys of its dicts in the order of those of ``like``, wherever they are the same keys."""
    node: Any = tree
    if isinstance(node, dict) and isinstance(like, dict) and node.keys() == like.keys():
        return {key: aligned(node[key], value) for key, value in like.items()}  # type: ignore[return-value]
    if type(node) in (list, tuple) and type(like) is type(node) and len(node) == len(like):
        return type(node)(map(aligned, node, like))  # type: ignore[no-any-return]
    return tree


def stack(trees: Sequence[T]) -> T:
    """Trees of one shape as one tree whose tensors have a leading dimension."""
    columns = zip(*(tensors(aligned(tree, trees[0])) for tree in trees), strict=True)
    return refill(trees[0], [torch.stack(column) for column in columns])


def unstack(tree: T, count: int) -> list[T]:
    """The inverse of :func:`stack`."""
    return [tree_map(itemgetter(n), tree) for n in range(count)]


def choose(mask: Tensor, yes: T, no: T) -> T:
    """``yes`` where ``mask`` holds, else ``no``; ``mask`` is 0-dimensional or over the leading dimension."""
    if mask.ndim == 0:
        return tree_map(lambda leaf: leaf, yes if bool(mask) else no)
    # What is common to all tasks, a count of steps or another form of the tree, is that of ``no``, as most go on.
    pairs = list(zip(tensors(aligned(yes, no)), tensors(no), strict=False))
    if len(pairs) < len(tensors(no)) or any(a.shape != b.shape for a, b in pairs):
        return no
    return refill(no, [torch.where(mask.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in pairs])


def norm(items: Sequence[Tensor], batched: bool = False) -> Tensor:
    """The Euclidean norm of all of ``items`` together, without a graph; one per leading index if ``batched``."""
    if not items:
        return torch.zeros(())
    size, plain = torch.linalg.vector_norm, [item.detach() if item.requires_grad else item for item in items]
    if batched:
        return cast(Tensor, size(torch.stack([size(item.reshape(len(item), -1), dim=1) for item in plain]), dim=0))
    return cast(Tensor, size(torch.stack(torch._foreach_norm(plain))))
