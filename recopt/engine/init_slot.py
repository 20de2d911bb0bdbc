"""The slot ``init``: the point that every episode of a task starts from, moved by a level.

With a level along gradients above it the task's values begin as a copy of it that carries its graph: what an unroll
then differentiates by the start is MAML (Finn et al. 2017, 1703.03400), or its first-order form.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..checking.errors import RecoptError
from ..contracts import trees
from ..levels.graph import Graph
from ..levels.level import INIT, TASK
from ..levels.state import RunState, SlotState
from .loss_slot import Held, values_of


def started(graph: Graph, model: nn.Module) -> Graph:
    """``graph`` with the task's first start in the slot, if a level moves it.

    Raises:
        RecoptError: if episodes are held near it, and moved by scores at points that nothing holds.
    """
    trying = [n for n in graph.movers[TASK] if graph.order(n) == 0]
    if trying and any(graph.levels[n].proximal for n in graph.movers[INIT]):
        raise RecoptError(f"'proximal' is in gradients, and {graph.title(trying[0])} reads none: drop it, or move the "
                          "task by gradients.")  # fmt: skip
    return graph.with_values(INIT, Held(values_of(model))) if graph.movers[INIT] else graph


def taped(graph: Graph) -> bool:
    """True if a level moves the start along gradients."""
    return any(graph.levels[n].taping for n in graph.movers[INIT])


def begin(graph: Graph, state: RunState, names: Sequence[str], tasks: int) -> None:
    """Let the task's values, fresh from a draw, begin at the start as far as levels move it.

    Args:
        names: of the task's movable parameters.
        tasks: those side by side; 0 for one without a leading dimension.

    Raises:
        RecoptError: if they have other names or shapes than those of the first draw.
    """
    start = state.slots.get(INIT)
    if start is None:
        return
    slot = state.task
    assert isinstance(start, SlotState)
    shapes = [p.shape[1:] if tasks else p.shape for p in slot.params]
    if list(names) != graph.names[INIT] or shapes != [p.shape for p in start.params]:
        raise RecoptError(
            f"Draw {slot.draw} of the task has other parameters than the first one, and all episodes are to start from "
            "one point: let every task of the family have a model of the same form, or drop 'init:'."
        )
    moved = {i for n in graph.movers[INIT] for i in graph.moved(n, names)}
    slot.params = [_copy(start.params[i], tasks) if i in moved else p for i, p in enumerate(slot.params)]
    if not taped(graph):
        slot.params = trees.detach(slot.params)


def _copy(value: Tensor, tasks: int) -> Tensor:
    with torch.enable_grad():
        return (value.expand(tasks, *value.shape) if tasks else value).clone()


def pulled(
    graph: Graph, state: RunState, loss: Tensor, grads: list[Tensor | None] | None, live: bool
) -> tuple[Tensor, list[Tensor | None] | None]:
    """A training loss and its gradient with ½ λ ‖θ − φ‖² of levels that hold θ near the start φ that they move.

    With it θ at rest depends on φ (Rajeswaran et al. 2019, 1909.04630, eq. 3). ``live``: with its graph.
    """
    for n in graph.movers[INIT]:
        weight, start = graph.levels[n].proximal, state.slots[INIT].params
        if weight is None or grads is None:
            continue
        grads = list(grads)
        with torch.set_grad_enabled(live):
            for i in graph.moved(n, graph.names[INIT]):
                gap = state.task.params[i] - start[i]
                loss = loss + weight / 2 * (gap * gap).reshape(*loss.shape, -1).sum(-1)
                known = grads[i]
                grads[i] = weight * gap if known is None else known + weight * gap
    return loss, grads


def reconnect(graph: Graph, state: RunState, tasks: int) -> None:
    """Tie a loaded state to its start again, if its episode has not made a step."""
    if INIT in state.slots and taped(graph) and state.task.age == 0 and TASK not in state.resets:
        begin(graph, state, graph.names[INIT], tasks)
