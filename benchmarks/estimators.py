"""Estimators of hypergradients on problems whose answers are known.

    python benchmarks/estimators.py influence|schedule|horizon|penalties [--seeds 3]

``influence``: influence balancing (Tallec & Ollivier 2017, 1702.05043; Vicol et al. 2021, 2112.13835), n = 23, p = 10.
``schedule``: two ends of a linear schedule of SGD on a rough surface (Vicol et al. 2021, sect. 5.1), from each seed.
``horizon``: a rate and a momentum tuned by tangents over long runs, and the memory of the process; time and memory of
the exact unroll of 1,000 steps, plain and in segments.
``penalties``: one penalty for each feature of a ridge and a logistic regression, against the closed form, plain torch,
and torchopt where that is installed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from estimators_tasks import FEATURES, LENGTH, Balance, Curve, First, Logistic, Ramp, Ridge, Rough, total
from torch import Tensor

from recopt.contracts.strategy import Strategy
from recopt.contracts.task import Task
from recopt.engine.engine import Engine
from recopt.levels.graph import Graph
from recopt.levels.level import Level
from recopt.levels.state import Signal
from recopt.stacks.plugins import load_strategy

PLAIN = {"normalize": "none", "guard": False}


def engine(
    task: Task, inner: Strategy, outer: Strategy, moves: str, told: Mapping[str, Any], seed: int = 0
) -> Engine:  # fmt: skip
    """A run of two levels in float64; the upper one is told ``told``."""
    levels = [Level(moves="task", by="inner", guard=False), Level(moves=moves, by="outer", **told)]
    return Engine(task, Graph(levels, {"inner": inner, "outer": outer}), dtype=torch.float64, seed=seed)


def strategy(name: str, **settings: float) -> Strategy:
    """A shipped strategy."""
    return load_strategy(name)(**settings)


def influence() -> None:
    """The loss at rest, ½ (−6θ − 1)², after 3,000 steps of SGD on θ; it begins at 8.0."""
    for gradient in ("online", "forward", "es", "pes"):
        noise = {"sigma": 0.1, "pairs": 500, "every": 1} if gradient in ("es", "pes") else {}
        made = engine(First(), Balance(), strategy("sgd", lr=1e-4), "inner", {"gradient": gradient, **noise, **PLAIN})
        made.run(3000)
        theta = float(made.state.slots["inner"].params[0].detach())
        print(f"{gradient:8} theta {theta:.12f}, loss {0.5 * (-6 * theta - 1) ** 2:.3g}")


def schedule(seeds: int, steps: int = 5000) -> None:
    """The sum of the losses of a run of LENGTH steps, before and after ``steps`` of Adam on windows of ten."""
    ends = torch.linspace(-7, 3, 201, dtype=torch.float64)
    start = torch.tensor(0.01, dtype=torch.float64).log()
    best = total(*torch.meshgrid(ends, ends, indexing="ij")).min()
    print(f"at first {float(total(start, start)):.1f}, best of a grid {float(best):.1f}")
    falling = {"schedule": "cosine", "horizon": steps}
    for gradient, more in (("es", {}), ("pes", {}), ("nres", {}), ("pes", falling), ("nres", falling)):
        told = {"gradient": gradient, "every": 10, "episode": LENGTH, "sigma": 0.3, "pairs": 50, "objective": "sum"}
        sums, begin = list[float](), time.perf_counter()
        for seed in range(seeds):
            outer = strategy("adam", lr=0.01, beta1=0.99, beta2=0.999)
            made = engine(Rough(), Ramp(), outer, "inner", {**told, **more, **PLAIN}, seed)
            made.run(10 * steps)
            sums.append(float(total(*(p.detach() for p in made.state.slots["inner"].params))))
        spread = statistics.stdev(sums) if seeds > 1 else 0.0
        print(f"{gradient:5} {'falling' if more else 'constant':9} {statistics.mean(sums):.1f} ± {spread:.1f} "
              f"({', '.join(f'{x:.1f}' for x in sums)}), {time.perf_counter() - begin:.0f} s", flush=True)  # fmt: skip


def horizon(length: int = 1000) -> None:
    """Tangents over runs of 500 and of 5,000 steps; and the exact unroll of ``length`` steps, plain and in segments."""
    for steps in (500, 5000):
        told = {"gradient": "forward", "every": 50, "only": ("lr", "momentum")}
        made = engine(Ridge(), strategy("sgd", lr=1e-3, momentum=0.5), strategy("adam", lr=0.02), "inner", told)
        begin = time.perf_counter()
        made.run(steps)
        rate, momentum = (p.detach() for p in made.state.slots["inner"].params)
        took = 1000 * (time.perf_counter() - begin) / steps
        print(f"{steps:5} steps: lr {rate.exp():.2e}, momentum {momentum.sigmoid():.3f}, {took:.2f} ms a step, "
              f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")  # fmt: skip
    found = [alone(partial(unrolled, segments), length) for segments in (None, 8, 32, 128)]
    for segments, (grads, seconds, grown) in zip((None, 8, 32, 128), found, strict=True):
        apart = float((grads - found[0][0]).abs().max() / found[0][0].abs().max())
        print(f"{length} steps in {segments or 1:3} segments: {grown:6.1f} MiB, {seconds:.2f} s "
              f"({seconds / found[0][1]:.2f} times), difference {apart:.1e}", flush=True)  # fmt: skip


def unrolled(segments: int | None, length: int) -> Tensor:
    """The exact hypergradient of rate and momentum over a window."""
    told = {"gradient": "unroll", "second_order": True, "every": length, **PLAIN}
    told |= {"segments": min(segments, length)} if segments else {}
    made = engine(Curve(), strategy("sgd", lr=0.05, momentum=0.5), strategy("sgd", lr=1e-9), "inner",
                  {**told, "only": ("lr", "momentum")})  # fmt: skip
    return first_signal(made, length)


def penalties(length: int = 2000) -> None:
    """The largest error of a hypergradient after ``length`` steps from zero, over its largest entry; its cost."""
    for task, rate in ((Ridge(), 0.15), (Logistic(), 0.4)):
        exact = closed(task)
        ways = {gradient: partial(by_recopt, gradient) for gradient in ("implicit", "unroll", "forward")}
        ways |= {"torch, implicit": implicit_by_hand, "torch, unrolled": by_hand}
        if find_spec("torchopt"):
            ways |= {"torchopt, implicit": implicit_by_torchopt, "torchopt, unrolled": by_torchopt}
        for name, way in ways.items():
            found, seconds, grown = alone(partial(way, task, rate), length)
            error = float((found - exact).abs().max() / exact.abs().max())
            print(f"{type(task).__name__:8} {name:18} error {error:.1e}, {seconds:.2f} s, {grown:.1f} MiB", flush=True)


def alone(way: Callable[[int], Tensor], length: int) -> tuple[Tensor, float, float]:
    """The answer of ``way`` in a process of its own, its seconds, and by how many MiB the process grew at most."""
    here, there = multiprocessing.get_context("fork").Pipe()

    def work() -> None:
        way(20)  # what is made once
        before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        found = way(length)
        took = time.perf_counter() - begin
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        there.send((found.tolist(), took, grown / 1024))

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    there.close()  # so that a child that fails is noticed
    found, took, grown = here.recv()
    child.join()
    return torch.tensor(found, dtype=torch.float64), took, grown


def by_recopt(gradient: str, task: Ridge, rate: float, length: int) -> Tensor:
    """The hypergradient of a level over ``loss``."""
    told = {"gradient": gradient, "every": length, "objective": "last", **PLAIN}
    made = engine(task, strategy("sgd", lr=rate), strategy("sgd", lr=1e-9), "loss", told)
    return first_signal(made, length)


def first_signal(made: Engine, length: int) -> Tensor:
    """The first hypergradient of the upper level."""
    found: list[Tensor] = []
    deliver = made.tower.up._deliver

    def heard(state: Any, number: int, signal: Signal | None) -> None:
        if signal is not None and signal.grads is not None:
            found.append(torch.cat([g.detach().reshape(-1) for g in signal.grads]))
        deliver(state, number, signal)

    made.tower.up._deliver = heard  # type: ignore[method-assign]
    made.run(length + 1)
    return found[0]


def starts() -> tuple[Tensor, Tensor]:
    """Penalties, and weights of zero."""
    weight = torch.zeros(FEATURES, dtype=torch.float64, requires_grad=True)
    return torch.full((FEATURES,), -1.0, dtype=torch.float64, requires_grad=True), weight


def by_hand(task: Ridge, rate: float, length: int) -> Tensor:
    """Backpropagation through gradient descent in plain torch."""
    penalty, weight = starts()
    for _ in range(length):
        (grad,) = torch.autograd.grad(task.penalized(weight, penalty), weight, create_graph=True)
        weight = weight - rate * grad
    return torch.autograd.grad(task.fit(weight, task.batch(0, "valid")), penalty)[0]


def descended(task: Ridge, rate: float, length: int, penalty: Tensor) -> Tensor:
    """The weight after gradient descent, a leaf."""
    _, weight = starts()
    for _ in range(length):
        (grad,) = torch.autograd.grad(task.penalized(weight, penalty), weight)
        weight = (weight - rate * grad).detach().requires_grad_()
    return weight


def implicit_by_hand(task: Ridge, rate: float, length: int) -> Tensor:
    """Gradient descent, and conjugate gradients, in plain torch."""
    penalty, _ = starts()
    weight = descended(task, rate, length, penalty)
    (grad,) = torch.autograd.grad(task.penalized(weight, penalty), weight, create_graph=True)
    (rest,) = torch.autograd.grad(task.fit(weight, task.batch(0, "valid")), weight)
    x, along, square, first = torch.zeros_like(rest), rest, rest @ rest, rest @ rest
    while square > 1e-16 * first:
        (turned,) = torch.autograd.grad(grad, weight, along, retain_graph=True)
        step = square / (along @ turned)
        x, rest = x + step * along, rest - step * turned
        along, square = rest + (rest @ rest) / square * along, rest @ rest
    return -torch.autograd.grad(grad, penalty, x)[0]


def implicit_by_torchopt(task: Ridge, rate: float, length: int) -> Tensor:
    """The same with torchopt's decorator and its conjugate gradients."""
    import torchopt

    def stationary(weight: Tensor, penalty: Tensor) -> Tensor:
        return torch.func.grad(task.penalized)(weight, penalty)

    solver = torchopt.linear_solve.solve_cg(maxiter=100, atol=0.0, rtol=1e-8)

    @torchopt.diff.implicit.custom_root(stationary, argnums=1, solve=solver)
    def solve(start: Tensor, penalty: Tensor) -> Tensor:
        with torch.enable_grad():
            return descended(task, rate, length, penalty.detach()).detach()

    penalty, weight = starts()
    task.fit(solve(weight, penalty), task.batch(0, "valid")).backward()
    assert penalty.grad is not None
    return penalty.grad


