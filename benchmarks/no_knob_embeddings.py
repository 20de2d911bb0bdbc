"""Networks with embeddings that begin small, about as large as layers, and large: the default with and without a look.

    python benchmarks/no_knob_embeddings.py --seeds 3 --cache embeddings.jsonl [--tasks "LSTM, 0.02" ...]

Held-out losses of characters of Python's library after others, by transformers and LSTMs, and of noisy ratings by
networks over two embeddings, for which the rating is a product. Behind each name is the root mean square that the
embeddings begin at. Runs are those of no_knob.py, whose cache this is.
"""

from __future__ import annotations

from functools import partial

import torch
from no_knob_fresh import characters, following, letters
from no_knob_jobs import SQUARE, Job, Task, _random, mlp, supervised
from no_knob_without import compare, replaced
from torch import Tensor, nn

from recopt.toolkit import weights

TEXTS = {"statistics": ("statistics", "fractions", "textwrap"), "parsers": ("argparse", "typing")}


class Recurrent(nn.Module):
    """An LSTM over embedded characters; (batch, places) of int64 to (batch · places, characters)."""

    def __init__(self, letters: int, width: int, std: float) -> None:
        super().__init__()
        self.letter = nn.Embedding(letters, width)
        nn.init.normal_(self.letter.weight, std=std)
        self.cell, self.head = nn.LSTM(width, 2 * width, batch_first=True), nn.Linear(2 * width, letters)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits of each next character."""
        logits: Tensor = self.head(self.cell(self.letter(rows))[0])
        return logits.flatten(0, 1)


class Recommender(nn.Module):
    """Layers over a user's and an item's embedding; (batch, 2) of int64 to (batch, 1)."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(300, 16), nn.Embedding(200, 16)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=std)
        self.layers = mlp(32, 64, 32, 1)

    def forward(self, rows: Tensor) -> Tensor:
        """The rating."""
        rating: Tensor = self.layers(torch.cat([self.user(rows[:, 0]), self.item(rows[:, 1])], 1))
        return rating


def recurrent(std: float, seed: int) -> Job:
    """The next character by an LSTM; every fifth row is held out."""
    count, pairs = letters(TEXTS["statistics"], 32)
    return following(Recurrent(count, 48, std), pairs, seed)


def ratings(std: float, seed: int) -> Job:
    """15,000 ratings, the products of four numbers of 300 users and 200 items, and noise; 3,000 are held out."""
    dice = _random(77)
    users, items = torch.randn(300, 4, generator=dice), torch.randn(200, 4, generator=dice)
    rows = torch.stack([torch.randint(n, (15_000,), generator=dice) for n in (300, 200)], 1)
    clean = (users[rows[:, 0]] * items[rows[:, 1]]).sum(1, keepdim=True) / 2
    y = clean + 0.7 * torch.randn(15_000, 1, generator=dice)
    return supervised(Recommender(std), (rows[:12_000], y[:12_000]), (rows[12_000:], y[12_000:]), 128, SQUARE, seed)


def transformer(text: str, context: int, width: int, layers: int, std: float, seed: int) -> Job:
    """The next character by a transformer."""
    return characters(seed, TEXTS[text], context, width, layers, std)


TASKS = (
    {f"one layer of 96, {std:g}": Task(partial(transformer, "statistics", 24, 96, 1, std), 250) for std in (0.02, 1)}
    | {f"two layers of 32, {std:g}": Task(partial(transformer, "parsers", 32, 32, 2, std), 300) for std in (0.02, 1)}
    | {
        f"two layers of 96, {std:g}": Task(partial(transformer, "parsers", 32, 96, 2, std), 300)
        for std in (0.02, 0.1, 1)
    }
    | {f"LSTM, {std:g}": Task(partial(recurrent, std), 400) for std in (0.02, 1)}
    | {f"recommender, {std:g}": Task(partial(ratings, std), 1500) for std in (0.01, 0.1, 1)}
)


if __name__ == "__main__":
    compare(str(__doc__), TASKS, "embeddings", lambda: replaced(weights, SMALL=0.0, LARGE=float("inf")))
