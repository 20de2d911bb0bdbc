"""Implicit hypergradients: equal to dense algebra and to differences, and told where they cannot be trusted."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from recopt.checking.errors import Notice, RecoptError
from recopt.contracts.task import Batch, Split, Task
from recopt.engine import checkpoint
from recopt.engine.engine import Engine
from recopt.estimators.implicit import _Dot, conjugate_gradients, neumann

from .. import differences
from ..differences import Settings, signal_of
from ..engines import Recorder, engine, everything, graph

IMPLICIT: dict[str, Any] = {"gradient": "implicit", "tolerance": 1e-13}


class Convex(Task):
    """Logistic regression on fixed examples, with a weight for each and penalties as parameters of its loss."""

    def model(self) -> nn.Module:
        return nn.Linear(3, 1)

    def batch(self, index: int, split: Split = "train") -> Batch:
        g = self.generator({"train": 0, "valid": 1, "test": 2}[split])
        return torch.randn(8, 3, generator=g, dtype=torch.float64), torch.randn(8, 1, generator=g, dtype=torch.float64)

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return softplus(-batch[1].sign() * model(batch[0]))[:, 0]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.losses(model, batch).mean()

    def loss_parameters(self) -> nn.Module:
        return nn.ParameterDict({"weights": torch.linspace(-1, 1, 8), "penalty": torch.tensor([-1.0, -2.0])})

    def training_loss(self, model: nn.Module, batch: Batch, parameters: nn.Module) -> Tensor:
        given = dict(parameters.named_parameters())
        sizes = torch.stack([(p**2).sum() for p in model.parameters()])
        return (given["weights"].sigmoid() * self.losses(model, batch)).mean() + (given["penalty"].exp() * sizes).sum()


class Direct(Convex):
    """The same, whose held-out loss reads the parameters too."""

    def held_out_loss(self, model: nn.Module, batch: Batch, parameters: nn.Module) -> Tensor:
        return self.training_loss(model, batch, parameters) ** 2


class Flat(Convex):
    """A loss that has no minimum."""

    def training_loss(self, model: nn.Module, batch: Batch, parameters: nn.Module) -> Tensor:
        (weight, bias), given = model.parameters(), dict(parameters.named_parameters())
        return (
            (given["weights"].sigmoid() * self.losses(model, batch)).mean()
            - (weight**2).sum()
            + (bias * given["penalty"][0]).sum()
        )


class Apart(Convex):
    """A penalty that changes no gradient."""

    def training_loss(self, model: nn.Module, batch: Batch, parameters: nn.Module) -> Tensor:
        return self.loss(model, batch) + torch.stack([p.sum() for p in parameters.parameters()]).sum()


def functions(made: Engine, n: int) -> tuple[Any, Any, Tensor]:
    """Training and held-out loss of task ``n`` as functions of (θ, φ), flat; and its θ."""
    task: Any = made.family.drawn(0).tasks[n]
    model, held = task.model().double(), task.module
    point = [p.detach() for p in made.state.task.params]
    point = [p[n] for p in point] if made.family.batched else point

    def split(like: Any, flat: Tensor) -> dict[str, Tensor]:
        named = dict(like.named_parameters())
        parts = flat.split([p.numel() for p in named.values()])
        return {k: part.view(p.shape) for (k, p), part in zip(named.items(), parts, strict=True)}

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.held = model, held

        def forward(self, loss: str, batch: Batch) -> Tensor:
            found: Tensor = getattr(task.inner, loss)(self.model, batch, self.held)
            return found

    def of(loss: str, split_: Split) -> Any:
        def call(theta: Tensor, phi: Tensor) -> Tensor:
            given = {f"model.{k}": v for k, v in split(model, theta).items()}
            given |= {f"held.{k}": v for k, v in split(held, phi).items()}
            return torch.func.functional_call(Both(), given, (loss, task.inner.batch(0, split_)))

        return call

    return of("training_loss", "train"), of("held_out_loss", "valid"), torch.cat([p.reshape(-1) for p in point])


def hessian(of: Any) -> Any:
    return torch.func.jacrev(torch.func.jacrev(of))


def dense(made: Engine, moved: list[int] | None = None) -> Tensor:
    """∂F/∂φ − (∂²f/∂φ∂θ) (∂²f/∂θ²)⁻¹ ∂F/∂θ by matrices, the mean over tasks; ``moved``: those of θ that are moved."""
    phi = torch.cat([p.detach().reshape(-1) for p in made.state.slots["loss"].params])
    found = []
    for n in range(made.family.count):
        train, valid, theta = functions(made, n)
        rows = list(range(len(theta))) if moved is None else moved
        curved = hessian(train)(theta, phi)[rows][:, rows]
        mixed = torch.func.jacrev(torch.func.grad(train), argnums=1)(theta, phi)[rows]
        solved = torch.linalg.solve(curved, torch.func.grad(valid)(theta, phi)[rows])
        found.append(torch.func.grad(valid, argnums=1)(theta, phi) - mixed.T @ solved)
    return torch.stack(found).mean(0)


def flat(signal: Any) -> Tensor:
    return torch.cat([g.reshape(-1) for g in signal.grads])


CASES: dict[str, tuple[str, Settings, type[Task], int, list[int] | None]] = {
    "conjugate gradients": ("rule/loss:rule", {2: {"every": 7}}, Convex, 1, None),
    "a Neumann series": ("rule/loss:rule", {2: {"every": 7, "solver": "neumann", "iterations": 3000}}, Convex, 1, None),
    "the held-out loss reads it": ("rule/loss:rule", {2: {"every": 7}}, Direct, 1, None),
    "tasks side by side": ("rule/loss:rule", {2: {"every": 7}}, Direct, 3, None),
    "tasks, Neumann": ("rule/loss:rule", {2: {"every": 7, "solver": "neumann", "iterations": 3000}}, Direct, 3, None),
    "part of the model": ("rule[weight]/loss:rule", {2: {"every": 7}}, Convex, 1, [0, 1, 2]),
    "groups": ("rule@a[weight]+net@b[bias]/loss:rule", {3: {"every": 7}}, Convex, 1, None),
    "a level that tunes the rate": ("rule/loss:rule+rule", {2: {"every": 6}, 3: {"every": 6}}, Convex, 1, None),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:gradient=implicit")
@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_that_of_dense_algebra(name: str) -> None:
    stack, settings, task, tasks, moved = CASES[name]
    number = 3 if "groups" in name else 2
    told = {n: {**s, **(IMPLICIT if n == number else {})} for n, s in settings.items()}  # type: ignore[dict-item]
    made = differences.engine(stack, told, tasks, task=task)
    found, wanted = flat(signal_of(made, number)), dense(made, moved)
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-9 * float(wanted.abs().max()))
    assert wanted.abs().max() > 1e-3


def test_at_the_minimum_it_is_the_derivative_of_what_training_ends_at() -> None:
    made = engine(Convex(), "sgd(lr=1.0)/loss:sgd", {2: {"every": 900, **IMPLICIT, "normalize": "none"}})
    found = flat(signal_of(made, 2))
    train, valid, start = functions(made, 0)
    phi = torch.cat([p.detach().reshape(-1) for p in made.state.slots["loss"].params])

    def ends_at(phi: Tensor) -> Tensor:
        theta = start
        for _ in range(6):  # Newton's method
            theta = theta - torch.linalg.solve(hessian(train)(theta, phi), torch.func.grad(train)(theta, phi))
        value: Tensor = valid(theta, phi)
        return value

    for k in (0, 5, 8, 9):
        nudge = torch.zeros_like(phi)
        nudge[k] = 1e-3
        slope = sum(w * float(ends_at(phi + n * nudge)) for n, w in ((2, -1), (1, 8), (-1, -8), (-2, 1))) / 0.012
        assert float(found[k]) == pytest.approx(slope, rel=1e-7)


class Sines(Convex):
    """Ordinary logistic regression, whose tasks differ."""

    def loss_parameters(self) -> None:
        return None


HELD = {"proximal": 0.7, "normalize": "none", "guard": False}


@pytest.mark.parametrize("tasks", [1, 3])
def test_a_start_that_episodes_are_held_near_has_its_implicit_gradient(tasks: int) -> None:
    def signal(episode: int, how: dict[str, Any]) -> Any:
        made = engine(Sines(), "sgd(lr=0.6)/init:sgd", {2: {"episode": episode, **HELD, **how}}, tasks=tasks)
        return made, signal_of(made, 2)

    with pytest.warns(Notice, match="away from a stationary point.*set 'episode' higher"):
        made, short = signal(3, IMPLICIT)
    found = []
    for n in range(tasks):  # λ (∂²f/∂θ² + λ)⁻¹ ∂F/∂θ, at any point
        task = made.family.drawn(0).tasks[n]
        theta = torch.cat([(p[n] if tasks > 1 else p).detach().reshape(-1) for p in made.state.task.params])

        def of(split: Split, theta: Tensor, task: Any = task) -> Tensor:
            given = {"weight": theta[None, :3], "bias": theta[3:]}
            (x, y), line = task.batch(0, split), nn.Linear(3, 1)
            return softplus(-y.sign() * torch.func.functional_call(line, given, (x,)))[:, 0].mean()

        curved = torch.func.jacrev(torch.func.jacrev(lambda t, of=of: of("train", t)))(theta)
        outer = torch.func.grad(lambda t, of=of: of("valid", t))(theta)
        found.append(0.7 * torch.linalg.solve(curved + 0.7 * torch.eye(4, dtype=torch.float64), outer))
    assert made.state.levels[1].carried["far"]
    assert flat(short) == pytest.approx(torch.stack(found).mean(0), rel=1e-10)
    # At rest it is the derivative through the whole episode.
    (_, one), (_, other) = signal(80, IMPLICIT), signal(80, {"gradient": "unroll", "second_order": True})
    assert flat(one) == pytest.approx(flat(other).detach(), rel=1e-8)


def test_an_episode_is_held_near_its_start_and_recorded_without_that() -> None:
    ends = {}
    for proximal in (None, 3.0):
        told = {"episode": 40, "gradient": "reptile", "second_order": False, "proximal": proximal}
        made = engine(Sines(), "sgd(lr=0.1)/init:sgd(lr=1e-300)", {2: {k: v for k, v in told.items() if v is not None}})
        made.run(40)
        made.flush()
        gaps = [a - b for a, b in zip(made.state.task.params, made.state.slots["init"].params, strict=True)]
        ends[proximal] = float(torch.stack([(g.detach() ** 2).sum() for g in gaps]).sum())
        point = made.state.task.params
        x, y = made.family.drawn(0).tasks[0].batch(0)
        loss = softplus(-y.sign() * (x @ point[0].T + point[1])).mean().detach()
        made.run(41)  # whose first evaluation is at the end of the episode
        made.flush()
        assert isinstance(made.sink, Recorder)
        assert made.sink.series(0, "loss")[-2] == pytest.approx(float(loss), rel=1e-12)
    assert ends[3.0] < 0.3 * ends[None]


@pytest.mark.parametrize("how", [conjugate_gradients, neumann])
def test_tasks_are_solved_as_they_are_alone(how: Any) -> None:
    dice = torch.Generator().manual_seed(0)
    roots = torch.randn(3, 4, 4, generator=dice, dtype=torch.float64)
    matrices = roots @ roots.mT * torch.tensor([1.0, 1e-4, 1e4])[:, None, None]
    matrices = matrices + matrices.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(4)
    v = torch.randn(3, 4, generator=dice, dtype=torch.float64) * torch.tensor([1.0, 0.0, 1e6])[:, None]
    both = how(lambda p: [(matrices @ p[0][:, :, None])[:, :, 0]], [v], _Dot(True), 500, 1e-12)
    assert not both.bent.any()
    for n in range(3):
        alone = how(lambda p, n=n: [matrices[n] @ p[0]], [v[n]], _Dot(False), 500, 1e-12)
        wanted = torch.linalg.solve(matrices[n], v[n])
        assert alone.x[0] == pytest.approx(wanted, rel=1e-8, abs=0)
        assert both.x[0][n] == pytest.approx(wanted, rel=1e-8, abs=0)


def test_the_model_is_moved_in_place_as_without_the_level() -> None:
    ends = []
    for stack, told in (("adam", {}), ("adam/loss:sgd(lr=1e-300)", {2: {**IMPLICIT, "every": 10}})):
        made = engine(Convex(seed=3), stack, told, seed=1, dtype=torch.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Notice)
            made.run(40)
        ends.append([p.detach() for p in made.state.task.params])
        assert made.tower.setting.in_place
        assert 0 in made.tower.carriers.columns
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def notices(stack: str, told: dict[str, Any], task: Task, steps: int) -> tuple[list[str], Any]:
    made = engine(task, stack, {2: {"gradient": "implicit", **told}}, seed=1, dtype=torch.float64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made.run(steps)
    made.flush()
    return [str(w.message) for w in caught if "gradient=implicit" in str(w.message)], made.sink


def test_a_point_away_from_a_stationary_one_is_told_once_and_recorded() -> None:
    said, record = notices("sgd(lr=1e-3)/loss:sgd", {"every": 5}, Convex(seed=3), 31)
    assert len(said) == 1
    assert "away from a stationary point" in said[0]
    assert "set 'every' higher, or gradient=unroll" in said[0]
    assert len(record.series(2, "residual")) == 6
    assert record.series(2, "distance")[0] > 0.05
    said, record = notices("sgd(lr=1.0)/loss:sgd(lr=1e-9)", {"every": 400}, Convex(seed=3), 402)
    assert not said
    assert record.series(2, "residual")[0] < 1e-8
    assert record.series(2, "unsolved")[0] < 1e-8
    assert record.series(2, "products")[0] <= 6


def test_a_loss_that_curves_downwards_is_told() -> None:
    said, _ = notices("sgd(lr=1e-3)/loss:sgd", {"every": 2}, Flat(seed=3), 9)
    assert sum("curves downwards along a direction" in s for s in said) == 1


@pytest.mark.parametrize("solver", ["cg", "neumann"])
def test_a_solution_that_is_cut_off_is_told(solver: str) -> None:
    told = {"every": 400, "iterations": 1, "solver": solver}
    said, record = notices("sgd(lr=1.0)/loss:sgd", told, Convex(seed=3), 802)
    assert len(said) == 1
    assert "after 1 iterations" in said[0]
    assert "set 'iterations' higher" in said[0]
    assert record.series(2, "products") == [1, 1]
    assert min(record.series(2, "unsolved")) > 0.01


@pytest.mark.filterwarnings("ignore:The gradient of the training loss has no derivative by")
def test_a_loss_whose_gradients_do_not_read_it_is_refused() -> None:
    with pytest.raises(
        RecoptError, match=r"Level 2 gets no hypergradient: gradients of the training loss.*penalty, weights"
    ):
        notices("sgd/loss:sgd", {"every": 8}, Apart(seed=3), 30)


@pytest.mark.parametrize("at", [5, 23])
def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(at: int, tmp_path: Path) -> None:
    def make() -> Any:
        return engine(Convex(seed=2), "adam/loss:adam/sgd", {2: {"gradient": "implicit", "every": 4}}, seed=1)

    whole, first, second = make(), make(), make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        whole.run(at + 9)
        first.run(at)
        checkpoint.save(first, tmp_path / "a")
        checkpoint.load(second, tmp_path / "a")
        second.run(at + 9)
    ends = [everything(x) for x in (whole, second)]
    assert all(torch.equal(a, b) for k, x in ends[0].items() for a, b in zip(x, ends[1][k], strict=True))


@pytest.mark.parametrize(
    ("stack", "settings", "why"),
    [
        ("adam/sgd", {2: {}}, "'adam' has no part in: a rate says how fast .*Use it over 'loss:'"),
        ("adam/init:sgd", {2: {"episode": 5}}, "forgets its start: set 'proximal'"),
        ("adam/loss:sgd", {2: {"second_order": True}}, "leave 'second_order' out"),
        ("adam/loss:sgd", {2: {"objective": "mean"}}, "leave 'objective' out"),
        ("adam/loss:sgd", {2: {"penalty_moved": 1.0}}, "knows no 'penalty_moved'"),
        ("adam/loss:sgd", {2: {"gradient": "unroll", "solver": "cg"}}, "'solver' is of gradient=implicit"),
        ("adam/loss:annealing", {2: {}}, "set gradient=value"),
    ],
)  # fmt: skip
def test_what_is_not_of_a_stationary_point_is_refused(stack: str, settings: Settings, why: str) -> None:
    with pytest.raises(RecoptError, match=why):
        graph(stack, {n: {"gradient": "implicit", **(s or {})} for n, s in settings.items()})


def test_what_holds_no_episode_is_refused() -> None:
    with pytest.raises(RecoptError, match="'proximal' holds episodes near their start: set it on the level that moves"):
        graph("adam/loss:sgd", {2: {"proximal": 1.0}})
    with pytest.raises(RecoptError, match="'proximal' is in gradients, and level 1 .annealing.* reads none"):
        engine(Sines(), "annealing/init:annealing", {2: {"episode": 5, "proximal": 1.0}})


def test_it_says_what_it_is_in_words() -> None:
    assert "implicit, every 20 steps" in repr(graph("adam/loss:sgd", {2: {"gradient": "implicit"}}))
