"""The exact unroll in segments: the plain one's derivative to rounding, in the memory of a segment."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recopt.checking.errors import RecoptError
from recopt.contracts.task import Batch, Task

from .. import differences
from ..differences import EXACT, Scored, Settings, Wave, Weighted, signal_of
from ..engines import Noisy, Regression, engine, goes_on_bit_for_bit, graph

CASES: dict[str, tuple[str, Settings, int, type[Task], int]] = {
    "hyperparameters": ("rule/rule", {2: {"every": 7}}, 2, Wave, 1),
    "tasks side by side": ("rule/rule", {2: {"every": 5}}, 2, Wave, 3),
    "a learned rule": ("net/rule", {2: {"every": 6}}, 2, Wave, 1),
    "normalized, with a schedule": (
        "rule/rule", {1: {"normalize": "rms", "schedule": "cosine", "horizon": 9}, 2: {"every": 6}}, 2, Wave, 1),
    "last, held-out": ("rule/rule", {2: {"every": 5, "objective": "last", "on": "valid"}}, 2, Wave, 1),
    "improvement, tasks": ("rule/rule", {2: {"every": 4, "objective": "improvement"}}, 2, Wave, 3),
    "groups": ("rule@a[0.*]+rule@a[2.*]/rule", {3: {"every": 5}}, 3, Wave, 1),
    "a loss": ("rule/loss:rule", {2: {"every": 5}}, 2, Weighted, 1),
    "a loss, tasks": ("rule/loss:rule", {2: {"every": 4}}, 2, Scored, 2),
    "a start": ("rule/init:rule", {2: {"episode": 5}}, 2, Wave, 2),
    "an episode": ("rule/rule", {2: {"every": 4, "episode": 4}}, 2, Wave, 1),
}  # fmt: skip


def told(settings: Settings, segments: int | None) -> Settings:
    more = {**EXACT, **({"segments": segments} if segments else {})}
    return {n: {**(s or {}), **({} if n == 1 else more)} for n, s in settings.items()}


@pytest.mark.parametrize("name", CASES)
def test_segments_give_the_gradient_of_the_plain_unroll(name: str) -> None:
    stack, settings, number, task, tasks = CASES[name]
    for windows in (1, 2):
        plain, halves, thirds = (
            signal_of(differences.engine(stack, told(settings, n), tasks, task=task), number, windows=windows)
            for n in (None, 2, 3)
        )
        for found in (halves, thirds):
            assert torch.equal(found.loss, plain.loss.detach())
            for a, b in zip(found.grads or [], plain.grads or [], strict=True):
                assert torch.allclose(a, b.detach(), rtol=1e-12, atol=1e-15)
        assert any(bool(g.any()) for g in plain.grads or [])


@pytest.mark.parametrize("name", ["hyperparameters", "a loss"])
def test_segments_give_what_central_differences_do(name: str) -> None:
    stack, settings, number, task, tasks = CASES[name]
    assert differences.worst(stack, told(settings, 3), number, 2, tasks, task) < 1e-7


def followed(task: Task, stack: str, settings: dict[int, dict[str, Any]], steps: int) -> list[Tensor]:
    made = engine(task, stack, settings, seed=1)
    made.run(steps)
    return [p.detach() for name in made.state.slots for p in made.state.slots[name].params]


@pytest.mark.parametrize("stack", ["adam/sgd[lr,beta1]", "sgd(lr=0.1, momentum=0.5)/adam/sgd"])
def test_dropout_and_batch_statistics_are_the_same_again(stack: str) -> None:
    ends = [followed(Noisy(seed=2), stack, {2: {"every": 6, **EXACT, **more}}, 32) for more in ({}, {"segments": 3})]
    for a, b in zip(*ends, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


class Rough(Regression):
    """A loss that is not finite, or explodes, on some batches."""

    def batch(self, index: int, split: Any = "train") -> Batch:
        x, y = super().batch(index, split)
        return x, y * {4: math.nan, 9: 1e4, 10: math.nan, 11: math.nan}.get(index, 1.0)


def test_what_the_guard_does_is_done_again() -> None:
    ends = [
        followed(Rough(seed=2), "adam/sgd", {2: {"every": 5, **EXACT, **more}}, 30) for more in ({}, {"segments": 2})
    ]
    for a, b in zip(*ends, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def most_kept(settings: dict[str, Any]) -> tuple[int, float]:
    """The most numbers that autograd kept at once over a window, and the evaluations."""
    kept = most = 0

    class Held:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal kept, most
            self.tensor = tensor.detach()  # a node that keeps its own output would never go
            kept += tensor.numel()
            most = max(most, kept)

        def __del__(self) -> None:
            nonlocal kept
            kept -= self.tensor.numel()

    made = engine(Regression(seed=1), "sgd/sgd", {2: {"every": 60, **EXACT, **settings}})
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        made.run(61)
    return most, made.budget.total.gradient


def test_the_tape_is_that_of_a_segment_for_one_more_evaluation_of_most_steps() -> None:
    (whole, once), (part, twice) = most_kept({}), most_kept({"segments": 6})
    assert part < whole / 4
    assert once == 61
    assert twice == 61 + 50  # of all but the first step and the last segment, with its 10


@pytest.mark.parametrize("at", [3, 9, 14])
def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(at: int, tmp_path: Path) -> None:
    def fresh() -> Any:
        return engine(Noisy(seed=2), "adam/sgd[lr,beta1]", {2: {"every": 6, **EXACT, "segments": 3}}, seed=1)

    goes_on_bit_for_bit(fresh, at, 26, tmp_path / "a")


class Drifting(Regression):
    """A loss that depends on how often it was called."""

    calls = 0

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self.calls += 1
        return super().loss(model, batch) * (1 + 1e-6 * max(0, self.calls - 40))


def test_steps_that_lead_elsewhere_are_refused() -> None:
    with pytest.raises(RecoptError, match=r"Level 2 .*made anew led elsewhere.*Drop 'segments'"):
        followed(Drifting(seed=2), "sgd/sgd", {2: {"every": 30, **EXACT, "segments": 3}}, 60)


@pytest.mark.parametrize(
    ("stack", "settings", "why"),
    [
        ("adam/adam", {2: {"every": 6}}, "set second_order=true"),
        ("adam/adam", {2: {"every": 6, "gradient": "forward"}}, "'segments' is of gradient=unroll"),
        ("adam/adam", {2: {"every": 2, **EXACT}}, "a window of 2 has no 3 segments"),
        ("adam/sgd/sgd", {2: {**EXACT}, 3: {"every": 6, "segments": 3, **EXACT}}, "on the level over level 1"),
        ("adam/adam[lr]+annealing[beta1]", {2: {"every": 6, **EXACT}, 3: {"segments": None}}, "take the run back"),
        ("adam/loss:adam+adam", {2: {"every": 6}, 3: {"every": 6, "segments": None, **EXACT}}, "reads the same tape"),
        ("adam/adam", {2: {"every": 6, **EXACT, "penalty_update": 1.0}}, "know no penalty_update"),
        ("adam/adam", {1: {"null_step": True}, 2: {"every": 6, **EXACT}}, "null steps"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_anew_is_refused(stack: str, settings: Settings, why: str) -> None:
    given = {n: {**({"segments": 3} if n == 2 and "on the level" not in why else {}), **(s or {})}
             for n, s in settings.items()}  # fmt: skip
    with pytest.raises(RecoptError, match=why):
        graph(stack, given)
