"""Every level's hypergradient against central differences, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recopt.declare import positive, real, unit
from recopt.engine import Engine
from recopt.errors import RecoptError
from recopt.graph import Graph
from recopt.level import Level
from recopt.stack import levels_of, parse
from recopt.state import Signal
from recopt.strategy import Params, State, Strategy, Trial
from recopt.task import Batch, Split, Task
from recopt.tree import detach


class Rule(Strategy):
    """A smooth rule with momentum, so that its state carries a graph; it reads the point (decay)."""

    lr = positive(0.05)
    beta = unit(0.6)
    decay = positive(0.02)

    def init(self, point: Params) -> State:
        return {"m": [torch.zeros_like(p) for p in point], "t": 0}

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Params, State]:
        m = [self.beta * m + (1 - self.beta) * g for m, g in zip(state["m"], trials[0].grads, strict=True)]
        delta = [-self.lr * (torch.tanh(x) + self.decay * p) for x, p in zip(m, point, strict=True)]
        return delta, {"m": m, "t": state["t"] + 1}


class Net(Strategy):
    """A learned rule: one hidden layer on each gradient, with its weights as meta-parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(1, 3)
        self.b = nn.Linear(3, 1)

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Params, State]:
        out = [-0.1 * self.b(torch.tanh(self.a(g.reshape(-1, 1)))).reshape(g.shape) for g in trials[0].grads]
        return out, state


class Wave(Task):
    """A small non-convex task on a net of two tensors, with a new batch at every index."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))

    def batch(self, index: int, split: Split = "train") -> Batch:
        g = self.generator(index, {"train": 0, "valid": 1, "test": 2}[split])
        return torch.randn(5, 3, generator=g, dtype=torch.float64), torch.randn(5, 1, generator=g, dtype=torch.float64)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        return ((model(x) - y) ** 2).mean() + 0.1 * torch.sin(model(x)).mean()


RULES: dict[str, type[Strategy]] = {"rule": Rule, "net": Net}


def engine(stack: str, settings: dict[int, dict[str, Any]], tasks: int = 1, seed: int = 0) -> Engine:
    torch.manual_seed(3)
    slots: dict[str, Strategy] = {}
    layers = parse(stack)
    for term in (t for layer in layers for t in layer):
        if term.slot not in slots:
            slots[term.slot] = RULES[term.name](**term.settings)
    if any("teacher" in s for s in settings.values()):
        slots["t"] = Rule(lr=0.2, beta=0.3)
    levels = levels_of(layers, {k: [n for n, _ in s.named_parameters()] for k, s in slots.items()})
    levels = [
        Level(**{"normalize": "none", "guard": False, **level.model_dump(exclude_unset=True), **settings.get(n, {})})
        for n, level in enumerate(levels, 1)
    ]
    return Engine(Wave(), Graph(levels, slots), seed=seed, tasks=tasks, dtype=torch.float64)


class Done(Exception):
    """The window of interest has closed."""


def signal_of(made: Engine, number: int, nudge: dict[int, Tensor] | None = None, windows: int = 1) -> Signal:
    """The signal of level ``number`` at its ``windows``-th closing, with its optimizee nudged at the opening."""
    found: list[Signal] = []
    deliver = made.collector._deliver
    name = made.levels[number - 1].moves

    def spy(state: Any, n: int, signal: Signal) -> None:
        if n == number - 1:
            found.append(signal)
            if len(found) == windows:
                raise Done
        deliver(state, n, signal)

    made.collector._deliver = spy  # type: ignore[method-assign]

    def move() -> None:
        for i, d in (nudge or {}).items():
            made.state.slots[name].params[i] = (made.state.slots[name].params[i].detach() + d).requires_grad_()

    if windows == 1:
        move()
    else:
        step = made.mover.move
        opened: list[int] = []

        def after(state: Any, n: int) -> None:
            step(state, n)
            if n == number - 1 and len(found) == windows - 1 and not opened:
                opened.append(1)
                move()

        made.mover.move = after  # type: ignore[method-assign]
    with pytest.raises(Done):
        made.run(1000)
    return found[-1]


def difference(
    stack: str, settings: dict[int, dict[str, Any]], number: int, windows: int, tasks: int,
    position: int, entry: tuple[int, Tensor], step: float,
) -> float:  # fmt: skip
    """The fourth-order central difference of a meta-loss: truncation is O(step⁴), rounding O(1/step)."""
    k, like = entry
    total = 0.0
    for times, weight in ((2.0, -1.0), (1.0, 8.0), (-1.0, -8.0), (-2.0, 1.0)):
        d = torch.zeros(like.numel(), dtype=like.dtype)
        d[k] = times * step
        nudged = {position: d.view(like.shape)}
        total += weight * float(signal_of(engine(stack, settings, tasks), number, nudged, windows).loss.detach())
    return total / (12 * step)


def worst(stack: str, settings: dict[int, dict[str, Any]], number: int, windows: int = 1, tasks: int = 1) -> float:
    """The largest error of a level's hypergradient, relative to its largest entry."""
    made = engine(stack, settings, tasks)
    signal = signal_of(made, number, windows=windows)
    assert signal.grads is not None
    signal = detach(signal)
    index = made.slots.index(made.state, number - 1)
    scale = max(float(g.abs().max()) for g in signal.grads)
    gaps = []
    for position, g in zip(index, signal.grads, strict=True):
        for k in range(min(g.numel(), 2)):
            gap = float("inf")
            for step in (1e-3, 1e-2):
                if gap > 1e-9 * scale:
                    numeric = difference(stack, settings, number, windows, tasks, position, (k, g), step)
                    gap = min(gap, abs(numeric - float(g.flatten()[k])))
            gaps.append(gap)
    return max(gaps) / scale


