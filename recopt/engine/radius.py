"""The spectral radius of an unrolled step: how far it stretches changes of the point and of what its rule remembers.

A step takes z = (θ, state of the rule) to z' at fixed hyperparameters, on one batch. An exact unroll of T steps holds
products of T Jacobians ∂z'/∂z, whose size goes as the T-th power of their spectral radius (Metz et al. 2019,
1810.10180, sect. 2; Pascanu et al. 2013, 1211.5063).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from ..contracts import trees
from ..contracts.strategy import Params
from ..core.tower import Tower
from ..levels.counts import opened
from ..levels.parts import Part
from ..levels.state import RunState, Signal
from ..rules.tensors import TensorMover
from .family import Family
from .live import Live
from .model import twice_differentiable
from .source import Source

POWERS, KRYLOV = 24, 12
"""Products by which the direction is turned to where it is stretched most, and those that the radius is taken from."""
PRODUCTS = POWERS + KRYLOV
"""Vector-Jacobian products of one radius; each takes about two evaluations of a gradient, or three."""


def spectral_radius(product: Callable[[Tensor], Tensor], start: Tensor) -> float:
    """The largest modulus of an eigenvalue of a square matrix, by its products with vectors like ``start``.

    Power iteration, then Arnoldi's method (1951) from where that has led: a single pair of complex eigenvalues, or
    several of one modulus (momentum's), have no direction that a power iteration settles in. NaN for what is not
    finite, 0 for what ends at 0.
    """
    v = start / start.norm()
    for _ in range(POWERS):
        w = product(v)
        size = float(w.norm())
        if not size or math.isnan(size):
            return size
        v = w / size
    basis, count = [v], min(KRYLOV, v.numel())
    ritz = torch.zeros(count, count, dtype=torch.float64)
    for k in range(count):
        w = product(basis[k])
        before = float(w.norm())
        for _ in range(2):  # once more for what rounding left
            for i, b in enumerate(basis):
                along = torch.dot(b, w)
                ritz[i, k] += float(along)
                w = w - along * b
        size = float(w.norm())
        if k + 1 == count or size <= 10 * torch.finfo(v.dtype).eps * before:
            ritz = ritz[: k + 1, : k + 1]
            break
        ritz[k + 1, k] = size
        basis.append(w / size)
    return float(torch.linalg.eigvals(ritz).abs().max()) if bool(torch.isfinite(ritz).all()) else float("nan")


def radius(tower: Tower, family: Family, source: Source, state: RunState, movers: Sequence[int]) -> float:
    """The spectral radius of the next step of the levels ``movers``, all that moves the task; of its first task.

    Without guards and schedules, on the next batch. The values and the random numbers of ``state`` stay as they are.
    """
    with twice_differentiable(), torch.enable_grad():
        ins, outs = one_step(tower, family, source, state, movers)
    if not ins:
        return float("nan")
    sizes = [t.numel() for t in ins]

    def product(v: Tensor) -> Tensor:
        parts = [p.view_as(t).to(t) for p, t in zip(v.split(sizes), ins, strict=True)]
        live = [(o, p) for o, p in zip(outs, parts, strict=True) if o.requires_grad]
        found = torch.autograd.grad(
            [o for o, _ in live], ins, [p for _, p in live], retain_graph=True, allow_unused=True
        )
        return torch.cat([torch.zeros_like(t).view(-1) if g is None else g.reshape(-1)
                          for g, t in zip(found, ins, strict=True)])  # fmt: skip

    dice = Generator().manual_seed(0)
    dtype = ins[0].dtype
    start = torch.randn(sum(sizes), generator=dice, dtype=dtype).to(ins[0].device)
    return spectral_radius(product, start)


def one_step(
    tower: Tower, family: Family, source: Source, state: RunState, movers: Sequence[int]
) -> tuple[Params, Params]:  # fmt: skip
    """One step from leaves: the point and the rules' states before it, and what they became."""
    slot, graph = state.task, tower.graph
    place = family.starts(slot)[0]
    tasks = family.count if family.batched else 0
    batch = source.batch(state, slot, slot.seen)
    task, values, buffers = family.members(slot)[0], slot.params, slot.buffers
    if tasks:
        batch, values, buffers = batch[0], [p[0] for p in values], [b[0] for b in buffers]
    live = Live(family.module(place.draw, place.place - family.first))
    loss = task.loss(live.put(trees.detach(values), buffers), batch)
    found = torch.autograd.grad(loss, live.params, create_graph=True, allow_unused=True)
    point, ins, outs = list[Tensor](live.params), list[Tensor](), list[Tensor]()
    for m in movers:
        level, own = graph.levels[m], state.levels[m]
        mover = TensorMover(graph.slots[level.by])
        hyper = trees.detach(tower.slots.strategy(state, level.by))
        index, rng = tower.slots.index(state, m), Generator()
        if len(own.rng):
            rng.set_state(own.rng)
        places = list(range(len(index)))  # at the start of an episode no part has begun
        for part in own.parts or [Part(places, tower.beginnings.state_at(state, m, places))]:
            here, grads = part.present([point[i] for i in index], [found[i] for i in index])
            if not grads:
                continue
            held: Any = (part.strategy, part.normal)
            held = trees.detach(opened(trees.unstack(held, tasks)[0] if tasks else held, None))
            floats = [t.clone().requires_grad_() if t.is_floating_point() else t for t in trees.tensors(held)]
            strategy, normal = trees.refill(held, floats)
            made = mover.step(hyper, level, here, Signal(loss, grads), strategy, normal, rng)
            after = trees.tensors((made.strategy, made.normal))
            ins += [*here, *(t for t in floats if t.requires_grad)]
            outs += [p + d for p, d in zip(here, made.delta, strict=True)]
            outs += [a for a, t in zip(after, floats, strict=True) if t.requires_grad]
    return ins, outs
