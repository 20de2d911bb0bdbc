"""SVM and logistic regression from zero, without a rate to choose and without the smoothness constant.

    [RECOPT_DATA=DIR] python benchmarks/svm.py [--losses svm logistic] [--sets a1a a2a a3a] [--starts 5] [--limit 2000]
                                               [--only PATTERN] [--synthetic SEED]

Counts evaluations (of the loss and its gradient, at one point) until no entry of the gradient is above 1e-4: from zero,
and the range over starts beside it (entries of 0.001 N(0, 1)), since counts jump by tens of percent for nothing. The
losses are those of Chu et al. 2025 (2502.11229, section 5): the sum over all rows of squared hinges, halved, or of
logistic losses, with a bias and without a penalty. The sets are in LibSVM's format, from DIR/libsvm; where they are not
there, and with ``--synthetic``, rows of 123 binary features are made from a seed, as one-hot groups of Zipf's
frequencies, of the three sizes.

``their HDM`` is written here after the paper and its authors' code (github.com/udellgroup/hypergrad: a diagonal of
rates and a momentum by AdaGrad, null steps, from the 201st descending step on the mean curvature), with their 20
settings in units of 1/L, the true smoothness constant; the best is chosen by the count from zero, as is Adam's rate.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_svmlight_file
from torch import Generator, Tensor, nn
from torch.nn.functional import softplus

import recopt
from recopt.data.folder import data_folder

TOLERANCE = 1e-4
ROWS = {"a1a": 1605, "a2a": 2265, "a3a": 3185}
GROUPS = (5, 8, 5, 16, 5, 7, 14, 6, 5, 2, 2, 2, 5, 41)
"""The numbers of values of the variables of a synthetic set, 123 together."""
REPEATS = 0.85
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Of Adam."""
TOWER = "adam(lr=0.1)/adagrad(lr=0.1)[lr]"
THEIRS = tuple(itertools.product((0.1, 1.0, 10.0, 100.0), (1.0, 3.0, 5.0, 10.0, 100.0)))
"""Of the authors: steps of the rates, times L, and of the momentum."""


@dataclass
class Problem:
    """A sum of losses of margins ``signed @ w``, ``signed`` [rows, features + 1] being the features times the label."""

    signed: Tensor
    loss: str

    def at(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its gradient."""
        margins = self.signed @ w
        if self.loss == "svm":
            short = (1 - margins).clamp_min(0)
            return 0.5 * short @ short, -(short @ self.signed)
        return softplus(-margins).sum(), -(torch.sigmoid(-margins) @ self.signed)

    @property
    def smoothness(self) -> float:
        """The squared largest singular value of the data, which is the authors' L."""
        return float(torch.linalg.matrix_norm(self.signed, 2)) ** 2


class Counted:
    """A problem that counts its evaluations, and ends at a limit or at the first whose gradient is small."""

    class Done(Exception):
        """The end."""

    def __init__(self, problem: Problem, limit: int) -> None:
        self.problem, self.limit, self.count = problem, limit, 0

    def at(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its gradient; raises Done where there is nothing more to find."""
        loss, grad = self.problem.at(w)
        self.count += 1
        if not bool(grad.isfinite().all()) or self.count >= self.limit:
            self.count = self.limit
            raise Counted.Done
        if float(grad.abs().max()) < TOLERANCE:
            raise Counted.Done
        return loss, grad


Way = Callable[[Counted, Tensor], None]
"""Descends from a start until that raises Done."""


def by_torch(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], told: Counted, start: Tensor) -> None:
    """Descend by an optimizer with torch's interface."""
    w = nn.Parameter(start.clone())
    optimizer = make([w])

    def closure() -> Tensor:
        loss, w.grad = told.at(w.detach())
        return loss

    while True:
        optimizer.step(closure)  # type: ignore[arg-type]


def by_hdm(rate: float, momentum_rate: float, told: Counted, start: Tensor) -> None:
    """Descend by the authors' HDM; ``rate`` times L is the first step of the rates."""
    smooth = told.problem.smoothness
    x = before = start
    loss, grad = told.at(x)
    rates, squares = torch.zeros_like(x), torch.zeros_like(x)
    step, beta, beta_square = rate / smooth, 0.95, 0.0
    curvatures: list[float] = []
    steady, known, least = 0, 0.0, 1e-3 * step
    for number in itertools.count():
        way = x - before
        there = x - rates * grad + beta * way
        new_loss, new_grad = told.at(there)
        size = grad @ grad + (0.25 * known**2 * (way @ way) if known else 1e-12)
        slope, turn = -new_grad * grad / size, float(new_grad @ way / size)
        squares, beta_square = squares + slope**2, beta_square + turn**2
        most = 1e10 / (known or smooth)
        rates = (rates - step * slope / (squares.sqrt() + 1e-12)).clamp(0, most)
        beta = min(max(beta - momentum_rate * turn / (beta_square**0.5 + 1e-12), 0.0), 0.9995)
        if number % 50 == 48 and not known:
            step = max(0.8 * step, least)
        before = x
        if new_loss < loss:
            length = float((there - x).norm())
            curvatures += [float((new_grad - grad).norm()) / length] if length > 1e-3 else []
            x, loss, grad, steady = there, new_loss, new_grad, steady + 1
        else:
            steady = max(0, steady - 2)
        if steady > 200 and not known:
            known = sum(curvatures) / len(curvatures)
            step, squares = 1 / known, torch.zeros_like(x)


def ways() -> dict[str, dict[str, Way]]:
    """The contenders: settings by name, of which the best is taken."""

    def lbfgs(history: int) -> Way:
        # One call may take as many evaluations as it likes; it ends by our tolerance alone.
        make = partial(torch.optim.LBFGS, max_iter=10**6, max_eval=10**7, tolerance_grad=0.0, tolerance_change=0.0,
                       history_size=history, line_search_fn="strong_wolfe")  # fmt: skip
        return partial(by_torch, make)

    def ours(stack: str, scope: Any = "group") -> Way:
        return partial(by_torch, lambda params: recopt.Optimizer(params, stack, scope=scope))

    def adam(rate: float) -> Way:
        return partial(by_torch, lambda params: torch.optim.Adam(params, lr=rate))

    return {
        "`osgm`": {"": ours("osgm")},
        "tower, one rate": {"": ours(TOWER)},
        "tower, scope=coordinate": {"": ours(TOWER, "coordinate")},
        "L-BFGS, 10 pairs": {"": lbfgs(10)},
        "L-BFGS, 100 pairs": {"": lbfgs(100)},
        "Adam, best of 9 rates": {f"{rate:g}": adam(rate) for rate in RATES},
        "their HDM at 10/L, 10": {"": partial(by_hdm, 10.0, 10.0)},
        "their HDM, best of 20": {f"{a:g}/L, {b:g}": partial(by_hdm, a, b) for a, b in THEIRS},
    }


def synthetic(rows: int, seed: int) -> Tensor:
    """Signed rows [rows, 124]: one value of each variable; labels of a random linear rule with noise, a quarter +1.

    Values have shares 1, 1/4, 1/9 …; in REPEATS of the rows a variable repeats an earlier one.
    """
    rng, drawn = Generator().manual_seed(seed), list[Tensor]()
    for place, count in enumerate(GROUPS):
        shares = 1 / torch.arange(1, count + 1, dtype=torch.float64) ** 2
        own = torch.multinomial(shares, rows, replacement=True, generator=rng)
        if place:
            same = torch.rand(rows, generator=rng) < REPEATS
            own = torch.where(same, drawn[int(torch.randint(place, (1,), generator=rng))] % count, own)
        drawn.append(own)
    features = torch.cat([nn.functional.one_hot(x, n) for x, n in zip(drawn, GROUPS, strict=True)], 1).double()
    scores = features @ torch.randn(sum(GROUPS), generator=rng, dtype=torch.float64)
    scores = scores + torch.rand(rows, generator=rng, dtype=torch.float64).logit()
    return _signed(features, torch.where(scores > scores.quantile(0.75), 1.0, -1.0))


def read(file: Path) -> Tensor:
    """Signed rows of a file in LibSVM's format."""
    features, labels = load_svmlight_file(str(file))
    return _signed(torch.from_numpy(features.toarray()), torch.from_numpy(labels))


def _signed(features: Tensor, labels: Tensor) -> Tensor:
    return torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], 1) * labels[:, None]


