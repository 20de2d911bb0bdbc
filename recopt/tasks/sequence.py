"""Next-token prediction on synthetic sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checking.errors import RecoptError
from ..contracts.settings import option
from ..contracts.task import Batch, Split, Task
from .recurrent import LSTM, Transformer

_STREAMS: dict[Split, int] = {"train": 1, "valid": 2, "test": 3}
_CHAIN = 0
_HELD_OUT = 16


class Sequences(Task):
    """Next-token prediction on synthetic sequences by a small LSTM or transformer.

    ``markov``: a Markov chain over ``vocabulary`` tokens, drawn by the seed, with log transition odds that
    are normal with deviation ``sharpness``; the loss covers every prediction. ``copy``: a random half and its
    repetition; the loss covers the repetition, which can be predicted without error. Training batches are
    all fresh; each held-out split has 16 batches.

    A batch is (tokens, targets, floor). Tokens and targets are whole numbers of shapes (batch, length) and
    (batch, places); places are the last ones of the sequence. Floor is the mean negative log likelihood of
    the targets under the process that made them, a 0-dimensional float. The metric ``excess`` is
    loss − floor, 0 on average for a perfect model.

    Limits: up to a few hundred tokens, since the LSTM and the chains loop over them in Python.
    """

    net = option("lstm", "the model", choices=("lstm", "transformer"))
    process = option("markov", "the process that makes the sequences", choices=("markov", "copy"))
    vocabulary = option(8, "number of different tokens")
    length = option(16, "tokens in a sequence")
    sharpness = option(2.0, "deviation of the log odds of a markov chain: 0 is noise, 5 nearly certain")
    width = option(16, "width of the model")
    layers = option(1, "layers of the model")
    heads = option(2, "heads of the transformer")
    batch_size = option(32, "sequences in a batch")

    metric = "excess"
    higher_is_better = False

    def __init__(self, *, seed: int = 0, **options: object) -> None:
        super().__init__(seed=seed, **options)
        least = {"vocabulary": 2, "length": 2, "width": 1, "layers": 1, "heads": 1, "batch_size": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise RecoptError(f"sequence.{name} must be at least {value}, not {getattr(self, name)}.")
        if self.net == "transformer" and self.width % self.heads:
            raise RecoptError(f"sequence.width must be a multiple of heads, {self.heads}, not {self.width}.")
        if self.process == "copy" and self.length % 2:
            raise RecoptError(f"sequence.length must be even to copy a half, not {self.length}.")
        self._drawn: tuple[int, Tensor] | None = None

    def model(self) -> nn.Module:
        if self.net == "lstm":
            return LSTM(self.vocabulary, self.width, self.layers)
        return Transformer(self.vocabulary, self.width, self.layers, self.heads, self.length)

    def batch(self, index: int, split: Split = "train") -> Batch:
        generator = self.generator(_STREAMS[split], index if split == "train" else index % _HELD_OUT)
        if self.process == "copy":
            half = torch.randint(self.vocabulary, (self.batch_size, self.length // 2), generator=generator)
            return torch.cat([half, half[:, :-1]], dim=1), half, torch.zeros(())
        tokens = self._walk(generator)
        likelihood = self.chain()[tokens[:, :-1], tokens[:, 1:]]
        return tokens[:, :-1], tokens[:, 1:], -likelihood.log().mean().float()

    def batches(self, split: Split) -> int:
        """16 for the held-out splits; 1 for training, whose data have no end."""
        return 1 if split == "train" else _HELD_OUT

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean cross entropy of the targets, in nats."""
        return _scored(model, batch)[0]

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """``excess``, in nats, and ``accuracy``: the share of targets with the largest logit."""
        loss, logits = _scored(model, batch)
        return {"excess": loss - batch[2], "accuracy": (logits.argmax(-1) == batch[1]).to(logits.dtype).mean()}

    def chain(self) -> Tensor:
        """The transition probabilities of this task's chain, (from, to), float64."""
        if self._drawn is None or self._drawn[0] != self.seed:
            shape = (self.vocabulary, self.vocabulary)
            odds = self.sharpness * torch.randn(shape, generator=self.generator(_CHAIN), dtype=torch.float64)
            self._drawn = (self.seed, odds.softmax(1))
        return self._drawn[1]

    def _walk(self, generator: torch.Generator) -> Tensor:
        """Sequences of the chain from a uniform first token, (batch, length + 1)."""
        limits = self.chain().cumsum(1)
        limits[:, -1] = 1.0
        token = torch.randint(self.vocabulary, (self.batch_size,), generator=generator)
        dice = torch.rand(self.length, self.batch_size, 1, generator=generator, dtype=torch.float64)
        walk = [token]
        for throw in dice:
            token = torch.searchsorted(limits[token], throw, right=True).squeeze(1)
            walk.append(token)
        return torch.stack(walk, dim=1)


def _scored(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    tokens, targets, _ = batch
    logits: Tensor = model(tokens)[:, -targets.shape[1] :]
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten()), logits
