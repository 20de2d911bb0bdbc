"""The contract of a strategy: an update rule, pure in its inputs, whose parameters a level above may move."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Generator, Tensor, nn

from ..checking.errors import RecoptError, quoted, unknown
from ..checking.numbers import float_of
from .domains import DOMAINS, Domain, coordinate_of
from .settings import Hyper, declared, parse_options, plain_name

Params = list[Tensor]
State = dict[str, Any]
"""Plain dicts and lists of tensors and numbers; nothing else, so that it can be copied and saved.

Where tasks side by side start afresh by turns (``stagger``), a number such as a count of steps differs between them and
comes as a 0-dimensional tensor. A rule that needs it plain (``if steps == 1``) fails with that and is then looped.
"""


class Trial(NamedTuple):
    """One scored point: ``loss`` is 0-dimensional, ``grads`` has the shapes of ``point`` (None: order 0)."""

    point: Params
    loss: Tensor | None = None
    grads: Params | None = None


class Strategy(nn.Module):
    """An update rule. Subclasses declare settings and implement :meth:`forward`, and often :meth:`init`.

    ``forward`` is pure: it changes neither its arguments nor ``self``, draws from ``rng`` only, and
    returns *deltas* to add to the point (not new values), with the next state. No argument may be
    called ``params``. It is written for one task; the engine maps it over many.

    Class attributes:
        order: 1 if it reads ``trial.grads``, 0 if only ``trial.loss``.
        reads_loss: True if it reads ``trial.loss`` besides the gradients; :class:`recopt.Optimizer` then asks for it.
        learned: True if its parameters are meta-parameters that need training before it is of use.
        vectorize: False if ``forward`` draws random numbers or branches on tensor values; the engine
            then loops over the tasks of a batch instead of mapping over them.
        level: settings of the level it moves by, where neither user nor spec gives them (``normalize`` …).
        above: settings of a level that moves *it*, likewise; ``without``: a notice, if there is none.
        files: options that name a file, of which a run keeps a copy.
        paired: True if its points have to be scored on the same batches, which :class:`recopt.Optimizer` cannot do.

    Raises:
        RecoptError: for an unknown setting, or a value outside its domain.
    """

    order: ClassVar[Literal[0, 1]] = 1
    reads_loss: ClassVar[bool] = False
    learned: ClassVar[bool] = False
    vectorize: ClassVar[bool] = True
    level: ClassVar[Mapping[str, Any]] = {}
    above: ClassVar[Mapping[str, Any]] = {}
    files: ClassVar[tuple[str, ...]] = ()
    paired: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in (cls.forward, cls.propose, cls.init):
            if "params" in inspect.signature(base).parameters:
                raise RecoptError(
                    f"No argument of {cls.__name__}.{base.__name__} may be called 'params', which 'higher' takes for "
                    "its own: rename it, for example 'point'."
                )

    def __init__(self, *, domains: Mapping[str, str] | None = None, **settings: Any) -> None:
        super().__init__()
        where = plain_name(type(self))
        self._made_with = {"domains": domains, **settings}
        hypers = declared(type(self), Hyper)
        values = {name: settings.pop(name) for name in list(settings) if name in hypers}
        self._options = parse_options(type(self), settings, where)
        self._domains: dict[str, Domain] = {name: h.domain.among(self._options) for name, h in hypers.items()}
        for name, chosen in (domains or {}).items():
            if name not in hypers:
                raise unknown("hyperparameter", name, hypers, f"in domains of {where}")
            if chosen not in DOMAINS:
                raise unknown("domain", chosen, DOMAINS)
            self._domains[name] = DOMAINS[chosen]
        for name, hyper in hypers.items():
            value = values.get(name, hyper.default)
            if hyper.domain.numeric:
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise RecoptError(f"{where}.{name} must be a number, not {quoted(value)}.")
                value = float_of(value)
            # float64 here, the run's dtype later: a logarithm rounded to float32 would cost seven digits.
            if hyper.off is not None and value == hyper.off:
                self.register_buffer(f"{name}_off", torch.tensor(value, dtype=torch.float64))
            else:
                raw = coordinate_of(self._domains[name], value, f"{where}.{name}")
                self._parameters[name] = nn.Parameter(torch.tensor(raw, dtype=torch.float64))

    def on(self, name: str) -> bool:
        """True if the term that hyperparameter ``name`` weighs is present (see :class:`Hyper`)."""
        return name in self._parameters

    def natural(self, coordinates: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each hyperparameter among ``coordinates`` (by parameter) in its natural unit; of many numbers, the middle."""
        return {n: self._domains[n].natural(x.mean()) for n, x in coordinates.items() if n in self._domains}

    def afresh(self, seed: int, draw: int) -> Self:
        """The same strategy made again, with initial meta-parameters drawn anew."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed((seed * 1_000_003 + draw) % 2**63)
            return type(self)(**self._made_with)

    def init(self, point: Params) -> State:
        """The state before the first step at ``point``; pure, and independent of this strategy's parameters."""
        return {}

    def eval_point(self, point: Params, state: State) -> Params:
        """The place to use the model at, ``state`` being that at ``point``: a mean of iterates, say.

        It is what is measured, exported and shown by :meth:`recopt.Optimizer.averaged`; steps go on from ``point``.
        Tensors of the shapes of ``point``; pure. The default is the point itself.
        """
        return point

    @classmethod
    def keeps_mean(cls) -> bool:
        """True if the rule names another place to use the model at (:meth:`eval_point`)."""
        return cls.eval_point is not Strategy.eval_point

    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        """Points to score before the next step; the first-order default scores the point itself."""
        return [point]

    def ancestors(self, state: State) -> list[int]:
        """The trials of the last step, whose runs the points that are proposed next go on from; the chosen one first.

        So a zero-order level above the task has members that keep their own run (population-based training). The
        default, none, is that all go on from the one that was chosen.
        """
        return []

    @classmethod
    def keeps_members(cls) -> bool:
        """True if its points go on from runs of their own (:meth:`ancestors`)."""
        return cls.ancestors is not Strategy.ancestors

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        """Deltas to add to ``point`` (same shapes), and the next state, from the scored ``trials``."""
        raise NotImplementedError(f"{type(self).__name__} has no forward.")
