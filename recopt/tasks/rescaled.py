"""A task in randomly rescaled coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..checking.errors import RecoptError
from ..contracts.settings import option
from ..contracts.task import Task
from .wrappers import Wrapper, members

_SCALES = 170303633
"""The generator key of the scales, other than any that the task itself draws from."""


class Rescaled(Wrapper):
    """Another task with every coordinate of its model rescaled at random.

    The random scaling of Lv, Jiang and Li 2017 (1703.03633) keeps a learned rule from relying on the size
    of gradients. The parameters are φ = θ / c in place of θ, where the seed draws log c uniformly on
    [−spread, spread] for each coordinate. The loss as a function of θ, and its initial value, stay the same.

    Limits: the model can only be called (its attributes are not passed through), and must work under
    ``torch.func.functional_call``. Frozen parameters stay as they are.
    """

    of = option("quadratic", "the task, like mnist(hidden=[40])")
    spread = option(3.0, "log scales are uniform on [-spread, spread]")

    def __init__(self, *, seed: int = 0, **options: Any) -> None:
        super().__init__(seed=seed, **options)
        if self.spread < 0:
            raise RecoptError(f"rescaled.spread must be 0 or more, not {self.spread:g}.")
        written = members(self.of, "rescaled.of")
        if len(written) != 1:
            raise RecoptError(
                f"rescaled.of must be one task, not '{self.of}': a mixture is written mixture(members=…)."
            )
        self.wrap(written[0].sample(seed))

    def sample(self, seed: int) -> Self:
        return super().sample(seed).wrap(self.inner.sample(seed))

    def draw(self, seeds: Sequence[int]) -> list[Task]:
        drawn = self.inner.draw(seeds)
        return [super(Rescaled, self).sample(seed).wrap(task) for seed, task in zip(seeds, drawn, strict=True)]

    def model(self) -> nn.Module:
        return RescaledModel(self.inner.model(), self.spread, self.generator(_SCALES))


class RescaledModel(nn.Module):
    """``inner`` as a function of φ = θ / c. Parameters and buffers keep ``inner``'s names; c is in the buffers.

    ``inner`` is no submodule and lends only its code, because a module patched by ``higher`` ignores the
    values that ``functional_call`` gives to submodules.
    """

    def __init__(self, inner: nn.Module, spread: float, generator: torch.Generator) -> None:
        super().__init__()
        self._hidden = (inner,)  # in a tuple, so not a submodule
        self._names = tuple(name for name, _ in inner.named_parameters())
        self._buffer_names = tuple(name for name, _ in inner.named_buffers())
        self._scales: dict[str, str] = {}
        for name, p in inner.named_parameters():
            value = p.detach()
            if p.requires_grad:
                scale = torch.exp(spread * (2 * torch.rand(p.shape, generator=generator) - 1)).to(p)
                self._scales[name] = f"scale_{len(self._scales)}"
                self.register_buffer(self._scales[name], scale)
                value = value / scale
            owner, last = _place(self, name)
            owner.register_parameter(last, nn.Parameter(value, requires_grad=p.requires_grad))
        for name, buffer in inner.named_buffers():
            owner, last = _place(self, name)
            owner.register_buffer(last, buffer)

    def forward(self, *arguments: Any) -> Any:
        values: dict[str, Tensor] = dict(zip(self._names, self.parameters(), strict=True))
        buffers = dict(self.named_buffers())
        for name, scale in self._scales.items():
            values[name] = values[name] * buffers[scale]
        values |= {name: buffers[name] for name in self._buffer_names}
        inner = self._hidden[0]
        if inner.training != self.training:
            inner.train(self.training)
        return functional_call(inner, values, arguments)


class Owner(nn.Module):
    """An owner of parameters and buffers, never called. ``higher`` cannot patch a bare ``nn.Module``."""


def _place(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that owns the dotted ``name``, created where it is missing, and the last part of ``name``."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, Owner())
        root = root.get_submodule(part)
    return root, last
