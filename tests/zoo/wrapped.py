"""Parametrizations, legacy norms, pruning, hooks, containers, references, shared and frozen parts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations as ps
from torch.nn.utils import parametrize, prune

from . import Wrap, add
from .layers import mlp


def with_(change: Callable[[Any], object], make: Callable[[], nn.Module] = mlp) -> nn.Module:
    """A model after ``change``."""
    made = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is to be deprecated
        change(made)
    return made


class Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.triu() + w.triu(1).mT


class Positive(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.exp()


def square() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))


reg = parametrize.register_parametrization
add(
    "parametrizations",
    weight_norm=lambda: with_(lambda m: ps.weight_norm(m[0])),
    spectral_norm=lambda: with_(lambda m: ps.spectral_norm(m[0])),
    orthogonal=lambda: with_(lambda m: ps.orthogonal(m[0]), square),
    symmetric=lambda: with_(lambda m: reg(m[0], "weight", Symmetric()), square),
    positive=lambda: with_(lambda m: reg(m[2], "weight", Positive())),
    of_a_bias=lambda: with_(lambda m: reg(m[0], "bias", Positive())),
    two=lambda: with_(lambda m: (reg(m[0], "weight", Symmetric()), reg(m[0], "weight", Positive())), square),
    removed=lambda: with_(
        lambda m: (reg(m[0], "weight", Symmetric()), parametrize.remove_parametrizations(m[0], "weight")), square
    ),
)

norms = nn.utils
add(
    "legacy norms",
    weight=lambda: with_(lambda m: norms.weight_norm(m[0])),
    weight_of_rows=lambda: with_(lambda m: norms.weight_norm(m[0], dim=1)),
    weight_of_all=lambda: with_(lambda m: norms.weight_norm(m[0], dim=None)),
    spectral=lambda: with_(lambda m: norms.spectral_norm(m[0])),
    both=lambda: with_(lambda m: (norms.weight_norm(m[0]), norms.spectral_norm(m[2]))),
    removed=lambda: with_(lambda m: (norms.weight_norm(m[0]), norms.remove_weight_norm(m[0]))),
)
add(
    "legacy norms",
    "sequence",
    recurrent=lambda: Wrap(
        lambda m, x: m.c(x)[0],
        c=with_(lambda m: norms.weight_norm(m, "weight_hh_l0"), lambda: nn.LSTM(6, 3, batch_first=True)),
    ),
)

add(
    "pruning",
    magnitude=lambda: with_(lambda m: prune.l1_unstructured(m[0], "weight", 0.4)),
    random=lambda: with_(lambda m: prune.random_unstructured(m[0], "weight", 0.4)),
    structured=lambda: with_(lambda m: prune.ln_structured(m[0], "weight", 0.4, n=2, dim=0)),
    bias=lambda: with_(lambda m: prune.l1_unstructured(m[0], "bias", 2)),
    twice=lambda: with_(
        lambda m: (prune.l1_unstructured(m[0], "weight", 3), prune.random_unstructured(m[0], "weight", 3))
    ),
    everywhere=lambda: with_(
        lambda m: prune.global_unstructured([(m[0], "weight"), (m[2], "weight")], prune.L1Unstructured, amount=0.3)
    ),
    removed=lambda: with_(lambda m: (prune.l1_unstructured(m[0], "weight", 3), prune.remove(m[0], "weight"))),
)


def on_activations(m: Any) -> None:
    m[0].register_forward_hook(lambda module, given, out: out.register_hook(lambda g: 0.5 * g) and None)


def clip(p: Tensor) -> None:
    p.grad.clamp_(-0.05, 0.05)


add(
    "hooks",
    forward=lambda: with_(lambda m: m[0].register_forward_hook(lambda module, given, out: 2 * out)),
    pre=lambda: with_(lambda m: m[2].register_forward_pre_hook(lambda module, given: (given[0] + 1,))),
    with_keywords=lambda: with_(
        lambda m: m.register_forward_pre_hook(lambda module, given, named: ((given[0] * 2,), named), with_kwargs=True)
    ),
    full_backward=lambda: with_(lambda m: m[2].register_full_backward_hook(lambda module, into, out: (0.5 * into[0],))),
    backward_pre=lambda: with_(lambda m: m[2].register_full_backward_pre_hook(lambda module, out: (2 * out[0],))),
    on_a_parameter=lambda: with_(lambda m: m[0].weight.register_hook(lambda g: g.clamp(-0.05, 0.05))),
    on_activations=lambda: with_(on_activations),
    after_accumulation=lambda: with_(lambda m: m[0].weight.register_post_accumulate_grad_hook(clip)),
    removed=lambda: with_(lambda m: m[0].register_forward_hook(lambda module, given, out: 2 * out).remove()),
)


class Listed(nn.ModuleList):
    def own_loss(self, x: Tensor) -> Tensor:
        for layer in self:
            x = torch.tanh(layer(x))
        return (x - 0.3).square().mean()


class Named(nn.ModuleDict):
    def own_loss(self, x: Tensor) -> Tensor:
        return (self["b"](torch.tanh(self["a"](x))) - 0.3).square().mean()


def bare() -> nn.Module:
    made: Any = nn.Module()
    made.part = nn.Module()
    made.part.own = nn.Linear(6, 3)
    return Wrap(lambda m, x: m.held.part.own(x), held=made)


add(
    "containers",
    list_root=lambda: Listed([nn.Linear(6, 5), nn.Linear(5, 2)]),
    dict_root=lambda: Named({"a": nn.Linear(6, 5), "b": nn.Linear(5, 2)}),
    bare=bare,
    nested=lambda: nn.Sequential(nn.Sequential(nn.Sequential(mlp()))),
    identity=lambda: nn.Sequential(nn.Identity(), mlp()),
    list=lambda: Wrap(
        lambda m, x: sum(layer(x) for layer in m.many), many=nn.ModuleList([nn.Linear(6, 2), nn.Linear(6, 2)])
    ),
    dict=lambda: Wrap(lambda m, x: m.many["one"](x), many=nn.ModuleDict({"one": nn.Linear(6, 2)})),
    parameter_list=lambda: Wrap(
        lambda m, x: sum(x @ w for w in m.ws), ws=nn.ParameterList([torch.ones(6, 2) for _ in "ab"])
    ),
    parameter_dict=lambda: Wrap(
        lambda m, x: x @ m.ws["w"] + m.ws["b"], ws=nn.ParameterDict({"w": torch.ones(6, 2), "b": torch.zeros(2)})
    ),
)


class Referring(nn.Module):
    """Holds parts, or its tensors, in another way than as attributes, besides."""

    def __init__(self, hold: Callable[[Any], Any], call: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.own, self.head = nn.Linear(6, 4), nn.Linear(4, 2)
        self.held, self.call = hold(self), call

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.call(self.held, x)))


class Instance(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(6, 2)
        self.forward = lambda x: 1.0 * self.own(x)


def closed() -> nn.Module:
    part = nn.Linear(6, 2)
    return Wrap(lambda m, x: part(x), held=part)


add(
    "references",
    list=lambda: Referring(lambda m: [m.own], lambda h, x: h[0](x)),
    tuple=lambda: Referring(lambda m: (m.own, m), lambda h, x: h[0](x)),
    dict=lambda: Referring(lambda m: {"a": m.own}, lambda h, x: h["a"](x)),
    bound_method=lambda: Referring(lambda m: m.own.forward, lambda h, x: h(x)),
    function=lambda: Referring(lambda m: lambda x: 1.0 * m.own(x), lambda h, x: h(x)),
    partial=lambda: Referring(lambda m: partial(m.own), lambda h, x: h(x)),
    tensors=lambda: Referring(lambda m: [m.own.weight, m.own.bias], lambda h, x: nn.functional.linear(x, *h)),
    own_forward=Instance,
    closure=closed,
)


class Shared(nn.Module):
    """Layers that share, as ``tie`` makes them."""

    def __init__(self, tie: Callable[[Any], object]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        tie(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


def buffers() -> nn.Module:
    one, other = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
    other.running_mean = one.running_mean
    return nn.Sequential(one, nn.Linear(6, 6), other)


def aliased(m: Any) -> None:
    m.again = m.a.weight


add(
    "shared",
    weight=lambda: Shared(lambda m: setattr(m.b, "weight", m.a.weight)),
    module=lambda: Shared(lambda m: setattr(m, "b", m.a)),
    both=lambda: Shared(lambda m: (setattr(m.b, "weight", m.a.weight), setattr(m.b, "bias", m.a.bias))),
    alias=lambda: Shared(aliased),
    buffers=buffers,
    transposed=lambda: Wrap(lambda m, x: torch.tanh(m.a(x)) @ m.a.weight, a=nn.Linear(6, 3)),
    siamese=lambda: Wrap(lambda m, x: m.a(x) - m.a(-x), a=mlp()),
)


class Counting(nn.Module):
    """Counts its calls in a buffer, and replaces another in each."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(6, 2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(6), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.own(x - self.mean) / self.calls


add(
    "frozen parts and buffers",
    layer=lambda: with_(lambda m: m[0].requires_grad_(False)),
    bias=lambda: with_(lambda m: m[2].bias.requires_grad_(False)),
    counting=Counting,
    empty=lambda: Wrap(lambda m, x: m.a(x) + m.e.sum(), a=mlp(), e=nn.Parameter(torch.zeros(0))),
    none=lambda: with_(lambda m: m[0].register_parameter("bias", None)),
    scalar=lambda: Wrap(lambda m, x: m.a(x) * m.s, a=mlp(), s=nn.Parameter(torch.tensor(0.5))),
    unused=lambda: with_(lambda m: m.register_parameter("unused", nn.Parameter(torch.ones(3)))),
    unused_layer=lambda: Wrap(lambda m, x: m.a(x), a=mlp(), b=nn.Linear(2, 2)),
)
