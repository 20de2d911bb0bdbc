"""Deep networks without normalization, residual and of layers in a row: the default with and without a look at streams.

    python benchmarks/no_knob_streams.py --seeds 3 --cache streams.jsonl [--tasks "12 blocks" ...]

Held-out losses over that of Adam at the best of four rates with a cosine. Residual blocks are x + B φ(A x); where
nothing else is said weights begin as torch has them. Runs are those of no_knob.py, whose cache this is.
"""

from __future__ import annotations

import torch
from no_knob_data import images, smaller
from no_knob_embeddings import TEXTS
from no_knob_fresh import following, in_a_row, letters, on_images
from no_knob_jobs import Job, Task
from no_knob_without import compare, replaced
from torch import Tensor, nn

from recopt.toolkit import sizes


class Residual(nn.Module):
    """x + B φ(A x), of linear maps; (batch, width) to the same."""

    def __init__(self, width: int, inner: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.first, self.activation, self.last = nn.Linear(width, inner), activation(), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        added: Tensor = self.last(self.activation(self.first(x)))
        return x + added


class Convolutions(nn.Module):
    """relu(x + B relu(A x)), of convolutions; (batch, channels, side, side) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.last = (nn.Conv2d(channels, channels, 3, 1, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """The sum's positive part."""
        return torch.relu(x + self.last(torch.relu(self.first(x))))


class Recurrent(nn.Module):
    """Three LSTM layers over embedded characters; (batch, places) of int64 to (batch · places, characters)."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.letter, self.cell = nn.Embedding(count, 64), nn.LSTM(64, 64, 3, batch_first=True)
        self.head = nn.Linear(64, count)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits of each next character."""
        logits: Tensor = self.head(self.cell(self.letter(rows))[0])
        return logits.flatten(0, 1)


def begun(network: nn.Module, kind: str) -> nn.Module:
    """The network with weights that begin by Xavier's rule, as "fixup" has them (each block at zero), or otherwise."""
    for part in network.modules():
        if isinstance(part, nn.Linear) and kind:
            nn.init.zeros_(part.bias)
            if kind == "xavier":
                nn.init.xavier_uniform_(part.weight)
            elif kind == "tanh":
                nn.init.xavier_normal_(part.weight, gain=5 / 3)
            else:
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
    for part in network.modules():
        if isinstance(part, Residual) and kind == "fixup":
            nn.init.zeros_(part.last.weight)
    return network


def blocks(count: int, width: int, inner: int, seed: int, activation: type[nn.Module] = nn.ReLU, kind: str = "") -> Job:
    """MNIST by residual blocks between two linear maps."""
    inside = [Residual(width, inner, activation) for _ in range(count)]
    network = nn.Sequential(nn.Flatten(), nn.Linear(196, width), *inside, nn.Linear(width, 10))
    return on_images(begun(network, kind), smaller(images("mnist", 5000, 2000), 14), 64, seed)


def convolutions(seed: int) -> Job:
    """Fashion-MNIST by four residual blocks of convolutions."""
    parts = nn.Conv2d(1, 12, 3, 1, 1), nn.ReLU(), Convolutions(12), Convolutions(12), nn.AvgPool2d(2)
    ends = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 10)
    network = nn.Sequential(*parts, Convolutions(12), Convolutions(12), *ends)
    return on_images(network, smaller(images("fashion-mnist", 4000, 1000), 14), 32, seed)


def recurrent(seed: int) -> Job:
    """The next character by three LSTM layers; every fifth row is held out."""
    count, pairs = letters(TEXTS["statistics"], 32)
    return following(Recurrent(count), pairs, seed)


def row(seed: int, layers: int, activation: type[nn.Module], kind: str) -> Job:
    """MNIST by layers in a row."""
    job = in_a_row(seed, "mnist", layers, 48, activation)
    begun(job.networks[0], kind)
    return job


TASKS: dict[str, Task] = {
    "4 blocks, GELU": Task(lambda seed: blocks(4, 64, 64, seed, nn.GELU), 500),
    "4 blocks, fixup": Task(lambda seed: blocks(4, 64, 64, seed, nn.GELU, "fixup"), 500),
    "12 blocks": Task(lambda seed: blocks(12, 48, 96, seed), 500),
    "12 blocks, fixup": Task(lambda seed: blocks(12, 48, 96, seed, kind="fixup"), 500),
    "12 blocks, Xavier": Task(lambda seed: blocks(12, 48, 96, seed, kind="xavier"), 500),
    "20 blocks, SiLU": Task(lambda seed: blocks(20, 32, 32, seed, nn.SiLU), 500),
    "4 blocks of convolutions": Task(convolutions, 300),
    "3 LSTM layers": Task(recurrent, 300),
    "9 layers, tanh, gain 5/3": Task(lambda seed: row(seed, 9, nn.Tanh, "tanh"), 500),
    "9 layers, GELU, He": Task(lambda seed: row(seed, 9, nn.GELU, "he"), 500),
    "14 layers, softplus": Task(lambda seed: in_a_row(seed, "mnist", 14, 48, nn.Softplus), 500),
}


if __name__ == "__main__":
    compare(str(__doc__), TASKS, "streams", lambda: replaced(sizes, ALIGNED=float("inf")))
