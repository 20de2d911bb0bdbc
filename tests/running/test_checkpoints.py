"""Saving: what comes of a run that cannot be saved, and that what was saved before is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError

import recopt
from recopt import RecoptError
from recopt.engine import checkpoint
from recopt.running.plan import plan, replan
from recopt.running.session import RunOptions, Session
from recopt.tracking.mlflow.runs import list_runs


def test_a_disk_that_is_full_stops_a_run_that_goes_on_when_there_is_room(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, saved = checkpoint.save_file, list[Path]()

    def full(tensors: Any, path: Any, **how: Any) -> None:
        if saved:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        saved.append(path)
        whole(tensors, path, **how)

    made = plan("quadratic", "adam/sgd", steps=30, measure=10)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", full)
        with pytest.raises(
            RecoptError, match=r"cannot be saved in .* \(No space left on device.*: mend that, and --resume"
        ):
            Session(made, RunOptions(save_seconds=0.0)).run()
    (row,) = list_runs()
    assert row.status == "FAILED"
    assert row.folder is not None and "I/O error" in (row.folder / "traceback.txt").read_text()
    result = Session(replan(made.spec.model_dump(mode="json")), RunOptions(resume=row.id)).run()
    np.testing.assert_array_equal(result.losses, recopt.run("quadratic", "adam/sgd", steps=30, track=False).losses)
