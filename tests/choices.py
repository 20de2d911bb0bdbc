"""A run whose rate gets better and then worse, so that there is something to choose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from recopt import Graph, Level, Params, Result, State, Strategy, Trial
from recopt.running.repeats import fixed
from recopt.stacks.plugins import load_strategy

CHOOSE = {"every": 20, "tasks": 4, "steps": 10}


class Up(Strategy):
    """Multiplies a rate by e^0.1, whatever comes of it."""

    def forward(
        self, point: Params, trials: Sequence[Trial], state: State, rng: torch.Generator
    ) -> tuple[Params, State]:
        return [torch.full_like(p, 0.1) for p in point], state


def rising() -> Graph:
    """SGD on the task, from a rate that is too small, which is raised until it is too large."""
    sgd = load_strategy("sgd")(lr=0.05)
    levels = [Level(moves="task", by="sgd"), Level(moves="sgd", by="up", every=5, normalize="none", guard=False)]
    return Graph(levels, {"sgd": sgd, "up": Up()})


def exported(folder: Path) -> Graph:
    """What an export of such a graph does to the task."""
    sgd = load_strategy("sgd")()
    with torch.no_grad():
        next(sgd.parameters()).copy_(load_file(str(folder / "strategies.safetensors"))["sgd/lr"])
    return fixed([Level(moves="task", by="sgd")], {"sgd": sgd})


def rate(graph: Graph) -> float:
    """The rate of its SGD."""
    return graph.slots["sgd"].lr.item()  # type: ignore


def same(one: Result, other: Result) -> None:
    """That two runs have the same record, but for what is chosen in them, and the same budget but for the seconds."""
    keys = [[key for key in run.trace.keys() if not key[1].startswith("choose_")] for run in (one, other)]  # noqa: SIM118
    assert keys[0] == keys[1]
    for key in keys[0]:
        for a, b in zip(one.trace.series(*key), other.trace.series(*key), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=str(key))
    assert one.before == other.before
    assert one.after == other.after
    spent = [[{k: v for k, v in row.items() if k != "seconds"} for row in run.budget.plain()] for run in (one, other)]
    assert spent[0] == spent[1]
