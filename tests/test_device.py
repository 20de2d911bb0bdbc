"""Everything on another device: ``on_a_device.py``, in a process of its own, since torch's devices are for good."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch (before 2.9) has no devices in Python",
)
def test_everything_works_on_a_device() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/on_a_device.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
