"""Executors and sweeps: workers, one that is killed, a trial's cost besides its run, a store with a thousand trials.

    python benchmarks/executors.py [--rounds 8] [--seconds 1.0] [--many 1000] [--ray] [--workers N …]

The work of a trial is a run on `quadratic` of about so many seconds. Executors take turns, round by round, so that what
the machine does besides falls on all; the least time counts. Workers are started before; their start is told apart.
The folder of the store is temporary. ``--workers`` prints the trials a second of so many processes instead: each does
four trials a round, and the least time counts.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from recopt.search.executor import Executor, Inline
from recopt.search.executors import make_executor
from recopt.sweeps import make_sweep_spec, plan_sweep, run_sweep
from recopt.sweeps.record import SweepRecord
from recopt.sweeps.trial import TrialRun
from recopt.tracking.mlflow.children import PARENT, Children
from recopt.tracking.mlflow.runs import list_runs
from recopt.tracking.mlflow.store import open_store


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds that ``work`` takes, and what it returns."""
    begin = time.perf_counter()
    found = work()
    return time.perf_counter() - begin, found


def trial(steps: int, seed: int = 0) -> TrialRun:
    """A trial of so many steps."""
    return TrialRun({"task": "quadratic", "stack": "sgd(lr=0.001)", "steps": steps, "measure": 0}, {}, seed)


def done(executor: Executor, jobs: list[TrialRun]) -> list[Any]:
    """Do ``jobs``; what each found, but the time that it took."""
    found: list[Any] = [None] * len(jobs)
    for number, job in enumerate(jobs):
        executor.submit(number, job)
    for _ in jobs:
        answer = executor.next()
        assert answer.failure is None, answer.failure
        found[answer.number] = {key: value for key, value in answer.found.items() if key != "seconds"}
    return found


def steps_of(seconds: float) -> int:
    """The steps of a trial that takes about ``seconds`` in this process."""
    done(Inline(), [trial(200)])
    took, _ = timed(lambda: done(Inline(), [trial(2000)]))
    return max(1, round(2000 * seconds / took))


def workers(kinds: list[str], rounds: int, seconds: float) -> None:
    """The time of four trials by each executor, round by round, and what a job costs besides its work."""
    jobs = [trial(steps_of(seconds), seed) for seed in range(4)]
    bare = min(timed(lambda: [trial(1).run() for _ in range(20)])[0] for _ in range(5)) / 20
    with ExitStack() as stack:
        made = {kind: stack.enter_context(make_executor(kind, 1 if kind == "inline" else 2)) for kind in kinds}
        start = {kind: timed(lambda e=executor: done(e, [trial(1), trial(1)]))[0] for kind, executor in made.items()}
        took: dict[str, list[float]] = {kind: [] for kind in kinds}
        small: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, executor in made.items():
                took[kind].append(timed(lambda e=executor: done(e, jobs))[0])
                small[kind].append(timed(lambda e=executor: done(e, [trial(1)] * 40))[0] * executor.workers / 40)
    for kind in kinds:
        ratios = [one / other for one, other in zip(took["inline"], took[kind], strict=True)]
        ratio = min(took["inline"]) / min(took[kind])
        print(
            f"{kind:10} {min(took[kind]):6.2f} s for 4 trials: {ratio:.2f} times inline "
            f"(median of {rounds} rounds {statistics.median(ratios):.2f}); start {start[kind]:.1f} s; "
            f"{1000 * (min(small[kind]) - bare):.1f} ms a job besides its work"
        )


def working() -> list[int]:
    """The workers below this process that have a job, by Linux's list of processes."""
    above, told = dict[int, int](), dict[int, bytes]()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            told[int(folder.name)] = (folder / "cmdline").read_bytes()
            above[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])

    def below(one: int) -> bool:
        return one in above and (above[one] == os.getpid() or below(above[one]))

    return [
        one
        for one, words in told.items()
        if (b"recopt.search.worker" in words or b"::answered" in words) and below(one)
    ]


