"""``scope: coordinate``: one number of a hyperparameter for each coordinate, moved as in a tower of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt import RecoptError

from .. import engines
from ..differences import EXACT

INPUTS = torch.randn(16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = INPUTS.sin() @ torch.ones(3, 2, dtype=torch.float64)
START = [0.3 * torch.arange(6.0).double().view(3, 2) - 0.5, torch.tensor([0.2, -0.4]).double()]
COORDINATE = {2: {"scope": "coordinate"}}


def loss_at(weight: Tensor, bias: Tensor) -> Tensor:
    return ((INPUTS.to(weight) @ weight + bias - TARGETS.to(weight)) ** 2).mean()


def descended(stack: str, steps: int, options: dict[str, Any], dtype: torch.dtype = torch.float64) -> Any:
    """An optimizer with numbers for each coordinate after some steps, and where it is."""
    params = [nn.Parameter(t.to(dtype).clone()) for t in START]
    optimizer = recopt.Optimizer(params, stack, scope="coordinate", **options)
    go_on(optimizer, params, steps)
    return optimizer, params


def go_on(optimizer: recopt.Optimizer, params: list[nn.Parameter], steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss_at(*params).backward()
        optimizer.step()


def one_tower_each(stack: str, steps: int, options: dict[str, Any], dtype: torch.dtype) -> Tensor:
    """The same with each coordinate a tensor of its own, and a tower for each."""
    numbers = [nn.Parameter(x.view(1).to(dtype).clone()) for t in START for x in t.flatten()]
    optimizer = recopt.Optimizer(numbers, stack, scope="tensor", **options)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_at(torch.cat(numbers[:6]).view(3, 2), torch.cat(numbers[6:])).backward()
        optimizer.step()
    return torch.cat(numbers).detach()


def flat(params: list[nn.Parameter]) -> Tensor:
    return torch.cat([p.detach().flatten() for p in params])


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize(
    "stack",
    [
        "sgd(lr=0.1)/sgd(lr=0.3)[lr]", "sgd(lr=0.1,momentum=0.9,nesterov=true)/adam[*]", "adam(lr=0.1)/adagrad[lr]",
        "adam(lr=0.1,weight_decay=0.1)/sgd[*]", "rmsprop(lr=0.1,momentum=0.5,centered=true)/sgd[*]", "kesten/sgd",
        "adagrad(lr=0.1)/hypergradient[lr]", "schedule-free(lr=0.1)/adagrad[*]", "adam(lr=0.1)/sgd[lr,beta1]",
    ],
)  # fmt: skip
def test_each_coordinate_has_a_tower_of_its_own(stack: str, every: int) -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        options: dict[str, Any] = {"normalize": "none", "every": every, "guard": False}
        _, params = descended(stack, 12, options, dtype)
        assert not torch.equal(flat(params), torch.cat([t.flatten() for t in START]).to(dtype))
        assert torch.allclose(flat(params), one_tower_each(stack, 12, options, dtype), rtol=tolerance, atol=tolerance)


def test_the_derivative_is_that_of_the_hypergradient_and_ratio_surrogates() -> None:
    """By P of h = (f(x − P ∘ g) − f(x)) / ‖g‖² and of r = (f(x − P ∘ g) − f*) / (f(x) − f*), at once."""
    rate, kappa, x = 0.1, 1e-3, torch.cat([t.flatten() for t in START])

    def f(x: Tensor) -> Tensor:
        return loss_at(x[:6].view(3, 2), x[6:])

    optimizer, _ = descended(f"sgd(lr={rate})/sgd(lr={kappa})[lr]", 2, {"normalize": "none", "guard": False})
    (moved,) = optimizer._towers.all[0].state.slots["sgd"].params
    found = -(moved.detach() - math.log(rate)) / kappa / rate  # by P, and not by its logarithm
    g = torch.func.grad(f)(x)
    assert torch.allclose(found, -g * torch.func.grad(f)(x - rate * g), rtol=1e-9)
    size, lowest = (
        float(g @ g),
        float(f(torch.linalg.lstsq(torch.cat([INPUTS, torch.ones(16, 1)], 1), TARGETS)[0].flatten())),
    )
    surrogates: list[tuple[Callable[[Tensor], Tensor], float]] = [
        (lambda there: (f(there) - f(x)) / size, size),
        (lambda there: (f(there) - lowest) / (f(x) - lowest), float(f(x)) - lowest),
    ]  # fmt: skip
    for surrogate, scale in surrogates:
        for i in range(8):
            step = torch.zeros(8).double()
            step[i] = 1e-5
            ends = [float(surrogate(x - (rate + sign * step) * g)) for sign in (1, -1)]
            assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float(found[i]) / scale, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("settings", [{}, {**EXACT}], ids=["dropped", "exact"])
def test_a_window_s_derivative_agrees_with_central_differences(settings: dict[str, Any]) -> None:
    """Of the mean loss of three steps, by the logarithm of each rate; on a plane second derivatives are 0."""
    told = {
        2: {"every": 3, "scope": "coordinate", "normalize": "none", "guard": False, "gradient": "unroll", **settings}
    }
    task = engines.Bowl if settings else _Slope

    def mean(nudged: int | None, by: float) -> float:
        made = engines.engine(task(seed=0), "sgd(lr=0.05)/sgd(lr=1e-6)[lr]", told)
        slot: Any = made.state.slots["sgd"]
        if nudged is not None:
            with torch.no_grad():
                slot.params[0][nudged] += by
        losses = []
        for _ in range(4):
            losses.append(float(made.source.evaluate(made.state, False).loss))
            made.step()
        return sum(losses[1:]) / 3

    made = engines.engine(task(seed=0), "sgd(lr=0.05)/sgd(lr=1e-6)[lr]", told)
    before = made.state.slots["sgd"].params[0].detach().clone()
    made.run(4)
    found = (before - made.state.slots["sgd"].params[0].detach()) / 1e-6
    for i in range(len(before)):
        assert float(found[i]) == pytest.approx((mean(i, 1e-4) - mean(i, -1e-4)) / 2e-4, rel=1e-5, abs=1e-8)


class _Slope(engines.Bowl):
    """A plane, whose gradient is the same everywhere."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return torch.cat([p.flatten() for p in model.parameters()]).sum() * torch.tensor(2.0).double()


