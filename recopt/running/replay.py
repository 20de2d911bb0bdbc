"""Replays: runs that take hyperparameters from the record of another run, and do not search for them again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..checking.errors import RecoptError, quoted, shown
from ..levels.graph import Graph
from ..toolkit.schedule import Schedule, load_schedules
from ..tracking.mlflow.runs import find_single, working_folder
from .relocated import relocated
from .schedules import SCHEDULE, staying
from .spec import Spec, read_spec

KEPT = ("task", "strategies", "levels", "tasks", "steps", "seed", "dtype", "plugins")
"""The fields of a spec that a replay has from the run that it replays, where nothing else is said."""


class Source(NamedTuple):
    """A finished run to be replayed: its folder, its name and id, its schedules by slot, and its steps."""

    folder: Path
    name: str
    run: str
    schedules: Mapping[str, Schedule]
    steps: int

    @classmethod
    def find(cls, ref: str, store: str | None = None) -> Source:
        """The source that ``ref`` names: a run by its id, the beginning of one or its name, or a run's folder.

        Raises:
            RecoptError: if there is none, it is not over, it moved no hyperparameter, or its schedule is damaged.
        """
        folder, name, run, over = Path(ref), Path(ref).name, "", True
        if not (folder / "spec.yaml").is_file():
            found = find_single(store, ref)
            folder, name, run = working_folder(found, store), found.name, found.id
            over = found.status not in ("RUNNING", "KILLED", "SCHEDULED")
        if not (folder / SCHEDULE).is_file():
            nothing = ("moved no hyperparameter of what trains the model, or one for each coordinate, so there is "
                       "nothing to replay: name another")  # fmt: skip
            why = nothing if over else f"is not over: recopt run --resume {ref} goes on with it"
            raise RecoptError(f"Run '{shown(ref)}' {why}.")
        schedules, steps = load_schedules(folder / SCHEDULE)
        return cls(folder, name, run, schedules, steps)

    def base(self) -> dict[str, Any]:
        """The mapping of a spec with all that a replay has from the run, where nothing else is said."""
        data = relocated(read_spec(self.folder / "spec.yaml"), self.folder)
        return {key: value for key, value in data.items() if key in KEPT}

    def stand_in(self, spec: Spec, graph: Graph, stretch: bool) -> dict[str, Any]:
        """The mapping of ``spec`` with this record in the place of the levels that move hyperparameters.

        Args:
            stretch: whether the schedule is stretched to the run's steps; else it goes step by step.

        Raises:
            RecoptError: if the graph has no such hyperparameter, or an end of episodes has no place any more.
        """
        kept = staying(graph)
        slots = list(dict.fromkeys([*(graph.levels[n].by for n in kept), *(graph.levels[n].teacher for n in kept)]))
        data = spec.model_dump(mode="json", exclude={"digests", "replay"})
        data["levels"] = [graph.levels[n].model_dump(mode="json", exclude_none=True) for n in kept]
        data["strategies"] = {slot: one for slot, one in data["strategies"].items() if slot in slots}
        for slot, schedule in self.schedules.items():
            self._fits(graph, slot, schedule, slots)
            own = "replay" if len(self.schedules) == 1 else f"replay_{slot}"
            while own in data["strategies"]:
                own += "_"
            settings: dict[str, Any] = {"record": str(self.folder / SCHEDULE), "of": slot}
            settings |= {"stretch": spec.steps / self.steps} if stretch else {}
            data["strategies"][own] = {"name": "replay", "settings": settings}
            level = {"moves": slot, "by": own, "only": list(schedule.values), "every": 1}
            data["levels"].append({**level, **self._episodes(graph, slot, kept)})
        return {**data, "replay": {"name": self.name, "run": self.run}}

    def refuse(self, settings: Sequence[str], graph: Graph) -> None:
        """Refuse settings that the record stands in for. Raises RecoptError for the first of them."""
        kept = staying(graph)
        slots = {name for n in kept for name in (graph.levels[n].by, graph.levels[n].teacher)}
        for text in settings:
            key = text.partition("=")[0].strip()
            slot, _, name = key.partition(".")
            number = re.fullmatch(r"level(\d+)", slot)
            left_out = int(number[1]) - 1 not in kept if number else slot in graph.slots and slot not in slots
            if (left_out and name != "episode") or (slot in self.schedules and name in self.schedules[slot].values):
                raise RecoptError(
                    f"'{shown(key)}' would have no effect, since the record of run '{self.name}' stands in for it: "
                    "leave it out, or run without 'replay'."
                )

    def _fits(self, graph: Graph, slot: str, schedule: Schedule, slots: list[str | None]) -> None:
        stack, moved = graph.describe(), ", ".join(f"{slot}.{name}" for name in schedule.values)
        if slot not in slots:
            raise RecoptError(f"Run '{self.name}' moved {moved}, and '{shown(stack)}' has no '{slot}' that trains "
                              "something: give a stack with it, or none, for that of the run.")  # fmt: skip
        for name, domain in schedule.domains.items():
            own = graph.slots[slot]._domains.get(name)
            if name not in graph.names[slot] or own is None:
                raise RecoptError(f"Run '{self.name}' moved {slot}.{name}, which '{shown(stack)}' does not have or has "
                                  "switched off: give it there a value that can be moved.")  # fmt: skip
            if repr(own) != domain:
                raise RecoptError(f"Run '{self.name}' moved {slot}.{name} as {domain}, and in '{shown(stack)}' it is "
                                  f"{own!r}: give it the same there.")  # fmt: skip

    def _episodes(self, graph: Graph, slot: str, kept: list[int]) -> dict[str, Any]:
        """The episodes that a level left out ended."""
        for number in graph.movers[slot]:
            level = graph.levels[number]
            if number not in kept and (level.curriculum or level.stagger):
                what = "curriculum" if level.curriculum else "stagger"
                raise RecoptError(f"Level {number + 1} ends episodes with '{what}', which has no place in a replay: "
                                  f"replay a run without it.")  # fmt: skip
            if number not in kept and level.episode:
                return {"episode": level.episode}
        return {}


def replayed(
    data: dict[str, Any], replay: str | None, stretch: bool | None, where: str, store: str | None
) -> tuple[Source | None, bool]:
    """The run that is to be replayed, if any, and whether it is stretched: as asked, or else as ``data`` says.

    A spec's mapping names it as text; what a replay has recorded of its source is a mapping. ``data`` then says so no
    more. Errors are those of :meth:`Source.find`.
    """
    told = data.pop("stretch", None)
    if told is not None and not isinstance(told, bool):
        raise RecoptError(f"In {where}: 'stretch' should be true or false, not {quoted(told)}.")
    if replay is not None or isinstance(data.get("replay"), str):
        named = data.pop("replay", None)
        return Source.find(named if replay is None else replay, store), bool(told if stretch is None else stretch)
    if told or stretch:
        raise RecoptError("'stretch' is of a schedule that is replayed: name the run that found it as 'replay' too.")
    return None, False
