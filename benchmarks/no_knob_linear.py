"""Linear models, dense and sparse: the default with and without a smaller rate for them.

    python benchmarks/no_knob_linear.py --seeds 3 --cache linear.jsonl [--tasks digits ...]

Held-out losses over that of Adam at the best of four rates with a cosine. "From zero" is where the weights begin;
others begin as torch has them. Runs are those of no_knob.py, whose cache this is.
"""

from __future__ import annotations

from no_knob_data import _digits, images, shipped, smaller, split
from no_knob_jobs import CROSS, SQUARE, Job, Pair, Task, supervised
from no_knob_ten import sparse
from no_knob_without import compare, replaced
from torch import nn

from recopt.toolkit import weights


def dense(seed: int, pairs: tuple[Pair, Pair], outputs: int, zero: bool = False, batch: int = 64) -> Job:
    """Softmax regression, or linear where there is one output."""
    (x, y), (u, v) = pairs
    network = nn.Linear(x[0].numel(), outputs)
    if zero:
        nn.init.zeros_(network.weight)
        nn.init.zeros_(network.bias)
    flat = (x.flatten(1), y), (u.flatten(1), v)
    return supervised(network, *flat, batch, SQUARE if outputs == 1 else CROSS, seed)


TASKS: dict[str, Task] = {
    "Fashion-MNIST": Task(lambda s: dense(s, smaller(images("fashion-mnist", 6000, 2000), 14), 10), 600),
    "MNIST, from zero": Task(lambda s: dense(s, smaller(images("mnist", 4000, 2000), 14), 10, zero=True), 800),
    "digits": Task(lambda s: dense(s, _digits(), 10), 400),
    "digits, from zero": Task(lambda s: dense(s, _digits(), 10, zero=True), 300),
    "diabetes": Task(lambda s: dense(s, split(*shipped("diabetes"), 250), 1, batch=32), 600),
    "breast cancer": Task(lambda s: dense(s, split(*shipped("breast_cancer"), 250), 2, batch=32), 500),
    "wine, from zero": Task(lambda s: dense(s, split(*shipped("wine"), 90), 3, zero=True, batch=32), 300),
    "10,000 features": Task(lambda s: sparse(s, 10_000, 30, 8000, 0.9, 0.7, 101), 1500),
    "1,500 features": Task(lambda s: sparse(s, 1500, 10, 20_000, 0.7, 1.0, 102), 2000),
    "6,000 features": Task(lambda s: sparse(s, 6000, 25, 3000, 1.0, 0.8, 103), 500),
}


if __name__ == "__main__":
    compare(str(__doc__), TASKS, "linear models", lambda: replaced(weights, LINEAR=1.0))
