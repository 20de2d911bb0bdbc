"""Vectors that are added to one stream, told by their gradients."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt.rules.ops import ForeachOps, Ops, TensorOps
from recopt.rules.shards import Shards
from recopt.toolkit import sizes as toolkit

WIDTH = 16


class Residual(nn.Module):
    """x + B φ(A x)."""

    def __init__(self, activation: type[nn.Module], inner: int = WIDTH) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(WIDTH, inner), activation(), nn.Linear(inner, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(WIDTH, WIDTH, num_layers=4, batch_first=True), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x[:, None].expand(-1, 4, -1))[0][:, -1])


def blocks(activation: type[nn.Module], inner: int = WIDTH) -> nn.Module:
    return nn.Sequential(*(Residual(activation, inner) for _ in range(5)), nn.Linear(WIDTH, 3))


def row(activation: type[nn.Module], layers: int = 10) -> nn.Module:
    inner = [part for _ in range(layers) for part in (nn.Linear(WIDTH, WIDTH), activation())]
    return nn.Sequential(*inner, nn.Linear(WIDTH, 3))


def streams(ops: Ops, grads: Any) -> float:
    """What is in place of each tensor."""
    column = toolkit.streams(ops, grads)
    if not isinstance(column, list):
        return float(column)
    assert len(column) == len(grads)
    assert len({float(x) for x in column}) <= 1
    return float(column[0]) if column else 0.0


def gradients(make: Callable[[], nn.Module], seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    model = make().double()
    x, y = torch.randn(40, WIDTH).double(), torch.randint(3, (40,))
    nn.functional.cross_entropy(model(x), y).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("ops", [TensorOps(), ForeachOps()])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Tanh])
@pytest.mark.parametrize("inner", [WIDTH, 2 * WIDTH])
def test_the_biases_of_residual_blocks_are_added_to_one_stream(
    activation: type[nn.Module], inner: int, ops: Ops
) -> None:
    assert streams(ops, gradients(lambda: blocks(activation, inner))) == 1


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.Softplus])
def test_those_of_layers_in_a_row_are_not(activation: type[nn.Module]) -> None:
    assert [streams(TensorOps(), gradients(lambda: row(activation), seed)) for seed in range(5)] == [0.0] * 5


def test_both_biases_of_a_recurrent_layer_are_one_stream() -> None:
    assert streams(TensorOps(), gradients(Recurrent)) == 1


@pytest.mark.parametrize(
    "kept",
    [
        lambda grads: grads[:12],  # six matrices: not many
        lambda grads: [g for g in grads if g.ndim > 1],
        lambda grads: [0 * g for g in grads],
        lambda grads: [g if g.ndim > 1 else g[:15] for g in grads],  # vectors of fifteen entries say nothing
        lambda grads: [g * float("nan") for g in grads],
        lambda grads: [],
    ],
)
def test_elsewhere_there_is_none(kept: Callable[[list[Tensor]], list[Tensor] | float]) -> None:
    assert streams(TensorOps(), kept(gradients(lambda: blocks(nn.ReLU)))) == 0


def test_a_number_is_in_no_stream() -> None:
    assert streams(Ops(), 1.5) == 0


@pytest.mark.parametrize(("added", "expected"), [(0, 0.0), (2, 0.0), (3, 0.5), (4, 1.0), (9, 1.0)])
def test_it_grows_with_the_share_of_vectors_that_are_added(added: int, expected: float) -> None:
    """Of ten vectors, on axes of their own but for ``added`` that are nearly the first axis."""
    axes = torch.eye(16, dtype=torch.float64)
    vectors = [(axes[0] + 0.3 * axes[i]) if i < added else axes[i] for i in range(10)]
    matrices = [torch.ones(12, 12, dtype=torch.float64)] * 7
    assert streams(TensorOps(), [*matrices, *vectors]) == pytest.approx(expected)


@pytest.mark.parametrize("make", [lambda: blocks(nn.ReLU), lambda: row(nn.ReLU)])
def test_processes_that_hold_a_part_each_find_what_one_would(make: Callable[[], nn.Module]) -> None:
    """The first holds all but an entry of vectors of three, and a third of others."""
    whole, barrier, told = gradients(make), Barrier(2), dict[int, list[float]]()

    class Both(Shards):
        def totals(self, numbers: Any, device: torch.device) -> list[float]:
            mine = barrier.wait()
            told[mine] = list(numbers)
            barrier.wait()
            return [a + b for a, b in zip(told[0], told[1], strict=True)]

    def found(parts: list[Tensor]) -> float:
        return streams(ForeachOps(Both(("group",))), parts)

    cut = [2 if len(g) == 3 else len(g) // 3 for g in whole]
    with ThreadPoolExecutor(2) as pool:
        parts = [[g[:n] for g, n in zip(whole, cut, strict=True)], [g[n:] for g, n in zip(whole, cut, strict=True)]]
        assert list(pool.map(found, parts)) == [streams(ForeachOps(), whole)] * 2


def sizes(model: nn.Module, stack: str, told: int | None, steps: int = 2) -> list[float]:
    """Those after some steps, over the root mean square of the weights."""
    optimizer = recopt.Optimizer(model.parameters(), stack, steps=told)
    rms = [min(float(p.detach().square().mean().sqrt()) or 0.085, 0.085) for p in model.parameters()]
    x, y = torch.randn(40, WIDTH), torch.randint(3, (40,))
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return [float(optimizer.state[p]["size"]) / x for p, x in zip(model.parameters(), rms, strict=True)]


@pytest.mark.parametrize("told", [None, 50])
@pytest.mark.parametrize("base", ["mixed", "adam", "factored", "muon"])
def test_the_rate_of_deep_networks_with_such_a_stream_is_as_of_normalized_ones(base: str, told: int | None) -> None:
    """From the second step on, but not where the length of the run is not told."""
    torch.manual_seed(0)
    less = 1.0 if base == "muon" else (6 / 11) ** 2
    for make, steps, factor in ((blocks, 1, less), (blocks, 2, 1.0 if told else less), (row, 3, less)):
        found = sizes(make(nn.ReLU), f"paced(base={base})", told, steps)
        assert found == pytest.approx([0.3 * 6 / 11 * factor] * 22, rel=1e-5)


def test_a_last_layer_of_zeros_hides_no_stream() -> None:
    torch.manual_seed(0)
    model = blocks(nn.ReLU)
    for p in model[-1].parameters():
        nn.init.zeros_(p)
    assert sizes(model, "paced", 50) == pytest.approx([0.3 * 6 / 11] * 22, rel=1e-5)


def test_tasks_that_are_mapped_find_them_as_well() -> None:
    """Seven layers in a row, moved for three tasks at once."""
    layers = "task.hidden=[16,16,16,16,16,16]"
    result = recopt.run("sinusoid", "paced(steps=20)", steps=4, tasks=3, track=False, settings=[layers])
    assert result.status == "FINISHED"
