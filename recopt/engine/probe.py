"""The choice of a way to evaluate tasks side by side, or differentiated through: by comparison with plain torch.

``higher`` is taken where it gives torch's losses and gradients, ``torch.func.functional_call`` where only that does.
What neither can do is looped over, each task by its own model, or refused where a level differentiates through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..checking.errors import RecoptError
from ..contracts import trees
from ..contracts.strategy import Params
from ..levels.state import SlotState, Start
from .family import Family
from .live import Live
from .model import Patched, Swapped, refuse_compiled, twice_differentiable
from .randomness import seeded
from .ways import Function, Grads, OneByOne, Way

Found = list[tuple[Tensor, Grads]]
"""Loss and gradients of one task at the two points of a probe."""
Maker = type[Patched] | type[Swapped]
MAKERS: dict[str, Maker] = {"higher": Patched, "torch.func.functional_call": Swapped}
REACH, WIDTH = 0.01, 1e-5
"""The step from a probe's first point to its second, over the mean size of each tensor's entries (0.1 if that is less);
half the width of differences."""
UNREACHED = (
    "The loss reaches no parameter of the model, so nothing would be trained: compute it by the model that is given."
)
UNMAPPED = "cannot be mapped: {}. Set vectorize = False in the task, and this is not said again."
CHECKPOINTED = "activations are recomputed or moved (torch.utils.checkpoint), at other values by then: turn that off"


class Choice(NamedTuple):
    """A way that was chosen, for all tasks of a kind; ``maker`` is None where each is evaluated by its own model.

    Attributes:
        mapped: whether tasks side by side are mapped (``torch.func.vmap``).
        fused: whether the model uses kernels that have no second derivative, or a wrong one.
        fresh: whether no parameter of a model is that of another.
    """

    maker: Maker | None
    mapped: bool = False
    fused: bool = False
    fresh: bool = False

    def way(self, family: Family, draw: int) -> Way:
        """The way, for the tasks of a draw."""
        if self.maker is None:
            return OneByOne([family.module(draw, n) for n in range(family.count)])
        count = 1 if self.mapped else family.count
        modules = [family.module(draw, n) for n in range(count)]
        return Function(
            [self.maker(module) for module in modules], family.drawn(draw), many=family.batched, mapped=self.mapped,
            fused=self.fused, blank=modules if self.fresh else [],
        )  # fmt: skip


@dataclass
class Probe:
    """A probe of the ways to evaluate the tasks of one draw, at two points, each with a batch of its own.

    Args:
        exact: whether a level differentiates through the gradients of the task.
        gradients: whether a level reads them.
    """

    family: Family
    draw: int
    exact: bool
    gradients: bool = True
    notes: list[str] = field(default_factory=list)
    unmapped: str = ""

    def __post_init__(self) -> None:
        self.drawn = self.family.drawn(self.draw)
        self.tasks = self.drawn.tasks[:2]
        self.batches = [[self.family.place(task.batch(index, "train")) for index in range(2)] for task in self.tasks]

    def choice(self) -> Choice:
        """The way to take; ``notes`` then say what is out of the ordinary with it, ``unmapped`` why it is not mapped.

        Raises:
            RecoptError: if there is none.
        """
        faults, found, unmapped = dict[str, str](), Choice(None), ""
        mappable = self.family.count > 1 and self.tasks[0].vectorize
        makers = MAKERS if self.exact or mappable else {}
        if self.exact:
            refuse_compiled(self.family.module(self.draw))
        self.wanted = [self.by_torch(n) for n in range(len(self.tasks))] if makers else []
        for name, maker in makers.items():
            faults[name], fused = self._fault(partial(self._by_function, maker, 1), self.wanted[:1])
            if faults[name]:
                continue
            mapped = mappable and not (unmapped := unmapped or self._unmappable(maker))
            if mapped or self.exact:
                one, other = (self.family.module(self.draw).parameters() for _ in range(2))
                found = Choice(maker, mapped, fused, {*map(id, one)}.isdisjoint(map(id, other)))
                break
        if self.exact and found.maker:
            with suppress(Exception):  # of a model that is no other than in float32
                self._check_second(found.maker)
        elif self.exact:
            raise RecoptError(self._refusal(faults))
        if mappable and not found.mapped:
            self.unmapped = unmapped or next(reversed(faults.values()))
            said = UNMAPPED.format(self.unmapped)
            self.notes.append(f"Tasks side by side are evaluated one after the other, as they {said}")
        elif found.maker is Swapped:
            self.notes.append(f"The model is called by torch.func.functional_call, not by higher: {faults['higher']}.")
        return found

    def _refusal(self, faults: Mapping[str, str]) -> str:
        if difference(self.by_torch(0), self.wanted[0], self.drawn.names):
            reasons = "its loss is another each time, though torch is seeded alike"
        else:
            makers = {
                fault: " and ".join(name for name in faults if faults[name] == fault) for fault in faults.values()
            }
            reasons = "; ".join(f"{names}: {fault}" for fault, names in makers.items())
        return (
            "An exact level (second_order) needs the model as a function of its parameters that can be "
            f"differentiated twice, and this one is not ({reasons}): leave second_order out, or let its parts read "
            "their parameters anew in every call, by operations that have second derivatives."
        )

    def by_torch(self, n: int, seed: int = 0, calm: bool = False) -> Found:
        """Losses and gradients of task ``n`` by its own model; ``calm``: in evaluation mode."""
        live, slot = Live(_at_rest(self.family.module(self.draw, n), calm)), self._slot(n)
        found: Found = []
        for point, batch in zip(_points(slot.params), self.batches[n], strict=True):
            with seeded(seed, self.family.device), torch.enable_grad():
                loss = self.tasks[n].loss(live.put(point, slot.buffers), batch)
                found.append((loss.detach(), live.gradient(loss)))
        if self.gradients and all(g is None for _, grads in found for g in grads):
            raise RecoptError(UNREACHED)
        return found

    def _slot(self, n: int) -> SlotState:
        slot = self.family.fresh(self.draw, [Start(self.family.share[n], self.draw, 0)])
        return SlotState([p[0] for p in slot.params], [b[0] for b in slot.buffers]) if self.family.batched else slot

    def _by_function(self, maker: Maker, count: int, calm: bool = False) -> tuple[list[Found], bool]:
        """Likewise of the first ``count`` tasks, by one model; and whether that uses fused kernels."""
        many = count > 1
        model = maker(_at_rest(self.family.module(self.draw), calm))
        function = Function([model], self.drawn, many=many, mapped=many, fused=False)
        slots, found = [self._slot(n) for n in range(count)], [Found() for _ in range(count)]
        fused = False
        for index, points in enumerate(zip(*(_points(slot.params) for slot in slots), strict=True)):
            batch = [batches[index] for batches in self.batches] if many else self.batches[0][index]
            params, buffers = ((trees.stack(v) if many else v[0]) for v in (points, [s.buffers for s in slots]))
            at = SlotState([p.requires_grad_() for p in params], buffers)
            with (
                seeded(0, self.family.device),
                torch.autograd.graph.disable_saved_tensors_hooks(CHECKPOINTED),
                twice_differentiable() as plain,
            ):
                loss, grads = function.gradient(self.tasks, at, batch, self.exact)
                if self.exact:
                    _again(at.params, grads)
            fused = fused or plain.seen
            loss, grads = loss.detach(), [g if g is None else g.detach() for g in grads]
            for n, mine in enumerate(found):
                mine.append((loss[n], [g if g is None else g[n] for g in grads]) if many else (loss, grads))
        return found, fused

    def _check_second(self, maker: Maker) -> None:
        """Tell if derivatives of the gradients are not those of their differences, which are looked at in float64."""
        family = self.family.alone(torch.float64)
        double = replace(self, family=family, notes=[])
        slot, way = double._slot(0), Function(
            [maker(family.module(self.draw))], double.drawn, many=False, mapped=False, fused=True)  # fmt: skip
        point = [p.requires_grad_() for p in _points(slot.params)[1]]

        def gradients(one: Callable[[Any], Grads]) -> list[Grads]:
            found = []
            for batch in double.batches[0]:
                with seeded(0, family.device), torch.enable_grad():
                    found.append(one(batch))
            return found

        both = gradients(lambda batch: way.gradient(double.tasks, SlotState(point, slot.buffers), batch, True)[1])
        by, along = _directions(point, both)
        whole = torch.stack([_product(grads, by) for grads in both]).sum()
        slopes = torch.autograd.grad(whole, point, allow_unused=True) if whole.requires_grad else []
        found = float(_product(slopes, along))

        def at(width: float) -> float:
            live = Live(family.module(self.draw))
            there = [p.detach() + width * w for p, w in zip(point, along, strict=True)]
            found = gradients(lambda batch: live.gradient(double.tasks[0].loss(live.put(there, slot.buffers), batch)))
            return sum(float(_product(grads, by)) for grads in found)

        near, far = ((at(w) - at(-w)) / (2 * w) for w in (WIDTH / 3, WIDTH))
        off = abs(found - near)
        if off > 1e-5 * (abs(found) + abs(near)) + 1e-7 and off > 10 * abs(near - far):  # else there is an edge
            self.notes.append(
                f"An exact level gets {found:.4g} for a second derivative of the loss that differences say is "
                f"{near:.4g}: it stops short where the model does (detach, no_grad, rounding, hooks on gradients)."
            )

    def _fault(self, found: Callable[[], tuple[list[Found], bool]], wanted: Sequence[Found]) -> tuple[str, bool]:
        """A fault of what ``found`` gives, empty if there is none; and whether it uses fused kernels."""
        try:
            mine, fused = found()
        except Exception as why:
            text = " ".join(str(why).split()).partition(". ")[0].removesuffix(".")
            plain = text == CHECKPOINTED or isinstance(why, RecoptError)
            return (text if plain else f"{type(why).__name__}: {text[:150]}"), False
        for one, other in zip(mine, wanted, strict=True):
            if fault := difference(one, other, self.drawn.names):
                return fault, fused
        return "", fused

    def _unmappable(self, maker: Maker) -> str:
        """The reason why tasks cannot be mapped; empty if they can."""
        if not self._is_random(calm=False):
            return self._fault(partial(self._by_function, maker, 2), self.wanted)[0]
        # Each task draws for itself, so that only models at rest can be compared, if they are at rest then.
        tried = self._fault(lambda: (self._by_function(maker, 2)[0][:0], False), [])[0]
        if tried or self._is_random(calm=True):
            return tried
        wanted = [self.by_torch(n, calm=True) for n in range(2)]
        return self._fault(partial(self._by_function, maker, 2, calm=True), wanted)[0]

    def _is_random(self, calm: bool) -> bool:
        one = self.by_torch(0, calm=True) if calm else self.wanted[0]
        return bool(difference(self.by_torch(0, 1, calm), one, self.drawn.names))


def _at_rest(module: nn.Module, calm: bool) -> nn.Module:
    return module.eval() if calm else module


def difference(found: Found, wanted: Found, names: Sequence[str]) -> str:
    """The first difference between two results in one place, empty if there is none but rounding."""
    for (loss, grads), (other, theirs) in zip(found, wanted, strict=True):
        close = max(1e4 * torch.finfo(other.dtype).eps, 1e-9)
        if not torch.allclose(loss.double(), other.double(), rtol=close, atol=close * 1e-3, equal_nan=True):
            return f"the loss is {float(loss):.6g} and not {float(other):.6g}"
        total = sum(float(w.double().norm()) for w in theirs if w is not None)
        for name, g, w in zip(names, grads, theirs, strict=True):
            if g is None or w is None:
                if (g is None) != (w is None):
                    return f"the loss {'does not reach' if g is None else 'reaches'} '{name}'"
                continue
            a, b = (torch.nan_to_num(t.double()) for t in (g, w))
            if float((a - b).norm()) > close * (float(b.norm()) + 0.01 * total):
                return f"the gradient by '{name}' is another"
    return ""


def _again(params: Params, grads: Grads) -> None:
    """Differentiate ``grads`` once more. Raises what torch raises if it cannot."""
    if any(p._version for p in params):
        raise RecoptError("it changes its parameters in place")
    if _live(grads):
        whole = torch.stack([g.sum() for g in grads if g is not None and g.requires_grad]).sum()
        torch.autograd.grad(whole, params, allow_unused=True)


def _live(grads: Grads) -> bool:
    return any(g is not None and g.requires_grad for g in grads)


def _directions(point: Params, both: Sequence[Grads]) -> tuple[list[Tensor], list[Tensor]]:
    """A random direction, and one of size 1 only where gradients lead: a row that padding keeps still is never left."""
    dice = torch.Generator().manual_seed(1)
    by = [torch.randn(p.shape, generator=dice, dtype=p.dtype).to(p) for p in point]
    leads = [sum((g.detach() for g in grads if g is not None), torch.zeros_like(by[n]))
             for n, grads in enumerate(zip(*both, strict=True))]  # fmt: skip
    along = [g * (1 + 0.1 * b) for g, b in zip(leads, by, strict=True)]
    size = max(max((float(w.abs().max()) for w in along if w.numel()), default=0.0), 1e-30)
    return by, [w / size for w in along]


def _product(one: Sequence[Tensor | None], other: Params) -> Tensor:
    terms = [(a * b).sum() for a, b in zip(one, other, strict=False) if a is not None]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def _points(start: Params) -> tuple[Params, Params]:
    """The start of one task, and a point near it."""
    generator = torch.Generator().manual_seed(0)
    near = []
    for p in start:
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
        near.append(p + REACH * max(float(p.abs().double().sum()) / max(p.numel(), 1), 0.1) * noise)
    return [p.clone() for p in start], near
