"""The base of supervised tasks: streams, splits, held-out passes, sharing; with the digits task as its example."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import recopt.tasks
from recopt.checking.errors import RecoptError
from recopt.contracts.settings import option
from recopt.tasks.classifier import moments
from recopt.tasks.images import Digits
from recopt.tasks.supervised import Examples, Supervised, carve


class Plain(Supervised):
    """What a user would write: floats and classes, no validation set."""

    batch_size = option(16, "examples in a batch")
    count: ClassVar[int] = 103
    calls: ClassVar[list[int]] = []

    def data(self) -> Mapping[str, Examples]:
        self.calls.append(1)
        x = torch.arange(float(self.count)).unsqueeze(1).expand(-1, 3)
        return {"train": (x, torch.arange(self.count) % 4), "test": (x[:10], torch.arange(10) % 4)}

    def model(self) -> nn.Module:
        return nn.Linear(3, 4)


class Large(Plain):
    count: ClassVar[int] = 26032


def plain(**options: Any) -> Plain:
    Plain.calls.clear()
    return Plain(**options)


@pytest.mark.parametrize("size", [1, 7, 31, 93, 0])
def test_every_epoch_holds_every_example_once(size: int) -> None:
    task = plain(seed=2, batch_size=size)
    count = len(task.examples("train")[1])
    assert count == 93
    batches = -(-3 * count // (size or count))
    rows = [task.rows(i) for i in range(batches)]
    assert all(len(r) == (size or count) for r in rows)
    stream = torch.cat(rows)
    epochs = [stream[e * count : (e + 1) * count] for e in range(3)]
    assert all(torch.equal(e.sort().values, torch.arange(count)) for e in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], torch.arange(count))


def test_a_batch_holds_the_examples_of_its_rows() -> None:
    task = plain(batch_size=10)
    x, y = task.batch(3)
    held = task.examples("train")
    assert torch.equal(x, held[0][task.rows(3)])
    assert torch.equal(y, held[1][task.rows(3)])
    assert torch.equal(y, x[:, 0].long() % 4)


def test_splits_are_disjoint_and_complete_and_do_not_depend_on_the_seed() -> None:
    one, other = (plain(seed=s) for s in (1, 2))
    train, valid = (set(one.examples(s)[0][:, 0].tolist()) for s in ("train", "valid"))  # type: ignore[arg-type]
    assert not train & valid
    assert train | valid == set(range(103))
    assert len(valid) == 10
    assert torch.equal(one.examples("valid")[0], other.examples("valid")[0])
    assert len(one.examples("test")[1]) == 10


def test_a_given_validation_set_is_kept() -> None:
    data = {s: (torch.zeros(5, 2), torch.zeros(5).long()) for s in ("train", "valid", "test")}
    assert carve(data, 0.5) is data


@pytest.mark.parametrize(("kind", "equal"), [(Plain, True), (Large, False)])
def test_held_out_batches_are_one_pass_in_order(kind: type[Plain], equal: bool) -> None:
    task = kind(batch_size=64)
    for split in ("valid", "test"):
        pieces = [task.batch(i, split) for i in range(task.batches(split))]
        assert torch.equal(torch.cat([x for x, _ in pieces]), task.examples(split)[0])
        sizes = {len(y) for _, y in pieces}
        assert max(sizes) <= 256
        assert max(sizes) - min(sizes) <= (0 if equal else 1)


def test_the_mean_over_equal_pieces_is_the_mean_over_the_split() -> None:
    task = Digits()
    torch.manual_seed(0)
    model = task.model()
    pieces = [task.loss(model, task.batch(i, "test")) for i in range(task.batches("test"))]
    x, y = task.examples("test")
    assert len(pieces) == 2
    assert torch.allclose(torch.stack(pieces).mean(), task.loss(model, (task.prepare(x), y)))


def test_data_are_loaded_once_for_a_task_and_its_samples() -> None:
    task = plain()
    samples = [task.sample(s) for s in range(3)]
    samples[1].batch(0)
    task.batch(0)
    task.to("cpu")
    assert samples[2].examples("train")[0] is task.examples("train")[0]
    assert len(Plain.calls) == 1
    assert copy.copy(task).examples("test")[0] is task.examples("test")[0]
    assert len(Plain.calls) == 1


def test_a_task_travels_without_its_data() -> None:
    task = Digits(seed=4, batch_size=32)
    x, y = task.batch(5)
    again = copy.deepcopy(task)  # goes the way of a task that is sent to another process
    assert task._shared
    assert not again._shared
    assert torch.equal(again.batch(5)[0], x)
    assert torch.equal(again.batch(5)[1], y)


def test_digits_are_the_real_images() -> None:
    task = Digits()
    sizes = {s: len(task.examples(s)[1]) for s in ("train", "valid", "test")}  # type: ignore[arg-type]
    assert sizes == {"train": 1197, "valid": 300, "test": 300}
    x = torch.cat([task.examples(s)[0] for s in ("train", "valid", "test")])  # type: ignore[arg-type]
    assert x.dtype == torch.uint8
    assert x.shape[1:] == (1, 8, 8)
    assert len(torch.unique(x, dim=0)) == 1797  # all images differ, so no split shares one
    batch, labels = task.batch(0)
    assert (batch.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert (batch.shape, labels.shape) == ((64, 1, 8, 8), (64,))
    assert (float(batch.min()), float(batch.max())) == (0.0, 1.0)


def test_normalizations() -> None:
    x, _ = Digits(batch_size=0, normalization="standard").batch(0)
    assert float(x.mean()) == pytest.approx(0, abs=1e-4)
    assert float(x.std()) == pytest.approx(1, abs=1e-3)
    x, _ = Digits(normalization="symmetric").batch(0)
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)


def test_moments_per_channel() -> None:
    x = torch.randint(0, 256, (50, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    x[:, 2] = 51
    mean, deviation = moments((x, torch.zeros(50)), 255.0)
    plane = x.double().transpose(0, 1).flatten(1) / 255
    assert torch.allclose(mean.flatten().double(), plane.mean(1))
    assert torch.allclose(deviation.flatten()[:2].double(), plane.std(1, correction=0)[:2])
    assert deviation.flatten()[2] == 1


def test_accuracy_and_cross_entropy() -> None:
    task, model = plain(), nn.Linear(3, 4)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0]))
    x, y = torch.zeros(4, 3), torch.tensor([1, 1, 0, 3])
    assert task.metrics(model, (x, y))["accuracy"] == 0.5
    scores = torch.log_softmax(model.bias, 0)
    assert torch.allclose(task.loss(model, (x, y)), -(2 * scores[1] + scores[0] + scores[3]) / 4)


def test_widths_depth_and_nets() -> None:
    def shapes(**options: Any) -> list[tuple[int, ...]]:
        return [tuple(p.shape) for p in Digits(**options).model().parameters() if p.ndim > 1]

    assert shapes() == [(20, 64), (10, 20)]
    assert shapes(net="logistic") == [(10, 64)]
    assert shapes(hidden=[30, 7]) == [(30, 64), (7, 30), (10, 7)]
    assert shapes(hidden=16, depth=3) == [(16, 64), (16, 16), (16, 16), (10, 16)]
    assert shapes(net="cnn", channels=[4, 6, 8]) == [(4, 1, 3, 3), (6, 4, 3, 3), (8, 6, 3, 3), (10, 8)]


@torch.no_grad()
def test_initial_weights() -> None:
    torch.manual_seed(0)
    layer = Digits(hidden=[2000], init="normal", init_scale=3.0).model()[1]  # type: ignore[index]
    assert float(layer.weight.std()) == pytest.approx(0.03, rel=0.05)
    assert float(layer.bias.std()) == pytest.approx(0.03, rel=0.1)
    for init, variance in (("he", 2 / 64), ("xavier", 2 / 2064)):
        layer = Digits(hidden=[2000], init=init).model()[1]  # type: ignore[index]
        assert float(layer.weight.var()) == pytest.approx(variance, rel=0.05)
        assert not layer.bias.any()
    torch.manual_seed(1)
    usual = Digits().model()[1]  # type: ignore[index]
    torch.manual_seed(1)
    half = Digits(init_scale=0.5).model()[1]  # type: ignore[index]
    assert torch.equal(half.weight, usual.weight / 2)


def test_batchnorm_keeps_statistics_per_model() -> None:
    task = Digits(net="cnn")
    model = task.model()
    names = [n for n, _ in model.named_buffers()]
    assert names == [f"{i}.{n}" for i in (1, 5) for n in ("running_mean", "running_var", "num_batches_tracked")]
    before = model[1].running_mean.clone()  # type: ignore[index]
    task.loss(model, task.batch(0))
    assert not torch.equal(model[1].running_mean, before)  # type: ignore[index]


def test_digits_can_be_learned() -> None:
    torch.manual_seed(0)
    for options, least in (
        ({"hidden": [32], "activation": "relu"}, 0.93),
        ({"net": "cnn", "activation": "relu"}, 0.95),
    ):
        task = Digits(**options)
        model = task.model()
        adam = torch.optim.Adam(model.parameters(), 1e-2)
        for step in range(150):
            adam.zero_grad()
            task.loss(model, task.batch(step)).backward()
            adam.step()
        model.eval()
        found = [task.metrics(model, task.batch(i, "test"))["accuracy"] for i in range(task.batches("test"))]
        assert float(torch.stack(found).mean()) > least


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": -1}, "digits.batch_size must be 0 or more, not -1"),
        ({"hidden": [0]}, r"digits.hidden must be whole numbers above 0, not \[0\]"),
        ({"hidden": [], "depth": 2}, "digits.depth must be 0 or more, and 0 where hidden is empty, not 2"),
        ({"hidden": [5, 5, 5], "depth": 2}, "digits.depth is 2, but hidden lists 3 layers"),
        ({"net": "cnn", "channels": [2, 2, 2, 2]}, "allow 3"),
        ({"net": "mpl"}, "Did you mean 'mlp'"),
        ({"activation": "swish"}, "digits.activation"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecoptError, match=message):
        Digits(**options)


def test_a_batch_larger_than_the_data_is_refused_when_it_is_first_drawn() -> None:
    task = recopt.tasks.make("digits", batch_size=5000)
    for _ in range(2):
        with pytest.raises(RecoptError, match="batch_size is 5000, but there are 1197 training examples: give fewer"):
            task.batch(0)
