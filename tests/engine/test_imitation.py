"""Imitation: what a teacher is asked, what its answers count for, and what cannot be imitated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from recopt.checking.errors import RecoptError
from recopt.engine.engine import Engine
from recopt.levels.graph import Graph
from recopt.levels.level import Level
from recopt.running.plan import Plan, plan, replan
from recopt.running.spec import write_spec
from recopt.stacks.plugins import load_strategy

from .. import engines
from ..differences import Net, signal_of

UNROLL: dict[str, Any] = {"gradient": "unroll", "every": 3}


def taught(teacher: str, imitate: int = 1000, **more: Any) -> dict[str, Any]:
    return {**UNROLL, "teacher": teacher, "imitate": imitate, **more}


def apart(made: Engine) -> list[float]:
    assert isinstance(made.sink, engines.Recorder)
    return made.sink.series(2, "imitation")


@pytest.mark.parametrize("tasks", [1, 3])
def test_the_distance_is_that_of_the_updates_relative_to_the_teachers(tasks: int) -> None:
    made = engines.engine(engines.Regression(), "sgd(lr=0.05)/sgd(lr=1e-30)", {2: taught("sgd(lr=0.2)")}, tasks=tasks)
    made.run(13)
    assert apart(made) == pytest.approx([(0.05 / 0.2 - 1) ** 2] * 4, rel=1e-12)


SAME: dict[str, tuple[str, dict[int, dict[str, Any]], int]] = {
    "one task": ("adam(lr=0.02)", {2: taught("adam(lr=0.02)", episode=6)}, 1),
    "tasks": ("adam(lr=0.02)", {2: taught("adam(lr=0.02)", episode=6)}, 3),
    "by turns": ("adam(lr=0.02)", {2: taught("adam(lr=0.02)", episode=6, stagger=True)}, 3),
    "a schedule": ("adam(lr=0.02)", {1: {"schedule": "cosine", "horizon": 5}, 2: taught("adam(lr=0.02)")}, 1),
    "exact": ("adam(lr=0.02)", {2: taught("adam(lr=0.02)", episode=6, second_order=True)}, 2),
    "groups": ("adam(lr=0.02)[*bias]+adam@b(lr=0.02)[*weight]", {3: taught("adam(lr=0.02)", episode=6), 4: UNROLL}, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_a_teacher_that_is_the_same_rule_would_have_done_the_same(name: str) -> None:
    # Its state is its own: it begins anew where the task does, and sees what the rule sees.
    stack, settings, tasks = SAME[name]
    made = engines.engine(engines.Regression(), f"{stack}/sgd(lr=1e-30)", settings, tasks=tasks)
    made.run(40)
    number = max(settings) if name != "groups" else 3
    assert isinstance(made.sink, engines.Recorder)
    found = made.sink.series(number, "imitation")
    assert len(found) == 13
    assert max(found) < 1e-20


def test_a_teacher_moves_nothing() -> None:
    without = engines.engine(engines.Regression(), "adam(lr=0.02)/sgd(lr=1e-30)", {2: UNROLL})
    made = engines.engine(engines.Regression(), "adam(lr=0.02)/sgd(lr=1e-30)", {2: taught("sgd(lr=0.5)")})
    for engine in (without, made):
        engine.run(30)
    # Without a teacher the rule works in place, with one on a tape.
    assert engines.losses(made) == pytest.approx(engines.losses(without), rel=1e-13)
    assert [row["gradient"] for row in made.budget.plain()] == [row["gradient"] for row in without.budget.plain()]


def test_what_a_guard_puts_back_is_not_compared() -> None:
    class Faulty(engines.Regression):
        def batch(self, index: int, split: Any = "train") -> Any:
            x, y = super().batch(index, split)
            return (x, y * float("nan")) if index in (4, 5) and self.seed % 2 else (x, y)

    for tasks in (1, 4):
        stack = "sgd(lr=0.05, momentum=0.5)"
        made = engines.engine(Faulty(seed=1), f"{stack}/sgd(lr=1e-30)", {2: taught(stack)}, tasks=tasks, seed=1)
        made.run(20)
        assert made.state.guard is not None and made.state.guard.counts["restored"] >= 1
        assert all(x == pytest.approx(0, abs=1e-20) or 0 < x < 2 for x in apart(made))


def test_the_weight_falls_to_nothing() -> None:
    level = Level(moves="a", by="b", teacher="t", imitate=4, imitate_weight=2.0)
    assert [level.imitation(age) for age in range(6)] == [2.0, 1.5, 1.0, 0.5, 0.0, 0.0]
    assert Level(moves="a", by="b").imitation(0) == 0.0
    settings = {2: taught("sgd(lr=0.2)", imitate=4, imitate_weight=2.0)}
    plain = engines.engine(engines.Regression(), "sgd(lr=0.05)/sgd(lr=1e-30)", {2: UNROLL})
    made = engines.engine(engines.Regression(), "sgd(lr=0.05)/sgd(lr=1e-30)", settings)
    for engine in (plain, made):
        engine.run(25)
    assert len(apart(made)) == 4
    scores = [engine.sink.series(2, "meta_loss") for engine in (made, plain)]  # type: ignore[attr-defined]
    more = [a - b for a, b in zip(*scores, strict=True)]
    assert more == pytest.approx([w * 0.5625 for w in (2.0, 1.5, 1.0, 0.5)] + [0.0] * 4, abs=1e-12)


def test_the_gradient_with_second_derivatives_dropped() -> None:
    # One window: the gradients that the rule was given are constants, and so are the teacher's answers.
    torch.manual_seed(3)
    rules = {"net": Net(), "q": load_strategy("sgd")(), "t": load_strategy("sgd")(lr=0.2)}

    def grads(more: dict[str, Any]) -> tuple[list[Tensor], Engine]:
        slots = {name: rule for name, rule in rules.items() if more or name != "t"}
        levels = [Level(moves="task", by="net"), Level(moves="net", by="q", normalize="none", **{**UNROLL, **more})]
        made = Engine(engines.Regression(), Graph(levels, slots), dtype=torch.float64)
        signal = signal_of(made, 2)
        assert signal.grads is not None
        return signal.grads, made

    with_, made = grads({"teacher": "t", "imitate": 10, "imitate_weight": 3.0})
    without, _ = grads({})
    phi = [p.detach().clone().requires_grad_() for p in made.state.slots["net"].params]
    slot, point = made.family.fresh(0), [p.detach() for p in made.family.fresh(0).params]
    mover: Any = made.tower.carriers.movers[0]
    total = torch.zeros((), dtype=torch.float64)
    for t in range(3):
        slot.params = point
        batch = made.evaluator.batch(slot, t, "train")
        _, found = made.evaluator.gradient(slot, batch, False)
        seen = [g for g in found if g is not None]
        net = mover.loaded.at(phi)
        ours, _ = net(point, [type("T", (), {"grads": seen})()], {}, None)
        theirs = [-0.2 * g for g in seen]
        gap = sum(((u - v) ** 2).sum() for u, v in zip(ours, theirs, strict=True))
        total = total + gap / sum((v**2).sum() for v in theirs) / 3
        point = [p + u.detach() for p, u in zip(point, ours, strict=True)]
    expected = torch.autograd.grad(3.0 * total, phi)
    for a, b, c in zip(with_, without, expected, strict=True):
        torch.testing.assert_close(a - b, c, rtol=1e-9, atol=1e-12)


def test_a_rule_learns_from_its_teacher() -> None:
    # Its meta-loss falls with every step of any size, but the distance counts for much more.
    settings = {2: taught("sgd(lr=0.1)", imitate=10**6, imitate_weight=1e6)}
    made = engines.engine(engines.Bowl(), "sgd(lr=0.01)/adam(lr=0.05)", settings)
    made.run(3 * 120)
    assert float(made.state.slots["sgd"].params[0].detach().exp()) == pytest.approx(0.1, rel=0.02)
    assert apart(made)[0] > 0.5
    assert apart(made)[-1] < 1e-3


def test_a_teacher_of_trials() -> None:
    settings = {2: {"every": 3, "teacher": "sgd(lr=0.3)", "imitate": 10**6, "imitate_weight": 1e9}}
    made = engines.engine(engines.Bowl(), "sgd(lr=0.05)/annealing(temperature=1e-9)", settings)
    made.run(3 * 80)
    # Nothing but the distance counts, so the rate becomes the teacher's.
    search = made.state.levels[1].search
    point = made.state.slots["sgd"].params if search is None else search.point
    assert float(point[0].detach().exp()) == pytest.approx(0.3, rel=0.1)


LSTM = ("quadratic", "lstm/adam")


def rate(found: Plan, slot: str) -> float:
    strategy = found.graph.slots[slot]
    return strategy.natural({"lr": dict(strategy.named_parameters())["lr"].detach()})["lr"].item()


def test_in_words() -> None:
    made = plan(*LSTM, settings=["level2.teacher=adam(lr=0.02)", "level2.imitate=50"])
    assert (made.spec.levels[1].teacher, made.spec.levels[1].imitate) == ("teacher", 50)
    assert made.spec.strategies["teacher"].settings == {"lr": 0.02}
    assert rate(made, "teacher") == pytest.approx(0.02)
    assert replan(yaml.safe_load(write_spec(made.spec))).spec == made.spec
    # A rate that is left open is the rule's own, and not what it has over a rate.
    assert rate(plan(*LSTM, settings=["level2.teacher=sgd", "level2.imitate=5"]), "teacher") == pytest.approx(0.01)
    assert plan(*LSTM, settings=["level2.teacher=adam", "level2.imitate=5"]).spec.levels[1].teacher == "adam"


REFUSED = {
    "nobody to imitate": (["level2.imitate=5"], "needs somebody to imitate: set 'teacher'"),
    "for how long": (["level2.teacher=sgd"], "'teacher' teaches for how long"),
    "trials": (["level2.teacher=annealing", "level2.imitate=5"], "zero-order, so its steps are trials"),
    "itself": (["level2.teacher=lstm", "level2.imitate=5"], "'lstm' .*learned nothing that it could teach"),
    "unlearned": (["level2.teacher=rnnprop", "level2.imitate=5"], "'rnnprop' has learned nothing"),
    "cosines": (["level2.teacher=hypergradient", "level2.imitate=5"], "reads cosines"),
    "level 1": (["level1.teacher=sgd", "level1.imitate=5"], "set it on the level above"),
    "unknown": (["level2.teacher=adaam", "level2.imitate=5"], "adaam.*Did you mean 'adam'"),
    "misspelt": (["level2.teecher=adam"], "Did you mean 'teacher'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    settings, words = REFUSED[name]
    with pytest.raises(RecoptError, match=words):
        plan(*LSTM, settings=settings)


def test_refusals_of_graphs() -> None:
    sgd, annealing = load_strategy("sgd"), load_strategy("annealing")
    above = {"moves": "a", "by": "b", "imitate": 5}
    with pytest.raises(RecoptError, match=r"level2\.teacher.*Did you mean 'ts'"):
        Graph([Level(moves="task", by="a"), Level(**above, teacher="t")], {"a": sgd(), "b": sgd(), "ts": sgd()})
    with pytest.raises(RecoptError, match="'a' cannot teach itself"):
        Graph([Level(moves="task", by="a"), Level(**above, teacher="a")], {"a": sgd(), "b": sgd()})
    with pytest.raises(RecoptError, match="'a' is zero-order and has no updates"):
        Graph(
            [Level(moves="task", by="a"), Level(**above, teacher="t")],
            {"a": annealing(), "b": annealing(), "t": sgd()},
        )