# runs


def test_a_run_gives_what_a_loop_of_one_s_own_gives() -> None:
    task = engines.Regression(seed=0)
    made = engines.engine(task, "adam(lr=0.02)/adagrad[lr]", COORDINATE)
    model = task.model().double()
    for p, value in zip(model.parameters(), engines.params(made), strict=True):
        p.data.copy_(value)
    optimizer = recopt.Optimizer(model.parameters(), "adam(lr=0.02)/adagrad[lr]", scope="coordinate")
    for step in range(12):
        optimizer.zero_grad()
        task.loss(model, task.batch(step)).backward()
        optimizer.step()
    made.run(12)
    for p, value in zip(model.parameters(), engines.params(made), strict=True):
        assert torch.equal(p.detach(), value)


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize(
    ("stack", "settings"),
    [
        ("adam(lr=0.02)/adagrad[lr]", COORDINATE),
        ("sgd(momentum=0.9)/adam[momentum]", {2: {"scope": "coordinate", "every": 4, "on": "valid"}}),
        ("sgd(momentum=0.9)/adam@a[lr]+adagrad@b[momentum]", COORDINATE),
        ("sgd/adagrad[lr]/annealing", {**COORDINATE, 3: {"every": 3}}),
        ("sgd/sgd[lr]/sgd", {2: {"scope": "coordinate", "every": 3, "gradient": "unroll", "second_order": True}}),
    ],
)
def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(tmp_path: Path, stack: str, settings: Any, tasks: int) -> None:
    def made() -> Any:
        return engines.engine(engines.Regression(seed=0), stack, settings, tasks=tasks)

    engines.goes_on_bit_for_bit(made, 7, 14, tmp_path / "state")
    whole = made()
    whole.run(14)
    (numbers,) = (p for slot in whole.graph.slots for p in engines.params(whole, slot) if p.ndim)
    assert numbers.shape == (21,) and len(numbers.unique()) > 15


