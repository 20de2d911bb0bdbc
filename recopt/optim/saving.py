"""What an optimizer's ``state_dict`` holds of its towers, and how they are put back to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..contracts import trees as tree
from ..contracts.errors import RecoptError
from .points import points_of
from .shards import local
from .towers import Groups, Towers

KEY = "recopt"
"""Where it is in the ``state`` of a ``state_dict``."""


def saved(towers: Towers, groups: Groups, steps: int) -> dict[str, Any]:
    """Everything the next step depends on; plain containers, numbers and tensors (shared, as torch does)."""
    return {
        "stacks": stacks(towers), "steps": steps, "shapes": _shapes(towers, groups), "levels": _levels(towers),
        "dtypes": _dtypes(towers, groups),
        "towers": [tree.snapshot(tower.tree()) for tower in towers.all],
    }  # fmt: skip


def stacks(towers: Towers) -> list[str]:
    """Each tower in stack notation."""
    return [tower.graph.describe() for tower in towers.all]


def _shapes(towers: Towers, groups: Groups) -> list[list[list[int]]]:
    """Of the tensors that each tower moves; of a sharded one, the part that is here."""
    return [[list(local(p).shape) for p in part] for part in towers.tensors(groups)]


def _levels(towers: Towers) -> list[list[dict[str, Any]]]:
    return [[level.model_dump(mode="json", exclude_none=True) for level in t.graph.levels] for t in towers.all]


def _dtypes(towers: Towers, groups: Groups) -> list[list[str]]:
    return [[str(p.dtype) for p in part] for part in towers.tensors(groups)]


def fitting(state_dict: Any, towers: Towers, groups: Groups) -> dict[str, Any]:
    """The part of ``state_dict`` that is ours, if it fits.

    Raises:
        RecoptError: with what differs.
    """
    state = state_dict.get("state") if isinstance(state_dict, Mapping) else None
    if not isinstance(state, Mapping) or "param_groups" not in state_dict:
        raise RecoptError(f"A state_dict is what state_dict() gave, not {type(state_dict).__name__} of other contents.")
    found = state.get(KEY)
    if found is None:
        raise RecoptError("This state_dict is not one of recopt.Optimizer: it was saved by another optimizer.")
    lacks = {"stacks", "steps", "shapes", "levels", "dtypes", "towers"} - set(found)
    if lacks:
        raise RecoptError(f"This state_dict lacks {', '.join(sorted(lacks))}: it is damaged, or of another version.")
    if found["stacks"] != stacks(towers):
        raise RecoptError(
            f"This state_dict is of the stack {' and '.join(found['stacks'])}, but this optimizer is "
            f"{' and '.join(stacks(towers))}: build it as the saved one was."
        )
    _same_levels(found["levels"], _levels(towers))
    if found["shapes"] != _shapes(towers, groups):
        raise RecoptError("This state_dict is of parameters of other shapes or in another order: use the same model.")
    if found["dtypes"] != _dtypes(towers, groups):
        theirs, ours = (sorted({d for part in x for d in part}) for x in (found["dtypes"], _dtypes(towers, groups)))
        raise RecoptError(
            f"This state_dict is of parameters in {', '.join(theirs)}, not {', '.join(ours)}: convert the model first."
        )
    have = [len(g["params"]) for g in state_dict["param_groups"]]
    want = [len(g["params"]) for g in groups]
    if have != want:
        raise RecoptError(f"This state_dict has groups of {have} parameters, not of {want}: use the same groups.")
    return dict(found)


def _same_levels(theirs: Sequence[Any], ours: Sequence[Any]) -> None:
    for one, other in zip(theirs, ours, strict=True):
        for number, (saved, here) in enumerate(zip(one, other, strict=True), 1):
            for key in sorted({*saved, *here}):
                if saved.get(key) != here.get(key):
                    raise RecoptError(
                        f"This state_dict has {key}={saved.get(key)} on level {number}, this optimizer "
                        f"{here.get(key)}: build it as the saved one was."
                    )


def restore(towers: Towers, groups: Groups, trees: Sequence[dict[str, Any]]) -> None:
    """Put every tower where its tree was taken; all stay as they were if one does not fit.

    Raises:
        RecoptError: if one does not fit.
    """
    before = [tree.snapshot(tower.tree()) for tower in towers.all]
    try:
        _load(towers, groups, trees)
    except RecoptError:
        _load(towers, groups, before)
        raise


def _load(towers: Towers, groups: Groups, trees: Sequence[dict[str, Any]]) -> None:
    for tower, tensors, part in zip(towers.all, towers.tensors(groups), trees, strict=True):
        points = points_of(tensors)
        homes = dict(enumerate(tower.homes(points)))
        rungs = [tree.tree_map(partial(_own, device=homes.get(n)), rung) for n, rung in enumerate(part["rungs"])]
        rest = tree.tree_map(partial(_own, device=None), {k: v for k, v in part.items() if k != "rungs"})
        tower.load({**rest, "rungs": rungs}, points, "state_dict")


def _own(t: Tensor, device: torch.device | None) -> Tensor:
    """A copy of a saved tensor, on ``device`` unless that is None; generators' states stay where they are."""
    return t.to(t.device if device is None or t.dtype == torch.uint8 else device, copy=True)