EXACT = {"gradient": "unroll", "second_order": True}
NORMALS = ["none", "clip", "clip_each", "rms", "rms_all", "unit", "log_sign"]
CASES: dict[str, tuple[str, dict[int, dict[str, Any]], int]] = {
    "level 2": ("rule/rule", {2: {**EXACT, "every": 4}}, 2),
    "level 2, one step": ("rule/rule", {2: {**EXACT, "every": 1}}, 2),
    "level 2, learned": ("net/rule", {2: {**EXACT, "every": 4, "episode": 8}}, 2),
    "level 2 under level 3": ("rule/rule/rule", {2: {**EXACT, "every": 3}, 3: {**EXACT, "every": 2}}, 2),
    "level 3": ("rule/rule/rule", {2: {**EXACT, "every": 3}, 3: {**EXACT, "every": 3}}, 3),
    "level 3, learned in the middle": ("rule/net/rule", {2: {**EXACT, "every": 2}, 3: {**EXACT, "every": 3}}, 3),
    "level 4": ("rule/rule/rule/rule", {n: {**EXACT, "every": 2} for n in (2, 3, 4)}, 4),
    "self-loop": ("net@a/net@a", {2: {**EXACT, "every": 4, "trust": 10.0}}, 2),
    "tied": ("rule@a[0.*]+rule@a[2.*]/rule", {3: {**EXACT, "every": 4}}, 3),
    "groups, two slots": ("rule@a[0.*]+net@b[2.*]/rule", {3: {**EXACT, "every": 3}, 4: {**EXACT, "every": 3}}, 4),
    "groups of hyperparameters": ("rule/rule[lr]+rule[beta]", {2: {**EXACT, "every": 3}, 3: {**EXACT, "every": 3}}, 3),
    "two slots, one strategy, level 3": (
        "rule@a[0.*]+rule@b[2.*]/rule@c/rule@d", {n: {**EXACT, "every": 2} for n in (3, 4, 5)}, 5),
    "last": ("rule/rule", {2: {**EXACT, "every": 4, "objective": "last"}}, 2),
    "improvement": ("rule/rule", {2: {**EXACT, "every": 4, "objective": "improvement"}}, 2),
    "improvement, level 3": (
        "rule/rule/rule", {2: {**EXACT, "every": 2, "objective": "improvement"}, 3: {**EXACT, "every": 2}}, 3),
    "held-out": ("rule/rule", {2: {**EXACT, "every": 4, "on": "valid"}}, 2),
    "held-out, level 3": ("rule/rule/rule", {2: {**EXACT, "every": 2, "on": "valid"}, 3: {**EXACT, "every": 2}}, 3),
    "penalties": ("rule/rule", {2: {**EXACT, "every": 4, "penalty_update": 0.3, "penalty_moved": 0.2}}, 2),
    "penalties, level 3": (
        "rule/rule/rule",
        {2: {**EXACT, "every": 2, "penalty_update": 0.3, "penalty_moved": 0.2}, 3: {**EXACT, "every": 2}}, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_exact(name: str) -> None:
    # At level 4 the hypergradient is so small that rounding in the differences shows.
    assert worst(*CASES[name]) < (1e-7 if name == "level 4" else 1e-8)


@pytest.mark.parametrize("name", ["level 2", "level 3", "self-loop", "tied"])
def test_exact_in_a_later_window(name: str) -> None:
    assert worst(*CASES[name], windows=2) < 1e-8


@pytest.mark.parametrize("name", ["level 2", "level 3"])
def test_exact_over_tasks(name: str) -> None:
    assert worst(*CASES[name], tasks=3) < 1e-8


STAGGER = {**EXACT, "every": 3, "episode": 6, "stagger": True}
BY_TURNS: dict[str, tuple[str, dict[int, dict[str, Any]], int]] = {
    "level 2": ("rule/rule", {2: STAGGER}, 2),
    "level 2, improvement": ("net/rule", {2: {**STAGGER, "objective": "improvement"}}, 2),
    "level 3": ("rule/rule/rule", {2: STAGGER, 3: {**EXACT, "every": 2}}, 3),
    "level 3, improvement, groups": (
        "rule@a[0.*]+rule@b[2.*]/rule@c/rule@d",
        {3: {**STAGGER, "objective": "improvement"}, 4: {**STAGGER, "objective": "improvement"},
         5: {**EXACT, "every": 2}}, 5),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_TURNS)
def test_exact_where_tasks_start_by_turns(name: str) -> None:
    # Windows of level 2 open at a fresh start of some of the tasks; one of level 3 goes on over several of them.
    assert worst(*BY_TURNS[name], windows=2 if "level 3" in name else 3, tasks=3) < 1e-8


TEACH: dict[str, Any] = {**EXACT, "every": 3, "teacher": "t", "imitate": 5, "imitate_weight": 0.7}
TAUGHT: dict[str, tuple[str, dict[int, dict[str, Any]], int]] = {
    "level 2": ("net/rule", {2: TEACH}, 2),
    "level 2, by turns": ("net/rule", {2: {**TEACH, "episode": 6, "stagger": True}}, 2),
    "level 3": ("rule/rule/rule", {2: TEACH, 3: {**EXACT, "every": 2}}, 3),
    "a taught level 3": ("rule/rule/rule", {2: {**EXACT, "every": 2}, 3: {**TEACH, "every": 2}}, 3),
    "groups": ("rule@a[0.*]+net@b[2.*]/rule", {3: TEACH, 4: TEACH}, 4),
}


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("name", TAUGHT)
def test_exact_with_a_teacher(name: str, tasks: int) -> None:
    if tasks > 1 or "turns" not in name:
        assert worst(*TAUGHT[name], windows=2, tasks=tasks) < 1e-8


@pytest.mark.parametrize("normal", NORMALS)
@pytest.mark.parametrize("normalized", [1, 2])
def test_exact_with_normalizers(normal: str, normalized: int) -> None:
    stack, settings, number = CASES["level 3"]
    changed = {**settings, normalized: {**settings.get(normalized, {}), "normalize": normal}}
    assert worst(stack, changed, number) < 1e-6


def test_the_cosine_is_one_where_updates_agree_with_what_came_after() -> None:
    stack, settings, _ = CASES["level 2"]
    signal = signal_of(engine(stack, {2: {**settings[2], "normalize": "cosine"}}), 2)
    assert signal.bound is not None
    assert signal.grads is not None
    assert 0 < float(signal.grads[0].abs()) <= float(signal.bound)


def test_nothing_differentiates_through_a_cosine() -> None:
    stack, settings, _ = CASES["level 3"]
    with pytest.raises(RecoptError, match=r"Level 3 .*level 2 has normalize=cosine"):
        engine(stack, {**settings, 2: {**settings[2], "normalize": "cosine"}})
    with pytest.raises(RecoptError, match=r"Level 3 .*not defined"):
        engine(stack, {**settings, 3: {**settings[3], "normalize": "cosine"}})


def by_hand(steps: int, second_order: bool) -> list[Tensor]:
    """The meta-gradient of one window written out, with gradients detached or not."""
    made = engine("rule/rule", {2: {"every": steps, "gradient": "unroll", "second_order": second_order}})
    rule = made.graph.slots["rule"]
    phi = [p.detach().clone().requires_grad_() for p in made.state.slots["rule"].params]
    theta: list[Tensor] = [p.detach().clone() for p in made.state.slots["task"].params]
    state = rule.init(theta)
    total = torch.zeros((), dtype=torch.float64)
    for t in range(steps + 1):
        batch = made.evaluator.batch(made.state.slots["task"], t, "train")
        point = theta if second_order and t else [p.detach().requires_grad_() for p in theta]
        loss, _ = made.evaluator.losses(made.state.slots["task"], point, batch)
        grads = torch.autograd.grad(loss, point, create_graph=second_order)
        if t:
            real_, _ = made.evaluator.losses(made.state.slots["task"], theta, batch)
            total = total + real_ / steps
        if t < steps:
            if not second_order or t == 0:
                grads = tuple(g.detach() for g in grads)
            module = made.slots.callers["rule"].module(phi)
            delta, state = module(theta, [Trial(theta, loss, list(grads))], state, None)
            theta = [p + d for p, d in zip(theta, delta, strict=True)]
    return list(torch.autograd.grad(total, phi))


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_dropped_second_derivatives_equal_backpropagation_with_detached_gradients(steps: int) -> None:
    made = engine("rule/rule", {2: {"every": steps, "gradient": "unroll"}})
    signal = signal_of(made, 2)
    assert signal.grads is not None
    for ours, theirs in zip(signal.grads, by_hand(steps, False), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)


def test_exact_equals_backpropagation_by_hand() -> None:
    made = engine("rule/rule", {2: {**EXACT, "every": 6}})
    signal = signal_of(made, 2)
    assert signal.grads is not None
    for ours, theirs in zip(signal.grads, by_hand(6, True), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=0)


class Parabola(Task):
    """½ a x², a = 2, x₀ = 1."""

    def model(self) -> nn.Module:
        m = nn.Linear(1, 1, bias=False)
        nn.init.ones_(m.weight)
        return m

    def batch(self, index: int, split: Split = "train") -> Batch:
        return torch.ones(1, 1)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch) ** 2).sum()


