"""Perceptrons, convolutions, pooling, normalization, dropout and blocks of image models."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from . import Wrap, add


def mlp(act: Any = nn.Tanh, width: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, width), act(), nn.Linear(width, 3))


add(
    "perceptrons",
    tanh=mlp,
    relu=partial(mlp, nn.ReLU),
    gelu=partial(mlp, nn.GELU),
    silu=partial(mlp, nn.SiLU),
    elu=partial(mlp, nn.ELU),
    selu=partial(mlp, nn.SELU),
    prelu=partial(mlp, nn.PReLU),
    mish=partial(mlp, nn.Mish),
    softplus=partial(mlp, nn.Softplus),
    leaky=partial(mlp, nn.LeakyReLU),
    wide=partial(mlp, nn.Tanh, 40),
    bilinear=lambda: Wrap(lambda m, x: m.b(x[:, :3], x[:, 3:]), b=nn.Bilinear(3, 3, 4)),
)


def conv(**more: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3, **more), nn.ReLU(), nn.Conv2d(6, 2, 1))


add(
    "convolutions",
    "image",
    plain=conv,
    padded=partial(conv, padding=1),
    same=partial(conv, padding="same"),
    strided=partial(conv, stride=2),
    dilated=partial(conv, dilation=2),
    grouped=partial(conv, groups=3),
    no_bias=partial(conv, bias=False),
    circular=partial(conv, padding=1, padding_mode="circular"),
    reflect=partial(conv, padding=1, padding_mode="reflect"),
    transposed=lambda: nn.ConvTranspose2d(3, 2, 3, stride=2),
    unfold=lambda: Wrap(lambda m, x: m.a(fn.unfold(x, 3).transpose(1, 2)), a=nn.Linear(27, 2)),
)
add("convolutions", "line", one_dimensional=lambda: nn.Conv1d(3, 4, 3))
add("convolutions", "volume", three_dimensional=lambda: nn.Conv3d(2, 2, 2))


def pooled(pool: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), pool, nn.Flatten(), nn.LazyLinear(2))


add(
    "pooling",
    "image",
    max=lambda: pooled(nn.MaxPool2d(2)),
    mean=lambda: pooled(nn.AvgPool2d(2)),
    adaptive_max=lambda: pooled(nn.AdaptiveMaxPool2d(2)),
    adaptive_mean=lambda: pooled(nn.AdaptiveAvgPool2d(1)),
    norm=lambda: pooled(nn.LPPool2d(2, 2)),
    shuffle=lambda: pooled(nn.PixelShuffle(2)),
    upsampled=lambda: pooled(nn.Upsample(scale_factor=2, mode="bilinear")),
)


def normed(norm: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), norm, nn.SiLU(), nn.Conv2d(4, 2, 1))


def frozen_statistics() -> nn.Module:
    made = normed(nn.BatchNorm2d(4))
    made[1].eval()
    return made


add(
    "normalizations",
    "image",
    batch=lambda: normed(nn.BatchNorm2d(4)),
    layer=lambda: normed(nn.LayerNorm([4, 6, 6])),
    batch_fixed=frozen_statistics,
    batch_cumulative=lambda: normed(nn.BatchNorm2d(4, momentum=None)),
    batch_untracked=lambda: normed(nn.BatchNorm2d(4, track_running_stats=False)),
    batch_plain=lambda: normed(nn.BatchNorm2d(4, affine=False)),
    group=lambda: normed(nn.GroupNorm(2, 4)),
    instance=lambda: normed(nn.InstanceNorm2d(4)),
    local=lambda: normed(nn.LocalResponseNorm(2)),
    instance_tracked=lambda: normed(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
    scaled=lambda: Wrap(
        lambda m, x: m.a(fn.normalize(x, dim=1)) * m.s, a=nn.Conv2d(3, 2, 1), s=nn.Parameter(torch.ones(1))
    ),
)
add(
    "normalizations",
    batch_rows=lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)),
    root_mean_square=lambda: nn.Sequential(nn.Linear(6, 5), nn.RMSNorm(5), nn.Linear(5, 2)),
)


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x) if self.training else x


class DropPath(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(len(x), *[1] * (x.ndim - 1), dtype=x.dtype) < 0.7) / 0.7 if self.training else x


def dropped(drop: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), drop, nn.Linear(8, 2))


add(
    "dropout and noise",
    plain=lambda: dropped(nn.Dropout(0.4)),
    alpha=lambda: dropped(nn.AlphaDropout(0.3)),
    gaussian=lambda: dropped(Noise()),
    rrelu=lambda: dropped(nn.RReLU()),
    path=lambda: dropped(DropPath()),
    functional=lambda: Wrap(lambda m, x: fn.dropout(m.a(x), 0.3, m.training), a=nn.Linear(6, 3)),
    gumbel=lambda: Wrap(lambda m, x: m.b(fn.gumbel_softmax(m.a(x))), a=nn.Linear(6, 4), b=nn.Linear(4, 2)),
)
add(
    "dropout and noise", "image", channels=lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.Dropout2d(), nn.Conv2d(6, 2, 1))
)


class Residual(nn.Module):
    """A convolution, a norm and a way around them, with what blocks of image models put between."""

    def __init__(self, body: nn.Module, scale: float | None = None, drop: bool = False) -> None:
        super().__init__()
        self.body = body
        self.gamma = nn.Parameter(torch.full((6, 1, 1), scale)) if scale else None
        self.path = DropPath() if drop else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x)
        return x + self.path(out if self.gamma is None else self.gamma * out)


class Excite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(fn.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Last(nn.Module):
    """A layer norm over channels that are not last."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def net(*blocks: nn.Module) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 6, 2, stride=2),
            blocks=nn.Sequential(*blocks),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(6, 3),
        )
    )


