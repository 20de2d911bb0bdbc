"""The samplers of optuna, which choose the next trials from all before: TPE, Gaussian processes, CMA-ES, random.

Akiba et al. 2019 (1907.10902), ``pip install recopt[search]``. ``tpe``: tree-structured Parzen estimators (Bergstra et
al. 2011; Watanabe 2023, 2304.11127); ``gp``: Bayesian optimization; ``cmaes``: Hansen 2016; ``random``: independent and
uniform. At every step N − 1 points of the box

    x = c + unit ⊙ u,    u in [−spread, spread]

around the first point c are asked for and scored beside the present one, on the same batch or over the same window. The
one with the least loss becomes the present one, as in ``quasi-random``; a whole number or a choice is its coordinate
rounded. The trials, with the first point as one of them, are what the sampler learns from. As losses of one point
change between steps of a run (other batches, a model that has learned more), what the present point's changed by is
taken off; a loss that is not finite counts as the greatest so far.

The study is made anew from the trials at every step, and its sampler seeded by our generator; that of ``cmaes``, which
optuna keeps as a pickle, is led through all trials again. So a run that is saved goes on to the bit, and a step takes
time in proportion to the number of trials. Those before the last ``memory`` are forgotten; ``cmaes``, which cannot do
without its first ones, begins anew from the first point when they are as many.

State: ``{"center": [c per tensor], "unit": [one number per tensor], "rows": [memory, coordinates] of u, "losses":
[memory], both filled from the end, "known": how many of them, "studies": begun so far, "drift": what losses are too
high by since the first step, "present": the loss that the present point had in the last one}``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from recopt import Params, RecoptError, State, Strategy, Trial, option, positive
from recopt.toolkit.blocks import flatten, unflatten
from recopt.toolkit.packages import package
from recopt.toolkit.random import spreads
from recopt.toolkit.scores import scores

MOST = 1000
"""The most coordinates that are searched."""
SAMPLERS = {"tpe": "TPESampler", "gp": "GPSampler", "cmaes": "CmaEsSampler", "random": "RandomSampler"}


class Optuna(Strategy):
    """Optuna's samplers: trials chosen from all before (TPE, Gaussian processes, CMA-ES); the best one is kept."""

    order = 0
    vectorize = False
    level: ClassVar[Mapping[str, Any]] = {"window": 100}

    sampler = option("tpe", "which one", choices=tuple(SAMPLERS))
    population = option(2, "points scored at every step, the present one among them", least=2)
    memory = option(1000, "trials that are remembered", least=20)
    spread = positive(2.3, "half width of the box, in each tensor's unit (2.3: one decade)")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        package("optuna", "optuna", "recopt[search]")
        if self.memory < self.population:
            raise RecoptError(f"optuna.memory must be at least its population, {self.population}, not {self.memory}.")

    def init(self, point: Params) -> State:
        """The box: around ``point``, in the units of ``point``; no trials."""
        count = sum(p.numel() for p in point)
        if count > MOST:
            raise RecoptError(f"optuna searches at most {MOST:,} coordinates, not {count:,}: take evolution or cmaes.")
        if count == 1 and self.sampler == "cmaes":
            raise RecoptError("optuna's cmaes needs two coordinates or more, not 1: take sampler=tpe.")
        none = torch.zeros(self.memory, dtype=torch.float64)
        return {
            "center": [p.detach().clone() for p in point], "unit": spreads(point), "losses": none, "known": 0,
            "rows": none.new_zeros(self.memory, count), "studies": 1, "drift": none[0], "present": none[0],
        }  # fmt: skip

    @torch.no_grad()
    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        """``[point, candidate, …]``."""
        seed, count = int(torch.randint(2**31, (), generator=rng)), state["rows"].shape[1]
        if not count:
            return [point]
        with quiet(package("optuna", "optuna", "recopt[search]")) as optuna:
            if self.sampler == "cmaes":  # draws of one study are of one seed
                seed = (rng.initial_seed() + int(state["studies"])) % 2**31
            study = self._study(optuna, state, seed)
            asked = [study.ask(self._space(optuna, count)) for _ in range(self.population - 1)]
        rows = [torch.tensor([a.params[f"x{i}"] for i in range(count)], dtype=torch.float64) for a in asked]
        return [point, *(self._point(row, state) for row in rows)]

    @torch.no_grad()
    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """Move to the candidate with the least loss, if it is less than the present point's; keep all trials."""
        losses, drift, known = scores(trials), state["drift"].cpu(), int(state["known"])
        best = int(losses.argmin())  # of equals the first, which is the present point
        present = state["present"].cpu()
        change = losses[0] - present
        if known and bool(change.isfinite()):
            drift = drift + change
        new = slice(1 if known else 0, None)
        rows = torch.cat([state["rows"].cpu(), torch.stack([self._row(t.point, state) for t in trials[new]])])
        told, count = torch.cat([state["losses"].cpu(), losses[new] - drift]), known + len(trials[new])
        finite = told[-count:][told[-count:].isfinite()]
        told = torch.where(told.isfinite(), told, finite.max() if len(finite) else 0.0)
        over = count > self.memory
        after = {
            **state, "rows": rows[-self.memory :], "losses": told[-self.memory :], "drift": drift,
            "known": 0 if over and self.sampler == "cmaes" else min(count, self.memory),
            "studies": state["studies"] + int(over and self.sampler == "cmaes"),
            "present": losses[best] if bool(losses[best].isfinite()) else present,
        }  # fmt: skip
        return [q - p for p, q in zip(point, trials[best].point, strict=True)], after

    def _study(self, optuna: Any, state: State, seed: int) -> Any:
        """The study of all trials in ``state``."""
        study = optuna.create_study(sampler=getattr(optuna.samplers, SAMPLERS[self.sampler])(seed=seed))
        space, first = self._space(optuna, state["rows"].shape[1]), self.memory - int(state["known"])
        losses = state["losses"][first:].tolist()
        rows = [{f"x{i}": x for i, x in enumerate(row)} for row in state["rows"][first:].tolist()]
        if self.sampler != "cmaes":
            return added(optuna, study, rows, space, losses)
        for start in range(1, len(rows), self.population - 1):
            asked = [study.ask(space) for _ in rows[start : start + self.population - 1]]
            if start == 1:  # its loss was not known before
                added(optuna, study, rows[:1], space, losses[:1])
            for trial, row, loss in zip(asked, rows[start:], losses[start:], strict=False):
                if any(abs(trial.params[name] - x) > 1e-3 for name, x in row.items()):
                    raise RecoptError("This run's trials are not those that optuna's cmaes asks for: another version "
                                      "of optuna, or another population, began it.")  # fmt: skip
                study.tell(trial, loss)
        return study

    def _space(self, optuna: Any, count: int) -> dict[str, Any]:
        """The range of each of ``count`` coordinates, by name."""
        wide = float(self.spread.detach())
        return {f"x{i}": optuna.distributions.FloatDistribution(-wide, wide) for i in range(count)}

    def _row(self, point: Params, state: State) -> Tensor:
        """The coordinates of ``point`` in the box."""
        each = zip(point, state["center"], state["unit"], strict=True)
        wide = float(self.spread.detach())  # beyond which a point is by rounding only
        return flatten([((p - c) / u).double().cpu() for p, c, u in each]).clamp(-wide, wide)

    def _point(self, row: Tensor, state: State) -> Params:
        """The inverse of :meth:`_row`."""
        each = zip(unflatten(row, state["center"]), state["center"], state["unit"], strict=True)
        return [c + x.to(c) * u for x, c, u in each]


def added(optuna: Any, study: Any, rows: list[dict[str, float]], space: dict[str, Any], losses: list[float]) -> Any:
    """``study`` with finished trials."""
    made = optuna.trial.create_trial
    study.add_trials([made(params=r, distributions=space, value=x) for r, x in zip(rows, losses, strict=True)])
    return study


@contextmanager
def quiet(optuna: Any) -> Iterator[Any]:
    """Optuna as it works by itself, without its lines for every study and trial."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with torch.enable_grad():  # which ``gp`` needs
            yield optuna
    finally:
        optuna.logging.set_verbosity(before)
