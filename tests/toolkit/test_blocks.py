"""What learned strategies are built of, against torch and by what it promises."""

from __future__ import annotations

import math

import torch

from recopt.toolkit.blocks import cosine, flatten, inner, log_and_sign, log_ratio, orthogonalize, tanh, unflatten

from ..rules import numbers


def test_blocks() -> None:
    parts = [numbers(2, 3), numbers(4), numbers()]
    assert all(torch.equal(a, b) for a, b in zip(unflatten(flatten(parts), parts), parts, strict=True))
    torch.testing.assert_close(tanh(parts[0]), torch.tanh(parts[0]))
    for shape in ((5, 9), (9, 5), (2, 4, 4)):
        values = torch.linalg.svdvals(orthogonalize(numbers(*shape)))
        assert values.min() > 0.5 and values.max() < 1.3
    assert cosine(parts[1], torch.zeros(4, dtype=torch.float64)) == 0
    assert log_ratio(torch.zeros(()), torch.zeros(())) == 0
    torch.testing.assert_close(inner(parts, [*parts[:2], -parts[2]]), flatten(parts) @ flatten([*parts[:2], -parts[2]]))


def test_numbers_of_any_size_are_seen_as_logarithm_and_sign() -> None:
    log, sign = log_and_sign(torch.tensor([0.0, 1.0, -1e-3, math.exp(-11)], dtype=torch.float64))
    assert log.tolist() == [-1.0, 0.0, math.log(1e-3) / 10, -1.0]
    assert sign.tolist() == [0.0, 1.0, -1.0, math.exp(10) * math.exp(-11)]
