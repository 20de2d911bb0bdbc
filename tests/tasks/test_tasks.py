"""What every shipped task promises: determinism, purity, finite gradients, and mapping over tasks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vmap

import recopt.tasks
from recopt.checking.errors import RecoptError
from recopt.contracts import trees
from recopt.contracts.task import Split, Task
from recopt.engine.model import Patched

from .. import data_server

CASES: list[tuple[str, dict[str, Any]]] = [
    ("quadratic", {}),
    ("quadratic", {"dim": 4, "conditioning": 100, "start": "normal"}),
    ("rosenbrock", {"dim": 5}),
    ("rosenbrock", {"noise": 0.5}),
    ("rastrigin", {"dim": 3}),
    ("landscape", {"function": "ackley"}),
    ("digits", {}),
    ("digits", {"net": "logistic", "batch_size": 0}),
    ("digits", {"net": "cnn", "channels": [4, 4], "normalization": "standard"}),
    ("mnist", {}),
    ("fashion-mnist", {"net": "cnn", "activation": "gelu"}),
    ("emnist", {"hidden": [5, 6], "activation": "tanh"}),
    ("cifar10", {"batch_size": 16}),
    ("svhn", {"net": "cnn", "batch_size": 8}),
    ("sequence", {"layers": 2, "width": 6, "length": 5}),
    ("sequence", {"process": "copy", "vocabulary": 3}),
    ("sequence", {"net": "transformer", "width": 8, "layers": 2}),
    ("mixture", {"members": "quadratic", "weights": [3]}),
    ("rescaled", {}),
    ("rescaled", {"of": "digits(net=cnn, channels=[3, 3])", "spread": 1.0}),
    ("rescaled", {"of": "sequence(width=4)", "spread": 1.0}),
    ("noisy-labels", {"of": "digits", "clean": 50}),
    ("noisy-labels", {"of": "mnist", "weights": "examples"}),
    ("sinusoid", {"shots": 5}),
    ("few-shot", {"ways": 3, "kinds": "new"}),
    ("digits", {"hidden": [8], "depth": 2, "activation": "gelu", "init": "he", "normalization": "symmetric"}),
]
every = pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n}-{'-'.join(o)}" for n, o in CASES])
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder with small sets of random images in the true formats."""
    place = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECOPT_DATA", str(place))
        patch.setenv("RECOPT_OFFLINE", "1")
        data_server.fill(place)
        yield place


def drawn(task: Task) -> nn.Module:
    torch.manual_seed(task.seed)
    return task.model()


def loss_of(task: Task, model: nn.Module) -> Any:
    """The task's loss as a function of the parameters and buffers of a model of this shape."""

    def loss(params: dict[str, Tensor], buffers: dict[str, Tensor], batch: Any) -> Tensor:
        return task.loss(lambda *args: functional_call(model, (params, buffers), args), batch)  # type: ignore[arg-type]

    return loss


