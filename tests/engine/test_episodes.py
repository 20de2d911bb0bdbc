"""Fresh starts: episodes that grow, and tasks that start by turns."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Generator, nn

from recopt.checking.errors import RecoptError
from recopt.contracts.settings import positive
from recopt.contracts.strategy import Params, State, Strategy, Trial
from recopt.contracts.task import Task
from recopt.engine.engine import Engine
from recopt.engine.measure import models
from recopt.engine.stagger import KINDS
from recopt.levels.seeds import mix
from recopt.tasks import make

from .. import engines


def lengths(made: Engine) -> list[int]:
    """The lengths of the episodes, from the ages at which the task was drawn anew."""
    assert isinstance(made.sink, engines.Recorder)
    return [int(n) for n in made.sink.series(2, "episode")]


@pytest.mark.parametrize("stack", ["sgd/adam", "sgd/annealing"])
def test_a_curriculum_of_lengths(stack: str) -> None:
    made = engines.engine(engines.Bowl(seed=3), stack, {2: {"every": 2, "episode": 16, "curriculum": 12}})
    draws = []
    while made.state.step < 120:
        made.step()
        draws.append((made.state.slots["task"].draw, made.state.slots["task"].age))
    # After k of 12 steps of level 2 an episode may have 8^(k/12) windows of 2 updates: 1, 1, 1, 1, 2, 2, 2, 3, 4, 4, …
    found = lengths(made)
    assert found[:6] == [2, 2, 2, 2, 4, 8]
    assert set(found[6:]) == {16}
    assert max(age for _, age in draws) == 16


def test_a_curriculum_begins_anew_with_what_is_moved() -> None:
    settings = {
        2: {"every": 1, "gradient": "unroll", "episode": 8, "curriculum": 4},
        3: {"every": 2, "gradient": "unroll", "episode": 20},
    }
    made = engines.engine(engines.Bowl(seed=3), "sgd/lstm/sgd", settings)
    made.run(70)
    assert made.state.slots["sgd"].draw >= 2
    assert lengths(made).count(1) >= 3
    assert max(lengths(made)) == 8


# by turns


class Normed(engines.Regression):
    """With batch statistics, so that buffers start afresh too."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))


class Looped(Normed):
    vectorize = False


class Counting(Strategy):
    """Momentum with a corrected start: it counts its steps, and only calculates with the count."""

    lr = positive(0.05)

    def init(self, point: Params) -> State:
        return {"t": 0, "warm": False, "m": [torch.zeros_like(p) for p in point]}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        t, m = state["t"] + 1, [0.9 * m + 0.1 * g for m, g in zip(state["m"], trials[0].grads or [], strict=True)]
        return [-self.lr * x / (1 - 0.9**t) for x in m], {"t": t, "warm": True, "m": m}


class Asking(Counting):
    """The same, but it asks whether its first step is over, which takes a plain number."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        return super().forward(point, trials, {**state, "t": 5} if state["t"] == 0 else state, rng)


class Halves(Counting):
    """Its count goes by halves, and becomes a float."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        found, after = super().forward(point, trials, {**state, "t": 2 * state["t"]}, rng)
        return found, {**after, "t": after["t"] / 2}


class Turned(Counting):
    """Adam's two means, which it gives in another order than it began with them."""

    def init(self, point: Params) -> State:
        return {"m": [torch.zeros_like(p) for p in point], "v": [torch.ones_like(p) for p in point]}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        m, v = ([0.9 * x + 0.1 * g**k for x, g in zip(state[name], trials[0].grads or [], strict=True)]
                for name, k in (("m", 1), ("v", 2)))  # fmt: skip
        return [-self.lr * a / (b + 0.1).sqrt() for a, b in zip(m, v, strict=True)], {"v": v, "m": m}


class Stepping(Strategy):
    """A zero-order rule on the task: half its first step at every odd one, if that is better."""

    order = 0
    vectorize = False
    lr = positive(0.05)

    def init(self, point: Params) -> State:
        return {"t": 0}

    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        return [point, [p + self.lr * (-1.0) ** state["t"] / (1 + state["t"]) for p in point]]

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        best = min(trials, key=lambda trial: float(trial.loss))  # type: ignore[arg-type]
        return [a - b for a, b in zip(best.point, point, strict=True)], {"t": state["t"] + 1}


