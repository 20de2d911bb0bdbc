"""The shipped analytic strategies: equal to torch.optim, and true to what their docstrings say."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Generator

from recopt import Params, RecoptError, Strategy, Trial
from recopt.stacks.plugins import load_strategy
from recopt.testing import assert_conforms

ANALYTIC = ("sgd", "adam", "rmsprop", "adagrad")


def make(name: str, **settings: Any) -> Strategy:
    return load_strategy(name)(**settings).double()


def start() -> Params:
    rng = Generator().manual_seed(3)
    return [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in [(), (4,), (3, 5)]]


def gradients(point: Params, t: int) -> Params:
    """Noisy gradients of Σ log cosh; the first entry of a tensor never has one, the last tensor none at first."""
    rng = Generator().manual_seed(t)
    found = [p.tanh() + 0.3 * torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in point]
    found[1][0] = 0.0
    return [g * (t >= 5 or i < 2) for i, g in enumerate(found)]


Case = tuple[str, dict[str, Any], type[torch.optim.Optimizer], dict[str, Any]]
LIKE_TORCH: list[Case] = [
    ("sgd", {}, torch.optim.SGD, {"lr": 0.01}),
    ("sgd", {"lr": 0.1, "momentum": 0.9}, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (
        "sgd",
        {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
        torch.optim.SGD,
        {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    ),
    ("sgd", {"weight_decay": 0.3}, torch.optim.SGD, {"lr": 0.01, "weight_decay": 0.3}),
    ("adam", {}, torch.optim.Adam, {}),
    ("adam", {"lr": 0.1, "beta1": 0.5, "beta2": 0.9}, torch.optim.Adam, {"lr": 0.1, "betas": (0.5, 0.9)}),
    ("adam", {"lr": 0.1, "beta1": 0}, torch.optim.Adam, {"lr": 0.1, "betas": (0.0, 0.999)}),
    ("adam", {"lr": 0.1, "eps": 1e-3}, torch.optim.Adam, {"lr": 0.1, "eps": 1e-3}),
    ("adam", {"lr": 0.1, "weight_decay": 0.2}, torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.2}),
    (
        "adam",
        {"lr": 0.1, "weight_decay": 0.2, "decoupled_weight_decay": False},
        torch.optim.Adam,
        {"lr": 0.1, "weight_decay": 0.2},
    ),
    ("rmsprop", {}, torch.optim.RMSprop, {}),
    ("rmsprop", {"lr": 0.05, "alpha": 0.8, "eps": 1e-4}, torch.optim.RMSprop, {"lr": 0.05, "alpha": 0.8, "eps": 1e-4}),
    ("rmsprop", {"momentum": 0.9}, torch.optim.RMSprop, {"momentum": 0.9}),
    ("rmsprop", {"centered": True}, torch.optim.RMSprop, {"centered": True}),
    (
        "rmsprop",
        {"centered": True, "momentum": 0.7, "weight_decay": 0.1},
        torch.optim.RMSprop,
        {"centered": True, "momentum": 0.7, "weight_decay": 0.1},
    ),
    ("adagrad", {}, torch.optim.Adagrad, {}),
    ("adagrad", {"lr": 0.3, "eps": 1e-4}, torch.optim.Adagrad, {"lr": 0.3, "eps": 1e-4}),
    (
        "adagrad",
        {"lr": 0.3, "initial_accumulator_value": 0.5},
        torch.optim.Adagrad,
        {"lr": 0.3, "initial_accumulator_value": 0.5},
    ),
    (
        "adagrad",
        {"lr": 0.3, "lr_decay": 0.1, "weight_decay": 0.2},
        torch.optim.Adagrad,
        {"lr": 0.3, "lr_decay": 0.1, "weight_decay": 0.2},
    ),
]


def label(case: Case) -> str:
    return "-".join([case[0], *case[1]])


@pytest.mark.parametrize("case", LIKE_TORCH, ids=label)
def test_equals_torch_over_100_steps(case: Case, rng: Generator) -> None:
    name, settings, torchs, its_settings = case
    strategy, point = make(name, **settings), start()
    state = strategy.init(point)
    theirs = [p.clone().requires_grad_() for p in start()]
    optimizer = torchs(theirs, **its_settings)  # type: ignore[call-arg]
    for t in range(100):
        delta, state = strategy(point, [Trial(point, None, gradients(point, t))], state, rng)
        point = [(p + d).detach() for p, d in zip(point, delta, strict=True)]
        for p, g in zip(theirs, gradients([p.detach() for p in theirs], t), strict=True):
            p.grad = g
        optimizer.step()
        gap = max(float((a - b).detach().abs().max()) for a, b in zip(point, theirs, strict=True))
        assert gap < 1e-12, f"step {t}: {gap}"
    assert all(float((a - b).abs().max()) > 1e-2 for a, b in zip(point, start(), strict=True))


@pytest.mark.parametrize("case", LIKE_TORCH, ids=label)
def test_every_variant_conforms(case: Case) -> None:
    # Among others: derivatives by every hyperparameter against central differences, and finite where gradients are 0.
    assert_conforms(lambda: load_strategy(case[0])(**case[1]))


@pytest.mark.parametrize("name", ["annealing", "random-search", "hypergradient"])
def test_the_others_conform(name: str) -> None:
    assert_conforms(load_strategy(name))


def test_variants_of_random_search_conform() -> None:
    assert_conforms(lambda: load_strategy("random-search")(shape="gaussian", population=4))


@pytest.mark.parametrize("name", ANALYTIC)
def test_terms_that_are_off_are_no_hyperparameters(name: str) -> None:
    moved = {n for n, _ in make(name).named_parameters()}
    assert "lr" in moved
    assert not moved & {"momentum", "weight_decay", "lr_decay", "initial_accumulator_value"}
    assert "weight_decay" in {n for n, _ in make(name, weight_decay=0.1).named_parameters()}


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_without_eps_the_scale_of_the_gradient_does_not_matter(name: str, rng: Generator) -> None:
    strategy = make(name, eps=0)
    ends = []
    for scale in (1.0, 2.0**40, 2.0**-40):
        point, state = start(), strategy.init(start())
        for t in range(20):
            grads = [scale * g for g in gradients(start(), t)]
            delta, state = strategy(point, [Trial(point, None, grads)], state, rng)
            point = [(p + d).detach() for p, d in zip(point, delta, strict=True)]
        ends.append(point)
    assert all(torch.equal(a, b) for other in ends[1:] for a, b in zip(ends[0], other, strict=True))


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(RecoptError, match="needs momentum"):
        make("sgd", nesterov=True)


def test_centered_rmsprop_survives_a_constant_gradient(rng: Generator) -> None:
    strategy = make("rmsprop", centered=True, alpha=0.5)
    point = [torch.zeros(1000, dtype=torch.float64)]
    state, grads = strategy.init(point), [torch.linspace(0.1, 7.3, 1000, dtype=torch.float64)]
    for _ in range(200):  # long enough for v - m² to be rounding alone, of either sign
        delta, state = strategy(point, [Trial(point, None, grads)], state, rng)
        assert delta[0].isfinite().all()


# hypergradient


def test_hypergradient_steps_against_the_signal_by_kappa(rng: Generator) -> None:
    strategy = make("hypergradient", kappa=0.25)
    point, signal = start(), [torch.full_like(p, 0.5) for p in start()]
    delta, state = strategy(point, [Trial(point, None, signal)], strategy.init(point), rng)
    assert state == {}
    assert all(torch.allclose(d, torch.full_like(d, -0.125), rtol=1e-14) for d in delta)
    assert type(strategy).level == {"normalize": "cosine"}


def test_hypergradient_agrees_with_the_multiplicative_rule_to_first_order(rng: Generator) -> None:
    alpha, cosine = 0.03, torch.tensor(-0.7, dtype=torch.float64)
    for kappa in (1e-2, 1e-3):
        strategy = make("hypergradient", kappa=kappa)
        point = [torch.tensor(math.log(alpha), dtype=torch.float64)]
        delta, _ = strategy(point, [Trial(point, None, [cosine])], {}, rng)
        published = alpha * (1 - kappa * float(cosine))
        assert float((point[0] + delta[0]).detach().exp()) == pytest.approx(published, rel=kappa**2)


def test_kesten_is_adagrad_that_counts_turns() -> None:
    """Without a power it is adagrad; with one, steps shorten with the changes of sign so far, zeros left out."""
    point = start()
    for power in (0.0, 0.5):
        rule, plain = make("kesten", lr=0.1, power=power), make("adagrad", lr=0.1, eps=0.0)
        state, other, turns = rule.init(point), plain.init(point), [torch.zeros_like(p) for p in point]
        seen: list[Params] = []
        for t in range(1, 30):
            grads = gradients(point, t)
            seen.append(grads)
            delta, state = rule(point, [Trial(point, None, grads)], state, Generator())
            expected, other = plain(point, [Trial(point, None, grads)], other, Generator())
            for n, turn in enumerate(turns):
                for index in itertools.product(*map(range, turn.shape)):
                    signs = [float(g[n][index].sign()) for g in seen if float(g[n][index]) != 0]
                    turn[index] = sum(a != b for a, b in itertools.pairwise(signs))
            for d, e, k in zip(delta, expected, turns, strict=True):
                assert torch.allclose(d, e / (1 + k) ** power, rtol=1e-12, atol=0)
    assert max(float(k.max()) for k in turns) > 3
