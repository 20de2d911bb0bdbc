"""One number of a hyperparameter for each coordinate of what its strategy moves (``scope: coordinate``).

    x ← x − P ∘ g,    P moved by −g ∘ ∇f(x − P ∘ g)

is ``sgd/…[lr]`` with such a scope: online scaled gradient methods (Gao et al. 2025, 2505.23081), or hypergradient
descent with a diagonal (Chu et al. 2025, 2502.11229). The strategy's slot then holds a vector, over the coordinates of
all tensors in their order. The level that moves it sees it as one tensor; the strategy is asked tensor by tensor, with
its share of the numbers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

from torch import Tensor, nn

from ..checking.errors import RecoptError
from ..contracts.domains import Domain
from ..contracts.strategy import Params
from ..levels.graph import Graph
from ..levels.level import COSINES, TASK
from .rule import text_of

STRIDE = 1.0
"""The farthest a level above moves the coordinate of a bounded domain in one step."""


def wide(graph: Graph, number: int) -> bool:
    """True if the strategy of level ``number`` has a number for each coordinate of what the level moves."""
    return any(graph.levels[n].scope for n in graph.movers.get(graph.levels[number].by, []))


def widened(graph: Graph, points: Sequence[Tensor]) -> Graph:
    """``graph`` with strategies that have as many numbers as levels ask for.

    Args:
        points: what the levels of the task may move, in the order of its names, of one task.

    Raises:
        RecoptError: if a level asks for that where it means nothing.
    """
    asking = [n for n, level in enumerate(graph.levels) if level.scope]
    if not asking:
        return graph
    made = copy.copy(graph)
    made.slots = dict(graph.slots)
    for number in asking:
        _check(graph, number)
        slot = graph.levels[number].moves
        own = graph.moved(graph.subjects[number][0], graph.names[TASK])
        count = sum(points[i].numel() for i in own)
        strategy = made.slots[slot] = copy.deepcopy(made.slots[slot])
        names = graph.names[slot]
        for name in (names[i] for i in graph.moved(number, names)):
            one = dict(strategy.named_parameters())[name].detach()
            strategy._parameters[name] = nn.Parameter(one.expand(count).clone())
    return made


def _check(graph: Graph, number: int) -> None:
    level, title = graph.levels[number], f"Level{graph.title(number).removeprefix('level')}: scope=coordinate"
    by = [m for m, other in enumerate(graph.levels) if other.by == level.moves]
    if level.moves not in graph.slots or [graph.levels[m].moves for m in by] != [TASK]:
        raise RecoptError(
            f"{title} is of hyperparameters of one rule that moves the model: set it on the level right above that."
        )
    rule = text_of(graph.slots[level.moves])
    if rule is None or rule.whole:
        raise RecoptError(
            f"{title} needs a rule that treats each coordinate by itself, which '{level.moves}' does not: take sgd, "
            "adam, rmsprop, adagrad or a recopt.Rule of your own that reads no sums."
        )
    if level.tries or not graph.order(number) or level.gradient == "forward":
        raise RecoptError(
            f"{title} moves as many numbers as the model has, along a derivative by each: take a strategy that reads "
            f"gradients, and gradient=online or unroll, not {level.gradient}."
        )
    if level.normalize in COSINES:
        raise RecoptError(
            f"{title} under normalize={level.normalize} would hardly move any: the cosine is of all coordinates "
            "together. Take adagrad or adam there, or normalize=rms_all."
        )


def shares(values: Params, point: Sequence[Tensor], tasks: int) -> list[Params]:
    """Tensor by tensor of ``point``, the ``values`` of a strategy's parameters for its coordinates, in its shape."""
    shapes = [p.shape[1:] if tasks else p.shape for p in point]
    sizes = [shape.numel() for shape in shapes]
    if any(v.ndim and len(v) != sum(sizes) for v in values):
        raise RecoptError("scope=coordinate is for tasks whose models have one shape: these differ from draw to draw.")
    each = [
        [part.view(shape) for part, shape in zip(v.split(sizes), shapes, strict=True)] if v.ndim else [v] * len(sizes)
        for v in values
    ]
    return [list(row) for row in zip(*each, strict=True)]


def kept_short(graph: Graph, number: int, point: Params, update: Params, counts: dict[str, int]) -> Params:
    """The update of a guarded level that moves numbers for each coordinate: none beyond STRIDE, or the domain's ends.

    Unlike the few numbers of a rule, which are shortened together, each is cut by itself: what happens at one
    coordinate says nothing of the others. ``counts`` of the level has how often that was needed.
    """
    level = graph.levels[number]
    if not (level.scope and level.guard):
        return update
    names, short, wild = graph.names[level.moves], Params(), False
    for i, p, u in zip(graph.moved(number, names), point, update, strict=True):
        domain = graph.slots[level.moves]._domains[names[i]]
        (low, high), most = domain.ends(), math.inf if type(domain) is Domain else STRIDE
        wild = wild or bool((u.abs() > most).any())
        short.append(u.clamp(-most, most).clamp(low - p, high - p))
    counts["bounded"] = counts.get("bounded", 0) + wild
    return short
