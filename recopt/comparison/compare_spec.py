"""The spec of a comparison: task, competitors, tuning and length, as YAML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..checking.errors import RecoptError
from ..checking.explanations import explain
from ..running.relocated import relocated
from ..running.spec import COMPARES, MOST_TASKS, NO_SWITCH, RUNS, read_spec
from ..running.start import available
from ..stacks.named import Named, NamedOrText, written
from ..stacks.places import is_export

BASELINES = ("sgd", "nesterov", "rmsprop", "adam", "adamw")


def _competitor(value: object) -> object:
    """A competitor as a mapping: text becomes a ``stack``, and the file of a ``run`` its contents."""
    if isinstance(value, str):
        return {"stack": value}
    if isinstance(value, Mapping) and isinstance(value.get("run"), str):
        path = Path(value["run"])
        return {"name": path.stem, **value, "run": relocated(read_spec(path), path.parent)}
    return value


class CompetitorSpec(BaseModel):
    """A stack, the folder of an export, or a run that trains a stack before the comparison.

    Attributes:
        stack: stack notation, or a folder that ``recopt export`` wrote; with ``run``, it replaces the run's own stack.
        run: a run spec, as ``recopt run --spec`` takes it, or its file. The values that it exports are compared, fixed.
            ``device`` and ``dtype`` default to those of the comparison, whose ``plugins`` are added to the run's.
        repeat: number of trainings, from the run's seed, the next one, and so on.
        name: name in tables; by default the stack, or the name of the run's file.
        settings: as for ``recopt run --set``: ``level2.every=20``.
        trained: evaluations of its meta-training, if the export does not say.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stack: str | None = None
    run: dict[str, Any] | None = None
    repeat: Annotated[int, Field(ge=1, le=1000), NO_SWITCH] = 1
    name: str | None = None
    settings: list[str] = []
    trained: Annotated[int, Field(ge=0), NO_SWITCH] | None = None

    @property
    def mistake(self) -> str | None:
        """The first contradiction among its fields, as the end of a sentence; None if there is none."""
        if self.stack is None and self.run is None:
            return "needs a stack, or a run that trains one."
        if self.run is not None and self.trained is not None:
            return "has a run, which knows what its training takes: leave 'trained' out."
        if self.run is None and self.repeat > 1:
            return "has nothing to repeat: 'repeat' is how often a run is trained."
        return None


