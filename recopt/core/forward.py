"""A step of a level whose strategy is asked by its ``forward`` on tensors: of the task, or of another strategy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from ..contracts import trees
from ..contracts.strategy import Params
from ..levels.level import TASK
from ..levels.state import LevelState, RunState, Signal
from ..rules.answers import Answers, given
from ..rules.coordinates import kept_short, shares
from ..rules.tensors import TensorMover
from .carriers import Carriers
from .evaluation import Around, Moved
from .limits import Cutting, Limits
from .slots import Slots


class Forward:
    """Steps levels by their strategies' ``forward``."""

    def __init__(self, carriers: Carriers, slots: Slots, limits: Limits, around: Around | None) -> None:
        self.carriers, self.slots, self.around = carriers, slots, around
        self.levels, self.setting = carriers.levels, carriers.setting
        self.looking, self.cutting = Answers(self.levels), Cutting(carriers, slots, limits)

    def held(self, state: RunState, number: int) -> Params:
        """The point that a level steps from: with its graph where a tape runs over it, and safe from changes."""
        own, point = state.levels[number], self.slots.point(state, number)
        taped = self.carriers.taped[number]
        if self.levels[number].moves in self.carriers.spaces:
            made = self.slots.tensors(number, point)
            if not taped or not own.live:
                return made
            with torch.enable_grad():
                return [m + (x - x.detach()) for m, x in zip(made, own.live, strict=True)]
        if self.levels[number].moves != TASK or not self.setting.in_place:
            return point
        live = own.live if taped and _unmoved(own, point) else []
        return [*live, *(p.detach().clone() for p in point[len(live) :])]

    def step(
        self, state: RunState, number: int, signal: Signal, factors: Sequence[float], rng: Generator
    ) -> Moved | None:
        """One step of a level on ``signal``; None if what came out is not finite and is left out.

        Args:
            factors: on the update, per task.
        """
        own, taped = state.levels[number], self.carriers.taped[number]
        point = self.held(state, number)
        kept = _kept(own, point, signal, factors, rng) if taped and self.setting.remake else None
        before = [(part.strategy, part.normal) for part in own.parts]
        with torch.set_grad_enabled(taped):
            answer, read = self.answers(state, number, signal, point, rng)
            if self._spoilt(number, answer):
                for part, (strategy, normal) in zip(own.parts, before, strict=True):
                    part.strategy, part.normal = strategy, normal
                return None
            update = self._with_null_step(state, number, signal, point, _limited(signal, answer, factors))
            keep = self.cutting.kept(state, number, point, update, factors[0])
            update = update if keep == 1 else _times(update, [keep])
            new = [p + u for p, u in zip(point, update, strict=True)]
        forgotten = keep < 1 and self.carriers.rates[number] is not None and self.carriers.windows[number] > 1
        if forgotten:  # a window is at one rate, and the next one begins here
            new, update, kept = trees.detach(new), trees.detach(update), None
            for part in own.parts:
                part.detach()
        elif kept is not None:
            kept["keep"] = keep
        self._put(state, number, point, new, taped, forgotten)
        return Moved(point, new, update, answer, read, kept)

    def _spoilt(self, number: int, answer: Params) -> bool:
        """True if a guarded level's step of another strategy is not finite."""
        level = self.levels[number]
        return level.guard and level.moves != TASK and not bool(torch.isfinite(trees.norm(answer)))

    def answers(
        self, state: RunState, number: int, signal: Signal, point: Params, rng: Generator
    ) -> tuple[Params, Params]:
        """The strategy's own updates, zero where it has none, and the signals as it read them."""
        level, own, mover = self.levels[number], state.levels[number], self.carriers.movers[number]
        assert isinstance(mover, TensorMover) and signal.grads is not None
        values, cast = self.slots.strategy(state, level.by), self.carriers.cast(number)
        answer: dict[int, Tensor] = {}
        read: Params = []
        found, bound = signal.grads, signal.bound
        own_values = shares(values, point, self.carriers.tasks[number]) if self.carriers.wide[number] else None
        if level.moves in self.carriers.spaces:
            found = self.slots.tensors(number, found)
            bound = None if bound is None else torch.as_tensor(bound, dtype=torch.float64)
        for part in own.parts:
            mine, grads = part.present(point, found)
            if not grads:
                continue
            told = Signal(_to(signal.loss, cast), _all_to(grads, cast), bound=bound)
            mine, values = _all_to(mine, cast), own_values[part.indices[0]] if own_values else values
            closely = self.looking.closely(state, number)
            inputs = given(values, mine, told.loss, told.grads, part.strategy) if closely else None
            made = mover.step(values, level, mine, told, part.strategy, part.normal, rng, self.carriers.tasks[number],
                              closely)  # fmt: skip
            if inputs is not None:
                self.looking.unchanged(number, *inputs)
                self.looking.untouched(number, made.signal, made.left)
            self.looking.fitting(number, made.delta, mine)
            made.delta = kept_short(self.carriers.graph, number, mine, made.delta, own.counts)
            if signal.bad is not None:
                made.strategy = trees.choose(signal.bad, part.strategy, made.strategy)
                made.normal = trees.choose(signal.bad, part.normal, made.normal) if part.normal else {}
            part.strategy, part.normal = made.strategy, made.normal
            read += made.signal
            for k, (i, d) in enumerate(zip(part.indices, made.delta, strict=True)):
                if k not in part.idle:
                    answer[i] = _to(d, point[i].dtype)
        return [answer[i] if i in answer else torch.zeros_like(p) for i, p in enumerate(point)], read

    def again(self, state: RunState, number: int, made_of: dict[str, Any], point: Params) -> tuple[Params, Params]:
        """A step made anew, with its graph, from ``point`` and what else it was made of: the new point, the update."""
        joined = [None] * (sum(len(part.indices) for part in state.levels[number].parts) - len(made_of["grads"]))
        signal = Signal(made_of["loss"], [*made_of["grads"], *joined], bound=made_of["bound"])
        rng = Generator()
        if self.carriers.draws[number]:
            rng.set_state(made_of["rng"].cpu())
        with torch.enable_grad():
            answer, _ = self.answers(state, number, signal, point, rng)
            update = _times(_limited(signal, answer, made_of["factors"]), [made_of["keep"]])
            return [p + u for p, u in zip(point, update, strict=True)], update

    def _with_null_step(self, state: RunState, number: int, signal: Signal, point: Params, update: Params) -> Params:
        """The update, or the way back if the loss rose after the last one and the level asks for that."""
        own = state.levels[number]
        if not self.levels[number].null_step:
            return update
        loss = signal.loss.detach()
        rose = own.score is not None and self.setting.ranks.mean([loss.mean() - own.score.mean()])[0] > 0
        if own.before is not None and rose:
            update = [b - p for b, p in zip(own.before, point, strict=True)]
            own.before = None
            if self.around is not None:
                self.around.log(state, number, {"null_step": 1})
        else:
            own.before, own.score = (point if self.carriers.taped[number] else trees.detach(point)), loss
        return update

    def _put(self, state: RunState, number: int, point: Params, new: Params, taped: bool, forgotten: bool) -> None:
        """Set what is moved, and remember how to take it back."""
        own, level = state.levels[number], self.levels[number]
        # What no tape runs over is a plain value; an optimizee's hyperparameters are leaves of the next window.
        self.slots.put(state, number, new if taped else trees.detach(new))
        if level.moves != TASK:
            own.live = new if taped and level.moves in self.carriers.spaces and not forgotten else []
            return
        for part in own.parts:
            part.recorded = int(not forgotten)
            if level.guard:
                part.kept["point"] = [point[i].detach() for i in part.indices]
        if self.setting.in_place and taped:
            own.live, own.stamp = new, stamp(self.slots.point(state, number))


