"""What a level above a rate does to it: normalizers and steps, from starts that are too small, right and too large.

    python benchmarks/dropin_levels.py [--tasks NAME …] [--bases adam sgd] [--rules NAME …] [--seeds 2] [--out FILE]

Tasks, none of them one of ``dropin_peers.py``: ``classes`` (five overlapping classes, 20,000 examples, MLP 20-64-64-5
ReLU, batches of 128; 300 and 3,000 steps), ``noisy`` (``dropin_greedy.py``'s: batches of 8; 500 and 5,000 steps),
``digits`` (1,200 digits, MLP 64-64-10 tanh, batches of 64; 100 and 600 steps) and ``text`` (a transformer layer, 400
steps). Starts: 1e-5, 1e-3 and 0.1 over Adam; 1e-4, 0.01 and 1 over SGD. A rule is the upper level's; "constant" is no
upper level, at the best of five rates by seed 1. A cell is the median over the seeds of the held-out loss at the end,
and of the last rate; "averaged" is read at the mean of the iterates. ``--out`` keeps each cell as it comes, and skips
those that it holds already.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from dropin_greedy import Rule, Work, noisy, overlapping, shuffled_digits, text, train
from torch import nn

STARTS = {"adam": (1e-5, 1e-3, 1e-1), "sgd": (1e-4, 1e-2, 1.0)}
RATES = {"adam": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), "sgd": (1e-2, 3e-2, 1e-1, 3e-1, 1.0)}


def classes(steps: int) -> Work:
    """Five classes that overlap, two in a hundred labels drawn anew."""
    x, y = overlapping(22_000, 0.02, 3)

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))

    held_out = (x[20_000:], y[20_000:])
    return Work(build, (x[:20_000], y[:20_000]), held_out, held_out, 128, steps)


def digits(steps: int) -> Work:
    """scikit-learn's digits."""
    x, y = shuffled_digits()
    build: Callable[[], nn.Module] = lambda: nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))  # noqa: E731
    held_out = (x[1200:], y[1200:])
    return Work(build, (x[:1200], y[:1200]), held_out, held_out, 64, steps)


TASKS: dict[str, Callable[[], Work]] = {
    "classes, 300 steps": lambda: classes(300),
    "classes, 3,000": lambda: classes(3000),
    "noisy, 500": lambda: replace(noisy(), steps=500),
    "noisy, 5,000": lambda: replace(noisy(), steps=5000),
    "digits, 100": lambda: digits(100),
    "digits, 600": lambda: digits(600),
    "text, 400": lambda: replace(text(), steps=400),
}
FORGETS: dict[str, Any] = {"levels": {2: {"normalize": "rms"}}}
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "adagrad": ("adagrad[lr]", {}),
    "adagrad, rms": ("adagrad[lr]", FORGETS),
    "kesten": ("kesten[lr]", {}),
    "kesten(power=0.5)": ("kesten(power=0.5)[lr]", {}),
    "adagrad, averaged": ("adagrad[lr]", {"average": True}),
    "kesten, averaged": ("kesten[lr]", {"average": True}),
    "kesten(power=0.5), averaged": ("kesten(power=0.5)[lr]", {"average": True}),
    "sgd": ("sgd[lr]", {}),
    "sgd, rms": ("sgd[lr]", FORGETS),
    "sgd(lr=0.02)": ("sgd(lr=0.02)[lr]", {}),
    "sgd(lr=0.1)": ("sgd(lr=0.1)[lr]", {}),
    "sgd, all moved": ("sgd(lr=0.05)[*]", {}),
    "adam": ("adam[lr]", {}),
    "adam, rms": ("adam[lr]", FORGETS),
    "hypergradient": ("hypergradient[lr]", {}),
}


CONSTANT = ("constant", "constant, averaged")
MEAN: dict[str, Any] = {"options": {"average": True}, "averaged": True}


def constant(work: Work, base: str, seeds: int, **how: Any) -> str:
    """No upper level."""
    rate = min(RATES[base], key=lambda r: train(work, Rule(f"{base}(lr={r})", **how), 1)[0])
    return f"{median(work, Rule(f'{base}(lr={rate})', **how), seeds)[0]:.2f} @{rate:g}"


def median(work: Work, rule: Rule, seeds: int) -> tuple[float, float]:
    """Of the loss and of the last rate."""
    runs = [train(work, rule, seed) for seed in range(1, seeds + 1)]
    return statistics.median(loss for loss, _ in runs), statistics.median(rate for _, rate in runs)


def cells(work: Work, base: str, name: str, seeds: int) -> list[str]:
    """One for each start."""
    if name.startswith("constant"):
        return [constant(work, base, seeds, **(MEAN if name.endswith("averaged") else {}))]
    above, options = RULES[name]
    stacks = [f"{base}(lr={start})/{above}" for start in STARTS[base]]
    found = [median(work, Rule(stack, options, averaged="average" in options), seeds) for stack in stacks]
    return [f"{loss:.2f} @{rate:.0e}" for loss, rate in found]


def main() -> None:
    """Print each row as soon as it is there, then one table for each base."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--bases", nargs="+", choices=list(STARTS), default=list(STARTS))
    parser.add_argument("--rules", nargs="+", choices=(names := [*CONSTANT, *RULES]), default=names)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    for task in options.tasks:
        work = TASKS[task]()
        for base in options.bases:
            for name in options.rules:
                key = f"{base} | {task} | {name}"
                if key not in known:
                    known[key] = cells(work, base, name, options.seeds)
                    print(key, " / ".join(known[key]), flush=True)
                    if options.out:
                        options.out.write_text(json.dumps(known, indent=1))
    for base in options.bases:
        print(f"\n| over {base} | " + " | ".join(options.tasks) + " |\n" + "|---" * (len(options.tasks) + 1) + "|")
        for name in options.rules:
            row = [" / ".join(known[f"{base} | {task} | {name}"]) for task in options.tasks]
            print(f"| `{name}` | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