RULES: dict[str, Any] = {
    "counting": Counting,
    "asking": Asking,
    "halves": Halves,
    "turned": Turned,
    "stepping": Stepping,
}
STAGGER = {"every": 3, "episode": 12, "stagger": True}
TAPED = {**STAGGER, "gradient": "unroll"}
TURNS: dict[str, tuple[str, str, type[Task], dict[int, dict[str, Any]]]] = {
    "lstm": ("lstm", "/sgd(lr=1e-30)", Normed, {2: TAPED}),
    "a count": ("counting", "/sgd(lr=1e-30)", Normed, {2: TAPED}),
    "a count by halves": ("halves", "/sgd(lr=1e-30)", Normed, {2: TAPED}),
    "a state in another order": ("turned", "/sgd(lr=1e-30)", Normed, {2: TAPED}),
    "a count that is asked": ("asking", "/sgd(lr=1e-30)", Normed, {2: TAPED}),
    "adam, looped tasks": ("adam(lr=0.02)", "/sgd(lr=1e-30)", Looped, {2: TAPED}),
    "rms": ("sgd(lr=0.02, momentum=0.5)", "/sgd(lr=1e-30)", Normed, {1: {"normalize": "rms"}, 2: TAPED}),
    "groups": (
        "lstm[*weight]+counting[*bias]", "/sgd(lr=1e-30)", Normed,
        {1: {"normalize": "clip_each"}, 2: {"normalize": "rms"}, 3: TAPED, 4: TAPED}),
    "schedule, exact": (
        "counting", "/sgd(lr=1e-30)", Normed,
        {1: {"schedule": "cosine", "horizon": 9}, 2: {**TAPED, "second_order": True}}),
    "three levels": (
        "counting", "/sgd(lr=1e-30)/sgd(lr=1e-30)", Normed,
        {2: {**TAPED, "second_order": True}, 3: {"gradient": "unroll", "every": 2, "second_order": True}}),
    "trials": ("counting", "/annealing(step=1e-20)", Normed, {2: STAGGER}),
    "trials of trials": ("stepping", "/annealing(step=1e-20)", engines.Bowl, {2: STAGGER}),
}  # fmt: skip


def trajectory(seed: int, family: type[Task], stack: str, settings: engines.Settings) -> list[Params]:
    """What a task run alone goes through: its parameters and buffers after each update."""
    made = engines.engine(family(seed=seed), stack, settings, rules=RULES, seed=seed)
    found = []
    for _ in range(12):
        made.step()
        found.append([*engines.params(made), *(b.clone() for b in made.state.slots["task"].buffers)])
    return found


@pytest.mark.parametrize("name", TURNS)
def test_tasks_that_start_by_turns_go_where_they_would_go_alone(name: str) -> None:
    stack, above, family, settings = TURNS[name]
    made = engines.engine(family(seed=7), stack + above, settings, rules=RULES, seed=7, tasks=4)
    own = {n: settings[n] for n in range(1, 2 + stack.count("+")) if n in settings}
    alone: dict[int, list[Params]] = {}
    last: dict[tuple[int, int], int] = {}
    while made.state.step < 34:
        made.step()
        slot = made.state.slots["task"]
        for n, start in enumerate(made.family.starts(slot)):
            seed, updates = made.family.members(slot)[n].seed, slot.seen - start.seen
            assert seed == (7 if start.draw == n == 0 else mix(7, start.draw, n))
            if seed not in alone:
                alone[seed] = trajectory(seed, family, stack, own)
            last[start.draw, n] = updates
            for a, b in zip([*slot.params, *slot.buffers], alone[seed][updates - 1], strict=True):
                torch.testing.assert_close(a[n].detach(), b, rtol=1e-9, atol=1e-12)
    # First episodes are the shorter the later the place; after that all have twelve updates.
    assert [last[0, n] for n in range(4)] == [12, 9, 6, 3]
    assert {last[1, n] for n in range(4)} == {12}


def test_accounts_of_tasks_by_turns() -> None:
    made = engines.engine(Normed(seed=7), "counting/sgd", {2: TAPED}, rules=RULES, tasks=4)
    made.run(36)
    # An evaluation more for each fresh start: of 4 tasks after 12, 9, 6 and 3 updates, and then every 12.
    starts = [2, 3, 3, 3]
    assert [start.draw for start in made.state.slots["task"].starts] == starts
    assert made.budget.total.gradient == 4 * 36 + sum(starts)