class CompareSpec(BaseModel):
    """Everything that determines a comparison.

    Attributes:
        stacks: the competitors besides the baselines.
        baselines: rules to tune, as ``adam``, or ``adam(beta1=0.8)[lr,schedule]`` with what to tune in brackets.
        steps: updates of each task, or with another ``budget`` evaluations, those of trials included.
        seeds: number of test tasks.
        seed: selects the tasks and everything else that is random.
        tune: number of trials of each baseline.
        tune_tasks: number of tasks that each trial is scored on; none of them is a test task.
        measure: the score to compare and to tune for: the ``sum`` of the losses at the ``steps`` evaluations, or the
            ``final`` loss after the last step.
        reference: name of the competitor to compare the others with; by default the best baseline on the tuning tasks,
            or the first competitor if there is no baseline.
        guards: whether the engine's guards act, for all competitors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: NamedOrText
    stacks: list[Annotated[CompetitorSpec, BeforeValidator(_competitor)]] = []
    baselines: list[str] = list(BASELINES)
    steps: Annotated[int, Field(ge=1), NO_SWITCH] = 100
    seeds: Annotated[int, Field(ge=2, le=MOST_TASKS), NO_SWITCH] = 100
    seed: Annotated[int, Field(ge=0, lt=1000), NO_SWITCH] = 0
    tune: Annotated[int, Field(ge=1), NO_SWITCH] = 40
    tune_tasks: Annotated[int, Field(ge=1, le=MOST_TASKS), NO_SWITCH] = 32
    budget: Literal["steps", "evaluations"] = "steps"
    measure: Literal["sum", "final"] = "sum"
    reference: str | None = None
    guards: bool = False
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    plugins: list[str] = []

    @property
    def task_text(self) -> str:
        """The task as one line of text."""
        return written(self.task.name.replace("-", "_"), self.task)


def report_seeds(spec: CompareSpec) -> list[int]:
    """The seeds of the test tasks: 10⁹ + 10⁶ · seed + 0, 1, 2, …, below 2 · 10⁹.

    Tuning tasks have seeds from 2 · 10⁹ to 3 · 10⁹; tasks for choosing and reporting values (see
    :mod:`recopt.running.selection.selector`) from 3 · 10⁹ to 5 · 10⁹. ``recopt run --seed S`` uses S for its first task
    and 63-bit hashes for all others, of which about one in 2 · 10⁹ is below 5 · 10⁹. So with S below 10⁹ no
    competitor is tested on tasks that it was trained, chosen or tuned on.
    """
    return [1_000_000_000 + MOST_TASKS * spec.seed + n for n in range(spec.seeds)]


def tuning_seeds(spec: CompareSpec) -> list[int]:
    """The seeds of the tuning tasks: 2 · 10⁹ + 10⁶ · seed + 0, 1, 2, …"""
    return [2_000_000_000 + MOST_TASKS * spec.seed + n for n in range(spec.tune_tasks)]


_KNOWN = {"": CompareSpec.model_fields, "stacks": CompetitorSpec.model_fields, "task": Named.model_fields}


def make_compare_spec(data: Mapping[str, Any], where: str = "the comparison") -> CompareSpec:
    """Validate ``data``. Raises RecoptError with the place of the first mistake."""
    try:
        spec = CompareSpec.model_validate(dict(data))
    except ValidationError as why:
        raise RecoptError(f"In {where}: {explain(why, _KNOWN)}") from None
    if not spec.stacks and not spec.baselines:
        raise RecoptError(f"In {where} there is nothing to compare: give a stack, or baselines.")
    for number, asked in enumerate(spec.stacks):
        if asked.mistake:
            raise RecoptError(f"In {where}: 'stacks.{number}' {asked.mistake}")
    return spec.model_copy(update={"device": available()}) if spec.device == "auto" else spec


def read_compare_spec(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; exports and run files are also looked for relative to it.

    Raises:
        RecoptError: if it cannot be read, holds no mapping, or is the spec of a run.
    """
    data = read_spec(path)
    if (found := sorted(RUNS & data.keys())) and not COMPARES & data.keys():
        raise RecoptError(
            f"In {path} '{found[-1]}' belongs to a run, not to a comparison: give the file to 'recopt run --spec', or "
            "name it in a comparison as the 'run' of a competitor."
        )
    each = data.get("each")
    for one in [data, *(each if isinstance(each, list) else [])]:
        if isinstance(one, dict) and isinstance(one.get("stacks"), list):
            one["stacks"] = [_found(item, path.parent) for item in one["stacks"]]
    return data


def _found(item: object, folder: Path) -> object:
    if isinstance(item, Mapping):
        found = {**item, **({"stack": _found(item["stack"], folder)} if "stack" in item else {})}
        run = item.get("run")
        if isinstance(run, str) and not Path(run).exists() and (folder / run).exists():
            found["run"] = str(folder / run)
        elif isinstance(run, Mapping):
            found["run"] = relocated(run, folder)
        return found
    if isinstance(item, str) and not is_export(Path(item)) and is_export(folder / item):
        return str(folder / item)
    return item


def write_compare_spec(spec: CompareSpec) -> str:
    """``spec`` as complete YAML that repeats the comparison."""
    data = spec.model_dump(mode="json")
    data["task"] = spec.task_text if not spec.task.domains and not spec.task.name.endswith(".py") else data["task"]
    plain = CompetitorSpec().model_dump()
    data["stacks"] = [{k: v for k, v in item.items() if v != plain[k]} for item in data["stacks"]]
    if data["reference"] is None:
        del data["reference"]
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)
