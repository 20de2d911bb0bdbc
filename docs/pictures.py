"""The pictures of README and docs, measured: `python docs/pictures.py` trains and draws them again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import recopt

RATES = [10.0**exponent for exponent in range(-7, 4)]
SEEDS = range(5)
IMAGES = Path(__file__).parent / "images"
STEPS = 400
TRAIN = 1_500
BLUE, GREY = "#3949ab", "#8d99a6"
TRIED = [10.0 ** (half / 2) for half in range(-10, 1)]
NETS = {
    "narrow: 32 units": (64, 32, 10),
    "wide: 2 × 512 units": (64, 512, 512, 10),
    "deep: 10 layers of 64": (*[64] * 10, 10),
}

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's 1,797 digits: pixels in [0, 1], labels."""
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)


def network(widths: Sequence[int]) -> nn.Module:
    """Linear layers, with ReLUs between them."""
    layers: list[nn.Module] = []
    for into, out in pairwise(widths):
        layers += [nn.Linear(into, out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(make: Make, seed: int, widths: Sequence[int] = (64, 64, 10)) -> tuple[list[float], float]:
    """The learning rates of one run that :class:`recopt.Optimizer` reports, and its accuracy on the last 297 digits."""
    x, y = digits()
    torch.manual_seed(seed)
    model = network(widths)
    optimizer, rates = make(model.parameters()), []
    batches = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        rows = torch.randint(TRAIN, (64,), generator=batches)
        optimizer.zero_grad()
        cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
        if isinstance(optimizer, recopt.Optimizer):
            rates.append(optimizer.hyperparameters().get("adam.lr", 0.0))
    return rates, (model(x[TRAIN:]).argmax(1) == y[TRAIN:]).float().mean().item()


def ways(make: Callable[[float], Make]) -> tuple[list[list[float]], list[list[float]]]:
    """For each start rate: the rates on the way in the first seed, and the accuracies of all seeds."""
    runs = [[train(make(rate), seed) for seed in SEEDS] for rate in RATES]
    return [of[0][0] for of in runs], [[accuracy for _, accuracy in of] for of in runs]


def no_knob() -> None:
    """Write docs/images/no-knob.png: three networks, Adam at eleven rates, and the default, which has none."""
    figure, panels = plt.subplots(1, 3, figsize=(9.6, 3.1), layout="constrained", sharey=True)
    for axes, (name, widths) in zip(panels, NETS.items(), strict=True):
        values = [[train(partial(torch.optim.Adam, lr=rate), seed, widths)[1] for seed in SEEDS] for rate in TRIED]
        ours = [train(partial(recopt.Optimizer, steps=STEPS), seed, widths)[1] for seed in SEEDS]
        axes.fill_between(TRIED, [min(v) for v in values], [max(v) for v in values], color=GREY, alpha=0.2, lw=0)
        axes.plot(TRIED, [median(v) for v in values], "o-", color=GREY, lw=2, ms=4)
        axes.axhspan(min(ours), max(ours), color=BLUE, alpha=0.2, lw=0)
        axes.axhline(median(ours), color=BLUE, lw=2)
        axes.set(xscale="log", ylim=(0, 1), title=name, xlabel="learning rate of Adam")
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(11)
        best = max(median(v) for v in values)
        print(f"{name}: Adam at its best rate {best:.3f}, the default {median(ours):.3f}")
    panels[0].set_ylabel("accuracy after 400 steps")
    panels[0].text(1e-5, 0.96, "recopt.Optimizer, no rate", color=BLUE, weight="bold")
    panels[0].text(2e-5, 0.05, "torch.optim.Adam", color=GREY, weight="bold")
    figure.savefig(IMAGES / "no-knob.png", dpi=160)


def main() -> None:
    """Train, then write docs/images/starts.png and no-knob.png."""
    no_knob()
    rates, ours = ways(lambda rate: lambda params: recopt.Optimizer(params, f"adam(lr={rate})/adagrad[lr]"))
    _, adam = ways(lambda rate: lambda params: torch.optim.Adam(params, lr=rate))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.4), layout="constrained")
    lines = (adam, GREY, "torch.optim.Adam", 0.17), (ours, BLUE, "recopt.Optimizer", 0.84)
    for values, colour, name, height in lines:
        left.fill_between(RATES, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.2, lw=0)
        left.plot(RATES, [median(v) for v in values], "o-", color=colour, lw=2, ms=4)
        left.text(20, height, name, color=colour, ha="center", weight="bold")
    left.set(xscale="log", ylim=(0, 1), xlabel="learning rate at the start")
    left.set_title("Accuracy after 400 steps, five seeds")
    for start, way in zip(RATES, rates, strict=True):
        right.plot(range(STEPS + 1), [start, *way], color=BLUE, alpha=0.7, lw=1.4)
    right.set(yscale="log", xlabel="step", title="Its learning rate, from eleven starts")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(11)
    figure.savefig(IMAGES / "starts.png", dpi=160)


if __name__ == "__main__":
    main()
