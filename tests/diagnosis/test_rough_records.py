"""Records of any kind, random and rough, are judged without an error or a warning."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from recopt.diagnosis.remarks import diagnosis
from recopt.diagnosis.signals import figures
from recopt.diagnosis.view import LevelView, RunView
from recopt.diagnosis.windows import signal_tables
from recopt.tracking.trace import Trace

ODD = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e300, -1e300, 1e-300, 1.8e-35, 1.0, -1.0, 1e-13]
KEYS = ("update_norm", "signal_norm", "meta_loss", "signal_cosine", "accepted", "null_step", "restored", "lr",
        "window", "window_agreement", "radius")  # fmt: skip
TOTALS = ("steps", "skipped_total", "restored_total", "bounded_total", "frozen_tasks")
ENDS = ((1.8e-35, 5.5e34), (1e-13, 1 - 1e-13))


def column(dice: np.random.Generator, count: int) -> Any:
    kinds = [
        np.full(count, dice.choice(ODD)),
        np.exp(np.cumsum(30 * dice.standard_normal(count)).clip(-700, 700)),
        dice.choice(ODD, count),
        np.geomspace(1e-9, dice.choice([1e-9, 1.0, 1e9]), count),
        dice.standard_normal(count),
    ]
    return kinds[dice.integers(len(kinds))]


def rough(seed: int) -> RunView:
    dice = np.random.default_rng(seed)
    trace, levels = Trace(), list[LevelView]()
    count = int(dice.choice([0, 1, 2, 5, 49, 50, 120]))
    for number, keys in enumerate([("loss", "test_accuracy"), *[KEYS] * int(dice.integers(4))]):
        for key in keys:
            for step, value in enumerate(column(dice, int(dice.choice([0, 1, count])) if number else count)):
                trace.add(number, step, {key: float(value)})
        if number:
            moves = "task" if number == 1 else str(dice.choice(["task", "a", "b[lr]", "c[*]", "loss"]))
            start = {"lr": float(dice.choice(ODD))}
            spent = {key: float(dice.choice([0, 49, 50, 1000, math.nan])) for key in TOTALS if dice.random() < 0.5}
            how = str(dice.choice(["", "episodes of 100"]))
            ends = {"lr": ENDS[dice.integers(2)]}
            levels.append(LevelView(number, str(dice.choice(["a", "b"])), moves, how, start, start, spent, ends))
    about = {"task": "x", "stack": "a/b", "status": "FINISHED", "tasks": str(dice.choice(["1", "1,024"]))}
    return RunView("rough", about, {}, tuple(levels), trace)


@pytest.mark.parametrize("part", range(4))
def test_rough_records_are_judged_in_silence(part: int) -> None:
    for seed in range(60 * part, 60 * (part + 1)):
        run = rough(seed)
        assert all(diagnosis(run))
        assert all(len(found.row()) == 8 and found.silent in (True, False) for found in figures(run))
        assert all(len(heads) == len(row) for _, heads, rows in signal_tables(run) for row in rows)
