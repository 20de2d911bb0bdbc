"""Models as people write them: trained as torch trains them, or refused, but never left as they were in silence."""

from __future__ import annotations

import random
import re
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt.checking.errors import Notice, RecoptError
from recopt.contracts.task import Batch, Split, Task
from recopt.engine import measure
from recopt.engine.probe import Probe

from .. import engines


class Squares(Task):
    """(w x)² at x = 1, from w = 1: by gradient descent at a rate of 0.1 the losses are 1, 0.64, 0.4096 …"""

    kind: type[nn.Module]

    def model(self) -> nn.Module:
        return self.kind()

    def batch(self, index: int, split: Split = "train") -> Batch:
        return torch.ones(1, 1)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch) ** 2).mean()


class One(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.own.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.own(x)


class Never(One):
    """Its own forward is never called."""

    def nll(self, x: Tensor) -> Tensor:
        return (self.own(x) ** 2).mean()


class NeverTask(Squares):
    kind = Never

    def loss(self, model: Any, batch: Batch) -> Tensor:
        return model.nll(batch)


class Referring(One):
    """Holds its part in a tuple, and by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.call = (self.own,), partial(self.own)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x) + 0 * self.parts[0](x)


class ReferringTask(Squares):
    kind = Referring


class Hooked(One):
    """A hook doubles what it gives."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.own.weight.fill_(0.5)
        self.own.register_forward_hook(lambda module, given, out: 2 * out)


class HookedTask(Squares):
    kind = Hooked


class Listed(Squares):
    def model(self) -> nn.Module:
        return nn.ModuleDict({"a": One()})

    def loss(self, model: Any, batch: Batch) -> Tensor:
        return (model["a"](batch) ** 2).mean()


def by_torch(task: Task, rate: float, steps: int) -> list[float]:
    model = task.model().double()
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=rate), []
    for step in range(steps):
        optimizer.zero_grad()
        loss = task.loss(model, task.batch(step).double())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


TASKS = [NeverTask, ReferringTask, HookedTask, Listed]


@pytest.mark.parametrize("kind", TASKS)
def test_models_are_trained_as_torch_trains_them(kind: type[Task]) -> None:
    found = recopt.run(kind(), "sgd(lr=0.1)", steps=6, dtype="float64", track=False, measure=0)
    assert list(found.losses) == pytest.approx(by_torch(kind(), 0.1, 6), rel=1e-12)
    assert found.losses[-1] < 0.2
    above = recopt.run(kind(), "sgd(lr=0.1)/sgd", steps=6, dtype="float64", track=False, measure=0)
    assert above.losses[-1] < 0.2


WAYS: list[dict[str, Any]] = [
    {"tasks": 2},
    {"settings": ["level2.second_order=true", "level2.every=2"]},
    {"tasks": 2, "settings": ["level2.second_order=true", "level2.every=2"]},
]


@pytest.mark.filterwarnings("ignore:The model is called by torch.func.functional_call, not by higher")
@pytest.mark.parametrize("more", WAYS)
@pytest.mark.parametrize("kind", TASKS)
def test_they_are_too_side_by_side_and_under_exact_levels(kind: type[Task], more: dict[str, Any]) -> None:
    found = recopt.run(kind(), "sgd(lr=0.1)/sgd(lr=1e-12)", steps=6, dtype="float64", track=False, measure=0, **more)
    assert list(found.losses) == pytest.approx(by_torch(kind(), 0.1, 6), rel=1e-8)


class Mixed(Squares):
    """A batch of more than tensors; ``odd`` tasks differ in it."""

    kind = One
    odd = ""

    def batch(self, index: int, split: Split = "train") -> Batch:
        mine = self.odd and self.seed
        rows = 1 + (index % 2 if self.odd == "rows" and mine else 0)
        word = "twice" if self.odd == "words" and mine and index > 1 else "once"
        return {"x": torch.ones(rows, 1), "mask": None, "word": word, "count": 3, "more": (torch.ones(()), [True])}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch["mask"] is None and batch["count"] == 3 and batch["more"][1] == [True]
        out = model(batch["x"]) * batch["more"][0]
        return ((2 if batch["word"] == "twice" else 1) * out**2).mean()


