"""A small table (442 patients, ten columns): where a training loss that goes to zero says little."""

from __future__ import annotations

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.nn.functional import mse_loss
from versus_adam import Make, at_its_best, main

X, Y = (torch.as_tensor(part).float() for part in load_diabetes(return_X_y=True))
X, Y = (X - X.mean(0)) / X.std(0), ((Y - Y.mean()) / Y.std())[:, None]
TRAIN = 300


def train(make: Make, steps: int, seed: int) -> float:
    """Mean squared error on held-out patients; always guessing the mean has 1."""
    torch.manual_seed(seed)
    order = torch.randperm(len(X))
    inside, outside = order[:TRAIN], order[TRAIN:]
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 1))
    optimizer = make(model.parameters())
    for _ in range(steps):
        rows = inside[torch.randint(TRAIN, (32,))]
        optimizer.zero_grad()
        mse_loss(model(X[rows]), Y[rows]).backward()
        optimizer.step()
    with at_its_best(optimizer), torch.no_grad():
        return mse_loss(model.eval()(X[outside]), Y[outside]).item()


if __name__ == "__main__":
    main(train, "held-out mean squared error", steps=300)
