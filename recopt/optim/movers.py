"""Movers: a level's strategy at work, with its state and the record of its last update.

All do the same: ``step`` gives deltas and records them, ``pull`` is the vector-Jacobian product of the
record with what came after it, with respect to the strategy's coordinates (DESIGN "No graph needed").

- :class:`TapedMover` tapes the strategy's own ``forward``: any strategy, windows of any length.
- :class:`KernelMover` uses the strategy's kernel, in place on a model's tensors.
- :class:`FormulaMover` uses its formula on the few numbers of an upper level.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from ..contracts import trees
from ..contracts.strategy import Params, State, Trial
from .arithmetic import chunks, dots
from .kernel import Formula, Kernel, Sums
from .record import Record
from .slot import Slot

NOT_A_NUMBER = float("nan")


class TapedMover:
    """Any strategy, taped with autograd on its own parameters only.

    Args:
        slot: whose strategy it is.
        point: where it starts; only shapes, dtype and device count, and the strategy's ``init``.
        seed: of the generator that the strategy draws from.
        taped: whether a level above asks for hypergradients.
    """

    def __init__(self, slot: Slot, point: Params, seed: int, taped: bool) -> None:
        self.slot, self.taped = slot, taped
        self.rng = torch.Generator().manual_seed(seed)
        self.state: State = trees.detach(slot.strategy.init([p.detach().clone() for p in point]))
        self.forget()

    def __deepcopy__(self, memo: dict[int, Any]) -> TapedMover:
        """A graph cannot be copied: the record is made anew from what it was made from."""
        made = copy.copy(self)
        memo[id(self)] = made
        made.slot, made.rng = copy.deepcopy(self.slot, memo), torch.Generator()
        made.load(trees.tree_map(torch.clone, trees.snapshot(self.tree())))
        return made

    def forget(self) -> None:
        """Drop the record: a new window begins."""
        self.record = Record(self.slot.label, self.state)

    @property
    def recorded(self) -> int:
        """Updates in the record."""
        return len(self.record.updates)

    def step(self, point: Params, grads: Params | None, loss: Tensor | None, scale: float) -> Params:
        """The deltas, detached; ``point`` and ``grads`` must not be changed in place afterwards."""
        return self.step_trials(point, [Trial(point, loss, grads)], scale)

    def step_trials(self, point: Params, trials: Sequence[Trial], scale: float) -> Params:
        """Like :meth:`step`, from any trials."""
        if not self.taped:
            deltas, state = self._call(self.slot.tensors(), point, trials, self.state)
            self.state = trees.detach(state)
            return [d.detach() * scale for d in deltas]
        record, drawn = self.record, self.rng.get_state()
        if not record.leaves:
            record.leaves = [t.requires_grad_() for t in self.slot.tensors()]
        with torch.enable_grad():
            deltas, record.live = self._call(record.leaves, point, trials, record.live)
            deltas = [d * scale for d in deltas] if scale != 1.0 else deltas
        self.state = trees.detach(record.live)
        record.inputs.append({"point": point, "trials": [list(t) for t in trials], "scale": scale, "rng": drawn})
        record.updates.append(deltas)
        return [d.detach() for d in deltas]

    def _call(self, coords: Params, point: Params, trials: Sequence[Trial], state: State) -> tuple[Params, State]:
        named = dict(zip(self.slot.names, coords, strict=True))
        out = functional_call(self.slot.strategy, named, (point, trials, state, self.rng))
        return out  # type: ignore[no-any-return]

    def tree(self) -> dict[str, Any]:
        """State, generator, and the inputs from which :meth:`load` makes the record anew."""
        inputs = [dict(step) for step in self.record.inputs]
        return {"state": self.state, "start": self.record.start, "rng": self.rng.get_state(),
                "inputs": inputs, "suffix": self.record.suffix}  # fmt: skip

    def load(self, saved: dict[str, Any]) -> None:
        """Continue from :meth:`tree`; the slot must have its coordinates already."""
        self.state = saved["start"]
        self.forget()
        for step in saved["inputs"]:
            self.rng.set_state(step["rng"].cpu())
            self.step_trials(step["point"], [Trial(*t) for t in step["trials"]], step["scale"])
        self.record.suffix = [list(s) for s in saved["suffix"]]
        self.state = saved["state"]
        self.rng.set_state(saved["rng"].cpu())


class KernelMover:
    """A strategy's kernel at work in place on a model's tensors.

    The record is the last update; or, in windows of several, where only ``lr`` is moved and updates are linear in it,
    the point at the window's start: lr ∂u_t/∂lr = u_t, so the suffix sums of the gradients against the updates,
    Σ_t ⟨u_t, Σ_{s>t} w_s g_s⟩, are those of the gradients against the way come, Σ_s w_s ⟨g_s, θ_{s−1} − θ_0⟩.
    """

    def __init__(self, slot: Slot, kernel: Kernel, point: Params, moved: frozenset[str], window: int) -> None:
        self.slot, self.kernel, self.window = slot, kernel, window
        self.state = kernel.begin(point, moved)
        self.begun: Params = [p.clone() for p in point] if window > 1 else []
        self.recorded = 0
        self.scale = 1.0
        self.sums: dict[str, float] = {}

    def step(self, point: Params, grads: Params, scale: float) -> None:
        """Move ``point`` in place."""
        if self.window > 1 and not self.recorded:
            torch._foreach_copy_(self.begun, point)
            self.sums = {"way": 0.0}
        self.kernel.step(point, grads, self.state, self.slot.value, scale)
        self.recorded, self.scale = self.recorded + 1 if self.window > 1 else 1, scale

    def measure(self, point: Params, cotangents: Params) -> Sums:
        """What :meth:`feed` needs of the tensors."""
        if self.window > 1:
            return {"way": [d for p, b, c in chunks(point, self.begun, cotangents)
                            for d in dots(torch._foreach_sub(p, b), c)]}  # fmt: skip
        return self.kernel.measure(point, cotangents, self.state, self.slot.value, self.scale)

    def feed(self, sums: dict[str, float], weight: float) -> None:
        """What :meth:`measure` found, as numbers."""
        self.sums = {"way": self.sums["way"] + weight * sums["way"]} if self.window > 1 else sums

    def pull(self) -> list[float]:
        """The hypergradient, one number per coordinate; NaN where the arithmetic fails."""
        if self.window > 1:
            self.recorded = 0
            rate = self.slot.value["lr"]
            natural = [self.sums["way"] / rate if name == "lr" else 0.0 for name in self.slot.names]
            return [n * slope for n, slope in zip(natural, self.slot.slopes, strict=True)]
        return chained(self.slot, self.kernel, self.sums, self.state, self.slot.value, self.scale)

    def last(self, point: Params) -> Params | None:
        """The last update, computed again; None where its kernel cannot."""
        return self.kernel.last(point, self.state, self.slot.value, self.scale)

    def forget(self) -> None:
        """Drop the record: a new window begins."""
        self.recorded = 0

    def tree(self) -> dict[str, Any]:
        """State and record."""
        return {"state": self.state, "recorded": self.recorded, "scale": self.scale, "begun": self.begun,
                "sums": dict(self.sums)}  # fmt: skip

    def load(self, saved: dict[str, Any]) -> None:
        """Continue from :meth:`tree`."""
        self.state, self.recorded, self.scale = saved["state"], saved["recorded"], saved["scale"]
        self.begun, self.sums = saved["begun"], dict(saved["sums"])


def chained(slot: Slot, form: Kernel | Formula, *arguments: Any) -> list[float]:
    """``form.pull`` times d natural / d coordinate, in the order of the slot's names."""
    try:
        natural = form.pull(*arguments)
        return [natural[name] * slope for name, slope in zip(slot.names, slot.slopes, strict=True)]
    except (ZeroDivisionError, OverflowError, ValueError):
        return [NOT_A_NUMBER] * len(slot.names)


