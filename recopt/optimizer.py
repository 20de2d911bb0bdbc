"""``recopt.Optimizer``: a ``torch.optim.Optimizer`` whose hyperparameters are moved by the levels above it.

    opt = recopt.Optimizer(model.parameters(), "adam/sgd")
    ...
    loss.backward(); opt.step()

Only ``p.grad`` is read (DESIGN "No graph needed"), so it works with any model, compiled or not, under automatic
mixed precision, gradient accumulation and data-parallel training: all ranks see the same reduced gradients and
compute the same hyperparameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from .dropin import groups as grouping
from .dropin import saving
from .dropin.plan import Options, Stack, located, plan
from .dropin.points import gradients, points_of, write_back
from .dropin.shards import shards_of
from .dropin.tower import Tower
from .errors import RecoptError

Scope = Literal["global", "group", "tensor"]
Callback = Callable[[int, dict[str, float]], None]
DEFAULT_STACK = "adam/adagrad(lr=1)[lr]"
"""Knob-free: the start value of Adam's rate hardly matters, and the 1 is the unit of its logarithm (see docs)."""


class Optimizer(torch.optim.Optimizer):
    """A tower of strategies over a model's parameters.

    Args:
        params: as for any ``torch.optim`` optimizer: tensors, named tensors, or groups. A group may have its own
            ``stack``, its own settings of the strategy of level 1 (``lr`` …) and ``maximize``.
        stack: the stack in notation, innermost first (``"adam(lr=1e-3)/sgd"``), or strategies in a list; or a trained
            rule: its name, the folder of its export, or where MLflow has that: ``"runs:/RUN_ID"``,
            ``"models:/NAME@ALIAS"``, ``"models:/NAME/VERSION"``. Left out: Adam whose learning rate finds itself.
        depth: height to which the last strategy is repeated.
        scope: what shares one set of hyperparameters: all groups, each group, or each tensor by itself.
        normalize: of the levels above the first, instead of their defaults (``rms_all``); ``"none"`` for the raw tower.
        every: steps of level 1 between two steps of level 2: K-step windows (see docs/optimizer.md, greedy bias).
        levels: more per level, from 1: ``{2: {"normalize": "cosine", "every": 5, "only": ["lr"]}}``.
        maximize: climb instead of descend.
        guard: skip non-finite gradients, take back steps that led to them, bound wild steps of upper levels.
        fused: use the closed forms that strategies offer; False tapes everything (slower, the same result).
        callback: called after each ``log_every``-th step with its number and :meth:`hyperparameters`.
        log_every: how often the callback is called.
        seed: of the strategies that draw random numbers.
        store: the MLflow address that ``runs:/`` and ``models:/`` are looked up in; without it, where
            ``MLFLOW_TRACKING_URI`` says, or else ``runs/mlflow.db``.
        **settings: settings of the strategies of level 1, such as ``lr=1e-3``.

    A learning-rate scheduler acts on ``group["lr"]``, which starts at the strategy's ``lr`` (1 if it has none) and is
    never changed by the tower: what the scheduler makes of it, relative to its start, *multiplies the updates* of
    level 1, so a schedule's shape and the tuned rate are independent. The tuned values: :meth:`hyperparameters`.

    Raises:
        RecoptError: for empty or overlapping groups, unknown stacks and settings, impossible towers, exports that
            are not there or are damaged.
    """

    def __init__(
        self, params: Iterable[Any], stack: Stack | None = None, *, depth: int | None = None, scope: Scope = "group",
        normalize: str | None = None, every: int | None = None, levels: Mapping[int, Mapping[str, Any]] | None = None,
        maximize: bool = False, guard: bool = True, fused: bool = True, callback: Callback | None = None,
        log_every: int = 1, seed: int = 0, store: str | None = None, **settings: Any,
    ) -> None:  # fmt: skip
        if scope not in ("global", "group", "tensor"):
            raise RecoptError(f"scope={scope!r} must be 'global', 'group' or 'tensor'.")
        if isinstance(log_every, bool) or not isinstance(log_every, int) or log_every < 1:
            raise RecoptError(f"log_every={log_every!r} must be a whole number of at least 1.")
        self._scope, self._callback, self._log_every = scope, callback, log_every
        self._options = Options(depth, normalize, every, dict(levels or {}), guard, fused, seed)
        self._store = store
        self._stack = located(DEFAULT_STACK if stack is None else stack, store)
        self._settings = settings
        self._towers: list[Tower] = []
        self._members: list[list[tuple[int, int]]] = []
        self._steps = 0
        found = list(params) if not isinstance(params, Tensor) else params
        if not isinstance(found, Tensor) and not found:
            raise RecoptError("recopt.Optimizer got no parameters: give model.parameters() of a model that has some.")
        super().__init__(found, {"lr": None, "maximize": maximize})

    # groups and towers

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with its own ``stack`` and settings if it has any.

        Raises:
            RecoptError: if it is empty, shares a tensor with another group, or has an unknown setting.
        """
        group = grouping.checked(param_group, self.param_groups, len(self.param_groups))
        own = grouping.settings_of(group, self._settings)
        super().add_param_group(group)
        number = len(self.param_groups) - 1
        group = self.param_groups[number]
        stack = group.pop("stack", None)
        if stack is not None:
            group["stack"], stack = stack if isinstance(stack, str) else repr(stack), located(stack, self._store)
        names = group.get("param_names") or [f"{number}.{i}" for i in range(len(group["params"]))]
        if self._scope == "global" and stack is None and self._towers and own == self._settings:
            self._join(number, names)
        else:
            per = [[i] for i in range(len(names))] if self._scope == "tensor" else [list(range(len(names)))]
            for indices in per:
                self._build(self._stack if stack is None else stack, number, indices, [names[i] for i in indices], own)
        start = grouping.start_lr(self._tower_of(number))
        group["lr"] = group["lr_start"] = start

    def _build(self, stack: Stack, number: int, indices: list[int], names: list[str], own: dict[str, Any]) -> None:
        o = self._options
        graph = plan(stack, names, o, own)
        tensors = [self.param_groups[number]["params"][i] for i in indices]
        self._towers.append(
            Tower(graph, points_of(tensors), fused=o.fused, guard=o.guard, seed=o.seed + len(self._towers),
                  shards=shards_of(tensors))
        )  # fmt: skip
        self._members.append([(number, i) for i in indices])

    def _join(self, number: int, names: list[str]) -> None:
        shards_of([p for g in self.param_groups for p in g["params"]])
        self._towers[0].extend(names)
        self._members[0] += [(number, i) for i in range(len(names))]

    def _tower_of(self, number: int) -> Tower:
        return next(t for t, m in zip(self._towers, self._members, strict=True) if any(g == number for g, _ in m))

    # stepping

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def step(
        self, closure: Callable[[], Any] | None = None, *, loss: Tensor | float | None = None,
        valid_loss: Tensor | None = None, valid: Callable[[], Tensor] | None = None,
    ) -> Any:  # fmt: skip
        """One step of every level that is due.

        Args:
            closure: clears the gradients, computes the loss, calls ``backward`` and returns the loss.
            loss: the loss, where it is known: zero-order levels and rules such as ``blend``, and with it ``learned``,
                need it, and the guard sees explosions by it.
                In data-parallel training give the mean over all ranks, so that all decide alike.
            valid_loss: a loss on held-out data at the present point, with its graph: the levels above the first are
                then moved by its gradient instead of the training one's (one more backward pass).
            valid: a function that computes it, called with gradients enabled.

        Returns:
            What ``closure`` returned.

        Raises:
            RecoptError: for sparse gradients, or a strategy without the loss that it needs.
        """
        result = None
        if closure is not None and not self._searches():
            with torch.enable_grad():
                result = closure()
            loss = result if loss is None and self._towers_need_loss() else loss
        if valid is not None:
            with torch.enable_grad():
                valid_loss = valid()
        held = None if valid_loss is None else self._held_out(valid_loss)
        known = None if loss is None else torch.as_tensor(loss).detach()
        for number, tower in enumerate(self._towers):
            if tower.zero_order:
                result = self._search(number, closure)
            else:
                self._advance(number, known, held)
        self._steps += 1
        if self._callback is not None and self._steps % self._log_every == 0:
            self._callback(self._steps, self.hyperparameters())
        return result

    def _advance(self, number: int, loss: Tensor | None, held: dict[int, Tensor] | None) -> None:
        tower, members = self._towers[number], self._members[number]
        tensors = [self.param_groups[g]["params"][i] for g, i in members]
        signs = [-1.0 if self.param_groups[g]["maximize"] else 1.0 for g, _ in members]
        grads = gradients([p.grad for p in tensors], tensors, signs)
        after = None
        if held is not None:
            found = gradients([held.get(id(p)) for p in tensors], tensors, signs)
            after = [torch.zeros_like(p) if g is None else g for g, p in zip(found, points_of(tensors), strict=True)]
        points = points_of(tensors)
        tower.step(points, grads, self._factor(members), loss, after)
        write_back(points, tensors)

    def _factor(self, members: list[tuple[int, int]]) -> float:
        numbers = list(dict.fromkeys(g for g, _ in members))
        factors = [grouping.factor(self.param_groups[g]) for g in numbers]
        if any(abs(f - factors[0]) > 1e-9 * abs(factors[0]) for f in factors):
            raise RecoptError(
                "A scheduler treats the groups differently, but with scope='global' they share one rate: "
                "use scope='group'."
            )
        return factors[0]

    def _held_out(self, valid_loss: Tensor) -> dict[int, Tensor]:
        tensors = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        if not valid_loss.requires_grad:
            raise RecoptError("valid_loss carries no graph: compute it with gradients enabled, without detach().")
        if any(tower.shards for tower in self._towers):
            raise RecoptError("valid_loss is not supported for sharded parameters (FSDP2): leave it out.")
        found = torch.autograd.grad(valid_loss, tensors, allow_unused=True)
        return {id(p): g for p, g in zip(tensors, found, strict=True) if g is not None}

    def _searches(self) -> bool:
        return any(tower.zero_order for tower in self._towers)

    def _towers_need_loss(self) -> bool:
        return any(tower.needs_loss for tower in self._towers)

    def _search(self, number: int, closure: Callable[[], Any] | None) -> Any:
        if closure is None:
            raise RecoptError(
                "A zero-order strategy on level 1 scores points of its own choice: call opt.step(closure) with a "
                "function that computes and returns the loss."
            )
        tensors = [self.param_groups[g]["params"][i] for g, i in self._members[number]]
        return self._towers[number].search(tensors, closure)

    # what was learned

    def hyperparameters(self) -> dict[str, float]:
        """The present hyperparameters in their natural unit: ``{"adam.lr": 0.001, …, "sgd.lr": 0.01}``.

        Where there are several towers, names start with the tower's number: ``"0/adam.lr"``. What a scheduler
        makes of the rate is not included.
        """
        found = {}
        for number, tower in enumerate(self._towers):
            prefix = f"{number}/" if len(self._towers) > 1 else ""
            for name, slot in tower.slots.items():
                for key, value in slot.naturals().items():
                    if not isinstance(value, Tensor):
                        found[f"{prefix}{name}.{key}"] = value
        return found

    def guards(self) -> dict[str, int]:
        """How often the guards acted: gradients ``skipped``, steps ``restored``, and per upper level the same."""
        found: dict[str, int] = {}
        for tower in self._towers:
            for key, count in tower.acted().items():
                found[key] = found.get(key, 0) + count
        return found

    def describe(self) -> list[str]:
        """Each tower in stack notation."""
        return saving.stacks(self._towers)

    # saving

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on; plain containers, numbers and tensors (shared, as torch does)."""
        told = saving.saved(self._towers, self._members, self.param_groups, self._steps)
        self.state[saving.KEY] = told  # type: ignore[index]
        try:
            return super().state_dict()
        finally:
            del self.state[saving.KEY]  # type: ignore[arg-type]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` was taken.

        Raises:
            RecoptError: if it is another optimizer's, another stack's, or of parameters of other shapes; nothing
                is changed then.
        """
        own = self._towers, self._members, self.param_groups
        told = saving.fitting(state_dict, *own)
        saving.restore(*own, told["towers"])
        super().load_state_dict(state_dict)
        self.state.pop(saving.KEY, None)  # type: ignore[call-overload]
        self._steps = told["steps"]

    def __getstate__(self) -> dict[str, Any]:
        """For deepcopy: the towers go with the groups (torch keeps only groups and state)."""
        return dict(self.__dict__)
