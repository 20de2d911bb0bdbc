"""The executor of Ray: the numbers of this process, also where a worker dies, and nothing left at its end."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from recopt.checking.errors import RecoptError
from recopt.comparison import compare
from recopt.search.cluster import Ray
from recopt.search.executor import Inline
from recopt.search.executors import make_executor
from recopt.search.jobs import LOST

from ..comparison.test_training import RUN
from ..comparison.test_workers import same
from ..comparisons import FAST
from ..search.test_executors import STOCHASTIC
from ..sweeps.plugins import conducted, data, numbers

ray = pytest.importorskip("ray")


def test_a_sweep_by_ray_has_the_numbers_of_this_process(here: Path) -> None:
    assert numbers(conducted(STOCHASTIC, Ray(2, 1, None), here / "parts")) == numbers(conducted(STOCHASTIC, Inline()))
    assert not ray.is_initialized() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_job_whose_worker_is_killed_is_done_again_and_one_that_always_is_given_up(here: Path) -> None:
    over = {"task.once": [str(here / "there")], "task.deadly": [0.0, 1.0]}
    spec = data(over=over, by="grid", trials=None)
    found = conducted(spec, Ray(1, 1, None))
    well, dead = found.journal.entries.values()
    assert well.failure is None and (here / "there").exists()
    assert dead.failure is not None and dead.failure.kind == LOST and dead.tries == 3
    plain = conducted({**spec, "over": {**over, "task.deadly": [0.0]}}, Inline())
    assert next(iter(numbers(plain).values()))[1] == next(iter(numbers(found).values()))[1]


def test_a_comparison_and_what_it_trains_first_have_the_numbers_of_this_process_by_ray(here: Path) -> None:
    stacks: list[Any] = ["adam/hypergradient", {"run": RUN, "name": "trained", "repeat": 2}]
    made = [compare("quadratic(dim=3)", stacks, baselines=["sgd[lr]"], executor=name, **FAST)
            for name in ("inline", "ray")]  # fmt: skip
    same(*made)
    assert made[1]["trained"].runs.times == 2


def test_a_cluster_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecoptError, match="Ray cannot be used at 'auto'"):
        make_executor(address="auto")
