"""Tuned rates over models that begin at zero: logistic regression on digits, batches of 64, 300 steps.

    python benchmarks/from_zero.py [--seeds 4] [--model mlp] [--judge all] [--stacks adam/hypergradient …]

Mean loss of the last 50 steps, median of the seeds, by stack and by the rate that it starts from; once with the loss
told (``opt.step(loss=loss)``), so that the guard judges first steps by that, and once without, so that it bounds them
by size. ``--judge all`` has it judge all steps, and for ``--model mlp`` (64-32-10, tanh, the usual start) those too.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import recopt
from recopt.core import guard
from recopt.levels import judgement

STACKS = ("adam", "adam/hypergradient", "adam/adagrad(lr=1)[lr]", "sgd(momentum=0.9)/adagrad[lr]")
RATES = (1e-3, 1e-2, 0.1, 1.0, 1e3)
STEPS, LAST, BATCH = 300, 50, 64


def model(name: str, seed: int) -> nn.Module:
    """A model before its first step."""
    torch.manual_seed(seed)
    if name == "mlp":
        return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    made = nn.Linear(64, 10)
    for p in made.parameters():
        nn.init.zeros_(p)
    return made


def trained(inputs: Tensor, targets: Tensor, made: nn.Module, stack: str, rate: float, seed: int, told: bool) -> float:
    """The mean loss of the last steps."""
    optimizer, draw = recopt.Optimizer(made.parameters(), stack, lr=rate), torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(STEPS):
        rows = torch.randint(len(inputs), (BATCH,), generator=draw)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(made(inputs[rows]), targets[rows])
        loss.backward()
        optimizer.step(**({"loss": loss} if told else {}))
        losses.append(loss.item())
    return statistics.mean(losses[-LAST:])


def main() -> None:
    """Print a row for each stack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--model", choices=("logistic", "mlp"), default="logistic")
    parser.add_argument("--judge", choices=("first", "all"), default="first")
    parser.add_argument("--stacks", nargs="+", default=STACKS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.judge == "all":
        judgement.FIRST = 10**9
        if given.model == "mlp":
            guard.ZERO, guard.SIZELESS = 1e9, guard.FLOOR
    found = load_digits()
    inputs, targets = torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)
    print("| stack | loss | " + " | ".join(f"{rate:g}" for rate in RATES) + " |\n|---|---|" + "---|" * len(RATES))
    for stack in given.stacks:
        for told in (False, True) if "/" in stack else (True,):
            cells = [[trained(inputs, targets, model(given.model, s), stack, rate, s, told) for s in range(given.seeds)]
                     for rate in RATES]  # fmt: skip
            shown = " | ".join(f"{statistics.median(cell):.3g}" for cell in cells)
            print(f"| `{stack}` | {'told' if told else 'not told'} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
