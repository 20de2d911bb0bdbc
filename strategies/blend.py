"""A learned blend of known directions: a small network says, tensor by tensor, how much of each and how far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import silu

from recopt import Params, State, Strategy, Trial, option, positive
from recopt.toolkit.blocks import TINY, cosine, flatten, log_ratio, norm, orthogonalize, unflatten

MOMENTA = (0.5, 0.9, 0.99)
SECOND = 0.95
RESIGNED = 1 / 256
"""The brake, which halves at each loss that is too high, below which such losses are taken for what is usual."""
TIMES = (1.0, 3.0, 10.0, 30.0)
# Rows of the matrix whose Gram matrix the network's ratios and cosines come from; the last three are directions.
G, FAST, MEAN, SLOW, X, S, ROOT = range(7)


class Course(NamedTuple):
    """The verdict of the losses so far on the present point; numbers are 0-dimensional.

    Attributes:
        lost: whether the point is to be left: the loss is too high, or not a number.
        loss: the present one, or the last that is a number.
        first: what losses are compared with.
        before: the last one.
        best: the lowest, before this one.
        home: the point [n] to go back to.
        brake: what multiplies all moves.
    """

    lost: Tensor
    loss: Tensor
    first: Tensor
    before: Tensor
    best: Tensor
    home: Tensor
    brake: Tensor

    @classmethod
    def of(cls, loss: Tensor, x: Tensor, state: State) -> Course:
        """The course at the point ``x`` [n] and the loss there."""
        # Where losses stay high whatever is done (other data, another weight), they are what there is to compare with.
        again = loss.isfinite() & (state["brake"] < RESIGNED)
        state = state | {key: torch.where(again, loss, state[key]) for key in ("first", "best")}
        begun = state["step"] > 0
        lost = ~(loss <= state["first"] + state["first"].abs()) & begun
        loss = torch.where(loss.isfinite(), loss, state["loss"])
        first, before, best = (torch.where(begun, state[key], loss) for key in ("first", "loss", "best"))
        home = torch.where(~lost & (loss <= best) | ~begun, x, state["home"])
        brake = torch.where(lost, 0.5 * state["brake"], (1.3 * state["brake"]).clamp(max=1))
        return cls(lost, loss, first, before, best, home, brake)


class Line(NamedTuple):
    """The last differences of points ``s`` and gradients ``y`` [n], those before in units of their gradients' norm
    ``past_s`` and ``past_y`` [memory, n], and where they lead: see :meth:`Blend.secant`."""

    s: Tensor
    y: Tensor
    past_s: Tensor
    past_y: Tensor
    jump: Tensor
    rest: Tensor
    probe: Tensor


class Blend(Strategy):
    """Moves each tensor along a learned mixture of known directions.

    Seven directions are scaled to a length: orthogonalized Nesterov momentum at two time scales (matrices; Jordan et
    al. 2024; a vector's is the momentum itself), g/√v, m/√v at two time scales, the fast momentum, and the last move.
    Two have a length of their own, from the ``memory`` last differences of points s and gradients y: the
    move that the best fit of g by the y asks for, and the unexplained rest of g times the last secant's
    inverse curvature (Anderson 1965; Barzilai & Borwein 1988), or where that is not known, by Polyak's step (1969).

    What the network sees of a tensor are ratios and cosines between these vectors, over the tensor and over all
    of them, the loss relative to the first and to the last, the step number and the tensor's sizes: nothing
    that changes when the loss is multiplied by a number. It answers with the weights of the mixture and with a
    change of the logarithm of the tensor's step, which is kept in the state. Where the loss is above twice the first
    (not a number included), it goes back to the best point seen and brakes all further moves for a while; where nine
    in a row are, it begins anew from what losses are then.
    """

    learned: ClassVar[bool] = True
    reads_loss = True
    above: ClassVar[Mapping[str, Any]] = {"every": 20, "episode": 100, "gradient": "unroll", "second_order": False}

    hidden = option(32, "units per layer of the network", least=1)
    memory = option(8, "differences kept for the secant directions", least=2)
    scale = positive(1.0, "length of the first step: a matrix's singular values, twenty times a vector's mean move")
    decay = positive(5.0, "steps after which the nominal step has halved, as 1 / (1 + t / decay); 0: it stays", off=0)
    nominal = option("momentum", "what an untrained rule moves along", choices=("momentum", "secant"))
    ridge = positive(1e-3, "ridge of the secant fit, relative to unit columns")

    kinds: ClassVar[int] = 7
    features: ClassVar[int] = len(TIMES) + 10 + 4 + 10

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.inner = nn.Linear(self.features, self.hidden)
        self.middle = nn.Linear(self.hidden, self.hidden)
        self.outer = nn.Linear(self.hidden, self.kinds + 3)
        with torch.no_grad():
            self.outer.weight.mul_(0.1)
            self.outer.bias.zero_()
            if self.nominal == "secant":
                self.outer.bias[-3:-1] = 1.2
            else:
                self.outer.bias[:2] = torch.tensor([0.7, 0.3])

    def init(self, point: Params) -> State:
        """Vectors [n] and stacks of them, n the number of coordinates, and numbers: all zero, but the brake 1."""
        flat = torch.zeros_like(flatten(point))
        zero = flat.new_zeros(())
        return {
            "step": zero, "first": zero, "loss": zero, "best": zero, "brake": flat.new_ones(()), "home": flat,
            "log_step": flat.new_zeros(len(point)), "point": flat, "grad": flat, "rest": flat, "v": flat,
            "m": flat.new_zeros(len(MOMENTA), flat.numel()),
            "s": flat.new_zeros(self.memory, flat.numel()), "y": flat.new_zeros(self.memory, flat.numel()),
        }  # fmt: skip

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        loss, grads = trials[0].loss, trials[0].grads
        assert loss is not None and grads is not None
        x = flatten(point)
        course = Course.of(loss, x, state)
        # A loss that is no number says only that the point is lost: the last gradient stands in, as the last loss does.
        g = torch.where(loss.isfinite(), flatten(grads), state["grad"])
        line = self.line(g, x, course.loss, state)
        step, rows, m, v = self.rows(g, x, line.s, state)
        parts = rows.split([p.numel() for p in point], 1)
        gram = torch.stack([part @ part.T for part in parts])
        everywhere = self.everywhere(g, line, course, state).expand(len(point), -1)
        known = torch.cat([everywhere, shapes(point), self.ratios(gram, point, state)], 1)
        out = self.outer(silu(self.middle(silu(self.inner(known)))))
        log_step = (state["log_step"] + 0.3 * torch.tanh(out[:, -1])).clamp(-8, 8)
        moves = self.mixed(point, parts, line, out, log_step, state["step"])
        return unflatten(torch.where(course.lost, course.home - x, course.brake * moves), point), {
            "step": step, "first": course.first, "loss": course.loss,
            "best": torch.where(course.lost, course.best, torch.minimum(course.loss, course.best)),
            "brake": course.brake, "home": course.home, "log_step": log_step, "point": x, "grad": g,
            "rest": line.rest, "v": v, "m": m, "s": line.past_s, "y": line.past_y,
        }  # fmt: skip

    def line(self, g: Tensor, x: Tensor, loss: Tensor, state: State) -> Line:
        """The differences up to here, and where they lead."""
        later = (state["step"] > 0).to(g.dtype)
        s, y = (x - state["point"]) * later, (g - state["grad"]) * later
        size = 1 / (norm(y) + TINY)
        past_s, past_y = torch.cat([(s * size)[None], state["s"][:-1]]), torch.cat([(y * size)[None], state["y"][:-1]])
        return Line(s, y, past_s, past_y, *self.secant(g, s, y, past_s, past_y, loss))

    def everywhere(self, g: Tensor, line: Line, course: Course, state: State) -> Tensor:
        """Ratios and cosines over all tensors together, and the step number as fractions of some times: [14]."""
        return torch.stack(
            [
                *torch.tanh(state["step"] / g.new_tensor(TIMES)),
                cosine(g, line.s),
                cosine(line.y, line.past_y[1]),
                cosine(line.s, line.y),
                cosine(g, state["grad"]),
                log_ratio(norm(line.rest), norm(g)),
                log_ratio(norm(g - state["rest"]), norm(g)),
                log_ratio(norm(line.jump), norm(line.s)),
                log_ratio(norm(line.probe), norm(line.s)),
                log_ratio(course.loss, course.first),
                log_ratio(course.loss, course.before),
            ]
        )

    def mixed(
        self, point: Params, parts: Sequence[Tensor], line: Line, out: Tensor, log_step: Tensor, done: Tensor
    ) -> Tensor:
        """All tensors' moves [n], from what the network said ``out`` [tensors, 10] after ``done`` steps."""
        cuts = [p.numel() for p in point]
        reach = self.scale * log_step.exp()
        if self.on("decay"):
            reach = reach / (1 + done / self.decay)
        weights = torch.tanh(out / 1.5) * 1.5
        return torch.cat(
            [
                w[-2] * j + w[-3] * q - r * (w[: self.kinds] @ directions(part, p))
                for p, part, w, r, j, q in zip(
                    point, parts, weights, reach, line.jump.split(cuts), line.probe.split(cuts), strict=True
                )
            ]
        )

    def rows(self, g: Tensor, x: Tensor, s: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The step number, the rows [10, n] that everything is made of, and the means m [3, n] and v [n]."""
        betas = g.new_tensor(MOMENTA)[:, None]
        step = state["step"] + 1
        m = betas * state["m"] + (1 - betas) * g
        v = SECOND * state["v"] + (1 - SECOND) * g.square()
        mean = m / (1 - betas**step)
        root = (v / (1 - SECOND**step)).clamp(min=TINY**2).sqrt()
        rows = torch.cat([torch.stack([g, *mean, x, s, root]), torch.stack([g, mean[1], mean[2]]) / root])
        return step, rows, m, v

    def secant(
        self, g: Tensor, s: Tensor, y: Tensor, past_s: Tensor, past_y: Tensor, loss: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """From the differences s, y [n] of the last step and ``memory`` past ones, in units of the norm of y.

        Returns the move -Σ γ_k s_k with Σ γ_k y_k the ridge fit of g; the rest g - Σ γ_k y_k; and that rest times
        -sᵀy / yᵀy, or where the curvature is not positive, or no step is made yet, times -f / gᵀg (Polyak 1969).
        """
        eye = torch.eye(self.memory, dtype=g.dtype, device=g.device)
        # Rounding alone may make the products of nearly equal columns singular: so much is always added.
        ridge = self.ridge + self.memory * torch.finfo(g.dtype).eps
        fit = torch.linalg.solve(past_y @ past_y.T + ridge * eye, (past_y @ g)[:, None])[:, 0]
        rest, along = g - fit @ past_y, s @ y
        polyak = loss.clamp(min=0) / (g @ g + TINY**2)
        return -(fit @ past_s), rest, -torch.where(along > 0, along / (y @ y + TINY**2), polyak) * rest

    def ratios(self, gram: Tensor, point: Params, state: State) -> Tensor:
        """Ratios and cosines within each tensor, from the Gram matrices [tensors, 10, 10]: [tensors, 10]."""
        size = gram.diagonal(dim1=-2, dim2=-1).clamp(min=TINY**2).sqrt()
        cos = gram / (size[:, :, None] + TINY) / (size[:, None, :] + TINY)
        count = gram.new_tensor([p.numel() for p in point]).sqrt()
        return torch.stack(
            [
                cos[:, G, S],
                cos[:, FAST, MEAN],
                cos[:, MEAN, SLOW],
                cos[:, FAST, S],
                *(log_ratio(size[:, k], size[:, ROOT]) for k in (FAST, MEAN, SLOW)),
                log_ratio(size[:, S], size[:, X]),
                log_ratio(size[:, X], count),
                state["log_step"] / 3,
            ],
            1,
        )


def shapes(point: Params) -> Tensor:
    """Features of each tensor before the first step: [tensors, 4]."""
    sides = [(p.shape[0], p[:1].numel()) if p.dim() > 1 else (1, p.numel()) for p in point]
    return point[0].new_tensor(
        [
            [float(p.dim() > 1), i / max(len(point) - 1, 1), math.log(max(min(ab), 1)) / 5, math.log(max(*ab, 1)) / 5]
            for i, (p, ab) in enumerate(zip(point, sides, strict=True))
        ]
    )


def directions(part: Tensor, like: Tensor) -> Tensor:
    """The seven directions [7, size] of one tensor from its rows [10, size], each scaled to the same length.

    For a matrix that is the length at which an orthogonal matrix's singular values are 1; for a
    vector, a root mean square of 1/20. Before a momentum is orthogonalized, its rows and columns are divided
    by their root mean squares (a factored √v, as in Shazeer & Stern 2018), each kept above a tenth of their mean.
    """
    betas = part.new_tensor(MOMENTA[:2])[:, None]
    around, length = betas * part[FAST : MEAN + 1] + (1 - betas) * part[G], 0.05
    if like.dim() > 1:
        v = part[ROOT].reshape(like.shape[0], -1).square()
        rows, columns = v.mean(1, keepdim=True).sqrt(), v.mean(0, keepdim=True).sqrt()
        around = around.reshape(2, *v.shape) / (rows / rows.mean() + 0.1) / (columns / columns.mean() + 0.1)
        around = orthogonalize(around).reshape(2, -1)
        length = max(like.shape[0], like[:1].numel(), 1) ** -0.5
    around = torch.cat([around, part[ROOT + 1 :], part[FAST : FAST + 1], -part[S : S + 1]])
    return around * (length / around.square().mean(1, keepdim=True).clamp(min=TINY**2).sqrt())
