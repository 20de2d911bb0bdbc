"""Executors: the same answers whoever does the jobs, and whatever becomes of the workers."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

from recopt.checking.errors import RecoptError
from recopt.search.executor import Inline
from recopt.search.executors import make_executor
from recopt.search.jobs import LOST, answered, described
from recopt.search.processes import Processes
from recopt.sweeps.trial import TrialRun

from ..sweeps.plugins import conducted, data, numbers

STOCHASTIC = {
    "task": "quadratic", "steps": 12, "measure": 4, "trials": 5, "repeat": 2,
    "over": {"sgd.lr": "1e-3..1e-1", "stack": ["sgd(lr=0.01)/annealing", "adam/hypergradient"]},
    "asha": {"eta": 2, "first": 3, "at_once": 3},
}  # fmt: skip


def test_processes_answer_as_this_process_does(here: Path) -> None:
    plain = numbers(conducted(STOCHASTIC, Inline()))
    assert len({key.rung for key in plain}) == 3 and not any(failure for _, _, failure in plain.values())
    assert numbers(conducted(STOCHASTIC, Processes(1), here / "parts")) == plain
    assert numbers(conducted(STOCHASTIC, Processes(3))) == plain


def test_a_job_whose_worker_is_killed_is_done_by_another(here: Path) -> None:
    spec = data(task=f"mine.py(once={here / 'there'})")
    found = conducted(spec, Processes(2))
    assert sorted(entry.tries for entry in found.journal.entries.values()) == [1, 1, 1, 2]
    assert numbers(found) == numbers(conducted(spec, Inline()))  # the file is there by now


def test_a_job_that_always_kills_its_worker_is_given_up_and_the_rest_goes_on(here: Path) -> None:
    found = conducted(data(over={"task.deadly": [0.0, 1.0]}, by="grid", trials=None), Processes(1))
    well, dead = found.journal.entries.values()
    assert well.failure is None and well.found["outcome"] == "finished"
    assert dead.failure is not None and dead.failure.kind == LOST and dead.tries == 3
    assert dead.failure.message == "Its worker ended with status 3, 3 times."
    assert "a line of a plugin's own" in dead.failure.traceback  # the last words of the worker


def test_an_error_in_a_plugin_is_answered_with_its_traceback_and_not_tried_again(here: Path) -> None:
    spec = data(over={"sgd.lr": [0.01, 0.02]}, by="grid", trials=None)
    Path("mine.py").write_text(Path("mine.py").read_text().replace("print(", "1 / 0; print("))
    for executor in (Inline(), Processes(1)):
        for entry in conducted(spec, executor).journal.entries.values():
            assert entry.failure is not None and entry.tries == 1 and "ZeroDivisionError" in entry.failure.traceback
            assert entry.failure.kind == "RunFailed" and "mine.py, line" in entry.failure.message


def test_workers_are_gone_when_it_is_closed_in_the_middle_of_a_job(here: Path) -> None:
    spec = data(task="mine.py(seconds=100)")
    with Processes(2) as executor:
        for number in range(2):
            executor.submit(number, TrialRun(spec, {}, 0))
        processes = [worker.process for worker in executor._workers]
        assert len(processes) == 2 and all(process.poll() is None for process in processes)
    assert all(process.returncode == -9 for process in processes)


def test_a_worker_of_another_version_refuses(here: Path) -> None:
    told = json.loads(described(TrialRun({}, {}, 0), 1))
    found = json.loads(answered(json.dumps({**told, "recopt": "0.0.1"})))
    assert "install the same on all" in found["failure"][1]


def test_a_job_runs_in_the_folder_and_with_the_threads_of_who_asked(here: Path) -> None:
    import torch

    Path("mine.py").write_text(
        "import os, torch\nfrom recopt.tasks.quadratic import Quadratic\n"
        "class Mine(Quadratic):\n    def batch(self, index, split='train'):\n"
        "        with open('told', 'a') as told: print(torch.get_num_threads(), os.getcwd(), file=told)\n"
        "        return super().batch(index, split)\n"
    )
    job = TrialRun({"task": "mine.py", "stack": "sgd", "steps": 1}, {}, 0)
    for executor in (Inline(threads=2), Processes(1, threads=2)):
        with executor:
            executor.submit(0, job)
            assert executor.next().failure is None
    assert set(Path("told").read_text().splitlines()) == {f"2 {os.getcwd()}"}
    assert torch.get_num_threads() == 1


def test_executors_that_cannot_be_had_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, words in {
        ("process",): "Unknown executor 'process'. Did you mean 'processes'?",
        ("inline", 2): "name 'processes' to have 2 workers",
        ("processes", 0): "one worker at least",
        ("processes", 2, "localhost:1"): "use the executor 'ray'",
    }.items():
        with pytest.raises(RecoptError, match=words):
            make_executor(*given)
    assert isinstance(make_executor(), Inline)
    with make_executor(workers=2) as made:
        assert isinstance(made, Processes)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecoptError, match=r"pip install 'recopt\[ray\]'"):
        make_executor("ray")


def test_a_ray_cluster_that_is_not_there_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for address in ("127.0.0.1:9", "ray://localhost:9"):
        with pytest.raises(RecoptError, match=f"There is no Ray cluster at '{address}' .*leave the address out"):
            make_executor(address=address)
    with pytest.raises(RecoptError, match="HOST:PORT, or auto"):
        make_executor("ray", address="somewhere")
