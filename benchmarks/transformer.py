"""The small causal transformer over characters that several benchmarks train."""

from __future__ import annotations

from torch import Tensor, nn


class Transformer(nn.Module):
    """Causal layers over characters; (batch, ``context``) of int64 to (batch · context, characters).

    Args:
        std: of the embeddings at first; None: torch's own, 1.
    """

    def __init__(self, characters: int, context: int, width: int, layers: int, std: float | None = None) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(characters, width), nn.Embedding(context, width)
        for table in (self.token, self.place) if std is not None else ():
            nn.init.normal_(table.weight, std=std)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(context), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits of each next character."""
        x = self.token(rows) + self.place.weight
        for layer in self.layers:
            x = layer(x, src_mask=self.mask)
        logits: Tensor = self.head(self.norm(x)).flatten(0, 1)
        return logits
