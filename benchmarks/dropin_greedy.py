"""Remedies for greedy hypergradients, measured: longer windows, other batches for the signal, averaged iterates.

    python benchmarks/dropin_greedy.py [--tasks noisy small text] [--seeds 3] [--rules NAME …]

Three tasks, none of them one of ``dropin_peers.py``: ``noisy`` (five overlapping classes, MLP 20-64-64-5, batches of 8,
1,500 steps), ``small`` (150 digits that are passed over 100 times, MLP 64-64-10, batches of 30, 500 steps) and ``text``
(one transformer layer over the characters of Python's help topics, 400 steps). The stack is the default,
``adam/adagrad(lr=1)[lr]``, and what a rule adds to it is its name. "another batch" measures the signal on a second
training batch and "held out" on one of data kept back (in ``small`` as many as it trains on), for one more backward
pass each. "Adam" has the best of four rates by seed 0. A cell is the held-out loss at the end, median and range over
the seeds, and the median of the last rate.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformer import Transformer

import recopt

CONTEXT = 24
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Work:
    """What is trained on what: training data, data that a signal may use, and data for the figures."""

    build: Callable[[], nn.Module]
    train: Data
    kept: Data
    test: Data
    batch: int
    steps: int


@dataclass(frozen=True)
class Rule:
    """A stack (None: the default), what recopt.Optimizer gets besides, whose gradient the signal is; at its mean?"""

    stack: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    signal: str = "train"
    averaged: bool = False


def overlapping(count: int, wrong: float, seed: int) -> Data:
    """Five classes in 20 standardized variables that overlap, a fraction ``wrong`` of the labels drawn anew."""
    from sklearn.datasets import make_classification

    found = make_classification(count, 20, n_informative=12, n_redundant=4, n_classes=5, n_clusters_per_class=3,
                                class_sep=1.2, flip_y=wrong, random_state=seed)  # fmt: skip
    x, y = torch.as_tensor(found[0], dtype=torch.float32), torch.as_tensor(found[1], dtype=torch.int64)
    return (x - x.mean(0)) / x.std(0), y


def shuffled_digits() -> Data:
    """scikit-learn's digits, from -1 to 1, in one fixed order."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    x = torch.as_tensor(found.data, dtype=torch.float32)[order] / 8 - 1
    return x, torch.as_tensor(found.target, dtype=torch.int64)[order]


def noisy() -> Work:
    """Classes that overlap, three in a hundred labels drawn anew, and batches of 8."""
    x, y = overlapping(6000, 0.03, 0)

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5))

    return Work(build, (x[:4000], y[:4000]), (x[4000:4500], y[4000:4500]), (x[4500:], y[4500:]), 8, 1500)


def small() -> Work:
    """So few digits that a network learns them by heart."""
    x, y = shuffled_digits()
    build: Callable[[], nn.Module] = lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))  # noqa: E731
    return Work(build, (x[:150], y[:150]), (x[150:300], y[150:300]), (x[300:], y[300:]), 30, 500)


def text() -> Work:
    """Python's help topics as characters, in rows of 24; every tenth row is held out."""
    from pydoc_data.topics import topics

    content = "\n".join(topics[key] for key in sorted(topics))[:250_000]
    index = {c: i for i, c in enumerate(sorted(set(content)))}
    rows = torch.tensor([index[c] for c in content]).unfold(0, CONTEXT + 1, CONTEXT)
    held = torch.arange(len(rows)) % 10 == 9
    train, kept, test = ((r[:, :-1], r[:, 1:]) for r in (rows[~held], rows[held][200:400], rows[held][:200]))
    return Work(lambda: Transformer(len(index), CONTEXT, width=32, layers=1), train, kept, test, 16, 400)


TASKS: dict[str, Callable[[], Work]] = {"noisy": noisy, "small": small, "text": text}
RULES: dict[str, Rule] = {
    "default": Rule(),
    "every=5": Rule(options={"every": 5}),
    "every=20": Rule(options={"every": 20}),
    "every=50": Rule(options={"every": 50}),
    "another batch": Rule(signal="another"),
    "held out": Rule(signal="kept"),
    "held out, every=20": Rule(options={"every": 20}, signal="kept"),
    "`schedule-free` below": Rule("schedule-free/adagrad(lr=1)[lr]", averaged=True),
    "default, averaged": Rule(options={"average": True}, averaged=True),
}


def drawn(data: Data, size: int) -> Data:
    """A batch with replacement."""
    rows = torch.randint(len(data[0]), (size,))
    return data[0][rows], data[1][rows]


def loss_of(model: nn.Module, batch: Data) -> Tensor:
    """Mean loss of a batch."""
    return cross_entropy(model(batch[0]), batch[1].flatten())


def train(work: Work, rule: Rule | float, seed: int) -> tuple[float, float]:
    """The held-out loss at the end, and the last rate; a number for a rule is Adam at that rate."""
    torch.manual_seed(seed)
    model = work.build()
    if isinstance(rule, float):
        rule = Rule(f"adam(lr={rule})")
    optimizer = recopt.Optimizer(model.parameters(), rule.stack, **rule.options)
    left: list[Tensor] = []
    for _ in range(work.steps):
        left = left or list(torch.randperm(len(work.train[0])).split(work.batch))
        rows = left.pop()
        optimizer.zero_grad()
        loss_of(model, (work.train[0][rows], work.train[1][rows])).backward()
        if rule.signal == "train":
            optimizer.step()
        else:
            source = work.kept if rule.signal == "kept" else work.train
            optimizer.step(valid_loss=loss_of(model, drawn(source, work.batch)))
    found = optimizer.hyperparameters()
    with torch.no_grad(), optimizer.averaged() if rule.averaged else nullcontext():
        return float(loss_of(model, work.test)), next(v for k, v in found.items() if k.endswith(".lr"))


def cell(work: Work, rule: Rule | float, seeds: int) -> str:
    """Median (least to most) of the loss, and the median of the last rate."""
    runs = [train(work, rule, seed) for seed in range(1, seeds + 1)]
    losses, rates = [loss for loss, _ in runs], [rate for _, rate in runs]
    return f"{statistics.median(losses):.3f} ({min(losses):.3f}–{max(losses):.3f}), {statistics.median(rates):.1e}"


def main() -> None:
    """Print each cell as soon as it is there, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--rules", nargs="+", choices=[*RULES, "Adam"], default=[*RULES, "Adam"])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, list[str]] = {name: [] for name in options.rules}
    for task in options.tasks:
        work = TASKS[task]()
        for name, row in table.items():
            rule: Rule | float = RULES[name] if name in RULES else min(RATES, key=lambda r: train(work, r, 0)[0])
            row.append(cell(work, rule, options.seeds))
            print(f"{task:6} {name:24} {row[-1]}", flush=True)
    print("\n| | " + " | ".join(options.tasks) + " |\n" + "|---" * (len(options.tasks) + 1) + "|")
    for name, row in table.items():
        print(f"| {name} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
