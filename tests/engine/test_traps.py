"""Known traps of ``higher`` 0.2.1 with today's torch, each shown, and that recopt is not caught in it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import pytest
import torch
from torch import Generator, Tensor, nn

from recopt.checking.errors import RecoptError
from recopt.contracts import trees
from recopt.contracts.strategy import Params, State, Strategy, Trial
from recopt.contracts.task import Batch, Split, Task
from recopt.engine.model import Patched, Swapped, twice_differentiable

from .. import engines

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import higher
    from higher.optim import DifferentiableAdam

EXACT = {"gradient": "unroll", "second_order": True}


def loss_after(beta2: float, ours: bool) -> tuple[float, float]:
    """The loss after three steps of Adam on a fixed function, and its derivative by beta2."""
    x = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    b = torch.tensor(beta2, dtype=torch.float64, requires_grad=True)
    if ours:
        from recopt.stacks.plugins import load_strategy

        rule: Any = Patched(load_strategy("adam")(lr=0.1, domains={"beta2": "real"}).double())
        names = [n for n, _ in rule.module.named_parameters()]
        values = [b if n == "beta2" else p.detach() for n, p in rule.module.named_parameters()]
        assert "beta2" in names
        state: State = {"steps": 0, "mean": [torch.zeros_like(x)], "square": [torch.zeros_like(x)]}
        point = x
        for _ in range(3):
            grad = torch.autograd.grad((point**4).sum(), point, create_graph=True)[0]
            (delta,), state = rule.load(values)([point], [Trial([point], None, [grad])], state, None)
            point = point + delta
    else:
        optimizer = DifferentiableAdam(
            torch.optim.Adam([x], lr=0.1), [x], override={"betas": [(0.9, b)]}, track_higher_grads=True
        )
        point = x
        for _ in range(3):
            (point,) = optimizer.step((point**4).sum(), params=[point])
    total = (point**4).sum()
    return float(total.detach()), float(torch.autograd.grad(total, b)[0])


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_adams_beta2_has_a_wrong_gradient_there_and_a_right_one_here() -> None:
    for ours in (False, True):
        value, slope = loss_after(0.9, ours)
        numeric = (loss_after(0.9 + 1e-6, ours)[0] - loss_after(0.9 - 1e-6, ours)[0]) / 2e-6
        assert value > 0
        assert (slope == pytest.approx(numeric, rel=1e-6)) == ours


class Doubler(nn.Module):
    """``forward`` and another method of the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w

    def update(self, x: Tensor) -> Tensor:
        return x @ self.w


def test_fast_weights_are_seen_outside_of_forward() -> None:
    base, x = Doubler(), torch.ones(1, 2)
    theirs: Any = higher.monkeypatch(base, copy_initial_weights=False)
    assert theirs(x, params=[torch.zeros(2, 2)]).abs().sum() == 0
    theirs.fast_params = [torch.full((2, 2), 5.0)]
    assert theirs.update(x).sum() != 20
    assert theirs(x).sum() == 20
    patched = Patched(base)
    loaded: Any = patched.load([torch.zeros(2, 2)])
    assert loaded.update(x).abs().sum() == 0
    assert loaded(x).abs().sum() == 0


def test_no_argument_of_forward_is_called_params() -> None:
    class Eager(nn.Linear):
        def forward(self, input: Tensor, params: Any = None) -> Tensor:
            assert params is not None
            return super().forward(input)

    patched: Any = higher.monkeypatch(Eager(2, 2), copy_initial_weights=False)
    with pytest.raises(AssertionError):
        patched(torch.ones(1, 2), params=[torch.zeros(2, 2), torch.zeros(2)])
    with pytest.raises(RecoptError, match="params"):

        class Wrong(Strategy):
            def forward(self, params: Params, trials: Any, state: State, rng: Any) -> Any:  # type: ignore[override]
                return params, state


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_patched_twice_and_compiled_modules_are_refused() -> None:
    patched = Patched(nn.Linear(2, 2))
    with pytest.raises(RecoptError, match="already patched"):
        Patched(patched.module)
    with pytest.raises(RecoptError, match=r"compiled .*before torch.compile"):
        Patched(torch.compile(nn.Linear(2, 2)))  # type: ignore[arg-type]
    with pytest.raises(RecoptError, match="compiled"):
        Patched(nn.Sequential(torch.compile(nn.Linear(2, 2))))  # type: ignore[arg-type]


def test_initial_weights_are_not_copied() -> None:
    weight = nn.Linear(2, 2, bias=False)
    patched = Patched(weight)
    leaf = torch.ones(2, 2, requires_grad=True)
    out = patched.load([leaf])(torch.ones(1, 2)).sum()
    assert torch.autograd.grad(out, leaf)[0].abs().sum() > 0
    assert patched.module.fast_params[0] is leaf
    # A self-loop's gradient runs through the same tensors.
    made = engines.engine(
        engines.Regression(), "sgd@a(lr=0.05)/sgd@a", {2: {**EXACT, "every": 2, "normalize": "none", "trust": 9.0}}
    )
    made.run(9)
    assert isinstance(made.sink, engines.Recorder)
    assert min(made.sink.series(2, "signal_norm")) > 0


