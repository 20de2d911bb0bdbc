"""Tasks that bring their process down, and sweeps over them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from recopt.search.executor import Executor
from recopt.search.executors import make_executor
from recopt.sweeps import Sweep, make_sweep_spec, plan_sweep, run_sweep
from recopt.sweeps.conduct import Conduct, trial_journal

TASK = """
import os, signal
from contextlib import suppress
from pathlib import Path
import torch
from recopt import Task, option

class Mine(Task):
    '''A bowl whose batches may bring the process down.'''
    size = option(1.0, "curvature")
    deadly = option(0.0, "ends the process, if above 0, at every try")
    once = option("", "a file; the process is killed if it is not there, which it is from then on")
    seconds = option(0.0, "time that a batch takes")

    def model(self):
        return torch.nn.Linear(2, 1)

    def batch(self, index, split="train"):
        import time
        print("a line of a plugin's own")
        if self.once:
            with suppress(FileExistsError):
                Path(self.once).touch(exist_ok=False)  # by one of several processes
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        return torch.ones(3, 2) * (1 + index % 3)

    def loss(self, model, batch):
        if self.deadly > 0:
            os._exit(3)
        return self.size * model(batch).square().mean()
"""


def data(**more: Any) -> dict[str, Any]:
    """The mapping of a small sweep over the task, whose file is in the current folder."""
    Path("mine.py").write_text(TASK)
    base = {"task": "mine.py", "stack": "sgd", "steps": 9, "measure": 0, "over": {"sgd.lr": "1e-4..1e-2"}, "trials": 4}
    return {**base, **more}


def conducted(spec: dict[str, Any], executor: Executor, parts: Path | None = None) -> Conduct:
    """A sweep that was carried out, without a record."""
    with executor:
        found = Conduct(plan_sweep(make_sweep_spec(spec)), executor, trial_journal(None), parts)
        found.run()
    return found


def numbers(conduct: Conduct) -> dict[Any, Any]:
    """All answers but the time that they took."""
    return {
        key: (entry.about, {k: v for k, v in entry.found.items() if k != "seconds"}, entry.failure)
        for key, entry in conduct.journal.entries.items()
    }


def swept(spec: dict[str, Any], name: str = "inline", workers: int | None = None, **how: Any) -> Sweep:
    """The result of a sweep, recorded in the current folder if ``track`` is given."""
    with make_executor(name, workers) as executor:
        return run_sweep(plan_sweep(make_sweep_spec(spec)), executor, **{"track": False, **how})


def alive(mark: str) -> list[int]:
    """The processes that have ``mark`` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        except OSError:
            continue
    return found
