"""The checks of a saved state: it fits the optimizer that is to go on from it, and is finite."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..checking.errors import RecoptError
from ..contracts.strategy import Params
from ..levels.level import TASK
from ..levels.state import Numbers, RunState, SlotState
from ..rules.numbers import NumberMover
from ..rules.rule import text_of
from ..rules.tensors import TensorMover
from .driver import Driver, level_of_the_caller
from .groups import Group, factor


class Misfit(Exception):
    """A place of a saved state that does not fit."""


def check_finite(tensors: Mapping[str, Tensor], guarded: bool) -> None:
    """Tell of what is not finite in a loaded state, and refuse what is not a number where guards let nothing such in.

    Args:
        tensors: by a parameter's number and what is kept of it (``"3:exp_avg"``); the others are as they were written.
    """
    for name, tensor in tensors.items():
        number, of_parameter, key = name.partition(":")
        if not of_parameter or bool(tensor.isfinite().all()):
            continue
        where = f"'{key}' of parameter {number}"
        if guarded and bool(tensor.isnan().any()):
            raise Misfit(f"{where} is not a number")
        warnings.warn(
            f"This state_dict is loaded as it is, but {where} is not finite: its run had diverged, or it is damaged; "
            "an earlier one may be whole.",
            RuntimeWarning,
            stacklevel=level_of_the_caller(),
        )
        return


def check_alike(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Refuse a state of an optimizer that is told otherwise than this one."""
    if theirs["stacks"] != ours["stacks"]:
        raise RecoptError(
            f"This state_dict is of the stack {short(theirs['stacks'])}, but this optimizer is "
            f"{short(ours['stacks'])}: build it as the saved one was."
        )
    for one, other in zip(theirs["levels"], ours["levels"], strict=True):
        for number, (saved_level, here) in enumerate(zip(one, other, strict=True), 1):
            for key in sorted({*saved_level, *here}):
                if saved_level.get(key) != here.get(key):
                    raise RecoptError(
                        f"This state_dict has {key}={saved_level.get(key)} on level {number}, this optimizer "
                        f"{here.get(key)}: build it as the saved one was."
                    )
    if theirs["shapes"] != ours["shapes"]:
        raise RecoptError("This state_dict is of parameters of other shapes or in another order: use the same model.")
    if theirs["dtypes"] != ours["dtypes"]:
        one, other = (short(sorted({*x["dtypes"]})) for x in (theirs, ours))
        raise RecoptError(f"This state_dict is of parameters in {one}, not {other}: convert the model first.")
    if theirs["kinds"] != ours["kinds"]:
        raise RecoptError(
            f"This state_dict was saved with fused={theirs['fused']}, and its levels keep other things than those of "
            "this optimizer: give the same, and the same strategies."
        )


def checked_group(theirs: Group) -> dict[str, Any]:
    """A loaded group, checked."""
    found = {**theirs, "maximize": theirs.get("maximize", False)}
    start = found["lr_start"]
    if type(found["maximize"]) is not bool or not isinstance(start, int | float) or not 0 < start < math.inf:
        raise Misfit("param_groups")
    factor(found)
    return found


def check_state(state: RunState, tower: Driver, points: Params) -> None:
    """Raise Misfit where the strategies of ``tower`` have other parameters or states than those of ``state``."""
    for name, slot in state.slots.items():
        if name != TASK and _names(slot) != _names(tower.state.slots[name]):
            raise Misfit(f"'{name}' has other hyperparameters or weights")
    for number, own in enumerate(state.levels):
        mover, level = tower.tower.carriers.movers[number], tower.graph.levels[number]
        index, slot = tower.tower.slots.index(tower.state, number), tower.state.slots[level.moves]
        for part in own.parts:
            values = points if level.moves == TASK else slot.params
            mine = [values[index[i]] for i in part.indices]
            begun = mover.begin([0.0] * len(mine)) if isinstance(mover, NumberMover) else mover.begin(mine)
            written_once = not isinstance(mover, TensorMover) or text_of(mover.strategy) is not None
            if not _goes_on(part.strategy, begun) or (written_once and part.strategy.keys() != begun.keys()):
                raise Misfit(f"the state of '{level.by}' on level {number + 1}")


def _names(slot: Numbers | SlotState) -> Any:
    return (list(slot.value), len(slot.coords)) if isinstance(slot, Numbers) else [tuple(p.shape) for p in slot.params]


def _goes_on(state: Any, first: Any) -> bool:
    """True if ``state`` may come from ``first``: it may have more, and other lengths where there was nothing yet."""
    if isinstance(first, Tensor):
        return isinstance(state, Tensor) and (not first.numel() or state.shape == first.shape)
    if isinstance(first, dict):
        return isinstance(state, dict) and all(key in state and _goes_on(state[key], x) for key, x in first.items())
    if not isinstance(first, list):
        return True
    return isinstance(state, list) and len(state) >= len(first) and all(map(_goes_on, state, first))


def short(values: Any) -> str:
    """The values, as many as a message has room for."""
    text = ", ".join(map(str, values))
    return text if len(text) < 90 else f"{text[:80]} …"
