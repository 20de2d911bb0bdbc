"""The part of an optimizer's ``state_dict`` that is about its towers: how it is made, checked and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..contracts.errors import RecoptError
from ..contracts.trees import tree_map
from ..levels.state import RunState
from ..rules.shards import local
from .groups import factor
from .points import points_of
from .towers import Groups, Towers

KEY = "recopt"
"""The key of that part in the ``state`` of a ``state_dict``."""


def saved(towers: Towers, groups: Groups, steps: int) -> dict[str, Any]:
    """Everything the next step depends on; plain containers, numbers and tensors (shared, as torch does)."""
    return {
        "stacks": stacks(towers), "steps": steps, "shapes": _shapes(towers, groups), "levels": _levels(towers),
        "dtypes": _dtypes(towers, groups), "fused": towers.options.fused,
        "kinds": [tower.kinds() for tower in towers.all], "towers": [tower.tree() for tower in towers.all],
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
    try:
        _fit(found, towers, groups)
        _fit_groups(state_dict["param_groups"], groups)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as why:
        raise RecoptError(f"This state_dict is damaged, or of another version ({type(why).__name__}: {why}).") from None
    return dict(found)


def _fit(found: Mapping[str, Any], towers: Towers, groups: Groups) -> None:
    lacks = {"stacks", "steps", "shapes", "levels", "dtypes", "fused", "kinds", "towers"} - set(found)
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
    if found["kinds"] != [tower.kinds() for tower in towers.all]:
        raise RecoptError(
            f"This state_dict was saved with fused={found['fused']}, and its levels keep other things than those of "
            "this optimizer: give the same, and the same strategies."
        )
    steps = found["steps"]
    if isinstance(steps, bool) or not isinstance(steps, int) or len(found["towers"]) != len(towers.all):
        raise ValueError("steps or towers")


def _fit_groups(saved: Sequence[Mapping[str, Any]], groups: Groups) -> None:
    have, want = ([len(g["params"]) for g in part] for part in (saved, groups))
    if have != want:
        raise RecoptError(f"This state_dict has groups of {have} parameters, not of {want}: use the same groups.")
    for group, own in zip(saved, groups, strict=True):
        lacks = {"lr", "lr_start", "maximize"} - set(group)
        if lacks:
            raise KeyError(min(lacks))
        if not all(isinstance(p, int) for p in group["params"]):
            raise TypeError("params")
        factor(group)
        if not isinstance(group["maximize"], type(own["maximize"])):
            raise ValueError("a group")


def _same_levels(theirs: Sequence[Any], ours: Sequence[Any]) -> None:
    for one, other in zip(theirs, ours, strict=True):
        for number, (saved, here) in enumerate(zip(one, other, strict=True), 1):
            for key in sorted({*saved, *here}):
                if saved.get(key) != here.get(key):
                    raise RecoptError(
                        f"This state_dict has {key}={saved.get(key)} on level {number}, this optimizer "
                        f"{here.get(key)}: build it as the saved one was."
                    )


def restored(towers: Towers, groups: Groups, saved: Sequence[Any]) -> list[RunState]:
    """The states of all towers as their trees say; nothing is changed.

    Raises:
        RecoptError: if one does not fit.
    """
    return [
        tower.restored(tree_map(_own, part), points_of(tensors), "This state_dict")
        for tower, tensors, part in zip(towers.all, towers.tensors(groups), saved, strict=True)
    ]


def _own(t: Tensor) -> Tensor:
    """A copy of a saved tensor; generators' states are always on the CPU."""
    return t.detach().to("cpu" if t.dtype == torch.uint8 else t.device, copy=True)
