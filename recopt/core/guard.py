"""The guard: one policy for everything that moves a task's parameters, whoever drives it.

- A gradient or loss that is not finite is skipped: nothing moves.
- Where the next one is not finite either, it is not the batch but the point: the last update is taken back, and updates
  are halved from then on (they recover by 2 % a step).
- A loss above ten times the largest of the first ten is an explosion: the last update is taken back likewise. If the
  next loss is as high, it was not the update (harder data, another weight): losses are compared with that from then on.
- A finite gradient whose squares overflow is skipped; if the next is as large, it is shortened until they do not.
- Where a level above tunes the rate of one task, and none is exact or `es`, no update is longer than a fifth of what it
  moves (the root mean square of the tensors, all together, or 0.01 if they are smaller). It is cut back and the rate
  lowered to match, so that a start value that is far too large costs a step and not the model.
- Tensors that begin at zero are taken for a root mean square of 5 there, if the loss is told. A step of theirs that
  overshot, as the losses tell, is cut to where it was lowest (:mod:`recopt.levels.judgement`).
- No step of a level above moves the coordinate of a bounded domain by more than 1, a factor of e. A longer one is cut,
  and where the level's own rate is tuned, it is lowered to match. A step that is not finite is skipped.

Updates are halved only for an update that was taken back, and to a 64th at the least. With many tasks each has its own
memory; one that fails does not touch the others. Every act is counted and recorded.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..levels.judgement import EXPLODE, Guard, count
from ..levels.state import LevelState
from ..rules.coordinates import STRIDE

SHRINK, GROW, LEAST = 0.5, 1.02, 1 / 64
"""The factor on updates after one that was taken back; its growth at each step; its least value."""
FROZEN = 30
"""Bad evaluations, with no two good ones in a row between them, after which a task is told to be frozen."""
REACH, FLOOR = 0.2, 0.01
"""The longest update where the rate is tuned, relative to the norm of what it moves; the least root mean square that
this norm is taken for."""
ZERO, SIZELESS = 0.1, 5.0
"""The share of FLOOR up to which tensors begin at zero; what stands in its place for those, where losses are told."""
YOUNG, PERIOD = 10, 20
"""Updates are measured at each of the first steps, then this often, and whenever the rate or the gradient has grown."""
TINY = 1e-300


class Check(NamedTuple):
    """An update that was measured: its length over the longest one allowed (1 if it was cut to that), the coordinate of
    the rate, the gradient's norm, the step's number, and the factor on the rate."""

    ratio: float
    rate: float
    norm: float
    step: int
    scale: float


def taken_back(memory: Guard, n: int) -> None:
    """The last update of task ``n`` was taken back."""
    count(memory.counts, "restored")
    memory.tasks[n].shrink = max(memory.tasks[n].shrink * SHRINK, LEAST)


def skip_level(number: int, own: LevelState) -> None:
    """Note that a level's step was no number; warn if none of its first ones was."""
    count(own.counts, "skipped")
    if own.counts["skipped"] == FROZEN and own.steps < FROZEN:
        warnings.warn(f"Level {number + 1} moves nothing: none of its first {FROZEN} steps was a finite number.",
                      RuntimeWarning, stacklevel=2)  # fmt: skip


def stepped(memory: Guard, good: Sequence[bool]) -> None:
    """A step was made on the tasks whose evaluation was good."""
    memory.steps += 1
    for own, stepping in zip(memory.tasks, good, strict=False):
        if stepping:
            own.shrink = min(1.0, own.shrink * GROW)


def frozen(memory: Guard) -> list[bool]:
    """For each task: whether its evaluations have been bad for so long that it stands still."""
    return [own.strikes >= FROZEN for own in memory.tasks]


def worst(memory: Guard, loss: Tensor, wrong: Tensor) -> Tensor:
    """``loss`` with what is ``wrong`` replaced by the worst that would have passed, so that scores stay finite."""
    limit = loss.new_tensor([EXPLODE * (own.reference or 1.0) for own in memory.tasks])
    return torch.where(wrong.view(loss.shape), limit.view(loss.shape), loss)


def due(memory: Guard, level: int, rate: float, norm: float, scale: float) -> bool:
    """True if the length of a level's update has to be looked at: it is not free, and changes slowly later on."""
    found = memory.checks.get(level)
    if found is None or memory.steps <= YOUNG:
        return True
    last = Check(*found)
    logs = [math.log(max(x, TINY)) for x in (norm, last.norm, scale, last.scale)]
    grown = rate - last.rate + logs[0] - logs[1] + logs[2] - logs[3]
    long = last.ratio > 0 and grown > 0 and math.log(last.ratio) + grown > math.log(0.5)
    return long or memory.steps >= last.step + PERIOD


def excess(deltas: Iterable[float]) -> float:
    """The longest step of coordinates of bounded domains over STRIDE; at least 1."""
    return max([1.0, *map(abs, deltas)]) / STRIDE
