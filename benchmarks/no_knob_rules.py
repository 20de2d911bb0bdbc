"""The rules of no_knob.py: recopt's, torch's tuned by hand, and others' that have no rate (`recopt[bench]`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

import recopt

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


@dataclass
class Training:
    """An optimizer with what has to be done around it.

    Attributes:
        after: called after each step.
        at_end: a context in which the model is at the point at which it is to be used.
        tell: told the loss on what is kept out of the training rows, after each hundredth of the run.
    """

    optimizer: Any
    after: Callable[[], object] = lambda: None
    at_end: Callable[[], Any] = nullcontext
    tell: Callable[[float], object] = lambda loss: None

    def step(self, loss: Tensor) -> None:
        """One step."""
        if isinstance(self.optimizer, recopt.Optimizer):
            self.optimizer.step(loss=loss)
        else:
            self.optimizer.step()
        self.after()


Rule = Callable[[Iterable[nn.Parameter], int], Training]
"""Parameters and the number of steps; the rule at work on them."""


def torchs(kind: Any, schedule: str, params: Iterable[nn.Parameter], steps: int, **settings: Any) -> Training:
    """A torch optimizer, constant or with a cosine to zero."""
    opt = kind(params, **settings)
    return Training(opt, CosineAnnealingLR(opt, steps).step if schedule == "cosine" else lambda: None)


def others(
    module: str, name: str, schedule: str, params: Iterable[nn.Parameter], steps: int, **settings: Any
) -> Training:
    """Another package's optimizer."""
    return torchs(getattr(import_module(module), name), schedule, params, steps, **settings)


def free(params: Iterable[nn.Parameter], steps: int, **settings: Any) -> Training:
    """Schedule-free AdamW, read at its mean."""
    opt = import_module("schedulefree").AdamWScheduleFree(params, **settings)
    opt.train()
    return Training(opt, at_end=lambda: nullcontext(opt.eval()))


def dog(params: Iterable[nn.Parameter], steps: int) -> Training:
    """DoG, read at its authors' mean."""
    import copy

    found, kept = import_module("dog"), list(params)
    holder = nn.ParameterList(kept)
    mean = found.PolynomialDecayAverager(holder)

    def read() -> Any:
        for p, q in zip(kept, copy.copy(list(mean.averaged_model.parameters())), strict=True):
            p.data.copy_(q.data)
        return nullcontext()

    return Training(found.DoG(kept, reps_rel=1e-6), mean.step, read)


def mechanic(schedule: str, params: Iterable[nn.Parameter], steps: int) -> Training:
    """Mechanic over AdamW at its authors' settings."""
    made = import_module("mechanic_pytorch").mechanize(torch.optim.AdamW)(list(params), lr=1.0)
    if schedule == "constant":
        return Training(made)
    scheduler = torch.optim.lr_scheduler.LambdaLR(made, lambda t: max(0.0, 1 - t / steps))
    return Training(made, scheduler.step)


def ours(stack: str | None, params: Iterable[nn.Parameter], steps: int, **settings: Any) -> Training:
    """recopt's, read at its mean if it keeps one; ``told``: how long the run will be."""
    if settings.pop("told", False):
        settings["steps"] = steps
    opt = recopt.Optimizer(params, stack, **settings)
    return Training(opt, at_end=opt.averaged if settings.get("average") else nullcontext)


@dataclass(frozen=True)
class KeepingOut:
    """A rule for which a fifth of the training rows is kept out, where there are such.

    Attributes:
        best: whether the model is used at the best point on those, or at the last one.
    """

    stack: str | None
    told: bool = False
    best: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    share: float = 0.2

    def __call__(self, params: Iterable[nn.Parameter], steps: int) -> Training:
        """The rule at work."""
        made, heard = ours(self.stack, params, steps, told=self.told, **self.settings), list[float]()

        def tell(loss: float) -> None:
            heard.append(loss)
            made.optimizer.keep_best(loss)

        if self.best:
            made.tell, made.at_end = tell, lambda: made.optimizer.best() if heard else nullcontext()
        return made


ADAM = torch.optim.Adam
TUNED: dict[str, dict[str, Rule]] = {
    "Adam": {f"Adam {s} {r:g}": partial(torchs, ADAM, s, lr=r) for s in ("constant", "cosine") for r in RATES},
    "schedule-free": {f"schedule-free {r:g}": partial(free, lr=r) for r in RATES},
}
UNTUNED: dict[str, Rule] = {
    "Adam 1e-3": TUNED["Adam"]["Adam constant 0.001"],
    "schedule-free 2.5e-3": partial(free, lr=0.0025),
    "Prodigy": partial(others, "prodigyopt", "Prodigy", "constant"),
    "Prodigy cosine": partial(others, "prodigyopt", "Prodigy", "cosine"),
    "D-Adaptation": partial(others, "dadaptation", "DAdaptAdam", "constant"),
    "D-Adaptation cosine": partial(others, "dadaptation", "DAdaptAdam", "cosine"),
    "DoG": dog,
    "Mechanic": partial(mechanic, "constant"),
    "Mechanic linear": partial(mechanic, "linear"),
    "recopt, steps told": partial(ours, None, told=True),
    "recopt": partial(ours, None),
    "recopt as Adam, steps told": partial(ours, "paced(base=adam)", told=True),
    "recopt as Adam": partial(ours, "paced(base=adam)"),
    "recopt at a third of the rate, steps told": partial(ours, "paced(lr=0.3)", told=True),
    "recopt without the way back, steps told": partial(ours, "paced(back=0)", told=True),
    "recopt without a look at noise, steps told": partial(ours, "paced(calm=0)", told=True),
    "recopt, a fifth kept out, steps told": KeepingOut(None, told=True, best=False),
    "recopt, a fifth kept out, steps told, best point": KeepingOut(None, told=True),
    "recopt, a fifth kept out, best point": KeepingOut(None),
    "recopt, a fifth kept out, steps told, best point, paced(lr=0.1)": KeepingOut("paced(lr=0.1)", told=True),
    "Adam 1e-3, a fifth kept out, best point": KeepingOut("adam", settings={"lr": 1e-3}),
    "recopt over muon, steps told": partial(ours, "paced(base=muon)", told=True),
    "recopt over muon": partial(ours, "paced(base=muon)"),
    "recopt factored, steps told": partial(ours, "paced(base=factored)", told=True),
    "recopt factored": partial(ours, "paced(base=factored)"),
    "recopt at its mean": partial(ours, None, average=True),
    "recopt adam/adagrad[lr]": partial(ours, "adam/adagrad(lr=1)[lr]"),
    "recopt adam/kesten[lr] at its mean": partial(ours, "adam/kesten[lr]", average=True),
}