def parts(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return ({k: v.detach() for k, v in model.named_parameters()}, {k: v.clone() for k, v in model.named_buffers()})


def same(one: Any, other: Any) -> bool:
    pairs = list(zip(trees.tensors(one), trees.tensors(other), strict=True))
    return bool(pairs) and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


@every
def test_batches_are_a_pure_function_of_seed_index_and_split(name: str, options: dict[str, Any]) -> None:
    first, second = (recopt.tasks.make(name, seed=7, **options) for _ in range(2))
    for split in SPLITS:
        forwards = [first.batch(i, split) for i in range(5)]
        # Another order, another instance, and one that stands in for another seed in between.
        second.sample(8).batch(3, split)
        backwards = [second.batch(i, split) for i in reversed(range(5))][::-1]
        assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
        assert same(first.sample(1).sample(7).batch(2, split), forwards[2])


@every
def test_seeds_differ_in_what_they_train(name: str, options: dict[str, Any]) -> None:
    task = recopt.tasks.make(name, seed=1, **options)
    other = task.sample(2)
    assert type(other) is type(task)
    assert (task.seed, other.seed) == (1, 2)
    models = [parts(drawn(t)) for t in (task, task, other)]
    assert same(models[0], models[1])
    assert not (same(models[0], models[2]) and same(task.batch(0), other.batch(0)))


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_and_agree_with_central_differences(
    name: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    task = recopt.tasks.make(name, seed=3, **options)
    model = drawn(task).to(dtype)
    batch = trees.tree_map(lambda t: t.to(dtype) if t.is_floating_point() else t, task.batch(0))
    params, buffers = parts(model)
    loss = loss_of(task, model)
    slope, value = grad_and_value(loss)(params, dict(buffers), batch)
    assert value.dtype == dtype
    assert value.ndim == 0
    assert all(g.isfinite().all() and g.shape == params[k].shape and g.dtype == dtype for k, g in slope.items())
    assert any(g.abs().max() > 0 for g in slope.values())
    if dtype is torch.float64:
        generator = torch.Generator().manual_seed(0)
        way = {k: torch.randn(p.shape, generator=generator, dtype=dtype) for k, p in params.items()}
        ahead, behind = (loss({k: p + s * way[k] for k, p in params.items()}, buffers, batch) for s in (1e-5, -1e-5))
        exact = sum(float((slope[k] * way[k]).sum()) for k in params)
        assert float(ahead - behind) / 2e-5 == pytest.approx(exact, rel=1e-6, abs=1e-7)


@every
def test_second_derivatives_are_finite(name: str, options: dict[str, Any]) -> None:
    task = recopt.tasks.make(name, seed=3, **options)
    model = drawn(task)
    loss, batch = loss_of(task, model), task.batch(0)
    params, buffers = parts(model)

    def squared(at: dict[str, Tensor]) -> Tensor:
        slope = grad(loss)(at, {k: v.clone() for k, v in buffers.items()}, batch)
        return torch.stack([(g**2).sum() for g in slope.values()]).sum()

    assert all(g.isfinite().all() for g in grad(squared)(params).values())


@every
def test_mapping_over_tasks_equals_a_loop(name: str, options: dict[str, Any]) -> None:
    task = recopt.tasks.make(name, **options)
    assert task.vectorize
    tasks = [task.sample(seed) for seed in range(3)]
    models = [drawn(t).double() for t in tasks]
    batches = [trees.tree_map(lambda t: t.double() if t.is_floating_point() else t, t.batch(1)) for t in tasks]
    both = grad_and_value(loss_of(task, models[0]))
    inputs = [(*parts(m), b) for m, b in zip(models, batches, strict=True)]
    looped = trees.stack([both(p, {k: v.clone() for k, v in f.items()}, b) for p, f, b in inputs])
    mapped = vmap(both)(*(trees.stack(column) for column in zip(*inputs, strict=True)))
    for one, other in zip(trees.tensors(looped), trees.tensors(mapped), strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)


@every
def test_a_patched_model_has_the_same_loss_and_metrics(name: str, options: dict[str, Any]) -> None:
    task = recopt.tasks.make(name, seed=5, **options)
    model, batch = drawn(task), task.batch(0)
    patched = Patched(model).load([p.detach() for p in model.parameters()], list(model.buffers()))
    assert torch.equal(task.loss(patched, batch), task.loss(model, batch))
    patched, held = patched.eval(), task.batch(0, "test")
    measured = task.metrics(model.eval(), held)
    assert task.metric is None or task.metric in measured
    assert all(v.ndim == 0 and v.isfinite() for v in measured.values())
    model.train()


@every
def test_passes_are_counted(name: str, options: dict[str, Any]) -> None:
    task = recopt.tasks.make(name, **options)
    for split in SPLITS:
        count = task.batches(split)
        assert count >= 1
        if split != "train":
            assert same(task.batch(count, split), task.batch(0, split))


@every
def test_patched_models_can_be_mapped_over_tasks(name: str, options: dict[str, Any]) -> None:
    task = recopt.tasks.make(name, **options)
    tasks = task.draw([1, 2, 3])
    assert all(t.vectorize for t in tasks)
    models = [drawn(t).double() for t in tasks]
    batches = [trees.tree_map(lambda t: t.double() if t.is_floating_point() else t, t.batch(1)) for t in tasks]
    patched = Patched(models[0])

    def loss(values: list[Tensor], buffers: list[Tensor], batch: Any) -> tuple[Tensor, list[Tensor]]:
        return tasks[0].loss(patched.load(values, buffers), batch), patched.buffers()

    values = [[p.detach().requires_grad_() for p in m.parameters()] for m in models]
    looped = [loss(v, list(m.buffers()), b) for v, m, b in zip(values, models, batches, strict=True)]
    stacked = trees.stack(values)
    mapped = vmap(loss)(stacked, trees.stack([list(m.buffers()) for m in models]), trees.stack(batches))
    for one, other in zip(trees.tensors(trees.stack(looped)), trees.tensors(mapped), strict=True):
        assert torch.allclose(one.double(), other.double(), rtol=1e-9, atol=1e-9)
    slopes = torch.autograd.grad(mapped[0].sum(), stacked, create_graph=True)
    again = torch.autograd.grad(torch.stack([(s**2).sum() for s in slopes]).sum(), stacked, materialize_grads=True)
    assert all(s.isfinite().all() for s in (*slopes, *again))


def test_every_name_is_listed_with_the_first_line_of_its_class() -> None:
    assert recopt.tasks.names() == sorted(recopt.tasks.names())
    assert {name for name, _ in CASES} <= set(recopt.tasks.names())
    for name in recopt.tasks.names():
        described = (recopt.tasks.get(name).__doc__ or "").splitlines()[0]
        assert recopt.tasks.describe(name) == described
        assert issubclass(recopt.tasks.get(name), Task)


@pytest.mark.parametrize("call", [recopt.tasks.get, recopt.tasks.describe, recopt.tasks.make])
def test_an_unknown_name_is_refused(call: Any) -> None:
    with pytest.raises(RecoptError, match=r"Unknown task 'quadratics'\. Did you mean 'quadratic'\?"):
        call("quadratics")


def test_the_list_needs_no_torch() -> None:
    code = "import sys, recopt.tasks; recopt.tasks.names(); sys.exit(bool({'torch', 'sklearn'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