def test_many_rates_and_one_momentum_are_moved_together_and_steps_that_ascend_are_taken_back() -> None:
    stack = "sgd(lr=0.9,momentum=0.5)/adagrad@a[lr]+adagrad@b[momentum]"
    settings = {1: {"null_step": True, "guard": False}, **COORDINATE}
    made = engines.engine(engines.Bowl(seed=0), stack, settings)
    made.run(60)
    rates, momentum = engines.params(made, "sgd")
    assert rates.shape == (5,) and len(rates.unique()) == 5
    assert momentum.ndim == 0 and float(momentum) != 0.0
    assert made.sink.series(1, "null_step")
    assert engines.losses(made)[-1] < 1e-3 * engines.losses(made)[0]


def test_tasks_side_by_side_share_the_numbers_and_average_their_derivatives() -> None:
    told = {2: {"scope": "coordinate", "normalize": "none", "guard": False}}
    made = engines.engine(engines.Regression(seed=0), "sgd(lr=0.1)/sgd(lr=0.001)[lr]", told, tasks=2)
    products = []
    for number, task in enumerate(made.family.drawn(0).tasks):
        model = task.model().double()
        for p, both in zip(model.parameters(), made.state.task.params, strict=True):
            p.data.copy_(both[number])
        grads = []
        for step in range(2):
            found = torch.autograd.grad(task.loss(model, task.batch(step)), list(model.parameters()))
            for p, g in zip(model.parameters(), found, strict=True):
                p.data.sub_(0.1 * g)
            grads.append(torch.cat([g.flatten() for g in found]))
        products.append(0.1 * grads[0] * grads[1])
    made.run(2)
    moved = engines.params(made, "sgd")[0] - math.log(0.1)
    assert torch.allclose(moved, 0.001 * (products[0] + products[1]) / 2, rtol=1e-6, atol=1e-15)


# recopt.Optimizer


@pytest.mark.parametrize("options", [{}, {"every": 3}, {"average": True}], ids=str)
def test_a_state_dict_goes_on_bit_for_bit_and_keeps_the_state_per_parameter(options: dict[str, Any]) -> None:
    stack = "sgd(lr=0.05,momentum=0.9)/adam[lr]"
    whole, whole_params = descended(stack, 13, options)
    first, params = descended(stack, 8, options)
    again_params = [nn.Parameter(p.detach().clone()) for p in params]
    again = recopt.Optimizer(again_params, stack, scope="coordinate", **options)
    again.load_state_dict(first.state_dict())
    go_on(again, again_params, 5)
    assert torch.equal(flat(again_params), flat(whole_params))
    assert again.hyperparameters() == whole.hyperparameters()
    for p in whole_params:
        assert whole.state[p]["momentum"].shape == p.shape
    group = recopt.Optimizer([nn.Parameter(p.detach().clone()) for p in params], stack, **options)
    with pytest.raises(RecoptError, match="scope=coordinate on level 2"):
        group.load_state_dict(first.state_dict())


def test_a_parameter_that_joins_later_has_numbers_from_the_start() -> None:
    params = [nn.Parameter(t.clone()) for t in START]
    optimizer = recopt.Optimizer(params, "sgd(lr=0.05,momentum=0.9)/adam[lr]", scope="coordinate")
    for step in range(6):
        optimizer.zero_grad()
        loss_at(params[0], params[1] if step > 2 else params[1].detach()).backward()
        if step < 3:
            params[1].grad = None
        optimizer.step()
    (rates,) = (p for p in optimizer._towers.all[0].state.slots["sgd"].params if p.ndim)
    assert bool((rates.detach() != rates.detach().new_tensor(0.05).log()).all())
    assert optimizer.hyperparameters()["sgd.lr"] == pytest.approx(float(rates.detach().mean().exp()))


