"""The protocol of trackers, which take a run's figures as they come, and what they are told of the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from .trace import Points

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class LevelInfo:
    """A level (or a contender) as it is recorded, in a nested run of its own where there are such.

    Attributes:
        number: from 1; 0 is the run itself.
        charts: the section of its curves among those of the run; empty if they stand in the nested run only.
        description: Markdown.
    """

    number: int
    name: str
    strategy: str
    moves: str
    params: Mapping[str, str] = field(default_factory=dict)
    charts: str = ""
    description: str = ""


@dataclass(frozen=True)
class RunInfo:
    """A run as it is recorded: the ``experiment`` it belongs to, its name, settings, levels, and a Markdown text."""

    experiment: str
    name: str
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    levels: Sequence[LevelInfo] = ()
    description: str = ""


@runtime_checkable
class Tracker(Protocol):
    """Takes the figures of one run beside MLflow: ``start``, then ``log`` any number of times, then ``finish``."""

    def start(self, run: RunInfo, folder: Path) -> None:
        """Begin; ``folder`` is that of the run's artifacts."""

    def log(self, points: Iterable[Points]) -> None:
        """Take new points, in a run that is resumed from the beginning. The steps of a column ascend."""

    def finish(self, status: Status, summary: Mapping[str, float], step: int) -> None:
        """End, with figures of the whole run and its last step; without (empty, 0) if it was interrupted or failed."""
