"""Fresh starts: episodes that grow."""

from __future__ import annotations

import pytest

from recopt.engine import Engine

from . import engines


def lengths(made: Engine) -> list[int]:
    """The lengths of the episodes, from the ages at which the task was drawn anew."""
    assert isinstance(made.sink, engines.Recorder)
    return [int(n) for n in made.sink.series(2, "episode")]


@pytest.mark.parametrize("stack", ["sgd/adam", "sgd/annealing"])
def test_a_curriculum_of_lengths(stack: str) -> None:
    made = engines.engine(engines.Bowl(seed=3), stack, {2: {"every": 2, "episode": 16, "curriculum": 12}})
    draws = []
    while made.state.step < 120:
        made.step()
        draws.append((made.state.slots["task"].draw, made.state.slots["task"].age))
    # After k of 12 steps of level 2 an episode may have 8^(k/12) windows of 2 updates: 1, 1, 1, 1, 2, 2, 2, 3, 4, 4, …
    found = lengths(made)
    assert found[:6] == [2, 2, 2, 2, 4, 8]
    assert set(found[6:]) == {16}
    assert max(age for _, age in draws) == 16


def test_a_curriculum_begins_anew_with_what_is_moved() -> None:
    settings = {
        2: {"every": 1, "gradient": "unroll", "episode": 8, "curriculum": 4},
        3: {"every": 2, "gradient": "unroll", "episode": 20},
    }
    made = engines.engine(engines.Bowl(seed=3), "sgd/lstm/sgd", settings)
    made.run(70)
    assert made.state.slots["sgd"].draw >= 2
    assert lengths(made).count(1) >= 3
    assert max(lengths(made)) == 8
