"""Tasks divided among two processes, three of them so that one has two: everything is as in one process."""

from __future__ import annotations

import math
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import FileStore, PrefixStore

from recopt.contracts.task import Batch, Split
from recopt.contracts.trees import tensors
from recopt.engine import checkpoint
from recopt.engine.engine import Engine
from recopt.engine.measure import measure
from recopt.engine.shares import divided as divided_among
from recopt.engine.shares import joined
from recopt.ranks.link import Link, RankFailed
from recopt.ranks.shared import ONE, Ranks

from .. import engines
from ..processes import of_two

TASKS, STEPS, HALF = 3, 28, 17


class Rough(engines.Regression):
    """A small net on batches of which some are bad: for all tasks, for one, for two at once."""

    def batch(self, index: int, split: Split = "train") -> Batch:
        x, y = super().batch(index, split)
        odd = self.seed % 3
        if split == "train":
            y = y + {4: math.nan, 5: math.nan, 9 + odd: math.inf, 14: 1e3 * (odd == 1)}.get(index, 0.0)
            y = y + (math.nan if index in (19, 20) and odd else 0.0)
        return x, y


CASES: dict[str, tuple[str, engines.Settings]] = {
    "hyperparameters": ("adam/sgd", {}),
    "a tower": ("adam(lr=0.01)/adam/sgd", {2: {"every": 2}, 3: {"every": 2}}),
    "a learned rule": ("lstm/adam", {2: {"every": 4}}),
    "that moves itself": ("lstm@a/lstm@a", {2: {"every": 4}}),
    "held out": ("lstm/adam", {2: {"every": 3, "on": "valid", "normalize": "rms_all", "objective": "improvement"}}),
    "episodes": ("lstm/adam", {2: {"every": 4, "episode": 8, "curriculum": 3}}),
    "by turns": ("lstm/adam", {2: {"every": 3, "episode": 9, "stagger": True}}),
    "imitation": ("lstm/adam", {2: {"every": 4, "teacher": "adam(lr=0.01)", "imitate": 6, "penalty_update": 0.1}}),
    "exact": ("adam(lr=0.02)/adam", {2: {"every": 3, "second_order": True, "gradient": "unroll"}}),
    "exact, bad batches within a window": ("adam(lr=0.02)/adam", {2: {"every": 5, "second_order": True}}),
    "in segments": ("adam(lr=0.02)/adam", {2: {"every": 6, "second_order": True, "segments": 3}}),
    "tangents": ("adam(lr=0.02)/adam[*]", {2: {"every": 3, "gradient": "forward"}}),
    "tangents of groups, held out": (
        "adam[*weight]+sgd(lr=0.02)[*bias]/adam",
        {n: {"every": 3, "gradient": "forward", "on": "valid", "objective": "improvement"} for n in (3, 4)}),
    "cosine": ("sgd(lr=0.05)/adam", {2: {"every": 3, "normalize": "cosine"}}),
    "clipped": ("lstm/adam", {1: {"average": 8}, 2: {"every": 4, "normalize": "clip_each", "penalty_moved": 0.01}}),
    "steps back": ("sgd(lr=0.4)/sgd", {1: {"null_step": True}, 2: {"every": 2}}),
    "groups": ("adam[*weight]+sgd(lr=0.02)[*bias]/hypergradient", {3: {"every": 2}}),
    "scores": ("sgd(lr=0.1)/annealing", {2: {"every": 3}}),
    "scores of a tower": ("lstm/adam/random-search", {2: {"every": 3}, 3: {"every": 2}}),
    "members": ("sgd(lr=0.1)/pbt", {2: {"every": 3, "population": 3}}),
    "es": ("lstm/adam", {2: {"every": 3, "gradient": "es"}}),
    "pes": ("sgd(lr=0.05)/adam", {2: {"every": 3, "gradient": "pes", "episode": 9}}),
    "nres": ("lstm/adam", {2: {"every": 3, "gradient": "nres", "episode": 9}}),
    "a switch": ("adam(lr=0.01)/switch(among=[sgd, adagrad])/annealing(moves=one)[which, every]",
                 {2: {"every": 2}, 3: {"every": 2}}),
    "a switch of the first level": ("switch(among=[sgd, adam])/annealing[which]", {2: {"every": 2}}),
    "paces": ("sgd(lr=0.05)/sgd/random-search(population=2)[every]", {2: {"every": 2}, 3: {"every": 3}}),
    "no guard": ("adam/adam", {0: {"guard": False}, 2: {"every": 3}}),
}  # fmt: skip
"""Of each the stack and its settings."""
SAVED = ("in segments", "tangents", "pes", "a learned rule", "by turns", "scores", "members", "imitation")
Divided = tuple[Path, list[dict[str, Any]]]


def made(name: str, ranks: Ranks = ONE) -> Engine:
    stack, settings = CASES[name]
    task = engines.Regression(seed=5) if name == "no guard" else Rough(seed=5)
    return engines.engine(task, stack, settings, tasks=TASKS, ranks=ranks)


def found(engine: Engine) -> dict[str, Any]:
    """All that an engine is and has recorded; what is of a task, with that in front."""
    engine.keep_up()
    state, sink = engine.state, engine.sink
    assert isinstance(sink, engines.Recorder) and state.guard is not None
    numbers: list[float] = [
        state.step,
        *state.guard.counts.values(),
        *(n for own in state.levels for n in own.counts.values()),
    ]
    numbers += [n for row in engine.budget.plain() for key, n in row.items() if key != "seconds"]
    states: dict[bool, list[Any]] = {
        ours: [
            t.tolist()
            for own, level in zip(state.levels, engine.levels, strict=True)
            for t in tensors([part.strategy for part in own.parts])
            if (level.moves == "task") == ours
        ]
        for ours in (True, False)
    }
    return {
        "task": [t.tolist() for t in engines.params(engine)],
        "shared": [t.tolist() for name in engine.graph.slots for t in engines.params(engine, name)],
        "states": states[True],
        "strategies": states[False],
        "numbers": numbers,
        "record": [(n, step, {k: float(v) for k, v in values.items()}) for n, step, values in sink.points],
        "shrink": [own.shrink for own in state.guard.tasks],
        "measured": measure(engine, "valid"),
    }


