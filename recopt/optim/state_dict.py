"""The ``state_dict`` of an optimizer with towers, per parameter as torch's are: how it is made, checked and read.

Tensors that belong to a parameter are in ``state``, laid out as it is (complex, sharded). The rest is one JSON text in
the first group, since it has other tensors at other times, which what checkpoints are loaded into must not have; only
what is too large for a text (open tapes over large models) is in ``state`` as well, under the first parameter. The text
begins with its digest and has the shapes of all tensors, so that what is damaged is refused before it is read.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from ..checking.errors import RecoptError
from ..contracts.strategy import Params
from ..contracts.trees import tree_map
from ..levels.level import TASK
from ..levels.packing import pack, unpack
from ..levels.state import Numbers, RunState, SlotState
from ..rules.numbers import NumberMover
from ..rules.shards import like, local, part_of
from .driver import Driver
from .fit import Misfit, check_alike, check_finite, check_state, checked_group, short
from .groups import STATE, Groups, check_untouched
from .kept import Kept
from .points import points_of
from .remake import closed_up, remake
from .towers import Towers

Entries = dict[Tensor, dict[str, Any]]
"""By parameter, what is kept of it under names."""
Restored = tuple[list[RunState], int, dict[Tensor, Tensor], Kept, dict[str, Any]]
"""The states of all towers, the steps made, where parameters train (in eval mode), the best, and what torch keeps."""
OWN = f"{STATE}."
"""The beginning of names that no strategy gave; of what belongs to no parameter a number follows."""
HOME = f"{OWN}home"
"""The name of where a parameter trains, while it is elsewhere."""
BEST = f"{OWN}best"
"""The name of where a parameter was at the best point."""
PAIRED = (torch.float16, torch.float32, torch.float64)
"""What complex numbers are pairs of."""
LARGEST = 1 << 26
"""Bytes of tensors that belong to no parameter, up to which they are part of the text."""


def stacks(towers: Towers) -> list[str]:
    """Each tower in stack notation."""
    return [tower.graph.describe() for tower in towers.all]


def saved(towers: Towers, groups: Groups, steps: int, home: Mapping[Tensor, Tensor], kept: Kept) -> tuple[str, Entries]:
    """Everything the next step depends on: JSON, and tensors (shared, as torch does).

    Args:
        home: where the parameters train, of those that are elsewhere.
    """
    closed = [closed_up(tower.state) for tower in towers.all]
    found: dict[int, tuple[str, Tensor]] = {}
    params, places = _places(groups)
    for tower, state, members in zip(towers.all, closed, towers.members, strict=True):
        for level in tower.graph.movers[TASK]:
            index = tower.tower.slots.index(tower.state, level)
            for part in state.levels[level].parts:
                mine = [places[members[index[i]]] for i in part.indices]
                if tower.graph.levels[level].average is not None and not part.folds:
                    points = points_of([params[number] for number in mine])
                    part.mean = [torch.zeros_like(p) for p in points]  # a place to load one into
                own = {f"{OWN}normal": part.normal, f"{OWN}kept": part.kept, f"{OWN}average": part.mean}
                _name({**part.strategy, **own}, "", mine, found)
    text = {**_said(towers, groups), "steps": steps, "towers": pack(closed, found), "kept": kept.numbers()}
    for word, there in ((HOME, home), (BEST, kept.points)):
        found |= {id(t): (f"{number}:{word}", t) for number, p in enumerate(params) if (t := there.get(p)) is not None}
    rest = {name: t for name, t in found.values() if ":" not in name}
    small = sum(t.numel() * t.element_size() for t in rest.values()) <= LARGEST
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in rest.items()} if small else {}
    text["rest"] = base64.b64encode(save(plain)).decode() if small else ""
    common = places[towers.members[0][0]] if towers.members else 0
    entries: Entries = {p: {"step": torch.tensor(float(steps))} for p in params}
    shapes: dict[str, Any] = {}
    for name, tensor in found.values():
        if name in rest and small:
            continue
        number, _, key = name.partition(":")
        p = params[int(number) if key else common]
        real = p.is_complex() and tensor.shape == (*local(p).shape, 2) and tensor.dtype in PAIRED
        shown = like(torch.view_as_complex(tensor) if real else tensor, p)
        entries[p][key or f"{OWN}{number}"] = shown
        shapes[name] = _form(shown)
    told = json.dumps({**text, "tensors": shapes})
    return f"{hashlib.sha256(told.encode()).hexdigest()} {told}", entries


def _form(tensor: Tensor) -> list[Any]:
    return [list(tensor.shape), str(tensor.dtype), *([] if tensor.layout is torch.strided else [str(tensor.layout)])]


def _places(groups: Groups) -> tuple[list[Tensor], dict[tuple[int, int], int]]:
    """All parameters, and where each is among them by its group and its place there."""
    members = [(g, i) for g, group in enumerate(groups) for i in range(len(group["params"]))]
    return [groups[g]["params"][i] for g, i in members], {member: place for place, member in enumerate(members)}


def _name(tree: Any, key: str, numbers: Sequence[int], found: dict[int, tuple[str, Tensor]]) -> None:
    """Name the tensors of lists that have one for each parameter of a part by the parameter's number and their key."""
    if isinstance(tree, dict):
        for word, value in tree.items():
            _name(value, f"{key}.{word}" if key else str(word), numbers, found)
    elif isinstance(tree, list) and len(tree) == len(numbers) and all(isinstance(x, Tensor) for x in tree):
        for number, tensor in zip(numbers, tree, strict=True):
            found.setdefault(id(tensor), (f"{number}:{key}", tensor))
    elif isinstance(tree, list | tuple):
        for place, value in enumerate(tree):
            _name(value, f"{key}.{place}", numbers, found)


