"""What an optimizer's ``state_dict`` holds of its towers, and how they are put back to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import tree
from ..errors import RecoptError
from .points import points_of
from .shards import local
from .tower import Tower

KEY = "recopt"
"""Where it is in the ``state`` of a ``state_dict``."""
Group = Mapping[str, Any]
Members = Sequence[Sequence[tuple[int, int]]]
"""Of each tower, the tensors that it moves: (number of the group, number in the group)."""


def saved(towers: Sequence[Tower], members: Members, groups: Sequence[Group], steps: int) -> dict[str, Any]:
    """Everything the next step depends on; plain containers, numbers and tensors (shared, as torch does)."""
    return {
        "stacks": stacks(towers), "steps": steps, "shapes": shapes(members, groups),
        "towers": [tree.snapshot(tower.tree()) for tower in towers],
    }  # fmt: skip


def stacks(towers: Sequence[Tower]) -> list[str]:
    """Each tower in stack notation."""
    return [tower.graph.describe() for tower in towers]


def shapes(members: Members, groups: Sequence[Group]) -> list[list[list[int]]]:
    """The shapes of the tensors that each tower moves; of a sharded one, the part that is here."""
    return [[list(local(groups[g]["params"][i]).shape) for g, i in m] for m in members]


def fitting(
    state_dict: Mapping[str, Any], towers: Sequence[Tower], members: Members, groups: Sequence[Group]
) -> dict[str, Any]:
    """The part of ``state_dict`` that is ours, if it fits.

    Raises:
        RecoptError: with what differs.
    """
    found = dict(state_dict.get("state", {})).get(KEY)
    if found is None:
        raise RecoptError("This state_dict is not one of recopt.Optimizer: it was saved by another optimizer.")
    if found["stacks"] != stacks(towers):
        raise RecoptError(
            f"This state_dict is of the stack {' and '.join(found['stacks'])}, but this optimizer is "
            f"{' and '.join(stacks(towers))}: build it as the saved one was."
        )
    if found["shapes"] != shapes(members, groups):
        raise RecoptError("This state_dict is of parameters of other shapes or in another order: use the same model.")
    have = [len(g["params"]) for g in state_dict["param_groups"]]
    want = [len(g["params"]) for g in groups]
    if have != want:
        raise RecoptError(f"This state_dict has groups of {have} parameters, not of {want}: use the same groups.")
    return dict(found)


def restore(
    towers: Sequence[Tower], members: Members, groups: Sequence[Group], trees: Sequence[dict[str, Any]]
) -> None:
    """Put every tower where its tree was taken; all stay as they were if one does not fit.

    Raises:
        RecoptError: if one does not fit.
    """
    before = [tree.snapshot(tower.tree()) for tower in towers]
    try:
        _load(towers, members, groups, trees)
    except RecoptError:
        _load(towers, members, groups, before)
        raise


def _load(towers: Sequence[Tower], members: Members, groups: Sequence[Group], trees: Sequence[dict[str, Any]]) -> None:
    for tower, its, part in zip(towers, members, trees, strict=True):
        points = points_of([groups[g]["params"][i] for g, i in its])
        homes = dict(enumerate(tower.homes(points)))
        rungs = [tree.tree_map(partial(_own, device=homes.get(n)), rung) for n, rung in enumerate(part["rungs"])]
        rest = tree.tree_map(partial(_own, device=None), {k: v for k, v in part.items() if k != "rungs"})
        tower.load({**rest, "rungs": rungs}, points, "state_dict")


def _own(t: Tensor, device: torch.device | None) -> Tensor:
    """A copy of a saved tensor, on ``device`` unless that is None; generators' states stay where they are."""
    return t.to(t.device if device is None or t.dtype == torch.uint8 else device, copy=True)
