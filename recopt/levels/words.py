"""Levels in words: for tables, drawings and notebooks."""

from __future__ import annotations

from collections.abc import Mapping

from .level import TASK, Level
from .paces import Paces

_SIGNALS = {
    "none": "", "clip": "signal clipped to norm 1", "clip_each": "signal's outliers clipped",
    "rms": "signal over its recent size", "rms_all": "signal over its usual size", "unit": "signal of norm 1",
    "cosine": "cosine as the signal", "cosines": "two cosines in a row as the signal",
    "log_sign": "log and sign of the signal",
}  # fmt: skip


def target(level: Level, task: str = TASK) -> str:
    """The slot that a level moves, with the patterns on names that it is confined to."""
    return (task if level.moves == TASK else level.moves) + (f"[{','.join(level.only)}]" if level.only else "")


def how(paces: Paces, number: int) -> str:
    """Estimator, timing and transforms of level ``number`` (0-based) in a few words; its normalization at level 1."""
    level = paces.graph.levels[number]
    name = level.normalize or "none"
    signal = _SIGNALS.get(name, f"signal through {name}")
    if level.moves == TASK:
        return signal
    parts = ["at every step" if level.every == 1 else f"every {level.every} steps"]
    if level.longest:
        parts[0] += f" at first (chosen from 1 to {level.longest})"
    elif movers := paces.movers(number):
        parts[0] += f" at first ({', '.join(f'level {n + 1}' for n in movers)} moves that)"
    elif number in paces.spans:
        parts[0] = f"every {paces.spans[number]} steps of level {paces.graph.clock(paces.graph.clock(number)) + 1}"
    if level.gradient == "value":
        parts.insert(0, f"{level.population} trials" if level.population else "trials")
    elif level.gradient == "unroll":
        cut = f" in {level.segments} segments" if level.segments else ""
        parts.insert(0, f"unroll{cut}" if level.second_order else "unroll, second derivatives dropped")
    else:
        noise = f" of {level.pairs} pairs, sigma {level.sigma:g}" if level.perturbs else ""
        parts.insert(0, f"{level.gradient}{noise}")
    if level.episode:
        growth = f" that grow over {level.curriculum} steps" if level.curriculum else ""
        parts.append(f"episodes of {level.episode}{growth}{', staggered' if level.stagger else ''}")
    parts += ["a number for each coordinate"] if level.scope else []
    parts += [signal] if signal else []
    if level.teacher is not None:
        parts.append(f"imitating {level.teacher} for {level.imitate} steps")
    if level.objective != "mean":
        parts.append(f"{level.objective} of the losses" if level.objective in ("sum", "last") else f"{level.objective}")
    if level.on == "valid":
        parts.append("held-out batches")
    return ", ".join(parts)


def rows(paces: Paces, labels: Mapping[str, str], task: str = TASK) -> list[tuple[str, str, str, str]]:
    """Number, strategy, what it moves, and how, of each level, the highest first."""
    found = [
        (f"level {n + 1}", labels.get(level.by, level.by), target(level, task), how(paces, n))
        for n, level in enumerate(paces.graph.levels)
    ]
    return found[::-1]
