"""Learned weights of examples against none: MNIST with flipped training labels and a few clean held-out ones.

    python benchmarks/reweighting.py [--flip 0.3] [--steps 2000] [--seeds 3] [--rate 0.001]

A network of 100 hidden units is trained by Adam. Weights of examples stay equal, or are moved by a second Adam at every
step by the exact hypergradient of the loss on 1,000 clean held-out examples: a network that weighs an example by its
loss (Shu et al. 2019, 1902.07379), or a number for each example. Loss and accuracy on the official test set at the end.
"""

from __future__ import annotations

import argparse
import statistics

import recopt


def main() -> None:
    """Print one line for each way of weighing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--flip", type=float, default=0.3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.001)
    given = parser.parse_args()
    outer = {"network": "adam", "examples": "adam(lr=0.1)"}
    arms = {"none": ("network", f"adam(lr={given.rate})")}
    arms |= {kind: (kind, f"adam(lr={given.rate})/loss:{rule}") for kind, rule in outer.items()}
    for name, (kind, stack) in arms.items():
        task = f"noisy-labels(of=mnist(hidden=[100], activation=relu), flip={given.flip}, weights={kind})"
        ends = [
            recopt.run(task, stack, steps=given.steps, seed=seed, measure=0, track=False).after
            for seed in range(given.seeds)
        ]
        accuracy, loss = ([end[key] for end in ends] for key in ("accuracy", "loss"))
        spread = statistics.stdev(accuracy) if len(accuracy) > 1 else 0.0
        print(f"{name:10} accuracy {statistics.mean(accuracy):.4f} ± {spread:.4f}  loss {statistics.mean(loss):.3f}  "
              f"{stack}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
