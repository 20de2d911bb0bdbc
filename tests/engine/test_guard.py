"""Guards: what fails is put back and shrunk, task by task; what keeps failing is frozen; nothing above is poisoned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recopt.contracts.task import Batch, Split
from recopt.contracts.trees import tensors
from recopt.core import guard
from recopt.levels.judgement import FIRST, Guard, TaskGuard, Verdict, judge

from .. import engines


class Faulty(engines.Bowl):
    """A bowl whose loss or gradient goes wrong at some batches, and outside of some radius."""

    at: dict[int, str] = {}  # noqa: RUF012
    only: int | None = None

    def batch(self, index: int, split: Split = "train") -> Batch:
        kind = self.at.get(index, "") if self.only in (None, self.seed) else ""
        return {
            "a": super().batch(index, split),
            "loss": torch.tensor({"nan": float("nan"), "inf": float("inf"), "high": 1e3}.get(kind, 0.0)),
            "slope": torch.tensor(1e308 if kind == "slope" else 0.0, dtype=torch.float64),
        }

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        weight: Any = model.weight
        # Zero, with a slope whose norm is not finite.
        wild = batch["slope"] * (weight - weight.detach()).sum()
        return super().loss(model, batch["a"]) + batch["loss"] + wild


def faulty(at: dict[int, str], **options: Any) -> Faulty:
    task = Faulty(seed=0)
    task.at = at
    for name, value in options.items():
        setattr(task, name, value)
    return task


def acts(made: Any) -> dict[str, int]:
    assert made.state.guard is not None
    return dict(made.state.guard.counts)


@pytest.mark.parametrize("kind", ["nan", "inf", "slope"])
@pytest.mark.parametrize("stack", ["adam(lr=0.05)", "sgd(lr=0.3)/adam/sgd", "sgd(lr=0.1, momentum=0.5)", "lstm"])
@pytest.mark.parametrize("tasks", [1, 2])
def test_one_evaluation_that_is_not_finite_moves_nothing(kind: str, stack: str, tasks: int) -> None:
    made = engines.engine(faulty({6: kind}), stack, tasks=tasks)
    made.run(6)
    before = engines.everything(made), [t.clone() for level in made.state.levels for t in tensors(level.parts)]
    made.step()
    for name, values in engines.everything(made).items():
        assert all(torch.equal(a, b) for a, b in zip(values, before[0][name], strict=True))
    after = [t for level in made.state.levels for t in tensors(level.parts)]
    assert all(torch.equal(a, b) for a, b in zip(after, before[1], strict=True))
    assert acts(made).get("skipped") == tasks and "restored" not in acts(made)
    made.run(40)
    assert all(t.isfinite().all() for values in engines.everything(made).values() for t in values)
    assert isinstance(made.sink, engines.Recorder)
    assert made.sink.series(1, "skipped")[0] == tasks
    losses = engines.losses(made)
    assert losses[-1] < losses[0] or stack == "lstm"  # which is not trained


@pytest.mark.parametrize("stack", ["adam(lr=0.05)", "sgd(lr=0.3)/adam/sgd", "sgd(lr=0.1, momentum=0.5)", "lstm"])
@pytest.mark.parametrize("tasks", [1, 2])
def test_what_goes_on_being_bad_is_taken_back_and_updates_are_halved(stack: str, tasks: int) -> None:
    made = engines.engine(faulty({6: "nan", 7: "nan"}), stack, tasks=tasks)
    made.run(5)
    before = engines.params(made)
    made.run(6)
    assert made.state.guard is not None
    shrink = made.state.guard.tasks[0].shrink
    made.run(8)
    for a, b in zip(engines.params(made), before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    assert [own.shrink for own in made.state.guard.tasks] == [shrink * guard.SHRINK] * tasks
    assert acts(made) | {"bounded": 0} == {"skipped": 2 * tasks, "restored": tasks, "bounded": 0}
    made.run(40)
    assert all(t.isfinite().all() for values in engines.everything(made).values() for t in values)


@pytest.mark.parametrize("stack", ["adam(lr=0.05)", "sgd(lr=0.1, momentum=0.5)/sgd"])
def test_an_explosion_is_taken_back_at_once(stack: str) -> None:
    made = engines.engine(faulty({20: "high"}), stack)
    made.run(19)
    before = engines.params(made)
    made.run(21)
    for a, b in zip(engines.params(made), before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    assert acts(made)["restored"] == 1
    made.run(60)
    assert engines.losses(made)[-1] < engines.losses(made)[0]


def test_a_bad_evaluation_with_a_graph_through_it() -> None:
    made = engines.engine(
        faulty({6: "nan", 13: "slope"}), "adam(lr=0.05)/adam",
        {2: {"gradient": "unroll", "second_order": True, "every": 4}},
    )  # fmt: skip
    made.run(40)
    assert all(t.isfinite().all() for values in engines.everything(made).values() for t in values)
    assert made.state.levels[1].steps >= 8


def test_without_a_guard_it_diverges() -> None:
    made = engines.engine(faulty({6: "slope"}), "sgd", {0: {"guard": False}})
    made.run(10)
    assert max(float(p.abs().max()) for p in engines.params(made)) > 1e100


def test_only_the_task_that_fails_is_touched() -> None:
    seeds = [t.seed for t in engines.engine(faulty({}), "adam", tasks=3).family.drawn(0).tasks]
    well = engines.engine(faulty({}), "adam(lr=0.05)", tasks=3)
    made = engines.engine(faulty({6: "nan", 7: "nan"}, only=seeds[1]), "adam(lr=0.05)", tasks=3)
    well.run(20)
    made.run(20)
    for a, b in zip(engines.params(well), engines.params(made), strict=True):
        assert torch.equal(a[[0, 2]], b[[0, 2]])
        assert not torch.equal(a[1], b[1])
        assert b.isfinite().all()
    assert made.state.levels[0].parts[0].strategy["steps"] == 20
    assert acts(made) == {"skipped": 2, "restored": 1}
    assert made.state.guard is not None
    first, second, *_ = made.state.guard.tasks
    assert second.shrink < 1 == first.shrink


def test_normalizers_of_the_tasks_that_go_on_are_not_touched() -> None:
    seeds = [t.seed for t in engines.engine(faulty({}), "sgd", tasks=2).family.drawn(0).tasks]
    settings = {1: {"normalize": "rms"}}
    well = engines.engine(faulty({}), "sgd(lr=0.05)", settings, tasks=2)
    made = engines.engine(faulty({6: "nan"}, only=seeds[1]), "sgd(lr=0.05)", settings, tasks=2)
    well.run(20)
    made.run(20)
    assert torch.equal(engines.params(well)[0][0], engines.params(made)[0][0])
    assert all(t.isfinite().all() for t in tensors(made.state.levels[0].parts[0].normal))


STAGGER = {2: {"gradient": "unroll", "every": 2, "episode": 12, "stagger": True}}


def test_what_a_task_failed_at_in_an_earlier_episode_is_forgotten() -> None:
    # Task 1 of 2 begins anew after six updates, where its first draw has just failed twice.
    seeds = [t.seed for t in engines.engine(faulty({}), "sgd", tasks=2).family.drawn(0).tasks]
    made = engines.engine(faulty({4: "nan", 5: "nan"}, only=seeds[1]), "adam(lr=0.05)/sgd(lr=1e-30)", STAGGER, tasks=2)
    made.run(6)
    assert made.state.guard is not None and made.state.guard.tasks[1].shrink < 1
    made.run(15)
    after = made.state.guard
    assert [(own.shrink, own.strikes) for own in after.tasks] == [(1.0, 0)] * 2
    assert after.counts == {"skipped": 2, "restored": 1}
    seed = made.family.members(made.state.slots["task"])[1].seed
    alone = Faulty(seed=seed)
    single = engines.engine(alone, "adam(lr=0.05)", seed=seed)
    single.run(15 - 6)
    for a, b in zip(engines.params(made), engines.params(single), strict=True):
        torch.testing.assert_close(a[1], b, rtol=1e-10, atol=1e-13)
    # The worst of its own first losses is what the next ones are measured by.
    assert single.state.guard is not None
    assert after.tasks[1].reference == pytest.approx(single.state.guard.tasks[0].reference, rel=1e-10)


@pytest.mark.parametrize("kind", ["nan", "slope"])
def test_a_fresh_start_that_fails_touches_no_other_task(kind: str) -> None:
    seeds = [t.seed for t in engines.engine(faulty({}), "sgd", tasks=2).family.drawn(1).tasks]
    well = engines.engine(faulty({}), "adam(lr=0.05)/sgd(lr=1e-30)", STAGGER, tasks=2)
    made = engines.engine(faulty({0: kind}, only=seeds[1]), "adam(lr=0.05)/sgd(lr=1e-30)", STAGGER, tasks=2)
    for engine in (well, made):
        engine.run(7)
    start = made.family.fresh(1).params[0][1]
    assert torch.equal(engines.params(made)[0][1], start)
    assert not torch.equal(engines.params(well)[0][1], start)
    for engine in (well, made):
        engine.run(30)
    assert torch.equal(engines.params(made)[0][0], engines.params(well)[0][0])
    assert all(t.isfinite().all() for t in tensors(made.state) if t.is_floating_point())
    assert acts(made)["skipped"] == 1


def test_a_task_that_keeps_failing_stands_still_and_says_so() -> None:
    made = engines.engine(faulty(dict.fromkeys(range(5, 120), "nan")), "sgd(lr=0.1)/sgd")
    with pytest.warns(RuntimeWarning, match=r"'task' stands still at step 34: 30 evaluations had") as told:
        made.run(100)
    assert len(told) == 1
    assert isinstance(made.sink, engines.Recorder)
    assert made.sink.series(1, "frozen") == [1.0]
    held = engines.everything(made)
    made.run(119)
    for name, values in engines.everything(made).items():
        assert all(torch.equal(a, b) for a, b in zip(values, held[name], strict=True))
    # Where losses are good again, it goes on.
    made.run(200)
    assert made.sink.series(1, "frozen") == [1.0, 0.0]
    assert engines.losses(made)[-1] < 0.1 * engines.losses(made)[0]
    # Steps that go well between failures clear the account.
    made = engines.engine(faulty({n: "nan" for n in range(5, 1000) if n % 4 == 0}), "sgd(lr=0.1)")
    made.run(200)
    assert isinstance(made.sink, engines.Recorder)
    assert made.sink.series(1, "frozen") == []


def test_one_task_of_several_is_frozen_alone() -> None:
    seeds = [t.seed for t in engines.engine(faulty({}), "sgd", tasks=2).family.drawn(0).tasks]
    made = engines.engine(faulty(dict.fromkeys(range(5, 1000), "nan"), only=seeds[1]), "sgd(lr=0.02)", tasks=2)
    with pytest.warns(RuntimeWarning, match="at step 34, 1 of 2 tasks: "):
        made.run(80)
    held = engines.params(made)[0]
    made.run(100)
    assert torch.equal(engines.params(made)[0][1], held[1])
    assert not torch.equal(engines.params(made)[0][0], held[0])


class Harder(engines.Regression):
    """Noisy data whose loss is multiplied by a factor from the batch ``at`` on: at once, or by 2 % more at each."""

    at, ramp = 50, False

    def size(self, index: int) -> float:
        return 1.02 ** max(0, index - self.at) if self.ramp else 1e4 if index >= self.at else 1.0

    def batch(self, index: int, split: Split = "train") -> Batch:
        return super().batch(index, split), torch.tensor(self.size(index), dtype=torch.float64)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return super().loss(model, batch[0]) * batch[1]


@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize("ramp", [False, True])
@pytest.mark.parametrize("stack", ["adam(lr=0.02)", "adam(lr=0.02)/hypergradient", "adam(lr=0.02)/annealing"])
def test_losses_that_grow_by_themselves_do_not_stop_a_run(stack: str, ramp: bool, tasks: int) -> None:
    task = Harder(seed=0)
    task.ramp = ramp
    made = engines.engine(task, stack, {2: {"every": 5}} if "annealing" in stack else None, tasks=tasks)
    made.run(400)
    made.flush()
    assert isinstance(made.sink, engines.Recorder)
    assert made.sink.series(1, "resized")
    assert made.state.guard is not None
    assert not any(guard.frozen(made.state.guard))
    assert acts(made)["restored"] < 15 * tasks
    true = [loss / task.size(n) for n, loss in zip(made.sink.steps(0, "loss"), engines.losses(made), strict=True)]
    assert sum(true[-40:]) < 0.7 * sum(true[20:60])


def test_only_an_update_that_is_taken_back_shortens_the_next() -> None:
    made = engines.engine(faulty(dict.fromkeys(range(6, 12), "nan")), "sgd(lr=0.02)/sgd")
    made.run(12)
    assert acts(made) == {"skipped": 6, "restored": 1}
    assert made.state.guard is not None
    (own,) = made.state.guard.tasks
    assert (own.shrink, own.strikes) == (guard.SHRINK, 6)


def test_an_explosion_of_one_batch_changes_nothing_that_losses_are_compared_with() -> None:
    made = engines.engine(faulty({20: "high", 22: "high"}), "sgd(lr=0.02, momentum=0.5)")
    made.run(20)
    assert made.state.guard is not None
    (own,) = made.state.guard.tasks
    before = own.reference
    made.run(40)
    assert own.reference == before
    assert acts(made)["restored"] == 2
    assert isinstance(made.sink, engines.Recorder)
    assert made.sink.series(1, "resized") == []


def test_explosions_are_one_sided_and_need_a_reference() -> None:
    def seen() -> Guard:
        memory = Guard.empty(2)
        memory.tasks = [TaskGuard(reference=1.0, seen=FIRST), TaskGuard(reference=0.5, seen=FIRST - 1)]
        return memory

    good, skip, back = Verdict.GOOD, Verdict.SKIP, Verdict.BACK
    zeros = [0.0, 0.0]
    assert judge(seen(), [-500.0, 7.0], zeros) == [good, good]
    assert judge(seen(), [11.0, float("nan")], zeros) == [back, skip]
    assert judge(seen(), None, zeros) == [good, good]
    assert judge(seen(), [1.0, 1.0], [0.0, float("inf")]) == [good, skip]


def test_improvements_are_no_explosions() -> None:
    # Log ratios start near zero and grow in size: that is no failure.
    settings = {2: {"objective": "improvement", "every": 2, "gradient": "unroll"}}
    made = engines.engine(engines.Bowl(seed=0), "sgd(lr=1e-6)/adam(lr=1.0)", settings)
    made.run(60)
    assert "skipped" not in made.state.levels[1].counts