def test_groups_have_numbers_of_their_own_and_low_precision_and_complex_weights_too() -> None:
    params = [nn.Parameter(torch.ones(3, dtype=torch.bfloat16)), nn.Parameter(torch.ones(2, dtype=torch.complex64))]
    optimizer = recopt.Optimizer([{"params": [p]} for p in params], "adam(lr=0.1)/adagrad[lr]", scope="coordinate")
    for _ in range(5):
        optimizer.zero_grad()
        (params[0].float().square().sum() + (params[1] * (1 + 2j)).abs().square().sum()).backward()
        optimizer.step()
    shapes = [[tuple(p.shape) for p in tower.state.slots["adam"].params] for tower in optimizer._towers.all]
    assert [shape[0] for shape in shapes] == [(3,), (4,)]
    assert all(bool((p.detach().abs() < 0.9).all()) for p in params)


@pytest.mark.parametrize("stack", ["sgd(lr=0.1)/sgd(lr=1e6)[lr]", "adam(lr=0.1)/adam(lr=50)[lr]"])
def test_the_guard_keeps_each_number_s_steps_short_and_within_its_ends(stack: str) -> None:
    w = nn.Parameter(torch.tensor([1.0, 1e-3, 2.0, 0.5]))
    optimizer = recopt.Optimizer([w], stack, scope="coordinate", normalize="none")
    state = optimizer._towers.all[0].state
    slot: Any = state.slots["sgd" if stack.startswith("sgd") else "adam"]
    before = slot.params[0].detach().clone()
    for _ in range(40):
        optimizer.zero_grad()
        loss = (w * torch.tensor([1.0, 2.0, 3.0, 10.0])).square().sum()
        loss.backward()
        optimizer.step(loss=loss)
        steps = (slot.params[0].detach() - before).abs()
        before = slot.params[0].detach().clone()
        assert bool((steps <= 1 + 1e-5).all()) and bool((before.abs() <= 80).all())
    assert optimizer.guards()["level2.bounded"] > 3
    assert float(loss.detach()) < 100


# refusals


@pytest.mark.filterwarnings("ignore:.*estimates from trials")
@pytest.mark.parametrize(
    ("stack", "settings", "told"),
    [
        ("lstm/adam", COORDINATE, "treats each coordinate by itself, which 'lstm' does not"),
        ("paced/adam", COORDINATE, "which 'paced' does not"),
        ("muon/adam", COORDINATE, "which 'muon' does not"),
        ("osgm/adam", COORDINATE, "which 'osgm' does not"),
        ("sgd/sgd/sgd", {3: {"scope": "coordinate"}}, "set it on the level right above"),
        ("sgd", {1: {"scope": "coordinate"}}, "set it on the level right above"),
        ("sgd@s/sgd@s", COORDINATE, "of one rule that moves the model"),
        ("sgd/annealing", COORDINATE, "take a strategy that reads gradients"),
        ("sgd/sgd", {2: {"scope": "coordinate", "gradient": "es"}}, "not es"),
        ("sgd/sgd", {2: {"scope": "coordinate", "gradient": "forward"}}, "not forward"),
        ("sgd/hypergradient", COORDINATE, "the cosine is of all coordinates together"),
    ],
)
def test_it_is_refused_where_it_means_nothing(stack: str, settings: Any, told: str) -> None:
    with pytest.raises(RecoptError, match=told):
        engines.engine(engines.Regression(seed=0), stack, settings)


def test_an_optimizer_without_a_level_that_could_move_the_numbers_is_refused() -> None:
    for stack in ("sgd", None):
        with pytest.raises(RecoptError, match="needs a level over the first"):
            recopt.Optimizer([nn.Parameter(torch.ones(2))], stack, scope="coordinate")


def test_models_that_differ_from_draw_to_draw_are_refused() -> None:
    told = ["level2.scope=coordinate", "level2.every=5", "level2.episode=5"]
    with pytest.raises(RecoptError, match="models have one shape"):
        recopt.run("mixture", "adam/adam[lr]", settings=told, steps=20, track=False, measure=0, progress=False)
