"""The cosine between successive signals of a level, as it is recorded."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from .. import engines

PLAIN = {2: {"normalize": "none", "guard": False}}


def heard(stack: str, steps: int, settings: Any = PLAIN) -> tuple[list[float], np.ndarray[Any, Any]]:
    """The recorded cosines, and those between successive changes of what level 2, which is plain SGD, moves."""
    made = engines.engine(engines.Regression(), stack, settings)
    slot, values = made.levels[1].moves, []
    for _ in range(steps):
        made.step()
        values.append(torch.cat([p.reshape(-1) for p in engines.params(made, slot)]))
    made.flush()
    assert isinstance(made.sink, engines.Recorder)
    deltas = [b - a for a, b in pairwise(values) if not torch.equal(a, b)]
    wanted = np.array([float(torch.cosine_similarity(a, b, dim=0)) for a, b in pairwise(deltas)])
    return made.sink.series(2, "signal_cosine"), wanted


@pytest.mark.parametrize(
    ("stack", "settings"),
    [
        ("sgd(lr=0.05)/sgd(lr=0.02)", PLAIN),
        ("adam(lr=0.05)/sgd(lr=0.02)[lr,beta1]", PLAIN),
        ("lstm/sgd(lr=0.02)", {2: {**PLAIN[2], "every": 3, "episode": 12}}),
    ],
)
def test_it_is_that_of_the_signals_by_which_the_level_steps(stack: str, settings: Any) -> None:
    told, wanted = heard(stack, 40, settings)
    assert len(told) == len(wanted) >= 10 and np.ptp(told) > 0.01
    np.testing.assert_allclose(told, wanted, atol=1e-7)


def test_it_goes_on_after_a_resume_as_in_a_run_that_was_not_stopped(tmp_path: Path) -> None:
    from recopt.engine.checkpoint import load, save

    def fresh() -> Any:
        return engines.engine(engines.Regression(), "adam(lr=0.05)/sgd(lr=0.02)[lr,beta1]", PLAIN)

    whole, first, second = fresh(), fresh(), fresh()
    whole.run(30)
    first.run(15)
    save(first, tmp_path / "at-15")
    load(second, tmp_path / "at-15")
    second.run(30)
    for made in (whole, first, second):
        made.flush()
    told = [made.sink.series(2, "signal_cosine") for made in (whole, first, second)]
    assert told[0] == told[1] + told[2] and len(told[2]) > 10
