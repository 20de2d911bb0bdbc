"""What recording costs: the same run with MLflow on and off, in turn, at about 5 ms a step.

    python benchmarks/tracking.py [--steps 400] [--rounds 7] [--threads 1]

Prints the ratio of the time in the loop, pair by pair (median, least, most), and what starting and
finishing a record adds once per run, which no step pays. The store is a fresh SQLite file in a temporary folder.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from recopt.running.plan import plan
from recopt.running.session import RunOptions, Session


def once(steps: int, hidden: int, track: bool, root: Path) -> tuple[float, float]:
    """Seconds in the loop and seconds in all, of one run."""
    begin = time.perf_counter()
    made = plan(f"digits(hidden=[{hidden}], batch_size=256)", "adam/hypergradient", steps=steps, measure=0)
    session = Session(made, RunOptions(track=track, root=root))
    first: list[float] = []
    step = session.engine.step

    def timed() -> None:
        if not first:
            first.append(time.perf_counter())
        step()

    session.engine.step = timed  # type: ignore[method-assign]
    end = session._end
    ended: list[float] = []

    def finish(*args: object) -> object:
        ended.append(time.perf_counter())
        return end(*args)  # type: ignore[arg-type]

    session._end = finish  # type: ignore[method-assign, assignment]
    session.run()
    return ended[0] - first[0], time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("steps", 400), ("rounds", 7), ("threads", 1), ("hidden", 2000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    loops: dict[bool, list[float]] = {True: [], False: []}
    whole: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        once(20, given.hidden, True, Path(folder))
        for _ in range(given.rounds):
            for track in (False, True):
                loop, total = once(given.steps, given.hidden, track, Path(folder))
                loops[track].append(loop)
                whole[track].append(total)
    ratios = [a / b for a, b in zip(loops[True], loops[False], strict=True)]
    print(f"{1e3 * statistics.median(loops[False]) / given.steps:.2f} ms a step without recording")
    print(f"on / off: {statistics.median(ratios):.3f} (least {min(ratios):.3f}, most {max(ratios):.3f})")
    fixed = statistics.median(a - b for a, b in zip(whole[True], whole[False], strict=True))
    print(f"once per run: {fixed:.2f} s to start and finish the record")


if __name__ == "__main__":
    main()