def work(folder: Path, rank: int) -> dict[str, Any]:
    """Everything that is looked at, in one process of two."""
    warnings.simplefilter("ignore")
    store = FileStore(str(folder / "store"), 2)
    ranks = Ranks(Link(rank, 2, store, store, 100), TASKS)
    out: dict[str, Any] = {}
    for name in CASES:
        one = made(name, ranks)
        one.run(HALF)
        if name in SAVED:
            checkpoint.save(one, None if rank else folder / f"{name}.of-two", note={"name": name})
        one.run(STEPS)
        out[name] = found(one)
    for name in SAVED:
        for file in (f"{name}.of-two", f"{name}.of-one"):
            other = made(name, ranks)
            assert checkpoint.load(other, None if rank else folder / file) == {"name": name}
            other.run(STEPS)
            out[file] = found(other)
    out["late"] = late(Link(rank, 2, PrefixStore("late", store), store, 1))  # last, as its sum has no end
    return out


def late(link: Link) -> tuple[str, bool]:
    """How each process fails as the second comes too late to a sum."""
    if link.rank:
        link.store.wait(["failed"])
    with pytest.raises(RankFailed) as told:
        link.hear() if link.rank else link.sum(torch.zeros(1))
    return str(told.value), told.value.lost


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Divided:
    folder = tmp_path_factory.mktemp("two")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in SAVED:
            one = made(name)
            one.run(HALF)
            checkpoint.save(one, folder / f"{name}.of-one", note={"name": name})
    return folder, of_two(partial(work, folder), folder)


def check_alike(parts: list[dict[str, Any]], whole: dict[str, Any], close: float = 1e-10) -> None:
    for key in ("task", "states"):
        both = zip(*(part[key] for part in parts), whole[key], strict=True)
        for one, other, expected in both:
            near(one + other, expected, close)
    for part in parts:
        for key in ("shared", "strategies"):
            for mine, expected in zip(part[key], whole[key], strict=True):
                near(mine, expected, close)
        assert part["numbers"] == whole["numbers"]
        assert part["measured"] == pytest.approx(whole["measured"], rel=close, abs=close)
        assert [(n, step, sorted(values)) for n, step, values in part["record"]] == [
            (n, step, sorted(values)) for n, step, values in whole["record"]
        ]
        for (_, _, mine), (_, _, expected) in zip(part["record"], whole["record"], strict=True):
            assert mine == pytest.approx(expected, rel=close, abs=close, nan_ok=True)
    assert [x for part in parts for x in part["shrink"]] == whole["shrink"]


def near(mine: Any, expected: Any, close: float) -> None:
    both = (torch.tensor(values, dtype=torch.float64) for values in (mine, expected))
    torch.testing.assert_close(*both, rtol=close, atol=close)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_two_processes_are_as_one(name: str, divided: Divided) -> None:
    one = made(name)
    one.run(STEPS)
    check_alike([part[name] for part in divided[1]], found(one))


@pytest.mark.parametrize("name", SAVED)
def test_a_checkpoint_of_two_processes_goes_on_bit_for_bit_in_two(name: str, divided: Divided) -> None:
    for part in divided[1]:
        whole, resumed = part[name], part[f"{name}.of-two"]
        count = len(resumed["record"])
        assert 0 < count < len(whole["record"])
        assert repr({**whole, "record": whole["record"][-count:]}) == repr(resumed)


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_goes_on_in_another_number_of_processes(name: str, divided: Divided) -> None:
    folder, parts = divided
    one, resumed = made(name), made(name)
    one.run(STEPS)
    whole = found(one)
    assert checkpoint.load(resumed, folder / f"{name}.of-two") == {"name": name}
    resumed.run(STEPS)
    expected = found(resumed)
    check_alike([part[f"{name}.of-one"] for part in parts], {**whole, "record": expected["record"]})
    for key in ("task", "shared", "states", "strategies"):
        for mine, other in zip(expected[key], whole[key], strict=True):
            near(mine, other, 1e-10)
    assert expected["record"] == [
        (n, step, pytest.approx(values, rel=1e-10, abs=1e-10, nan_ok=True))
        for n, step, values in whole["record"][-len(expected["record"]) :]
    ]


def test_a_process_that_does_not_come_is_named_to_all(divided: Divided) -> None:
    words = "Process 0 of 2 has waited 1 s for process 1: it hangs, or a step of its tasks takes longer"
    for part in divided[1]:
        text, lost = part["late"]
        assert text.startswith(words)
        assert lost


@pytest.mark.filterwarnings("ignore:.*estimates from trials what")
def test_perturbations_are_common_to_the_tasks_of_all_processes() -> None:
    one = engines.engine(engines.Regression(seed=5), CASES["pes"][0], CASES["pes"][1], tasks=3)
    one.state.levels[1].carried = {"weights": [torch.arange(10.0)]}  # as between a window and the next
    both = joined([one.state, one.state], one.graph)
    assert len(both.task.params[0]) == 6
    mine = divided_among(both, one.graph, range(3, 6), lambda found: found[0])
    for state in (both, mine):
        assert torch.equal(state.levels[1].carried["weights"][0], torch.arange(10.0))