def _limited(signal: Signal, answer: Params, factors: Sequence[float]) -> Params:
    """The update: shrunk by schedule and guard, none where the guard acted."""
    update = _times(answer, factors)
    return update if signal.bad is None else trees.choose(signal.bad, [torch.zeros_like(d) for d in update], update)


def _kept(own: LevelState, point: Params, signal: Signal, factors: Sequence[float], rng: Generator) -> dict[str, Any]:
    """The inputs from which a step is made anew, after a state was saved while its tape was open."""
    before = [(trees.detach(part.strategy), trees.detach(part.normal)) for part in own.parts]
    return {"point": trees.detach(point), "grads": trees.detach(list(signal.grads or [])), "loss": signal.loss,
            "bound": signal.bound, "factors": list(factors), "rng": rng.get_state(), "before": before}  # fmt: skip


def _unmoved(own: LevelState, point: Params) -> bool:
    """True if a model is at the end of the tape over it. A loaded state has no stamp: values are compared then."""
    if own.stamp:
        return own.stamp == stamp(point[: len(own.stamp)])
    return all(a.dtype == p.dtype and torch.equal(a, p) for a, p in zip(own.live, point, strict=False))


def stamp(point: Params) -> list[tuple[int, int]]:
    """Addresses of tensors, and counts of their changes in place."""
    return [(p.data_ptr(), p._version) for p in point]


def _to(value: Any, dtype: torch.dtype | None) -> Any:
    return value.to(dtype) if dtype is not None and isinstance(value, Tensor) and value.dtype != dtype else value


def _all_to(values: Params, dtype: torch.dtype | None) -> Params:
    return values if dtype is None else [_to(v, dtype) for v in values]


def _times(update: Params, factors: Sequence[float]) -> Params:
    """``update`` times a factor, or one for each task."""
    if len(set(factors)) == 1:
        return list(update) if factors[0] == 1.0 else [d * factors[0] for d in update]
    scale = update[0].new_tensor(factors)
    return [d * scale.view(-1, *[1] * (d.ndim - 1)) for d in update]