def _said(towers: Towers, groups: Groups) -> dict[str, Any]:
    """The optimizer in words: a state goes on only in one that is told alike."""
    params = [p for part in towers.tensors(groups) for p in part]
    return {
        "stacks": stacks(towers), "fused": towers.options.fused,
        "levels": [[x.model_dump(mode="json", exclude_none=True) for x in t.graph.levels] for t in towers.all],
        "shapes": [list(p.shape) for p in params], "dtypes": [str(p.dtype) for p in params],
        "kinds": [[type(mover).__name__ for mover in t.tower.carriers.movers] for t in towers.all],
    }  # fmt: skip


def restored(state_dict: Any, towers: Towers, groups: Groups) -> Restored:
    """The contents of ``state_dict``, checked; nothing is changed.

    Raises:
        RecoptError: with what does not fit.
    """
    try:
        theirs = _groups_of(state_dict, groups)
        digest, _, text = theirs[0][STATE].partition(" ")
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            raise Misfit("the text in the first group is not what was written")
        told = json.loads(text)
        check_alike(told, _said(towers, groups))
        tensors = _Tensors(told, state_dict["state"], theirs, groups)
        states = unpack(told["towers"], tensors, torch.device("cpu"), keep=True)
        kept = Kept.of(told["kept"], tensors.points(BEST))
        home = tensors.points(HOME)
        check_finite(tensors, towers.options.guard)
        for tower, part, state in zip(towers.all, towers.tensors(groups), states, strict=True):
            _go_on(tower, state, points_of(part))
        mine = [checked_group(group) for group in theirs]
        check_untouched(mine, towers.groups)
        mine[0][STATE] = ""
        return states, told["steps"], home, kept, {**state_dict, "state": tensors.others, "param_groups": mine}
    except RecoptError:
        raise
    except Misfit as why:
        text = f"This state_dict does not fit ({why}): it is damaged, or of another stack or version."
        raise RecoptError(text) from None
    except Exception as why:  # whatever the strategies make of what they never wrote
        what = f"{type(why).__name__}: {str(why).partition(chr(10))[0][:120]}"
        raise RecoptError(f"This state_dict is damaged, or of another version ({what}).") from why


