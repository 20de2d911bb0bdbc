"""The engine against loops written out: plain torch, separate runs, clocks, episodes, memory."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from recopt.declare import positive
from recopt.engine import Engine
from recopt.errors import RecoptError
from recopt.family import mix
from recopt.graph import Graph
from recopt.level import Level
from recopt.strategy import Params, State, Strategy, Trial
from recopt.task import Batch, Split, Task

from . import engines

EXACT = {"gradient": "unroll", "second_order": True}
Fn = nn.functional


class Sequences(Task):
    """Short sequences or small images for one of several models."""

    kind = "lstm"

    def model(self) -> nn.Module:
        return MODELS[self.kind]()

    def batch(self, index: int, split: Split = "train") -> Batch:
        g = self.generator(index, engines.SPLITS[split])
        return torch.randn(6, 1, 4, 4, generator=g), torch.randint(0, 3, (6,), generator=g)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return Fn.cross_entropy(model(batch[0]), batch[1])


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(4, 5, batch_first=True)
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(x[:, 0])[0][:, -1])  # type: ignore[no-any-return]


class Tied(nn.Module):
    """Two layers that share a weight, a frozen one, and one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(16, 16)
        self.b = nn.Linear(16, 16)
        self.b.weight = self.a.weight
        self.still = nn.Linear(16, 16)
        for p in self.still.parameters():
            p.requires_grad_(False)
        self.out = nn.Linear(16, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.b(self.still(torch.tanh(self.a(x.flatten(1)))))))  # type: ignore[no-any-return]


def _norm_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(48, 3),
    )


MODELS: dict[str, Any] = {
    "lstm": Lstm,
    "tied": Tied,
    "batch norm, dropout": _norm_net,
    "conv": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 3)),
}
TORCH: dict[str, tuple[str, Any]] = {
    "sgd": ("sgd(lr=0.1, momentum=0.9, weight_decay=0.01)",
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01)),
    "adam": ("adam(lr=0.01)", lambda p: torch.optim.Adam(p, lr=0.01)),
}  # fmt: skip


def task(kind: str) -> Sequences:
    made = Sequences(seed=4)
    made.kind = kind
    return made


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("rule", TORCH)
def test_one_level_equals_torch(kind: str, rule: str) -> None:
    stack, make = TORCH[rule]
    made = engines.engine(task(kind), stack, {0: {"guard": False}}, seed=4)
    made.run(25)
    torch.manual_seed(4)
    model = task(kind).model().double()
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    torch.manual_seed(mix(4, 1))
    losses = []
    for step in range(25):
        x, y = task(kind).batch(step)
        optimizer.zero_grad()
        loss = Fn.cross_entropy(model(x.double()), y)
        loss.backward()
        # The engine gives a parameter that the loss does not use a gradient of zero; torch leaves it out.
        for p in model.parameters():
            p.grad = torch.zeros_like(p) if p.grad is None and p.requires_grad else p.grad
        optimizer.step()
        losses.append(float(loss.detach()))
    assert engines.losses(made) == pytest.approx(losses, rel=1e-12)
    mine = dict(zip(made.graph.names["task"], engines.params(made), strict=True))
    for name, p in model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(mine[name], p.detach(), rtol=1e-11, atol=1e-13)
    buffers = made.state.slots["task"].buffers
    still = [p for p in model.parameters() if not p.requires_grad]
    for (name, c), b in zip(model.named_buffers(), buffers[len(still) :], strict=True):
        torch.testing.assert_close(b, c, rtol=1e-11, atol=1e-13, msg=name)


@pytest.mark.parametrize("kind", MODELS)
def test_models_in_exact_unrolls(kind: str) -> None:
    made = engines.engine(task(kind), "sgd(lr=0.1)/adam(lr=0.1)", {2: {**EXACT, "every": 3}})
    made.run(20)
    assert made.state.levels[1].steps == 6
    assert not torch.equal(engines.params(made, "sgd")[0], torch.tensor(0.1, dtype=torch.float64).log())


class Plain(Strategy):
    """A rule with state, which can be mapped or looped over tasks."""

    lr = positive(0.05)

    def init(self, point: Params) -> State:
        return {"m": [torch.zeros_like(p) for p in point], "t": 0}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        m = [0.5 * m + g for m, g in zip(state["m"], trials[0].grads or [], strict=True)]
        return [-self.lr * x for x in m], {"m": m, "t": state["t"] + 1}


class Looped(Plain):
    """The same, looped over."""

    vectorize = False


class Alone(engines.Regression):
    """Looped over."""

    vectorize = False


RULES: dict[str, type[Strategy]] = {"plain": Plain, "looped": Looped}


def alone(seed: int, stack: str, settings: engines.Settings | None = None, steps: int = 12) -> Engine:
    made = engines.engine(engines.Regression(seed=seed), stack, settings, rules=RULES, seed=seed)
    made.run(steps)
    return made


