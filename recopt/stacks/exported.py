"""Exports: the folders that ``recopt export`` writes, and the strategies made from them.

An export among the plugins is a strategy by its folder's name: a class derived from the exported strategy's own,
which starts from the trained values. It is an ordinary strategy in every other way, at any level.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..checking.digests import digest
from ..checking.errors import Damaged, RecoptError
from ..checking.explanations import explain
from ..contracts.strategy import Strategy
from ..levels.level import TASK, Level
from .named import Named, in_words
from .places import STACK, around, find, shipped_folder

FORMAT = 1
VALUES, PLUGINS = "strategies.safetensors", "plugins"
CARD = "card.md"
_REMEDY = "export the run again with 'recopt export RUN DIR'"


class Manifest(BaseModel):
    """The content of ``stack.json``.

    Attributes:
        recopt: the version of the format.
        task: the task it was trained on, ``tasks`` of them side by side.
        spent: the evaluations that each level spent.
        strategies: by slot; a user's own are in the folder's ``plugins/``.
        levels: those that move the task, and those that trained their strategies.
        chosen: how the run selected the values; None for the values at the run's end.
        digests: those of ``strategies.safetensors`` and of this content, by file; none if it was written by hand.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    recopt: int
    task: Named
    tasks: int = 1
    spent: list[dict[str, float]] = []
    strategies: dict[str, Named]
    levels: list[Level]
    chosen: dict[str, Any] | None = None
    digests: dict[str, str] = {}


_KNOWN = {
    "": Manifest.model_fields, "task": Named.model_fields, "strategies": Named.model_fields,
    "levels": Level.model_fields,
}  # fmt: skip
"""The names of the fields of ``stack.json``, and of those nested in it."""


@dataclass(frozen=True)
class Export:
    """The content of an export's folder; ``values`` by ``slot/parameter``."""

    folder: Path
    manifest: Manifest
    values: Mapping[str, Tensor]

    @property
    def own(self) -> list[Level]:
        """The levels that move the task: they have the trained strategies, and the levels above only trained them."""
        return [level for level in self.manifest.levels if level.moves == TASK]

    @property
    def spent(self) -> int | None:
        """The evaluations of the task spent on training, selection of the values included; None if not known."""
        rows, chosen = self.manifest.spent, self.manifest.chosen
        if not rows:
            return None
        choosing = chosen["spent"]["evaluations"] if chosen else 0
        return int(sum(row.get(key, 0) for row in rows for key in ("loss", "gradient", "products")) + choosing)

    @cached_property
    def card(self) -> str:
        """Its card, or a line that says it has none."""
        rules = " + ".join(in_words(self.manifest.strategies[level.by]) for level in self.own)
        blank = f"{rules}, exported from a run on {in_words(self.manifest.task)}; it has no {CARD}."
        return read_card(self.folder) or blank

    def base(self, slot: str) -> type[Strategy]:
        """The class of the strategy in ``slot``, without values: the folder's own, or a shipped or installed one.

        Shipped ones come first, so that a file of the same name in ``./strategies`` does not change an export.
        """
        places = [place for place in (self.folder / PLUGINS, shipped_folder("strategies")) if place.is_dir()]
        found = find("strategy", self.manifest.strategies[slot].name, places, f"in {self.folder / STACK}")
        return cast("type[Strategy]", found)

    def make(self, slot: str) -> Strategy:
        """The strategy in ``slot`` with its trained values.

        Raises:
            RecoptError: if the values do not fit it.
        """
        named = self.manifest.strategies[slot]
        with self.making():
            made = self.base(slot)(domains=named.domains or None, **named.settings)
        self.fill(made, slot)
        return made

    @contextmanager
    def making(self) -> Iterator[None]:
        """Have rules within a strategy found in the folder; what is drawn is replaced by the trained values."""
        own = self.folder / PLUGINS
        with torch.random.fork_rng(devices=[]), around(0, [own] if own.is_dir() else []):
            yield

    def fill(self, strategy: Strategy, slot: str, given: Iterable[str] = ()) -> None:
        """Copy the values of ``slot`` into ``strategy``, except those of the settings ``given`` by the user.

        Raises:
            RecoptError: if they do not fit.
        """
        given = list(given)
        have = {key.removeprefix(f"{slot}/"): v for key, v in self.values.items() if key.startswith(f"{slot}/")}
        wanted = dict(strategy.named_parameters())
        left = [name for name in have if name not in wanted and not given]
        for name in [*wanted, *left]:
            if name in given:
                continue
            found, parameter = have.get(name), wanted.get(name)
            if found is not None and found.ndim == 1 and parameter is not None and not parameter.ndim:
                raise RecoptError(
                    f"{self.folder} has a {name} of '{slot}' for each coordinate of the model that it was found on "
                    "(scope=coordinate), and is of no use to another: go on with that run by --resume."
                )
            if found is None or parameter is None or found.shape != parameter.shape:
                raise self._unfit(slot, name, given)
            with torch.no_grad():
                parameter.copy_(found)

    def _unfit(self, slot: str, name: str, given: list[str]) -> RecoptError:
        if given:
            text = f"The values in {self.folder} were trained with other settings: leave out {', '.join(given)}."
            return RecoptError(text)
        where = self.folder / VALUES
        return RecoptError(f"{where} does not fit '{slot}': {name} is missing or of another shape; {_REMEDY}.")


