"""How far off a start value may be: accuracy after one epoch of MNIST over α₀ = 10^linspace(−7, 3, 20).

    RECOPT_DATA=DIR python benchmarks/dropin_robustness.py [--heights 0 1 2 3 4 5] [--points 20] [--seed 0]

MLP 784-128-10 with tanh. Height 0 is Adam at α₀, height 1 ``adagrad(lr=1)`` over Adam's rate; each level above that
is ``adagrad(lr=0.1)`` over the rate of the one below. Chandra et al. 2022, figure 4, report that each level buys about
a decade, and that all of theirs fail above α₀ = 100. One row per α₀, test accuracy in percent; the last row says how
many are within a point of the best of height 0.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

import recopt
from recopt.data import load


def accuracy(stack: str, rate: float, batch: int, seed: int, data: tuple[torch.Tensor, ...]) -> float:
    """Percent right on the test images after one epoch."""
    images, labels, test_images, test_labels = data
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(784, 128), nn.Tanh(), nn.Linear(128, 10))
    optimizer = recopt.Optimizer(model.parameters(), stack, lr=rate)
    for rows in torch.randperm(len(images)).split(batch):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        return 100 * (model(test_images).argmax(1) == test_labels).double().mean().item()


def flat(images: torch.Tensor) -> torch.Tensor:
    """Standardized rows of pixels; the figures are those of the training images of MNIST."""
    return (images.flatten(1).float() / 255 - 0.1307) / 0.3081


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heights", type=int, nargs="+", default=list(range(6)))
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = load("mnist")
    (images, labels), (test_images, test_labels) = found.train, found.test
    data = (flat(images), labels.long(), flat(test_images), test_labels.long())
    stacks = {0: "adam"} | {h: "adam/adagrad(lr=1)[lr]" + "/adagrad(lr=0.1)[lr]" * (h - 1) for h in range(1, 10)}
    table: dict[int, list[float]] = {h: [] for h in options.heights}
    print("alpha0    " + "".join(f"height {h}  " for h in options.heights))
    for power in torch.linspace(-7, 3, options.points).tolist():
        for height, column in table.items():
            column.append(accuracy(stacks[height], 10**power, options.batch, options.seed, data))
        print(f"{10**power:8.1e}  " + "".join(f"{column[-1]:8.2f}  " for column in table.values()), flush=True)
    best = max(table[0]) if 0 in table else max(max(column) for column in table.values())
    print("within 1  " + "".join(f"{sum(a >= best - 1 for a in c):5d}/{len(c)}  " for c in table.values()))


if __name__ == "__main__":
    main()
