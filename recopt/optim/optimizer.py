"""``recopt.Optimizer``: a ``torch.optim.Optimizer`` whose hyperparameters are moved by the levels above it.

    opt = recopt.Optimizer(model.parameters(), "adam/sgd")
    ...
    loss.backward(); opt.step()

Only ``p.grad`` is read (DESIGN "No graph needed"), so it works with any model, compiled or not, under automatic
mixed precision, gradient accumulation and data-parallel training: all ranks see the same reduced gradients and
compute the same hyperparameters.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checking.errors import RecoptError, StateError
from ..stacks.places import Places
from . import groups as grouping
from .driver import level_of_the_caller
from .kept import Kept
from .modes import Modes
from .points import Observed, called, held_out, one_number
from .stack_graph import Options, Stack, check_options, check_steps, located
from .state_dict import stacks
from .towers import Scope, Towers

Callback = Callable[[int, dict[str, float]], None]


class Optimizer(Modes):
    """A tower of strategies over a model's parameters.

    Args:
        params: as for any ``torch.optim`` optimizer: tensors, named tensors, or groups. A group may have its own
            ``stack``, its own settings of the strategy of level 1 (``lr`` …) and ``maximize``.
        stack: the stack in notation, innermost first (``"adam(lr=1e-3)/sgd"``), or strategies in a list; or a trained
            rule: its name, the folder of its export, or where MLflow has that: ``"runs:/RUN_ID"``,
            ``"models:/NAME@ALIAS"``, ``"models:/NAME/VERSION"``. Left out: ``"paced"``, Adam without a rate to choose.
        steps: how many steps the run will have, where you know: the default, and other rules that have such a setting,
            then fall to zero at its end. After that nothing moves.
        depth: height to which the last strategy is repeated.
        scope: what shares one set of hyperparameters: all groups, each group, or each tensor by itself; ``coordinate``:
            each group, but that level 2 moves a number for each coordinate (online scaled gradients).
        normalize: of the levels above the first, instead of their defaults (``rms_all``); ``"none"`` for the raw tower.
        every: steps of level 1 between two steps of level 2: K-step windows (docs/reference/optimizer.md, greedy bias).
        levels: more per level, from 1: ``{2: {"normalize": "cosine", "every": 5, "only": ["lr"]}}``.
        maximize: climb instead of descend.
        guard: skip non-finite gradients, take back steps that led to them, bound wild steps of upper levels.
        average: keep a mean of the parameters beside them: True, or how fast it forgets (8: the last ninth of the run
            counts most; 0: plain). It changes no step, and costs one copy of the parameters. The model itself stays at
            the last step: evaluate and save it inside of :meth:`averaged`, or the mean is of no use.
        fused: use the closed forms that strategies offer; False tapes everything (slower, the same result).
        callback: called after each ``log_every``-th step with its number and :meth:`hyperparameters`; a
            :class:`recopt.History` keeps and draws them.
        log_every: how often the callback is called.
        seed: of the strategies that draw random numbers, and of the initial weights of untrained ones.
        plugins: a folder or file with strategies of your own, or a list of them, searched first.
        store: the MLflow address, or the path of the database, that ``runs:/`` and ``models:/`` are looked up in;
            without it, where ``MLFLOW_TRACKING_URI`` says, or else ``runs/mlflow.db``.
        **settings: settings of the strategies of level 1, such as ``lr=1e-3``; not of groups with a stack of their own.

    A learning-rate scheduler acts on ``group["lr"]``, which starts at the strategy's ``lr`` (1 if it has none) and is
    never changed by the tower: what the scheduler makes of it, relative to its start, *multiplies the updates* of
    level 1, so a schedule's shape and the tuned rate are independent. The tuned values: :meth:`hyperparameters`.
    Of a group only ``lr`` and ``maximize`` may be changed later; other settings written there are refused.

    Raises:
        RecoptError: for overlapping groups, unknown stacks and settings, impossible towers, exports that
            are not there or are damaged.
    """

    def __init__(
        self, params: Iterable[Any], stack: Stack = None, *, steps: int | None = None, depth: int | None = None,
        scope: Scope = "group",
        normalize: str | None = None, every: int | None = None, levels: Mapping[int, Mapping[str, Any]] | None = None,
        maximize: bool = False, guard: bool = True, average: bool | float = False, fused: bool = True,
        callback: Callback | None = None, log_every: int = 1, seed: int = 0, plugins: Places = (),
        store: str | Path | None = None, **settings: Any,
    ) -> None:  # fmt: skip
        if scope not in ("global", "group", "tensor", "coordinate"):
            raise RecoptError(f"scope={scope!r} must be 'global', 'group', 'tensor' or 'coordinate'.")
        each = scope == "coordinate"
        options = Options(depth, normalize, every, levels or {}, guard, fused, seed, average, plugins, each)
        check_options(options, maximize=maximize, callback=callback, log_every=log_every)
        self._callback, self._log_every = callback, log_every
        self._towers, self._observed, self._kept = Towers(options, scope), Observed(), Kept()
        self._length = check_steps(steps)
        settings = settings if steps is None else {**settings, "steps": steps}
        self._stack, self._settings, self._store = located(stack, store), settings, store
        found = grouping.listed(params)
        grouping.check_alone()
        super().__init__(found, {"lr": None, "maximize": maximize})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with its own ``stack`` and settings if it has any.

        Raises:
            RecoptError: if it shares a tensor with another group, or has a setting that is nearly one of the rule's.
        """
        group = grouping.checked(param_group, self.param_groups, len(self.param_groups))
        group.pop(grouping.STATE, None)
        if not self.param_groups:
            group[grouping.STATE] = ""
        stack = group.pop("stack", None)
        super().add_param_group(group)
        try:
            built, common = (self._stack, self._settings) if stack is None else (located(stack, self._store), {})
            self._towers.cover(self.param_groups, built, common)
        except BaseException:
            self.param_groups.pop()
            raise
        if stack is not None:
            group["stack"] = stack if isinstance(stack, str) else repr(stack)
        if self._kept.points:  # they did not move before, and so were there as well
            self._kept.add(group["params"])

    # stepping

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def step(
        self, closure: Callable[[], Any] | None = None, *, loss: Tensor | float | None = None,
        valid_loss: Tensor | None = None, valid: Callable[[], Tensor] | None = None,
    ) -> Any:  # fmt: skip
        """One step of every level that is due; what ``closure`` returned.

        Args:
            closure: clears the gradients, computes the loss, calls ``backward`` and returns the loss; what was observed
                goes before that.
            loss: the loss, where it is known: zero-order levels and rules such as ``blend``, and with it ``learned``,
                need it, and the guard sees explosions by it.
                In data-parallel training give the mean over all ranks, so that all decide alike.
            valid_loss: a loss on held-out data at the present point, with its graph: the levels above the first are
                then moved by its gradient instead of the training one's (one more backward pass).
            valid: a function that computes it, called with gradients enabled.

        Raises:
            RecoptError: for sparse gradients, a strategy without the loss that it needs, a held-out loss that no level
                reads, or a group that was changed.
        """
        self._check_outside("opt.step()")
        if not self.training:
            raise StateError(
                "opt.step() in eval mode, where the model is at its mean or best point: call opt.train() first."
            )
        if closure is not None and not callable(closure):
            raise RecoptError("opt.step's first argument is a closure: give a loss by its name, opt.step(loss=loss).")
        self._follow()
        towers, result, seen = self._towers, None, None
        if closure is not None and not towers.zero_order:
            with torch.enable_grad():
                result = closure()
            if loss is None and result is not None and towers.needs_loss:
                seen = one_number(result, "The closure")
        observed = self._observed.take()
        seen = one_number(loss, "opt.step(loss=…)") if loss is not None else seen if observed is None else observed
        held = None
        if valid is not None:
            with torch.enable_grad():
                valid_loss = called(valid)
        if valid is not None or valid_loss is not None:
            held = held_out(self.param_groups, valid_loss, towers.all)
        searched = towers.step(self.param_groups, closure, seen, held)
        self._steps += 1
        if self._length is not None and self._steps == self._length + 1:
            warnings.warn(
                f"recopt.Optimizer was told steps={self._length}, and this is step {self._steps}: nothing moves any "
                "more. Give the number of opt.step() calls of the whole run.",
                RuntimeWarning,
                stacklevel=level_of_the_caller(),
            )
        if self._callback is not None and self._steps % self._log_every == 0:
            self._callback(self._steps, self.hyperparameters())
        return searched if towers.zero_order else result

    @property
    def needs_loss(self) -> bool:
        """True if a step has to be told the loss, by ``loss=``, :meth:`observe`, or a closure that returns it."""
        return self._towers.needs_loss

    def observe(self, loss: Tensor | float) -> None:
        """Tell the loss of the next step, where a trainer calls ``step`` and cannot be told ``loss=``.

        Args:
            loss: one number. Several before a step, as with accumulated gradients, count as their mean; what is not
                finite is left to the gradients.

        Raises:
            RecoptError: if it is not one number.
        """
        self._observed.note(loss)

    # what was found

    def hyperparameters(self) -> dict[str, float]:
        """The present hyperparameters in their natural unit: ``{"adam.lr": 0.001, …, "sgd.lr": 0.01}``.

        Of a learned rule they are its few numbers that have a name; its weights are not listed.
        Where there are several towers, names start with the tower's number: ``"0/adam.lr"``. What a scheduler
        makes of the rate is not included.
        """
        return self._towers.hyperparameters()

    def guards(self) -> dict[str, int]:
        """Counts of what the guards did: gradients ``skipped``, steps ``restored``, and per upper level the same."""
        return self._towers.guards()

    def describe(self) -> list[str]:
        """Each tower in stack notation."""
        return stacks(self._towers)

    def __repr__(self) -> str:
        groups = [
            f"{len(g['params'])} tensors, lr of schedulers: {float(g['lr']):g}, maximize: {g['maximize']}"
            for g in self.param_groups
        ]
        tuned: dict[str, list[str]] = {}
        for key, value in self.hyperparameters().items():
            slot, _, name = key.rpartition(".")
            tuned.setdefault(slot, []).append(f"{name}={value:.4g}")
        now = [f"{slot}: {', '.join(values)}" for slot, values in tuned.items()]
        lines = [f"stack: {'; '.join(self.describe())}", *now, *groups]
        if any(tower.averages for tower in self._towers.all):
            lines.append("keeps a mean: evaluate and save the model inside `with opt.averaged():`")
        if self._kept.points:
            lines.append(f"keeps the best point, told of {self.stale} losses ago: use it inside `with opt.best():`")
        return "\n    ".join(["recopt.Optimizer (", *lines]) + "\n)"
