"""A small transformer over the characters of a real text: the licences that come with NumPy."""

from __future__ import annotations

from importlib.metadata import files

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from versus_adam import Make, at_its_best, main

WINDOW = 48
TEXT = "".join(path.read_text() for path in files("numpy") or () if "LICENSE" in path.name.upper())
LETTERS = sorted(set(TEXT))
CODES = torch.tensor([LETTERS.index(letter) for letter in TEXT])
SPLIT = len(CODES) * 9 // 10


class Model(nn.Module):
    """Two transformer layers; each character is predicted from up to 47 before it."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.letter, self.place = nn.Embedding(len(LETTERS), width), nn.Embedding(WINDOW, width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(width, len(LETTERS))
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(WINDOW))

    def forward(self, codes: Tensor) -> Tensor:
        """Logits [batch, window, letters] of the characters that follow ``codes`` [batch, window]."""
        x = self.letter(codes) + self.place.weight
        return self.out(self.layers(x, mask=self.mask, is_causal=True))


def loss_on(model: nn.Module, starts: Tensor) -> Tensor:
    """Mean cross-entropy, in nats a character, of windows that begin at ``starts``."""
    rows = CODES[starts[:, None] + torch.arange(WINDOW + 1)]
    return cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def train(make: Make, steps: int, seed: int) -> float:
    """Loss on the last tenth of the text."""
    torch.manual_seed(seed)
    model = Model()
    optimizer = make(model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        loss_on(model, torch.randint(SPLIT - WINDOW, (16,))).backward()
        optimizer.step()
    with at_its_best(optimizer), torch.no_grad():
        return loss_on(model.eval(), torch.arange(SPLIT, len(CODES) - WINDOW - 1, WINDOW)).item()


if __name__ == "__main__":
    main(train, "held-out loss, nats a character", steps=300)