def _groups_of(state_dict: Any, groups: Groups) -> list[dict[str, Any]]:
    """The groups in a ``state_dict`` that has such, as many and as large as ``groups``."""
    whole = isinstance(state_dict, Mapping) and isinstance(state_dict.get("state"), Mapping)
    if not whole or not isinstance(state_dict.get("param_groups"), list):
        raise RecoptError(f"A state_dict is what state_dict() gave, not {type(state_dict).__name__} of other contents.")
    theirs: list[dict[str, Any]] = state_dict["param_groups"]
    have, want = ([len(g["params"]) for g in part] for part in (theirs, groups))
    if have != want:
        raise RecoptError(
            f"This state_dict has groups of {short(have)} parameters, not of {short(want)}: use the same groups."
        )
    if not theirs or not isinstance(theirs[0].get(STATE), str):
        raise RecoptError("This state_dict is not one of recopt.Optimizer: it was saved by another optimizer.")
    return theirs


class _Tensors(dict[str, Tensor]):
    """Copies of the tensors of a state by their names; ``others`` are what nobody asks for, which torch keeps."""

    def __init__(self, told: Mapping[str, Any], state: Mapping[Any, Any], theirs: Groups, groups: Groups) -> None:
        super().__init__(load(base64.b64decode(told["rest"])) if told["rest"] else {})
        ids = [key for group in theirs for key in group["params"]]
        self._forms = told["tensors"]
        self._there: dict[str, tuple[Any, str, Tensor, Tensor]] = {}
        self.others: dict[Any, Any] = {key: dict(value) if key in ids else value for key, value in state.items()}
        self._params = _places(groups)[0]
        for number, (key, p) in enumerate(zip(ids, self._params, strict=True)):
            for word, value in state.get(key, {}).items():
                common = word.removeprefix(OWN)
                name = common if word.startswith(OWN) and common.isdigit() else f"{number}:{word}"
                self._there[name] = (key, word, value, p)

    def points(self, word: str) -> dict[Tensor, Tensor]:
        """By parameter, where it was under the name ``word``."""
        names = {f"{number}:{word}": p for number, p in enumerate(self._params)}
        names = {name: p for name, p in names.items() if name in self._forms}
        if word == BEST and not self._there.keys() >= names.keys():
            raise RecoptError(
                "This state_dict tells of a best point and has no copy of it. A checkpointer that fills a state_dict "
                "brings only what is there already: call opt.keep_best(0) on the new optimizer before that."
            )
        return {p: self[name].to(p.device) for name, p in names.items()}

    def __missing__(self, name: str) -> Tensor:
        key, word, value, p = self._there.get(name, (None, name, None, None))
        if p is None or not isinstance(value, Tensor) or _form(value) != self._forms[name]:
            raise Misfit(f"'{word}' is missing or of another shape")
        del self.others[key][word]
        value = part_of(value.detach(), p)
        self[name] = (torch.view_as_real(value) if value.is_complex() else value).clone()
        return self[name]


def _go_on(tower: Driver, state: RunState, points: Params) -> None:
    """Check ``state``, and bring it to where ``tower`` computes, its tapes made anew."""
    for part in (part for own in state.levels for part in own.parts if not part.folds):
        part.mean = []
    check_state(state, tower, points)
    movers, device = tower.tower.carriers.movers, tower.tower.setting.device
    there = partial(tree_map, partial(_moved, device=device))
    for number, (own, mover) in enumerate(zip(state.levels, movers, strict=True)):
        if not isinstance(mover, NumberMover):
            state.levels[number] = there(own)
            continue
        for place, m in enumerate(tower.graph.subjects[number]):  # a window lies where what it is over computes
            if not isinstance(movers[m], NumberMover):
                own.window.records[place] = there(own.window.records[place])
                own.window.start[place] = there(own.window.start[place])
    for name, slot in state.slots.items():
        space = tower.tower.carriers.spaces.get(name)
        if isinstance(slot, Numbers) and space is not None:
            version, leaves = slot.version, list(slot.leaves)
            space.put(slot, range(len(space.names)), list(slot.coords))
            slot.version, slot.leaves = version, [None if x is None else x.cpu() for x in leaves]
        elif isinstance(slot, SlotState) and name != TASK:
            here = tower.state.slots[name].params
            slot.params = [p.to(q.device, q.dtype) for p, q in zip(slot.params, here, strict=True)]
        tower.tower.slots.leaves(state.slots[name], name)
    remake(tower.tower.forward, state)


def _moved(t: Tensor, device: torch.device) -> Tensor:
    """``t`` on ``device``; generators' states stay on the CPU."""
    return t.cpu() if t.dtype == torch.uint8 else t.to(device)
