"""``objective: improvement`` on held-out batches: from the held-out loss before the first update of a window."""

from __future__ import annotations

from typing import Any

import pytest

from recopt.levels.seeds import mix

from .. import engines
from .test_episodes import Counting, Normed

HELD = {"every": 3, "on": "valid", "objective": "improvement"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "second derivatives dropped": ("sgd(lr=0.3)/adam", {**HELD, "gradient": "unroll"}),
    "exact": ("sgd(lr=0.3)/adam", {**HELD, "gradient": "unroll", "second_order": True}),
    "carried along": ("sgd(lr=0.3)/adam", {**HELD, "gradient": "forward"}),
    "trials": ("sgd(lr=0.3)/annealing(step=1e-20)", HELD),
}


@pytest.mark.parametrize("name", CASES)
def test_the_first_windows_improve_on_the_held_out_loss_before_them(name: str) -> None:
    stack, settings = CASES[name]
    made = engines.engine(engines.Regression(seed=5), stack, {2: settings})
    task, found = made.family.members(made.state.task)[0], []
    for index in (0, 3):
        made.run(index)
        found.append(engines.loss_at(made, engines.params(made), task.batch(index, "valid")).log())
    made.run(4)
    while not (scores := made.sink.series(2, "meta_loss")):  # type: ignore[union-attr]
        made.step()
    assert scores[0] == pytest.approx(float(found[1] - found[0]), rel=1e-10)


def test_a_task_that_starts_by_turns_improves_on_its_own_held_out_start() -> None:
    settings = {2: {**HELD, "gradient": "unroll", "episode": 12, "stagger": True}}
    made = engines.engine(Normed(seed=7), "counting/sgd", settings, rules={"counting": Counting}, seed=7, tasks=4)
    seen = 0
    while made.state.step < 13:
        made.step()
        slot, (start,) = made.state.task, made.state.levels[1].window.start
        for n, one in enumerate(slot.starts):
            if one.draw and slot.seen - one.seen == 1:
                seed = mix(7, one.draw, n)
                alone = engines.engine(Normed(seed=seed), "sgd", seed=seed)
                expected = engines.loss_at(
                    alone, engines.params(alone), alone.family.members(alone.state.task)[0].batch(0, "valid")
                )
                assert start is not None and float(start.loss[n]) == pytest.approx(float(expected), rel=1e-10)
                seen += 1
    assert seen == 4
    assert made.budget.total.gradient == 4 * (13 + len(made.sink.steps(0, "valid_loss"))) + 2 * seen  # type: ignore[union-attr]