@pytest.mark.parametrize("odd", ["", "rows", "words"])
def test_batches_side_by_side_may_hold_more_than_tensors_and_differ_in_it(odd: str) -> None:
    task: Any = Mixed()
    task.odd = odd
    made = engines.engine(task, "sgd(lr=0.1)", tasks=2)
    assert made.family.drawn(0).way.mapped
    made.run(5)
    apart = []
    for n, member in enumerate(made.family.drawn(0).tasks):
        one, weight = [], 1.0
        for step in range(5):
            factor = 2 if member.batch(step)["word"] == "twice" else 1
            one.append(factor * weight**2)
            weight -= 0.1 * factor * 2 * weight
        assert float(engines.params(made)[0][n]) == pytest.approx(weight, rel=1e-12)
        apart.append(one)
    assert engines.losses(made) == pytest.approx([sum(pair) / 2 for pair in zip(*apart, strict=True)], rel=1e-12)


class Looped(Squares):
    """A model that cannot be mapped over tasks."""

    def model(self) -> nn.Module:
        return nn.LSTM(1, 1)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch[None])[0] ** 2).mean()


def test_what_cannot_be_mapped_is_looped_over_and_that_is_said_once() -> None:
    level = {"every": 2, "episode": 4}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made = engines.engine(Looped(), "sgd(lr=0.1)/sgd", {2: level}, tasks=3)
        made.run(20)
    notes = [str(w.message) for w in told if issubclass(w.category, Notice)]
    assert len(notes) == 1
    assert re.search("one after the other.*lstm.*vectorize = False", notes[0])
    assert made.state.task.draw >= 3
    quiet: Any = Looped()
    quiet.vectorize = False
    other = engines.engine(quiet, "sgd(lr=0.1)/sgd", {2: level}, tasks=3)  # warnings are errors
    other.run(20)
    assert engines.losses(other) == engines.losses(made)


class Partly(One):
    """Only one of its parts is used; another, from the third call on."""

    def __init__(self) -> None:
        super().__init__()
        self.never, self.later = (nn.Parameter(torch.ones(1)) for _ in "ab")
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.own(x) + (0.0 * self.later if self.calls > 2 else 0.0)


class PartlyTask(Squares):
    kind = Partly


@pytest.mark.parametrize("tasks", [1, 2])
def test_what_the_loss_does_not_reach_is_named_once_and_stays_as_it_is(tasks: int) -> None:
    task: Any = PartlyTask()
    task.vectorize = False
    made = engines.engine(task, "sgd(lr=0.1, weight_decay=0.5)", tasks=tasks)
    with pytest.warns(Notice, match="does not reach 'never', 'later': not trained as long"):
        made.run(1)
    first = engines.params(made)
    made.run(5)  # warnings are errors
    names = made.graph.names["task"]
    values = dict(zip(names, engines.params(made), strict=True))
    assert torch.equal(values["never"], torch.ones_like(values["never"]))
    assert torch.equal(first[names.index("later")], torch.ones_like(values["later"]))
    assert (values["later"] - (1 - 0.05) ** 3).abs().max() < 1e-12  # decayed once it is reached, as torch does
    assert (values["own.weight"] < 0.3).all()


@pytest.mark.parametrize("more", [{}, *WAYS])
def test_a_loss_that_reaches_nothing_is_refused(more: dict[str, Any]) -> None:
    class Deaf(Squares):
        kind = One

        def loss(self, model: Any, batch: Batch) -> Tensor:
            return (batch.requires_grad_() ** 2).mean() if "tasks" not in more else (batch**2).mean()

    with pytest.raises(RecoptError, match="reaches no parameter of the model, so nothing would be trained"):
        recopt.run(Deaf(), "sgd(lr=0.1)/sgd", steps=6, track=False, measure=0, **more)


