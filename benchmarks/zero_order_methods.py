"""The methods of zero_order.py: recopt's strategies, and those of other packages, on a function that counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Generator

from recopt import Strategy, Trial
from recopt.stacks.plugins import load_strategy

Loss = Callable[[np.ndarray], float]
SCALE = 2.0
BUDGETS = (500, 1000, 2000, 10_000)
OURS = {
    "annealing": "annealing(step=2)",
    "annealing-one": "annealing(step=2, moves=one, restart=0.01)",
    "tempering": "tempering(step=2, moves=one)",
    "random-search": "random-search(spread=2, population=10)",
    "quasi-random": "quasi-random(spread=5, population=20)",
    "pbt": "pbt(spread=2, population=20)",
    "evolution": "evolution(step=2)",
    "evolution-40": "evolution(step=2, population=40)",
    "recopt-cmaes": "cmaes(step=2)",
    "basin-hopping": "basin-hopping(step=2, difference=1e-7)",
    "recopt-ipop": "cmaes(step=2, restarts=ipop)",
}


class Out(Exception):
    """All evaluations are used."""


class Counted:
    """A function that counts, keeps the best value at each of ``BUDGETS``, and ends a run at a value of ``until``."""

    def __init__(self, loss: Loss, most: int, until: float = -math.inf) -> None:
        self.loss, self.most, self.until = loss, most, until
        self.count, self.best, self.at = 0, math.inf, dict[int, float]()

    def __call__(self, x: Any) -> float:
        if self.count >= self.most:
            raise Out
        value = self.loss(np.asarray(x, dtype=float))
        self.count, self.best = self.count + 1, min(self.best, value)
        if self.count in BUDGETS:
            self.at[self.count] = self.best
        if value <= self.until:
            self.at |= {n: self.best for n in BUDGETS if n > self.count}
            raise Out
        return value


def by_recopt(name: str, f: Loss, start: np.ndarray, seed: int) -> None:
    from recopt.levels.notation import parse

    term = parse(OURS[name])[0][0]
    by_strategy(load_strategy(term.name)(**term.settings).double(), f, start, seed)


def by_strategy(rule: Strategy, f: Loss, start: np.ndarray, seed: int) -> None:
    """A strategy by its contract. The point is a vector that starts at ones, so the unit of its coordinates is 1."""
    point, origin = [torch.ones(len(start), dtype=torch.float64)], start - 1
    state, rng = rule.init(point), Generator().manual_seed(seed)
    with torch.no_grad():
        while True:
            found = rule.propose(point, state, rng)
            trials = [Trial(p, torch.tensor(f(origin + p[0].numpy()), dtype=torch.float64)) for p in found]
            delta, state = rule(point, trials, state, rng)
            point = [p + d for p, d in zip(point, delta, strict=True)]


def by_cmaes(f: Counted, start: np.ndarray, seed: int) -> None:
    import cmaes

    made = cmaes.CMA(mean=start.copy(), sigma=SCALE, seed=seed)
    while True:
        asked = [made.ask() for _ in range(made.population_size)]
        made.tell([(x, f(x)) for x in asked])


def by_scipy(f: Counted, start: np.ndarray, seed: int) -> None:
    from scipy.optimize import dual_annealing

    while True:  # it may stop by itself
        dual_annealing(f, [(-5, 5)] * len(start), x0=start, rng=seed, maxfun=f.most, maxiter=f.most)
        seed += 1000


def by_optuna(sampler: str, f: Counted, start: np.ndarray, seed: int) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = {"tpe": optuna.samplers.TPESampler, "cmaes": optuna.samplers.CmaEsSampler}[sampler](seed=seed)
    study = optuna.create_study(sampler=made)
    study.enqueue_trial({f"x{i}": float(x) for i, x in enumerate(start)})
    study.optimize(lambda t: f([t.suggest_float(f"x{i}", -5, 5) for i in range(len(start))]), n_trials=f.most + 1)


def by_nevergrad(f: Counted, start: np.ndarray, seed: int) -> None:
    import nevergrad

    space = nevergrad.p.Array(init=start, lower=-5, upper=5)
    space.random_state.seed(seed)
    made = nevergrad.optimizers.registry["NGOpt"](parametrization=space, budget=f.most)
    for _ in range(f.most):  # it waits forever if asked for more
        asked = made.ask()
        made.tell(asked, f(asked.value))


OTHERS: dict[str, Callable[[Counted, np.ndarray, int], None]] = {
    "cmaes": by_cmaes,
    "dual-annealing": by_scipy,
    "optuna-tpe": lambda f, x, s: by_optuna("tpe", f, x, s),
    "optuna-cmaes": lambda f, x, s: by_optuna("cmaes", f, x, s),
    "nevergrad": by_nevergrad,
}
