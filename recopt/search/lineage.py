"""The lineage of members that keep runs of their own, in the record.

The rest of the record shows the best member of each window, which need not go on from the best of the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..levels.state import RunState, Search
from ..levels.structure import Structure

Point = tuple[int, int, dict[str, Any]]


def descent(graph: Structure, number: int, search: Search, ends: Sequence[RunState], winner: int) -> list[Point]:
    """Points for the record of what the members of one search of level ``number`` did below it.

    Of level ``number``: the trial that was ``chosen``, and ``memberK.from``, the trial of the search before that
    member K goes on from (-1: none). Of each level below whose strategy is moved: ``memberK.updates``, its updates
    in the window, and by update (``memberK.update``, counted from 0) the values that it was made with.
    """
    step, points = ends[winner].step, list[Point]()
    for k, end in enumerate(ends):
        new = end.log[len(search.start.log) :]
        points.append((number + 1, step, {f"member{k}.from": search.of[k] if search.of else -1}))
        for m in sorted(graph.below(number)):
            slot, count = graph.levels[m].by, 0
            for at, when, values in new if graph.movers[slot] else ():
                count += at == m + 1 and "update_norm" in values
                if at == m + 1 and values.keys() <= graph.slots[slot]._domains.keys():
                    named = {f"member{k}.{name}": value for name, value in values.items()}
                    points.append((at, when, {f"member{k}.update": count - 1, **named}))
            points.append((m + 1, step, {f"member{k}.updates": count}))
    return [*points, (number + 1, step, {"chosen": winner})]
