"""Checks of a strategy's use by other levels: differentiated, patched, and mapped over tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..contracts import trees
from ..contracts.strategy import Params, State, Strategy, Trial
from ..engine.model import Patched
from ..rules.tensors import over_tasks
from . import probe
from .probe import PLAIN, STEPS, Broken, Make

TASKS = 3
WIDTHS = (1e-3, 1e-4)
"""Half widths of differences, tried in turn: the error is O(width⁴) plus rounding error / width."""
RELATIVE, ABSOLUTE = 1e-6, 1e-9
"""Tolerances of a derivative, relative to itself and to the value that is differentiated."""


def derivatives(make: Make) -> None:
    """First-order only: derivatives of the deltas by every parameter agree with central differences, in float64."""
    strategy = make().double()
    moved = [(n, p) for n, p in strategy.named_parameters() if p.requires_grad]
    if strategy.order == 0 or not moved:
        return
    whole = _travelled(strategy)
    if not whole.requires_grad:
        raise Broken(
            "its deltas carry no graph: compute them from the parameters with tensors (no float(), no .item())."
        )
    slopes = torch.autograd.grad(whole, [p for _, p in moved], allow_unused=True)
    for k, ((name, p), slope) in enumerate(zip(moved, slopes, strict=True)):
        direction = probe.some([tuple(p.shape)], 10 + k)[0]
        direction = direction / direction.norm()
        by_graph = 0.0 if slope is None else float((slope * direction).sum())
        for width in WIDTHS:
            by_difference = _difference(strategy, p, direction, width)
            allowed = RELATIVE * max(abs(by_graph), abs(by_difference)) + ABSOLUTE * abs(float(whole.detach()))
            if abs(by_graph - by_difference) <= allowed:
                break
        else:
            raise Broken(
                f"the derivative by '{name}' is {by_graph:.9g} by autograd, {by_difference:.9g} by differences: keep "
                "every use of parameters, gradients, point and state in the graph (no .detach(), .item(), .data)."
            )


def _travelled(strategy: Strategy) -> Tensor:
    """A weighted sum of the moves of a few steps along the strategy's own gradients, with its graph."""
    start = probe.some(PLAIN, 1)
    end, _ = probe.walk(strategy, start, STEPS)
    weights = probe.some(PLAIN, 2)
    return torch.stack([(w * (b - a)).sum() for w, a, b in zip(weights, start, end, strict=True)]).sum()


def _difference(strategy: Strategy, p: Tensor, direction: Tensor, width: float) -> float:
    kept, values = p.detach().clone(), []
    with torch.no_grad():
        for n in (-2, -1, 1, 2):
            p.copy_(kept + n * width * direction)
            values.append(float(_travelled(strategy)))
        p.copy_(kept)
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * width)


def zero_gradients(make: Make) -> None:
    """First-order only: gradients that were 0 from the start give finite deltas and finite derivatives."""
    strategy = make().double()
    if strategy.order == 0:
        return
    point = probe.some(PLAIN, 1)
    for start in (point, [torch.zeros_like(p) for p in point]):
        state, moved = strategy.init(start), [p for p in strategy.parameters() if p.requires_grad]
        for step in range(STEPS):
            # In the second step, every other entry has a gradient.
            grads = [torch.zeros_like(p) for p in start]
            grads[1][:, ::2] = float(step == 1)
            leaves = [g.requires_grad_() for g in grads]
            delta, state = strategy(
                start, [Trial(start, torch.zeros_like(start[0].sum()), leaves)], state, probe.generator()
            )
            if not probe.finite(delta):
                raise Broken(f"gradients of 0 give deltas that are not finite at step {step + 1}: add eps to divisors.")
        whole = torch.stack([d.sum() for d in delta]).sum()
        if whole.requires_grad:
            slopes = torch.autograd.grad(whole, [*moved, *leaves], allow_unused=True)
            if not probe.finite([s for s in slopes if s is not None]):
                raise Broken(
                    "gradients of 0 give derivatives that are not finite: sqrt, norm and log have none at 0, so clamp "
                    "what goes into them (v.clamp_min(torch.finfo(v.dtype).tiny).sqrt())."
                )


def patched(make: Make) -> None:
    """With its parameters replaced, the strategy uses the new values, and they carry the graph."""
    plain, other = make().double(), make().double()
    values = []
    with torch.no_grad():
        for k, p in enumerate(plain.parameters()):
            p.add_(0.1 * probe.some([tuple(p.shape)], 20 + k)[0])
            values.append(p.clone().requires_grad_(p.requires_grad))
    module: Any = Patched(other).load(values, list(plain.buffers()))
    wanted, end = (probe.walk(s, probe.some(PLAIN, 1), STEPS)[0] for s in (plain, module))
    if not probe.close(wanted, end, tolerance=1e-12):
        raise Broken(
            "with its parameters replaced it still uses the old values: read self.name anew in every call, and keep "
            "no other reference to a parameter."
        )
    if not probe.close(_slopes(wanted, list(plain.parameters())), _slopes(end, values)):
        raise Broken("with its parameters replaced its derivatives are lost: read self.name anew in every call.")


def _slopes(end: Params, by: Sequence[Tensor]) -> Params:
    by = [p for p in by if p.requires_grad]
    whole = torch.stack([p.sum() for p in end]).sum()
    if not by or not whole.requires_grad:
        return []
    return list(torch.autograd.grad(whole, by, allow_unused=True, materialize_grads=True))


def many_tasks(make: Make) -> None:
    """Several tasks at once, as the engine runs them, give the same answers as one by one."""
    strategy = make().double()
    points = [probe.some(PLAIN, 30 + n) for n in range(TASKS)]

    def one(point: Params, state: State) -> tuple[Params, State]:
        rng = probe.generator()
        with probe.seeded():
            for step in range(STEPS):
                delta, state = probe.ask(strategy, point, state, rng, step)
                point = [p + d for p, d in zip(point, delta, strict=True)]
        return point, state

    states = [strategy.init(p) for p in points]
    with torch.no_grad():
        singly = trees.stack([one(p, s) for p, s in zip(points, states, strict=True)])
        try:
            together = over_tasks(one, (trees.stack(points), trees.stack(states)), TASKS, strategy.vectorize)
        except Exception as why:
            raise Broken(
                f"it cannot be mapped over tasks ({type(why).__name__}: {' '.join(str(why).split())}): use no branch "
                "on values, no .item() and no change in place, or set vectorize = False."
            ) from why
    if not probe.close(together, singly) or probe.layout(together) != probe.layout(singly):
        raise Broken(
            "over several tasks its answers differ from those one by one: make every number in the state that "
            "depends on values a tensor, and set vectorize = False if it draws or branches."
        )
