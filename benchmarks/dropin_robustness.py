"""How far off a start value may be: accuracy over α₀ = 10^linspace(−7, 3, 20), by rule, height and length of the run.

    RECOPT_DATA=DIR python benchmarks/dropin_robustness.py mnist [--rules adam/adagrad] [--heights 0 1 2 3 4 5]
    python benchmarks/dropin_robustness.py digits [--lengths 100 300 1000] [--seeds 0 1 2] [--brief]

mnist: one epoch of MLP 784-128-10 with tanh in batches of 256; digits: MLP 64-64-10 with ReLU in batches of 64, read
after each of the lengths. Height 0 is Adam at α₀, height 1 a level over the rate of a rule that begins at α₀, and so
on (``RULES``). Chandra et al. 2022, figure 4, report that each level buys about a decade, and that all of theirs fail
above α₀ = 100. One row per α₀: held-out accuracy in percent, the median over the seeds and (the least). The last lines
say, per seed, how many start values are within a point of the best of height 0, and the least of all medians.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from dropin_peers_tasks import Work, digits, images
from torch import nn
from torch.nn.functional import cross_entropy

import recopt

Build = Callable[[nn.Module, float, int], torch.optim.Optimizer]
"""A model, a start value and the length of the run; the optimizer."""


@dataclass(frozen=True)
class Rule:
    """A stack for each height.

    Attributes:
        base: the rule that begins at the start value; None: the default, which does not read it, and so is run once.
        first: the level above it, and ``further`` each one above that.
        told: the stack is told how long the run will be.
    """

    base: str | None
    first: str = ""
    further: str = ""
    told: bool = False

    def build(self, height: int) -> Build:
        """The optimizer of that many levels above the first."""

        def made(model: nn.Module, start: float, steps: int) -> torch.optim.Optimizer:
            told = {"steps": steps} if self.told else {}
            if self.base is None:
                return recopt.Optimizer(model.parameters(), depth=height + 1, **told)
            stack = self.base + self.first * (height > 0) + self.further * (height - 1)
            return recopt.Optimizer(model.parameters(), stack, lr=start, **told)

        return made


ADAM = Rule("adam")
RULES = {
    "the default, steps told": Rule(None, told=True),
    "the default": Rule(None),
    "paced/adagrad": Rule("paced", "/adagrad[lr]", "/adagrad[lr]"),
    "adam/adagrad": Rule("adam", "/adagrad(lr=1)[lr]", "/adagrad(lr=0.1)[lr]"),
    "adam/kesten": Rule("adam", "/kesten[lr]", "/kesten[lr]"),
    "adam/adam": Rule("adam", "/adam[lr]", "/adam[lr]"),
    "sgd/adagrad": Rule("sgd(momentum=0.9)", "/adagrad[lr]", "/adagrad[lr]"),
}


def read(work: Work, build: Build, start: float, lengths: list[int], seed: int) -> Iterator[float]:
    """Percent right on held-out data after each length."""
    torch.manual_seed(seed)
    model = work.build()
    optimizer, rows = build(model, start, lengths[-1]), list[torch.Tensor]()
    for step in range(1, lengths[-1] + 1):
        rows = rows or list(torch.randperm(len(work.inputs)).split(work.batch))
        chosen = rows.pop(0)
        optimizer.zero_grad()
        cross_entropy(model(work.inputs[chosen]), work.targets[chosen]).backward()
        optimizer.step()
        if step in lengths:
            with torch.no_grad():
                right = torch.cat([model(x).argmax(1) == y for x, y in work.held_out])
            yield 100 * right.double().mean().item()


def accuracies(work: Work, rule: Rule, height: int, start: float, lengths: list[int], seed: int) -> list[float]:
    """By length; a rule that is told its length has a run for each."""
    runs = [[steps] for steps in lengths] if rule.told else [lengths]
    return [found for run in runs for found in read(work, rule.build(height), start, run, seed)]


def main() -> None:
    """Print the rows of each rule and height as they are there, then the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=("mnist", "digits"))
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--heights", type=int, nargs="+", default=list(range(6)))
    parser.add_argument("--lengths", type=int, nargs="+")
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--brief", action="store_true", help="the counts alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    work = digits() if options.data == "digits" else images("mnist", (784, 128, 10), nn.Tanh, 60_000, 1)
    lengths = sorted(options.lengths or ([100, 300, 1000] if options.data == "digits" else [work.steps]))
    starts = [10**power for power in torch.linspace(-7, 3, options.points).tolist()]
    seeds, best = range(len(options.seeds)), list[list[float]]()
    for name, rule, height in [("adam", ADAM, 0), *((n, RULES[n], h) for n in options.rules for h in options.heights)]:
        known = starts if rule.base else starts[:1]
        found = [[accuracies(work, rule, height, start, lengths, s) for s in options.seeds] for start in known]
        found *= len(starts) // len(known)
        best = best or [[max(row[s][k] for row in found) for k in range(len(lengths))] for s in seeds]
        for start, row in zip(starts, found, strict=True) if not options.brief else ():
            cells = [f"{statistics.median(c):6.2f} ({min(c):5.2f})   " for c in zip(*row, strict=True)]
            print(f"{start:8.1e}  " + "".join(cells))
        for k, steps in enumerate(lengths):
            counts = [sum(row[s][k] >= best[s][k] - 1 for row in found) for s in seeds]
            least = min(statistics.median(cell[k] for cell in row) for row in found)
            line = f"{name}, height {height}, {steps} steps: {counts} of {options.points}, least {least:.1f}"
            print(line, flush=True)
    print(f"the best of Adam's, by seed and length: {best}")


if __name__ == "__main__":
    main()
