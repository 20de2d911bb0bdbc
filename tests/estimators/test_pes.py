"""Perturbed points with runs of their own: equal to separate runs, over windows and episodes, and part of the state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from recopt.checking.errors import RecoptError
from recopt.contracts.settings import real
from recopt.contracts.strategy import Params, State, Strategy
from recopt.contracts.task import Batch, Split, Task
from recopt.levels.seeds import mix

from .. import differences
from ..differences import RULES, Settings, Wave, signal_of
from ..engines import Bowl, Noisy, Regression, engine, goes_on_bit_for_bit, graph, losses, params

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*estimates from trials what:recopt.checking.errors.Notice",
    "ignore:The trials of a population:recopt.checking.errors.Notice",
)
SIGMA, PAIRS, EVERY = 0.2, 3, 2


def scores(path: list[list[Tensor]]) -> list[float]:
    """The mean losses of windows of a run by the rule alone, perturbed anew in each."""
    made = engine(Wave(), "rule", {1: {"guard": False}}, rules=RULES)
    space, numbers = made.tower.carriers.spaces["rule"], made.state.slots["rule"]
    own = [float(p) for p in numbers.params]
    for window, noise in enumerate(path, 1):
        space.put(numbers, range(3), [a + float(e) for a, e in zip(own, noise, strict=True)])  # type: ignore[arg-type]
        made.run(window * EVERY)
    made.run(len(path) * EVERY + 1)
    found = torch.tensor(losses(made)[1:], dtype=torch.float64)
    return [float(x) for x in found.view(-1, EVERY).mean(1)]


def drawn(count: int) -> list[list[list[Tensor]]]:
    """What level 2 draws in a run of seed 0: by window, pair and number."""
    rng = Generator().manual_seed(mix(0, 2, 1))
    each = [[SIGMA * torch.randn(PAIRS, generator=rng, dtype=torch.float64) for _ in range(3)] for _ in range(count)]
    return [[[e[pair] for e in window] for pair in range(PAIRS)] for window in each]


def estimates(gradient: str, count: int) -> list[list[float]]:
    """The estimates of windows of separate runs, with the perturbations that the level draws."""
    windows, found = drawn(count), [torch.zeros(3, dtype=torch.float64) for _ in range(count)]
    for pair in range(PAIRS):
        path = [w[pair] for w in windows] if gradient == "pes" else [windows[0][pair]] * count
        above, below = scores(path), scores([[-e for e in noise] for noise in path])
        for k in range(count):
            past = path[: k + 1] if gradient == "pes" else path[:1]
            weight = torch.stack([torch.stack(noise) for noise in past]).sum(0)
            found[k] += weight * (above[k] - below[k]) / (2 * PAIRS * SIGMA**2)
    return [x.tolist() for x in found]


class Balance(Strategy):
    """s ← As + θ pushes the first entry up at first, and down in the end."""

    theta = real(0.5)

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Params, State]:
        (s,) = point
        sign = torch.where(torch.arange(10) < 4, 1.0, -1.0).to(s)
        return [0.5 * (torch.cat([s[1:], s.new_zeros(1)]) - s) + self.theta * sign], state


class First(Task):
    """½ (s₁ − 1)² of the present state."""

    def model(self) -> nn.Module:
        return nn.ParameterList([torch.ones(10)])

    def batch(self, index: int, split: Split = "train") -> Batch:
        return torch.ones(1)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return (0.5 * (next(model.parameters())[0] - batch) ** 2).sum()


def test_the_mean_of_estimates_is_the_derivative_over_all_windows() -> None:
    # The loss is quadratic in all perturbations, so its smoothed derivative is its own.
    def estimate(gradient: str, seed: int = 0, **more: Any) -> float:
        told: Settings = {1: {"guard": False}, 2: {"gradient": gradient, "every": 2, "normalize": "none", **more}}
        made = engine(First(), "balance/sgd(lr=1e-200)", told, rules={"balance": Balance}, seed=seed)
        (grad,) = signal_of(made, 2, windows=12).grads or [torch.nan]
        return float(grad)

    exact = estimate("forward")
    found = {
        name: torch.tensor([estimate(name, seed, sigma=0.1, pairs=60, **more) for seed in range(10)])
        for name, more in (("pes", {}), ("nres", {"episode": 100}), ("es", {}))
    }
    assert exact > 0
    for name in ("pes", "nres"):
        error = float(found[name].std()) / 10**0.5
        assert abs(float(found[name].mean()) - exact) < 4 * error
        assert error < exact / 3
    assert float(found["nres"].std()) < float(found["pes"].std())
    assert float(found["es"].mean()) < 0  # what θ did before the window is cut off


def how(gradient: str, **more: Any) -> Settings:
    return {2: {"gradient": gradient, "every": EVERY, "sigma": SIGMA, "pairs": PAIRS, **more}}


@pytest.mark.parametrize("gradient", ["pes", "nres"])
def test_the_estimates_are_those_of_separate_runs_with_the_same_perturbations(gradient: str) -> None:
    wanted = estimates(gradient, 3)
    settings = how(gradient, **({"episode": 3 * EVERY} if gradient == "nres" else {}))
    for window in (1, 2, 3):
        signal = signal_of(differences.engine("rule/rule(lr=1e-200)", settings), 2, windows=window)
        assert signal.grads is not None
        assert [float(g) for g in signal.grads] == pytest.approx(wanted[window - 1], rel=1e-8)


@pytest.mark.parametrize("gradient", ["pes", "nres"])
def test_an_episode_of_one_window_is_that_of_evolution_strategies(gradient: str) -> None:
    found = []
    for how_told in (gradient, "es"):
        made = engine(Bowl(seed=1), "sgd/adam", how(how_told, episode=EVERY))
        made.run(11)
        found.append(params(made, "sgd"))
    assert all(map(torch.equal, *found))


def test_perturbations_begin_anew_with_an_episode() -> None:
    made = engine(Bowl(seed=1), "sgd/sgd(lr=1e-9)", how("nres", episode=2 * EVERY))
    weights = []
    for window in range(4):
        made.run((window + 1) * EVERY + 1)
        search = made.state.levels[1].search
        assert search is not None
        weights.append(search.carried["weights"][0])
        assert ("stack" in search.carried) == (window % 2 == 0)  # the next window does not open an episode
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1])


CASES: dict[str, tuple[type[Any], str, Settings]] = {
    "hyperparameters": (Regression, "adam/sgd", how("pes")),
    "random numbers, episodes": (Noisy, "adam/adam", how("nres", episode=6)),
    "a learned rule": (Regression, "mlp-rule/adam", how("pes", episode=8)),
    "annealing below": (
        Regression, "adam/annealing/sgd", {2: {"every": 2}, 3: {"gradient": "pes", "every": 2, "pairs": 2}}),
    "below another": (Regression, "adam/sgd/hypergradient", how("pes")),
}  # fmt: skip


def test_a_run_goes_on_from_its_last_clean_moment(tmp_path: Path) -> None:
    goes_on_bit_for_bit(lambda: engine(Bowl(seed=2), "adam/sgd", how("pes", episode=12)), 130, 140, tmp_path / "a")


@pytest.mark.parametrize("name", CASES)
def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(name: str, tmp_path: Path) -> None:
    task, stack, settings = CASES[name]
    goes_on_bit_for_bit(lambda: engine(task(seed=2), stack, settings), 13, 26, tmp_path / "a")
    made = engine(task(seed=2), stack, settings)
    before = params(made, made.levels[-1].moves)
    made.run(26)
    assert not all(map(torch.equal, before, params(made, made.levels[-1].moves)))


@pytest.mark.parametrize(
    ("gradient", "settings", "why"),
    [
        ("pes", {"objective": "improvement"}, "no common start to improve on"),
        ("nres", {}, "there are none: set 'episode'"),
        ("pes", {"episode": 200, "stagger": True}, "drop 'stagger'"),
    ],
)
def test_what_has_no_meaning_there_is_refused(gradient: str, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(RecoptError, match=why):
        graph("adam/sgd", {2: {"gradient": gradient, **settings}})
