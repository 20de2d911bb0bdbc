"""recopt.run and recopt.Optimizer give the same trajectory: defaults and guards on, from sane and from absurd rates."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt

from .. import engines

RULES = (
    "sgd", "sgd(momentum=0.9)", "sgd(momentum=0.9,nesterov=true,weight_decay=0.01)", "adam", "adam(weight_decay=0.1)",
    "adam(weight_decay=0.1,decoupled_weight_decay=false)", "rmsprop", "rmsprop(momentum=0.5,centered=true)", "adagrad",
    "adagrad(lr_decay=0.01)", "kesten", "muon",
    "paced", "paced(base=adam)", "paced(base=muon)", "paced(base=factored)", "paced(steps=60,weight_decay=0.1)",
    "schedule-free", "prodigy",
    "dog", "dowg", "cocob", "mechanic", "osgm", "lstm", "meta-lstm", "srwm",
    "self-tied", "self-tied(lr=3,base=sgd(momentum=0.9))",
    "rnnprop", "mlp-rule", "hierarchical", "residual", "blend", "learned", "learned-quadratic", "learned-mnist",
)  # fmt: skip
ABOVE = ("sgd", "adam", "adagrad(lr=1)[lr]", "kesten[lr]", "hypergradient", "rmsprop", "prodigy[lr]", "lstm[lr]")
TOWERS = [f"{rule}/{above}" for rule in ("sgd", "adam", "rmsprop(momentum=0.5)", "schedule-free") for above in ABOVE]
HIGH = ["adam/adam/adam/adam", "sgd/sgd/sgd", "adam/hypergradient/sgd", "adam/adagrad(lr=1)[lr]/sgd",
        "adam/kesten[lr]/adam", "adam/hypergradient/self", "adam/self", "sgd/sgd/self", "lstm/self",
        "adam[*weight]+sgd[*bias]/self"]  # fmt: skip
ABSURD = [f"{rule}(lr={lr:g})/{above}" for rule in ("sgd", "adam") for lr in (1e3, 5.0, 1e-7)
          for above in ("sgd", "adagrad(lr=1)[lr]", "hypergradient", "adam/adam")]  # fmt: skip
SETTINGS: list[tuple[str, dict[int, dict[str, Any]]]] = [
    ("adam/sgd", {2: {"every": 5}}),
    ("adam/adam/sgd", {2: {"every": 3, "objective": "last"}, 3: {"every": 2}}),
    ("sgd(lr=5)/sgd", {2: {"every": 4, "objective": "sum"}}),
    ("adam/sgd[*]", {}),
    ("sgd(momentum=0.9,weight_decay=0.01)/adam[*]", {}),
    ("adam(lr=0.05)/sgd", {1: {"average": 8.0}}),
    ("lstm/adam", {2: {"every": 5}}),
    ("adam[*weight]+sgd[*bias]/hypergradient", {}),
]
FROM_ZERO = ["adam(lr=0.1)/hypergradient", "adam(lr=3)/hypergradient/self", "sgd(lr=1e3)/adagrad(lr=1)[lr]",
             "adam[*weight]+sgd(lr=30)[*bias]/hypergradient",
             "muon(lr=99)/adam[lr]", "prodigy(lr=99)/sgd[lr]", "self-tied(lr=3)"]  # fmt: skip
CASES = [(stack, {}) for stack in (*RULES, *TOWERS, *HIGH, *ABSURD)] + SETTINGS
STEPS = 60


class Hard(engines.Regression):
    """A regression whose batch 30 is not a number and whose batch 40 is far off."""

    def batch(self, index: int, split: Any = "train") -> Any:
        x, y = super().batch(index, split)
        return x, y * {30: float("nan"), 40: 1e3}.get(index, 1.0)


def by_hand(stack: str, settings: Mapping[int, Mapping[str, Any]], task: Any, start: list[Tensor]) -> tuple[Any, ...]:
    """Losses, parameters and hyperparameters of the same work in a loop of one's own."""
    model: nn.Module = task.model().double()
    with torch.no_grad():
        for p, value in zip(model.parameters(), start, strict=True):
            p.copy_(value)
    opt = recopt.Optimizer(model.named_parameters(), stack, levels=settings)
    losses = []
    for index in range(STEPS):
        opt.zero_grad()
        loss = task.loss(model, task.batch(index))
        loss.backward()
        opt.step(loss=loss)
        losses.append(float(loss.detach()))
    return losses, [p.detach() for p in model.parameters()], opt.hyperparameters(), opt.guards()