class FormulaMover:
    """A strategy's formula at work on a few numbers, one update recorded."""

    def __init__(self, slot: Slot, formula: Formula, size: int) -> None:
        self.slot, self.formula = slot, formula
        self.state = formula.begin(size)
        self.recorded = 0
        self.update: list[float] = []

    def step(self, point: Sequence[float], grads: Sequence[float]) -> list[float]:
        """The deltas; NaN where the arithmetic fails."""
        try:
            self.update = self.formula.step(point, grads, self.state, self.slot.value)
        except (ZeroDivisionError, OverflowError, ValueError):
            self.update = [NOT_A_NUMBER] * len(point)
        self.recorded = 1
        return self.update

    def pull(self, cotangents: Sequence[float]) -> list[float]:
        """The hypergradient, one number per coordinate."""
        return chained(self.slot, self.formula, cotangents, self.state, self.slot.value)

    def length(self) -> float:
        """The norm of the recorded update."""
        return math.sqrt(sum(u * u for u in self.update))

    def tree(self) -> dict[str, Any]:
        """State and record."""
        return {"state": self.state, "recorded": self.recorded, "update": self.update}

    def load(self, saved: dict[str, Any]) -> None:
        """Continue from :meth:`tree`."""
        self.state, self.recorded, self.update = saved["state"], saved["recorded"], list(saved["update"])
