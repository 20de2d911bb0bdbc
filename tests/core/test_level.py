"""A level's schedule: what its updates are multiplied by."""

from __future__ import annotations

import pytest
import torch

from recopt.checking.errors import RecoptError
from recopt.levels.level import Level

from .. import engines

COSINE = {1: {"schedule": "cosine", "horizon": 20}}
RULES = {
    "sgd(lr=0.05)": lambda p: torch.optim.SGD(p, lr=0.05),
    "sgd(lr=0.05,momentum=0.9,nesterov=true)": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam(lr=0.05)": lambda p: torch.optim.Adam(p, lr=0.05),
    "adam(lr=0.05,weight_decay=0.1)": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
    "rmsprop(lr=0.02)": lambda p: torch.optim.RMSprop(p, lr=0.02),
}


@pytest.mark.parametrize("stack", RULES)
def test_a_cosine_is_torchs_schedule_of_the_learning_rate(stack: str) -> None:
    made = engines.engine(engines.Regression(), stack, COSINE)
    model = made.family.module(0)
    optimizer = RULES[stack](model.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    task = engines.Regression()
    for index in range(20):
        optimizer.zero_grad()
        task.loss(model, task.batch(index)).backward()
        optimizer.step()
        scheduler.step()
    made.run(20)
    for ours, theirs in zip(engines.params(made), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-14)


def test_after_its_horizon_a_cosine_moves_nothing() -> None:
    made = engines.engine(engines.Regression(), "adam(lr=0.05)", COSINE)
    made.run(20)
    before = engines.params(made)
    made.run(25)
    assert all(torch.equal(a, b) for a, b in zip(before, engines.params(made), strict=True))


def test_a_cosine_begins_anew_where_the_slot_starts_afresh() -> None:
    settings = {1: COSINE[1], 2: {"episode": 20, "every": 5}}
    made = engines.engine(engines.Bowl(), "sgd(lr=0.1)/adam", settings)
    made.run(60)
    sizes = engines.Recorder.series(made.sink, 1, "update_norm")
    assert sizes[20] > 10 * sizes[19] and sizes[40] > 10 * sizes[39]


def test_hypergradients_pass_through_a_schedule() -> None:
    # One update of SGD at half the rate: dJ/d(log lr) = -f lr g·g', against central differences of the exact unroll.
    def final(lr: float) -> float:
        made = engines.engine(engines.Bowl(), f"sgd(lr={lr})", COSINE)
        made.run(6)
        return engines.losses(made)[-1]

    settings = {1: COSINE[1], 2: {"every": 5, "gradient": "unroll", "second_order": True, "normalize": "none",
                                  "objective": "last", "guard": False}}  # fmt: skip
    made = engines.engine(engines.Bowl(), "sgd(lr=0.3)/sgd(lr=1e-9)", settings)
    made.run(6)
    signal = engines.Recorder.series(made.sink, 2, "signal_norm")[0]
    step = 1e-5
    wanted = (final(0.3 * 2.718281828459045**step) - final(0.3 * 2.718281828459045**-step)) / (2 * step)
    assert signal == pytest.approx(abs(wanted), rel=1e-7)


@pytest.mark.parametrize("settings", [{"schedule": "cosine"}, {"horizon": 10}])
def test_a_schedule_without_its_length_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(RecoptError, match=r"Level 1 .*set both 'schedule' and 'horizon', or neither"):
        engines.graph("adam", {1: settings})


def test_the_factor_falls_from_one_to_zero() -> None:
    level = Level(moves="task", by="x", schedule="cosine", horizon=4)
    assert [round(level.factor(n), 12) for n in range(6)] == [1.0, 0.853553390593, 0.5, 0.146446609407, 0.0, 0.0]
    assert Level(moves="task", by="x").factor(3) == 1.0


def test_a_curriculum_grows_by_equal_factors_in_whole_windows() -> None:
    level = Level(moves="a", by="b", every=5, episode=80, curriculum=8)
    assert [level.length(age) for age in range(11)] == [5, 5, 10, 10, 20, 25, 40, 55, 80, 80, 80]
    assert Level(moves="a", by="b", every=5, episode=80).length(0) == 80
    assert Level(moves="a", by="b", every=5).length(3) is None
    assert Level(moves="a", by="b", every=7, episode=7 * 125, curriculum=1).length(1) == 875
