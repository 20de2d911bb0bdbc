"""Adam over Adam on digits, one to eight levels high: held-out accuracy and the rates that were found.

    python benchmarks/depth.py --steps 150 1000 --seeds 5

Height 1 is Adam at its default rate, which nothing tunes.
"""

from __future__ import annotations

import argparse
import statistics

import torch

import recopt
from recopt.core.guard import FROZEN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[150, 1000])
    parser.add_argument("--heights", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6, 7, 8])
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("steps  height  accuracy: median, least, most      rate of level 1: least, most   frozen")
    for steps in given.steps:
        for height in given.heights:
            found, rates, frozen = [], [], 0
            for seed in range(given.seeds):
                result = recopt.run("digits", "adam", depth=height, steps=steps, seed=seed, track=False)
                found.append(result.after["accuracy"])
                rates.append(result.hyperparameters["adam.lr"])
                guard = result.engine.state.guard
                frozen += guard is not None and any(own.strikes >= FROZEN for own in guard.tasks)
            row = f"{statistics.median(found):.3f}  {min(found):.3f}  {max(found):.3f}"
            print(f"{steps:5d}  {height:6d}  {row:34s}  {min(rates):.3g}  {max(rates):.3g}  {frozen}", flush=True)


if __name__ == "__main__":
    main()
