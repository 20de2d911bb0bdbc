"""A campaign of kills: runs stopped by random signals at random moments, resumed, and held to the undisturbed run.

    python benchmarks/campaign.py [--trials 60] [--seed 0] [--steps 300]

Each trial starts ``recopt run`` in a process of its own and sends it SIGKILL, SIGINT, SIGTERM or SIGHUP, one to three
times, each time resuming it, until it is over. Then the trace, every point that MLflow has (each at most once), and the
final metrics must be those of the undisturbed run, to the bit, and no run may be said to be running still. Prints a
line for each trial that departs, and the counts.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from recopt.checking.errors import RecoptError
from recopt.tracking.mlflow.runs import RunRow, list_runs
from recopt.tracking.mlflow.store import open_store
from recopt.tracking.trace import load_trace

WORK = {
    "adam/sgd": ("digits", "adam/sgd"),
    "annealing": ("digits", "adam/hypergradient/annealing", "--set", "level3.every=11"),
    "population": ("quadratic", "sgd(lr=0.01)/random-search", "--set", "level2.every=7"),
    "choosing": ("quadratic(dim=4)", "lstm/adam", "--choose", "every=40,tasks=4,steps=10"),
}
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MEASURED = ("seconds",)
"""Parts of the names of metrics that are measured times."""


def start(folder: Path, *args: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "recopt", "run", *args, "--save-every", "0.2"]
    log = (folder / "log.txt").open("ab")
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def the_run(folder: Path) -> RunRow | None:
    """The one run in ``folder``; None if it was stopped before there was one."""
    try:
        return next(iter(list_runs(None, root_dir=folder / "runs")), None)
    except RecoptError:  # no store yet, or an empty one
        return None


def figures(folder: Path) -> dict[Any, Any]:
    """The trace, the points in the store and the last metrics of the run in ``folder``, and what is wrong by itself."""
    row = the_run(folder)
    assert row is not None and row.folder is not None
    found: dict[Any, Any] = {"status": row.status}
    trace = load_trace(row.folder / "trace.npz")
    for key in trace.keys():  # noqa: SIM118 - not a mapping
        found["trace", *key] = [column.tolist() for column in trace.series(*key)]
    client = open_store(None, folder / "runs").client
    for one in [client.get_run(row.id), *client.search_runs([row.experiment], f"tags.`recopt.root` = '{row.id}'")]:
        level = one.data.tags["recopt.level"]
        for key in one.data.metrics:
            if any(part in key for part in MEASURED):
                continue
            points = sorted((p.step, p.value) for p in client.get_metric_history(one.info.run_id, key))
            found["points", level, key] = points
            found["once", level, key] = len({step for step, _ in points}) == len(points)
    return found


def differ(one: dict[Any, Any], other: dict[Any, Any]) -> list[str]:
    """The names of figures that are not the same in both."""

    def same(a: Any, b: Any) -> bool:
        if not isinstance(a, list):
            return bool(a == b)
        return bool(np.array_equal(np.array(a, float), np.array(b, float), equal_nan=True))

    odd = [str(key) for key in {*one, *other} if key not in one or key not in other or not same(one[key], other[key])]
    return sorted(odd + [str(key) for key, value in one.items() if key[0] == "once" and not value])


def trial(place: Path, work: tuple[str, ...], seconds: float, rng: random.Random) -> tuple[Path, list[str]]:
    """Carry out a run with interruptions; its folder, and the signals that it got.

    A run that is stopped before its first checkpoint cannot be resumed, and is started anew in another folder.
    """
    sent, left, ref = list[str](), rng.randint(1, 3), ""
    folder = Path(tempfile.mkdtemp(dir=place))
    while True:
        process = start(folder, "--resume", ref) if ref else start(folder, *work)
        if left:
            try:
                process.wait(rng.uniform(0.5, seconds))
            except subprocess.TimeoutExpired:
                sign = rng.choice(SIGNALS)
                process.send_signal(sign)
                sent.append(sign.name)
            left -= 1
        process.wait(600)
        row = the_run(folder)
        if process.returncode == 0 or (row is not None and row.status == "FINISHED"):  # a signal may come after its end
            return folder, sent
        if process.returncode not in (*(-sign for sign in SIGNALS), 130):
            return folder, [*sent, (folder / "log.txt").read_text()[-400:]]
        if row is not None and row.folder is not None and (row.folder / "checkpoint.safetensors").is_file():
            ref = row.id
        else:
            folder = Path(tempfile.mkdtemp(dir=place))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("trials", 60), ("seed", 0), ("steps", 300)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    rng, counts, signals = random.Random(given.seed), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        whole, took = {}, {}
        for name, work in WORK.items():
            (folder := Path(place) / name.replace("/", "-")).mkdir()
            began = time.monotonic()
            assert start(folder, *work, "--steps", str(given.steps), "--measure", "37").wait() == 0, name
            whole[name], took[name] = figures(folder), time.monotonic() - began
        for number in range(given.trials):
            name = rng.choice(list(WORK))
            work = (*WORK[name], "--steps", str(given.steps), "--measure", "37")
            folder, sent = trial(Path(place), work, took[name], rng)
            signals.update(sent)
            odd = differ(figures(folder), whole[name])
            counts["departed" if odd else "equal"] += 1
            if odd:
                print(f"trial {number}, {name}, {', '.join(sent) or 'no signal'}: {', '.join(odd[:6])}", flush=True)
    print(f"{given.trials} trials: {dict(counts)}; signals: {dict(signals)}")


if __name__ == "__main__":
    main()