class Trained(Strategy):
    """A strategy that starts from the values in an export; see :func:`trained_class`, which makes its subclasses.

    Given settings override the trained values, if the others still fit then.
    """

    export: ClassVar[Export]
    slot: ClassVar[str]
    name: ClassVar[str]

    def __init__(self, *, domains: Mapping[str, str] | None = None, **given: Any) -> None:
        if domains:
            raise RecoptError(f"'{self.name}' was trained in domains of its own: leave 'domains' out.")
        named = self.export.manifest.strategies[self.slot]
        with self.export.making():
            super().__init__(domains=named.domains or None, **{**named.settings, **given})
        self._made_with = {"domains": None, **given}  # so that a new one made with these is trained too
        self.export.fill(self, self.slot, given)

    def named(self) -> Named:
        """The exported strategy by name, without its values, with the settings it has here."""
        base = self.export.manifest.strategies[self.slot]
        given = {key: value for key, value in self._made_with.items() if key != "domains"}
        return Named(name=base.name, settings={**base.settings, **given}, domains=base.domains)

    def __reduce__(self) -> tuple[Any, ...]:
        """Its class is made, and found in no module: a pickle names the folder it is made from."""
        return _unmade, (self.export.folder, self.name), self.__dict__

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(deepcopy(self.__dict__, memo))
        return copied


def _unmade(folder: Path, name: str) -> Trained:
    made = trained_class(folder, name)
    return made.__new__(made)


def trained_class(folder: Path, name: str) -> type[Trained]:
    """The strategy ``name`` made from the export in ``folder``; its docstring is the export's card.

    Raises:
        RecoptError: if it is no export, does not fit its strategy, or holds several strategies that share a task.
    """
    export = read_folder(folder)
    if len(export.own) != 1 or export.own[0].only:
        raise RecoptError(
            f"{folder} has one strategy for each part of a task, which no single name can stand for: give the folder "
            "itself to 'recopt compare' or recopt.Optimizer."
        )
    level = export.own[0]
    base = export.base(level.by)
    kept = {"normalize": level.normalize} if level.normalize not in (None, "none") else {}
    made: type[Trained] = type(
        "".join(part.capitalize() for part in name.replace("_", "-").split("-")),
        (Trained, base),
        {
            "__doc__": export.card, "__module__": base.__module__, "export": export, "slot": level.by, "name": name,
            "level": {**base.level, **kept},
        },
    )  # fmt: skip
    made()  # values that do not fit are refused now
    return made


def read_folder(folder: Path) -> Export:
    """The content of the export in ``folder``.

    Raises:
        RecoptError: if it is no export, or is damaged.
    """
    try:
        told = json.loads((folder / STACK).read_text())
        values = load_file(str(folder / VALUES))
    except (OSError, ValueError, SafetensorError) as why:  # ValueError: no JSON, or no text
        raise RecoptError(f"{folder} is no export of recopt ({why}): write one with 'recopt export RUN DIR'.") from None
    if not isinstance(told, dict) or told.get("recopt") != FORMAT:
        have = told.get("recopt") if isinstance(told, dict) else None
        raise RecoptError(f"{folder} has format {have}, and this recopt reads {FORMAT}.")
    try:
        manifest = Manifest.model_validate(told)
    except ValidationError as why:
        text = explain(why, _KNOWN).removesuffix(".")
        raise RecoptError(f"{folder / STACK} is not as recopt writes it ({text}): {_REMEDY}.") from None
    lost = [level.by for level in manifest.levels if level.by not in manifest.strategies]
    if lost or not any(level.moves == TASK for level in manifest.levels):
        what = f"it lacks the strategy '{lost[0]}'" if lost else "nothing in it moves a task"
        raise RecoptError(f"{folder / STACK} is not as recopt writes it ({what}): {_REMEDY}.")
    for name, known in manifest.digests.items():
        if known != (digest_of(told) if name == STACK else file_digest(folder / name)):
            raise Damaged(f"{folder / name} is not as it was written with the rest of the export: {_REMEDY}.")
    broken = [name for name, value in values.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise RecoptError(f"{folder / VALUES} has numbers in '{broken[0]}' that are not finite: train the rule again.")
    return Export(folder, manifest, values)


def digest_of(told: Mapping[str, Any]) -> str:
    """The digest of the content of ``stack.json``, without the digests in it."""
    rest = {key: value for key, value in told.items() if key != "digests"}
    return digest([(STACK, json.dumps(rest, sort_keys=True).encode())])


def file_digest(file: Path) -> str | None:
    """The SHA-256 of a file; None if it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


def read_card(folder: Path) -> str | None:
    """The card in ``folder`` without a title, its first line a summary; None if there is none that can be read."""
    try:
        lines = (folder / CARD).read_text(encoding="utf-8").strip().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    while lines and (not lines[0].strip() or lines[0].startswith("# ")):
        del lines[0]
    return "\n".join(lines) or None
