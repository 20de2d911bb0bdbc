"""The conformance battery for tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..contracts import trees
from ..contracts.settings import Option, declared
from ..contracts.task import Split, Task
from ..engine.model import Patched
from . import probe
from .probe import Broken

MakeTask = Callable[..., Task]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


def settings(make: MakeTask) -> None:
    """The task can be made from a seed alone: every option has a default that it takes."""
    try:
        task = make(seed=1)
    except Exception as why:
        raise Broken(f"it cannot be made without options ({why}): give every option a default that works.") from why
    if not isinstance(task, Task):
        raise Broken(f"it makes a {type(task).__name__}: derive the class from recopt.Task.")
    for name, option in declared(type(task), Option).items():
        try:
            option.parse(option.default, name)
        except Exception as why:
            raise Broken(f"the default of option '{name}' is refused ({why}): give one that it takes.") from None


def documented(make: MakeTask) -> None:
    """The class has a docstring."""
    if not (type(make(seed=1)).__dict__.get("__doc__") or "").strip():
        raise Broken("the class has no docstring: its first line is what listings show; write one.")


def models(make: MakeTask) -> None:
    """A model is an ``nn.Module`` with something to train, drawn from torch's global generator and nothing else."""
    task = make(seed=1)
    one, other = _model(task), _model(task)
    if not isinstance(one, nn.Module):
        raise Broken(f"model() gives a {type(one).__name__}: give a torch.nn.Module.")
    if not any(p.requires_grad for p in one.parameters()):
        raise Broken("model() gives a module without a parameter that requires gradients: there is nothing to train.")
    if one is other:
        raise Broken("model() gives the same object twice: make a fresh one every time.")
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
        model = _model(task).to(dtype)
        loss = task.loss(model, _cast(task.batch(0), dtype))
        if not isinstance(loss, Tensor) or loss.ndim:
            shape = f"has shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"is a {type(loss).__name__}"
            raise Broken(f"the loss {shape}: give a 0-dimensional tensor, the mean over the batch.")
        if loss.dtype != dtype:
            raise Broken(f"the loss of a {dtype} model is {loss.dtype}: keep the type of the model's output.")
        if not bool(loss.isfinite()):
            raise Broken("the loss of a fresh model is not finite: look for a logarithm or a division by 0.")
        params = [p for p in model.parameters() if p.requires_grad]
        if not loss.requires_grad:
            raise Broken("no gradient passes through the loss: do not detach, and do not use .item() or numpy in it.")
        grads = torch.autograd.grad(loss, params, allow_unused=True)
        if all(g is None or not bool(g.any()) for g in grads):
            raise Broken("the gradient of the loss is 0 everywhere: the loss does not depend on the model.")


def metrics(make: MakeTask) -> None:
    """Metrics are 0-dimensional tensors by name; the one that ``metric`` names is among them."""
    task = make(seed=1)
    model = _model(task).eval()
    with torch.no_grad():
        found = task.metrics(model, task.batch(0, "valid"))
    for name, value in found.items():
        if not isinstance(value, Tensor) or value.ndim:
            raise Broken(f"the metric '{name}' must be a 0-dimensional tensor, the mean over the batch.")
    if task.metric is not None and task.metric not in found:
        raise Broken(f"metric is '{task.metric}', which metrics() does not give: {', '.join(found) or 'none'}.")


def patched(make: MakeTask) -> None:
    """The loss uses the model it is given and no other: ``higher`` passes a patched one."""
    task = make(seed=1)
    model, batch = _model(task), task.batch(0)
    with probe.seeded():
        plain = task.loss(model, batch)
    module = Patched(_model(task))
    moved = [p.detach() for p in model.parameters()]
    still = [b.detach().clone() for b in _model(task).buffers()]
    with probe.seeded():
        loss = task.loss(module.load(moved, still), batch)
        other = task.loss(module.load([p + 0.1 for p in moved], still), batch)
    if not torch.allclose(plain, loss, rtol=1e-4):
        raise Broken("the loss of a patched copy of the model differs: let loss() call the model that it is given.")
    if torch.equal(loss, other):
        raise Broken("the loss does not follow the parameters it is given: let loss() call the model that it is given.")


def sampled(make: MakeTask) -> None:
    """``sample(seed)`` gives a task of the same class with that seed, and leaves this one as it was."""
    task = make(seed=1)
    other = task.sample(2)
    if type(other) is not type(task) or other.seed != 2 or task.seed != 1:
        raise Broken("sample(seed) must give a task of this class with that seed, and leave this one as it was.")


def vectorized(make: MakeTask) -> None:
    """With ``vectorize``, losses mapped over several tasks equal those computed one by one."""
    task = make(seed=1)
    if not task.vectorize:
        return
    members = [task.sample(seed) for seed in (1, 2)]
    made = [_model(member) for member in members]
    found = [member.batch(0) for member in members]
    apart = torch.stack([m.loss(model, batch) for m, model, batch in zip(members, made, found, strict=True)]).detach()
    params, buffers = torch.func.stack_module_state(made)
    blank = _model(task)

    def loss(p: Any, b: Any, batch: Any) -> Tensor:
        return members[0].loss(lambda *args: torch.func.functional_call(blank, (p, b), args), batch)  # type: ignore[arg-type]

    try:
        mapped = torch.func.vmap(loss, randomness="different")(params, buffers, trees.stack(found))
    except Exception as why:
        raise Broken(
            f"its loss cannot be mapped over tasks ({type(why).__name__}): set vectorize = False in the class."
        ) from why
    if any(isinstance(m, nn.Dropout) and m.p for m in blank.modules()):
        return  # the draws differ
    if not torch.allclose(mapped, apart, rtol=1e-3, atol=1e-6):
        raise Broken("mapped over tasks its losses differ: put what tells tasks apart into the batch or the model.")


TASK_RULES: dict[str, Callable[[MakeTask], None]] = {
    rule.__name__: rule
    for rule in (settings, documented, models, batches, losses, metrics, patched, sampled, vectorized)
}
TASK_BASIC = frozenset({"settings", "models", "batches", "losses"})


def _model(task: Task) -> nn.Module:
    with probe.seeded(task.seed):
        return task.model()


def _cast(batch: Any, dtype: torch.dtype) -> Any:
    return trees.tree_map(lambda t: t.to(dtype) if t.is_floating_point() else t, batch)


def _same(one: Any, other: Any) -> bool:
    a, b = trees.tensors(one), trees.tensors(other)
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
