"""The steps of recopt.Optimizer: its two paths are equal, and equal to torch.optim and to the published towers."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt import Params, Rule, Term
from recopt.contracts import trees
from recopt.stacks.plugins import load_strategy

from ..loops import batches, far, mlp, model_of, steps, train

BOTTOMS = [
    "sgd", "sgd(momentum=0.9)", "sgd(momentum=0.9,nesterov=true,weight_decay=0.01)", "adam", "adam(weight_decay=0.1)",
    "adam(weight_decay=0.1,decoupled_weight_decay=false)", "rmsprop", "rmsprop(momentum=0.5)", "rmsprop(centered=true)",
    "adagrad", "adagrad(initial_accumulator_value=0.1,lr_decay=0.01)",
]  # fmt: skip

UPPERS = ["", "/sgd[*]", "/adam[*]", "/sgd/sgd", "/adam(weight_decay=0.01)[*]/adam[*]/adam[*]",
          "/rmsprop[*]/adagrad(initial_accumulator_value=0.2)[*]/sgd(momentum=0.5)[*]",
          "/rmsprop(momentum=0.3)[*]/sgd(momentum=0.5,nesterov=true)[*]/sgd[*]",
          "/hypergradient[*]/sgd(lr=0.01)", "/kesten[*]/kesten(power=1)/sgd"]  # fmt: skip


@pytest.mark.parametrize("upper", UPPERS)
@pytest.mark.parametrize("bottom", BOTTOMS)
def test_closed_forms_equal_the_tape(bottom: str, upper: str) -> None:
    found = []
    for fused in (True, False):
        model = model_of()
        optimizer = recopt.Optimizer(model.parameters(), bottom + upper, fused=fused)
        found.append((train(model, optimizer, 25), optimizer.hyperparameters()))
    (fast, values), (taped, others) = found
    assert far(fast, taped) < 1e-12
    assert values == pytest.approx(others, rel=1e-8)


def test_the_closed_forms_are_used_where_they_are_offered() -> None:
    model = model_of()
    optimizer = recopt.Optimizer(model.parameters(), "adam/adam/sgd")
    train(model, optimizer, 1)
    movers = [type(mover).__name__ for mover in optimizer._towers.all[0].tower.carriers.movers]
    assert movers == ["ColumnMover", "NumberMover", "NumberMover"]


@pytest.mark.parametrize("height", [1, 2, 3, 4])
def test_sgd_towers_are_the_published_ones_bit_for_bit(height: int) -> None:
    gdtuo = pytest.importorskip("gradient_descent_the_ultimate_optimizer.gdtuo")
    rates = [0.05, 0.01, 0.01, 0.001][:height]
    torch.set_default_dtype(torch.float64)
    try:
        tower = gdtuo.NoOpOptimizer()
        for rate in reversed(rates):
            tower = gdtuo.SGD(rate, optimizer=tower)
        wrapped = gdtuo.ModuleWrapper(model_of(), optimizer=tower)
        wrapped.initialize()
        theirs = []
        for x, y in itertools.islice(batches(), 200):
            wrapped.begin()
            loss = nn.functional.cross_entropy(wrapped.forward(x), y)
            wrapped.zero_grad()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loss.backward(create_graph=True)
            wrapped.step()
            theirs.append(loss.item())
        for fused in (False, True):
            sgd = load_strategy("sgd")
            model, raw = model_of(), [sgd(lr=rate, domains={"lr": "real"}) for rate in rates]
            optimizer = recopt.Optimizer(model.parameters(), raw, normalize="none", guard=False, fused=fused)
            ours = train(model, optimizer, 200)
            if fused:
                assert far(ours, theirs) < 1e-12
            else:
                assert ours == theirs
    finally:
        torch.set_default_dtype(torch.float32)


ALIKE = [
    ("sgd(lr=0.1)", lambda p: torch.optim.SGD(p, lr=0.1)),
    ("sgd(lr=0.1,momentum=0.9)", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    ("sgd(lr=0.1,momentum=0.9,nesterov=true,weight_decay=0.01)",
     lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)),
    ("adam", torch.optim.Adam),
    ("adam(weight_decay=0.1)", lambda p: torch.optim.AdamW(p, weight_decay=0.1)),
    ("adam(weight_decay=0.1,decoupled_weight_decay=false)", lambda p: torch.optim.Adam(p, weight_decay=0.1)),
    ("rmsprop", torch.optim.RMSprop),
    ("rmsprop(centered=true,momentum=0.5)", lambda p: torch.optim.RMSprop(p, centered=True, momentum=0.5)),
    ("adagrad(initial_accumulator_value=0.1)", lambda p: torch.optim.Adagrad(p, initial_accumulator_value=0.1)),
]  # fmt: skip


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("stack", "make"), ALIKE, ids=[s for s, _ in ALIKE])
def test_height_one_is_torch_optim(stack: str, make: Any, fused: bool) -> None:
    model, other = model_of(), model_of()
    ours = train(model, recopt.Optimizer(model.parameters(), stack, fused=fused), 100)
    assert far(ours, train(other, make(other.parameters()), 100)) < 1e-12


@pytest.mark.parametrize(
    ("stack", "whole"),
    [
        ("adam", "adam/adam(lr=0.05)[lr]/adam(lr=0.01)[lr]"),
        ("adam(lr=1e-6)", "adam(lr=1e-06)/adam(lr=0.05)[lr]/adam(lr=0.01)[lr]"),  # that rate is the model's
        ("adam/sgd(lr=0.2)", "adam/sgd(lr=0.2)[lr]/sgd(lr=0.2)[lr]"),
        ("adam/sgd[*]", "adam/sgd[*]/sgd(lr=0.01)[*]"),
        ("adam(lr=0.1)/adagrad[lr]", "adam(lr=0.1)/adagrad(lr=1)[lr]/adagrad(lr=0.2)[lr]"),
        ("sgd[0]", "sgd[0]/sgd(lr=0.05)[lr]/sgd(lr=0.01)[lr]"),
    ],
)
def test_depth_repeats_the_last_strategy_and_what_it_moves(stack: str, whole: str) -> None:
    optimizer = recopt.Optimizer([("0", nn.Parameter(torch.ones(2)))], stack, depth=3)
    assert optimizer.describe() == [whole]


@pytest.mark.parametrize("stack", ["adam(eps=0)/sgd/sgd", "adam(eps=0)/adam"])
@pytest.mark.parametrize("power", [-6, 6])
def test_the_loss_scale_changes_nothing(stack: str, power: int) -> None:
    found = []
    for scale in (1.0, 10.0**power):
        model = model_of()
        optimizer = recopt.Optimizer(model.parameters(), stack)
        found.append(([v / scale for v in train(model, optimizer, 60, scale=scale)], optimizer.hyperparameters()))
    assert far(found[0][0], found[1][0]) < 1e-9
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-6)


@pytest.mark.parametrize("every", [1, 3])
def test_windows_are_the_suffix_sums(every: int) -> None:
    """h for log lr of SGD over a window is −lr/K Σ_t ⟨g_t, Σ_{s>t} g_s⟩, and level 2 moves once a window."""
    model = model_of()
    level2 = load_strategy("sgd")(lr=0.5)
    bottom = load_strategy("sgd")(lr=0.1)
    optimizer = recopt.Optimizer(model.parameters(), [bottom, level2], every=every, normalize="none")
    coordinate, window = torch.tensor(0.1, dtype=torch.float64).log(), []
    for x, y in itertools.islice(batches(), 3 * every + 1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        window.append(flat)
        optimizer.step()
        if len(window) == every + 1:
            total = sum(window[t] @ sum(window[t + 1 :]) for t in range(every))
            coordinate = coordinate + 0.5 * coordinate.exp() * total / every
            window = [flat]
        assert optimizer.hyperparameters()["sgd.lr"] == pytest.approx(float(coordinate.exp()), rel=1e-9)


RATES = ["sgd(lr=0.1)", "sgd(lr=0.1,momentum=0.9)", "adam(weight_decay=0.1)", "rmsprop", "adagrad"]


@pytest.mark.parametrize("bottom", RATES)
def test_windows_over_the_rate_need_no_tape(bottom: str) -> None:
    found = []
    for fused in (True, False):
        model = mlp().double()
        optimizer = recopt.Optimizer(model.parameters(), f"{bottom}/adagrad(lr=0.3)[lr]", every=4, fused=fused)
        found.append((steps(model, optimizer, 30, torch.float64), optimizer.hyperparameters()))
        # With decay of the weights, a step depends on the rate through the point it starts from as well.
        closed = fused and "weight_decay" not in bottom
        mover = optimizer._towers.all[0].tower.carriers.movers[0]
        assert type(mover).__name__ == ("ColumnMover" if closed else "TensorMover")
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-10)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-9)


USED: list[int] = []
"""An entry for each step that :class:`Counted` made."""


class Counted:
    """An accelerator of the user's."""

    @staticmethod
    def step(rule: Any, point: Params, grads: Params, state: Any, hyper: Any, scale: float) -> bool:
        USED.append(1)
        torch._foreach_add_(point, grads, alpha=-scale * hyper["lr"])
        return True