def test_a_loss_without_gradients_is_searched_side_by_side() -> None:
    class Steps(Squares):
        kind = One

        def loss(self, model: Any, batch: Batch) -> Tensor:
            return (model(batch) * 8).round().detach().abs().mean()

    made = engines.engine(Steps(), "random-search", tasks=2)
    made.run(60)
    assert engines.losses(made)[-1] < engines.losses(made)[0]


class Differentiating(Squares):
    """Differentiates inside, draws at random, and counts in a buffer."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3, affine=False), nn.Linear(3, 1))

    def batch(self, index: int, split: Split = "train") -> Batch:
        return torch.randn(6, 3, generator=self.generator(index))

    def loss(self, model: Any, batch: Batch) -> Tensor:
        x = batch.detach().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        return slope.square().mean()


@pytest.mark.parametrize("tasks", [1, 2])
def test_a_search_over_a_loss_that_differentiates_inside_leaves_no_trace_of_the_attempt_without(tasks: int) -> None:
    def run(inside: bool | None) -> Any:
        task: Any = Differentiating()
        task.vectorize = False
        made = engines.engine(task, "random-search", tasks=tasks)
        made.evaluator.quietly.inside = inside
        made.run(8)
        return made

    found, wanted = run(None), run(True)
    assert found.evaluator.quietly.inside
    assert engines.losses(found) == engines.losses(wanted)
    for one, other in zip(found.state.task.buffers, wanted.state.task.buffers, strict=True):
        assert torch.equal(one, other)


def test_kinds_of_tasks_are_probed_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    probed = []
    plain = Probe.choice

    def choice(probe: Probe) -> Any:
        probed.append(type(probe.tasks[0]).__name__)
        return plain(probe)

    monkeypatch.setattr(Probe, "choice", choice)
    task = recopt.tasks.make("mixture", members="quadratic(dim=3) + rosenbrock + rastrigin")
    made = engines.engine(task, "sgd(lr=1e-4)/sgd", {2: {"every": 2, "episode": 2}}, tasks=2)
    made.run(60)
    assert made.state.task.draw > 15
    assert sorted(probed) == ["Quadratic", "Rastrigin", "Rosenbrock"]


def test_a_model_that_is_made_once_is_refused() -> None:
    class Kept(Squares):
        """A notebook's model: a fresh start would go on where the last one ended."""

        own = One()

        def model(self) -> nn.Module:
            return self.own

    with pytest.raises(RecoptError, match="same object twice: let it make a fresh one"):
        recopt.run(Kept(), "sgd", steps=2, track=False)


def test_an_exact_level_over_a_model_that_torchs_seed_does_not_repeat_is_refused() -> None:
    dice = random.Random(0)

    class Restless(Squares):
        kind = One

        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return dice.random() * (model(batch) ** 2).mean()

    with pytest.raises(RecoptError, match="another each time, though torch is seeded alike"):
        engines.engine(Restless(), "sgd/sgd", {2: {"gradient": "unroll", "second_order": True, "every": 2}})


@pytest.mark.parametrize("tasks", [1, 2])
def test_compiled_models_are_trained_and_refused_under_exact_levels(tasks: int) -> None:
    class Compiled(Squares):
        vectorize = False

        def model(self) -> nn.Module:
            return torch.compile(One(), backend="eager")  # type: ignore[return-value]

    made = engines.engine(Compiled(), "sgd(lr=0.1)", tasks=tasks)
    made.run(6)
    assert engines.losses(made) == pytest.approx([0.64**n for n in range(6)], rel=1e-12)
    with pytest.raises(RecoptError, match="before torch.compile"):
        engines.engine(
            Compiled(), "sgd/sgd", {2: {"gradient": "unroll", "second_order": True, "every": 2}}, tasks=tasks
        )


