"""Odd classes, lazy and scripted modules, odd numerics."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn
from torch.utils.checkpoint import checkpoint

from . import Wrap, add
from .layers import mlp


class Base(nn.Module, ABC):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(6, 2)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...


class Concrete(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.own(x)


class Slots(nn.Module):
    __slots__ = ("factor",)

    def __init__(self) -> None:
        super().__init__()
        self.factor, self.own = 2.0, nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.own(x)


class Passing(nn.Module):
    """Gives the attributes of what it wraps."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 2)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x: Tensor) -> Tensor:
        return fn.linear(x, self.weight, self.bias)


class Calling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(6, 2)

    def __call__(self, x: Tensor) -> Tensor:
        return self.own(x)


class Properties(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.ones(6, 2))

    @property
    def weight(self) -> Tensor:
        return fn.softplus(self.raw)

    def forward(self, x: Tensor, *, params: Any = None) -> Tensor:
        return x @ self.weight


def rooted(m: Any, x: Tensor) -> Tensor:
    return m.root(x)


add(
    "odd classes",
    abstract=Concrete,
    slots=Slots,
    passing=Passing,
    calling=Calling,
    properties=Properties,
    root=lambda: Wrap(rooted, root=nn.Linear(6, 2)),
    is_root=lambda: Wrap(lambda m, x: m.is_root(x), is_root=nn.Linear(6, 2)),
    model=lambda: Wrap(lambda m, x: m.model(x), model=nn.Linear(6, 2)),
    module=lambda: Wrap(lambda m, x: m.module(x), module=nn.Linear(6, 2)),
    wrapped_in_parallel=lambda: nn.DataParallel(mlp()),
)

add(
    "lazy",
    linear=lambda: nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.LazyLinear(2)),
    batch_norm=lambda: nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Linear(4, 2)),
    dropout=lambda: nn.Sequential(nn.LazyLinear(8), nn.Dropout(0.3), nn.LazyLinear(2)),
)
add(
    "lazy",
    "image",
    convolution=lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)),
    transposed=lambda: nn.LazyConvTranspose2d(2, 3),
)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)[0]


def scripted(make: Any, trace: Tensor | None = None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is to be deprecated
        return torch.jit.script(make()) if trace is None else torch.jit.trace(make(), trace)


add(
    "scripted",
    root=partial(scripted, mlp),
    traced=lambda: scripted(mlp, torch.ones(4, 6)),
    part=lambda: nn.Sequential(scripted(mlp), nn.Linear(3, 2)),
    normed=partial(scripted, lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))),
)
add("scripted", "sequence", recurrent=partial(scripted, Recurrent))
add("scripted", "image", convolution=partial(scripted, lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())))


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def routed(m: Any, x: Tensor) -> Tensor:
    return torch.stack([m.a(row) if float(row.detach().sum()) > 0 else m.b(row) for row in x])


def solved(m: Any, x: Tensor) -> Tensor:
    return torch.linalg.solve(m.a @ m.a.mT + torch.eye(6, dtype=x.dtype), x.mT).mT


def low_rank(m: Any, x: Tensor) -> Tensor:
    return m.base(x) + x @ m.down @ m.up


def generated(m: Any, x: Tensor) -> Tensor:
    made = m.maker(m.z)
    return torch.func.functional_call(m.skeleton[0], {"weight": made[:12].view(2, 6), "bias": made[12:]}, (x,))


def experts(m: Any, x: Tensor) -> Tensor:
    return torch.einsum("be,beo->bo", m.gate(x).softmax(-1), torch.einsum("bi,eio->beo", x, m.w))


def recomputed(m: Any, x: Tensor, reentrant: bool = False) -> Tensor:
    return m.head(checkpoint(m.body, x.requires_grad_() if reentrant else x, use_reentrant=reentrant))


def ode(m: Any, x: Tensor) -> Tensor:
    for _ in range(4):
        x = x + 0.25 * torch.tanh(m.f(x))
    return x


add(
    "odd numerics",
    fourier=lambda: Wrap(lambda m, x: m.h(torch.fft.rfft(x).abs()), h=nn.Linear(4, 2)),
    complex=lambda: Wrap(
        lambda m, x: (torch.complex(x @ m.re, x @ m.im) ** 2).abs(),
        re=nn.Parameter(torch.ones(6, 2)),
        im=nn.Parameter(torch.full((6, 2), 0.3)),
    ),
    einsum=lambda: Wrap(lambda m, x: torch.einsum("bi,ij,bj->bi", x, m.w, x), w=nn.Parameter(torch.eye(6))),
    distances=lambda: Wrap(lambda m, x: torch.cdist(x, m.c), c=nn.Parameter(torch.ones(3, 6))),
    cosine=lambda: Wrap(lambda m, x: fn.cosine_similarity(m.a(x), x).unsqueeze(1), a=nn.Linear(6, 6)),
    straight_through=lambda: Wrap(lambda m, x: m.b(Straight.apply(m.a(x))), a=nn.Linear(6, 4), b=nn.Linear(4, 2)),
    routed=lambda: Wrap(routed, a=nn.Linear(6, 2), b=nn.Linear(6, 2)),
    solved=lambda: Wrap(solved, a=nn.Parameter(torch.eye(6))),
    low_rank=lambda: Wrap(
        low_rank,
        base=nn.Linear(6, 2).requires_grad_(False),
        down=nn.Parameter(torch.ones(6, 1)),
        up=nn.Parameter(torch.zeros(1, 2)),
    ),
    generated=lambda: Wrap(
        generated, maker=nn.Linear(3, 14), z=nn.Parameter(torch.ones(3)), skeleton=(nn.Linear(6, 2),)
    ),
    experts=lambda: Wrap(experts, gate=nn.Linear(6, 3), w=nn.Parameter(torch.ones(3, 6, 2))),
    recomputed=lambda: Wrap(recomputed, body=mlp(), head=nn.Linear(3, 2)),
    recomputed_reentrant=lambda: Wrap(partial(recomputed, reentrant=True), body=mlp(), head=nn.Linear(3, 2)),
    flow=lambda: Wrap(ode, f=nn.Linear(6, 6)),
    sorted=lambda: Wrap(lambda m, x: m.a(x).sort(-1).values, a=mlp()),
)
