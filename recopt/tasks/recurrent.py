"""Small sequence models whose every operation can be mapped over tasks and differentiated twice.

torch's own LSTM has no rule for ``torch.func.vmap`` and no second derivative on CUDA; its fused attention kernels
have no second derivative either. Here both are written out in plain operations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LSTM(nn.Module):
    """An LSTM over tokens (Hochreiter and Schmidhuber 1997), with forget gates whose bias starts at 1.

    Takes tokens (batch, length), whole numbers below ``vocabulary``. Returns the logits of the next token
    at each place, (batch, length, vocabulary)."""

    def __init__(self, vocabulary: int, width: int, layers: int) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(vocabulary, width)
        # One product serves the inputs of all steps; the hidden state needs one per step.
        self.inputs = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(layers))
        self.hidden = nn.ModuleList(nn.Linear(width, 4 * width, bias=False) for _ in range(layers))
        self.head = nn.Linear(width, vocabulary)
        with torch.no_grad():
            for layer in self.inputs:
                assert isinstance(layer, nn.Linear)
                layer.bias[width : 2 * width] = 1.0

    def forward(self, tokens: Tensor) -> Tensor:
        sequence = self.embedding(tokens)
        for inputs, hidden in zip(self.inputs, self.hidden, strict=True):
            sequence = self._layer(inputs(sequence), hidden)
        out: Tensor = self.head(sequence)
        return out

    def _layer(self, gates: Tensor, hidden: nn.Module) -> Tensor:
        h = c = torch.zeros_like(gates[:, 0, : self.width])
        outputs = []
        for step in gates.unbind(1):
            i, f, g, o = (step + hidden(h)).chunk(4, dim=-1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs, dim=1)


class Transformer(nn.Module):
    """A causal transformer over tokens: pre-norm blocks of attention and a GELU layer four times as wide.

    Inputs and outputs as of :class:`LSTM`; ``length`` is the largest number of tokens.
    """

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.places[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x))
        return out


class Block(nn.Module):
    """One block of :class:`Transformer`: (batch, length, width) to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attention(self.norm1(x))
        mixed: Tensor = x + self.narrow(nn.functional.gelu(self.wide(self.norm2(x))))
        return mixed

    def _attention(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        split = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)  # each (batch, heads, length, width / heads)
        scores = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads)
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(later, -math.inf).softmax(-1)
        gathered: Tensor = self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))
        return gathered
