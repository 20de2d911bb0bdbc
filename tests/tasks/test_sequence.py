"""Sequences: the chains, what counts, the models, and that they can be learned."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from recopt.checking.errors import RecoptError
from recopt.tasks.recurrent import LSTM, Transformer
from recopt.tasks.sequence import Sequences


def test_chains_have_the_transitions_they_say() -> None:
    task = Sequences(vocabulary=3, length=50, batch_size=400, sharpness=1.0, seed=4)
    tokens, targets, floor = task.batch(0)
    assert torch.equal(tokens[:, 1:], targets[:, :-1])
    counts = torch.zeros(3, 3, dtype=torch.float64)
    counts.index_put_((tokens.flatten(), targets.flatten()), torch.ones((), dtype=torch.float64), accumulate=True)
    assert torch.allclose(counts / counts.sum(1, keepdim=True), task.chain(), atol=0.02)
    entropy = -(task.chain() * task.chain().log()).sum(1)
    visited = counts.sum(1) / counts.sum()
    assert float(floor) == pytest.approx(float(visited @ entropy), rel=0.02)


def test_the_seed_draws_the_chain() -> None:
    one = Sequences(seed=1)
    assert not torch.allclose(one.chain(), one.sample(2).chain())
    assert torch.equal(one.sample(2).sample(1).chain(), Sequences(seed=1).chain())
    assert torch.allclose(Sequences(sharpness=0.0).chain(), torch.tensor(1 / 8, dtype=torch.float64))


def test_a_perfect_model_has_no_excess() -> None:
    task = Sequences(vocabulary=4, length=64, batch_size=64)

    class Perfect(nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return task.chain().log().float()[tokens]

    for split in ("valid", "test"):
        assert float(task.metrics(Perfect(), task.batch(0, split))["excess"]) == pytest.approx(0, abs=1e-5)  # type: ignore[arg-type]


def test_copies_are_predicted_in_the_second_half_only() -> None:
    task = Sequences(process="copy", length=10, vocabulary=5)
    tokens, targets, floor = task.batch(0)
    assert (tokens.shape, targets.shape, float(floor)) == ((32, 9), (32, 5), 0.0)
    assert torch.equal(torch.cat([tokens, targets[:, -1:]], 1)[:, 5:], targets)
    assert torch.equal(tokens[:, :5], targets)

    class Copier(nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            guess = tokens.roll(4, dims=1)  # what stood 5 before the next
            return 50.0 * nn.functional.one_hot(guess, 5).float()

    measured = task.metrics(Copier(), (tokens, targets, floor))
    assert float(measured["accuracy"]) == 1.0
    assert float(measured["excess"]) == pytest.approx(0, abs=1e-5)


def test_the_lstm_equals_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = LSTM(5, 6, 2).double(), nn.LSTM(6, 6, 2, batch_first=True).double()
    with torch.no_grad():
        for n in range(2):
            getattr(theirs, f"weight_ih_l{n}").copy_(ours.inputs[n].weight)
            getattr(theirs, f"bias_ih_l{n}").copy_(ours.inputs[n].bias)
            getattr(theirs, f"weight_hh_l{n}").copy_(ours.hidden[n].weight)
            getattr(theirs, f"bias_hh_l{n}").zero_()
    tokens = torch.randint(5, (3, 7))
    assert torch.allclose(ours(tokens), ours.head(theirs(ours.embedding(tokens))[0]), atol=1e-12)


def test_the_block_equals_torchs() -> None:
    torch.manual_seed(0)
    model = Transformer(5, 8, 1, 2, 7).double()
    block: Any = model.blocks[0]
    theirs = nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True).double()
    pairs = [
        (theirs.self_attn.in_proj_weight, block.qkv.weight),
        (theirs.self_attn.in_proj_bias, block.qkv.bias),
        (theirs.self_attn.out_proj.weight, block.out.weight),
        (theirs.self_attn.out_proj.bias, block.out.bias),
        (theirs.linear1.weight, block.wide.weight),
        (theirs.linear1.bias, block.wide.bias),
        (theirs.linear2.weight, block.narrow.weight),
        (theirs.linear2.bias, block.narrow.bias),
    ]
    with torch.no_grad():
        for to, ours in pairs:
            to.copy_(ours)
    x = torch.randn(3, 7, 8, dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64)
    assert torch.allclose(block(x), theirs(x, mask, is_causal=True), atol=1e-12)


@pytest.mark.parametrize("net", ["lstm", "transformer"])
def test_no_model_sees_what_comes_later(net: str) -> None:
    model = Sequences(net=net, layers=2).model()
    tokens = torch.randint(8, (2, 16))
    changed = tokens.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 8
    one, other = model(tokens), model(changed)
    assert torch.equal(one[:, :9], other[:, :9])
    assert not torch.equal(one[:, 9:], other[:, 9:])


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"net": "lstm"}, 0.05),
        ({"net": "transformer"}, 0.05),
        ({"net": "transformer", "process": "copy", "length": 8, "vocabulary": 4}, 0.1),
    ],
)
def test_sequences_can_be_learned(options: dict[str, Any], most: float) -> None:
    task = Sequences(**options, width=32)
    model = task.model()
    before = float(task.metrics(model, task.batch(0, "test"))["excess"].detach())
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(300):
        adam.zero_grad()
        task.loss(model, task.batch(step)).backward()
        adam.step()
    found = [task.metrics(model, task.batch(n, "test"))["excess"].detach() for n in range(task.batches("test"))]
    assert float(torch.stack(found).mean()) < most < before / 5


def test_an_untrained_model_is_near_chance() -> None:
    task = Sequences(vocabulary=8)
    assert float(task.loss(task.model(), task.batch(0)).detach()) == pytest.approx(math.log(8), rel=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": 1}, "sequence.vocabulary must be at least 2, not 1"),
        ({"net": "transformer", "width": 9}, "sequence.width must be a multiple of heads, 2, not 9"),
        ({"process": "copy", "length": 7}, "sequence.length must be even to copy a half, not 7"),
        ({"process": "markow"}, "Did you mean 'markov'"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecoptError, match=message):
        Sequences(**options)
