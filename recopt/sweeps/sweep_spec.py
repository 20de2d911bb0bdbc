"""The spec of a sweep: a run, the settings that it is tried with, and how they are searched, as YAML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..checking.errors import RecoptError, unknown
from ..checking.explanations import explain
from ..running.relocated import relocated
from ..running.spec import COMPARES, KNOWN, NO_SWITCH, SHORT, Spec, read_spec, settings_in

GRID, RANDOM = "grid", "random"
MOST_TRIALS = 1_000_000


class AshaSettings(BaseModel):
    """Settings of asynchronous successive halving (see :class:`recopt.search.halving.Halving`).

    Attributes:
        eta: one trial in so many goes on from each rung, and runs so many times as long.
        first: updates of the task up to the first rung; None for the steps of a whole run / eta³.
        at_once: the most parts of trials that are begun before the first of them is known. Decisions follow from it and
            not from the number of workers, so it should be no less than that.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    eta: Annotated[int, Field(ge=2, le=1000), NO_SWITCH] = 3
    first: Annotated[int, Field(ge=1), NO_SWITCH] | None = None
    at_once: Annotated[int, Field(ge=1, le=MOST_TRIALS), NO_SWITCH] = 16


def _asha(value: object) -> object:
    return settings_in("asha", {} if value is True else value, "eta=3, first=50")


def _over(value: object) -> object:
    """``[adam.lr]`` stands for the usual ranges."""
    return dict.fromkeys(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else value


class SweepSpec(BaseModel):
    """Everything that determines a sweep.

    Attributes:
        run: the mapping of a run's spec, whose keys stand beside those of the sweep in a file.
        over: by setting (``adam.lr``, ``level2.every``, ``task.batch_size``, ``stack`` …), the values that are
            searched: see :func:`recopt.search.ranges.axis`. A list of names stands for their usual ranges.
        by: ``grid``, ``random``, or a zero-order strategy, as ``annealing(step=2)``.
        trials: number of different settings; a grid has a number of its own.
        seed: that of each trial's run, and of the draws.
        repeat: runs of each trial, from ``seed``, the next one, and so on; its score is their mean.
        score: ``loss`` or the task's metric on the ``valid`` split, or another of :data:`.trial.FIGURES`.
        asha: stops trials early that are behind: ``eta=3, first=50``; true for the settings' defaults.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: dict[str, Any]
    over: Annotated[dict[str, Any], BeforeValidator(_over)]
    by: str = RANDOM
    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS), NO_SWITCH] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**62), NO_SWITCH] = 0
    repeat: Annotated[int, Field(ge=1, le=1000), NO_SWITCH] = 1
    score: str = "loss"
    asha: Annotated[AshaSettings, BeforeValidator(_asha)] | None = None


_OWN = [name for name in SweepSpec.model_fields if name != "run"]


def make_sweep_spec(data: Mapping[str, Any], where: str = "the spec") -> SweepSpec:
    """Validate a mapping with the keys of a run and of a sweep.

    Raises:
        RecoptError: with the place of the first mistake.
    """
    if found := sorted(COMPARES & data.keys()):
        raise RecoptError(
            f"In {where} '{found[0]}' belongs to a comparison, not to a sweep: give it to 'recopt compare --spec'."
        )
    run = {key: value for key, value in data.items() if key not in _OWN}
    own = {key: value for key, value in data.items() if key in _OWN and value is not None}
    known = [*Spec.model_fields, *SHORT]
    if odd := [key for key in run if key not in known]:
        raise unknown("key", str(odd[0]), [*known, *_OWN], f"in {where}")
    if not data.get("over"):
        raise RecoptError(f"In {where} there is nothing to search over: give 'over', like adam.lr=1e-4..1.")
    try:
        return SweepSpec.model_validate({"run": run, **own})
    except ValidationError as why:
        known_keys = {"": _OWN, "asha": AshaSettings.model_fields, **{k: v for k, v in KNOWN.items() if k}}
        raise RecoptError(f"In {where}: {explain(why, known_keys)}") from None


def read_sweep_spec(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, with plugin files that are missing looked for beside it.

    Raises:
        RecoptError: if it cannot be read, or holds no mapping.
    """
    return relocated(read_spec(path), path.parent)


def write_sweep_spec(spec: SweepSpec) -> str:
    """``spec`` as YAML that repeats the sweep."""
    own = {key: value for key, value in spec.model_dump(mode="json").items() if key != "run" and value is not None}
    return yaml.safe_dump({**spec.run, **own}, sort_keys=False, allow_unicode=True, width=100)
