"""Forward-mode hypergradients: the tangents of the model and of its rules' states, carried along with them.

For a step (θ, s) ← Φ(θ, s, ∇f(θ), φ) and each number φₖ that is moved, the tangents θ̇ = dθ/dφₖ and ṡ follow
(θ̇, ṡ) ← ∂Φ (θ̇, ṡ, Hθ̇ + ∂²f/∂θ∂φₖ, eₖ) with H the Hessian (Franceschi et al. 2017, 1703.01785, eq. 13; Williams &
Zipser 1989), and the derivative of a loss is ∇fᵀθ̇. No tape outlasts a step, and no window cuts the tangents off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..contracts import trees
from ..contracts.strategy import Params
from ..levels.crossing import Crossing
from ..levels.estimator import Closing, estimator
from ..levels.level import COSINES, TASK, Level
from ..levels.objective import score
from ..levels.state import Signal, SlotState, Window
from ..levels.structure import Structure
from .unroll import Unroll

MOST = 100
"""The most numbers that are moved: each costs a copy of the model, and a Hessian-vector product a step."""


@estimator("forward")
class Forward(Unroll):
    """Tangents of few numbers, exact over all steps since the model began."""

    closed: ClassVar[bool] = False

    def refusal(self, graph: Structure, number: int) -> str | None:
        """As of an unroll; more numbers than tangents can be carried of; and what no tangent is carried through."""
        level, below = graph.levels[number], [graph.levels[m] for m in graph.subjects[number]]
        others = [n for n, x in enumerate(graph.levels) if x.second_order and x.gradient != level.gradient]
        if any(x.moves != TASK for x in below):
            return "gradient=forward carries derivatives of the model: set it on the level over level 1."
        if not level.second_order:
            return "gradient=forward is exact: leave 'second_order' out."
        for n in others:
            return f"no tape runs through {graph.title(n)} beside tangents: set gradient=forward there, or unroll here."
        for what in ("teacher", "penalty_update", "penalty_moved", "stagger"):
            if getattr(level, what):
                return f"gradient=forward knows no '{what}': drop it, or set gradient=unroll, second_order=true."
        if level.normalize in COSINES or any(x.null_step for n, x in enumerate(graph.levels) if x.moves == TASK):
            return "gradient=forward knows neither normalize=cosine nor null steps of level 1: drop them."
        return _too_many(graph, number) or super().refusal(graph, number)

    def arrive(self, carried: dict[str, Any], slot: SlotState, signal: Signal, moved: Params) -> None:
        """Find the tangents of the gradient and of the loss at the present point."""
        units = _units(moved)
        if carried.get("at") != [slot.draw, slot.version]:
            if signal.bad is not None and carried and carried["at"][0] == slot.draw:
                _take_back(carried, slot, signal.bad)
            else:  # another model
                carried.clear()
                carried["task"] = [[torch.zeros_like(p) for p in slot.params] for _ in units]
        carried["at"] = [slot.draw, slot.version]
        reached = [i for i, g in enumerate(signal.grads or []) if g is not None]
        pairs, loss = [(i, t, g) for i, (t, g) in zip(reached, signal.pairs, strict=True)], signal.loss
        live = [(i, g) for i, _, g in pairs if g.requires_grad]
        ins = [(i, t) for i, t, _ in pairs if t.requires_grad]
        direct = [(j, d) for j, d in enumerate(_direct(loss, moved)) if d is not None]
        carried["grads"] = []
        for task, unit in zip(carried["task"], units, strict=True):
            # The Hessian of f by (θ, φ) is symmetric: its rows of θ times (θ̇, eₖ).
            along = [*(task[i] for i, _ in live), *(unit[j] for j, _ in direct)]
            found = _transposed([*(g for _, g in live), *(d for _, d in direct)], [t for _, t in ins], along)
            here = dict(zip([i for i, _ in ins], found, strict=True))
            carried["grads"].append([here.get(i, torch.zeros_like(p)) for i, p in enumerate(slot.params)])
        carried["loss"] = _slopes(carried, loss, pairs, moved)

    def step(self, carried: dict[str, Any], crossing: Crossing, moved: Params) -> None:
        """Push the tangents through a step of a level that moves the task."""
        number, index = crossing.number, crossing.index
        before = carried.setdefault("states", {}).get(number, [])
        back = carried.setdefault("back", {})
        back |= {i: [p.detach(), *(task[i] for task in carried["task"])]
                 for i, p in zip(index, crossing.point, strict=True)}  # fmt: skip
        grads = [(i, g) for i, g in zip(index, crossing.signal.grads or [], strict=True) if g is not None]
        ins = [*crossing.point, *(g for _, g in grads), crossing.signal.loss, *moved, *_flat(crossing.states)]
        tangents = []
        for k, unit in enumerate(_units(moved)):
            task, gradient = carried["task"][k], carried["grads"][k]
            states = [before[p][k] if p < len(before) and before[p][k] else [torch.zeros_like(t) for t in own]
                      for p, own in enumerate(crossing.states)]  # fmt: skip
            along = [*(task[i] for i in index), *(gradient[i] for i, _ in grads)]
            tangents.append([*along, carried["loss"][k], *unit, *_flat(states)])
        found = _through([*crossing.moved, *_flat(crossing.after)], ins, tangents)
        for task, new in zip(carried["task"], found, strict=True):
            for i, value in zip(index, new, strict=False):
                task[i] = value
        rests = [iter(new[len(index) :]) for new in found]
        carried["states"][number] = [[[next(rest) for _ in own] for rest in rests] for own in crossing.after]
        carried["at"] = [crossing.slot.draw, crossing.slot.version]

    def slopes(self, carried: dict[str, Any], slot: SlotState, signal: Signal, moved: Params) -> list[Tensor]:
        """∇fᵀθ̇, and what the loss reads of φ itself."""
        places = {id(p): i for i, p in enumerate(slot.params)}
        if any(id(t) not in places for t, _ in signal.pairs):  # of the point whose last step was then taken back
            found: list[Tensor] = carried["loss"]
            return found
        return _slopes(carried, signal.loss, [(places[id(t)], t, g) for t, g in signal.pairs], moved)

    def close(self, level: Level, window: Window, slots: Sequence[str], moved: Params, how: Closing) -> Signal:
        """The derivative of the window's score, from those of its losses."""
        records, start = [r for r in window.records[0] if r.loss is not None], window.start[0]
        value, weights = score(
            level.objective or "mean", [r.loss.detach() for r in records], None if start is None else start.loss
        )
        slopes = [(w, r.slopes) for w, r in zip(weights, [start, *records], strict=True) if r and r.slopes]
        flat = [torch.stack([(w * s[k]).mean() for w, s in slopes]).sum() for k in range(len(_units(moved)))]
        parts = torch.stack(flat).split([p.numel() for p in moved])
        grads = [part.view(p.shape).to(p) for part, p in zip(parts, moved, strict=True)]
        known = any(bool(g.any()) for g in grads)
        return Signal(value.mean(), grads if known else None)