def by_torchopt(task: Ridge, rate: float, length: int) -> Tensor:
    """The unroll with torchopt's differentiable SGD."""
    import torchopt

    penalty, weight = starts()
    weights, rule = (weight,), torchopt.sgd(lr=rate)
    state = rule.init(weights)
    for _ in range(length):
        grads = torch.autograd.grad(task.penalized(weights[0], penalty), weights, create_graph=True)
        updates, state = rule.update(grads, state, inplace=False)
        weights = torchopt.apply_updates(weights, updates, inplace=False)
    return torch.autograd.grad(task.fit(weights[0], task.batch(0, "valid")), penalty)[0]


def closed(task: Ridge) -> Tensor:
    """The hypergradient at the optimum, −∂²f/∂λ∂w H⁻¹ ∇v, by the implicit function theorem."""
    penalty = torch.full((FEATURES,), -1.0, dtype=torch.float64)
    weight = torch.zeros(FEATURES, dtype=torch.float64)
    for _ in range(50):  # Newton's method
        grad = torch.func.grad(task.penalized)(weight, penalty)
        weight = weight - torch.linalg.solve(torch.func.hessian(task.penalized)(weight, penalty), grad)
    outer = torch.func.grad(task.fit)(weight, task.batch(0, "valid"))
    solved = torch.linalg.solve(torch.func.hessian(task.penalized)(weight, penalty), outer)
    return -2 * penalty.exp() * weight * solved


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("influence", "schedule", "horizon", "penalties"))
    parser.add_argument("--seeds", type=int, default=3, help="of 'schedule'; the others draw nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "schedule":
        schedule(given.seeds)
    else:
        {"influence": influence, "horizon": horizon, "penalties": penalties}[given.what]()
