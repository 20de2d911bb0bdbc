"""Networks that are trained already, on a related task with few data: the default against Adam's best of four rates.

    python benchmarks/no_knob_trained.py --seeds 3 --cache trained.jsonl

Networks are trained by Adam on some classes, clean images or one text, and go on with others. Runs are those of
no_knob.py, whose cache this is.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import files
from pathlib import Path

import no_knob
import numpy
import torch
from no_knob_data import _digits, _fashion
from no_knob_jobs import Job, Pair, Task, _random, mlp, supervised
from no_knob_rules import ADAM, Rule, ours, torchs
from no_knob_tasks import CONTEXT
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR
from transformer import Transformer

Loss = Callable[[Tensor, Tensor], Tensor]
CROSS: Loss = functional.cross_entropy
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
RULES: dict[str, Rule] = {f"Adam cosine {rate:g}": partial(torchs, ADAM, "cosine", lr=rate) for rate in RATES} | {
    "recopt, steps told": partial(ours, None, told=True),
    "recopt": partial(ours, None),
    "x10": partial(ours, "paced(lr=10)", told=True),
}
"""The last is about the default's rate were the weights' spectrum not looked at."""


def trained(network: nn.Module, data: Pair, batch: int, steps: int, loss: Loss) -> nn.Module:
    """``network`` after a training by Adam at 2e-3 with a cosine."""
    rng, opt = _random(0), torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = CosineAnnealingLR(opt, steps)
    for _ in range(steps):
        rows = torch.randint(len(data[0]), (batch,), generator=rng)
        opt.zero_grad()
        loss(network(data[0][rows]), data[1][rows]).backward()
        opt.step()
        schedule.step()
    return network


def further(network: nn.Module, train: Pair, held: Pair, rows: int, batch: int, loss: Loss, seed: int) -> Job:
    """``rows`` of ``train``, drawn by the seed, to go on with."""
    few = torch.randperm(len(train[0]), generator=_random(500 + seed))[:rows]
    return supervised(copy.deepcopy(network), (train[0][few], train[1][few]), held, batch, loss, seed)


def convolutions(side: int, first: int, second: int) -> nn.Sequential:
    """Two convolutions on square images."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, side, side)), nn.Conv2d(1, first, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear((side // 4) ** 2 * second, 10),
    )  # fmt: skip


def below(pair: Pair, classes: int) -> Pair:
    """The rows of the first classes."""
    return pair[0][pair[1] < classes], pair[1][pair[1] < classes]


@cache
def _five() -> nn.Module:
    return trained(convolutions(8, 12, 24), below(_digits()[0], 5), 64, 600, CROSS)


def digits(seed: int) -> Job:
    """From five classes to ten, 100 images."""
    train, held = _digits()
    return further(_five(), train, held, 100, 32, CROSS, seed)


@cache
def _clean() -> nn.Module:
    return trained(convolutions(28, 8, 16), _fashion()[0], 64, 800, CROSS)


def noisy(seed: int) -> Job:
    """From clean images of Fashion-MNIST to dark and noisy ones, 300 of them."""
    (train, held), rng = _fashion(), _random(78)

    def shifted(pair: Pair) -> Pair:
        return 0.5 * pair[0] + 0.5 * torch.randn(pair[0].shape, generator=rng), pair[1]

    return further(_clean(), shifted(train), shifted((held[0][:1500], held[1][:1500])), 300, 32, CROSS, seed)


@cache
def _seven() -> nn.Module:
    torch.manual_seed(0)
    return trained(mlp(784, 128, 64, 10), below(_fashion()[0], 7), 64, 800, CROSS)


def fashion(seed: int) -> Job:
    """From seven classes of Fashion-MNIST to ten, 400 images, three layers."""
    train, held = _fashion()
    return further(_seven(), train, held, 400, 64, CROSS, seed)


def windows(content: str) -> Pair:
    """Rows of characters, and the characters that come next."""
    codes = [ord(c) - 10 if 10 <= ord(c) < 127 else 22 for c in content]
    rows = torch.tensor(codes).unfold(0, CONTEXT + 1, CONTEXT)
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def characters(logits: Tensor, wanted: Tensor) -> Tensor:
    """The cross-entropy of all next characters."""
    return CROSS(logits, wanted.flatten())


@cache
def _docstrings() -> nn.Module:
    torch.manual_seed(0)
    named = (getattr(numpy, name) for name in sorted(dir(numpy)))
    content = "".join(x.__doc__ or "" for x in named if callable(x))[:300_000]
    return trained(Transformer(117, CONTEXT, width=64, layers=2, std=0.02), windows(content), 32, 2500, characters)


def text(seed: int) -> Job:
    """From NumPy's docstrings to its licences, 150 rows of 32 characters."""
    paths = [f for f in files("numpy") or [] if f.name.startswith("LICENSE") and ".dist-info" in str(f)]
    x, y = windows("\n".join(f.read_text(encoding="utf-8") for f in sorted(paths, key=str)))
    order, half = torch.randperm(len(x), generator=_random(3)), len(x) // 2
    train, held = order[:half], order[half : half + 500]
    return further(_docstrings(), (x[train], y[train]), (x[held], y[held]), 150, 16, characters, seed)


TASKS = {"digits": Task(digits, 200), "noisy": Task(noisy, 200), "fashion": Task(fashion, 300), "text": Task(text, 150)}


def main() -> None:
    """Run what is missing, and print mean held-out losses by rule and task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path("no_knob_trained.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = no_knob.completed(args.cache, RULES, TASKS, args.seeds)
    for rule in RULES:
        means = [statistics.mean(runs[rule, task, seed]["loss"] for seed in range(args.seeds)) for task in TASKS]
        print(f"{rule:20}", " ".join(f"{task} {mean:.3f}" for task, mean in zip(TASKS, means, strict=True)))


if __name__ == "__main__":
    main()