def counted(way: Way, problem: Problem, start: Tensor, limit: int) -> int:
    """The evaluations that ``way`` needs, or ``limit``."""
    told = Counted(problem, limit)
    with contextlib.suppress(Counted.Done):
        way(told, start)
    return told.count


def cell(settings: dict[str, Way], problem: Problem, starts: list[Tensor], limit: int) -> str:
    """The count from zero of the best setting, the least and the largest from the other starts, and which it was."""
    from_zero = {name: counted(way, problem, starts[0], limit) for name, way in settings.items()}
    best = min(from_zero, key=lambda name: from_zero[name])
    others = [counted(settings[best], problem, start, limit) for start in starts[1:]]
    shown = [f"{n:,}" if n < limit else f"over {limit:,}" for n in (from_zero[best], *sorted(others))]
    return shown[0] + (f" ({shown[1]}–{shown[-1]})" if others else "") + (f" @{best}" if best else "")


def main() -> None:
    """Print a table, a row for each contender."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--losses", nargs="+", choices=("svm", "logistic"), default=["svm", "logistic"])
    parser.add_argument("--sets", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--only", default="*")
    parser.add_argument("--synthetic", type=int)
    given = parser.parse_args()
    data: dict[str, Tensor] = {}
    for number, name in enumerate(given.sets):
        file = data_folder() / "libsvm" / name
        there = given.synthetic is None and file.is_file()
        data[name] = read(file) if there else synthetic(ROWS[name], 3 * (given.synthetic or 0) + number)
        print(f"{name}: {'read' if there else 'made'}, {data[name].shape[0]:,} rows of {data[name].shape[1] - 1}")
    rng = Generator().manual_seed(0)
    columns = [(loss, name) for loss in given.losses for name in given.sets]
    print(f"\n| | {' | '.join(f'{loss}, {name}' for loss, name in columns)} |\n|---|{'---|' * len(columns)}")
    noise = {name: [torch.randn(rows.shape[1], generator=rng, dtype=torch.float64) for _ in range(given.starts)]
             for name, rows in data.items()}  # fmt: skip
    for row, settings in ways().items():
        if fnmatch.fnmatch(row, given.only):
            starts = {n: [torch.zeros_like(x[0]), *(1e-3 * y for y in x[1:])] for n, x in noise.items()}
            cells = [cell(settings, Problem(data[n], loss), starts[n], given.limit) for loss, n in columns]
            print(f"| {row} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