class Projected(nn.Module):
    """Holds a random constant that is neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.random = nn.Linear(3, 1), torch.randn(3, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.own(x @ self.random)


@pytest.mark.filterwarnings("ignore:Tasks side by side are evaluated one after the other")
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("tasks", [1, 2])
def test_fresh_starts_have_the_constants_of_their_own_models(tasks: int, exact: bool) -> None:
    class Constant(Squares):
        def model(self) -> nn.Module:
            return Projected()

        def batch(self, index: int, split: Split = "train") -> Batch:
            return torch.randn(4, 3, generator=self.generator(index))

    level = {"every": 2, "episode": 4, "gradient": "unroll", "second_order": exact}
    made = engines.engine(Constant(), "sgd(lr=0.1)/sgd", {2: level}, tasks=tasks)
    losses = set()
    for _ in range(14):
        made.step()
        slot = made.state.task
        apart = [
            task.loss(model, made.family.place(task.batch(slot.seen)))
            for task, model in zip(made.family.members(slot), measure.models(made), strict=True)
        ]
        mean = made.evaluator.value(slot, slot.params, made.evaluator.batch(slot, slot.seen, "train")).mean()
        assert float(mean.detach()) == pytest.approx(float(sum(apart).detach()) / tasks, rel=1e-12)
        losses.add(slot.draw)
    assert len(losses) > 2


class Later(nn.Module):
    """Reads its second part by a reference of its own, from batch ``first`` on."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.one.weight)
        nn.init.ones_(self.two.weight)
        self.parts = [self.two]


class LaterTask(Squares):
    first: int

    def model(self) -> nn.Module:
        return Later()

    def batch(self, index: int, split: Split = "train") -> Batch:
        return torch.ones(1, 1), index

    def loss(self, model: Any, batch: Batch) -> Tensor:
        x, index = batch
        return (model.one(x) ** 2).mean() + ((model.parts[0](x) ** 2).mean() if index >= self.first else 0)


@pytest.mark.filterwarnings("ignore:The (model is called by torch.func.functional_call|loss does not reach)")
@pytest.mark.parametrize("more", WAYS)
def test_a_reference_that_only_later_batches_read_is_followed_or_refused(more: dict[str, Any]) -> None:
    def run(first: int) -> list[float]:
        task = LaterTask()
        task.first = first
        stack = "sgd(lr=0.1)/sgd(lr=1e-12)"
        return list(recopt.run(task, stack, steps=4, dtype="float64", track=False, measure=0, **more).losses)

    assert run(1) == pytest.approx([1, 1.64, 1.0496, 0.671744], rel=1e-8)  # (w x)² falls by 0.64 once it is there
    with pytest.raises(RecoptError, match=r"a reference of its own .* reads 'two\.weight'.*set vectorize = False"):
        run(2)


class ScaledOnce(One):
    """Divides its weight by 2 in its first call, as layers do that start from data."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ready", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if not self.ready:
            with torch.no_grad():
                self.own.weight.div_(2)
            self.ready.fill_(1)
        return self.own(x)


class ScaledOnceTask(Squares):
    vectorize = False
    kind = ScaledOnce


@pytest.mark.parametrize("tasks", [1, 2])
def test_a_model_that_changes_its_own_weights_goes_on_from_what_it_made_of_them(tasks: int) -> None:
    found = recopt.run(ScaledOnceTask(), "sgd(lr=0.1)", steps=3, dtype="float64", track=False, measure=0, tasks=tasks)
    assert list(found.losses) == pytest.approx([0.25, 0.16, 0.1024], rel=1e-12)


class Alternating(LaterTask):
    """As in adversarial training: every other batch differentiates by one part only."""

    def loss(self, model: Any, batch: Batch) -> Tensor:
        x, index = batch
        with torch.set_grad_enabled(index % 2 == 0):
            made = model.one(x)
        return (model.two(made) ** 2).mean()


def test_an_exact_level_tells_that_the_second_batch_stops_derivatives_short() -> None:
    with pytest.warns(Notice, match="differences say"):
        engines.engine(Alternating(), "sgd/sgd", {2: {"second_order": True, "every": 2}})
