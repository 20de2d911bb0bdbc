"""Parameter groups: their checks, their settings, and what a scheduler makes of their rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..contracts.errors import RecoptError
from ..contracts.settings import Hyper, Option, declared
from ..levels.level import TASK
from ..levels.state import Numbers
from .driver import Driver

_ELSEWHERE = frozenset({"betas", "momentum", "weight_decay"})
"""Settings that other optimizers keep in their groups, and that people set there, whatever the strategy calls them."""
_OURS = ("params", "param_names", "stack", "maximize", "initial_lr", "name", "lr_start")


def checked(group: Any, others: Sequence[Mapping[str, Any]], number: int) -> dict[str, Any]:
    """``group`` as a new dict with a list of tensors (or names and tensors).

    Raises:
        RecoptError: if it is empty, has a tensor twice, or shares one with another group.
    """
    if not isinstance(group, dict) or "params" not in group:
        what = f"one with {', '.join(map(repr, group))}" if isinstance(group, dict) else type(group).__name__
        raise RecoptError(f"Group {number} must be a dict with 'params', not {what}.")
    given = group["params"]
    if not isinstance(given, Iterable):
        raise RecoptError(f"The params of group {number} must be a list of tensors, not {given!r}.")
    if isinstance(given, set):
        raise RecoptError(f"Group {number} has its params in a set, whose order is not fixed: use a list.")
    params = [given] if isinstance(given, Tensor) else list(given)
    if not params:
        raise RecoptError(f"Group {number} is empty: give it parameters or leave it out.")
    tensors = [p[1] if isinstance(p, tuple) else p for p in params]
    for other, taken in enumerate({id(p) for p in g["params"]} for g in others):
        if any(id(p) in taken for p in tensors):
            raise RecoptError(f"Groups {other} and {number} share a tensor: each may be in one group only.")
    if len({id(p) for p in tensors}) < len(tensors):
        raise RecoptError(f"Group {number} has a tensor twice: give each once (tied parameters are one tensor).")
    return {**group, "params": params}


def listed(params: Any) -> Any:
    """The ``params`` that an optimizer was given, as a list.

    Raises:
        RecoptError: if it is none of what torch's optimizers take, or empty.
    """
    if isinstance(params, Tensor):
        return params
    if isinstance(params, nn.Module | str | Mapping) or not isinstance(params, Iterable):
        hint = "model.parameters()" if isinstance(params, nn.Module) else "a list of tensors or of groups"
        raise RecoptError(f"recopt.Optimizer takes {hint}, not {type(params).__name__}.")
    found = list(params)
    if not found:
        raise RecoptError("recopt.Optimizer got no parameters: give model.parameters() of a model that has some.")
    return found


def settings_of(group: dict[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the strategies of level 1 for this group: its own ones (taken out of it) before the common ones."""
    own = {key: group.pop(key) for key in [k for k in group if k not in _OURS]}
    return {**common, **{key: value for key, value in own.items() if value is not None}}


@dataclass(frozen=True)
class Made:
    """The settings that a group was made with; later changes of its dict do not alter them.

    Attributes:
        count: of its tensors.
        settings: names of what its strategies of level 1 can be given.
        rate: the first one's ``lr``, or 1 if it has none: what a scheduler sees at first.
    """

    count: int
    settings: frozenset[str]
    rate: float


def made_of(group: Mapping[str, Any], tower: Driver) -> Made:
    """The settings of ``group``, which ``tower`` moves."""
    slots = [tower.graph.levels[n].by for n in tower.graph.movers[TASK]]
    kinds = [type(tower.graph.slots[slot]) for slot in slots]
    names = {name for kind in kinds for setting in (Hyper, Option) for name in declared(kind, setting)}
    settings = (_ELSEWHERE | names).difference(_OURS, ["lr"])
    first = tower.state.slots[slots[0]]
    rate = first.value.get("lr", 1.0) if isinstance(first, Numbers) else 1.0
    return Made(len(group["params"]), settings, float(rate))


def check_untouched(groups: Sequence[Mapping[str, Any]], made: Sequence[Made]) -> None:
    """Raise RecoptError for what was written into a group later and would be ignored: settings, tensors, groups."""
    if len(groups) != len(made):
        raise RecoptError(f"There were {len(made)} groups and now there are {len(groups)}: use opt.add_param_group.")
    for number, (group, was) in enumerate(zip(groups, made, strict=True)):
        if not was.settings.isdisjoint(group):
            name = min(was.settings.intersection(group))
            raise RecoptError(
                f"Group {number}: '{name}' was set after the group was made and would change nothing (of a group only "
                f"lr and maximize are read later): delete it there, and make an optimizer with {name}=… instead."
            )
        if len(group["params"]) != was.count:
            raise RecoptError(
                f"Group {number} was made of {was.count} tensors and has {len(group['params'])} now: add tensors by "
                "opt.add_param_group({'params': …})."
            )


def factor(group: Mapping[str, Any]) -> float:
    """The factor on the updates of level 1 that a scheduler asks for: the group's rate relative to the start.

    Raises:
        RecoptError: if the rate is no finite number.
    """
    rate = group.get("lr")
    if isinstance(rate, bool) or not isinstance(rate, int | float | Tensor) or not math.isfinite(float(rate)):
        raise RecoptError(f"A group's 'lr' was set to {rate!r}: it must be a finite number.")
    return float(rate) / float(group["lr_start"])