def _too_many(graph: Structure, number: int) -> str | None:
    slot = graph.levels[number].moves
    if slot not in graph.slots:
        return None
    sizes = [p.numel() for p in graph.slots[slot].parameters()]
    count = sum(sizes[i] for i in graph.moved(number, graph.names[slot]))
    if count <= MOST:
        return None
    return (f"gradient=forward carries a copy of the model for each number it moves, and '{slot}' has {count:,}, more "
            f"than {MOST}: name fewer of them, or set gradient=unroll.")  # fmt: skip


def _units(moved: Params) -> list[Params]:
    """For each number of ``moved`` the direction of that number alone."""
    found = []
    for i, p in enumerate(moved):
        for row in torch.eye(p.numel(), dtype=p.dtype, device=p.device):
            found.append([row.view(p.shape) if i == j else torch.zeros_like(q) for j, q in enumerate(moved)])
    return found


def _flat(lists: Sequence[Params]) -> Params:
    return [t for each in lists for t in each]


def _take_back(carried: dict[str, Any], slot: SlotState, bad: Tensor) -> None:
    """Go back to the tangents before the last step, for the tasks of which the guard took that back."""
    for i, (point, *tangents) in carried["back"].items():
        same = slot.params[i].detach() == point
        back = bad & (same.reshape(len(same), -1).all(1) if bad.ndim else same.all())
        for task, before in zip(carried["task"], tangents, strict=True):
            task[i] = trees.choose(back, before, task[i])


def _slopes(
    carried: dict[str, Any], loss: Tensor, pairs: Sequence[tuple[int, Tensor, Tensor]], moved: Params
) -> list[Tensor]:
    """The derivative of a loss by each number that is moved, from its gradients by the model's tensors in places."""
    found = []
    for task, (own,) in zip(carried["task"], _through([loss], moved, _units(moved)), strict=True):
        each = [g.detach() * task[i] for i, _, g in pairs]
        found.append(own + sum(x.reshape(len(x), -1).sum(1) if loss.ndim else x.sum() for x in each))
    return found


def _direct(loss: Tensor, moved: Params) -> list[Tensor | None]:
    """The gradient of a live loss by what is moved, where it reads that, with a graph."""
    if not loss.requires_grad:
        return [None] * len(moved)
    found = torch.autograd.grad(loss.sum(), moved, create_graph=True, allow_unused=True)
    return [g if g is not None and g.requires_grad else None for g in found]


def _transposed(outs: Params, ins: Params, along: Params) -> Params:
    """Σ ∂outs/∂ins ᵀ ``along``, without a graph; the graph stays."""
    if not outs or not ins:
        return [torch.zeros_like(t) for t in ins]
    found = torch.autograd.grad(outs, ins, along, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, ins, strict=True)]


def _through(outs: Params, ins: Params, tangents: Sequence[Params]) -> list[Params]:
    """∂outs/∂ins times each of ``tangents``: the derivative of a transposed product, which is linear, by its factor."""
    live = [n for n, o in enumerate(outs) if o.requires_grad]
    probes = [torch.zeros_like(outs[n], requires_grad=True) for n in live]
    back: Sequence[Tensor | None] = [None] * len(ins)
    if live:
        with torch.enable_grad():
            back = torch.autograd.grad([outs[n] for n in live], ins, probes, create_graph=True, allow_unused=True)
    linked = [j for j, b in enumerate(back) if b is not None and b.requires_grad]
    found = []
    for along in tangents:
        made = _transposed([b for j in linked if (b := back[j]) is not None], probes, [along[j] for j in linked])
        at = dict(zip(live, made, strict=True))
        found.append([at[n] if n in at else torch.zeros_like(o) for n, o in enumerate(outs)])
    return found
