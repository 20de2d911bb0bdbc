"""A strategy's parameters as a tower moves them: numbers where all are 0-dimensional, else tensors."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..contracts.domains import Domain, Positive, Unit
from ..contracts.errors import RecoptError
from ..contracts.strategy import Strategy

LIMITS: dict[type, float] = {Positive: 80.0, Unit: 30.0}
"""Bounds on coordinates: beyond them (1e±35; 1e-13 from either end) float32 or float64 has no natural value."""


def natural(domain: Domain, coordinate: float) -> tuple[float, float]:
    """The natural value of a coordinate, and its derivative, in plain numbers."""
    if type(domain) is Domain:
        return coordinate, 1.0
    if type(domain) is Positive:
        value = math.exp(coordinate)
        return value, value
    if type(domain) is Unit:
        small = math.exp(-abs(coordinate))
        value = (1.0 if coordinate >= 0 else small) / (1.0 + small)
        return value, small / (1.0 + small) ** 2
    leaf = torch.tensor(coordinate, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        there = domain.natural(leaf)
        (slope,) = torch.autograd.grad(there, leaf)
    return there.item(), slope.item()


class Slot:
    """A private copy of a strategy, and the present coordinates of its parameters.

    Attributes:
        scalar: whether every parameter is one number (then ``coords`` are floats in float64 arithmetic).
        coords: the coordinates, in the order of ``names``.
        value: natural values by name, hyperparameters that are off included (scalar slots only).
        slopes: d natural / d coordinate, in the order of ``names``.
        like: an empty tensor beside the parameters and in their type, where they are not numbers. (A level above may
            make single coordinates wider.)
    """

    def __init__(self, label: str, strategy: Strategy, like: Tensor) -> None:
        self.label, self.like = label, like.new_empty(0)
        self.strategy = copy.deepcopy(strategy)
        self.names = [name for name, _ in self.strategy.named_parameters()]
        found = [p.detach() for p in self.strategy.parameters()]
        self.scalar = all(p.ndim == 0 for p in found)
        self.domains = [self.strategy._domains.get(name, Domain()) for name in self.names]
        self.coords: list[Any] = (
            [p.item() for p in found] if self.scalar else [p.to(like.device, like.dtype).clone() for p in found]
        )
        if not self.scalar:
            self.strategy.to(like.device, like.dtype)
        self.limits = [LIMITS.get(type(domain), math.inf) for domain in self.domains]
        self.bounded = [type(domain) is not Domain for domain in self.domains]
        self.value: dict[str, float] = {
            name.removesuffix("_off"): b.item() for name, b in self.strategy.named_buffers() if name.endswith("_off")
        }
        self.slopes: list[float] = [1.0] * len(found)
        self.refresh()

    def refresh(self) -> None:
        """Recompute natural values and slopes after ``coords`` changed."""
        if self.scalar:
            for i, name in enumerate(self.names):
                self.value[name], self.slopes[i] = natural(self.domains[i], self.coords[i])

    def add(self, indices: Sequence[int], deltas: Sequence[Any]) -> None:
        """Add ``deltas`` to the coordinates ``indices``, within what their domains can represent."""
        coords = self.coords = list(self.coords)
        for i, delta in zip(indices, deltas, strict=True):
            moved = coords[i] + delta
            if self.scalar:
                limit = self.limits[i]
                if not -limit <= moved <= limit:
                    moved = min(max(moved, -limit), limit)
                self.value[self.names[i]], self.slopes[i] = natural(self.domains[i], moved)
            coords[i] = moved

    def tensors(self) -> list[Tensor]:
        """The coordinates as detached tensors: 0-dimensional float64 ones where they are numbers."""
        if self.scalar:
            return [torch.tensor(c, dtype=torch.float64) for c in self.coords]
        return [c.detach() for c in self.coords]

    def at_present(self) -> Strategy:
        """The strategy, with its module at the present coordinates: a level above may have moved them."""
        for p, c in zip(self.strategy.parameters(), self.tensors(), strict=True):
            p.data.copy_(c)
        return self.strategy

    def naturals(self) -> dict[str, float | Tensor]:
        """Hyperparameters in their natural unit, without those that are off: numbers, or tensors for declared ones
        that are not 0-dimensional."""
        if self.scalar:
            return {name: self.value[name] for name in self.names if name in self.strategy._domains}
        return {
            name: domain.natural(c)
            for name, domain, c in zip(self.names, self.domains, self.coords, strict=True)
            if name in self.strategy._domains
        }

    def tree(self) -> dict[str, Any]:
        """What :meth:`load` needs: names and coordinates."""
        return {"names": list(self.names), "coords": list(self.coords)}

    def load(self, tree: dict[str, Any], where: str) -> None:
        """Restore :meth:`tree`. Raises RecoptError if it is of a strategy with other parameters."""
        if list(tree["names"]) != self.names:
            raise RecoptError(
                f"{where}: '{self.label}' has the parameters {self.names}, the state_dict {list(tree['names'])}: "
                "build the optimizer with the stack and settings that saved it."
            )
        like = self.coords
        self.coords = (
            [float(c) for c in tree["coords"]]
            if self.scalar
            else [torch.as_tensor(c).to(old) for c, old in zip(tree["coords"], like, strict=True)]
        )
        self.refresh()
