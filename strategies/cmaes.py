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

With ``restarts`` a new run begins where the package says that the last one has converged or cannot go on (or all losses
of a generation are equal), with a round distribution around a draw from the very first one. ``ipop`` doubles the
population each time (Auger & Hansen 2005); ``bipop`` does so by turns with runs of small populations, which together
get as many evaluations (Hansen 2009), as the package's authors do it. The mean of the present run is then in the state,
and the level's point is the best one seen, scored beside each generation: what was found is kept, and under noise one
that was only lucky does not stay. No noisy loss converges to 1e-12, so this is for losses that are exact.

State: ``{"steps": generation, "ratio": σ / step, "C": [n, n] or [n], "path_sigma": [n], "path": [n], "spread": [one
number per tensor]}``; the middle ones are float64. With restarts, besides: ``"run": {"mean", "first": [n], "history":
[best and worst losses of the last generations], "population", "large": whether it is of the doubled ones, "doubled":
how many of those, "spent": {"small", "large": evaluations}}``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator

from recopt import Params, RecoptError, State, Strategy, Trial, option, positive
from recopt.toolkit.blocks import coordinates, shaped
from recopt.toolkit.packages import package
from recopt.toolkit.random import spreads
from recopt.toolkit.scores import scores

WIDE = 100
"""Coordinates above which the covariance is diagonal, where nothing else is said."""
DOUBLINGS = 9
"""The most doublings of a population, as in Hansen 2009; what follows has as many points as the last."""
HUGE = 1e300
"""The loss that one which is not finite counts as."""


class Cmaes(Strategy):
    """CMA-ES: a normal distribution of points that learns the scale and the directions of the loss."""

    order = 0
    vectorize = False
    level: ClassVar[Mapping[str, Any]] = {"window": 100}

    population = option(0, "points scored at every step; 0: 4 + 3 ln n for n coordinates", least=0)
    covariance = option("auto", "all of it, or its diagonal", choices=("auto", "full", "diagonal"))
    restarts = option("none", "what follows a run that has converged", choices=("none", "ipop", "bipop"))
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
        state = {**self._round(count), "spread": spreads(point)}
        if self.restarts != "none" and count:
            first = coordinates(point, state["spread"])
            state["run"] = {
                "mean": first, "first": first.clone(), "history": first.new_zeros(_terms(count, self._size(count))),
                "population": self._size(count), "large": False, "doubled": 0, "spent": {"small": 0, "large": 0},
            }  # fmt: skip
        return state

    def _size(self, count: int) -> int:
        """The population of the first run over ``count`` coordinates."""
        return self.population or 4 + math.floor(3 * math.log(max(1, count)))

    def _round(self, count: int) -> State:
        """A round distribution before its first generation."""
        line = torch.zeros(count, dtype=torch.float64)
        shape = line + 1 if self._thin(count) else torch.eye(count, dtype=torch.float64)
        return {"steps": 0, "ratio": line.new_ones(()), "C": shape, "path_sigma": line, "path": line.clone()}

    def _thin(self, count: int) -> bool:
        """True if the covariance of ``count`` coordinates is diagonal; the package has that from two on."""
        return count > 1 and (self.covariance == "diagonal" or (self.covariance == "auto" and count > WIDE))

    @torch.no_grad()
    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        """Draws from the distribution; with restarts the present point first."""
        made = self._made(point, state)
        if made is None:
            return [point]
        made.reseed_rng(int(torch.randint(2**31, (), generator=rng)))
        drawn = [torch.from_numpy(made.ask()) for _ in range(made.population_size)]
        return [point] * ("run" in state) + [shaped(x, point, state["spread"]) for x in drawn]

    @torch.no_grad()
    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """Move the mean, and adapt the distribution, by the ranks of the trials."""
        made, losses, first = self._made(point, state), scores(trials), int("run" in state)
        flat = bool((losses[first:] == losses[first]).all()) if made is not None else True
        if made is None or (flat and not first):
            return [torch.zeros_like(p) for p in point], state
        mean = made.mean.copy()
        rows = [coordinates(t.point, state["spread"]).numpy() for t in trials[first:]]
        made.tell(list(zip(rows, losses[first:].clamp_max(HUGE).tolist(), strict=True)))
        after = {
            "steps": state["steps"] + 1,
            "ratio": torch.as_tensor(made._sigma / float(self.step), dtype=torch.float64),
            "C": torch.from_numpy(made._C), "path_sigma": torch.from_numpy(made._p_sigma),
            "path": torch.from_numpy(made._pc), "spread": state["spread"],
        }  # fmt: skip
        if not first:
            return shaped(torch.from_numpy(made.mean - mean), point, state["spread"]), after
        history = torch.zeros_like(state["run"]["history"], device="cpu")
        history[: len(made._funhist_values)] = torch.from_numpy(made._funhist_values)
        after["run"] = {**state["run"], "mean": torch.from_numpy(made.mean), "history": history}
        best = trials[int(losses.argmin())].point  # of equals the first, which is the present point
        over = flat or made.should_stop()
        return [q - p for p, q in zip(point, best, strict=True)], self._restarted(after, rng) if over else after

    def _restarted(self, state: State, rng: Generator) -> State:
        """The state before the first generation of the next run."""
        run, count = state["run"], len(state["path"])
        kind = "large" if run["large"] else "small"
        spent = {**run["spent"], kind: run["spent"][kind] + run["population"] * state["steps"]}
        large = self.restarts == "ipop" or spent["small"] >= spent["large"]
        doubled, size = min(run["doubled"] + large, DOUBLINGS), self._size(count)
        luck = float(torch.rand((), generator=rng, dtype=torch.float64))
        population = size * 2**doubled if large else math.floor(size * 2 ** (doubled * luck**2))
        mean = run["first"].cpu() + float(self.step) * torch.randn(count, generator=rng, dtype=torch.float64)
        after = {
            **run, "mean": mean, "history": torch.zeros_like(run["history"], device="cpu"), "population": population,
            "large": large, "doubled": doubled, "spent": spent,
        }  # fmt: skip
        return {**self._round(count), "spread": state["spread"], "run": after}

    def _made(self, point: Params, state: State) -> Any:
        """The package's object in this state, with mean ``point`` if there is no other; None with nothing to move."""
        count, run = sum(p.numel() for p in point), state.get("run")
        if not count:
            return None
        known = package("cmaes", "cmaes", "recopt[search]")
        values = {"_C": state["C"], "_p_sigma": state["path_sigma"], "_pc": state["path"]}
        mean, size = (
            (run["mean"], run["population"]) if run else (coordinates(point, state["spread"]), self._size(count))
        )
        if run:  # as long as for the smallest population, which looks back furthest
            values["_funhist_values"] = run["history"][: _terms(count, size)]
        sigma, kind = float(self.step) * float(state["ratio"]), known.SepCMA if self._thin(count) else known.CMA
        made = kind(mean=mean.cpu().numpy(), sigma=sigma, population_size=int(size))
        made._g, made._tolx = int(state["steps"]), made._tolx / sigma * float(self.step)
        for name, value in values.items():
            assert getattr(made, name).shape == tuple(value.shape)  # the name that the package has for it
            setattr(made, name, value.cpu().numpy().copy())
        return made


def _terms(count: int, population: int) -> int:
    """Losses that the package keeps: the best and the worst of as many generations as it compares to see them stand."""
    return 2 * (10 + math.ceil(30 * count / population))
