"""A level: "strategy ``by`` moves slot ``moves``", with what may be said about how. Level 1 is innermost."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ..checking.errors import RecoptError
from ..checking.explanations import explain
from . import transforms as _transforms  # noqa: F401 - registers what levels ask for
from .averages import USUAL
from .registry import ESTIMATORS, TRANSFORMS, Registry

TASK = "task"
LOSS = "loss"
"""The slot of the parameters that a task's loss or data have."""
INIT = "init"
"""The slot of the point that episodes of a task start from."""
BILEVEL = (LOSS, INIT)
"""Slots whose levels are scored by what the levels of the task make of their values."""
COSINES = ("cosine", "cosines")
"""The names of transforms that measure updates against what came after them: by one cosine, or by two in a row."""
VALUE = "value"
"""The name of the estimator that gives scores alone."""
DIRECT = "direct"
"""The name, in the place of an estimator, for a level that moves the task: its signal is the task's own gradient."""
AUTO = "auto"
"""The name, in the place of an estimator, for the one that suits what the graph tells; of ``every``, for a choice."""
LONGEST_WINDOW = 64
"""The bound of windows whose length is chosen, where nothing else is said."""
IMPLICIT = "implicit"
"""The estimator of hypergradients at a stationary point."""
SETTINGS_OF = {"solver": IMPLICIT, "iterations": IMPLICIT, "tolerance": IMPLICIT, "segments": "unroll"}
"""Settings that one estimator has, by its name."""

Schedule = Literal["constant", "cosine"]

MOST_LEVELS = 1000
"""The most levels that a graph may have; no machine has memory for more."""
MOST_POINTS = 10**6
"""The largest population; each of its points is a copy of what is moved."""
LONGEST = 10**12
"""The largest number of steps that may be asked for."""
Steps = Annotated[int, Field(ge=1, le=LONGEST)]

_OBJECTIVE = re.compile(r"mean|sum|last|improvement|steps_to:\s*[-+.\deE]+")


def _written(value: object) -> object:
    """``steps_to: X`` as YAML reads it."""
    if isinstance(value, dict) and list(value) == ["steps_to"]:
        return f"steps_to: {value['steps_to']}"
    return value


def _objective(text: str) -> str:
    if not _OBJECTIVE.fullmatch(text):
        raise ValueError("should be mean, sum, last, improvement or 'steps_to: X'")
    return text


def _decay(value: object) -> object:
    """``average: true`` as a number."""
    return {True: USUAL, False: None}[value] if isinstance(value, bool) else value


def _in(registry: Registry, *others: str) -> AfterValidator:
    """A check that a name is in ``registry`` by then, or one of ``others``."""

    def known(name: str) -> str:
        names = [*others, *registry.names()]
        if name not in names:
            raise ValueError(f"should be one of {', '.join(names)}")
        return name

    return AfterValidator(known)


