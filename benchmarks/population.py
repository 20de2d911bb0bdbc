"""Populations in one vectorized call, beside the same trials one after the other.

    python benchmarks/population.py [--population 16] [--rounds 7]

Two ways take turns, round by round, so that what the machine does besides falls on both; the least time counts.
"""

from __future__ import annotations

import argparse
import time

import torch

from recopt.engine.copies import Copies
from recopt.running.plan import plan
from recopt.running.session import RunOptions, Session


class Apart(Copies):
    """Copies that are evaluated one after the other."""

    def groups(self, count: int, size: int) -> list[range]:
        """None."""
        return []


def session(stack: str, together: bool, every: int) -> Session:
    """A run on digits."""
    settings = [f"level2.every={every}"] if "/" in stack else []
    made = Session(plan("digits", stack, steps=10**6, settings=settings), RunOptions(track=False))
    if not together:
        made.engine.source.copies.__class__ = Apart
    return made


def seconds(made: Session, updates: int) -> float:
    """The time of so many updates of the run."""
    engine = made.engine
    begin, last = time.perf_counter(), engine.state.step + updates
    while engine.state.step < last or any(own.search and own.search.scores for own in engine.state.levels):
        engine.step()
    return time.perf_counter() - begin


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--population", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--every", type=int, default=50, help="steps of a window")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cases = {"cmaes on the model": (f"cmaes(population={given.population})", 10)}
    cases |= {f"{rule}/pbt": (f"{rule}/pbt(population={given.population})", given.every) for rule in ("sgd", "adam")}
    print(f"digits, a perceptron of 1,510 parameters; population {given.population}, windows of {given.every} steps")
    for name, (stack, updates) in cases.items():
        both = {together: session(stack, together, given.every) for together in (True, False)}
        took: dict[bool, list[float]] = {True: [], False: []}
        for made in both.values():
            seconds(made, 2 * updates)
        for _ in range(given.rounds):
            for together, made in both.items():
                took[together].append(seconds(made, updates))
        one, other = min(took[True]), min(took[False])
        each = 1e6 / updates / given.population
        print(f"{name:20} {one * each:7.0f} µs a trial and step, one after the other {other * each:7.0f}: "
              f"ratio {one / other:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
