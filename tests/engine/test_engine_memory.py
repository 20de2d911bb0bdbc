"""What a run keeps in memory: nothing that grows, and graphs only as long as they are needed."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recopt.contracts.task import Batch, Split
from recopt.engine.engine import Engine

from .. import engines

EXACT = {"gradient": "unroll", "second_order": True}


def live() -> int:
    gc.collect()
    return sum(issubclass(type(item), Tensor) for item in gc.get_objects())


@pytest.mark.parametrize(
    ("stack", "settings"),
    [
        ("adam/sgd/sgd", {}),
        ("adam/sgd/adam", {2: {**EXACT, "every": 4}, 3: {**EXACT, "every": 2}}),
        ("adam/sgd[lr]+sgd@b[beta1]", {2: {"every": 3, "gradient": "unroll"}, 3: {"every": 5, "gradient": "unroll"}}),
        ("adam/hypergradient/annealing", {3: {"every": 10}}),
        ("adam/annealing/annealing@b", {2: {"every": 5}, 3: {"every": 2}}),
        ("adam/annealing@a[lr]+annealing@b[beta*]", {2: {"every": 3}, 3: {"every": 5}}),
        ("lstm/adam", {2: {"every": 5, "episode": 20, "gradient": "unroll"}}),
    ],
)
def test_nothing_grows_over_a_long_run(stack: str, settings: dict[int, dict[str, Any]]) -> None:
    levels = engines.graph(stack, settings)
    made = Engine(engines.Regression(), levels)
    made.run(20)
    gc.collect()
    gc.freeze()  # What was there before is not counted, nor looked through.
    counts = []
    for until in (110, 220):
        made.run(until - 30)
        most = 0
        for at in range(until - 30, until, 3):
            made.run(at)
            most = max(most, live())
        counts.append(most)
    gc.unfreeze()
    assert counts[1] <= counts[0] * 1.2 + 10, counts


@pytest.mark.parametrize("second", [False, True])
def test_what_the_model_saves_is_kept_only_for_second_derivatives(second: bool) -> None:
    class Wide(engines.Regression):
        def model(self) -> nn.Module:
            # Activations of 100,000 numbers, from 300 parameters.
            return nn.Sequential(nn.Linear(3, 60), nn.Tanh(), nn.Linear(60, 1))

        def batch(self, index: int, split: Split = "train") -> Batch:
            g = self.generator(index)
            return torch.randn(2000, 3, generator=g), torch.randn(2000, 1, generator=g)

    made = engines.engine(Wide(), "adam/sgd", {2: {"every": 8, "gradient": "unroll", "second_order": second}})
    made.run(9)
    before = _graph_bytes(made)
    made.run(15)
    after = _graph_bytes(made)
    assert before < 4e5
    assert (after > 6 * 2000 * 60 * 8) == second


@pytest.mark.parametrize(("windows", "cuts"), [((3, 3), 3), ((3, 6), 6), ((3, 5), 15)])
def test_levels_over_one_strategy_keep_its_tape_until_their_windows_close_together(
    windows: tuple[int, int], cuts: int
) -> None:
    settings = {n: {"gradient": "unroll", "every": every} for n, every in zip((2, 3), windows, strict=True)}
    made = engines.engine(engines.Regression(), "adam(lr=0.02)/sgd[lr]+sgd@b[beta1]", settings)
    sizes = []
    for _ in range(32):
        made.step()
        sizes.append(len(_graph(made)))
    # An evaluation closes the windows of the updates before it, so the tape that is cut there begins with the next.
    fell = [step for step in range(1, 32) if sizes[step] < sizes[step - 1]]
    assert fell == list(range(cuts, 32, cuts))
    assert max(sizes) < 1.2 * max(sizes[: cuts + 1])


def _graph(made: Engine) -> set[Any]:
    """The nodes of the open windows' graph."""
    found: set[Any] = set()
    # A model that is moved in place has no graph of its own: the level that moves it keeps the point with one.
    todo: list[Any] = [p.grad_fn for p in [*made.state.slots["task"].params, *made.state.levels[0].live]]
    while todo:
        node = todo.pop()
        if node is not None and node not in found:
            found.add(node)
            todo += [parent for parent, _ in node.next_functions]
    return found


def _graph_bytes(made: Engine) -> int:
    """The bytes of all tensors that the open window's graph keeps alive."""
    gc.collect()
    total = 0
    for node in _graph(made):
        for name in dir(node):
            if name.startswith("_saved_"):
                try:
                    kept = getattr(node, name)
                except RuntimeError:
                    continue
                if isinstance(kept, Tensor):
                    total += kept.numel() * kept.element_size()
    return total