def test_a_curriculum_by_turns() -> None:
    settings = {2: {**TAPED, "curriculum": 30}}
    made = engines.engine(engines.Bowl(seed=7), "counting/sgd", settings, rules=RULES, tasks=4)
    began: list[list[int]] = [[0], [0], [0], [0]]
    while made.state.step < 240:
        made.step()
        for n, start in enumerate(made.family.starts(made.state.slots["task"])):
            if start.seen > began[n][-1]:
                began[n].append(start.seen)
    spans = [[b - a for a, b in itertools.pairwise(task)] for task in began]
    assert all(span[-1] == 12 and span[1] <= 6 for span in spans)
    # Once it is over, the tasks start evenly, one window apart.
    assert sorted(task[-1] % 12 for task in began) == [0, 3, 6, 9]


def test_a_fresh_strategy_starts_the_turns_anew() -> None:
    settings = {2: {**TAPED, "every": 1, "episode": 4}, 3: {"gradient": "unroll", "every": 2, "episode": 6}}
    made = engines.engine(engines.Bowl(seed=7), "counting/lstm/sgd", settings, rules=RULES, tasks=4)
    fresh = 0
    while made.state.step < 40:
        before = made.state.slots["counting"].draw
        made.step()
        slot = made.state.slots["task"]
        if made.state.slots["counting"].draw > before:
            fresh += 1
            assert slot.starts == [] and made.state.levels[1].phase == 0
            assert made.state.due == []
    assert fresh >= 3


def test_families_that_can_start_by_turns() -> None:
    def made(task: Task, tasks: int = 3) -> Engine:
        return engines.engine(task, "sgd/sgd", {2: {**TAPED, "every": 2, "episode": 4}}, tasks=tasks)

    with pytest.raises(RecoptError, match=r"Level 2: 'stagger' .*--tasks 8"):
        made(engines.Bowl(), 1)
    for members in ("quadratic + rosenbrock", "digits(net=mlp) + digits(net=cnn)"):
        with pytest.raises(RecoptError, match=r"differ in kind"):
            made(make("mixture", members=members))
    scaled = made(make("rescaled", of="quadratic(dim=3)"))
    scaled.run(12)
    assert max(start.draw for start in scaled.state.slots["task"].starts) >= 2
    assert {len(held) for held in measured(scaled)} == {3}


def test_a_kind_that_comes_up_late_is_refused_when_it_does() -> None:
    late = make("mixture", members="quadratic + rosenbrock", weights=[40, 1])

    def changes(seed: int) -> int:
        kinds = [type(late.draw([mix(seed, draw, 0) if draw else seed])[0]) for draw in range(60)]
        return next((draw for draw, kind in enumerate(kinds) if kind is not kinds[0]), 0)

    seed, first = next((s, changes(s)) for s in range(1, 100) if changes(s) >= KINDS)
    settings = {0: {"guard": False}, 2: {**TAPED, "every": 1, "episode": 1}}
    made = engines.engine(late, "sgd(lr=1e-6)/sgd", settings, tasks=2, seed=seed)
    with pytest.raises(RecoptError, match="differ in kind"):
        made.run(first + 1)
    assert made.state.step >= first - 1


class Lazy(Counting):
    """It makes its state when it first steps."""

    def init(self, point: Params) -> State:
        return {}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        return super().forward(point, trials, state or super().init(point), rng)


def test_a_state_that_is_made_later_is_refused() -> None:
    made = engines.engine(engines.Bowl(), "lazy/sgd", {2: TAPED}, rules={"lazy": Lazy}, tasks=4)
    with pytest.raises(RecoptError, match="let its init give all of it"):
        made.run(12)


def measured(made: Engine) -> list[list[float]]:
    """The loss of each task at its own point, by the engine and by the model as its user would have it."""
    slot = made.state.slots["task"]
    batch = made.evaluator.batch(slot, slot.seen - 1, "train")
    ours = made.evaluator.value(slot, slot.params, batch).tolist()
    plain = [
        task.loss(module, made.family.place(task.batch(slot.seen - 1 - start.seen))).item()
        for task, module, start in zip(made.family.members(slot), models(made), slot.starts, strict=True)
    ]
    assert ours == pytest.approx(plain, rel=1e-12)
    return [ours, plain]
