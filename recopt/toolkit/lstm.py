"""An LSTM cell that runs on all coordinates at once: a version fused by hand, and a plain one.

Coordinates are columns: a matrix [rows, n] holds ``rows`` numbers for each of n coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

COLUMNS = 3200
"""Columns per piece on a CPU: few enough for its cache, enough to make the cost of the calls small."""
FEW = 256
"""Below this number of columns the plain version is faster."""
LARGE = 1_000_000
"""Multiplications from which on a product by oneDNN is faster than one by MKL, whose calls cost less."""
_sigmoid_slope = torch.ops.aten.sigmoid_backward.grad_input
_wide = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent as 2σ(2x) - 1, several times faster than ``torch.tanh`` on CPU."""
    return 2 * torch.sigmoid(2 * x) - 1


def lstm_cell(x: Tensor, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """One LSTM step of n independent columns: the new h and c, each [hidden, n].

    Gates are in the order of ``torch.nn.LSTM`` (i, f, g, o), each a block of contiguous rows. One product and
    one sigmoid serve all four: tanh(x) = 2σ(2x) - 1, so gate g's weights are doubled first. On CPU, tanh costs
    many times as much as sigmoid. Values and first derivatives are computed in place, piece by piece, and only
    the gates are kept for backward. Higher derivatives are those of :func:`plain_lstm_cell`. Mapped over tasks,
    one product serves all of them.

    Args:
        x: [inputs, n].
        h, c: [hidden, n].
        weight: [4 hidden, inputs + hidden].
        bias: [4 hidden].

    Raises:
        ValueError: ``weight`` has not one column for each row of ``x`` and ``h``.
    """
    if weight.shape[1] != len(x) + len(h):
        raise ValueError(f"weight has {weight.shape[1]} columns, but x and h have {len(x)} and {len(h)} rows")
    if x.shape[1] < FEW:
        return plain_lstm_cell(x, h, c, weight, bias)
    new_h, new_c, *_ = _apply(torch.is_grad_enabled(), x, h, c, weight, bias)
    return new_h, new_c


def plain_lstm_cell(x: Tensor, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The same function as :func:`lstm_cell`, composed of torch operations."""
    hidden = h.shape[0]
    double = torch.ones_like(bias).unflatten(0, (4, hidden))
    double = (double + double.new_tensor([0.0, 0.0, 1.0, 0.0])[:, None]).flatten()[:, None]
    gates = torch.sigmoid((weight * double) @ torch.cat([x, h]) + bias[:, None] * double)
    i, f, g, o = gates.split(hidden)
    c = f * c + i * (2 * g - 1)
    return o * tanh(c), c


class _Cell(torch.autograd.Function):
    """(keep, x, h, c, weight, bias) to (h, c, gates): with ``keep``, each piece's sigmoids, where g's is σ(-2z)."""

    @staticmethod
    def forward(keep: bool, x: Tensor, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        joined = _with_bias(weight, bias, -2)
        new_h, new_c = x.new_empty(h.shape), x.new_empty(c.shape)
        kept, room = [], _Room(weight, back=False)
        for x_, h_, c_, to_h, to_c in zip(*map(_pieces, (x, h, c, new_h, new_c)), strict=True):
            room.fit(x_)
            gates = _product(joined, room.with_one(x_, h_)).sigmoid_()
            i, f, g, o = gates.split(len(h))
            torch.addcmul(i, i, g, value=-2, out=to_c).addcmul_(f, c_)
            torch.addcmul(o, o, _squashed(to_c, to_h), value=-2, out=to_h)
            kept += [gates] if keep else []
        return (new_h, new_c, *kept)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.kept = len(output) - 2
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(*inputs[1:], *output)
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *given, new_h, new_c = (saved := ctx.saved_tensors)[:7]
        dh, dc = (torch.zeros_like(new_h) if g is None else g for g in grads[:2])
        if torch.is_grad_enabled():
            return (None, *torch.func.vjp(plain_lstm_cell, *given)[1]((dh, dc)))
        return (None, *_pulled(given, new_c, saved[7:], dh, dc, ctx.needs_input_grad[1]))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        given = tuple(ctx.saved_tensors)
        full = tuple(torch.zeros_like(v) if t is None else t for v, t in zip(given, tangents[1:], strict=True))
        # Forward mode does not nest, so take the transpose of the transpose.
        reverse = torch.func.vjp(plain_lstm_cell, *given)
        push = torch.func.vjp(reverse[1], tuple(torch.zeros_like(o) for o in reverse[0]))[1]
        return (*push(full)[0], *[None] * ctx.kept)

    @staticmethod
    def vmap(info: Any, in_dims: Any, keep: bool, *given: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Put the columns of all tasks side by side, as columns are independent."""
        dims, size = in_dims[1:], info.batch_size
        if any(d is not None for d in dims[3:]):
            return torch.vmap(plain_lstm_cell, tuple(dims))(*given), (0, 0)
        wide = [_side_by_side(t, d, size) for t, d in zip(given[:3], dims, strict=False)]
        new_h, new_c, *_ = _apply(keep, *wide, *given[3:])
        return (new_h.unflatten(1, (size, -1)), new_c.unflatten(1, (size, -1))), (1, 1)


_apply: Callable[..., tuple[Tensor, ...]] = _Cell.apply


def _side_by_side(t: Tensor, dim: int | None, size: int) -> Tensor:
    """A batch of [rows, n] as [rows, size n]; ``dim`` is its batch dimension (None: the same for all)."""
    spread = t.unsqueeze(1).expand(-1, size, -1) if dim is None else t.movedim(dim, 1)
    return spread.reshape(len(spread), -1)


def _pieces(t: Tensor) -> Sequence[Tensor]:
    """The columns of ``t`` in pieces, as views; all are made in one call, since each costs a share of the work."""
    return t.split(COLUMNS, 1) if t.device.type == "cpu" and t.shape[1] > COLUMNS else (t,)


def _product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """``a @ b``; by oneDNN where that has nearly twice the speed, as MKL uses AVX-512 on Intel's processors alone."""
    served = _wide and a.dtype == b.dtype == torch.float32 and a.device.type == "cpu"
    if not served or a.numel() * b.shape[1] < LARGE:
        return torch.mm(a, b, out=out)
    made: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.T, None, "none", [], "")
    return made if out is None else out.copy_(made)


def _with_bias(weight: Tensor, bias: Tensor, factor: int) -> Tensor:
    """[4 hidden, inputs + hidden + 1], a copy with gate g's rows times ``factor``."""
    hidden = len(bias) // 4
    joined = torch.cat([weight, bias[:, None]], 1)
    joined.narrow(0, 2 * hidden, hidden).mul_(factor)
    return joined


class _Room:
    """Memory that is used for one piece after the other."""

    def __init__(self, weight: Tensor, back: bool) -> None:
        (self.gates, self.inputs), self.way_back = weight.shape, back
        self.width = -1

    def fit(self, piece: Tensor) -> None:
        """Allocate memory for a piece of another width than the last."""
        if piece.shape[1] == self.width:
            return
        self.width = piece.shape[1]
        self.joined = piece.new_empty(self.inputs + 1, self.width)
        self.inside, one = self.joined.split((self.inputs, 1))
        one.fill_(1)
        if self.way_back:
            self.slopes = piece.new_empty(self.gates, self.width)
            self.parts = self.slopes.split(self.gates // 4)

    def with_one(self, x: Tensor, h: Tensor) -> Tensor:
        """x, h and a row of ones: the factor of the weights and the bias."""
        torch.cat([x, h], out=self.inside)
        return self.joined


def _squashed(c: Tensor, out: Tensor) -> Tensor:
    """σ(-2c), of which tanh(c) is 1 - 2σ(-2c): a factor times it is one pass, without tanh(c) itself."""
    return torch.mul(c, -2, out=out).sigmoid_()


def _pulled(
    given: Sequence[Tensor], new_c: Tensor, kept: Sequence[Tensor], dh: Tensor, dc: Tensor, wants_x: bool
) -> tuple[Tensor | None, ...]:
    """The derivatives by (x, h, c, weight, bias), without a graph."""
    x, h, c, weight, bias = given
    # Gate g is 1 - 2u with u = σ(-2z): its slope by z is 4 u (1 - u).
    start = 0 if wants_x else len(x)
    joined = _with_bias(weight, bias, 4)[:, start:-1].T
    by_joined = weight.new_zeros(weight.shape[1] + 1, len(weight))
    by_inputs, by_c = x.new_empty(weight.shape[1] - start, x.shape[1]), x.new_empty(c.shape)
    room = _Room(weight, back=True)
    for x_, h_, c_, u, dh_, dc_, nc_, to_inputs, to_c in zip(
        _pieces(x), _pieces(h), _pieces(c), kept, *map(_pieces, (dh, dc, new_c, by_inputs, by_c)), strict=True
    ):
        room.fit(x_)
        (i, f, g, o), (by_i, by_f, by_g, by_o) = u.split(len(h)), room.parts
        # Memory holds another thing than it is named for until its own turn comes: by_o σ(-2c), to_c the slope by c.
        s, back = _squashed(nc_, by_o), torch.mul(dh_, o, out=to_c)
        torch.add(dc_, _sigmoid_slope(back, s, grad_input=back), alpha=4, out=back)
        torch.addcmul(dh_, dh_, s, value=-2, out=by_o)
        torch.addcmul(back, back, g, value=-2, out=by_i)
        torch.mul(back, c_, out=by_f)
        torch.mul(back, i, out=by_g)
        _sigmoid_slope(room.slopes, u, grad_input=room.slopes)
        to_c.mul_(f)
        # Written transposed, as this takes two thirds to four fifths of the time.
        by_joined.add_(_product(room.with_one(x_, h_), room.slopes.T))
        _product(joined, room.slopes, to_inputs)
    by_joined.narrow(1, 2 * len(h), len(h)).mul_(4)
    by_x = by_inputs[: len(x)] if wants_x else None
    return by_x, by_inputs[-len(h) :], by_c, by_joined[:-1].T, by_joined[-1]
