"""The card of an export, ``card.md``: training task, training settings, test scores and known failures.

The card is plain text, so its author can complete it by hand. An export fills in the facts that the run recorded and
marks the rest as not measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..levels.level import TASK
from ..stacks.named import in_words

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..tracking.trace import Trace
    from .selection.scores import Selection
    from .spec import Spec

UNKNOWN = "not measured"


def card_of(engine: Engine, spec: Spec, trace: Trace | None = None, chosen: Selection | None = None) -> str:
    """The card of the strategies that ``engine`` trained; the run's ``trace`` gives the meta-losses."""
    task, steps = in_words(spec.task), engine.state.step
    own = [level.by for level in spec.levels if level.moves == TASK]
    taught = any(level.moves in own for level in spec.levels)
    rules = " + ".join(in_words(spec.strategies[slot]) for slot in dict.fromkeys(own))
    facts = "\n".join(f"- {key}: {value}" for key, value in _facts(engine, spec, trace).items())
    many = f", {spec.tasks} side by side" if spec.tasks > 1 else ""
    return (
        f"{rules}, {'trained' if taught else 'as it ran (no level moves it)'} on {task} for {steps:,} steps.\n\n"
        f"## Trained on\n\n{f'`{task}`{many}' if taught else 'nothing'}\n\n## How\n\n{facts}\n\n"
        f"## Tested on\n\n{_tested(task, chosen)}\n\n## Fails on\n\n{UNKNOWN}\n"
    )


def _facts(engine: Engine, spec: Spec, trace: Trace | None) -> dict[str, str]:
    import torch

    from ..public import __version__

    total = engine.budget.total
    facts = {
        "stack": f"`{engine.graph.describe()}`",
        "steps": f"{engine.state.step:,} of {spec.steps:,}",
        "evaluations": f"{total.evaluations:,} of the task, {total.hypergradient:,} hypergradients",
        "seed": f"{spec.seed}",
        "precision": spec.dtype,
        "by": f"recopt {__version__}, torch {torch.__version__.partition('+')[0]}",
    }
    for number, level in enumerate(spec.levels, 1):
        if level.moves != TASK:
            facts[f"meta-loss of level {number} ({level.objective} over {level.every} steps)"] = _ends(trace, number)
    return facts


def _tested(task: str, chosen: Selection | None) -> str:
    """The test scores of the chosen values, on tasks that had no part in choosing them."""
    if chosen is None or not chosen.report:
        return UNKNOWN
    names = {"chosen": "these values", "last": "the last values", "before": "the initial values"}
    scores = [(names[key], score) for key, score in chosen.report.items()]
    lines = [f"- {words}, of step {score.step:,}: {score.words}" for words, score in scores]
    head = f"{chosen.what} of `{task}`, none of which the values were trained or chosen on; mean with its 95 % interval"
    return "\n".join([f"{head}:\n", *lines])


def _ends(trace: Trace | None, number: int) -> str:
    """The mean meta-loss of a level in the last and the first tenth of its run."""
    values = trace.series(number, "meta_loss")[1] if trace else None
    if values is None or not len(values):
        return UNKNOWN
    tenth = max(1, len(values) // 10)
    first, last = (float(sum(part) / tenth) for part in (values[:tenth], values[-tenth:]))
    return f"{last:.4g} in the last tenth of the run, {first:.4g} in the first, on the tasks it was trained on"
