"""The networks of no_knob.py's tasks."""

from __future__ import annotations

import torch
from no_knob_jobs import _random, mlp
from torch import Tensor, nn
from torch.nn import functional


class Mixed(nn.Module):
    """Three columns of codes below 30 as vectors of 6, beside the numbers; (rows, 3 + numbers) to (rows, 1)."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.codes = nn.ModuleList(nn.Embedding(30, 6) for _ in range(3))
        self.layers = mlp(18 + numbers, 64, 64, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The value."""
        codes = [table(x[:, i].long()) for i, table in enumerate(self.codes)]
        return self.layers(torch.cat([*codes, x[:, 3:]], 1))


class Tastes(nn.Module):
    """Users and items as vectors; (rows, 2) to what a user gives an item, (rows, 3) to by how much the first wins."""

    def __init__(self, users: int, items: int, rank: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, rank), nn.Embedding(items, rank)
        self.favour = nn.Embedding(items, 1)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=rank**-0.5)
        nn.init.zeros_(self.favour.weight)

    def forward(self, rows: Tensor) -> Tensor:
        """Scores, (rows,)."""
        found = torch.einsum("rk,rik->ri", self.users(rows[:, 0]), self.items(rows[:, 1:]))
        found = found + self.favour(rows[:, 1:])[:, :, 0]
        return found[:, 0] - found[:, 1] if rows.shape[1] == 3 else found[:, 0]


class Clamped(nn.Module):
    """A network of two coordinates, whose value is zero on the edge of the unit square by its form."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp(2, 32, 32, 1, act=nn.Tanh)

    def forward(self, at: Tensor) -> Tensor:
        """Values, (rows, 1)."""
        return 16 * (at * (1 - at)).prod(1, keepdim=True) * self.layers(2 * at - 1)


class Scanner(nn.Module):
    """An LSTM that reads an image line by line; (batch, 1, 14, 14) to (batch, 10)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(14, width, batch_first=True), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.cell(x[:, 0])[0][:, -1])


class Patches(nn.Module):
    """Squares of 4 × 4 of a grey image that look at each other; (batch, 1, side, side) to (batch, 10)."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.inwards, self.place = nn.Linear(16, width), nn.Parameter(0.02 * torch.randn((side // 4) ** 2, width))
        self.layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.outwards = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        squares = functional.unfold(x, 4, stride=4).transpose(1, 2)
        return self.outwards(self.layer(self.inwards(squares) + self.place).mean(1))


class Variational(nn.Module):
    """An image through eight Gaussians; (batch, 196) to logits, means and log-variances, (batch, 196 + 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.inwards, self.outwards = mlp(196, 96, 16), mlp(8, 96, 196)

    def forward(self, x: Tensor) -> Tensor:
        """Another draw at each step, the same draws when it is scored."""
        mean, spread = self.inwards(x).chunk(2, 1)
        noise = torch.randn(mean.shape, generator=None if self.training else _random(63))
        return torch.cat([self.outwards(mean + (spread / 2).exp() * noise), mean, spread], 1)


class Residual(nn.Module):
    """x + B relu(A x), without a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = mlp(width, width, width)

    def forward(self, x: Tensor) -> Tensor:
        """As many numbers."""
        return x + self.layers(x)


class LowRank(nn.Module):
    """Linear layers and ReLU; to each a product of rank 3 is added, zero at first (LoRA, Hu et al. 2021)."""

    def __init__(self, layers: nn.Module, seed: int) -> None:
        super().__init__()
        fixed, rng = [layer for layer in layers.modules() if isinstance(layer, nn.Linear)], _random(seed)
        self.fixed = [(layer.weight.detach(), layer.bias.detach()) for layer in fixed]
        self.inwards = nn.ParameterList(torch.randn(w.shape[1], 3, generator=rng) / 8 for w, _ in self.fixed)
        self.outwards = nn.ParameterList(torch.zeros(3, w.shape[0]) for w, _ in self.fixed)

    def forward(self, x: Tensor) -> Tensor:
        """The network's."""
        for i, ((weight, bias), a, b) in enumerate(zip(self.fixed, self.inwards, self.outwards, strict=True)):
            x = x.relu() if i else x
            x = functional.linear(x, weight, bias) + x @ a @ b
        return x


class Twins(nn.Module):
    """The distance of two images' vectors; (batch, 2, 64) to (batch,)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp(64, 64, 12)

    def forward(self, x: Tensor) -> Tensor:
        """Distances."""
        a, b = self.layers(x).unbind(1)
        return ((a - b).square().sum(1) + 1e-6).sqrt()


class Neighbours(nn.Module):
    """A node's features and its neighbours', twice (GCN, Kipf & Welling 2017); numbers of nodes to logits."""

    def __init__(self, features: Tensor, links: Tensor, classes: int) -> None:
        super().__init__()
        self.features, self.links = features, links
        self.first, self.second = nn.Linear(features.shape[1], 32), nn.Linear(32, classes)

    def forward(self, nodes: Tensor) -> Tensor:
        """Logits of the nodes."""
        return (self.links @ self.second((self.links @ self.first(self.features)).relu()))[nodes]


class Factors(nn.Module):
    """Rows and columns of a matrix, as vectors of ``rank`` numbers; (entries, 2) of int64 to (entries,)."""

    def __init__(self, rows: int, columns: int, rank: int) -> None:
        super().__init__()
        self.rows, self.columns = nn.Embedding(rows, rank), nn.Embedding(columns, rank)
        nn.init.normal_(self.rows.weight, std=0.1)
        nn.init.normal_(self.columns.weight, std=0.1)

    def forward(self, where: Tensor) -> Tensor:
        """The entries."""
        return (self.rows(where[:, 0]) * self.columns(where[:, 1])).sum(1)


class Counts(nn.Module):
    """Logistic regression from the numbers of the features that are on; starts at zero; (batch, on) to (batch,)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weights, self.bias = nn.Embedding(features, 1), nn.Parameter(torch.zeros(()))
        nn.init.zeros_(self.weights.weight)

    def forward(self, on: Tensor) -> Tensor:
        """Logits."""
        return self.weights(on)[:, :, 0].sum(1) + self.bias


class Words(nn.Module):
    """Softmax regression on hashed words, each a row of zeros at first; (batch, words) to (batch, classes)."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weights = nn.EmbeddingBag(features, classes, mode="sum", padding_idx=0)
        self.bias = nn.Parameter(torch.zeros(classes))
        nn.init.zeros_(self.weights.weight)

    def forward(self, words: Tensor) -> Tensor:
        """Logits."""
        return self.weights(words) + self.bias