class Plain(Strategy):
    """x ← x − lr g, with lr on the line."""

    lr = real(0.1)

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Params, State]:
        return [-self.lr * g for g in trials[0].grads], state


def test_closed_form_of_gradient_descent_on_a_parabola() -> None:
    # x_t = (1 − a lr)^t, f = ½ a x², so d f_T / d lr = −a² T (1 − a lr)^(2T − 1) with a = 2.
    steps, a, lr = 9, 2.0, 0.1
    levels = [
        Level(moves="task", by="p", guard=False),
        Level(moves="p", by="q", every=steps, objective="last", normalize="none", guard=False, **EXACT),
    ]
    made = Engine(Parabola(), Graph(levels, {"p": Plain(), "q": Plain()}), dtype=torch.float64)
    signal = signal_of(made, 2)
    assert signal.grads is not None
    expected = -(a**2) * steps * (1 - a * lr) ** (2 * steps - 1)
    assert float(signal.grads[0]) == pytest.approx(expected, rel=1e-12)


class Deaf(Strategy):
    """A rule that detaches its learning rate."""

    lr = positive(0.1)

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Params, State]:
        one = self.lr.detach() + 0 * point[0].sum()
        return [-one * g for g in trials[0].grads], state


def test_a_disconnected_level_is_refused_and_named() -> None:
    levels = [Level(moves="task", by="p"), Level(moves="p", by="q", every=2, gradient="unroll", second_order=True)]
    made = Engine(Parabola(), Graph(levels, {"p": Deaf(), "q": Plain()}), dtype=torch.float64)
    with pytest.raises(RecoptError, match="Level 2 gets no hypergradient.*lr"):
        made.run(20)
