"""The fused LSTM cell: the plain one's values and derivatives, in pieces, over tasks and at every order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jvp, vmap

from recopt.toolkit import lstm
from recopt.toolkit.blocks import lstm_cell, plain_lstm_cell

# Torch loads its forward-mode formulas with it.
jit_is_deprecated = pytest.mark.filterwarnings("ignore:.torch.jit.script.:DeprecationWarning")

Cell = Callable[..., tuple[Tensor, Tensor]]
HIDDEN, INPUTS = 3, 2
SHAPES = [(INPUTS,), (HIDDEN,), (HIDDEN,)]


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def arguments(n: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x, h, c, weight and bias, as leaves."""
    shapes = [(INPUTS, n), (HIDDEN, n), (HIDDEN, n), (4 * HIDDEN, INPUTS + HIDDEN), (4 * HIDDEN,)]
    return [numbers(*shape, seed=k, dtype=dtype).requires_grad_() for k, shape in enumerate(shapes)]


def score(cell: Cell, x: Tensor, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Two steps, the second from the first's state, so that h and c have gradients from both."""
    after = cell(x, h, c, weight, bias)
    last = cell(x, *after, weight, bias)
    return torch.stack([(t * t.sin()).sum() for t in (*after, *last)]).sum()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lstm, "FEW", 0)
    monkeypatch.setattr(lstm, "COLUMNS", 2)


@pytest.mark.parametrize("n", [0, 1, 4, 9])
def test_values_and_gradients_equal_the_plain_cell_s(n: int) -> None:
    given = arguments(n)
    for a, b in zip(lstm_cell(*given), plain_lstm_cell(*given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    found, expected = (torch.autograd.grad(score(cell, *given), given) for cell in (lstm_cell, plain_lstm_cell))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("moved", [[0], [1], [2], [3], [4], [1, 3], [0, 2, 4]])
@pytest.mark.parametrize("output", [0, 1])
def test_any_part_of_the_gradient_may_be_asked_for(moved: list[int], output: int) -> None:
    given = [a if k in moved else a.detach() for k, a in enumerate(arguments(5))]
    leaves = [given[k] for k in moved]
    found, expected = (
        torch.autograd.grad(cell(*given)[output].square().sum(), leaves) for cell in (lstm_cell, plain_lstm_cell)
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@jit_is_deprecated
def test_derivatives_equal_central_differences_at_first_and_second_order() -> None:
    given = arguments(3)
    assert gradcheck(lstm_cell, given, check_forward_ad=True)
    assert gradgradcheck(lstm_cell, given)


@pytest.mark.parametrize("large", [0, lstm.LARGE], ids=["by oneDNN", "by MKL"])
@pytest.mark.parametrize("columns", [16, 50])
def test_float32_is_as_near_as_float32_can_be(monkeypatch: pytest.MonkeyPatch, columns: int, large: int) -> None:
    monkeypatch.setattr(lstm, "COLUMNS", columns)
    monkeypatch.setattr(lstm, "LARGE", large)
    given, exact = arguments(50, torch.float32), arguments(50)
    for a, b in zip(lstm_cell(*given), plain_lstm_cell(*exact), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-6)
    found = torch.autograd.grad(score(lstm_cell, *given), given)
    for a, b in zip(found, torch.autograd.grad(score(plain_lstm_cell, *exact), exact), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not lstm._wide, reason="needs AVX-512 and a torch with oneDNN")
@pytest.mark.parametrize(
    ("rows", "dtype", "by_mkl"), [(20, torch.float32, 0), (19, torch.float32, 2), (20, torch.float64, 2)]
)
def test_only_large_products_in_float32_are_by_one_dnn(
    monkeypatch: pytest.MonkeyPatch, rows: int, dtype: torch.dtype, by_mkl: int
) -> None:
    a, b = numbers(rows, 50, dtype=dtype), numbers(1000, 50, seed=1, dtype=dtype).T
    multiply, calls = torch.mm, []
    monkeypatch.setattr(torch, "mm", lambda *given, **how: calls.append(given) or multiply(*given, **how))
    out = a.new_empty(rows, 1000)
    for found in (lstm._product(a, b), lstm._product(a, b.contiguous(), out)):
        torch.testing.assert_close(found, a @ b, rtol=1e-5, atol=1e-4)
    assert found is out
    assert len(calls) == by_mkl


@pytest.mark.parametrize("n", [1, 9])
@pytest.mark.parametrize("few", [0, 100], ids=["fused", "plain"])
def test_weights_for_another_number_of_inputs_are_refused(monkeypatch: pytest.MonkeyPatch, few: int, n: int) -> None:
    monkeypatch.setattr(lstm, "FEW", few)
    x, *others = arguments(n)
    for wrong in (torch.cat([x, x]), x[:1]):
        with pytest.raises(ValueError, match="weight has 5 columns, but x and h have"):
            lstm_cell(wrong, *others)


@pytest.mark.parametrize("batched", [(0, 0, 0), (0, None, None), (1, 2, 0)])
def test_mapped_over_tasks_equals_looped_and_so_do_the_gradients(batched: tuple[int | None, ...]) -> None:
    tasks, n = 3, 5
    x, h, c, weight, bias = arguments(n)
    wide = [
        t if d is None else torch.stack([t * (k + 1) for k in range(tasks)], d)
        for t, d in zip((x, h, c), batched, strict=True)
    ]
    together = vmap(lambda *v: lstm_cell(*v, weight, bias), batched)(*wide)
    shares = [[t if d is None else t.select(d, k) for t, d in zip(wide, batched, strict=True)] for k in range(tasks)]
    apart = [torch.stack(found) for found in zip(*(plain_lstm_cell(*s, weight, bias) for s in shares), strict=True)]
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    leaves = [x, h, c, weight, bias]
    found, expected = (
        torch.autograd.grad((out[0].square() + out[1]).sum(), leaves, retain_graph=True) for out in (together, apart)
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_the_weights_may_be_mapped_over_as_well() -> None:
    x, h, c, weight, bias = arguments(4)
    many = torch.stack([weight, 2 * weight])
    together = vmap(lambda w: lstm_cell(x, h, c, w, bias))(many)
    for k, w in enumerate((weight, 2 * weight)):
        for a, b in zip(together, plain_lstm_cell(x, h, c, w, bias), strict=True):
            torch.testing.assert_close(a[k], b, rtol=1e-12, atol=1e-13)


@jit_is_deprecated
def test_it_works_under_torch_s_function_transforms() -> None:
    given = [a.detach() for a in arguments(3)]
    for wrt in (1, 3):
        for transform in (grad, hessian):
            found, expected = (
                transform(lambda *v, cell=cell: score(cell, *v), wrt)(*given) for cell in (lstm_cell, plain_lstm_cell)
            )
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    tangents = tuple(numbers(*a.shape, seed=30 + k) for k, a in enumerate(given))
    found, expected = (jvp(cell, tuple(given), tangents)[1] for cell in (lstm_cell, plain_lstm_cell))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_backward_may_be_repeated_and_leaves_what_it_was_given_alone() -> None:
    given = arguments(7)
    before = [a.detach().clone() for a in given]
    total = score(lstm_cell, *given)
    first = torch.autograd.grad(total, given, retain_graph=True)
    second = torch.autograd.grad(total, given)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


def test_without_gradients_nothing_is_kept() -> None:
    given = arguments(9)
    with torch.no_grad():
        out = lstm._Cell.apply(torch.is_grad_enabled(), *given)
    assert len(out) == 2
    assert all(torch.equal(a, b) for a, b in zip(out, lstm_cell(*given), strict=True))
