"""The conformance battery for tasks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from ..checking.errors import Notice
from ..contracts import trees
from ..contracts.task import Split, Task
from ..engine.engine import Engine
from ..engine.evaluate import Quietly
from ..engine.family import Family
from ..engine.live import Live
from ..engine.measure import measure
from ..levels.graph import Graph
from ..levels.level import TASK, Level
from ..stacks.plugins import load_strategy
from . import form, probe
from .probe import Broken

MakeTask = Callable[..., Task]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
CPU = torch.device("cpu")


def settings(make: MakeTask) -> None:
    """The task can be made from a seed alone: every option has a default that it takes."""
    try:
        task = make(seed=1)
    except Exception as why:
        raise Broken(f"it cannot be made without options ({why}): give every option a default that works.") from why
    if not isinstance(task, Task):
        raise Broken(f"it makes a {type(task).__name__}: derive the class from recopt.Task.")
    form.check_defaults(type(task))


def documented(make: MakeTask) -> None:
    """The class has a docstring."""
    form.documented(partial(make, seed=1))


def models(make: MakeTask) -> None:
    """A model is an ``nn.Module`` with something to train, drawn from torch's global generator and nothing else."""
    task = make(seed=1)
    raw = [task.model(), task.model()]
    if not isinstance(raw[0], nn.Module):
        raise Broken(f"model() gives a {type(raw[0]).__name__}: give a torch.nn.Module.")
    if raw[0] is raw[1]:
        raise Broken("model() gives the same object twice: make a fresh one every time.")
    one, other = _model(task), _model(task)
    if not any(p.requires_grad for p in one.parameters()):
        raise Broken("model() gives a module without a parameter that requires gradients: there is nothing to train.")
    if not _same(list(one.state_dict().values()), list(other.state_dict().values())):
        raise Broken("two models differ though torch was seeded alike: draw initial values by torch.")


def batches(make: MakeTask) -> None:
    """A batch is a pure function of the seed, its index and its split."""
    task, again = make(seed=1), make(seed=1)
    for split in SPLITS:
        forwards = [task.batch(index, split) for index in range(3)]
        backwards = [again.batch(index, split) for index in (2, 1, 0)][::-1]
        if not all(_same(a, b) for a, b in zip(forwards, backwards, strict=True)):
            raise Broken(
                f"batch(…, '{split}') is another one when asked for again: draw it from self.generator(index), so "
                "that a run can be repeated and resumed."
            )
        if not isinstance(task.batches(split), int) or task.batches(split) < 1:
            raise Broken(f"batches('{split}') is {task.batches(split)!r}: give a whole number of at least 1.")


def losses(make: MakeTask) -> None:
    """The loss is one finite number with gradients by the parameters, in float32 and float64."""
    task = make(seed=1)
    for dtype in (torch.float32, torch.float64):
        model = _model(task, dtype)
        loss = task.loss(model, _cast(task.batch(0), dtype))
        if not isinstance(loss, Tensor) or loss.ndim:
            shape = f"has shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"is a {type(loss).__name__}"
            raise Broken(f"the loss {shape}: give a 0-dimensional tensor, the mean over the batch.")
        if loss.dtype != dtype:
            raise Broken(f"the loss of a {dtype} model is {loss.dtype}: keep the type of the model's output.")
        if not bool(loss.isfinite()):
            raise Broken("the loss of a fresh model is not finite: look for a logarithm or a division by 0.")
        if not loss.requires_grad:
            raise Broken("no gradient passes through the loss: do not detach, and do not use .item() or numpy in it.")
        if all(g is None or not bool(g.any()) for g in Live(model).gradient(loss)):
            raise Broken("the gradient of the loss is 0 everywhere: the loss does not depend on the model.")


