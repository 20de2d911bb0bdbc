"""``torchrun … -m recopt run``: a process that is killed, one that fails, one asked to stop, and what is refused."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import recopt
from recopt import RecoptError
from recopt.public import __version__
from recopt.running import ranks as running_ranks
from recopt.running.checkpoints import step_in
from recopt.running.plan import Plan, plan
from recopt.tracking.mlflow.runs import list_runs

from ..commands import Recopt
from ..engines import Regression

HOME = Path(__file__).parents[2]
TASK = """
    import os
    import torch
    from torch import nn
    import recopt

    class Frail(recopt.Task):
        '''A regression in whose second process something happens at some batch.'''
        def model(self):
            return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

        def batch(self, index, split="train"):
            first = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
            if split == "train" and index == 12 and first and os.environ.get("RANK") == "1":
                how = os.environ.get("FRAIL")
                if how == "killed":
                    os.kill(os.getpid(), 9)
                if how == "failing":
                    raise KeyError("no such thing")
            g = self.generator(index, len(split))
            x = torch.randn(8, 3, generator=g, dtype=torch.float64)
            return x, x.sum(1, keepdim=True).sin()

        def loss(self, model, batch):
            return ((model(batch[0]) - batch[1]) ** 2).mean()
"""
RUN = ("run", "frail.py", "lstm/adam", "--tasks", "3", "--steps", "20", "--dtype", "float64", "--set", "level2.every=4",
       "--measure", "8", "--save-every", "0")  # fmt: skip


class Ended(NamedTuple):
    """The exit statuses of processes, and their output."""

    statuses: list[int]
    text: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(HOME), "TORCH_CPP_LOG_LEVEL": "ERROR", **more}


def by_torchrun(folder: Path, how: str, *options: str) -> Ended:
    """The run in two processes of torchrun, which starts them once more."""
    head = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1",
            "--master-port", str(free_port()), "-m", "recopt"]  # fmt: skip
    done = subprocess.run([*head, *RUN, *options], cwd=folder, env=environment(FRAIL=how), capture_output=True,
                          text=True, timeout=240, check=False)  # fmt: skip
    return Ended([done.returncode], done.stdout + done.stderr)


@contextlib.contextmanager
def started(folder: Path, how: str, commands: Sequence[Sequence[str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """The processes of a run as torchrun starts them, but without its watch over them."""
    common = {"WORLD_SIZE": str(len(commands)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
              "TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_RESTART_COUNT": "0", "FRAIL": how}  # fmt: skip
    found = [
        subprocess.Popen([sys.executable, "-m", "recopt", *command], cwd=folder, text=True, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, env=environment(RANK=str(rank), LOCAL_RANK=str(rank), **common))
        for rank, command in enumerate(commands)
    ]  # fmt: skip
    try:
        yield found
    finally:
        for process in found:
            process.kill()
            process.communicate()


def ended(processes: Sequence[subprocess.Popen[str]]) -> Ended:
    texts = [process.communicate(timeout=240)[0] for process in processes]
    return Ended([process.returncode for process in processes], "".join(texts))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "frail.py").write_text(textwrap.dedent(TASK))
    return tmp_path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_run_whose_process_is_killed_goes_on_by_itself_to_the_same_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = by_torchrun(folder, "killed")
    assert done.statuses == [0], done.text
    assert "A process of this run is gone" in done.text
    assert done.text.count("finished, 20 steps") == 1
    (row,) = list_runs(root_dir=folder / "runs")
    assert row.status == "FINISHED"
    monkeypatch.chdir(folder)
    alone = recopt.run("frail.py", "lstm/adam", tasks=3, steps=20, dtype="float64", settings=["level2.every=4"],
                       measure=8, track=False, progress=False)  # fmt: skip
    close = {"rel": 1e-10, "abs": 1e-10}
    assert row.metrics["test_loss"] == pytest.approx(alone.after["loss"], **close)
    assert row.metrics["final_loss"] == pytest.approx(alone.losses[-1], **close)
    assert row.metrics["evaluations"] == alone.budget.total.gradient
    assert {key: value for key, value in row.metrics.items() if key == "level1/scale"} == {
        "level1/scale": pytest.approx(alone.hyperparameters["lstm.scale"], **close)
    }


@pytest.mark.slow
def test_an_error_in_one_process_is_said_once_and_kept_with_the_run(folder: Path) -> None:
    with started(folder, "failing", [RUN, RUN]) as processes:
        done = ended(processes)
    assert done.statuses == [1, 1], done.text
    assert done.text.count("Error: Process") == 1
    assert "Process 1 of 2: Step 13 failed in " in done.text
    assert "with KeyError: 'no such thing'. The traceback is in" in done.text
    (row,) = list_runs(root_dir=folder / "runs")
    assert row.status == "FAILED"
    assert row.folder is not None
    assert 'raise KeyError("no such thing")' in (row.folder / "traceback.txt").read_text()


@pytest.mark.slow
def test_processes_asked_to_stop_do_so_at_one_step_and_one_alone_goes_on(folder: Path, recopt: Recopt) -> None:
    long = [tuple("100000" if RUN[n - 1] == "--steps" else word for n, word in enumerate(RUN))] * 2
    with started(folder, "", long) as processes:
        until = time.monotonic() + 200
        while not list((folder / "runs").glob("artifacts/*/*/artifacts/checkpoint.safetensors")):
            assert time.monotonic() < until
            time.sleep(0.1)
        processes[1].send_signal(signal.SIGTERM)
        done = ended(processes)
    assert done.statuses == [130, 130], done.text
    (row,) = list_runs(root_dir=folder / "runs")
    assert row.status == "KILLED"
    assert row.folder is not None
    steps = step_in(row.folder) + 6
    assert f"interrupted at step {steps - 6:,}" in done.text
    found = recopt("run", "--resume", row.id, "--steps", str(steps))
    assert f"finished, {steps:,} steps" in found.out


def planned(stack: str, tasks: int = 3, settings: Sequence[str] = (), device: str | None = None) -> Plan:
    return plan(Regression(), stack, tasks=tasks, settings=settings, device=device, steps=10)


class Alike:
    """A link to processes that were told the same."""

    rank, world = 1, 2

    def from_first(self, value: Any) -> Any:
        return value


EXACT = ("level2.second_order=true", "level3.second_order=true", "level2.every=2", "level3.every=2")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: planned("lstm/adam", 1), "this run has one: give --tasks 8, or split each batch of one task"),
        (lambda: planned("annealing"), "Level 1: 'annealing' draws random numbers for one task after the other"),
        (
            lambda: planned("sgd/init:adam", settings=["level2.episode=4"]),
            "Level 2 moves the task's init, which processes",
        ),
        (lambda: planned("adam/adam/adam", settings=EXACT), "Level 3 differentiates through the steps of level 2"),
        (lambda: planned("adam/sgd", device="cuda:1"), "'cuda:1' is one device for all processes: give --device cuda"),
        (lambda: planned("adam/sgd", device="mps"), "Processes cannot add up on 'mps': give --device cuda"),
        (lambda: planned("adam/sgd", device="cuda"), "The process has no GPU of its own, as 2 were started"),
    ],
)
def test_what_processes_cannot_share_is_refused_before_it_runs(made: Any, words: str) -> None:
    link: Any = Alike()
    with pytest.raises(RecoptError) as told:
        running_ranks.ranks_of(link, made())
    assert words in str(told.value)


def test_fewer_tasks_than_processes_are_refused() -> None:
    link: Any = Alike()
    link.world = 4
    with pytest.raises(RecoptError, match=r"3 tasks cannot be divided among 4 processes: give --tasks 4 or more"):
        running_ranks.ranks_of(link, planned("adam/sgd"))


@pytest.mark.parametrize(
    ("first", "words"),
    [
        ({"recopt": "0.0"}, f"This process has recopt {__version__}, and process 0 0.0: install one"),
        ({"seed": 7}, "This process was started with another 'seed' (0) than process 0 (7): give all of them one"),
        ({"digests": {"x": "y"}}, "This process has other sources of plugins than process 0"),
    ],
)
def test_a_process_that_is_to_run_something_else_is_refused(
    first: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link: Any = Alike()
    monkeypatch.setattr(link, "from_first", lambda value: {**value, **first})
    with pytest.raises(RecoptError) as told:
        running_ranks.ranks_of(link, planned("adam/sgd"))
    assert words in str(told.value)


@pytest.mark.parametrize("command", ["sweep", "compare", "ablate"])
def test_commands_that_every_process_would_repeat_are_refused(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ..commands import call

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, said in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert call(command, "quadratic", "adam") == 2
        assert capsys.readouterr().err.count("without torchrun, with --executor processes or ray") == said
