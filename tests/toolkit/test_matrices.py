"""Orthogonalized steps: all rounds on the square of the shorter side, and many matrices together, change no result."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recopt.toolkit.blocks import orthogonalize
from recopt.toolkit.matrices import orthogonal_steps

SHAPES = [(2, 4), (4, 2), (12, 24), (30, 7), (3, 100), (5, 5), (5, 9), (9, 5), (2, 3, 5, 20), (1, 8)]


def plain(x: Tensor, rounds: int = 5) -> Tensor:
    """The iteration as it is written by Jordan et al. 2024, round after round on X."""
    if x.shape[-2] > x.shape[-1]:
        return plain(x.mT, rounds).mT
    x = x / x.square().sum((-2, -1), keepdim=True).clamp(min=1e-36).sqrt()
    for _ in range(rounds):
        square = x @ x.mT
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    return x


def matrix(shape: tuple[int, ...], kind: str) -> Tensor:
    """A matrix whose singular values, but for those of ``random``, are what ``kind`` says."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    n = values.shape[-1]
    of_kind = {
        "random": values, "zero": torch.zeros(n), "rank one": torch.eye(n)[0], "half": torch.arange(n) < max(n // 2, 1),
        "down to 1e-3": torch.logspace(0, -3, n), "down to 1e-6": torch.logspace(0, -6, n),
        "one and 1e-6": torch.eye(n)[0].clamp(min=1e-6),
    }  # fmt: skip
    found: Tensor = left * of_kind[kind].double().unsqueeze(-2) @ right
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["random", "zero", "rank one", "half", "down to 1e-3", "down to 1e-6", "one and 1e-6"])
def test_rounds_on_the_square_of_the_shorter_side_end_where_rounds_on_the_matrix_do(
    shape: tuple[int, ...], kind: str
) -> None:
    x = 1e3 * matrix(shape, kind)
    torch.testing.assert_close(orthogonalize(x), plain(x), rtol=0, atol=1e-11)
    x = x.float()
    apart = torch.linalg.matrix_norm(orthogonalize(x).double() - plain(x.double()), 2)
    assert float(apart.max()) < 0.005  # of singular values near 1


@pytest.mark.parametrize("rounds", [0, 1, 4, 12])
@pytest.mark.parametrize("shape", [(6, 14), (14, 6), (6, 7), (7, 6)])
def test_any_number_of_rounds(shape: tuple[int, ...], rounds: int) -> None:
    x = matrix(shape, "down to 1e-3")
    torch.testing.assert_close(orthogonalize(x, rounds), plain(x, rounds), rtol=0, atol=1e-10)
    apart = orthogonalize(x.float(), rounds).double() - plain(x.float().double(), rounds)
    assert float(torch.linalg.matrix_norm(apart, 2)) < 0.005


@pytest.mark.parametrize("setting", ["high", "apart", "autocast", "bfloat16"])
def test_products_rounded_more_coarsely_are_taken_afresh_in_each_round(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TF32 and bfloat16 leave errors in the square that five rounds on it would make larger than 1."""

    def precision() -> str:
        if setting == "apart":
            raise RuntimeError("set for each backend")
        return setting

    x = matrix((16, 64), "down to 1e-3")
    if setting in ("high", "apart"):
        monkeypatch.setattr(torch, "get_float32_matmul_precision", precision)
        torch.testing.assert_close(orthogonalize(x.float()).double(), plain(x.float().double()), rtol=0, atol=2e-5)
        return
    with torch.autocast("cpu", torch.bfloat16, enabled=setting == "autocast"):
        found = orthogonalize(x.to(torch.bfloat16 if setting == "bfloat16" else torch.float32)).double()
    assert float(torch.linalg.matrix_norm(found - plain(x), 2)) < 0.5


@pytest.mark.parametrize("shape", [(2, 5), (5, 2), (3, 4), (4, 3), (2, 2, 4)])
def test_its_derivatives_are_central_differences(shape: tuple[int, ...]) -> None:
    x = matrix(shape, "random").requires_grad_()
    before = x.detach().clone()
    assert torch.autograd.gradcheck(orthogonalize, x)
    assert torch.autograd.gradgradcheck(orthogonalize, x)
    assert torch.equal(x.detach(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("together", [1, 1 << 17])
def test_steps_of_many_matrices_are_those_of_each_alone(
    dtype: torch.dtype, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recopt.toolkit.matrices.TOGETHER", together)
    shapes = [(4, 9), (9, 4), (4, 9), (3, 3), (4, 3, 3), (3, 3), (16, 2, 2, 2), (64, 48), (64, 48), (20, 90), (20, 90)]
    draw = torch.Generator().manual_seed(0)
    means = [torch.randn(s, generator=draw, dtype=dtype) for s in shapes]
    means[2] = means[2].float()
    for original in (False, True):
        found = orthogonal_steps(means, original)
        for step, mean in zip(found, means, strict=True):
            rows, columns = mean.flatten(1).shape
            factor = max(1.0, rows / columns) ** 0.5 if original else 0.2 * max(rows, columns) ** 0.5
            assert step.shape == mean.shape and step.dtype == mean.dtype and step.is_contiguous()
            assert torch.equal(step, orthogonal_steps([mean], original)[0])
            wanted = factor * plain(mean.double().flatten(1)).view_as(mean)
            torch.testing.assert_close(
                step.double(), wanted, rtol=0, atol=0.01 if step.dtype != torch.float64 else 1e-9
            )
    assert orthogonal_steps([]) == []


def test_steps_are_differentiated_and_mapped_like_each_alone() -> None:
    means = [matrix(s, "random") for s in [(3, 7), (3, 7), (4, 4)]]
    assert torch.autograd.gradcheck(lambda *m: tuple(orthogonal_steps(list(m))), [m.requires_grad_() for m in means])
    batch = torch.stack([m.detach() for m in means[:2]])
    mapped = torch.func.vmap(lambda m: orthogonal_steps([m, 2 * m])[1])(batch)
    torch.testing.assert_close(mapped, torch.stack(orthogonal_steps(list(batch))), rtol=1e-12, atol=1e-13)
