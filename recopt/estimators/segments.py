"""The exact unroll in segments: one segment's tape at a time, each made anew on the way back (checkpointing).

Backpropagation through T steps needs all of their activations. Kept are the states between n segments instead, and a
segment's steps are taken again when the derivative comes to it (Griewank 1992; Chen et al. 2016, 1604.06174, sect. 4):
the memory of T/n steps and n states, for one more pass over all segments but the last.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..contracts.strategy import Params
from ..levels.estimator import Closing
from ..levels.level import COSINES, TASK, Level
from ..levels.objective import score
from ..levels.state import Pair, Signal, Window
from ..levels.structure import Structure
from .tape import weighted


def refusal(graph: Structure, number: int) -> str | None:
    """A sentence for what no segment can be made anew of, and for what else reads the tape."""
    level, within = graph.levels[number], graph.within(number)
    upper = [(n, x) for n, x in enumerate(graph.levels) if n != number and x.taping]
    rivals = [n for n, x in upper if within & set(graph.subjects[n]) or (x.second_order and number in graph.below(n))]
    trying = [n for n in range(len(graph.levels)) if graph.order(n) == 0 or graph.levels[n].perturbs]
    odd = [what for what in ("teacher", "penalty_update", "penalty_moved", "stagger") if getattr(level, what)]
    odd += [f"normalize={level.normalize}"] if level.normalize in COSINES else []
    odd += ["null steps of level 1"] if any(graph.levels[m].null_step for m in graph.movers[TASK]) else []
    rules = {
        "'segments' are of the exact unroll: set second_order=true, or drop it.": not level.second_order,
        "windows are made anew from states of the model: set 'segments' on the level over level 1.": any(
            graph.levels[m].moves != TASK for m in graph.subjects[number]
        ),
        f"a window of {level.every} has no {level.segments} segments: set 'segments' to {level.every} or less.": (
            (level.segments or 1) > (level.every or 1)
        ),
        f"'segments' take the run back, and so does {graph.title((trying or [0])[0])}: drop one.": bool(trying),
        f"{graph.title((rivals or [0])[0])} reads the same tape: drop 'segments', or that level.": bool(rivals),
        f"'segments' know no {(odd or [''])[0]}: drop one of them.": bool(odd),
    }
    return next((said for said, wrong in rules.items() if wrong), None)


def close(level: Level, window: Window, moved: Params, how: Closing) -> Signal:
    """The signal of a full window, from its last segment to its first."""
    assert how.stretches is not None
    records, start = window.records[0], window.start[0]
    losses = [r.loss.detach() for r in records if r.loss is not None]
    value, weights = score(level.objective or "mean", losses, None if start is None else start.loss)
    weights = [w / value.numel() for w in weights[1:]]
    grads: list[Tensor | None] = [None] * len(moved)
    after: Params = []
    for stretch in how.stretches():
        mine = zip(stretch.records, weights[stretch.first :], strict=False)
        pairs = [pair for record, weight in mine for pair in weighted(record, weight)]
        pairs += zip(stretch.outputs, after, strict=False)
        found = _product(pairs, [*moved, *stretch.inputs])
        grads = [_sum(a, b) for a, b in zip(grads, found, strict=False)]
        after = [
            torch.zeros_like(t) if g is None else g for g, t in zip(found[len(moved) :], stretch.inputs, strict=True)
        ]
    known = any(g is not None for g in grads)
    filled = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, moved, strict=True)]
    return Signal(value.mean(), filled if known else None)


def _product(pairs: Sequence[Pair], ins: Params) -> Sequence[Tensor | None]:
    """Σ cᵀ ∂t/∂ins over the ``pairs`` (t, c); None where nothing depends on it."""
    live = [(t, c.detach()) for t, c in pairs if t.requires_grad]
    if not live:
        return [None] * len(ins)
    return torch.autograd.grad([t for t, _ in live], ins, [c for _, c in live], allow_unused=True)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
