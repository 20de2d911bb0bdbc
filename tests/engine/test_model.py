"""Patched modules: functions of their parameters and buffers."""

from __future__ import annotations

import torch
from torch import nn

from recopt.engine.model import Patched


def test_values_in_the_order_of_parameters_and_buffers_untouched() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = [b.clone() for b in module.buffers()]
    patched = Patched(module)
    values = [torch.randn_like(p).requires_grad_() for p in module.parameters()]
    buffers = [b.clone() + 1 for b in module.buffers()]
    kept = [b.clone() for b in buffers]
    x = torch.randn(5, 2)
    out = patched.load(values, buffers)(x)
    expected = torch.func.functional_call(
        module,
        dict(zip([n for n, _ in module.named_parameters()], values, strict=True))
        | dict(zip([n for n, _ in module.named_buffers()], [b.clone() for b in kept], strict=True)),
        (x,),
    )
    torch.testing.assert_close(out, expected)
    assert all(torch.equal(a, b) for a, b in zip(buffers, kept, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(module.buffers(), before, strict=True))
    assert not torch.equal(patched.buffers()[0], kept[0])
    assert len(torch.autograd.grad(out.pow(2).sum(), values)) == 4


def test_shared_weights_are_one_value() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x))  # type: ignore[no-any-return]

    weight = torch.randn(2, 2, requires_grad=True)
    x = torch.randn(3, 2)
    torch.testing.assert_close(Patched(Tied()).load([weight])(x), x @ weight.T @ weight.T)


def test_a_patched_module_can_be_loaded_many_times() -> None:
    patched = Patched(nn.Linear(1, 1, bias=False))
    for k in range(4):
        assert float(patched.load([torch.full((1, 1), float(k))])(torch.ones(1, 1))) == k
