"""Parameter groups: their checks, their settings, and what a scheduler makes of their rate."""

from __future__ import annotations

import difflib
import math
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any

from torch import Tensor, nn

from ..checking.errors import RecoptError, StateError, unknown

Group = Mapping[str, Any]
Groups = Sequence[Group]
STATE = "recopt"
"""The key, in the first group, of what a state_dict says of the towers besides tensors; empty at other times."""
_TORCHS = frozenset({
    "alpha", "amsgrad", "betas", "centered", "dampening", "decoupled_weight_decay", "eps", "initial_accumulator_value",
    "lr_decay", "momentum", "momentum_decay", "nesterov", "weight_decay", "capturable", "differentiable",
})  # fmt: skip
"""Settings of torch's optimizers, which people set in groups and copy from there, whatever the strategy has."""
_MEANS = frozenset({"foreach", "fused"})
"""Settings of torch's optimizers that change no step."""
_OURS = ("params", "param_names", "stack", "maximize", "initial_lr", "name", "lr_start", STATE)
_ARGUMENTS = (
    "steps", "depth", "scope", "normalize", "every", "levels", "maximize", "guard", "average", "fused", "callback",
    "log_every", "seed", "plugins", "store",
)  # fmt: skip
"""The optimizer's own arguments besides ``params`` and ``stack``."""
_TWO = ("beta1", "beta2")
"""The two of torch's ``betas``."""


def checked(group: Any, others: Groups, number: int) -> dict[str, Any]:
    """``group`` as a new dict with a list of tensors (or names and tensors).

    Raises:
        RecoptError: if it has no list of tensors, or shares one with another group.
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
    tensors = [p[1] if isinstance(p, tuple) else p for p in params]
    for other, taken in enumerate({id(p) for p in g["params"]} for g in others):
        if any(id(p) in taken for p in tensors):
            raise RecoptError(f"Groups {other} and {number} share a tensor: each may be in one group only.")
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


def settings_of(group: dict[str, Any], common: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Settings of the strategies of level 1 for this group: its own ones (taken out of it) before the common ones.

    Args:
        known: names of the settings that those have. Of the others, what the caller keeps in a group stays there.

    Raises:
        RecoptError: for the likes of ``momentun``, in a group or among the common ones.
    """
    names = {*known, "lr", "domains", *(["betas"] if known >= set(_TWO) else [])}  # type: ignore[operator]
    common = {key: value for key, value in common.items() if key in names or not _idle(key, value)}
    for key in [key for key in group if key not in names and _idle(key, group[key])]:
        del group[key]
    _check_names(group, common, names)
    own = {key: group.pop(key) for key in [k for k in group if k in names]}
    found = {key: plain(v) for key, v in {**common, **{k: v for k, v in own.items() if v is not None}}.items()}
    if "betas" in names and "betas" in found:
        betas = found.pop("betas")
        if not isinstance(betas, Sequence) or len(betas) != len(_TWO):
            raise RecoptError(f"betas={betas!r} must be two numbers, like (0.9, 0.999).")
        found = {**dict(zip(_TWO, map(plain, betas), strict=True)), **found}
    return found


def _check_names(group: Group, common: Mapping[str, Any], names: set[str]) -> None:
    """Refuse what would change nothing, though it is meant to: settings of torch's, and what is nearly a name."""
    if lacks := sorted(_TORCHS & {*common, *group} - names):
        raise RecoptError(f"Level 1 has no '{lacks[0]}', which is a setting of torch's optimizers: leave it out, or "
                          f"set {', '.join(sorted(names - {'domains'}))}.")  # fmt: skip
    for key in group.keys() - names - set(_OURS):
        for known in (("stack", "maximize"), names):
            if difflib.get_close_matches(str(key), known, n=1, cutoff=0.8):
                raise unknown("setting", key, known, "in a group")
    for key in common.keys() - names:
        if difflib.get_close_matches(key, _ARGUMENTS, n=1, cutoff=0.8):
            raise unknown("argument", key, _ARGUMENTS, "of recopt.Optimizer")


def _idle(key: str, value: Any) -> bool:
    """True for a setting of torch's optimizers that asks for nothing: one that is off, or a means to the same steps."""
    return key in _MEANS or (key in _TORCHS and (value is None or (isinstance(value, int | float) and not value)))


def plain(value: Any) -> Any:
    """A number out of a tensor or numpy's scalar; anything else as it is."""
    shape = getattr(value, "shape", None)
    return value.item() if shape is not None and math.prod(shape) == 1 else value


def later(known: frozenset[str]) -> frozenset[str]:
    """Names of what would change nothing if it were written into a group later."""
    return (_TORCHS | known).difference(_OURS, ["lr"])


@dataclass(frozen=True)
class Made:
    """A group as it was made.

    Attributes:
        params: its tensors, ``names`` theirs.
        stack, settings: the levels over it; settings are of the strategies of level 1.
        later: names of what would change nothing if it were written into the group by now.
    """

    params: tuple[Tensor, ...]
    names: tuple[str, ...]
    stack: Any
    settings: Mapping[str, Any]
    later: frozenset[str]


def check_alone() -> None:
    """Raise RecoptError in the hands of torch's ZeroRedundancyOptimizer, which gives each process some of the tensors.

    Nothing in what it passes says so: its towers would see the gradients of their own tensors only, and drift apart.
    """
    for frame, _ in traceback.walk_stack(None):
        if type(frame.f_locals.get("self")).__name__ == "ZeroRedundancyOptimizer":
            raise RecoptError(
                "ZeroRedundancyOptimizer gives each process some of the tensors, and each would tune a rate of its "
                "own: shard with FSDP2 (fully_shard), or use DistributedDataParallel alone."
            )


def check_untouched(groups: Groups, made: Sequence[Made]) -> None:
    """Raise StateError for what was written into a group later and would be ignored: settings, tensors, groups."""
    if len(groups) != len(made):
        raise StateError(f"There were {len(made)} groups and now there are {len(groups)}: use opt.add_param_group.")
    for number, (group, was) in enumerate(zip(groups, made, strict=True)):
        if not was.later.isdisjoint(group):
            name = min(was.later.intersection(group))
            raise StateError(
                f"Group {number}: '{name}' was set after the group was made and would change nothing (of a group only "
                f"lr and maximize are read later): delete it there, and make an optimizer with {name}=… instead."
            )
        if len(group["params"]) != len(was.params):
            raise StateError(
                f"Group {number} was made of {len(was.params)} tensors and has {len(group['params'])} now: add tensors "
                "by opt.add_param_group({'params': …})."
            )


def same_tensors(groups: Groups, made: Sequence[Made]) -> bool:
    """True if the groups hold the tensors that they were made of."""
    return all(all(map(is_, group["params"], was.params)) for group, was in zip(groups, made, strict=False))


def factor(group: Group) -> float:
    """The factor on the updates of level 1 that a scheduler asks for: the group's rate relative to the start.

    Raises:
        RecoptError: if the rate is no finite number.
    """
    rate = group.get("lr")
    number = plain(rate)
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise RecoptError(f"A group's 'lr' was set to {rate!r}: it must be a finite number.")
    return number / float(group["lr_start"])