def _patterns(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class _Refusing(type(BaseModel)):  # type: ignore[misc]
    """The making of levels by users: what pydantic makes from specs and copies does not pass here."""

    def __call__(cls, *given: object, **fields: Any) -> Any:
        """A level; RecoptError for a missing or unknown name, or a value of a wrong kind or size."""
        if given:
            raise RecoptError("recopt.Level takes its settings by name: recopt.Level(moves='task', by='inner').")
        try:
            return super().__call__(**fields)
        except ValidationError as why:
            raise RecoptError(f"In a recopt.Level: {explain(why, {'': cls.model_fields})}") from None


class Level(BaseModel, metaclass=_Refusing):
    """One level. What is None is filled in by :func:`recopt.levels.completion.complete`.

    Attributes:
        moves: the slot it moves: ``task``, a strategy's slot, ``loss`` (the parameters of the task's loss), or ``init``
            (the point that the task's episodes start from).
        by: the slot of the strategy it moves with.
        only: glob patterns on parameter names; empty for all that nothing else moves.
        scope: ``coordinate`` where each coordinate of the model is to have numbers of its own in place of those that it
            moves (:mod:`recopt.rules.coordinates`).
        every: steps of the optimizee's level between two steps of this one (the unroll length).
        longest: the bound, a power of two, up to which the engine chooses ``every`` itself, by doubling and halving;
            ``every: auto`` is ``longest: 64``.
        examine: steps of this level between two examinations of its windows (:mod:`recopt.engine.examine`).
        episode: steps after which the slot below starts afresh; None if it goes on.
        curriculum: updates of the slot that it moves over which its episodes grow from one window to ``episode``,
            by equal factors, in whole windows (a curriculum of lengths: Chen et al. 2020, 2010.09089).
        stagger: whether tasks side by side start afresh by turns, a whole number of windows apart, so that each
            window's gradient is the mean over all ages; first episodes are then shorter.
        gradient: where the signal comes from: ``direct`` (the task's own gradient), ``unroll``, ``online``
            (the unroll of length 1, second derivatives dropped), ``forward`` (tangents carried along, exact),
            ``implicit`` (the point alone that a window ends at), ``es``, ``pes`` or ``nres`` (estimated from the scores
            of perturbed points) or ``value`` (the meta-loss alone).
        solver, iterations, tolerance: of ``implicit``: ``cg`` or ``neumann``, its most Hessian-vector products, and the
            residual, relative to the first, that it stops at.
        proximal: λ of ½ λ ‖θ − φ‖² in the training loss of episodes that start from φ, which the level moves.
        sigma: standard deviation of the perturbations, in the coordinates that the level moves.
        pairs: antithetic pairs of them at each step.
        second_order: whether an unroll differentiates through the inner gradients.
        segments: of the window of an exact unroll, of which one at a time has a tape; the others are made anew.
        objective: ``mean``, ``sum``, ``last``, ``improvement`` or ``steps_to: X`` over the window's losses.
        on: the batches that the meta-loss is measured on.
        normalize: what is done to the signal before the strategy reads it; ``cosines``, where the level beneath reads
            a cosine, makes it the product of that and the one before.
        teacher: the slot of a rule that the level below is to imitate at first; in words also a strategy with its
            settings, such as ``adam(lr=0.01)``. It answers beside, with a state of its own, and moves nothing.
        imitate: updates of the slot that this level moves over which the weight of the imitation falls linearly to 0.
        imitate_weight: that weight at the beginning: what is added to the meta-loss is the weight times
            ‖u − v‖² / ‖v‖² of the updates u and the teacher's v, the mean over the window.
        penalty_update: weight of the squared norm of the updates below in the meta-loss.
        penalty_moved: weight of the squared norm of what this level moves.
        schedule: what the updates are multiplied by as time goes: ``constant`` (1), or ``cosine``, which falls from 1
            to 0 over ``horizon`` updates of the slot since it last started afresh and stays there (SGDR without
            restarts: Loshchilov & Hutter 2017, 1608.03983, eq. 5). For a rule whose step is proportional to a
            learning rate it is a schedule of that.
        horizon: of ``schedule``, in updates of the slot that is moved.
        average: η of a polynomial-decay mean of what the level made of the model (see :mod:`.averages`), at
            which the model is then measured, handed on and exported; True for 8, None for none. It changes no step.
        trust: largest norm of a step relative to the norm of what is moved; None for no bound.
        population: points that a zero-order strategy has scored at each of its steps, where it lets that be chosen.
        null_step: take a step back if the meta-loss rose after it.
        guard: restore and shrink on non-finite or exploding losses.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    moves: str
    by: str
    only: Annotated[tuple[str, ...], BeforeValidator(_patterns)] = ()
    scope: Literal["coordinate"] | None = None
    every: Steps | None = None
    longest: Steps | None = None
    examine: Steps | None = None
    episode: Steps | None = None
    curriculum: Steps | None = None
    stagger: bool = False
    gradient: Annotated[str, _in(ESTIMATORS, DIRECT, AUTO)] | None = None
    solver: Literal["cg", "neumann"] | None = None
    iterations: Steps | None = None
    tolerance: Annotated[float, Field(ge=0, lt=1)] | None = None
    proximal: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    sigma: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    pairs: Annotated[int, Field(ge=1, le=MOST_POINTS)] | None = None
    second_order: bool | None = None
    segments: Steps | None = None
    objective: Annotated[str, BeforeValidator(_written), AfterValidator(_objective)] | None = None
    on: Literal["train", "valid"] | None = None
    normalize: Annotated[str, _in(TRANSFORMS)] | None = None
    teacher: str | None = None
    imitate: Steps | None = None
    imitate_weight: Annotated[float, Field(gt=0)] = 1.0
    penalty_update: Annotated[float, Field(ge=0)] = 0.0
    penalty_moved: Annotated[float, Field(ge=0)] = 0.0
    schedule: Schedule = "constant"
    horizon: Steps | None = None
    average: Annotated[Annotated[float, Field(ge=0, allow_inf_nan=False)] | None, BeforeValidator(_decay)] = None
    trust: Annotated[float, Field(gt=0)] | None = None
    population: Annotated[int, Field(ge=1, le=MOST_POINTS)] | None = None
    null_step: bool = False
    guard: bool = True

    @field_validator(
        "every", "longest", "examine", "episode", "curriculum", "imitate", "imitate_weight", "penalty_update",
        "penalty_moved", "horizon", "trust", "population", "iterations", "tolerance", "sigma", "pairs", "segments",
        "proximal", mode="before",
    )  # fmt: skip
    @classmethod
    def _no_switch(cls, value: object) -> object:
        if isinstance(value, bool):  # which pydantic takes for 0 or 1
            raise ValueError("should be a number")
        return value

    @model_validator(mode="before")
    @classmethod
    def _chosen_window(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("every") == AUTO:
            return {**{"longest": LONGEST_WINDOW}, **{key: x for key, x in given.items() if key != "every"}}
        return given

    @field_validator("longest")
    @classmethod
    def _doubles(cls, given: int | None) -> int | None:
        if given is not None and (given < 2 or given & (given - 1)):
            raise ValueError("should be a power of two, since windows double and halve: 64, 128 …")
        return given

    @model_validator(mode="after")
    def _pulls_from_a_start(self) -> Self:
        if self.proximal is not None and self.moves != INIT:
            raise ValueError("'proximal' holds episodes near their start: set it on the level that moves 'init'")
        return self

    @property
    def taping(self) -> bool:
        """True if its signal is a hypergradient that needs a tape of what happens below it."""
        return self.gradient not in (None, DIRECT, AUTO) and bool(ESTIMATORS[self.gradient].tapes)

    @property
    def perturbs(self) -> bool:
        """True if its signal is a gradient that is estimated from the scores of perturbed points."""
        return self.gradient not in (None, DIRECT, AUTO) and hasattr(ESTIMATORS[self.gradient], "perturbed")

    @property
    def tries(self) -> bool:
        """True if it has points of its own choice scored, and no signal of what happens below it otherwise."""
        return self.perturbs or self.gradient == VALUE

    def factor(self, age: int) -> float:
        """The factor of the schedule on update number ``age``, counted from 0 since the slot started afresh."""
        if self.schedule == "constant" or self.horizon is None:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(age, self.horizon) / self.horizon))

    def imitation(self, age: int) -> float:
        """The weight of the imitation when the slot that is moved has had ``age`` updates; 0 without a teacher."""
        if self.teacher is None or self.imitate is None:
            return 0.0
        return self.imitate_weight * max(0.0, 1 - age / self.imitate)

    def length(self, age: int) -> int | None:
        """The length of an episode that ends when the slot that is moved has had ``age`` updates; None without any."""
        if self.episode is None or self.curriculum is None:
            return self.episode
        every = self.every or 1
        windows = (self.episode // every) ** min(1.0, age / self.curriculum)
        return every * int(windows + 1e-9)


def is_plain(level: Level) -> bool:
    """True if the signal of a window of one update is the derivative of the loss that came after it, as it is."""
    return level.objective in ("mean", "sum", "last") and level.gradient in ("online", "unroll")