def metrics(make: MakeTask) -> None:
    """Metrics are 0-dimensional tensors by name; the one that ``metric`` names is among them."""
    task = make(seed=1)
    model, quietly = _model(task).eval(), Quietly(CPU)
    found = quietly(lambda: task.metrics(model, _cast(task.batch(0, "valid"), torch.float32)))
    for name, value in found.items():
        if not isinstance(value, Tensor) or value.ndim:
            raise Broken(f"the metric '{name}' must be a 0-dimensional tensor, the mean over the batch.")
    if task.metric is not None and task.metric not in found:
        raise Broken(f"metric is '{task.metric}', which metrics() does not give: {', '.join(found) or 'none'}.")


def follows(make: MakeTask) -> None:
    """The loss uses the model that it is given, and no other."""
    task = make(seed=1)
    live, batch, found = Live(_model(task)), _cast(task.batch(0), torch.float32), list[Tensor]()
    start, still = [p.detach().clone() for p in live.params], [b.clone() for b in live.still()]
    for step in (0.0, 0.1):
        with probe.seeded():
            found.append(task.loss(live.put([p + step for p in start], still), batch).detach())
    if torch.equal(*found):
        raise Broken("the loss does not follow the parameters it is given: let loss() call the model that it is given.")


def runs(make: MakeTask) -> None:
    """A run trains it, alone and two side by side, and measures it on held-out batches."""
    graph = Graph([Level(moves=TASK, by="sgd")], {"sgd": load_strategy("sgd")(lr=1e-6)})
    for tasks in (1, 2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            engine = Engine(make(seed=1), graph, tasks=tasks)
            engine.run(2)
        measure(engine, "valid")


def sampled(make: MakeTask) -> None:
    """``sample(seed)`` gives a task of the same class with that seed, and leaves this one as it was."""
    task = make(seed=1)
    other = task.sample(2)
    if type(other) is not type(task) or other.seed != 2 or task.seed != 1:
        raise Broken("sample(seed) must give a task of this class with that seed, and leave this one as it was.")


def seeds(make: MakeTask) -> None:
    """Another seed is another task, which ``sample`` gives too; a task that is the same for all of them is told of."""
    one, other, sampled = make(seed=1), make(seed=2), make(seed=1).sample(2)
    if not _one_function(other, sampled):
        raise Broken(
            "the task made with seed 2 has other data or another loss than sample(2) of the one made with seed 1, for "
            "samples share what __init__ draws: draw it in batch() or model(), from self.generator(…), or anew in "
            "sample()."
        )
    if not _one_function(one, other):
        return
    start = _same(list(_model(one).parameters()), list(_model(other).parameters()))
    only = "" if start else ", only the start of the model is another"
    warnings.warn(
        f"The data and the loss are the same for all seeds{only}: if they are to differ, draw them in batch() from "
        "self.generator(index).", Notice, stacklevel=2,
    )  # fmt: skip


def _one_function(one: Task, other: Task) -> bool:
    """True if both have the same batches and, at the same parameters, the same losses."""
    models = [_model(task) for task in (one, other)]
    lives = [Live(model) for model in models]
    if [p.shape for p in lives[0].params] != [p.shape for p in lives[1].params]:
        return False
    for index, split in product(range(2), SPLITS):
        both = [_cast(task.batch(index, split), torch.float32) for task in (one, other)]
        if not _same(*both):
            return False
        found = []
        for task, live, batch in zip((one, other), lives, both, strict=True):
            with probe.seeded():
                found.append(task.loss(live.put(lives[0].params, live.still()), batch).detach())
        if not torch.equal(*found):
            return False
    return True


TASK_RULES: dict[str, Callable[[MakeTask], None]] = {
    rule.__name__: rule
    for rule in (settings, documented, models, batches, losses, metrics, follows, sampled, runs, seeds)
}
TASK_BASIC = frozenset({"settings", "models", "batches", "losses", "runs"})


def _model(task: Task, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A model as a run makes it."""
    return Family(task, 1, task.seed, CPU, dtype).module(0)


def _cast(batch: Any, dtype: torch.dtype) -> Any:
    return trees.tree_map(lambda t: t.to(dtype) if t.is_floating_point() else t, batch)


def _same(one: Any, other: Any) -> bool:
    a, b = trees.tensors(one), trees.tensors(other)
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
