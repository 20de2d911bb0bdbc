"""The guard of a tower: non-finite gradients are skipped, a step that led to them is taken back.

Nothing but what the training loop gives is known: gradients always, losses sometimes. So:

- a gradient (or loss) that is not finite is skipped; the parameters stay untouched;
- where the next one is not finite either, it is not the batch but the point: the last update, computed again from
  the optimizer's state, is taken back, and the updates are halved from then on (they recover by 2 % a step);
- where losses are known, one above ten times the largest of the first ten is an explosion, and treated likewise.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

from ..guard import EXPLODE, FIRST, GROW, SHRINK
from ..strategy import Params

if TYPE_CHECKING:
    from .tower import Tower

PERSISTS = 2
"""So many bad gradients in a row are the point's fault."""


class Guard:
    """What it did is in ``counts``; ``shrink`` multiplies the updates of level 1."""

    def __init__(self, active: bool) -> None:
        self.active = active
        self.counts = {"skipped": 0, "restored": 0}
        self.shrink = 1.0
        self.bad_run = 0
        self.reference, self.seen = 0.0, 0
        self._warned = False

    def passes(self, tower: Tower, points: Params, norm: float, loss: float | None) -> bool:
        """Whether a step may be made on gradients of this norm; if not, what can be mended is."""
        if not self.active:
            return True
        good = math.isfinite(norm) and (loss is None or math.isfinite(loss))
        exploded = good and loss is not None and self.seen >= FIRST and loss > EXPLODE * self.reference
        if good and not exploded:
            self.bad_run = 0
            if loss is not None and self.seen < FIRST:
                self.reference, self.seen = max(self.reference, abs(loss)), self.seen + 1
            return True
        self.bad_run += 1
        if exploded or self.bad_run >= PERSISTS:
            self._restore(tower, points)
        if not good:
            self.counts["skipped"] += 1
            self._report()
        return False

    def _restore(self, tower: Tower, points: Params) -> None:
        undone = [bottom.undo(points) for bottom in tower.bottoms]
        if any(undone):
            self.counts["restored"] += 1
            for bottom in tower.bottoms:
                bottom.forget()
        self.shrink *= SHRINK

    def _report(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                "recopt.Optimizer skipped a step: the gradient is not finite. Further ones are counted in "
                "opt.guards() without a warning.",
                RuntimeWarning,
                stacklevel=5,
            )

    def moved(self, norm: float) -> None:
        """A step was made."""
        self.shrink = min(1.0, self.shrink * GROW)

    def tree(self) -> dict[str, Any]:
        """What :meth:`load` needs."""
        return {"counts": dict(self.counts), "shrink": self.shrink, "bad_run": self.bad_run,
                "reference": self.reference, "seen": self.seen}  # fmt: skip

    def load(self, saved: dict[str, Any]) -> None:
        """Continue from :meth:`tree`."""
        self.counts, self.shrink, self.bad_run = dict(saved["counts"]), saved["shrink"], saved["bad_run"]
        self.reference, self.seen = saved["reference"], saved["seen"]
