"""The default without a rate: its size, its course, the gain where the way is long, and what is told of its end."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt.checking.errors import RecoptError
from recopt.stacks.plugins import load_strategy
from recopt.testing import assert_conforms
from recopt.toolkit.blocks import orthogonalize

from ..loops import mlp


def train(optimizer: recopt.Optimizer, model: nn.Module, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        optimizer.zero_grad()
        (model(x) - x[:, :3].sin()).square().mean().backward()
        optimizer.step()


def network(width: int = 16, depth: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    between = [layer for _ in range(depth - 1) for layer in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), *between, nn.Linear(width, 3)).double()


def entries(optimizer: recopt.Optimizer, name: str) -> list[float]:
    (part,) = optimizer._towers.all[0].state.levels[0].parts
    return [float(x) for x in part.strategy[name]]


def by_hand(model: nn.Module, steps: int, length: int) -> list[Tensor]:
    """What torch's Adam makes of it, a group for each tensor, with the rate set at each step."""
    sizes = [0.3 * min(p.square().mean().sqrt().item() or 1.0, 0.085) for p in model.parameters()]
    twin = torch.optim.Adam([{"params": [p]} for p in model.parameters()], lr=1.0)
    for step in range(1, steps + 1):
        f = min(step / 20, 1, (100 / step) ** 0.5)
        if length:
            f = min(step / (0.05 * length), 1, (length + 1 - step) / (length / 2))
        for group, size in zip(twin.param_groups, sizes, strict=True):
            group["lr"] = size * f
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step - 1), dtype=torch.float64)
        twin.zero_grad()
        (model(x) - x[:, :3].sin()).square().mean().backward()
        twin.step()
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("length", [0, 30])
@pytest.mark.parametrize("base", ["mixed", "adam", "factored", "muon"])
def test_it_conforms(base: str, length: int) -> None:
    assert_conforms(lambda: load_strategy("paced")(base=base, steps=length))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("length", [0, 30])
def test_as_long_as_no_gain_has_risen_it_is_adam_at_rates_of_the_weights_size(length: int, fused: bool) -> None:
    model = network()
    with torch.no_grad():
        model[0].bias.zero_()  # which counts as one of the usual size
    twin = copy.deepcopy(model)
    optimizer = recopt.Optimizer(
        model.parameters(), "paced(base=adam,shrink=0,calm=0)", steps=length or None, fused=fused
    )
    train(optimizer, model, 25)
    assert entries(optimizer, "gain") == [1.0] * 4
    for ours, theirs in zip(model.parameters(), by_hand(twin, 25, length), strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-9, atol=1e-12)


def compare(base: str, fused: bool, direction: Callable[[Tensor, Tensor, Tensor, int], Tensor]) -> None:
    """Train twice: by the rule, and along ``direction`` of a gradient, both running means and the step's number."""
    model, twin = network(), network()
    optimizer = recopt.Optimizer(model.parameters(), f"paced(base={base},shrink=0,calm=0)", steps=30, fused=fused)
    train(optimizer, model, 25)
    assert entries(optimizer, "gain") == [1.0] * 4
    sizes = [0.3 * min(p.square().mean().sqrt().item(), 0.085) for p in twin.parameters()]
    means, squares = ([torch.zeros_like(p) for p in twin.parameters()] for _ in range(2))
    for step in range(1, 26):
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step - 1), dtype=torch.float64)
        twin.zero_grad()
        (twin(x) - x[:, :3].sin()).square().mean().backward()
        for p, mean, square, size in zip(twin.parameters(), means, squares, sizes, strict=True):
            assert p.grad is not None
            mean.lerp_(p.grad, 0.1)
            square.lerp_(p.grad.square(), 0.001)
            p.data -= size * min(step / 1.5, 1, (31 - step) / 15) * direction(p.grad, mean, square, step)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def adams(mean: Tensor, square: Tensor, step: int) -> Tensor:
    return mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)


@pytest.mark.parametrize("fused", [True, False])
def test_steps_of_matrices_are_half_adams_and_half_along_orthogonalized_means_as_long(fused: bool) -> None:
    def direction(grad: Tensor, mean: Tensor, square: Tensor, step: int) -> Tensor:
        first = adams(mean, square, step)
        if grad.ndim < 2:
            return first
        turned = orthogonalize(mean.lerp(grad, 0.1))
        return (first + turned * first.norm() / turned.norm()) / 2**0.5

    compare("mixed", fused, direction)


