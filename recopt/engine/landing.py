"""The task anew at a point of its own: for levels that differentiate where a window ends, and nothing before it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..contracts.strategy import Params
from ..contracts.task import Split
from ..levels.estimator import Landing
from ..levels.graph import Graph
from ..levels.level import IMPLICIT, TASK
from ..levels.state import RunState, SlotState
from .source import Source
from .ways import Grads


def lands(graph: Graph) -> bool:
    """True if a level differentiates where a window ends."""
    return any(level.gradient == IMPLICIT for level in graph.levels)


def land(source: Source, graph: Graph, state: RunState, number: int) -> Landing:
    """The task on its present batch, and on the one that level ``number`` (0-based) is measured on, at fresh leaves."""
    slot = state.task
    at = replace(slot, params=_leaves(slot.params), buffers=[b.clone() for b in slot.buffers])
    moves = graph.levels[number].moves
    moved = SlotState(_leaves(state.slots[moves].params), [])
    there = replace(state, slots={**state.slots, TASK: at, moves: moved})
    trained, grads = _evaluated(source, there, "train")
    measured = trained if graph.levels[number].on == "train" else _evaluated(source, there, "valid")[0]
    index = sorted(i for m in graph.subjects[number] for i in source.index(state, m))
    own = [moved.params[i] for i in source.index(state, number)]
    return Landing([at.params[i] for i in index], own, [grads[i] for i in index], measured)


def _evaluated(source: Source, state: RunState, split: Split) -> tuple[Tensor, Grads]:
    """Loss and gradient, with their graph."""
    slot = state.task
    source.pay(state, source.evaluator.family.total)
    with torch.enable_grad():
        found = source.evaluator.gradient(slot, source.batch(state, slot, slot.seen - 1, split), True)
        return source.pull(state, *found, True) if split == "train" else found


def _leaves(values: Params) -> Params:
    return [p.detach().clone().requires_grad_() for p in values]
