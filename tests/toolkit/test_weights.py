"""Embeddings, told from layers by their size before training."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt.toolkit.weights import embedding_shares, trained_share

WIDTH, TOKENS = 64, 30


def table(rows: int, std: float, *, ahead: tuple[int, ...] = ()) -> Tensor:
    return std * torch.randn(*ahead, rows, WIDTH, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)


def layer(outputs: int, inputs: int) -> Tensor:
    torch.manual_seed(outputs)
    return nn.Linear(inputs, outputs, dtype=torch.float64).weight.detach()


def norm() -> list[Tensor]:
    return [torch.ones(WIDTH, dtype=torch.float64), torch.zeros(WIDTH, dtype=torch.float64)]


def rms(tensor: Tensor) -> float:
    return float(tensor.square().mean().sqrt())


def test_small_embeddings_count_as_of_one_size_and_wide_layers_move_less() -> None:
    first, second = table(TOKENS, 0.02), table(20, 0.01)
    layers = [layer(WIDTH, WIDTH), layer(16, WIDTH), layer(WIDTH, 256)]
    shares = embedding_shares([first, second, *norm(), *layers])
    assert shares == pytest.approx([0.17 / rms(first), 0.17 / rms(second), 1, 1, 0.5**0.5, 1, 0.5**0.5])


def test_large_embeddings_count_as_of_that_size_as_well_and_layers_beside_them_move_as_ever() -> None:
    point = [table(TOKENS, 1.0), table(20, 5.0), *norm(), layer(WIDTH, WIDTH), layer(16, WIDTH), layer(WIDTH, 256)]
    assert embedding_shares(point) == pytest.approx([0.17 / 0.085] * 2 + [1.0] * 5)


def test_layers_move_as_ever_where_nothing_normalizes() -> None:
    first = table(TOKENS, 0.02)
    assert embedding_shares([first, layer(WIDTH, WIDTH), layer(16, WIDTH)]) == pytest.approx([0.17 / rms(first), 1, 1])


def test_a_last_matrix_of_a_row_for_each_symbol_moves_twice_as_far() -> None:
    """Not another matrix of as many rows, and not a last one of other rows."""
    first, inner, head = table(TOKENS, 1.0), layer(TOKENS, WIDTH), layer(TOKENS, WIDTH)
    assert embedding_shares([first, inner, layer(WIDTH, TOKENS), head]) == pytest.approx([2, 1, 1, 2])
    assert embedding_shares([first, inner, layer(WIDTH, TOKENS)]) == pytest.approx([2, 1, 1])
    zeros, places = torch.zeros(TOKENS, WIDTH, dtype=torch.float64), table(20, 1.0)
    assert embedding_shares([first, layer(WIDTH, WIDTH), layer(WIDTH, WIDTH), zeros]) == pytest.approx([2, 1, 1, 2])
    assert embedding_shares([first, places, *[layer(WIDTH, WIDTH)] * 3, layer(20, WIDTH)])[-1] == 1
    wide = [table(40, 0.02), *norm(), layer(WIDTH, WIDTH), layer(40, WIDTH)]
    assert embedding_shares(wide)[-1] == pytest.approx(2 * (32 / 40) ** 0.5)


def test_the_factors_are_nearer_to_one_as_far_as_the_network_is_trained() -> None:
    """A direction stands out of some of the entries; the last matrix has as many rows as the embedding."""
    first, (left, right) = table(WIDTH, 0.02), (table(1, 1.0).T, table(1, 1.0))
    grown = [layer(WIDTH, WIDTH) + 0.05 * left @ right, layer(16, WIDTH)]
    point = [first, *norm(), *grown, *(layer(WIDTH, 40) for _ in range(2))]
    share = trained_share(point)
    fresh = 1 + math.log10(share)
    assert 0.3 < fresh < 0.8
    shares = embedding_shares(point)
    assert shares == pytest.approx(
        [(0.17 / rms(first)) ** fresh, 1, 1, 0.5 ** (fresh / 2), 1, 0.8 ** (fresh / 2), 2**fresh * 0.8 ** (fresh / 2)]
    )


def test_places_of_one_sequence_are_a_table_as_well_and_zeros_are_passed_over() -> None:
    token, places = table(1, 0.02, ahead=(1,)), table(9, 0.02, ahead=(1,))
    zeros = torch.zeros(1, 9, WIDTH, dtype=torch.float64)
    shares = embedding_shares([zeros, token, places, layer(WIDTH, WIDTH), layer(WIDTH, 256), layer(10, WIDTH), *norm()])
    assert shares == pytest.approx([1, 0.17 / rms(token), 0.17 / rms(places), 0.5**0.5, 0.5**0.5, 1, 1, 1])


@pytest.mark.parametrize(
    "point",
    [
        lambda: [table(TOKENS, 0.1), *norm(), layer(WIDTH, WIDTH), layer(16, WIDTH)],  # about as large as a layer
        lambda: [layer(WIDTH, WIDTH), *norm(), layer(WIDTH, WIDTH), table(10, 0.001)],  # a last layer, not the first
        lambda: [table(TOKENS, 0.02), *norm(), table(WIDTH, 0.02), layer(16, WIDTH)],  # most matrices begin small
        lambda: [table(TOKENS, 0.02)],
        lambda: [torch.zeros(TOKENS, WIDTH), *norm()],
        norm,
        lambda: [],
    ],
)
def test_elsewhere_all_is_as_it_was(point: Callable[[], list[Tensor]]) -> None:
    assert embedding_shares(point()) == [1.0] * len(point())


def test_a_network_of_layers_alone_has_no_embeddings() -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64), nn.Linear(2304, 10)
    point = [p.detach() for p in nn.Sequential(*layers).parameters()]
    assert embedding_shares(point) == [1.0] * len(point)


@pytest.mark.parametrize("base", ["mixed", "adam", "factored", "muon"])
def test_the_first_step_is_as_long_as_that_says(base: str) -> None:
    """With gradients of ones, Adam's step is the rate: 0.3 · 0.17 of an embedding, and at its start 1 / 20 of that."""
    point = [nn.Parameter(p) for p in (table(TOKENS, 0.02), *norm(), layer(WIDTH, WIDTH), layer(16, WIDTH))]
    before = [p.detach().clone() for p in point]
    optimizer = recopt.Optimizer(point, f"paced(base={base})")
    for p in point:
        p.grad = torch.ones_like(p)
    optimizer.step()
    sizes = [0.3 * 0.17, 0.3 * 0.085, 0.3 * 0.085, 0.3 * rms(before[3]) * 0.5**0.5, 0.3 * rms(before[4])]
    if base in ("adam", "factored"):
        moved = [float((p.detach() - q).abs().mean()) for p, q in zip(point, before, strict=True)]
        assert moved == pytest.approx([size / 20 for size in sizes], rel=1e-4)
    assert [float(optimizer.state[p]["size"]) for p in point] == pytest.approx(sizes)
