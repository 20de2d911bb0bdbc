"""A run, written down: the task, the strategies, the levels, and how long. Read and written as YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..contracts.errors import RecoptError
from ..core.level import Level
from ..core.notation import parse
from ..stacks.named import Named, NamedOrText, explain, written

LARGEST_SEED = 1_000_000_000
"""Seeds from here on are kept for tasks that are no run's own: to compare, to choose by, and to report on."""


MOST_TASKS = 1_000_000
"""Tasks at most, where any number of them can be asked for."""


def _whole(value: object) -> object:
    if isinstance(value, bool):  # which pydantic takes for 0 or 1
        raise ValueError("should be a whole number")
    return value


NO_SWITCH = BeforeValidator(_whole)
"""For a whole number, for which true and false will not do."""


def choice(value: object) -> object:
    """``every=500, tasks=64`` as a mapping. Raises RecoptError for what does not read like that."""
    if not isinstance(value, str):
        return value
    try:
        ((term,),) = parse(f"choose({value})")
    except (RecoptError, ValueError):
        raise RecoptError(f"'choose' should read like every=500, tasks=64, not '{value}'.") from None
    return term.settings


class Choose(BaseModel):
    """How the values of the rule are chosen that a run hands on: see :mod:`recopt.running.selection.chooser`.

    Attributes:
        every: updates of the task between two moments at which the rule is scored; None for a twentieth of the run.
        tasks: fresh tasks that it is scored on, the same ones each time; as many others are reported on.
        steps: updates of each.
        objective: what is scored: the ``sum`` or the ``mean`` of the losses before each update, or the ``last`` loss.
        patience: the run ends after so many moments in a row without a better score; None for never.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: Annotated[int, Field(ge=1), NO_SWITCH] | None = None
    tasks: Annotated[int, Field(ge=2, le=MOST_TASKS), NO_SWITCH] = 64
    steps: Annotated[int, Field(ge=1), NO_SWITCH] = 100
    objective: Literal["sum", "mean", "last"] = "sum"
    patience: Annotated[int, Field(ge=1), NO_SWITCH] | None = None


class Spec(BaseModel):
    """Everything that determines a run.

    Attributes:
        recopt: the version of this format.
        tasks: how many tasks are trained side by side, all by the same strategies.
        steps: updates of the task.
        seed: of everything random in the run; what torch's generators take, without a sign.
        measure: steps between two measurements on held-out data; 0 for only at the start and the end.
        choose: how the values that the run hands on are chosen; None for the last ones.
        plugins: folders and files with strategies and tasks, searched first.

    In a file, ``stack`` may stand for ``strategies`` and ``levels``: see :func:`recopt.running.plan.replan`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    recopt: Literal[1] = 1
    task: NamedOrText
    strategies: dict[str, NamedOrText]
    levels: list[Level]
    tasks: Annotated[int, Field(ge=1, le=MOST_TASKS), NO_SWITCH] = 1
    steps: Annotated[int, Field(ge=1), NO_SWITCH] = 1000
    seed: Annotated[int, Field(ge=0, lt=2**63), NO_SWITCH] = 0
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    measure: Annotated[int, Field(ge=0), NO_SWITCH] | None = None
    choose: Annotated[Choose, BeforeValidator(choice)] | None = None
    plugins: list[str] = []

    @property
    def labels(self) -> dict[str, str]:
        """Each slot as it is written in stack notation."""
        return {slot: written(slot, named) for slot, named in self.strategies.items()}


def make_spec(data: Mapping[str, Any], where: str = "the spec") -> Spec:
    """``data`` checked. Raises RecoptError with the exact place of the first mistake."""
    try:
        return Spec.model_validate(dict(data))
    except ValidationError as why:
        raise RecoptError(f"In {where}: {explain(why, KNOWN)}") from None


SHORT = ("stack", "depth", "settings")
"""What a spec's mapping may have in the place of ``strategies`` and ``levels``."""
RUNS = frozenset({"stack", "strategies", "levels"})
COMPARES = frozenset({"stacks", "baselines", "each", "tune", "tune_tasks", "reference", "guards"})
"""Names that tell the spec of a run, and that of a comparison, from the other."""
KNOWN: Mapping[str, Iterable[str]] = {
    "": [*Spec.model_fields, *SHORT], "task": Named.model_fields, "strategies": Named.model_fields,
    "levels": Level.model_fields, "choose": Choose.model_fields,
}  # fmt: skip
"""The names in a spec's mapping, and in what is nested in it."""


def write_spec(spec: Spec) -> str:
    """``spec`` as YAML, complete, so that it repeats the run."""
    data = spec.model_dump(mode="json")
    data["levels"] = [{k: v for k, v in level.items() if v is not None and v != []} for level in data["levels"]]
    data["strategies"] = {k: _trimmed(v) for k, v in data["strategies"].items()}
    data["task"] = _trimmed(data["task"])
    data = {key: value for key, value in data.items() if key != "choose" or value is not None}
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)


def _trimmed(named: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in named.items() if v or k == "name"}
