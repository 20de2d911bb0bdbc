"""Tapes that were open when a state was saved, made anew: a graph cannot be saved, but the steps can be taken again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..contracts import trees
from ..core.forward import Forward
from ..levels.level import TASK
from ..levels.state import LevelState, Numbers, Record, RunState


def closed_up(state: RunState) -> RunState:
    """A copy of ``state`` without graphs: records keep what they were made of, and what came after."""
    out = trees.detach(state)
    for own, live in zip(out.levels, state.levels, strict=True):
        own.live, own.stamp = [], []
        for records, with_graph in zip(own.window.records, live.window.records, strict=True):
            begun = 0
            for record, whole in zip(records, with_graph, strict=True):
                if record.made_of is None:
                    continue
                places = {id(p): i for i, p in enumerate(whole.point)}
                before = record.made_of["before"]
                # Of the states before the steps, the first of each part is enough; the others follow from it.
                told = [places[id(p)] for p, _ in whole.pairs or []]
                record.made_of = {**record.made_of, "before": before[begun:], "told": told}
                record.point, record.update = [], []
                begun = max(begun, len(before))
    return out


def remake(forward: Forward, state: RunState) -> None:
    """Take the recorded steps of ``state``, which came from :func:`closed_up`, again."""
    carriers, graph = forward.carriers, forward.carriers.graph
    for slot in state.slots.values():
        if isinstance(slot, Numbers):
            slot.leaves = [None if leaf is None else leaf.detach().requires_grad_() for leaf in slot.leaves]
    # From the top: where levels move a rule's weights, the steps of that rule below are made from where they led.
    for m, own in reversed(list(enumerate(state.levels))):
        over = [n for n in carriers.above[m] if not carriers.closed[n]]
        if not over:
            continue
        windows = [state.levels[n].window.records[graph.subjects[n].index(m)] for n in over]
        after = [(part.strategy, part.normal, part.idle) for part in own.parts]
        _again(forward, state, m, windows)
        for part, (strategy, normal, idle) in zip(own.parts, after, strict=True):
            part.idle = idle
            made, saved = trees.tensors([part.strategy, part.normal]), trees.tensors([strategy, normal])
            if [t.shape for t in made] != [t.shape for t in saved]:
                part.strategy, part.normal = strategy, normal


def _again(forward: Forward, state: RunState, m: int, windows: Sequence[Sequence[Record]]) -> None:
    own, live = state.levels[m], list[Tensor]()
    begun = 0
    for records in zip(*windows, strict=True):
        made_of = records[0].made_of
        if made_of is None:
            continue
        begun = _begin(own, made_of["before"], begun)
        point = made_of["point"]
        if live and all(torch.equal(a, b) for a, b in zip(live, point, strict=False)):
            point = [*live, *point[len(live) :]]
        live, update = forward.again(state, m, made_of, point)
        for record in records:
            record.point, record.update = list(live), list(update)
            told = (record.made_of or made_of)["told"]
            record.pairs = [(live[i], c) for i, (_, c) in zip(told, record.pairs or [], strict=True)]
    moves = forward.levels[m].moves
    if moves == TASK or moves in forward.carriers.spaces:
        own.live = live
    elif live:
        _place(forward, state, m, live)


def _place(forward: Forward, state: RunState, m: int, live: Sequence[Tensor]) -> None:
    """Put weights that carry a graph in the place of equal ones that do not."""
    params = state.slots[forward.levels[m].moves].params
    for i, value in zip(forward.slots.index(state, m), live, strict=True):
        if torch.equal(params[i], value):
            params[i] = value


def _begin(own: LevelState, before: Sequence[tuple[dict[str, object], dict[str, object]]], begun: int) -> int:
    """Put the parts that had their first recorded step where they were before it; how many have begun by now."""
    for part, (strategy, normal) in zip(own.parts[begun:], before, strict=False):
        part.strategy, part.normal = dict(strategy), dict(normal)
    return begun + len(before)
