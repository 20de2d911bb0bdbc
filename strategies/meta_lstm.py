"""The LSTM meta-learner of Ravi and Larochelle 2017 ("Optimization as a model for few-shot learning")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, nn

from recopt import Params, State, Strategy, Trial, option
from recopt.toolkit.blocks import flatten, log_and_sign, lstm_layers, unflatten, uniform_weights


class MetaLstm(Strategy):
    """An LSTM whose cell state is the model: its input gate is a rate, its forget gate a decay of the weights.

    At a coordinate θ with the gradient g (their section 3.2, equations 2 to 4),

        θ ← f θ − i g,   i = σ(w_i · [h, θ, i′] + b_i),   f = σ(w_f · [h, θ, f′] + b_f),

    where i′ and f′ are the gates of the step before (0 at first) and h is the output of an LSTM over g and the loss,
    both as ``(max(log|x| / p, -1), clip(e^p x, -1, 1))`` with p = 10. All coordinates share the weights; each has a
    state of its own. The biases begin at b_f = 5 and b_i = -4.5: nearly plain gradient descent at a rate of 0.011.

    The cell's first state, which is where the model starts, is learned in stacks such as ``meta-lstm/init:adam+adam``.
    """

    reads_loss: ClassVar[bool] = True
    learned: ClassVar[bool] = True
    above: ClassVar[Mapping[str, Any]] = {"every": 20, "episode": 100, "gradient": "unroll", "second_order": False}

    hidden = option(20, "units of the LSTM below the gates", least=1)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        bound = self.hidden**-0.5
        self.weights = nn.ParameterList([uniform_weights(bound, 4 * self.hidden, 4 + self.hidden)])
        self.biases = nn.ParameterList([uniform_weights(bound, 4 * self.hidden)])
        self.gates = uniform_weights(0.01, 2, self.hidden)
        self.seen = uniform_weights(0.01, 2, 2)
        self.gate_biases = nn.Parameter(torch.tensor([-4.5, 5.0]))

    def init(self, point: Params) -> State:
        """Zero h and c [hidden, n] of the one layer, and zero gates [2, n], n the number of coordinates."""
        flat = flatten(point)
        zeros = flat.new_zeros(self.hidden, flat.numel())
        return {"h": [zeros], "c": [zeros], "gates": flat.new_zeros(2, flat.numel())}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        grads, loss = trials[0].grads, trials[0].loss
        assert grads is not None
        assert loss is not None
        at, g = flatten(point), flatten(grads)
        seen = torch.cat([log_and_sign(g), log_and_sign(loss.to(g).expand_as(g))])
        h, after = lstm_layers(seen, state, self.weights, self.biases)
        own = self.seen[:, :1] * at + self.seen[:, 1:] * state["gates"]
        gates = torch.sigmoid(self.gates @ h + own + self.gate_biases[:, None])
        delta = (gates[1] - 1) * at - gates[0] * g
        return unflatten(delta, point), {**after, "gates": gates}