def test_a_level_without_any_gradient_is_refused() -> None:
    class Deaf(Strategy):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.w = nn.Parameter(torch.ones(()))

        def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
            return [-0.1 * self.w.detach() * g for g in trials[0].grads or []], state

    for level in ({"gradient": "online"}, {**EXACT, "every": 5}, {"gradient": "unroll", "every": 5}):
        made = engines.engine(engines.Bowl(), "deaf/sgd", {2: level}, rules={"deaf": Deaf})
        with pytest.raises(RecoptError, match=r"Level 2 gets no hypergradient.* w\."):
            made.run(30)


class Attentive(engines.Regression):
    """A transformer layer, whose fused attention has no second derivative."""

    def model(self) -> nn.Module:
        layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=8, dropout=0.0, batch_first=True)
        return nn.Sequential(layer, nn.Flatten(), nn.Linear(32, 1))

    def batch(self, index: int, split: Split = "train") -> Batch:
        g = self.generator(index)
        return torch.randn(4, 4, 8, generator=g), torch.randn(4, 1, generator=g)


@pytest.mark.parametrize("tasks", [1, 2])
def test_attention_in_an_exact_unroll(tasks: int) -> None:
    made = engines.engine(
        Attentive(), "sgd(lr=0.05)/adam(lr=0.1)", {2: {**EXACT, "every": 2}}, dtype=torch.float32, tasks=tasks
    )
    made.run(7)
    assert made.state.levels[1].steps == 3
    with twice_differentiable():
        pass


def test_every_level_is_scored_by_its_own_objective() -> None:
    # Scored by the task's loss at the wrong time a level above the second has no signal at all.
    made = engines.engine(
        engines.Regression(), "sgd(lr=0.05)/sgd/sgd/sgd", {n: {**EXACT, "every": 2} for n in (2, 3, 4)}
    )
    made.run(30)
    assert isinstance(made.sink, engines.Recorder)
    for level in (2, 3, 4):
        assert min(made.sink.series(level, "signal_norm")) > 0


class Pair(NamedTuple):
    a: Tensor
    b: Tensor


def test_named_tuples_in_a_state_break_its_copies_and_not_ours() -> None:
    pair = Pair(torch.ones(2), torch.zeros(2))
    with pytest.raises(TypeError):
        higher.utils._recursive_copy_and_cast(pair, None)
    copied = trees.tree_map(lambda leaf: leaf, pair)
    assert type(copied) is Pair
    assert copied.b is pair.b


def test_maximize_is_ignored_there() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, maximize=True)
    x = torch.ones(1, 2)
    with higher.innerloop_ctx(model, optimizer) as (patched, differentiable):
        before = float(patched(x).sum().detach())
        differentiable.step(patched(x).sum())
        assert float(patched(x).sum().detach()) < before


def test_no_history_of_weights_is_kept() -> None:
    model = nn.Linear(2, 1)
    theirs, ours = higher.monkeypatch(model), Patched(model)
    for _ in range(5):
        values = [p.detach().clone() for p in model.parameters()]
        theirs.update_params(values)
        ours.load(values)
    assert len(theirs._fast_params) == 6
    assert len(ours.module._fast_params) == 1


def test_weight_norm_has_a_wrong_second_derivative_in_torch_and_a_right_one_here() -> None:
    v, g = (torch.rand(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 4), (3, 1)))
    for plain in (False, True):
        with twice_differentiable() if plain else nullcontext():
            assert torch.autograd.gradcheck(torch._weight_norm, (v, g, 0))
            assert torch.autograd.gradgradcheck(torch._weight_norm, (v, g, 0), raise_exception=False) == plain


def test_a_part_that_is_called_before_the_model_has_the_present_weights() -> None:
    class Holding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Linear(1, 1, bias=False)

    base, x = Holding(), torch.ones(1, 1)
    theirs: Any = higher.monkeypatch(base, copy_initial_weights=False, track_higher_grads=False)
    ours, found = Patched(base), list[tuple[float, float]]()
    for value in (2.0, 3.0):
        values = [torch.full((1, 1), value)]
        theirs.update_params(values)
        loaded: Any = ours.load(values)
        found.append((float(theirs.part(x)), float(loaded.part(x))))
    assert found == [(2.0, 2.0), (2.0, 3.0)]


def test_hooks_are_dropped_there_and_kept_by_functional_call() -> None:
    base = nn.Linear(1, 1, bias=False)
    base.register_forward_hook(lambda module, given, out: 2 * out)
    values = [torch.ones(1, 1)]
    assert float(Patched(base).load(values)(torch.ones(1, 1))) == 1

    class Out(Task):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return model(batch).sum()

    assert float(Swapped(base).loss(Out(), values, [], torch.ones(1, 1))[0]) == 2