@pytest.mark.parametrize("fused", [True, False])
def test_entries_that_steps_make_smaller_shrink_besides(fused: bool) -> None:
    dice, length, h = torch.Generator().manual_seed(0), 60, 30
    wide, zero = 0.17 * torch.randn(50, generator=dice, dtype=torch.float64), torch.zeros(9, dtype=torch.float64)
    points = [nn.Parameter(wide.clone()), nn.Parameter(zero.clone())]
    twins = [nn.Parameter(wide.clone()), nn.Parameter(zero.clone())]
    optimizer = recopt.Optimizer(points, "paced(base=adam,shrink=2,back=0,calm=0)", steps=length, fused=fused)
    adam = torch.optim.Adam([{"params": [p]} for p in twins])
    rms = float(wide.square().mean().sqrt())
    for step in range(1, length + 1):
        f = min(step / 3, 1, (length + 1 - step) / (length - h))
        for p, q, group in zip(points, twins, adam.param_groups, strict=True):
            p.grad = torch.randn(p.shape, generator=dice, dtype=torch.float64)
            q.grad, group["lr"] = p.grad.clone(), 0.3 * 0.085 * f
        before = [q.detach().clone() for q in twins]
        adam.step()
        optimizer.step()
        with torch.no_grad():
            for q, old, bulk in zip(twins, before, (0.085 / rms, 1.0), strict=True):
                q.sub_(4 * 2 / (length + 3 * h) * f**3 * bulk * old * ((q - old) * old < 0))
    assert entries(optimizer, "gain") == [1.0] * 2
    for ours, theirs in zip(points, twins, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shrink", [0, 2, 8])  # with 8 up to the bound of a tenth
@pytest.mark.parametrize("fused", [True, False])
def test_where_gradients_are_noise_the_rate_falls_and_weights_shrink_more(fused: bool, shrink: int) -> None:
    dice, length = torch.Generator().manual_seed(0), 160
    at = 0.2 * torch.randn(50, generator=dice, dtype=torch.float64)
    point, twin = nn.Parameter(at.clone()), nn.Parameter(at.clone())
    optimizer = recopt.Optimizer([point], f"paced(base=adam,shrink={shrink},back=0)", steps=length, fused=fused)
    adam, bulk = torch.optim.Adam([twin]), 0.085 / float(at.square().mean().sqrt())
    before, seen, noises = torch.zeros(50, dtype=torch.float64), list[tuple[float, float]](), [0.0]
    mean = square = largest = 0.0
    for step in range(1, length + 1):
        f = min(step / (0.05 * length), 1, (length + 1 - step) / (length / 2))
        gradient = torch.randn(50, generator=dice, dtype=torch.float64)
        if step > 100:  # after noise they go on, then turn
            gradient = gradient / 2 + (-1 if step <= 115 else 2 * (-1) ** step)
        if step > 1:
            new = max(0.05, 1 / step)
            mean += new * (float(gradient @ before) / (1 - 0.9 ** (step - 1)) - mean)
            square += new * (float(gradient @ gradient) - square)
            largest = max(largest, square) if step >= 5 else 0.0
        if step > length / 2:
            agreement, left = mean / square * 1.9 / 0.1, (square / largest) ** 0.5
            lines = ((agreement + 0.8) / 0.3, (0.5 - agreement) / 0.4, (left - 0.15) / 0.3)
            noises.append(math.prod(min(max(line, 0), 1) for line in lines))
        before = before + 0.1 * (gradient - before)
        adam.param_groups[0]["lr"] = 0.3 * 0.085 * f * (1 - 0.8 * noises[-1])
        point.grad, twin.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        old = twin.detach().clone()
        adam.step()
        with torch.no_grad():
            share = min(0.1, 4 * shrink / (2.5 * length) * (1 + 3 * noises[-1] ** 2)) * f**3 * bulk
            twin.sub_(share * old * ((twin - old) * old < 0))
        seen.append((optimizer.hyperparameters()["paced.rate"], adam.param_groups[0]["lr"]))
    torch.testing.assert_close(point, twin, rtol=1e-9, atol=1e-12)
    assert [ours for ours, _ in seen] == pytest.approx([hand for _, hand in seen])
    assert entries(optimizer, "gain") == [1.0]
    assert max(noises) == 1 and noises[35] == 0 and noises[-1] == 0
    assert sum(0 < x < 1 for x in noises) > 10


def test_trained_weights_shrink_by_a_tenth_of_it() -> None:
    weight = trained(30, 20, 1.0)
    optimizer = recopt.Optimizer([weight], steps=100)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert entries(optimizer, "bulk") == pytest.approx([0.1])


@pytest.mark.parametrize("base", ["mixed", "muon"])
def test_no_gradient_moves_nothing(base: str) -> None:
    idle = nn.Parameter(torch.ones(3, 4))
    optimizer = recopt.Optimizer([idle], f"paced(base={base})", steps=100)
    for _ in range(5):
        idle.grad = torch.zeros(3, 4)
        optimizer.step()
    assert torch.equal(idle.detach(), torch.ones(3, 4))


@pytest.mark.parametrize("fused", [True, False])
def test_over_muon_matrices_step_along_their_orthogonalized_means(fused: bool) -> None:
    def direction(grad: Tensor, mean: Tensor, square: Tensor, step: int) -> Tensor:
        if grad.ndim < 2:
            return adams(mean, square, step)
        return 0.2 * max(grad.shape) ** 0.5 * orthogonalize(mean.lerp(grad, 0.1))

    compare("muon", fused, direction)


@pytest.mark.parametrize("fused", [True, False])
def test_factored_it_steps_by_the_means_of_squares_over_rows_and_columns(fused: bool) -> None:
    def direction(_: Tensor, mean: Tensor, square: Tensor, step: int) -> Tensor:
        # the means over rows and columns of the mean of squares are the means of theirs
        known = square.mean(1).outer(square.mean(0)) / square.mean() if square.ndim == 2 else square
        return adams(mean, known, step)

    compare("factored", fused, direction)


@pytest.mark.parametrize(
    ("stack", "copies"),
    [
        ("paced", 4),
        ("paced(steps=100)", 4),
        ("paced(base=adam)", 3),
        ("paced(base=adam,steps=100)", 4),
        ("paced(base=muon)", 3),
        ("paced(base=factored)", 1.5),
        ("adam", 2),
    ],
)
def test_copies_of_the_parameters_that_are_kept(stack: str, copies: float) -> None:
    weight = nn.Parameter(torch.randn(400, 300))
    optimizer = recopt.Optimizer([weight], stack)
    weight.grad = torch.randn(400, 300)
    for _ in range(4):
        optimizer.step()
    kept = sum(t.nbytes for t in optimizer.state_dict()["state"][0].values())
    assert kept == pytest.approx(copies * weight.nbytes, rel=0.01)


@pytest.mark.parametrize("length", [None, 100])
@pytest.mark.parametrize("base", ["mixed", "adam", "factored", "muon"])
def test_an_explosion_takes_the_last_step_back(base: str, length: int | None) -> None:
    model, before = network(), list[Tensor]()
    optimizer = recopt.Optimizer(model.parameters(), f"paced(base={base})", steps=length)
    for step in range(41):
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        optimizer.zero_grad()
        loss = (model(x) - x[:, :3].sin()).square().mean()
        loss.backward()
        before = [*before, flat(model)][-2:]
        if step < 40:
            optimizer.step(loss=loss)
    with pytest.warns(RuntimeWarning, match="exploded"):
        optimizer.step(loss=1e9 * loss)
    assert optimizer.guards()["restored"] == 1
    torch.testing.assert_close(flat(model), before[0], rtol=1e-12, atol=1e-15)


def test_factored_no_gradient_moves_nothing_and_a_tiny_one_as_any() -> None:
    idle, tiny = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
    optimizer = recopt.Optimizer([idle, tiny], "paced(base=factored,eps=1e-20,shrink=0)", steps=100)
    for _ in range(5):
        idle.grad, tiny.grad = torch.zeros(3, 4), torch.full((3, 4), 1e-15)
        optimizer.step()
    assert torch.equal(idle.detach(), torch.ones(3, 4))
    assert 0.9 < tiny.detach().min() <= tiny.detach().max() < 0.99  # some steps of 0.0255 at most


def test_complex_numbers_are_saved_factored() -> None:
    whole, parted = (nn.Parameter(torch.ones(5, 4, dtype=torch.complex64)) for _ in range(2))

    def run(optimizer: recopt.Optimizer, z: nn.Parameter, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            (z - 3j).abs().square().sum().backward()
            optimizer.step()

    run(recopt.Optimizer([whole], "paced(base=factored)"), whole, 10)
    first, second = (recopt.Optimizer([parted], "paced(base=factored)") for _ in range(2))
    run(first, parted, 5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(second, parted, 5)
    assert torch.equal(whole, parted)


@pytest.mark.parametrize(
    ("kind", "stack", "deep"),
    [
        ("flat", None, 1.0),
        ("plain", None, 6 / 12 * (6 / 12) ** 2),
        ("plainer", None, 6 / 30 * 0.1),
        ("plain", "paced(base=muon)", 6 / 12),
        ("plain", "paced(base=factored)", 6 / 12 * (6 / 12) ** 2),
        ("normalized", None, 6 / 12),
        ("normalized and trained", None, 6 / 12),
        ("matrices only", None, 6 / 12),
    ],
)
def test_a_network_of_many_matrices_begins_slower_and_slower_still_where_nothing_normalizes(
    kind: str, stack: str | None, deep: float
) -> None:
    params = list(network(depth={"flat": 1, "plainer": 29}.get(kind, 11)).parameters())
    if kind == "matrices only":
        params = [p for p in params if p.ndim > 1]
    elif "normalized" in kind:
        spread = 0.2 * torch.randn(16, generator=torch.Generator().manual_seed(1)) * ("trained" in kind)
        params += [nn.Parameter(torch.ones(16, dtype=torch.float64) + spread), nn.Parameter(torch.zeros(16).double())]
    rms = [p.square().mean().sqrt().item() or 0.085 for p in params]
    optimizer = recopt.Optimizer(params, stack)
    rng = torch.Generator().manual_seed(0)
    for p in params:
        p.grad = torch.randn(p.shape, generator=rng, dtype=p.dtype)
    optimizer.step()
    assert entries(optimizer, "size") == pytest.approx([deep * 0.3 * min(x, 0.085) for x in rms])


def test_the_gain_rises_where_the_way_is_long() -> None:
    far = nn.Parameter(torch.zeros(10))
    optimizer = recopt.Optimizer([far], steps=400)
    for step in range(400):
        optimizer.zero_grad()
        noise = torch.randn(10, generator=torch.Generator().manual_seed(step))
        (far - 100 - noise).square().sum().backward()
        optimizer.step()
    assert entries(optimizer, "gain")[0] > 10
    assert float((far.detach() - 100).abs().max()) < 1


def trained(rows: int, columns: int, strength: float) -> nn.Parameter:
    """A matrix with a direction that stands out of independent entries."""
    rng = torch.Generator().manual_seed(rows)
    left, right, noise = (torch.randn(*shape, generator=rng) for shape in ((rows, 1), (1, columns), (rows, columns)))
    return nn.Parameter(0.01 * (noise + strength * left * right))


def shares(*params: nn.Parameter) -> list[float]:
    """The first sizes over those that follow from the weights' root mean squares."""
    usual = [0.3 * min(p.detach().square().mean().sqrt().item() or 1.0, 0.085) for p in params]
    optimizer = recopt.Optimizer(params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    return [found / size for found, size in zip(entries(optimizer, "size"), usual, strict=True)]


def test_a_small_tensor_whose_own_way_goes_on_does_not_raise_the_gain_of_the_whole() -> None:
    dice = torch.Generator().manual_seed(0)
    model = [torch.zeros(1, requires_grad=True), torch.zeros(10_000, requires_grad=True)]
    optimizer, gains = recopt.Optimizer(model, steps=400), list[float]()
    for _ in range(120):
        model[0].grad, model[1].grad = -torch.ones(1), torch.randn(10_000, generator=dice)
        optimizer.step()
        gains += entries(optimizer, "gain")
    assert max(gains) == 1.0 and model[0] > 0.5


def test_weights_that_are_trained_begin_at_a_tenth_of_the_rate() -> None:
    bias = nn.Parameter(torch.zeros(20))
    assert shares(trained(30, 20, 1.0), bias) == pytest.approx([0.1, 0.1])
    halves = shares(trained(30, 20, 1.0), trained(31, 20, 0.0))  # the mean counts entries
    assert halves == pytest.approx([0.1 ** (30 / 61)] * 2)
    weight = trained(30, 20, 0.3).detach()
    bound = weight.square().mean().sqrt() * (30**0.5 + 20**0.5)
    beyond = float(torch.linalg.matrix_norm(weight, 2) / bound) - 1.05
    assert 0 < beyond < 0.1
    assert shares(nn.Parameter(weight)) == pytest.approx([0.1 ** (beyond / 0.1)], rel=0.01)


@pytest.mark.parametrize(
    "fresh",
    [
        lambda: nn.TransformerEncoderLayer(64, 4).parameters(),
        lambda: nn.LSTM(10, 64).parameters(),
        lambda: nn.Sequential(nn.Conv2d(3, 64, 7), nn.Conv2d(64, 64, 3, groups=64), nn.Linear(3, 4)).parameters(),
        lambda: nn.Embedding(2000, 64).parameters(),
        lambda: [nn.Parameter(torch.eye(50)), nn.Parameter(torch.zeros(9, 9))],
        lambda: [nn.Parameter(torch.full((50, 1), 10.0)), nn.Parameter(torch.tensor(3.0))],
        lambda: [nn.Parameter(nn.init.orthogonal_(torch.empty(64, 64, dtype=torch.bfloat16).float()).bfloat16())],
    ],
)
def test_weights_as_they_are_initialized_begin_at_the_whole_rate(fresh: Callable[[], Iterable[nn.Parameter]]) -> None:
    torch.manual_seed(0)
    found = shares(*fresh())
    assert found == pytest.approx([1.0] * len(found), rel=0.01)


def test_weights_that_only_look_trained_come_to_the_whole_rate_where_the_way_is_long() -> None:
    far = nn.Parameter(torch.ones(10, 10))
    optimizer, gains = recopt.Optimizer([far], steps=400), list[float]()
    for _ in range(400):
        optimizer.zero_grad()
        (far - 10).square().sum().backward()
        optimizer.step()
        gains += entries(optimizer, "gain")
    assert entries(optimizer, "size") == pytest.approx([0.1 * 0.3 * 0.085])
    assert max(gains) > 10
    assert float((far.detach() - 10).abs().max()) < 1


@pytest.mark.parametrize(("shape", "floor"), [((2,), 0.08), ((2, 8, 8), 0.8)])
def test_where_two_losses_turn_about_each_other_the_gain_falls_and_stays(shape: tuple[int, ...], floor: float) -> None:
    """x y, which one descends by x and the other climbs by y: the gradient goes round and round.

    A block of ones counts as trained, at a tenth of the rate from the start: both together fall no further.
    """
    both = nn.Parameter(torch.ones(shape))
    optimizer, gains = recopt.Optimizer([both], steps=2000), list[float]()
    for _ in range(600):
        both.grad = torch.stack([both.detach()[1], -both.detach()[0]])
        optimizer.step()
        gains.append(entries(optimizer, "gain")[0])
    assert gains[-1] == pytest.approx(floor)
    assert max(gains) < 3 * floor / 0.08, "a level that moves the rate by one-step signals would raise it without end"


def test_after_the_last_step_nothing_moves_and_that_is_told_once() -> None:
    model = network()
    optimizer = recopt.Optimizer(model.parameters(), steps=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(optimizer, model, 20)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.warns(RuntimeWarning, match="told steps=20, and this is step 21") as told:
        train(optimizer, model, 3, 20)
    assert len(told) == 1 and told[0].filename == __file__
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert optimizer.hyperparameters()["paced.rate"] == 0


@pytest.mark.parametrize("length", [None, 60])
@pytest.mark.parametrize("at", [1, 3, 4, 17, 40])
@pytest.mark.parametrize("stack", ["paced", "paced(base=adam)", "paced(base=factored)"])
def test_a_saved_run_goes_on_bit_for_bit_while_the_gain_is_looked_at(stack: str, at: int, length: int | None) -> None:
    whole, parted = network(), network()
    train(recopt.Optimizer(whole.parameters(), stack, steps=length), whole, 50)
    first = recopt.Optimizer(parted.parameters(), stack, steps=length)
    train(first, parted, at)
    second = recopt.Optimizer(parted.parameters(), stack, steps=length)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(second, parted, 50 - at, at)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parted.parameters(), strict=True))


def test_a_rate_that_is_given_is_not_read_and_that_is_told() -> None:
    ends = []
    for rate in (None, 1e-7, 1e3):
        model = network()
        if rate is None:
            optimizer = recopt.Optimizer(model.parameters())
        else:
            with pytest.warns(RuntimeWarning, match="default does not read"):
                optimizer = recopt.Optimizer(model.parameters(), lr=rate)
            assert optimizer.param_groups[0]["lr"] == rate  # which schedulers begin at
        train(optimizer, model, 10)
        ends.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for end in ends[1:] for a, b in zip(ends[0], end, strict=True))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": 0}, "must be the number of opt.step"),
        ({"steps": 2.5}, "must be the number of opt.step"),
        ({"steps": True}, "must be the number of opt.step"),
        ({"stack": "adam/sgd", "steps": 100}, "leave the stack out, or use a torch.optim.lr_scheduler"),
        ({"lr": -1.0}, "lr"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RecoptError, match=said):
        recopt.Optimizer(mlp().parameters(), **given)


def test_the_rate_is_shown() -> None:
    model = network()
    optimizer = recopt.Optimizer(model.parameters())
    assert "paced.rate" not in optimizer.hyperparameters()
    train(optimizer, model, 20)
    sizes = [s * g for s, g in zip(entries(optimizer, "size"), entries(optimizer, "gain"), strict=True)]
    expected = math.exp(sum(map(math.log, sizes)) / len(sizes))
    assert optimizer.hyperparameters()["paced.rate"] == pytest.approx(expected)


@pytest.mark.parametrize(("length", "layers", "first"), [(60, 1, 30), (240, 1, 100), (60, 7, 0)])
def test_the_fall_begins_at_step_100_or_in_the_middle_but_at_once_in_deep_plain_networks(
    length: int, layers: int, first: int
) -> None:
    torch.manual_seed(0)
    model, rates = nn.Sequential(*(nn.Linear(30, 30) for _ in range(layers))), [0.0]
    optimizer = recopt.Optimizer(model.parameters(), "paced(calm=0)", steps=length)
    rng = torch.Generator().manual_seed(0)
    for _ in range(length):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=rng)
        optimizer.step()
        rates.append(optimizer.hyperparameters()["paced.rate"])
    last, steps = rates[-1], range(length // 2, length + 1)
    assert [rates[t] / last for t in steps] == pytest.approx([min(length + 1 - t, length - first) for t in steps])


def onwards(steps: int, told: int | None, stack: str = "paced", fused: bool = True) -> tuple[nn.Linear, Tensor]:
    """A linear map after a training on rows that it can all get right, and where it began."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    begun = torch.cat([p.detach().flatten() for p in model.parameters()])
    optimizer = recopt.Optimizer(model.parameters(), stack, steps=told, fused=fused)
    for _ in range(steps):
        optimizer.zero_grad()
        right(model).backward()
        optimizer.step()
    return model, begun


def right(model: nn.Module) -> Tensor:
    return nn.functional.cross_entropy(model(torch.eye(3).double()), torch.tensor([0, 1, 1]))


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("fused", [True, False])
def test_where_gradients_only_ask_to_go_on_weights_go_back_in_every_eighth_step(fused: bool) -> None:
    length, h = 52, 26  # so short that no gain rises
    model, start = onwards(0, None)
    with torch.no_grad():
        sizes = [0.6 * 0.3 * min(p.square().mean().sqrt().item(), 0.085) for p in model.parameters()]  # it is linear
    twin = torch.optim.Adam([{"params": [p]} for p in model.parameters()], lr=1.0)
    mean, went = 0.0, 0
    for step in range(1, length + 1):
        f = min(step / (0.05 * length), 1, (length + 1 - step) / (length - h))
        for group, size in zip(twin.param_groups, sizes, strict=True):
            group["lr"] = size * f
        twin.zero_grad()
        right(model).backward()
        here, grad = flat(model), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        twin.step()
        if step % 8 == 0:
            said = 1.0 if grad @ here < 0 and grad @ (here - start) < 0 else -1.0
            mean += max(0.2, 8 / step) * (said - mean)
        if step % 8 == 0 and step >= 32 and mean > 0.8:
            back = 0.1 * f**0.5 * (5 * mean - 4) * (start - here)
            went += 1
            with torch.no_grad():
                for p, part in zip(model.parameters(), back.split([6, 2]), strict=True):
                    p.add_(part.view_as(p))
    assert went >= 3
    torch.testing.assert_close(
        flat(onwards(length, length, "paced(base=adam,shrink=0,calm=0)", fused)[0]), flat(model), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("base", ["mixed", "adam", "factored", "muon"])
def test_rows_that_are_right_already_are_made_less_sure_of(base: str) -> None:
    found = [onwards(52, 52, f"paced(base={base},back={back})") for back in (0, 0.7)]
    far, near = ((flat(model) - start).norm() for model, start in found)
    assert near < 0.9 * far
    assert right(found[1][0]) > right(found[0][0])


def test_where_gradients_turn_about_zero_nothing_goes_back() -> None:
    ends = []
    for back in (0, 0.7):
        dice, point = torch.Generator().manual_seed(0), torch.linspace(-1, 1, 41, requires_grad=True)
        optimizer = recopt.Optimizer([point], f"paced(back={back})", steps=200, fused=False)
        for _ in range(200):
            point.grad = torch.randn(41, generator=dice)
            optimizer.step()
        ends.append(point.detach())
    assert torch.equal(*ends)


@pytest.mark.parametrize("noise", [0.0, 0.25, 1.0])
def test_weights_do_not_go_back_by_the_share_of_noise(noise: float) -> None:
    def ended(back: float) -> tuple[Tensor, Tensor]:
        model, start = onwards(0, None)
        optimizer = recopt.Optimizer(model.parameters(), steps=160, fused=False)
        for step in range(1, 97):
            optimizer.zero_grad()
            right(model).backward()
            if step == 2:  # as in networks, which have more than one matrix
                (part,) = optimizer._towers.all[0].state.levels[0].parts
                part.strategy["calm"] = 0.8
            if step == 96:  # as if gradients had been noise so far, and the last one is nearly nothing
                here, (part,) = flat(model), optimizer._towers.all[0].state.levels[0].parts
                given = {"power": 1.0, "most": 1.0, "accord": (0.5 - 0.4 * noise) / 19, "onward": 1.0, "gain": 1.0}
                part.strategy["back"] = back
                for name, value in given.items():
                    for number in part.strategy[name]:
                        number.fill_(value)
                for p in model.parameters():
                    p.grad.mul_(1e-9)
            optimizer.step()
        assert entries(optimizer, "noise") == pytest.approx([noise] * 2)
        return flat(model), start - here

    (moved, way), (stayed, _) = (ended(back) for back in (1.0, 0.0))
    share = 16 / (160 + 80) * (65 / 80) ** 0.5
    torch.testing.assert_close(moved - stayed, share * (1 - noise) * way, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("name", "values"), [("back", (0, 0.7)), ("calm", (0, 1))])
def test_a_run_of_unknown_length_does_not_go_back_nor_calm_down(name: str, values: tuple[float, float]) -> None:
    assert torch.equal(*(flat(onwards(100, None, f"paced({name}={value})")[0]) for value in values))


def test_networks_that_normalize_and_plain_deep_ones_do_not_go_back_nor_calm_down() -> None:
    plain = [nn.Linear(8, 8) for _ in range(8)]
    for layers, told in ((plain[:3], 1.0), (plain, 0.0), ([nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)], 0.0)):
        model = nn.Sequential(*layers)
        optimizer = recopt.Optimizer(model.parameters(), steps=100)
        model(torch.randn(4, 8)).sum().backward()
        optimizer.step()
        (part,) = optimizer._towers.all[0].state.levels[0].parts
        assert (part.strategy["back"], part.strategy["calm"]) == (told, 0.8 * told)


@pytest.mark.parametrize(
    ("made", "steps", "factor"),
    [
        (lambda: nn.Linear(16, 3), 100, 0.6),
        (lambda: nn.Linear(16, 3), None, 1.0),
        (lambda: nn.Linear(16, 3, bias=False), 100, 1.0),  # any tensor of two dimensions
        (lambda: nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 3)), 100, 1.0),
    ],
)
def test_linear_models_move_less_and_nothing_counts_as_noise_there(
    made: Callable[[], nn.Module], steps: int | None, factor: float
) -> None:
    model = made()
    rms = [p.detach().square().mean().sqrt().item() for p in model.parameters()]
    optimizer = recopt.Optimizer(model.parameters(), steps=steps)
    model(torch.randn(4, 16)).square().sum().backward()
    optimizer.step()
    (part,) = optimizer._towers.all[0].state.levels[0].parts
    told = 1.0 if steps else 0.0
    assert entries(optimizer, "size") == pytest.approx([factor * 0.3 * min(x, 0.085) for x in rms])
    assert entries(optimizer, "bulk") == pytest.approx([factor * min(1.0, 0.085 / x) for x in rms])
    assert part.strategy["back"] == factor * told
    assert part.strategy["calm"] == (0.8 * told if factor == 1 else 0.0)
