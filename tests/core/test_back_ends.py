"""A rule's one text means the same on tensors, in place on columns, and on floats."""

from __future__ import annotations

from types import FunctionType

import pytest
import torch

from recopt import Column, Hypers, Params, Rule, State, Term, positive
from recopt.levels.parts import Part
from recopt.rules.compiled import compiled
from recopt.rules.numbers import NumberMover, NumberSpace, entry_state, reads
from recopt.rules.ops import FOREACH, LEAST_ROOT, NUMBERS, TENSORS, Ops
from recopt.rules.rule import step as step_of

from ..analytic import RULES, SHAPES, InPlace, OnNumbers, Taped, flat, made, names, random

STEPS = 100


@pytest.mark.parametrize("text", RULES)
def test_all_back_ends_agree_over_random_gradients(text: str) -> None:
    rule = made(text)
    tensors, columns, numbers = Taped(rule), InPlace(rule), OnNumbers(rule)
    for step in range(STEPS):
        grads = [g * 10.0 ** (step % 5 - 2) for g in random(step + 1)]
        kept = [g.clone() for g in grads]
        with torch.no_grad():
            tensors.step(grads)
            columns.step(grads)
        numbers.step(grads)
        assert all(torch.equal(a, b) for a, b in zip(grads, kept, strict=True))
        expected = flat(tensors.point)
        torch.testing.assert_close(flat(columns.point), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.tensor(numbers.point, dtype=torch.float64), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("text", RULES)
def test_a_text_that_is_compiled_for_numbers_gives_the_same_bits(text: str) -> None:
    class Plain(Ops):
        differentiates = False

    rule = made(text)
    compiled_step, hyper = compiled(rule, entry_state(rule, 0.0)), NumberSpace(rule).first().value
    assert isinstance(compiled_step, FunctionType)
    one, other = entry_state(rule, 0.0), entry_state(rule, 0.0)
    for gradient, point in random(3, [(STEPS, 2)])[0].tolist():
        expected, other = step_of(rule, Plain(), gradient, point, other, hyper)
        (update,), (one,) = compiled_step([gradient], [point], [one], hyper)
        assert (update, one) == (expected, other)


def test_a_text_that_asks_for_values_is_run_as_it_is() -> None:
    class Early(Rule):
        """Longer steps at first."""

        linear = "lr"
        lr = positive(0.1)

        def init(self, point: Params) -> State:
            return {"steps": 0}

        def advance(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> State:
            return {"steps": state["steps"] + 1}

        def delta(self, ops: Ops, grads: Column, point: Column, state: State, hyper: Hypers) -> list[Term]:
            return [Term(-hyper["lr"] * (2.0 if state["steps"] == 1 else 1.0), grads)]

    rule = Early()
    run, state, updates = compiled(rule, entry_state(rule, 0.0)), entry_state(rule, 0.0), []
    for _ in range(3):
        (update,), (state,) = run([1.0], [0.0], [state], {"lr": 0.1})
        updates.append(update)
    assert updates == [-0.2, -0.1, -0.1]


@pytest.mark.parametrize("text", RULES)
def test_models_larger_than_a_stretch_of_columns_are_the_same(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = made(text)
    whole, parts = InPlace(rule), InPlace(rule)
    for step in range(10):
        whole.step(random(step + 1))
        with monkeypatch.context() as small:
            small.setattr("recopt.rules.columns.CHUNK", 5)
            parts.step(random(step + 1))
    assert all(torch.equal(a, b) for a, b in zip(whole.point, parts.point, strict=True))


@pytest.mark.parametrize("text", RULES)
def test_the_last_update_is_found_again(text: str) -> None:
    rule = made(text)
    moved = frozenset({rule.linear} if rule.linear else {})
    columns = InPlace(rule, moved, 1)
    for step, scale in enumerate((1.0, 0.5, 1.0, 2.0)):
        before = [p.clone() for p in columns.point]
        columns.step(random(step + 1), scale)
        last = columns.mover.last(columns.part, columns.point, columns.numbers)
        assert last is not None
        torch.testing.assert_close(flat(last), flat(columns.point) - flat(before), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("settings", ["", "(beta1=0)", "(beta2=0.5)", "(lr=0.3)"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_accelerator_of_adam_is_its_text_step_by_step(settings: str, dtype: torch.dtype) -> None:
    fast, plain = InPlace(made(f"adam{settings}", plain=False)), InPlace(made(f"adam{settings}"))
    for one in (fast, plain):
        one.point = [p.to(dtype) for p in one.point]
        one.part.strategy = one.mover.begin(one.point)
    close = {"rtol": 1e-12, "atol": 1e-14} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-7}
    for step in range(STEPS):
        grads, scale = [g.to(dtype) for g in random(step + 1)], 1.0 + step % 2
        # Each step from the same state, so that no difference hides behind those before it.
        for a, b in zip(fast.point, plain.point, strict=True):
            a.copy_(b)
        for key in ("mean", "square"):
            torch._foreach_copy_(fast.part.strategy[key], plain.part.strategy[key])
        used = fast.mover.rule.accelerator.step(
            fast.mover.rule, [p.clone() for p in fast.point], grads,
            {**fast.part.strategy, **{k: [t.clone() for t in fast.part.strategy[k]] for k in ("mean", "square")}},
            fast.numbers.value, scale,
        )  # fmt: skip
        assert used
        fast.step(grads, scale)
        plain.step(grads, scale)
        torch.testing.assert_close(flat(fast.point), flat(plain.point), **close)
        for key in ("mean", "square"):
            torch.testing.assert_close(flat(fast.part.strategy[key]), flat(plain.part.strategy[key]), **close)
        assert fast.part.strategy["steps"] == plain.part.strategy["steps"] == step + 1


@pytest.mark.parametrize("settings", ["", "(beta1=0.6)", "(beta2=0.5)", "(lr=0.3,eps=0.001)", "(beta1=0)"])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_the_closed_derivatives_of_adam_are_those_of_its_text(settings: str, dtype: torch.dtype, close: float) -> None:
    fast, plain = (made(f"adam{settings}", plain=kind) for kind in (False, True))
    one, other = (InPlace(rule, frozenset(names(rule)), 1) for rule in (fast, plain))
    for side in (one, other):
        side.point = [p.to(dtype) for p in side.point]
        side.part.strategy = side.mover.begin(side.point)
    for step in range(30):
        grads, cotangents = ([x.to(dtype) for x in random(seed + step)] for seed in (1, 100))
        grads[1][0, 0] = 0.0 if step % 2 else grads[1][0, 0]
        for side in (one, other):
            side.step(grads, 0.5 if step % 3 == 0 else 1.0)
        assert one.slopes(cotangents) == pytest.approx(other.slopes(cotangents), rel=close, abs=close * 1e-12)
    assert ("before" in one.part.kept) == (settings == "(beta1=0)") and "before" in other.part.kept


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("sgd", (True, False, False)),
        ("sgd(momentum=0.9)", (False, False, False)),
        ("sgd(momentum=0.9,nesterov=true)", (True, False, False)),
        ("sgd(weight_decay=0.1)", (True, False, True)),
        ("adam", (False, False, False)),
        ("adam(weight_decay=0.1)", (False, False, True)),
        ("adagrad", (True, False, False)),
    ],
)
def test_it_is_known_what_a_text_reads(text: str, found: tuple[bool, bool, bool]) -> None:
    assert tuple(reads(made(text))) == found


def test_the_vocabulary_is_the_same_in_all_back_ends() -> None:
    a, b = random(1), random(2)
    one = [x.abs() + 0.1 for x in random(3)]
    calls = {
        "lerp": (a, b, 0.3), "lerp_square": (one, b, 0.7), "add_square": (a, b), "decay_add": (a, b, 0.9),
        "turns": ([torch.zeros(s, dtype=torch.float64) for s in SHAPES], a, b), "latest": (a, b), "roots": (one, 0.1),
        "add": (a, b, 0.5), "mul": (a, b), "div": (a, one), "power": (one, 0.3), "maximum": (a, b),
        "at_least": (a, 0.2), "magnitude": (a,),
        "sign": (a,),
    }  # fmt: skip
    for name, arguments in calls.items():
        copies = [[[x.clone() for x in arg] if isinstance(arg, list) else arg for arg in arguments] for _ in range(2)]
        floats = [flat(arg).tolist() if isinstance(arg, list) else arg for arg in arguments]
        expected = flat(getattr(TENSORS, name)(*copies[0]))
        torch.testing.assert_close(flat(getattr(FOREACH, name)(*copies[1])), expected, rtol=1e-14, atol=1e-15)
        word, (first, *_) = getattr(NUMBERS, name), floats
        rows = [[x[i] if isinstance(x, list) else x for x in floats] for i in range(len(first))]
        got = torch.tensor([word(*row) for row in rows], dtype=torch.float64)
        torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-15, msg=name)
    over = [[x.clone() for x in part] for part in (a, b, one)]
    expected = flat(TENSORS.decay_add(over[0], over[1], 0.9, over=over[2]))
    torch.testing.assert_close(flat(FOREACH.decay_add(over[0], over[1], 0.9, over=over[2])), expected)
    assert (NUMBERS.roots(0.0, 0.5), NUMBERS.roots(4.0, 0.5)) == (LEAST_ROOT + 0.5, 2.5)


def test_a_gradient_that_is_missing_is_no_failed_arithmetic() -> None:
    rule = made("sgd")
    space = NumberSpace(rule)
    mover = NumberMover(rule, space, frozenset({"lr"}), 1)
    part = Part([0, 1], mover.begin([1.0, 2.0]))
    with pytest.raises(ValueError, match="1 gradients were given for 2 numbers"):
        mover.step(part, [1.0, 2.0], [0.5], space.first().value)