def killed(kinds: list[str], seconds: float) -> None:
    """Kill a worker in the middle of its trial, and compare all numbers with those of this process."""
    jobs = [trial(steps_of(seconds), seed) for seed in range(4)]
    plain = done(Inline(), jobs)
    for kind in kinds:
        dead = list[int]()

        def kill(dead: list[int] = dead) -> None:
            dead.append(working()[0])
            os.kill(dead[0], signal.SIGKILL)

        with make_executor(kind, 2) as executor:
            done(executor, [trial(1), trial(1)])
            timer = threading.Timer(seconds / 2, kill)
            timer.start()
            took, found = timed(lambda e=executor: done(e, jobs))
            timer.join()
        print(f"{kind:10} {took:6.2f} s for 4 trials, {len(dead)} worker killed after {seconds / 2:.1f} s; "
              f"{'the numbers of inline' if found == plain else 'OTHER NUMBERS THAN INLINE'}")  # fmt: skip


def scaling(counts: list[int], rounds: int, seconds: float) -> None:
    """Trials a second of so many worker processes."""
    steps, first = steps_of(seconds), 0.0
    print("| workers | trials a second | over one | of that many |")
    print("|---|---|---|---|")
    for count in counts:
        jobs = [trial(steps, seed) for seed in range(4 * count)]
        with make_executor("processes", count) as executor:
            done(executor, jobs[:count])
            rate = len(jobs) / min(timed(lambda e=executor, j=jobs: done(e, j))[0] for _ in range(rounds))
        first = first or rate / count
        print(f"| {count} | {rate:.2f} | {rate / first:.2f} | {rate / first / count:.0%} |", flush=True)


def many(count: int, folder: Path) -> None:
    """A sweep of ``count`` short trials, and how quick its store is."""
    spec = {"task": "quadratic", "stack": "sgd", "steps": 1, "measure": 0, "trials": count,
            "over": {"sgd.lr": "1e-6..1e-3"}}  # fmt: skip
    root = folder / "runs"
    plain, _ = timed(lambda: run_sweep(plan_sweep(make_sweep_spec(spec)), Inline(), track=False))
    store = open_store(None, root, create=True)  # makes the tables
    kept, trial_of = list[float](), SweepRecord.trial
    SweepRecord.trial = lambda self, one: kept.append(timed(lambda: trial_of(self, one))[0])  # type: ignore[method-assign]
    took, found = timed(lambda: run_sweep(plan_sweep(make_sweep_spec(spec)), Inline(), root=root))
    print(f"{count:,} trials: {plain:.1f} s, recorded {took:.1f} s with the wait for the store at the end; "
          f"{1000 * sum(kept) / count:.2f} ms a trial for the record, in the parent")  # fmt: skip
    row = list_runs(None, 20, root)[0]

    def page() -> Any:
        return store.client.search_runs([row.experiment], f"tags.`{PARENT}` = '{row.id}'", max_results=100)

    for what, work in {
        "recopt runs": lambda: list_runs(None, 20, root), "a page of 100 trials": page,
        "all trials, to go on": lambda: Children(store.client, row.id, store.log_values),
    }.items():  # fmt: skip
        print(f"{what:22} {1000 * min(timed(work)[0] for _ in range(5)):7.1f} ms")
    size = (root / "mlflow.db").stat().st_size / 1e6
    journal = len((found.folder / "trials.jsonl").read_text().splitlines())
    print(f"store {size:.1f} MB; {journal:,} lines in the journal")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--workers", type=int, nargs="+", help="counts of processes to compare")
    given = parser.parse_args()
    print(f"{os.cpu_count()} processors, one thread of torch for each job")
    if given.workers:
        scaling(given.workers, given.rounds, given.seconds)
        return
    if given.rounds:
        kinds = ["processes", *(["ray"] if given.ray else [])]
        workers(["inline", *kinds], given.rounds, given.seconds)
        killed(kinds, given.seconds)
    if given.many:
        with tempfile.TemporaryDirectory() as folder:
            many(given.many, Path(folder))


if __name__ == "__main__":
    main()
