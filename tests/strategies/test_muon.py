"""Muon: torch's own for matrices and kernels, torch's Adam for the rest, and what its one rate allows."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt.rules.columns import CHUNK
from recopt.testing import assert_conforms

from ..analytic import InPlace, Taped, flat, made, random


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    kernel, head = nn.Conv2d(2, 3, 3), nn.Linear(12, 5)
    return nn.Sequential(kernel, nn.Tanh(), nn.Flatten(), head, nn.Tanh(), nn.Linear(5, 1)).to(dtype)


def train(model: nn.Module, optimizers: list[Any], steps: int = 30, first: int = 0) -> None:
    for step in range(first, first + steps):
        x = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        model.zero_grad()
        p = next(model.parameters())
        (model(x.to(p)) - x.to(p).sum((1, 2, 3)).sin()[:, None]).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()


class Flat(torch.optim.Muon):
    """Torch's Muon, which takes nothing but matrices, on kernels as matrices."""

    def __init__(self, kernels: list[nn.Parameter], **settings: Any) -> None:
        self.kernels = kernels
        super().__init__([nn.Parameter(k.detach().flatten(1)) for k in kernels], **settings)

    def step(self, closure: Any = None) -> None:
        for kernel, p in zip(self.kernels, self.param_groups[0]["params"], strict=True):
            assert kernel.grad is not None
            p.grad, p.data = kernel.grad.flatten(1), kernel.data.view_as(p)
        super().step()


def torchs(model: nn.Module, decay: float, **settings: Any) -> list[Any]:
    """Torch's Muon for kernel and matrix, its AdamW for the rest, among it the matrix of one row."""
    many = [p for p in model.parameters() if p.ndim > 1 and len(p) > 1]
    rest = [p for p in model.parameters() if p.ndim == 1 or len(p) == 1]
    assert len(many) == 2 and len(rest) == 4
    return [Flat(many, lr=0.02, weight_decay=decay, **settings), torch.optim.AdamW(rest, lr=0.02, weight_decay=decay)]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ("", {"adjust_lr_fn": "match_rms_adamw"}),
        (",nesterov=false,momentum=0.8,adjust_lr_fn=original", {"nesterov": False, "momentum": 0.8}),
        (",weight_decay=0.3", {"adjust_lr_fn": "match_rms_adamw"}),
    ],
)
def test_it_is_torch_s_muon_and_adam(
    settings: str, theirs: dict[str, Any], fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, twin, rough = network(), network(), network()
    train(ours, [recopt.Optimizer(ours.parameters(), f"muon(lr=0.02{settings})", fused=fused)])
    decay = 0.3 if "weight_decay" in settings else 0.0
    train(rough, torchs(rough, decay, **theirs))
    with monkeypatch.context() as exact:  # theirs multiplies in bfloat16
        exact.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
        train(twin, torchs(twin, decay, **theirs))
    for a, b, c in zip(ours.parameters(), twin.parameters(), rough.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(a, c, rtol=0, atol=0.03)


@pytest.mark.parametrize("text", ["muon", "muon(weight_decay=0.1,nesterov=false)"])
def test_in_place_it_is_its_forward_and_so_it_is_in_stretches(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = made(text)
    tensors, columns, parts = Taped(rule), InPlace(rule), InPlace(rule)
    for step in range(20):
        grads = random(step + 1)
        with torch.no_grad():
            tensors.step(grads)
        columns.step(grads)
        monkeypatch.setattr("recopt.rules.columns.CHUNK", 5)
        parts.step(grads)
        monkeypatch.setattr("recopt.rules.columns.CHUNK", CHUNK)
        torch.testing.assert_close(flat(columns.point), flat(tensors.point), rtol=1e-12, atol=1e-13)
        assert all(torch.equal(a, b) for a, b in zip(columns.point, parts.point, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [1e-7, 1e6])
def test_the_scale_of_the_loss_changes_nothing(size: float, dtype: torch.dtype) -> None:
    ends = []
    for factor in (1.0, size):
        point = [nn.Parameter(p.to(dtype)) for p in random(0, [(4, 6), (5, 2, 2)])]
        optimizer = recopt.Optimizer(point, "muon(eps=0)")
        for step in range(10):
            for p, g in zip(point, random(step + 1, [(4, 6), (5, 2, 2)]), strict=True):
                p.grad = (factor * g).to(dtype)
            optimizer.step()
        ends.append(flat(point))
    tight = {"rtol": 1e-9, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-5}
    torch.testing.assert_close(*ends, **tight)


@pytest.mark.parametrize("above", ["sgd", "kesten[lr]", "sgd[*]"])
def test_a_level_above_does_in_place_what_it_does_by_a_tape(above: str) -> None:
    """Exact derivatives by the rate, closed or taped, make the same run."""
    ends = []
    for fused in (True, False):
        model = network()
        optimizer = recopt.Optimizer(model.parameters(), f"muon(lr=0.01)/{above}", fused=fused)
        train(model, [optimizer])
        ends.append((flat(model.parameters()), optimizer.hyperparameters()["muon.lr"]))
    (one, rate), (other, taped) = ends
    assert rate == pytest.approx(taped, rel=1e-7) and rate != pytest.approx(0.01, rel=1e-2)
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_a_saved_run_goes_on_bit_for_bit() -> None:
    whole, parted = network(torch.float32), network(torch.float32)
    train(whole, [recopt.Optimizer(whole.parameters(), "muon/sgd")], 20)
    first = recopt.Optimizer(parted.parameters(), "muon/sgd")
    train(parted, [first], 8)
    second = recopt.Optimizer(parted.parameters(), "muon/sgd")
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(parted, [second], 12, 8)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parted.parameters(), strict=True))


def test_groups_give_embeddings_and_heads_to_adam() -> None:
    model, twin = network(), network()
    groups = [{"params": list(model[:4].parameters())}, {"params": list(model[4:].parameters()), "stack": "adam"}]
    train(model, [recopt.Optimizer(groups, "muon(lr=0.001)")])
    body, head = list(twin[:4].parameters()), list(twin[4:].parameters())
    train(twin, [recopt.Optimizer(body, "muon(lr=0.001)"), torch.optim.Adam(head, lr=1e-3)])
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "settings", [{}, {"nesterov": False, "weight_decay": 0.1}, {"adjust_lr_fn": "original", "momentum": 0}]
)
def test_it_conforms(settings: dict[str, Any]) -> None:
    """Derivatives by every hyperparameter and through an unroll against central differences, among others."""
    kind = type(made("muon", plain=False))
    assert_conforms(lambda: kind(**settings))


def test_a_step_turns_a_matrix_by_about_one_in_all_directions() -> None:
    step = Tensor([[1e-4, 0.0, 0.0], [0.0, 5.0, 0.0]]).double() @ torch.linalg.qr(random(1, [(3, 3)])[0])[0]
    point = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
    point.grad = step + 0.2 * random(2, [(2, 3)])[0]
    recopt.Optimizer([point], "muon(lr=1)", guard=False).step()
    values = torch.linalg.svdvals(point.detach()) / (0.2 * 3**0.5)
    assert float(values.min()) > 0.65 and float(values.max()) < 1.25