def c(kernel: int = 3, groups: int = 1, inner: int = 6, outer: int = 6) -> nn.Module:
    return nn.Conv2d(inner, outer, kernel, padding=kernel // 2, groups=groups, bias=False)


def bn(width: int = 6) -> nn.Module:
    return nn.BatchNorm2d(width)


add(
    "image blocks",
    "image",
    basic=lambda: net(Residual(nn.Sequential(c(), bn(), nn.ReLU(), c(), bn())), nn.ReLU(inplace=True)),
    bottleneck=lambda: net(
        Residual(
            nn.Sequential(c(1, outer=3), bn(3), nn.ReLU(), c(3, inner=3, outer=3), bn(3), nn.ReLU(), c(1, inner=3))
        )
    ),
    excite=lambda: net(Residual(nn.Sequential(c(), Excite()))),
    depthwise=lambda: net(
        Residual(nn.Sequential(c(1, outer=12), nn.SiLU(), c(3, 12, 12, 12), bn(12), nn.SiLU(), c(1, inner=12)))
    ),
    next=lambda: net(Residual(nn.Sequential(c(3, 6), Last(), c(1, outer=12), nn.GELU(), c(1, inner=12)), scale=0.1)),
    preactivated=lambda: net(Residual(nn.Sequential(bn(), nn.ReLU(inplace=True), c()))),
    stochastic=lambda: net(Residual(c(), drop=True), Residual(c(), scale=0.5, drop=True)),
    dense=lambda: Wrap(lambda m, x: m.b(torch.cat([x, m.a(x)], 1)), a=nn.Conv2d(3, 2, 1), b=nn.Conv2d(5, 2, 1)),
    shuffled=lambda: net(nn.ChannelShuffle(2), c(3, 2), bn()),
    patches=lambda: Wrap(
        lambda m, x: m.h((m.p(x).flatten(2).transpose(1, 2) + m.e).mean(1)),
        p=nn.Conv2d(3, 6, 4, stride=4),
        e=nn.Parameter(torch.zeros(1, 4, 6)),
        h=nn.Linear(6, 2),
    ),
    mixer=lambda: Wrap(lambda m, x: m.c(m.t(x.flatten(2)).transpose(1, 2)), t=nn.Linear(64, 4), c=nn.Linear(3, 2)),
    unet=lambda: Wrap(
        lambda m, x: m.o(torch.cat([x, m.u(fn.relu(m.d(x)))], 1)),
        d=nn.Conv2d(3, 6, 2, stride=2),
        u=nn.ConvTranspose2d(6, 3, 2, stride=2),
        o=nn.Conv2d(6, 2, 1),
    ),
    channels_last=lambda: conv().to(memory_format=torch.channels_last),
)
