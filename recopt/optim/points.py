"""Parameters, gradients and losses as a training loop has them, in the form that towers read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checking.errors import RecoptError, StateError
from ..levels.level import TASK
from ..rules.shards import local, local_gradient
from .driver import Driver

_LOW = (torch.float16, torch.bfloat16)
_PLAIN = (torch.float32, torch.float64)
"""Dtypes whose tensors are moved as they are."""


def points_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """``tensors`` themselves (local parts, if sharded); views as real where complex, copies in float32 where lower.

    Raises:
        RecoptError: for a tensor that is neither floating-point nor complex.
    """
    out = []
    for p in map(local, tensors):
        if p.dtype in _PLAIN:
            out.append(p.detach())
        elif p.is_complex():
            out.append(torch.view_as_real(p.detach()))
        elif p.dtype in _LOW:
            out.append(p.detach().float())
        else:
            raise RecoptError(f"A parameter of dtype {p.dtype} cannot be optimized: give floating-point ones.")
    return out


def check_together(tensors: Sequence[Tensor]) -> None:
    """Raise RecoptError if the tensors of one tower lie on several devices."""
    first, *others = dict.fromkeys(str(p.device) for p in tensors)
    if others:
        raise RecoptError(
            f"Parameters that share one set of hyperparameters lie on {first} and {others[0]}: give those of each "
            "device a group of their own, or the optimizer scope='tensor'."
        )


def write_back(points: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    """Round the float32 copies back into the parameters of lower precision; the others were moved in place."""
    for point, p in zip(points, tensors, strict=True):
        if p.dtype in _LOW:
            local(p).copy_(point)


def numbers_of(tensor: Tensor) -> Tensor:
    """The real numbers of ``tensor`` (its local part, if sharded), sharing its memory."""
    own = local(tensor).detach()
    return torch.view_as_real(own) if own.is_complex() else own


def place(values: Mapping[Tensor, Tensor]) -> None:
    """Set tensors to ``values``, which are in the form of :func:`points_of`."""
    for p, value in values.items():
        numbers_of(p).copy_(value)


def gradients(found: Sequence[Tensor | None], tensors: Sequence[Tensor], signs: Sequence[float]) -> list[Tensor | None]:
    """Gradients in the form of :func:`points_of`, negated where ``signs`` are.

    Raises:
        StateError: for a sparse gradient.
    """
    out: list[Tensor | None] = []
    for g, p, sign in zip(found, tensors, signs, strict=True):
        if g is None:
            out.append(None)
            continue
        if g.layout is not torch.strided:
            raise StateError(
                f"A gradient of shape {tuple(p.shape)} is sparse ({g.layout}), which recopt.Optimizer does not take: "
                "use sparse=False in the embedding."
            )
        real = local_gradient(g, p)
        if real.dtype not in _PLAIN:
            real = torch.view_as_real(real.resolve_conj()) if real.is_complex() else real
            real = real.float() if real.dtype in _LOW else real
        real = -real if sign < 0 else real
        out.append(real.detach() if real.requires_grad else real)
    return out


def called(valid: Any) -> Any:
    """The loss that ``valid`` computes. Raises RecoptError if it is no function."""
    if not callable(valid):
        raise RecoptError(f"valid={valid!r} must be a function that computes a loss: give a loss itself as valid_loss.")
    return valid()


def held_out(groups: Sequence[Mapping[str, Any]], valid_loss: Any, towers: Sequence[Driver]) -> dict[int, Tensor]:
    """The gradients of a loss on held-out data, by the tensors' identities.

    Raises:
        RecoptError: if it is no number with a graph, the parameters are sharded, or no level of ``towers`` reads it.
    """
    tensors = [p for group in groups for p in group["params"] if p.requires_grad]
    if not isinstance(valid_loss, Tensor) or valid_loss.numel() != 1 or not valid_loss.requires_grad:
        raise RecoptError(
            "valid_loss must be one number with its graph: compute it with gradients enabled, without detach() or "
            "item()."
        )
    if any(tower.shards for tower in towers):
        raise RecoptError("valid_loss is not supported for sharded parameters (FSDP2): leave it out.")
    if all(level.moves == TASK for tower in towers for level in tower.graph.levels):
        raise RecoptError(
            "valid_loss moves the levels above the first, of which there is none here: give it to opt.keep_best(loss), "
            "which keeps the point where it is lowest, or name a stack that has one, such as 'adam/adagrad[lr]'."
        )
    try:
        found = torch.autograd.grad(valid_loss, tensors, allow_unused=True)
    except RuntimeError as why:
        if "second time" not in str(why):
            raise
        raise RecoptError(
            "valid_loss was differentiated already: give a loss of its own, on which backward() was not called."
        ) from None
    return {id(p): g for p, g in zip(tensors, found, strict=True) if g is not None}


def one_number(loss: Any, whose: str) -> Tensor:
    """A loss as a detached tensor without dimensions.

    Raises:
        RecoptError: if it is not one number.
    """
    if isinstance(loss, Tensor) and loss.numel() == 1 and not loss.is_complex():
        return loss.detach().reshape(())
    number = getattr(loss, "item", lambda: loss)() if getattr(loss, "size", 1) == 1 else loss
    if isinstance(number, bool) or not isinstance(number, int | float):
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"{type(loss).__name__}"
        raise RecoptError(f"{whose} gave {what} as the loss: give one number, the loss itself.")
    return torch.tensor(float(number), dtype=torch.float64)


class Observed:
    """The losses that were observed since the last step: their mean is that of the next one."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None  # of the finite ones, and how many they are

    def note(self, loss: Any) -> None:
        """One more loss."""
        number = one_number(loss, "opt.observe(…)").double()
        finite = torch.isfinite(number)
        both = torch.stack([torch.where(finite, number, 0.0), finite.double()])
        self._sum = both if self._sum is None else self._sum + both.to(self._sum.device)

    def take(self) -> Tensor | None:
        """The mean of what was observed; None for nothing."""
        both, self._sum = self._sum, None
        return None if both is None else both[0] / both[1]
