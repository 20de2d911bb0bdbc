"""The spec of a run: task, strategies, levels, number of steps and other settings, as YAML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..checking.errors import RecoptError, shown
from ..checking.explanations import explain
from ..levels.level import LONGEST, Level, Steps
from ..levels.notation import parse
from ..levels.plain_yaml import plain_yaml
from ..stacks.named import Named, NamedOrText, written

LARGEST_SEED = 1_000_000_000
"""Seeds from here on are reserved for the tasks of comparisons, and those that choose and report values."""


MOST_STEPS = 1_000_000
"""The most updates of each fresh task that values are chosen by."""
MOST_TASKS = 1_000_000
"""The most tasks that a run or comparison may have."""


def _whole(value: object) -> object:
    if isinstance(value, bool):  # which pydantic takes for 0 or 1
        raise ValueError("should be a whole number")
    return value


NO_SWITCH = BeforeValidator(_whole)
"""A validator of whole numbers that refuses true and false."""


def parsed_choice(value: object) -> object:
    """Parse ``every=500, tasks=64`` into a mapping. Raises RecoptError for text of another form."""
    return settings_in("choose", value, "every=500, tasks=64")


def settings_in(name: str, value: object, example: str) -> object:
    """The mapping that the text of a field stands for. Raises RecoptError if it does not read like ``example``."""
    if not isinstance(value, str):
        return value
    try:
        ((term,),) = parse(f"{name}({value})")
    except (RecoptError, ValueError):
        raise RecoptError(f"'{name}' should read like {example}, not '{shown(value)}'.") from None
    return term.settings


_UNTIL = re.compile(r"\s*(?:valid_)?(\w+)\s*([<>])\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*", re.IGNORECASE)


class Until(NamedTuple):
    """A bound on a figure measured on held-out data, at which a run ends: ``accuracy > 0.97``."""

    key: str
    above: bool
    bound: float

    @classmethod
    def parse(cls, text: str) -> Until:
        """The bound in ``text``. Raises ValueError for text of another form, and for figures of the test split."""
        found = _UNTIL.fullmatch(text)
        if found is None:
            raise ValueError("should read like accuracy>0.97 or loss<0.1")
        if found[1].startswith("test_"):
            name = found[1].removeprefix("test_")
            raise ValueError(f"should be {name}, on the valid split: the test split is measured at the end only")
        return cls(found[1], found[2] == ">", float(found[3]))


def _until(text: str) -> str:
    Until.parse(text)
    return text


class SelectionSettings(BaseModel):
    """Settings for choosing the exported values of the rule: see :mod:`recopt.running.selection.selector`.

    Attributes:
        every: updates of the task between two scores; None for a twentieth of the run.
        tasks: number of fresh tasks for each score, always the same; the final report uses as many others.
        steps: updates of each fresh task.
        objective: the score: ``sum`` or ``mean`` of the losses before each update, or the ``last`` loss.
        descendants: scores after a candidate's own that count as much as its own: those of what it became in the run.
        patience: the run ends after this number of scores in a row without a better one; None for never.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: Annotated[Steps, NO_SWITCH] | None = None
    tasks: Annotated[int, Field(ge=2, le=MOST_TASKS), NO_SWITCH] = 64
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS), NO_SWITCH] = 100
    objective: Literal["sum", "mean", "last"] = "sum"
    descendants: Annotated[int, Field(ge=0, le=MOST_TASKS), NO_SWITCH] = 0
    patience: Annotated[Steps, NO_SWITCH] | None = None


class Replayed(BaseModel):
    """The run that a schedule was taken from: its ``name`` and its id, ``run``; empty if it was named by its folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    run: str = ""


class Spec(BaseModel):
    """Everything that determines a run.

    Attributes:
        recopt: the version of this format.
        tasks: number of tasks to train side by side, all with the same strategies.
        steps: updates of the task.
        seed: seed of everything random in the run, from 0 to 2⁶³ − 1.
        measure: steps between two measurements on held-out data; 0 measures only at the start and the end.
        choose: how to choose the exported values; None exports the last ones.
        until: a bound on a measurement, such as ``accuracy>0.97``, at which the run ends early.
        patience: the run ends after this number of measurements in a row without a lower held-out loss.
        plugins: folders and files with strategies and tasks, searched first.
        digests: those of the sources of the user's own plugins, by kind and name; recorded, and compared when repeated.
        replay: the run whose schedule its replay levels have; recorded, and in a file that is written by hand the name
            of a run that is to be replayed (see :class:`recopt.running.replay.Source`).

    In a file, ``stack`` may replace ``strategies`` and ``levels``: see :func:`recopt.running.plan.replan`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    recopt: Literal[1] = 1
    task: NamedOrText
    strategies: dict[str, NamedOrText]
    levels: list[Level]
    tasks: Annotated[int, Field(ge=1, le=MOST_TASKS), NO_SWITCH] = 1
    steps: Annotated[Steps, NO_SWITCH] = 1000
    seed: Annotated[int, Field(ge=0, lt=2**63), NO_SWITCH] = 0
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    measure: Annotated[int, Field(ge=0, le=LONGEST), NO_SWITCH] | None = None
    choose: Annotated[SelectionSettings, BeforeValidator(parsed_choice)] | None = None
    until: Annotated[str, AfterValidator(_until)] | None = None
    patience: Annotated[int, Field(ge=1), NO_SWITCH] | None = None
    plugins: list[str] = []
    digests: dict[str, str] = {}
    replay: Replayed | None = None

    @property
    def labels(self) -> dict[str, str]:
        """Each slot in stack notation."""
        return {slot: written(slot, named) for slot, named in self.strategies.items()}


