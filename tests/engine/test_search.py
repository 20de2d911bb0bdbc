"""Zero-order levels above the task: paired trials, rollback without a trace, turns, exact accounts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Generator

from recopt.contracts.settings import option, positive
from recopt.contracts.strategy import Params, State, Strategy, Trial
from recopt.engine.engine import Engine
from recopt.levels.seeds import mix
from recopt.search.choosing import nearest

from .. import engines


class Chooser(Strategy):
    """Proposes the point and two others, and takes the one that it is told to, whatever the scores."""

    order: ClassVar[Any] = 0
    vectorize = False
    take = option(0, "the index of the candidate to take")
    step = positive(0.5, "distance of the others")
    seen: ClassVar[list[list[float]]] = []

    def init(self, point: Params) -> State:
        return {"draws": 0}

    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        noise = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in point]
        return [point, *([p + s * self.step * n for p, n in zip(point, noise, strict=True)] for s in (1.0, -1.0))]

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        self.seen.append([float(t.loss) for t in trials if t.loss is not None])
        taken = trials[self.take].point
        return [q - p for p, q in zip(point, taken, strict=True)], {"draws": state["draws"] + 1}


RULES = {"choose": Chooser}


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    Chooser.seen.clear()


def make(stack: str, settings: engines.Settings | None = None, task: Any = None, **options: Any) -> Engine:
    return engines.engine(task or engines.Noisy(seed=2), stack, settings, rules=RULES, seed=2, **options)


STACKS: dict[str, tuple[str, str, dict[int, dict[str, Any]]]] = {
    "level 2": ("adam(lr=0.02)/choose", "adam(lr=0.02)", {2: {"every": 7}}),
    "level 3": ("adam(lr=0.02)/sgd/choose", "adam(lr=0.02)/sgd", {3: {"every": 6}}),
    "over an open tape": (
        "adam(lr=0.02)/sgd[lr]+choose[beta*]", "adam(lr=0.02)/sgd[lr]",
        {2: {"every": 4, "gradient": "unroll"}, 3: {"every": 7}}),
    "over an exact tape": (
        "adam(lr=0.02)/sgd[lr]+choose[beta*]", "adam(lr=0.02)/sgd[lr]",
        {2: {"every": 4, "gradient": "unroll", "second_order": True}, 3: {"every": 6}}),
    "nested": ("adam(lr=0.02)/choose/choose@b", "adam(lr=0.02)", {2: {"every": 4}, 3: {"every": 2}}),
    "side by side": ("adam(lr=0.02)/choose@a[lr]+choose@b[beta*]", "adam(lr=0.02)", {2: {"every": 4}, 3: {"every": 6}}),
}  # fmt: skip


@pytest.mark.parametrize("name", STACKS)
def test_a_search_that_always_rejects_leaves_no_trace(name: str) -> None:
    stack, without, settings = STACKS[name]
    plain = make(without, {n: s for n, s in settings.items() if n <= without.count("/") + 1})
    plain.run(60)
    searched = make(stack, settings)
    searched.run(60)
    searched.flush()
    assert len(Chooser.seen) >= 6
    assert all(len(set(scores)) == 3 for scores in Chooser.seen[:3])
    assert engines.losses(searched) == engines.losses(plain)
    for slot in plain.state.slots:
        pairs = zip(engines.params(plain, slot), engines.params(searched, slot), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    buffers = zip(plain.state.slots["task"].buffers, searched.state.slots["task"].buffers, strict=True)
    assert all(torch.equal(a, b) for a, b in buffers)


@pytest.mark.parametrize("tuned", [{}, {"on": "valid"}, {"every": 3, "gradient": "unroll"}])
@pytest.mark.parametrize("rule", ["adam(lr=0.02)", "sgd(lr=0.02, momentum=0.5, nesterov=true)"])
def test_a_level_beside_the_search_is_told_of_the_trial_that_won(rule: str, tuned: dict[str, Any]) -> None:
    # Where a search ends, the last trial has been evaluated last, and another one may have won.
    rest = "beta*" if "adam" in rule else "momentum"
    plain = make(f"{rule}/sgd[lr]", {2: tuned})
    plain.run(60)
    searched = make(f"{rule}/choose[{rest}]+sgd[lr]", {2: {"every": 6}, 3: tuned})
    searched.run(60)
    searched.flush()
    assert len(Chooser.seen) >= 6
    assert len(set(engines.losses(plain))) == len(engines.losses(plain))
    assert engines.losses(searched) == engines.losses(plain)
    for a, b in zip(
        engines.params(plain, plain.levels[0].by), engines.params(searched, plain.levels[0].by), strict=True
    ):
        assert torch.equal(a, b)


def test_trials_of_a_zero_order_rule_leave_no_trace() -> None:
    plain, searched = (
        make("annealing", task=engines.Bowl(seed=1)),
        make("annealing/choose", {2: {"every": 6}}, engines.Bowl(seed=1)),
    )
    for made in (plain, searched):
        made.run(60)
        made.flush()
    assert len(Chooser.seen) >= 6
    assert engines.losses(searched) == engines.losses(plain)


@pytest.mark.parametrize("take", [0, 1, 2])
def test_the_run_goes_on_from_the_end_of_the_trial_that_won(take: int) -> None:
    # The path by hand, with the rate that was taken.
    lr = rate_taken(take, 0.05)
    x = engines.engine(engines.Bowl(seed=1), "sgd", seed=2).state.slots["task"].params[0].clone()
    a = torch.tensor([1.0, 0.5, 0.25, 2.0, 0.1], dtype=torch.float64)
    losses = []
    for _ in range(6):
        losses.append(float(0.5 * (a * x[0] ** 2).sum()))
        x = x - lr * a * x
    made = make(f"sgd(lr=0.05)/choose(take={take})", {2: {"every": 5}}, engines.Bowl(seed=1))
    made.run(10)
    assert engines.losses(made)[:5] == pytest.approx(losses[:5], rel=1e-12)
    assert Chooser.seen[0][take] == pytest.approx(sum(losses[1:]) / 5, rel=1e-12)


def rate_taken(take: int, rate: float) -> float:
    """What the first proposals of a rate are, drawn as the level draws them."""
    rng = Generator().manual_seed(mix(2, 2, 1))
    noise = float(torch.randn((), generator=rng, dtype=torch.float64))
    return float(torch.tensor(rate, dtype=torch.float64).log().add([0.0, 0.5, -0.5][take] * noise).exp())


@pytest.mark.parametrize("take", [0, 2])
def test_the_record_has_only_what_happened(take: int) -> None:
    # A guard counts a step that it refuses, which makes the window longer by one.
    settings = {0: {"guard": False}, 2: {"every": 4}, 3: {"every": 3}}
    made = make(f"adam(lr=0.02)/choose(take={take})/choose@b(take={2 - take})", settings)
    made.run(80)
    sink = made.sink
    assert isinstance(sink, engines.Recorder)
    steps = sink.steps(0, "loss")
    # Each step's loss once; the last search may still be open, and a window's last evaluation opens the next.
    assert steps == list(range(len(steps)))
    assert len(steps) >= 60
    assert sink.steps(2, "meta_loss") == [4 * k for k in range(1, len(sink.steps(2, "meta_loss")) + 1)]
    assert sink.steps(3, "meta_loss") == [12 * k for k in range(1, len(sink.steps(3, "meta_loss")) + 1)]
    assert set(sink.series(2, "accepted")) == {float(take > 0)}


def test_runs_in_pieces_record_the_same() -> None:
    whole = make("adam(lr=0.02)/choose(take=1)", {2: {"every": 7}})
    whole.run(50)
    pieces = make("adam(lr=0.02)/choose(take=1)", {2: {"every": 7}})
    for steps in (3, 10, 11, 29, 50):
        pieces.run(steps)
    assert isinstance(whole.sink, engines.Recorder) and isinstance(pieces.sink, engines.Recorder)
    assert pieces.sink.steps(0, "loss") == whole.sink.steps(0, "loss")
    assert engines.losses(pieces) == engines.losses(whole)


def test_accounts_at_level_2() -> None:
    # 3 trials of 5 updates: 6 evaluations in the first window's first trial (its first is the start), then 5 each.
    made = make("sgd(lr=0.05)/choose", {2: {"every": 5}})
    while made.state.levels[1].steps < 4:
        made.step()
    first, second = made.budget.levels
    assert (first.gradient, first.loss) == (1 + 4 * 5, 0)
    assert (second.gradient, second.loss) == (4 * 2 * 5, 0)
    assert made.budget.total.hypergradient == 0


def test_accounts_of_nested_searches() -> None:
    made = make("sgd(lr=0.05)/choose/choose@b", {2: {"every": 3}, 3: {"every": 2}})
    while made.state.levels[2].steps < 2:
        made.step()
    inner = 3 * 3  # gradients of one decision of level 2
    assert made.budget.levels[2].gradient == 2 * 2 * 2 * inner
    assert made.budget.total.gradient == 1 + 2 * 3 * 2 * inner
    assert made.budget.levels[0].gradient == 1 + 2 * 2 * 3


def test_accounts_at_level_1() -> None:
    # The point's own loss is known from the evaluation: two others are tried.
    made = make("choose", task=engines.Bowl(seed=0))
    made.run(10)
    assert made.budget.total.loss == 10 * 3
    assert made.budget.total.gradient == 0


def test_searches_side_by_side_take_turns() -> None:
    made = make("adam(lr=0.02)/choose@a(take=1)[lr]+choose@b(take=2)[beta*]", {2: {"every": 3}, 3: {"every": 5}})
    made.run(120)
    a, b = made.state.levels[1].steps, made.state.levels[2].steps
    assert abs(a - b) <= 1 and a > 8
    assert isinstance(made.sink, engines.Recorder)
    steps = made.sink.steps(0, "loss")
    assert steps == list(range(len(steps)))


def test_an_upper_search_counts_every_search_beneath() -> None:
    made = make("adam(lr=0.02)/choose(take=2)/choose@b", {2: {"every": 3}, 3: {"every": 4}})
    made.run(50)
    assert isinstance(made.sink, engines.Recorder)
    assert made.sink.steps(3, "meta_loss")[:3] == [12, 24, 36]


def test_penalties_count_in_trials() -> None:
    scores = {}
    for penalty in (0.0, 10.0):
        Chooser.seen.clear()
        made = make("sgd(lr=0.05)/choose", {2: {"every": 5, "penalty_update": penalty}}, engines.Bowl(seed=1))
        while made.state.levels[1].steps < 1:
            made.step()
        scores[penalty] = Chooser.seen[0]
    assert all(b > a for a, b in zip(scores[0.0], scores[10.0], strict=True))


def test_nearest_prefers_the_better_of_equals() -> None:
    at = [torch.zeros(2)]
    scores = [torch.tensor(s) for s in (1.0, 0.5, 0.0)]
    assert nearest(at, [[torch.ones(2)], [-torch.ones(2)], [2 * torch.ones(2)]], scores) == 1
