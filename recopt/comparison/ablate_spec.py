"""The spec of an ablation: a stack cut off at every depth, with the start values of each top as given and scaled."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError, field_validator

from ..checking.errors import RecoptError, shown
from ..checking.explanations import explain
from ..contracts.domains import Positive
from ..levels.completion import RATE
from ..levels.graph import Graph
from ..levels.level import TASK
from ..levels.notation import Term, parse, split
from ..running.plan import plan
from ..running.result import hyperparameters_at
from ..running.spec import MOST_TASKS, NO_SWITCH
from ..running.start import available
from ..stacks.named import Named, deepen, written
from .compare_spec import CompareSpec, CompetitorSpec

LEAST_SEEDS = 5
"""The fewest seeds whose interval says something: Student's t multiplies the error of two by 13."""
LEAST_STEPS = 2
"""The fewest steps that the highest level has to make."""


class AblateSpec(CompareSpec):
    """Everything that determines an ablation. ``stacks`` follows from the rest.

    Attributes:
        stack: stack notation, of two layers or more.
        settings: as for ``recopt run --set``; each depth takes those that it has a place for.
        steps: the budget of each run, in evaluations of the task.
        scales: factors on the start values of the two highest levels of each depth, besides 1.
    """

    stack: str
    settings: list[str] = Field(default_factory=list)
    scales: list[Annotated[float, Field(gt=0, allow_inf_nan=False), NO_SWITCH]] = Field(
        default_factory=lambda: [0.1, 10.0]
    )
    baselines: list[str] = Field(default_factory=list)
    steps: Annotated[int, Field(ge=1), NO_SWITCH] = 500
    seeds: Annotated[int, Field(ge=2, le=MOST_TASKS), NO_SWITCH] = 10
    budget: Literal["steps", "evaluations"] = "evaluations"
    guards: bool = True

    @field_validator("scales")
    @classmethod
    def _without_one(cls, given: list[float]) -> list[float]:
        return sorted({scale for scale in given if scale != 1.0})

    @property
    def depths(self) -> list[str]:
        """The stack cut off at each depth, from one level to all."""
        layers = split(self.stack, "/")
        return ["/".join(layers[:depth]).strip() for depth in range(1, len(layers) + 1)]


def scaled(depth: str, layer: int, scale: float) -> str:
    """The name of the competitor whose layer ``layer`` starts from values that are ``scale`` times the given ones."""
    return f"{depth}, start of level {layer} ×{scale:g}"


def make_ablate_spec(
    data: Mapping[str, Any], where: str = "the ablation", depth: int | None = None
) -> AblateSpec:  # fmt: skip
    """Validate ``data``, and fill in the competitors; ``depth``: repeat the last strategy of the stack up to this.

    Raises:
        RecoptError: with the place of the first mistake; for a stack of one level, too few seeds, and a budget in which
            a level would make no two steps.
    """
    try:
        spec = AblateSpec.model_validate({**data, "stacks": []})
    except ValidationError as why:
        raise RecoptError(f"In {where}: {explain(why, {'': AblateSpec.model_fields})}") from None
    if depth is not None:
        spec = spec.model_copy(update={"stack": _deepened(spec.stack, depth)})
    if len(spec.depths) < 2:
        raise RecoptError(
            f"'{shown(spec.stack)}' has one level, and ablation is of the levels above: give more, as in "
            f"{shown(spec.stack)}/hypergradient, or --depth 2."
        )
    if spec.seeds < LEAST_SEEDS:
        raise RecoptError(f"An interval of {spec.seeds} seeds says nothing: give {LEAST_SEEDS} or more.")
    made = [_Depth(text, spec) for text in spec.depths]
    _check_budget(made[-1].graph, spec)
    entries = [entry for n, one in enumerate(made) for entry in one.competitors(made[n - 1 : n])]
    update: dict[str, Any] = {"stacks": entries}
    return spec.model_copy(update=update | ({"device": available()} if spec.device == "auto" else {}))


def _deepened(stack: str, depth: int) -> str:
    layers, texts = deepen(parse(stack), depth), split(stack, "/")
    return "/".join([*texts, *("+".join(map(_text, layer)) for layer in layers[len(texts) :])])


def _text(term: Term) -> str:
    plain = written(term.name.replace("-", "_"), Named(name=term.name, settings=term.settings))
    return plain + (f"[{','.join(term.only)}]" if term.only else "")


def _check_budget(graph: Graph, spec: AblateSpec) -> None:
    for number in range(len(graph.levels)):
        needed = LEAST_STEPS * graph.evaluations(number)
        if needed > spec.steps:
            title = graph.title(number).removeprefix("level")
            raise RecoptError(
                f"Level{title} makes no {LEAST_STEPS} steps in {spec.steps:,} evaluations: give --steps "
                f"{10 * needed // LEAST_STEPS:,} or so, or a smaller 'every' (--set level{number + 1}.every=…)."
            )


class _Start(NamedTuple):
    """A start value of a level: its setting, ``slot.name``, and the number."""

    key: str
    value: float


class _Depth:
    """The stack at one depth, as competitors."""

    def __init__(self, text: str, spec: AblateSpec) -> None:
        self.text, self.scales, folders = text, spec.scales, spec.plugins or None
        self.layers = spec.depths.index(text) + 1
        self.graph = plan("quadratic", text, seed=spec.seed, plugins=folders).graph
        self.settings = [one for one in spec.settings if self._has(one, spec)]
        if self.settings:
            self.graph = plan("quadratic", text, seed=spec.seed, settings=self.settings, plugins=folders).graph

    def _has(self, setting: str, spec: AblateSpec) -> bool:
        """True if the setting is for a level or a strategy of this depth; those of no depth are refused when read."""
        where = setting.partition(".")[0]
        if where == TASK:
            raise RecoptError(f"'{shown(setting)}' is of the task: put it into its brackets, as in digits(net=cnn).")
        deepest = self.text == spec.depths[-1]
        number = re.fullmatch(r"level(\d+)", where)
        return deepest or (int(number[1]) <= len(self.graph.levels) if number else where in self.graph.slots)

    def starts(self) -> list[_Start]:
        """The start values of the highest strategies: the rate, where there is one, else all positive numbers."""
        graph = self.graph
        tops = {level.by for level in graph.levels} - {level.moves for level in graph.levels}
        found = list[_Start]()
        for slot in sorted(tops or {graph.levels[-1].by}):
            strategy = graph.slots[slot]
            own = {k: v for k, v in hyperparameters_at(strategy).items() if type(strategy._domains[k]) is Positive}
            own = {RATE: own[RATE]} if RATE in own else own
            found += [_Start(f"{slot}.{key}", value) for key, value in own.items()]
        return found

    def competitors(self, below: Sequence[_Depth]) -> Iterator[CompetitorSpec]:
        """The stack at this depth as given, and with start values scaled: its own, and those of the depth below."""
        yield CompetitorSpec(stack=self.text, name=self.text, settings=self.settings)
        for one in (*below, self):
            for scale in self.scales if (starts := one.starts()) else ():
                name, moved = scaled(self.text, one.layers, scale), _settings(starts, scale)
                yield CompetitorSpec(stack=self.text, name=name, settings=[*self.settings, *moved])


def _settings(starts: Sequence[_Start], scale: float) -> list[str]:
    return [f"{key}={float(f'{value * scale:.6g}')!r}" for key, value in starts if math.isfinite(value * scale)]
