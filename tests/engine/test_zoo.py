"""Two hundred models, five steps each, against plain torch; side by side and under exact levels as well."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch

import recopt
from recopt.checking.errors import Notice, RecoptError
from recopt.engine import measure
from recopt.engine.model import Patched
from recopt.engine.ways import Function
from recopt.levels.seeds import mix

from .. import engines
from ..differences import signal_of
from ..zoo import ZOO, Entry, Trained
from ..zoo.by_torch import by_torch
from ..zoo.outcomes import CALLED, HIGHER, LOOPED, MAPPED, REFUSED, SHORT, outcome, table

pytestmark = [
    pytest.mark.filterwarnings("ignore::recopt.checking.errors.Notice"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported"),
]
RULE = "sgd(lr=0.02, momentum=0.9, weight_decay=0.01)"
EXACT = {0: {"normalize": "none", "guard": False}, 2: {"gradient": "unroll", "second_order": True, "every": 2}}


def params(most: int) -> list[Any]:
    """The zoo, of which up to ``most`` of each kind and outcome are quick, and the others slow."""

    def key(entry: Entry) -> tuple[str, tuple[str, str]]:
        return entry.kind, outcome(entry)

    found = []
    for _, group in groupby(sorted(ZOO, key=key), key):
        for n, entry in enumerate(group):
            slow = n >= most or str(entry) == "scripted: recurrent"  # which takes seconds to compile
            found.append(pytest.param(entry, id=str(entry), marks=[pytest.mark.slow] if slow else []))
    return found


@pytest.mark.parametrize("entry", params(len(ZOO)))
def test_five_steps_equal_those_of_torch(entry: Entry) -> None:
    losses, model = by_torch(Trained(entry), 5, 0.02)
    found = recopt.run(Trained(entry), RULE, steps=5, dtype="float64", track=False, measure=0)
    assert list(found.losses) == pytest.approx(losses, rel=1e-9, abs=1e-12)
    mine = measure.models(found.engine)[0]
    for (name, a), (other, b) in zip(tensors(mine), tensors(model), strict=True):
        assert name == other
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=name)
    assert any(not torch.equal(a, b) for (_, a), (_, b) in zip(tensors(mine), tensors(start(entry)), strict=True))


@pytest.mark.parametrize("entry", params(2))
def test_two_tasks_side_by_side_equal_those_of_torch(entry: Entry) -> None:
    made = engines.engine(Trained(entry), RULE, tasks=2)
    made.run(3)
    way = made.family.drawn(0).way
    assert outcome(entry)[0] == (MAPPED if isinstance(way, Function) and way.mapped else LOOPED)
    losses = engines.losses(made)
    if entry.kind == "dropout and noise" or entry.name in ("dropout", "stochastic", "variational"):
        assert all(map(math.isfinite, losses))  # each task has draws of its own
        return
    both = [by_torch(Trained(entry, seed=seed), 3, 0.02)[0] for seed in (0, mix(0, 0, 1))]
    assert losses == pytest.approx([sum(pair) / 2 for pair in zip(*both, strict=True)], rel=1e-8)


@pytest.mark.parametrize("entry", params(2))
def test_exact_levels_equal_differences_between_runs_of_torch(entry: Entry) -> None:
    how = outcome(entry)[1]
    if how == REFUSED:
        with pytest.raises(RecoptError, match=r"differentiated twice, and this one is not \(.*leave second_order out"):
            engines.engine(Trained(entry), f"{RULE}/sgd[lr]", EXACT)
        return
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", Notice)
        made = engines.engine(Trained(entry), f"{RULE}/sgd[lr]", EXACT)
    assert how.startswith(HIGHER) == isinstance(made.family.drawn(0).way.models[0], Patched)
    short = any("differences say" in str(w.message) for w in told)
    assert short == how.endswith(SHORT)
    assert how.startswith(CALLED) == any("called by torch.func.functional_call" in str(w.message) for w in told)

    def meta_loss(nudge: float) -> float:
        losses, _ = by_torch(Trained(entry), 2, 0.02 * math.exp(nudge), last=True)
        return sum(losses[1:]) / 2

    signal = signal_of(made, 2)
    assert signal.grads is not None
    if not short:
        wanted = (meta_loss(1e-5) - meta_loss(-1e-5)) / 2e-5
        assert float(signal.grads[0]) == pytest.approx(wanted, rel=1e-5, abs=1e-8)


def test_the_docs_say_how_each_kind_ended() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
    assert "\n".join(table()) in page
    assert f"{len(ZOO)} models of {len({entry.kind for entry in ZOO})} kinds" in page


def tensors(model: torch.nn.Module) -> Sequence[tuple[str, torch.Tensor]]:
    return [(name, t.double()) for name, t in (*model.named_parameters(), *model.named_buffers())]


def start(entry: Entry) -> torch.nn.Module:
    return by_torch(Trained(entry), 0, 0.02)[1]