def make_spec(data: Mapping[str, Any], where: str = "the spec") -> Spec:
    """Validate ``data``. Raises RecoptError with the exact place of the first mistake."""
    try:
        return Spec.model_validate(dict(data))
    except ValidationError as why:
        raise RecoptError(f"In {where}: {explain(why, KNOWN)}") from None


_MERGE = "tag:yaml.org,2002:merge"
"""The tag of the merge key ``<<``, which may occur more than once."""
SHORT = ("stack", "depth", "settings")
"""Keys that a spec's mapping may have instead of ``strategies`` and ``levels``."""
RUNS = frozenset({"stack", "strategies", "levels"})
COMPARES = frozenset({"stacks", "baselines", "each", "tune", "tune_tasks", "reference", "guards"})
SWEEPS = frozenset({"over", "by", "trials", "repeat", "score", "asha"})
"""``RUNS``, ``COMPARES``, ``SWEEPS``: keys of which only the spec of a run, a comparison, or a sweep has some."""
KNOWN: Mapping[str, Iterable[str]] = {
    "": [*Spec.model_fields, *SHORT, "stretch"], "task": Named.model_fields, "strategies": Named.model_fields,
    "levels": Level.model_fields, "choose": SelectionSettings.model_fields,
}  # fmt: skip
"""The keys of a spec's mapping and of the mappings nested in it."""


def write_spec(spec: Spec) -> str:
    """``spec`` as complete YAML that repeats the run."""
    data = spec.model_dump(mode="json")
    data["levels"] = [{k: v for k, v in level.items() if v is not None and v != []} for level in data["levels"]]
    data["strategies"] = {k: _trimmed(v) for k, v in data["strategies"].items()}
    data["task"] = _trimmed(data["task"])
    bare = ("choose", "digests", "until", "patience", "replay")
    data = {key: value for key, value in data.items() if key not in bare or value}
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)


def _trimmed(named: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in named.items() if v or k == "name"}


def read_spec(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        RecoptError: if the file cannot be read, holds no mapping, or has a key twice.
    """
    shown_path = shown(str(path), 100)

    def check(node: yaml.Node) -> None:
        if double := _double(node):
            raise RecoptError(f"The spec {shown_path} has {double}: keep one of them.")

    try:
        data = plain_yaml(path.read_text(), check)
    except OSError as why:
        raise RecoptError(f"The spec {shown_path} cannot be read ({why.strerror}): check the path.") from None
    except RecoptError:
        raise
    except (yaml.YAMLError, ValueError) as why:
        mark = getattr(why, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        text = getattr(why, "problem", None) or str(why).partition("\n")[0]
        raise RecoptError(f"The spec {shown_path}{place} is no YAML: {shown(text, 100)}.") from None
    except RecursionError:
        raise RecoptError(f"The spec {shown_path} is nested too deeply: a spec has four levels at most.") from None
    if not isinstance(data, dict):
        raise RecoptError(f"The spec {shown_path} should be a mapping, with a task and a stack to begin with.")
    return data


def _double(root: yaml.Node | None) -> str | None:
    """The first duplicate key and its lines; YAML readers keep the last value without a warning."""
    todo, seen = [root] if root else [], set[int]()
    while todo:
        node = todo.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo += reversed(node.value)
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE):
                line = key.start_mark.line + 1
                if first := lines.get(key.value):
                    both = f"lines {first} and {line}" if line > first else f"line {line}"
                    return f"'{shown(key.value)}' twice, in {both}"
                lines[key.value] = line
            todo += [value for _, value in reversed(node.value)]
    return None
