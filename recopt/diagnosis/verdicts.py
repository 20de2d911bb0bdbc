"""Verdicts on a recorded run: the level and step at which something went wrong, by which figures, and what to change.

Each rests on what every run records. A run in which nothing went wrong has none: what is only unusual is a remark
(:mod:`recopt.diagnosis.remarks`).
"""

from __future__ import annotations

import math

import numpy as np

from . import level_faults as faults
from .loss_faults import losses
from .verdict import Verdict
from .view import RunView
from .windows import unfit_windows

FAULTS = (
    faults.frozen,
    faults.at_bounds,
    faults.vanished,
    faults.unheard,
    faults.idle,
    faults.noise,
    faults.taken_back,
    unfit_windows,
)


@np.errstate(all="ignore")  # what is recorded may be of any size, and no number
def verdicts(run: RunView) -> list[Verdict]:
    """The faults of a run, in the order in which they began, at the same step the highest level first."""
    if not run.levels or not len(run.trace.series(0, "loss")[1]):
        return []
    causes = [verdict for find in FAULTS for verdict in find(run)]
    kinds = {one.kind for one in causes}
    deaf = any(one.kind == "no signal" and one.level == 1 for one in causes)
    symptoms = [] if "frozen" in kinds or deaf else list(losses(run))
    lost = min((one.step for one in symptoms if one.kind in ("not finite", "diverged")), default=math.inf)
    found = [*symptoms, *(one for one in causes if one.step < lost or one.kind == "frozen")]
    return sorted(found, key=lambda one: (one.step, -one.level))
