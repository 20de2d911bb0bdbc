"""Parameters of which each process holds a part (DTensors, as FSDP2's ``fully_shard`` makes them).

A tower moves its local parts with plain tensors. What it reads of the tensors are sums over all elements, so these, and
nothing else, are added up over the processes: all then find the same hyperparameters as one process would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checking.errors import RecoptError
from ..contracts import trees


def _is_dtensor(tensor: Any) -> bool:
    # Without this, importing torch.distributed.tensor (slow, and absent from some builds) would be needed always.
    return hasattr(tensor, "placements") and hasattr(tensor, "device_mesh")


def local(tensor: Tensor) -> Tensor:
    """The part of ``tensor`` that this process holds, sharing its memory; a plain tensor is itself."""
    return tensor.detach().to_local() if _is_dtensor(tensor) else tensor  # type: ignore[attr-defined]


def local_gradient(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The part of ``gradient`` that belongs to ``local(parameter)``."""
    if not _is_dtensor(gradient):
        return gradient
    dtensor: Any = gradient
    wanted = parameter.placements  # type: ignore[attr-defined]
    if dtensor.placements != wanted:
        dtensor = dtensor.redistribute(placements=wanted)
    return local(dtensor)


def part_of(whole: Tensor, parameter: Tensor) -> Tensor:
    """The part of ``whole``, which is split in some way or not at all, that belongs to ``local(parameter)``."""
    if _is_dtensor(parameter) and not _is_dtensor(whole) and whole.shape == parameter.shape:
        from torch.distributed.tensor import distribute_tensor

        split: Any = parameter
        whole = distribute_tensor(whole, split.device_mesh, split.placements)
    return local_gradient(whole, parameter)


def like(part: Tensor, parameter: Tensor) -> Tensor:
    """``part``, if it has the shape of ``local(parameter)``, as a part of a tensor split as ``parameter`` is."""
    if not _is_dtensor(parameter) or part.shape != local(parameter).shape:
        return part
    from torch.distributed.tensor import DTensor

    whole: Any = parameter
    return DTensor.from_local(
        part, whole.device_mesh, whole.placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


@dataclass(frozen=True)
class Shards:
    """The process groups over which the tensors of one tower are split; none for plain tensors.

    Args:
        groups: one per dimension of the device mesh along which they are split.
    """

    groups: tuple[Any, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.groups)

    def __deepcopy__(self, memo: dict[int, Any]) -> Shards:
        return self  # processes cannot be copied

    def totals(self, numbers: Sequence[float], device: torch.device) -> list[float]:
        """Each of ``numbers`` added up over the processes, in float64."""
        if not self.groups:
            return list(numbers)
        summed = torch.tensor(list(numbers), dtype=torch.float64, device=device)
        for group in self.groups:
            torch.distributed.all_reduce(summed, group=group)
        return summed.tolist()

    def norm(self, parts: Sequence[Tensor]) -> float:
        """The norm of ``parts`` together, over all processes that hold some of them."""
        if not parts:
            return 0.0
        mine = float(trees.norm(parts))
        return math.sqrt(self.totals([mine * mine], parts[0].device)[0]) if self.groups else mine

    def inner(self, parts: Sequence[Tensor], others: Sequence[Tensor | None]) -> float:
        """The inner product of tensors, of those that both have, over all processes that hold some of them."""
        mine = sum(float((a * b).sum()) for a, b in zip(parts, others, strict=True) if b is not None)
        return self.totals([mine], parts[0].device)[0]


def shards_of(tensors: Sequence[Tensor]) -> Shards:
    """The way in which ``tensors`` are split.

    Raises:
        RecoptError: if some are split and others not, or along other dimensions of the mesh, or hold unreduced sums.
    """
    found = {_layout(t) for t in tensors}
    if len(found) > 1:
        raise RecoptError(
            "Some parameters that share hyperparameters are sharded over processes and others are not, or otherwise: "
            "call fully_shard on the whole model last, or put them in groups of their own (scope='group')."
        )
    layout = next(iter(found))
    if layout is None:
        return Shards()
    mesh, dims = layout
    return Shards(tuple(mesh.get_group(d) for d in dims))


def _layout(tensor: Tensor) -> tuple[Any, tuple[int, ...]] | None:
    """The mesh, and its dimensions along which ``tensor`` is split; None for a plain tensor."""
    if not _is_dtensor(tensor):
        return None
    dtensor: Any = tensor
    if any(p.is_partial() for p in dtensor.placements):
        raise RecoptError(f"A parameter of placements {dtensor.placements} cannot be optimized: redistribute it first.")
    return dtensor.device_mesh, tuple(d for d, p in enumerate(dtensor.placements) if p.is_shard())
