"""Draws for zero-order strategies: from the given generator only, the same in every dtype, in each tensor's unit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator

from recopt.toolkit.random import chance, normal, spreads, uniform

POINT = [torch.zeros(()), torch.zeros(3), torch.zeros(2, 1, 4), torch.zeros(0)]


@pytest.mark.parametrize("draw", [normal, uniform])
def test_draws_have_the_shapes_and_dtypes_of_the_point_and_the_same_values(draw: type) -> None:
    single = draw(POINT, Generator().manual_seed(5))
    double = draw([p.double() for p in POINT], Generator().manual_seed(5))
    for p, a, b in zip(POINT, single, double, strict=True):
        assert (a.shape, a.dtype) == (p.shape, torch.float32)
        assert b.dtype == torch.float64
        assert torch.equal(a, b.float())


def test_nothing_is_drawn_from_torchs_own_generator() -> None:
    before = torch.get_rng_state()
    rng = Generator().manual_seed(0)
    first = (normal(POINT, rng), uniform(POINT, rng), chance(POINT[0], rng))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first[0][1], normal(POINT, rng)[1])


def test_uniform_fills_the_box_and_chance_the_unit_interval() -> None:
    rng = Generator().manual_seed(0)
    drawn = uniform([torch.zeros(20000)], rng)[0]
    assert drawn.min() >= -1
    assert drawn.max() <= 1
    assert drawn.std() == pytest.approx(1 / math.sqrt(3), rel=0.03)
    assert 0 <= chance(POINT[0], rng) <= 1


def test_spreads_are_one_for_a_coordinate_and_the_size_of_a_tensor() -> None:
    point = [torch.tensor(-9.0), torch.full((100, 10), 0.2), torch.zeros(10), torch.full((1,), 1e-9)]
    found = [float(s) for s in spreads(point)]
    assert found[:2] == pytest.approx([1.0, 0.2])
    # No bias is left at a standstill: at least a tenth of the root mean square of all.
    assert found[2:] == pytest.approx([0.1 * 0.2 * math.sqrt(1000 / 1011)] * 2)


def test_spreads_of_zeros_are_those_of_an_initial_layer() -> None:
    point = [torch.zeros(10, 64), torch.zeros(10), torch.zeros(8, 3, 3, 3), torch.zeros(0), torch.zeros(())]
    assert [float(s) for s in spreads(point)] == pytest.approx([1 / 8, 1.0, 1 / math.sqrt(27), 1.0, 1.0])
    assert all(s.ndim == 0 and s.isfinite() for s in spreads(point))


def test_spreads_carry_no_graph() -> None:
    assert not any(s.requires_grad for s in spreads([torch.ones(3, requires_grad=True)]))