@pytest.mark.parametrize("hard", [False, True], ids=["", "hard"])
@pytest.mark.parametrize(("stack", "settings"), CASES, ids=[f"{n} {stack}" for n, (stack, _) in enumerate(CASES)])
def test_a_run_and_a_loop_go_the_same_way(stack: str, settings: dict[int, dict[str, Any]], hard: bool) -> None:
    go_the_same_way((Hard if hard else engines.Regression)(seed=0), stack, settings)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("stack", FROM_ZERO)
def test_so_they_do_from_zero(stack: str, every: int) -> None:
    go_the_same_way(engines.FromZero(seed=0), stack, {2: {"every": every}} if "/" in stack and "+" not in stack else {})


def go_the_same_way(task: Any, stack: str, settings: Mapping[int, Mapping[str, Any]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        made = built(task, stack, settings)
        start = engines.params(made)
        made.run(STEPS)
        made.flush()
        losses, params, hyperparameters, guards = by_hand(stack, settings, task, start)
    assert engines.losses(made) == pytest.approx(losses, rel=1e-9, nan_ok=True)
    for ours, theirs in zip(engines.params(made), params, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)
    for name, space in made.tower.carriers.spaces.items():
        numbers: Any = made.state.slots[name]
        declared = made.graph.slots[name]._domains
        for key in space.names:
            if key in declared:
                assert numbers.value[key] == pytest.approx(hyperparameters[f"{name}.{key}"], rel=1e-8)
    counts = made.state.guard.counts if made.state.guard else {}
    assert {k: counts.get(k, 0) for k in ("skipped", "restored", "bounded")} == {
        k: guards[k] for k in ("skipped", "restored", "bounded")
    }


def built(task: Any, stack: str, settings: Mapping[int, Mapping[str, Any]]) -> Any:
    """The engine on what ``recopt.Optimizer`` makes of ``stack``: a run goes on, so nothing starts afresh in either."""
    from recopt.engine.engine import Engine
    from recopt.optim.stack_graph import Options, graph_of

    levels = {n: dict(s) for n, s in settings.items()}
    names = [name for name, _ in task.model().named_parameters()]
    graph = graph_of(stack, names, Options(None, None, None, levels, True, True, 0), {})
    return Engine(task, graph, dtype=torch.float64, sink=engines.Recorder())


@pytest.mark.parametrize(
    "stack",
    [
        "adam",
        "adam/sgd",
        "adam/adagrad(lr=1)[lr]",
        "sgd(lr=5)/sgd",
        "learned",
        "lstm",
        "adam(lr=100)/adam/adam",
        "schedule-free/kesten[lr]",
        "adam/hypergradient/sgd",
    ],
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_recopt_run_itself(stack: str, dtype: str) -> None:
    """As a user calls it: a task of his own, everything else left open."""
    result = recopt.run(engines.Regression(seed=3), stack, steps=STEPS, seed=3, dtype=dtype, track=False, measure=0)
    task = engines.Regression(seed=3)
    torch.manual_seed(3)
    model = task.model().to(getattr(torch, dtype))
    opt = recopt.Optimizer(model.named_parameters(), stack, seed=3)
    losses = []
    for index in range(STEPS):
        opt.zero_grad()
        loss = task.loss(model, [b.to(getattr(torch, dtype)) for b in task.batch(index)])
        loss.backward()
        opt.step(loss=loss)
        losses.append(float(loss.detach()))
    assert list(result.losses) == pytest.approx(losses, rel=1e-9 if dtype == "float64" else 1e-4)
