"""Mixtures and rescaled tasks: what they draw, and that they are the tasks they wrap."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

import recopt.tasks
from recopt.checking.errors import RecoptError
from recopt.engine.model import Patched
from recopt.tasks.functions import Rosenbrock
from recopt.tasks.images import Digits
from recopt.tasks.mixture import Mixture
from recopt.tasks.quadratic import Quadratic
from recopt.tasks.rescaled import Rescaled, RescaledModel


def test_members_are_drawn_by_weight() -> None:
    mixture = Mixture(members="quadratic(dim=3) + rosenbrock + rastrigin", weights=[1, 3, 0])
    drawn = Counter(type(mixture.sample(seed).inner).__name__ for seed in range(400))
    assert set(drawn) == {"Quadratic", "Rosenbrock"}
    assert drawn["Rosenbrock"] / 400 == pytest.approx(0.75, abs=0.06)
    equal = Counter(type(Mixture(seed=seed).inner).__name__ for seed in range(400))
    assert equal["Quadratic"] / 400 == pytest.approx(0.5, abs=0.07)


def test_a_mixture_is_its_member() -> None:
    mixture = Mixture(members="quadratic(dim=3) + digits(hidden=[4], batch_size=8)")
    for seed in range(6):
        one = mixture.sample(seed)
        alone = (
            Quadratic(dim=3, seed=seed)
            if isinstance(one.inner, Quadratic)
            else Digits(hidden=[4], batch_size=8, seed=seed)
        )
        torch.manual_seed(seed)
        model = one.model()
        assert torch.equal(one.loss(model, one.batch(2)), alone.loss(model, alone.batch(2)))
        assert one.metrics(model, one.batch(0, "test")) == alone.metrics(model, alone.batch(0, "test"))
        assert (one.metric, one.higher_is_better, one.vectorize) == (
            alone.metric,
            alone.higher_is_better,
            alone.vectorize,
        )
        assert one.batches("train") == alone.batches("train")


def test_a_draw_is_of_one_member() -> None:
    mixture = Mixture(members="quadratic + digits")
    kinds = []
    for n in range(12):
        tasks = mixture.draw([3 * n, 3 * n + 1, 3 * n + 2])
        assert [t.seed for t in tasks] == [3 * n, 3 * n + 1, 3 * n + 2]
        assert len({type(t) for t in tasks}) == 1
        kinds.append(type(tasks[0]))
    assert set(kinds) == {Quadratic, Digits}


def test_the_model_of_another_member_is_refused() -> None:
    mixture = Mixture(members="digits(activation=relu) + digits(activation=tanh)")
    one, other = (next(t for t in map(mixture.sample, range(20)) if t.inner.activation == a) for a in ("relu", "tanh"))  # type: ignore[attr-defined]
    model = one.model()
    assert one.loss(model, one.batch(0)).isfinite()
    assert one.loss(Patched(model).load(list(model.parameters())), one.batch(0)).isfinite()
    for call in (other.loss, other.metrics):
        with pytest.raises(RecoptError, match=r"A member of mixture \(Digits\) got the model of another"):
            call(model, other.batch(0))


def test_mixtures_of_mixtures_draw_one_kind() -> None:
    nested = recopt.tasks.make("mixture", members="mixture(members=quadratic + rosenbrock) + rastrigin")
    kinds = [{type(t) for t in nested.draw([n, 100 + n, 200 + n])} for n in range(40)]
    assert all(len(kind) == 1 for kind in kinds)
    assert {kind.pop().__name__ for kind in kinds} == {"Quadratic", "Rosenbrock", "Rastrigin"}
    scaled = recopt.tasks.make("rescaled", of="mixture(members=quadratic + rosenbrock)")
    assert scaled.loss(scaled.model(), scaled.batch(0)).isfinite()
    for n in range(8):
        drawn = scaled.draw([n, 100 + n])
        assert all(isinstance(t, Rescaled) for t in drawn)
        assert len({type(t.inner) for t in drawn}) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("of", ["quadratic(start=normal)", "digits", "digits(net=cnn)", "sequence(net=transformer)"])
def test_a_rescaled_task_has_the_same_values(of: str) -> None:
    task = Rescaled(of=of, seed=6)
    torch.manual_seed(6)
    model = task.model()
    torch.manual_seed(6)
    plain = task.inner.model()
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in plain.named_parameters()]
    batch = task.batch(0)
    assert torch.allclose(task.loss(model, batch), task.inner.loss(plain, batch), rtol=1e-5)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        scale = model.get_buffer(model._scales[name])  # type: ignore[operator, index]
        assert torch.allclose(ours * scale, theirs, rtol=1e-5)


def test_gradients_are_multiplied_by_the_scales() -> None:
    task = Rescaled(of="digits", seed=2)
    torch.manual_seed(2)
    model = task.model()
    torch.manual_seed(2)
    plain = task.inner.model()
    ours = torch.autograd.grad(task.loss(model, task.batch(0)), list(model.parameters()))
    theirs = torch.autograd.grad(task.loss(plain, task.batch(0)), list(plain.parameters()))
    for n, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert torch.allclose(one, other * model.get_buffer(f"scale_{n}"), rtol=1e-3, atol=1e-7)


def test_scales_are_log_uniform_and_drawn_by_the_seed() -> None:
    def logs(**options: Any) -> torch.Tensor:
        return next(Rescaled(of="quadratic(dim=2000)", **options).model().buffers()).log()

    drawn = logs(seed=1)
    assert float(drawn.abs().max()) <= 3.0
    assert float(drawn.std()) == pytest.approx(3 / 3**0.5, rel=0.05)
    assert torch.equal(drawn, logs(seed=1))
    assert not torch.equal(drawn, logs(seed=2))
    assert not logs(spread=0.0).any()


def test_batch_statistics_and_modes_go_through() -> None:
    task = Rescaled(of="digits(net=cnn)")
    model = task.model()
    before = {n: b.clone() for n, b in model.named_buffers()}
    task.loss(model, task.batch(0))
    changed = {n for n, b in model.named_buffers() if not torch.equal(b, before[n])}
    assert changed == {n for n in before if "running" in n or "tracked" in n}
    model.eval()
    kept = {n: b.clone() for n, b in model.named_buffers()}
    task.loss(model, task.batch(1))
    assert all(torch.equal(b, kept[n]) for n, b in model.named_buffers())


def test_tied_and_frozen_parameters() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
            self.other.weight = self.one.weight
            self.other.bias.requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.other(self.one(x))
            return out

    plain = Tied()
    model = RescaledModel(plain, 2.0, torch.Generator().manual_seed(0))
    x = torch.randn(4, 3)
    assert torch.allclose(model(x), plain(x), rtol=1e-4, atol=1e-6)
    assert [n for n, _ in model.named_parameters()] == ["one.weight", "one.bias", "other.bias"]
    assert [p.requires_grad for p in model.parameters()] == [True, True, False]
    assert torch.equal(model.get_parameter("other.bias"), plain.other.bias)
    with torch.no_grad():
        model.get_parameter("one.weight").zero_()
    assert torch.equal(model(x), plain.other.bias.expand(4, 3))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mixture", {"members": "quadratic + quadratics"}, "Unknown task 'quadratics'. Did you mean 'quadratic'"),
        ("mixture", {"members": "quadratic(dims=3)"}, "Did you mean 'dim'"),
        ("mixture", {"members": "quadratic/rosenbrock"}, "mixture.members should read like"),
        ("mixture", {"members": "quadratic[*]"}, "mixture.members should read like"),
        ("mixture", {"weights": [1, 2, 3]}, "mixture.weights must be 2 numbers of 0 or more"),
        ("mixture", {"weights": [0, 0]}, "not all 0"),
        ("mixture", {"weights": ["a", 1]}, "mixture.weights must be 2 numbers"),
        ("rescaled", {"of": "quadratic + rosenbrock"}, "rescaled.of must be one task"),
        ("rescaled", {"spread": -1.0}, "rescaled.spread must be 0 or more, not -1"),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecoptError, match=message):
        recopt.tasks.make(name, **options)


def test_the_kinds_are_exported_by_name() -> None:
    assert isinstance(recopt.tasks.make("mixture").draw([0])[0], Quadratic | Rosenbrock)