@pytest.mark.parametrize("family", [engines.Regression, Alone])
@pytest.mark.parametrize("stack", ["sgd(lr=0.1, momentum=0.9)", "adam(lr=0.02)", "plain", "looped", "rmsprop", "lstm"])
def test_tasks_side_by_side_equal_separate_runs(stack: str, family: type[Task]) -> None:
    slots = engines.graph(stack, rules=RULES).slots
    made = engines.engine(family(seed=7), stack, rules=RULES, seed=7, tasks=3)
    made.run(12)
    assert list(made.graph.slots) == list(slots)
    for n, one in enumerate(made.family.drawn(0).tasks):
        single = engines.engine(engines.Regression(seed=one.seed), stack, rules=RULES, seed=one.seed)
        single.run(12)
        for a, b in zip(engines.params(made), engines.params(single), strict=True):
            torch.testing.assert_close(a[n], b, rtol=1e-10, atol=1e-13)


def test_batch_statistics_of_tasks_side_by_side_equal_separate_runs() -> None:
    class Normed(engines.Regression):
        def model(self) -> nn.Module:
            return nn.Sequential(nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1))

    made = engines.engine(Normed(seed=7), "adam(lr=0.02)/sgd", {2: {"every": 2, "gradient": "unroll"}}, seed=7, tasks=2)
    made.run(9)
    base = engines.engine(Normed(seed=7), "adam(lr=0.02)", seed=7, tasks=2)
    base.run(9)
    for n, one in enumerate(base.family.drawn(0).tasks):
        single = engines.engine(Normed(seed=one.seed), "adam(lr=0.02)", seed=one.seed)
        single.run(9)
        for a, b in zip(base.state.slots["task"].buffers, single.state.slots["task"].buffers, strict=True):
            torch.testing.assert_close(a[n], b, rtol=1e-10, atol=1e-13)
    assert [b.shape[0] for b in made.state.slots["task"].buffers] == [2, 2, 2]


def test_the_hypergradient_over_tasks_is_the_mean_of_separate_ones() -> None:
    settings = {2: {**EXACT, "every": 3, "normalize": "none"}}

    def first(made: Engine) -> Tensor:
        found: list[Tensor] = []
        deliver = made.collector._deliver

        def spy(state: Any, number: int, signal: Any) -> None:
            found.append(signal.grads[0].clone())
            deliver(state, number, signal)

        made.collector._deliver = spy  # type: ignore[method-assign]
        made.run(4)
        return found[0]

    made = engines.engine(engines.Regression(seed=7), "plain/sgd", settings, rules=RULES, seed=7, tasks=3)
    seeds = [t.seed for t in made.family.drawn(0).tasks]
    singles = [
        first(engines.engine(engines.Regression(seed=s), "plain/sgd", settings, rules=RULES, seed=s)) for s in seeds
    ]
    torch.testing.assert_close(first(made), torch.stack(singles).mean(0), rtol=1e-11, atol=0)


# time


class Tick(Strategy):
    """Moves by nothing and notes the order of calls."""

    lr = positive(0.1)
    calls: list[str] = []  # noqa: RUF012
    tag = ""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        self.calls.append(self.tag)
        return [-0.01 * self.lr * g for g in trials[0].grads or []], state


class One(Tick):
    tag = "One"


class Two(Tick):
    tag = "Two"


class Three(Tick):
    tag = "Three"


def test_the_highest_steps_first() -> None:
    Tick.calls.clear()
    made = engines.engine(engines.Bowl(), "one/two/three", rules={"one": One, "two": Two, "three": Three})
    made.run(4)
    assert Tick.calls == ["One", "Two", "One", "Three", "Two", "One", "Three", "Two", "One"]


def steps(made: Engine) -> list[int]:
    return [level.steps for level in made.state.levels]


def test_every_counts_the_steps_of_the_level_below() -> None:
    made = engines.engine(
        engines.Bowl(), "sgd/adam/adam@b",
        {2: {"every": 3, "gradient": "unroll"}, 3: {"every": 4, "gradient": "unroll"}},
    )  # fmt: skip
    made.run(40)
    # Level 2 steps at evaluations 3, 6, …, 39; level 3 where every fourth update of level 2 has been scored.
    assert steps(made) == [40, 13, 3]


def test_coprime_windows_over_one_strategy() -> None:
    made = engines.engine(
        engines.Regression(), "adam(lr=0.02)/sgd[lr]+sgd@b[beta1]",
        {2: {"every": 3, "gradient": "unroll"}, 3: {"every": 5, "gradient": "unroll"}},
    )  # fmt: skip
    made.run(61)
    assert steps(made) == [61, 20, 12]


@pytest.mark.parametrize("second", [False, True])
def test_windows_that_overlap_do_not_disturb_each_other(second: bool) -> None:
    # A level that moves nothing (lr 1e-30) beside another must not change what that one does.
    settings = {2: {"every": 3, "gradient": "unroll", "second_order": second}}
    alone_ = engines.engine(engines.Regression(seed=1), "adam(lr=0.02)/sgd[lr]", settings)
    other = {**settings, 3: {"every": 5, "gradient": "unroll", "second_order": second, "normalize": "unit"}}
    both = engines.engine(engines.Regression(seed=1), "adam(lr=0.02)/sgd[lr]+sgd@b(lr=1e-30)[beta1]", other)
    alone_.run(60)
    both.run(60)
    assert engines.losses(both) == pytest.approx(engines.losses(alone_), rel=1e-9)


