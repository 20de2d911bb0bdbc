"""A learned black-box optimizer beside random search and CMA-ES: the least of a function in few evaluations.

    pip install 'recopt[search]'
    python benchmarks/black_box.py [--seeds 3] [--updates 600] [--functions 200]

``rnn-opt`` is trained on functions of two variables drawn from a Gaussian process on the cube of ±5 (a squared
exponential kernel of length 2, by 64 random Fourier features), as Chen et al. 2017 train theirs, but from values only:
by ``rnn-opt/adam`` with evolution strategies, on the last loss of runs of 20 evaluations. Then each method has 20, 50
and 100 evaluations on other functions: of the same kind, of the same kind in 5 variables, and the task `landscape` in 2
and in 5. All begin at the same point, the middle of the cube. Printed is the median over functions of the best loss's
distance to the least on the cube, over that of random search. Below 1 is better; below 0 it is outside, where only
CMA-ES goes.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from zero_order_methods import Out, by_strategy

import recopt
from recopt import Strategy, Task
from recopt.stacks.plugins import load_strategy
from recopt.tasks import make
from recopt.tasks.landscape import FUNCTIONS

BUDGETS = (20, 50, 100)
WIDTH, LENGTH, WAVES = 5.0, 2.0, 64
Loss = Callable[[Tensor], Tensor]


class Gauss(Task):
    """A function from a Gaussian process on the cube of ±5; the model is a point, which starts at 0."""

    dim = recopt.option(2, "variables", least=1)

    def model(self) -> nn.Module:
        point = nn.Module()
        point.at = nn.Parameter(torch.zeros(self.dim))
        return point

    def batch(self, index: int, split: str = "train") -> Any:
        """Waves (64, dim), phases and sizes (64): one function for each seed."""
        dice = self.generator(0)
        waves = torch.randn(WAVES, self.dim, generator=dice, dtype=torch.float64) / LENGTH
        phases = 2 * math.pi * torch.rand(WAVES, generator=dice, dtype=torch.float64)
        return waves, phases, torch.randn(WAVES, generator=dice, dtype=torch.float64) * (2 / WAVES) ** 0.5

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        waves, phases, sizes = (x.to(model.at.dtype) for x in batch)
        return (sizes * torch.cos(waves @ model.at + phases)).sum()


def gauss(seed: int, dim: int) -> tuple[Loss, Tensor, float]:
    """The function, the start, and its least value on the cube, by descents from the best of 2,000 points."""
    waves, phases, sizes = Gauss(seed=seed, dim=dim).batch(0)
    points = WIDTH * (2 * torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed).draw(2000).double() - 1)

    def f(x: Tensor) -> Tensor:
        return (sizes * torch.cos(waves @ x + phases)).sum()

    def sloped(x: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.from_numpy(x).requires_grad_()
        value = f(at)
        return float(value), torch.autograd.grad(value, at)[0].numpy()

    order = (torch.cos(points @ waves.T + phases) @ sizes).argsort()[:5]
    ends = [minimize(sloped, points[n].numpy(), jac=True, bounds=[(-WIDTH, WIDTH)] * dim) for n in order]
    return f, torch.zeros(dim).double(), min(float(end.fun) for end in ends)


def landscape(seed: int, dim: int) -> tuple[Loss, Tensor, float]:
    name = list(FUNCTIONS)[seed % len(FUNCTIONS)]
    least, turn = make("landscape", seed, function=name, dim=dim).batch(0)
    return lambda x: FUNCTIONS[name](turn.double() @ (x - least.double())), torch.zeros(dim).double(), 0.0


def by_rule(rule: Strategy, f: Loss, start: Tensor, seed: int) -> list[float]:
    """The least loss after each evaluation."""
    found = list[float]()

    def counted(x: np.ndarray) -> float:
        if len(found) == max(BUDGETS):
            raise Out
        found.append(float(f(torch.from_numpy(x))))
        return found[-1]

    with contextlib.suppress(Out):
        by_strategy(rule, counted, start.numpy(), seed)
    return list(np.minimum.accumulate(found))


def trained(seed: int, updates: int) -> Strategy:
    """The rule after its meta-training."""
    torch.manual_seed(seed)
    settings = ["level2.pairs=4", "level2.sigma=0.03", "level2.objective=last"]
    found = recopt.run(Gauss(), "rnn-opt/adam(lr=0.01)", settings=settings, tasks=8, seed=1_000_000 * (seed + 1),
                       steps=20 * updates, track=False, measure=0, progress=False)  # fmt: skip
    rule = load_strategy("rnn-opt")().double()
    names, slot = found.engine.graph.names["rnn_opt"], found.engine.state.slots["rnn_opt"]
    rule.load_state_dict({n: p.detach().double() for n, p in zip(names, slot.params, strict=True)}, strict=False)
    losses = found.history("meta_loss", 2)[1]
    print(f"seed {seed}: meta-loss {losses[:20].mean():.3f} at first, {losses[-20:].mean():.3f} at last", flush=True)
    return rule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--functions", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    begin = time.perf_counter()
    torch.manual_seed(0)  # of the untrained one's weights
    methods: dict[str, Strategy] = {
        "random-search": load_strategy("random-search")(spread=WIDTH).double(),
        "quasi-random": load_strategy("quasi-random")(spread=WIDTH, population=4).double(),
        "cmaes": load_strategy("cmaes")(step=2.0).double(),
        "rnn-opt, untrained": load_strategy("rnn-opt")().double(),
        **{f"rnn-opt, {seed}": trained(seed, given.updates) for seed in range(given.seeds)},
    }
    print(f"trained in {time.perf_counter() - begin:.0f} s")
    kinds = {
        "Gauss, 2": (gauss, 2),
        "Gauss, 5": (gauss, 5),
        "landscape, 2": (landscape, 2),
        "landscape, 5": (landscape, 5),
    }
    print("| method | " + " | ".join(kinds) + " |\n|---" + "|---" * len(kinds) + "|")
    gaps = dict[str, dict[str, list[list[float]]]]()
    for kind, (draw, dim) in kinds.items():
        for seed in range(given.functions):
            f, start, least = draw(seed, dim)
            for name, rule in methods.items():
                best = by_rule(rule, f, start, seed)
                row = [best[n - 1] - least for n in BUDGETS]
                gaps.setdefault(name, {}).setdefault(kind, []).append(row)
    for name, found in gaps.items():
        cells = []
        for kind, rows in found.items():
            base = gaps["random-search"][kind]
            middles = [statistics.median(r[i] for r in rows) / statistics.median(b[i] for b in base) for i in range(3)]
            cells.append(", ".join(f"{x:.2f}" for x in middles))
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
