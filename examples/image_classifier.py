"""A convolutional classifier of handwritten digits."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from versus_adam import Make, at_its_best, main

IMAGES, LABELS = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
IMAGES = IMAGES.float().reshape(-1, 1, 8, 8) / 16
TRAIN = 1_400


def make_model() -> nn.Module:
    """Two convolutions with group normalization, one linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 10),
    )  # fmt: skip


def train(make: Make, steps: int, seed: int) -> float:
    """The percentage of held-out digits that are wrong."""
    torch.manual_seed(seed)
    model = make_model()
    optimizer = make(model.parameters())
    for _ in range(steps):
        rows = torch.randint(TRAIN, (64,))
        optimizer.zero_grad()
        cross_entropy(model(IMAGES[rows]), LABELS[rows]).backward()
        optimizer.step()
    with at_its_best(optimizer), torch.no_grad():
        model.eval()
        return 100 * (model(IMAGES[TRAIN:]).argmax(1) != LABELS[TRAIN:]).float().mean().item()


if __name__ == "__main__":
    main(train, "percent of held-out digits wrong", steps=300)
