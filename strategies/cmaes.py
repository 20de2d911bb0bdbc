"""CMA-ES: points drawn from a normal distribution whose covariance follows the steps that succeeded.

Hansen & Ostermeier 2001, in the form of Hansen 2016 (1604.00772, equations 38 to 55), by the package ``cmaes`` (Nomura
& Shibata 2024, 2402.01373): ``pip install recopt[search]``. At every step N points x ~ N(m, σ² C) are scored side by
side, on the same batch or over the same window; m is the present point, in the units of ``spread`` (see
``recopt.toolkit.random.spreads``: 1 for a coordinate such as a log learning rate). By their ranks m, σ and C move. A
loss that is not finite is the worst; where all are equal nothing moves.

``covariance: diagonal`` is the separable form (Ros & Hansen 2008), linear in the number n of coordinates; ``full``
takes n² numbers of memory and n³ operations a step. ``auto`` is full up to 100 coordinates.

The package's object is made anew from the state at every step, and draws from numpy's generator seeded by ours. So a
run that is saved goes on to the bit, and nothing is pickled. It is the package to rounding on the same draws.

State: ``{"steps": generation, "ratio": σ / step, "C": [n, n] or [n], "path_sigma": [n], "path": [n], "spread": [one
number per tensor]}``; the middle ones are float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from recopt import Params, RecoptError, State, Strategy, Trial, option, positive
from recopt.toolkit.blocks import flatten, unflatten
from recopt.toolkit.packages import package
from recopt.toolkit.random import spreads
from recopt.toolkit.scores import scores

WIDE = 100
"""Coordinates above which the covariance is diagonal, where nothing else is said."""


class Cmaes(Strategy):
    """CMA-ES: a normal distribution of points that learns the scale and the directions of the loss."""

    order = 0
    vectorize = False
    level: ClassVar[Mapping[str, Any]] = {"window": 100}

    population = option(0, "points scored at every step; 0: 4 + 3 ln n for n coordinates", least=0)
    covariance = option("auto", "all of it, or its diagonal", choices=("auto", "full", "diagonal"))
    step = positive(0.3, "standard deviation of each coordinate at the start, in its tensor's unit")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        package("cmaes", "cmaes", "recopt[search]")
        if 0 < self.population < 4:
            raise RecoptError(
                f"cmaes.population must be at least 4, of which the better two are averaged, not {self.population} (0: "
                "the usual one)."
            )

    def init(self, point: Params) -> State:
        """A round distribution."""
        count = sum(p.numel() for p in point)
        line = torch.zeros(count, dtype=torch.float64)
        round_ = line + 1 if self._thin(count) else torch.eye(count, dtype=torch.float64)
        paths = {"path_sigma": line, "path": line.clone()}
        return {"steps": 0, "ratio": line.new_ones(()), "C": round_, **paths, "spread": spreads(point)}

    def _thin(self, count: int) -> bool:
        """True if the covariance of ``count`` coordinates is diagonal; the package has that from two on."""
        return count > 1 and (self.covariance == "diagonal" or (self.covariance == "auto" and count > WIDE))

    @torch.no_grad()
    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        """Draws from the distribution."""
        made = self._made(point, state)
        if made is None:
            return [point]
        made.reseed_rng(int(torch.randint(2**31, (), generator=rng)))
        drawn = [torch.from_numpy(made.ask()) for _ in range(made.population_size)]
        return [_shaped(x, point, state["spread"]) for x in drawn]

    @torch.no_grad()
    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """Move the mean, and adapt the distribution, by the ranks of the trials."""
        losses, made = scores(trials), self._made(point, state)
        if made is None or bool((losses == losses[0]).all()):
            return [torch.zeros_like(p) for p in point], state
        mean = made.mean.copy()
        rows = [_line(t.point, state["spread"]).numpy() for t in trials]
        made.tell(list(zip(rows, losses.tolist(), strict=True)))
        after = {
            "steps": state["steps"] + 1,
            "ratio": torch.as_tensor(made._sigma / float(self.step), dtype=torch.float64),
            "C": torch.from_numpy(made._C), "path_sigma": torch.from_numpy(made._p_sigma),
            "path": torch.from_numpy(made._pc), "spread": state["spread"],
        }  # fmt: skip
        return _shaped(torch.from_numpy(made.mean - mean), point, state["spread"]), after

    def _made(self, point: Params, state: State) -> Any:
        """The package's object with mean ``point`` in this state; None where there is nothing to move."""
        count = sum(p.numel() for p in point)
        if not count:
            return None
        known = package("cmaes", "cmaes", "recopt[search]")
        values = {"_C": state["C"], "_p_sigma": state["path_sigma"], "_pc": state["path"]}
        size, sigma = self.population or 4 + math.floor(3 * math.log(count)), float(self.step) * float(state["ratio"])
        kind = known.SepCMA if self._thin(count) else known.CMA
        made = kind(mean=_line(point, state["spread"]).numpy(), sigma=sigma, population_size=size)
        made._g = int(state["steps"])
        for name, value in values.items():
            assert getattr(made, name).shape == tuple(value.shape)  # the name that the package has for it
            setattr(made, name, value.cpu().numpy().copy())
        return made


def _line(point: Params, spread: Sequence[Tensor]) -> Tensor:
    """All coordinates of ``point``, each in its tensor's unit, on the CPU in float64."""
    return flatten([p.double().cpu() / s.double().cpu() for p, s in zip(point, spread, strict=True)])


def _shaped(line: Tensor, like: Params, spread: Sequence[Tensor]) -> Params:
    """The inverse of :func:`_line`, with the shapes, dtypes and devices of ``like``."""
    return [(x * s.double().cpu()).to(p) for x, s, p in zip(unflatten(line, like), spread, like, strict=True)]
