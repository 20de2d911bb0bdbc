"""Cost over trials, levels and tasks, measured and fitted; and what a parent of a thousand workers has to do.

    python benchmarks/cost.py [--seconds 0.6] [--rounds 2] [--jobs 200]

The model is a perceptron on digits (1,510 parameters). Level 1 is Adam, each further one SGD over the rate below, and
with more than one trial a population stands on top. Time is that of a step of the run with all its trials; cells take
turns, round by round, and the least time counts. Memory is the tensors of the run's state, at its largest over a
window: counted, not sampled. Bytes are those of a described job, of its answer, and of a checkpoint, which a paused or
moved trial is.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from executors import done, timed, trial

from recopt.contracts import trees
from recopt.engine import checkpoint
from recopt.engine.engine import REPLAY, Engine
from recopt.running.plan import plan
from recopt.running.session import RunOptions, Session
from recopt.search.executor import Inline
from recopt.search.executors import make_executor
from recopt.search.jobs import described
from recopt.sweeps import make_sweep_spec, plan_sweep, run_sweep
from recopt.tracking.mlflow.store import open_store

TRIALS, LEVELS, TASKS = (1, 4, 16), (1, 2, 3, 4, 5), (1, 4, 16)
EVERY = 5
Cell = tuple[int, int, int]


def engine(cell: Cell, task: str = "digits") -> Engine:
    """A run of so many trials, levels below them, and tasks."""
    trials, levels, tasks = cell
    stack = "/".join(["adam", *["sgd"] * (levels - 1), *([f"pbt(population={trials})[lr]"] if trials > 1 else [])])
    settings = [f"level{levels + 1}.every={EVERY}"] if trials > 1 else []
    made = plan(task, stack, steps=10**9, tasks=tasks, settings=settings, measure=0)
    return Session(made, RunOptions(track=False)).engine


def window(made: Engine) -> int:
    """Go on by a whole window, or as many steps; the updates that stay."""
    begin = made.state.step
    while made.state.step < begin + EVERY or any(own.search and own.search.scores for own in made.state.levels):
        made.step()
    return made.state.step - begin


def step_seconds(made: Engine, seconds: float) -> float:
    """The time of a step of the run, over about so many seconds."""
    begin, count = time.perf_counter(), 0
    while time.perf_counter() < begin + seconds:
        count += window(made)
    return (time.perf_counter() - begin) / count


def state_bytes(made: Engine) -> int:
    """The bytes of the tensors of a run's state, at its largest over some windows."""
    most = 0
    for _ in range(2 * EVERY * 16):
        made.step()
        alive = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in trees.tensors(made.state)}
        most = max(most, sum(alive.values()))
    return most


def fit(times: dict[Cell, float]) -> str:
    """ln t by ln trials, ln tasks and levels, by least squares."""
    rows = np.array([[1, math.log(n), math.log(k), levels - 1] for n, levels, k in times])
    goal = np.log(list(times.values()))
    found = np.linalg.lstsq(rows, goal, rcond=None)[0]
    off = np.exp(np.abs(rows @ found - goal))
    law = f"{1000 * math.exp(found[0]):.2f} ms · trials^{found[1]:.2f} · tasks^{found[2]:.2f}"
    return f"{law} · {math.exp(found[3]):.2f}^(levels - 1), within {off.max():.2f} (median {np.median(off):.2f})"


def grid(seconds: float, rounds: int) -> None:
    """Time and memory of each cell, and the fit."""
    cells = list(itertools.product(TRIALS, LEVELS, TASKS))
    made = {cell: engine(cell) for cell in cells}
    times = dict.fromkeys(cells, math.inf)
    for each in made.values():
        window(each)
    for _ in range(rounds):
        for cell in cells:
            times[cell] = min(times[cell], step_seconds(made[cell], seconds / (1 if cell[0] == 16 else 4)))
    print("| trials | tasks | " + " | ".join(f"{n} levels" for n in LEVELS) + " | state, 1 and 5 levels |")
    print("|---" * (3 + len(LEVELS)) + "|")
    for trials, tasks in itertools.product(TRIALS, TASKS):
        row = " | ".join(f"{1000 * times[trials, n, tasks]:.2f}" for n in LEVELS)
        kept = " and ".join(f"{state_bytes(made[trials, n, tasks]) / 1e6:.2f}" for n in (LEVELS[0], LEVELS[-1]))
        print(f"| {trials} | {tasks} | {row} | {kept} MB |", flush=True)
    print(fit(times))


def sent() -> None:
    """The bytes of a job, its answer, and a checkpoint."""
    job = trial(10)
    print(f"a job {len(described(job, 1)):,} bytes, its answer {len(str(job.run())):,}")
    for hidden in (20, 2000):
        for stack in ("adam", "adam/hypergradient/annealing"):
            planned = plan(f"digits(hidden=[{hidden}])", stack, steps=10**9, measure=0)
            made = Session(planned, RunOptions(track=False)).engine
            made.run(2 * REPLAY)
            with tempfile.TemporaryDirectory() as folder:
                checkpoint.save(made, Path(folder) / "it")
                size = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
            count = sum(p.numel() for p in made.state.task.params)
            print(
                f"a checkpoint of `{stack}` with {count:,} parameters: {size:,} bytes, {size / count:.1f} a parameter"
            )


def _recording(count: int) -> float:
    """The seconds that the record of a sweep of so many trials takes."""
    spec = {"task": "quadratic", "stack": "sgd", "steps": 1, "measure": 0, "trials": count,
            "over": {"sgd.lr": "1e-6..1e-3"}}  # fmt: skip
    plain, _ = timed(lambda: run_sweep(plan_sweep(make_sweep_spec(spec)), Inline(), track=False))
    with tempfile.TemporaryDirectory() as folder:
        open_store(None, Path(folder) / "runs", create=True)
        took, _ = timed(lambda: run_sweep(plan_sweep(make_sweep_spec(spec)), Inline(), root=Path(folder) / "runs"))
    return took - plain


def parent(count: int) -> None:
    """The seconds that a trial costs the process that hands it out and records it, and the workers that it can feed."""
    jobs = [trial(1, seed) for seed in range(count)]
    with make_executor("processes", 2) as executor:
        done(executor, jobs[:4])
        begin = time.process_time()
        done(executor, jobs)
        hands = (time.process_time() - begin) / count
    record = (_recording(count) - _recording(count // 4)) / (count - count // 4)
    print(
        f"a trial costs its parent {1000 * hands:.2f} ms of its processor to hand out, {1000 * record:.1f} ms to record"
    )
    print("| seconds a trial | trials a second of 1,000 workers | handing out, its share | recording, its share |")
    print("|---|---|---|---|")
    for seconds in (1, 10, 60, 600):
        rate = 1000 / seconds
        print(f"| {seconds} | {rate:.3g} | {rate * hands:.1%} | {rate * record:.0%} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.rounds:
        grid(given.seconds, given.rounds)
    sent()
    parent(given.jobs)


if __name__ == "__main__":
    main()