class Mine(Rule):
    linear = "lr"
    accelerator = Counted
    lr = recopt.positive(0.1)

    def delta(self, ops: Any, grads: Any, point: Any, state: Any, hyper: Any) -> list[Term]:
        return [Term(-hyper["lr"], grads)]


class Changed(Mine):
    def forward(self, *arguments: Any) -> Any:
        deltas, state = super().forward(*arguments)
        return [2 * d for d in deltas], state


def test_a_users_rule_comes_in_by_the_same_hook_and_a_changed_forward_gives_it_up() -> None:
    sgd, found = load_strategy("sgd"), []
    USED.clear()
    for strategy in (Mine(), sgd(lr=0.1), Changed(), sgd(lr=0.2)):
        p = nn.Parameter(torch.ones(3))
        optimizer = recopt.Optimizer([p], [strategy])
        for _ in range(3):
            optimizer.zero_grad()
            p.square().sum().backward()
            optimizer.step()
        found.append(p.detach())
    assert len(USED) == 3
    assert torch.equal(found[0], found[1])
    assert torch.allclose(found[2], found[3])


def test_a_derivative_that_an_accelerator_forgets_is_no_failed_arithmetic() -> None:
    adam = load_strategy("adam")

    class Forgetful(adam.accelerator):  # type: ignore[name-defined, misc]
        @staticmethod
        def slopes(*_: Any) -> dict[str, float]:
            return {}

    p = nn.Parameter(torch.ones(3))
    mine = type("Adam", (adam,), {"accelerator": Forgetful})()
    optimizer = recopt.Optimizer([p], [mine, "sgd"], levels={2: {"only": ["lr", "beta1"]}})
    p.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(KeyError):
        optimizer.step()


def test_memory_is_one_copy_over_torch_and_no_graph_is_kept() -> None:
    model = mlp()
    optimizer = recopt.Optimizer(model.parameters(), "adam", depth=6)
    steps(model, optimizer, 3)
    count = sum(p.numel() for p in model.parameters())
    held: list[Tensor] = []
    trees.tree_map(held.append, optimizer.state_dict())
    assert sum(t.numel() for t in held) <= 3 * count  # two means, as torch.optim.Adam, and the last gradient
    assert not any(t.requires_grad for t in itertools.chain(held, (p.grad for p in model.parameters())))