def test_a_strategy_of_two_slots_and_groups() -> None:
    made = engines.engine(
        engines.Regression(), "adam(lr=0.02)[*weight]+sgd(lr=0.05)[*bias]/hypergradient@h",
        {3: {"every": 2, "gradient": "unroll"}, 4: {"every": 3, "gradient": "unroll"}},
    )  # fmt: skip
    made.run(31)
    assert steps(made) == [31, 31, 15, 10]
    assert engines.losses(made)[-1] < engines.losses(made)[0]


def test_tied_and_self_loops_run() -> None:
    made = engines.engine(engines.Regression(), "sgd@s(lr=0.05)[0.*]+sgd@s[2.*]/sgd@k/sgd@k")
    made.run(30)
    assert steps(made)[:2] == [30, 30]
    assert all(n >= 27 for n in steps(made)[2:])


class Count(engines.Bowl):
    """Notes which batches are asked for."""

    asked: list[tuple[int, int]] = []  # noqa: RUF012

    def batch(self, index: int, split: Split = "train") -> Batch:
        type(self).asked.append((self.seed, index))
        return super().batch(index, split)


def test_an_episode_starts_afresh() -> None:
    Count.asked.clear()
    made = engines.engine(
        Count(seed=3), "adam/sgd/sgd@b", {2: {"every": 2, "gradient": "unroll", "episode": 4}, 3: {"every": 3}}, seed=3
    )
    made.run(12)
    # Five evaluations make four updates: the last one closes the window only.
    seeds = list(dict.fromkeys(seed for seed, _ in Count.asked))
    assert [index for _, index in Count.asked] == [0, 1, 2, 3, 4] * 2 + [0, 1, 2, 3]
    assert seeds == [3, mix(3, 1, 0), mix(3, 2, 0)]
    assert made.state.slots["task"].age == 4
    assert made.state.levels[0].strategy["steps"] == 4
    assert steps(made)[0] == 12
    first = engines.engine(Count(), "adam", seed=seeds[1]).state.slots["task"].params
    fresh = made.family.fresh(1).params
    assert all(torch.equal(a, b) for a, b in zip(first, fresh, strict=True))


def test_episodes_of_a_strategy_draw_it_afresh() -> None:
    made = engines.engine(
        engines.Regression(seed=1), "adam/lstm/sgd",
        {2: {"every": 1, "gradient": "unroll"}, 3: {"every": 2, "gradient": "unroll", "episode": 4}},
    )  # fmt: skip
    made.run(20)
    assert made.state.slots["adam"].draw >= 2
    assert made.state.slots["task"].draw == made.state.slots["adam"].draw
    assert made.state.slots["lstm"].draw == 0


def test_accounts() -> None:
    made = engines.engine(
        engines.Regression(),
        "adam/sgd/sgd@b",
        {2: {"every": 2, "gradient": "unroll", "on": "valid"}, 3: {"every": 3}},
        tasks=2,
    )
    made.run(20)
    total = made.budget.total
    # 20 updates take 20 evaluations of two tasks, and held-out ones for every update but the last.
    assert (total.loss, total.gradient) == (0, 2 * (20 + 19))
    assert total.hypergradient == 9 + 2
    assert total.seconds > 0


def test_a_level_that_matters_late_is_not_refused() -> None:
    # Adam's first update does not depend on its betas.
    made = engines.engine(engines.Regression(), "adam/sgd[beta1]")
    made.run(5)
    assert steps(made)[1] == 4


def test_complex_parameters_are_refused() -> None:
    class Waves(engines.Bowl):
        def model(self) -> nn.Module:
            model = nn.Module()
            model.w = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
            return model

    with pytest.raises(RecoptError, match="complex"):
        engines.engine(Waves(), "sgd")


def test_the_task_has_to_have_something_to_move() -> None:
    class Still(engines.Bowl):
        def model(self) -> nn.Module:
            return nn.Linear(5, 1).requires_grad_(False)

    with pytest.raises(RecoptError, match="nothing to move"):
        engines.engine(Still(), "sgd")


# memory


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


def _graph_bytes(made: Engine) -> int:
    """The bytes of all tensors that the open window's graph keeps alive."""
    gc.collect()
    seen, total = set(), 0
    todo: list[Any] = [p.grad_fn for p in made.state.slots["task"].params if p.grad_fn is not None]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for name in dir(node):
            if name.startswith("_saved_"):
                try:
                    kept = getattr(node, name)
                except RuntimeError:
                    continue
                if isinstance(kept, Tensor):
                    total += kept.numel() * kept.element_size()
        todo += [parent for parent, _ in node.next_functions]
    return total


def test_a_graph_without_slots_is_refused_with_a_sentence() -> None:
    with pytest.raises(RecoptError, match="Unknown slot"):
        Graph([Level(moves="task", by="adam")], {})
