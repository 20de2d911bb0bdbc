"""Recurrent models, attention, embeddings."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from . import Wrap, add


def recurrent(kind: Any, out: int = 4, **more: Any) -> nn.Module:
    return Wrap(lambda m, x: m.head(m.cell(x)[0]), cell=kind(6, 4, batch_first=True, **more), head=nn.Linear(out, 2))


def stepped(cell: nn.Module) -> nn.Module:
    def call(m: Any, x: Tensor) -> Tensor:
        state: Any = None
        for step in x.unbind(1):
            state = m.cell(step, state)
        return m.head(state[0] if isinstance(state, tuple) else state)

    return Wrap(call, cell=cell, head=nn.Linear(4, 2))


add(
    "recurrent",
    "sequence",
    lstm=partial(recurrent, nn.LSTM),
    gru=partial(recurrent, nn.GRU),
    rnn=partial(recurrent, nn.RNN),
    rnn_relu=partial(recurrent, nn.RNN, nonlinearity="relu"),
    deep_lstm=partial(recurrent, nn.LSTM, num_layers=2),
    both_ways=partial(recurrent, nn.GRU, 8, bidirectional=True),
    dropout=partial(recurrent, nn.LSTM, num_layers=2, dropout=0.3),
    projected=partial(recurrent, nn.LSTM, 3, proj_size=3),
    no_bias=partial(recurrent, nn.GRU, bias=False),
    lstm_cell=lambda: stepped(nn.LSTMCell(6, 4)),
    gru_cell=lambda: stepped(nn.GRUCell(6, 4)),
    rnn_cell=lambda: stepped(nn.RNNCell(6, 4)),
)


def attention(**more: Any) -> nn.Module:
    return Wrap(lambda m, x: m.a(x, x, x)[0], a=nn.MultiheadAttention(6, 2, batch_first=True, **more))


def encoder(**more: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True, **more)


def decoder(m: Any, x: Tensor) -> Tensor:
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
    return m.d(x, x, tgt_mask=mask)


def fused(m: Any, x: Tensor, causal: bool = False) -> Tensor:
    q, k, v = (t.unflatten(-1, (2, 3)).transpose(1, 2) for t in m.qkv(x).chunk(3, -1))
    return m.out(fn.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2))


def biased(m: Any, x: Tensor) -> Tensor:
    return ((m.q(x) @ m.k(x).mT + m.bias).softmax(-1) @ x) * m.scale


def rotary(m: Any, x: Tensor) -> Tensor:
    q = torch.view_as_complex(m.q(x).unflatten(-1, (3, 2)).contiguous()) * m.turn
    return m.out(torch.view_as_real(q).flatten(-2))


add(
    "attention",
    "sequence",
    plain=attention,
    no_bias=partial(attention, bias=False),
    dropout=partial(attention, dropout=0.2),
    with_memory=partial(attention, add_bias_kv=True, add_zero_attn=True),
    other_sizes=lambda: Wrap(
        lambda m, x: m.a(x, x[..., :4], x[..., :3])[0], a=nn.MultiheadAttention(6, 2, kdim=4, vdim=3, batch_first=True)
    ),
    encoder_layer=encoder,
    encoder_layer_first=partial(encoder, norm_first=True, activation="gelu"),
    encoder=lambda: nn.TransformerEncoder(encoder(), 2, enable_nested_tensor=False),
    decoder=lambda: Wrap(decoder, d=nn.TransformerDecoderLayer(6, 2, 8, dropout=0.0, batch_first=True)),
    transformer=lambda: Wrap(lambda m, x: m.t(x, x), t=nn.Transformer(6, 2, 1, 1, 8, dropout=0.0, batch_first=True)),
    fused=lambda: Wrap(fused, qkv=nn.Linear(6, 18), out=nn.Linear(6, 2)),
    fused_causal=lambda: Wrap(partial(fused, causal=True), qkv=nn.Linear(6, 18), out=nn.Linear(6, 2)),
    biased=lambda: Wrap(
        biased,
        q=nn.Linear(6, 4),
        k=nn.Linear(6, 4),
        bias=nn.Parameter(torch.zeros(5, 5)),
        scale=nn.Parameter(torch.ones(6)),
    ),
)


def embedded(table: nn.Module, out: int = 2) -> nn.Module:
    return nn.Sequential(table, nn.Linear(4, out))


def bag(**more: Any) -> nn.Module:
    return embedded(nn.EmbeddingBag(10, 4, **more))


add(
    "embeddings",
    "tokens",
    plain=lambda: embedded(nn.Embedding(10, 4)),
    padded=lambda: embedded(nn.Embedding(10, 4, padding_idx=3)),
    sparse=lambda: embedded(nn.Embedding(10, 4, sparse=True)),
    by_frequency=lambda: embedded(nn.Embedding(10, 4, scale_grad_by_freq=True)),
    bounded=lambda: embedded(nn.Embedding(10, 4, max_norm=1.0)),
    bag=bag,
    bag_sum=partial(bag, mode="sum"),
    bag_max=partial(bag, mode="max"),
    bag_sparse=partial(bag, sparse=True),
    frozen=lambda: embedded(nn.Embedding.from_pretrained(torch.ones(10, 4))),
    tied=lambda: Wrap(lambda m, x: fn.linear(torch.tanh(m.e(x)), m.e.weight), e=nn.Embedding(10, 4)),
    positions=lambda: Wrap(
        lambda m, x: m.h(m.e(x) + m.p(torch.arange(x.shape[1]))),
        e=nn.Embedding(10, 4),
        p=nn.Embedding(5, 4),
        h=nn.Linear(4, 2),
    ),
)
