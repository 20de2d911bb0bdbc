"""How far off a start value may be: accuracy after one epoch of MNIST over α₀ = 10^linspace(−7, 3, 20).

    RECOPT_DATA=DIR python benchmarks/dropin_robustness.py [--heights 0 1 2 3 4 5] [--points 20] [--seeds 0 1 2]

MLP 784-128-10 with tanh. Height 0 is Adam at α₀, height 1 ``adagrad(lr=1)`` over Adam's rate; each level above that
is ``adagrad(lr=0.1)`` over the rate of the one below. Chandra et al. 2022, figure 4, report that each level buys about
a decade, and that all of theirs fail above α₀ = 100. One row per α₀: test accuracy in percent, the median over the
seeds and (the least). The last lines say, per seed, how many start values are within a point of the best of height 0.
"""

from __future__ import annotations

import argparse
import statistics

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
        right: torch.Tensor = model(test_images).argmax(1) == test_labels
        return 100 * right.double().mean().item()


def flat(images: torch.Tensor) -> torch.Tensor:
    """Standardized rows of pixels; the figures are those of the training images of MNIST."""
    return (images.flatten(1).float() / 255 - 0.1307) / 0.3081


def main() -> None:
    """Print a line for each α₀ as it is there, then the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heights", type=int, nargs="+", default=list(range(6)))
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--best", type=float, nargs="+", help="the best of height 0, per seed, where that is not run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = load("mnist")
    (images, labels), (test_images, test_labels) = found.train, found.test
    data = (flat(images), labels.long(), flat(test_images), test_labels.long())
    stacks = {0: "adam"} | {h: "adam/adagrad(lr=1)[lr]" + "/adagrad(lr=0.1)[lr]" * (h - 1) for h in range(1, 10)}
    table: dict[int, list[list[float]]] = {h: [] for h in options.heights}
    print("alpha0    " + "".join(f"height {h:<11d}" for h in options.heights))
    for power in torch.linspace(-7, 3, options.points).tolist():
        for height, column in table.items():
            column.append([accuracy(stacks[height], 10**power, options.batch, s, data) for s in options.seeds])
        cells = [f"{statistics.median(c[-1]):6.2f} ({min(c[-1]):5.2f})   " for c in table.values()]
        print(f"{10**power:8.1e}  " + "".join(cells), flush=True)
    every = range(len(options.seeds))
    best = options.best or [
        max(row[s] for c in ([table[0]] if 0 in table else table.values()) for row in c) for s in every
    ]
    for height, column in table.items():
        counts = [sum(row[s] >= best[s] - 1 for row in column) for s in every]
        print(f"height {height}: within a point of {best}: {counts} of {options.points}")


if __name__ == "__main__":
    main()
