"""The scripts in examples/ run from a checkout as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "versus_adam")


@pytest.mark.parametrize("name", NAMES)
def test_an_example_prints_a_score_for_every_rule(name: str) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", "--steps", "2", "--seeds", "1"],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()[1:]
    assert [bool(re.search(r"\d \(\S+ to \S+\)$", row)) for row in rows] == [True] * 4, done.stdout
