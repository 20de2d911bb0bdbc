"""``--depth auto``: levels are added as long as the next one pays, by short paired probes of ``recopt ablate``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..levels.graph import Graph
from ..levels.level import TASK
from ..levels.notation import split
from ..running.plan import plan
from .ablate import run_ablation
from .ablate_spec import LEAST_SEEDS, make_ablate_spec

HIGHEST = 4
"""The most levels that a stack of one layer is deepened to; one of more layers has its own."""
PROBED = 300
"""The most evaluations of one probe."""


class DeepEnough(NamedTuple):
    """A stack of as many levels as pay.

    Attributes:
        stack: in notation.
        settings: those given that it has a place for.
        verdicts: a sentence on each level that was probed, from the second on.
        evaluations: spent on all probes together, besides the run's own.
    """

    stack: str
    settings: list[str]
    verdicts: list[str]
    evaluations: int


def deep_enough(
    task: Mapping[str, Any], stack: str, *, steps: int = 1000, settings: list[str] | None = None,
    told: Callable[[str], None] = lambda sentence: None, **how: Any,
) -> DeepEnough:  # fmt: skip
    """Begin with the first level of ``stack``, and add the next one as long as an ablation finds that it pays.

    It pays if losses are lower with it, or if wrong start values matter less with it and losses are no higher. Each
    probe has five tasks in pairs, and start values ten times too small and too large. The first level that does not pay
    is left out, with all above it.

    Args:
        task: as in a spec.
        stack: of one layer, which is repeated, or of more, which are the levels to choose from.
        steps: of the run; probes have as many evaluations, at most 300.
        settings: as for a run.
        told: called with each verdict as soon as it is there.
        how: ``device``, ``dtype``, ``plugins``, and what :func:`run_ablation` takes.

    Raises:
        RecoptError: for a stack or settings that cannot work; RunFailed for an error in a strategy or task.
    """
    layers = split(stack, "/")
    data: dict[str, Any] = {key: how.pop(key) for key in ("device", "dtype", "plugins") if key in how}
    data |= {"task": task, "steps": min(steps, PROBED), "seeds": LEAST_SEEDS}
    given, made, verdicts, spent = settings or [], layers[0].strip(), list[str](), 0
    folders, top = data.get("plugins") or None, HIGHEST if len(layers) == 1 else len(layers)
    # A setting that no depth has a place for is refused before anything runs.
    plan("quadratic", stack, depth=top, settings=[one for one in given if not _of_the_task(one)], plugins=folders)
    for depth in range(2, 1 + top):
        tried = "/".join(layers[:depth]).strip()
        inside = _within(given, plan("quadratic", tried, depth=depth, plugins=folders).graph)
        spec = make_ablate_spec({**data, "stack": tried, "settings": inside}, "--depth auto", depth)
        found = run_ablation(spec, **how)
        level = found.levels[-1]
        verdicts.append(level.sentence)
        told(level.sentence)
        spent += round(sum(one.runs.evaluations for one in found.entries) * spec.seeds)
        if not level.pays:
            break
        made = spec.stack
    return DeepEnough(made, _within(given, plan("quadratic", made, plugins=folders).graph), verdicts, spent)


def _of_the_task(setting: str) -> bool:
    return setting.partition(".")[0].strip() == TASK


def _within(settings: list[str], graph: Graph) -> list[str]:
    """``settings`` without those of levels and strategies that ``graph`` does not have."""
    levels = [f"level{number}" for number in range(1, 1 + len(graph.levels))]
    return [one for one in settings if one.partition(".")[0].strip() in (TASK, *levels, *graph.slots)]
