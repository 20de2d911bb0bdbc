"""``recopt.History``: the way of the hyperparameters of a :class:`recopt.Optimizer`, as columns and as a picture."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checking.errors import unknown
from ..tracking.trace import Points
from .page import svg
from .style import colour as colour_of
from .style import curve, figure, label, noted, plain, scale

_ACROSS = 3
"""Panels side by side."""


class History:
    """A record of numbers by step, to be given to an optimizer as its ``callback``; one for each optimizer.

        history = recopt.History()
        opt = recopt.Optimizer(model.parameters(), callback=history)
        ...
        steps, rates = history["adam.lr"]
        history.plot().savefig("rates.png")

    It is also called by hand, for what else belongs in the picture: ``history(step, {"loss": loss.item()})``. What
    goes back to an earlier step, as after loading a checkpoint, replaces what came after that. A number takes 16 bytes.
    """

    def __init__(self) -> None:
        self._columns: dict[str, tuple[array[int], array[float]]] = {}

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Keep ``values`` of ``step``."""
        for key, value in values.items():
            if key not in self._columns:
                self._columns[key] = array("q"), array("d")
            steps, column = self._columns[key]
            while steps and steps[-1] >= step:
                steps.pop(), column.pop()
            steps.append(step)
            column.append(value)

    def __getitem__(self, key: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Steps and values of one number, each of shape (n,). Raises RecoptError if there is none of that name."""
        if key not in self._columns:
            raise unknown("number", str(key), self._columns, "in this history")
        steps, column = self._columns[key]
        return np.array(steps, np.int64), np.array(column)

    def columns(self) -> dict[str, NDArray[Any]]:
        """All steps under ``step``, and each number at these, NaN where it has none: ready for a data frame."""
        own = {key: self[key] for key in self._columns}
        steps = np.unique(np.concatenate([np.empty(0, np.int64), *(found for found, _ in own.values())]))
        found: dict[str, NDArray[Any]] = {"step": steps}
        for key, (at, values) in own.items():
            found[key] = np.full(len(steps), np.nan)
            found[key][np.searchsorted(steps, at)] = values
        return found

    def plot(self) -> Any:
        """A ``matplotlib.figure.Figure`` with a panel for each number that moved, and a line on the others."""
        own = {key: Points(0, key, *self[key]) for key in self._columns}
        moved = [column for column in own.values() if (column.values != column.values[0]).any()]
        rows = -(-len(moved) // _ACROSS)
        made = figure(3.2 * min(_ACROSS, max(len(moved), 2)), 2.3 * rows + 0.5)
        for n, column in enumerate(moved):
            axes = plain(made.add_subplot(rows, min(_ACROSS, len(moved)), n + 1))
            curve(axes, column, "", colour_of(n), scale(axes, [column.values]))
            label(axes, column.key, "")
        names = {column.key for column in moved}
        still = [f"{key} {column.values[0]:.4g}" for key, column in own.items() if key not in names]
        noted(made, f"Not moved: {', '.join(still)}" if still else "")
        return made

    def __repr__(self) -> str:
        steps = self.columns()["step"]
        about = f"{len(steps):,} steps to {steps[-1]:,}" if len(steps) else "nothing yet"
        ways = [f"{key}  {values[0]:.4g} → {values[-1]:.4g}" for key, (_, values) in self._columns.items()]
        return "\n".join([f"recopt.History, {about}", *ways])

    def _repr_html_(self) -> str:
        return svg(self.plot())
