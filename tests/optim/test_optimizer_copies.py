"""recopt.Optimizer saved, copied and pickled in the midst of things: it goes on to the bit, and damage is refused."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import json
import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt
from recopt import RecoptError

from ..loops import batches, model_of, train

MIDST: list[tuple[str, dict[str, Any]]] = [
    ("adam", {"depth": 4}),
    ("adam/sgd/sgd", {"every": 3}),
    ("adam/sgd/sgd", {"every": 3, "levels": {3: {"every": 2}}, "fused": False}),
    ("adam/sgd/sgd", {"levels": {3: {"every": 4}}}),
    ("adam(weight_decay=0.1)/adam[*]", {"every": 4}),
    ("adam(lr=1000)/adagrad(lr=1)[lr]", {"fused": False}),
    ("adam(lr=1000)/adagrad(lr=1)[lr]", {"every": 5}),
    ("lstm/adam", {"every": 5}),
    ("lstm/adam/sgd", {"every": 3, "levels": {3: {"every": 2}}}),
    ("learned/adam", {"every": 5}),
    ("residual/adam", {}),
    ("adam/lstm", {}),
    ("prodigy/adagrad", {"every": 3}),
    ("sgd(lr=0.1)/random-search", {"every": 3}),
    ("sgd(lr=0.1)/cmaes(population=4)", {"every": 2}),
    ("adam/annealing", {"levels": {2: {"every": 4}}}),
    ("sgd/hypergradient", {"average": True}),
    ("adam[*weight]+sgd(lr=0.1)[*bias]/hypergradient", {"levels": {3: {"every": 3}, 4: {"every": 2}}}),
    ("adam/sgd", {"scope": "tensor", "fused": False}),
]


class Idle(nn.Module):
    """The usual model beside tensors that have no gradient, or only later; the first of all is one of them."""

    def __init__(self, late: int) -> None:
        super().__init__()
        self.never, self.later = (nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
        self.usual, self.late = model_of(), late

    def forward(self, x: Tensor) -> Tensor:
        self.late -= 1
        out: Tensor = self.usual(x)
        return out + self.later.sum() ** 2 * out if self.late < 0 else out


def run(model: nn.Module, optimizer: recopt.Optimizer, data: Any) -> list[float]:
    losses = []
    for x, y in data:
        optimizer.zero_grad(set_to_none=False)
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        if isinstance(model, Idle) and model.late >= 0:
            model.later.grad = None
        optimizer.step(loss=loss)
        losses.append(loss.item())
    return losses


def by_state_dict(model: nn.Module, optimizer: recopt.Optimizer, new: Callable[[], Any]) -> Any:
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    model, optimizer = new()
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return model, optimizer


def by_pickle(model: nn.Module, optimizer: recopt.Optimizer, new: Callable[[], Any]) -> Any:
    file = io.BytesIO()
    torch.save((model, optimizer), file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {"state_dict": by_state_dict, "deepcopy": lambda m, o, new: copy.deepcopy((m, o)), "pickle": by_pickle}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("stack", "options"), MIDST, ids=[f"{n}-{s}" for n, (s, _) in enumerate(MIDST)])
def test_it_goes_on_to_the_bit(stack: str, options: dict[str, Any], way: str) -> None:
    def new() -> tuple[nn.Module, recopt.Optimizer]:
        model = Idle(late=5)
        return model, recopt.Optimizer(model.named_parameters(), stack, **options)

    for before in (1, 7, 10):
        (model, optimizer), data = new(), list(itertools.islice(batches(), before + 12))
        run(model, optimizer, data[:before])
        other, copied = WAYS[way](model, optimizer, new)
        other.late = model.late
        assert run(other, copied, data[before:]) == run(model, optimizer, data[before:])
        assert copied.hyperparameters() == optimizer.hyperparameters()
        assert copied.guards() == optimizer.guards()


@pytest.mark.parametrize("stack", ["adam/sgd", "lstm/adam", "sgd(momentum=0.9)/adam[*]"])
@pytest.mark.parametrize("fused", [True, False])
def test_gradients_that_are_written_over_are_read_before(stack: str, fused: bool) -> None:
    found = []
    for to_none in (True, False):
        model = model_of()
        optimizer = recopt.Optimizer(model.parameters(), stack, fused=fused, every=3)
        for x, y in itertools.islice(batches(), 12):
            optimizer.zero_grad(set_to_none=to_none)
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        found.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_copy_is_apart() -> None:
    model, data = model_of(), batches()
    optimizer = recopt.Optimizer(model.parameters(), "adam/sgd", fused=False)
    train(model, optimizer, 4, data)
    saved, left = optimizer.state_dict(), list(itertools.islice(data, 10))
    other, copied = copy.deepcopy((model, optimizer))
    train(other, copied, 5, left)
    again, twice = copy.deepcopy((model, optimizer))
    assert train(model, optimizer, 5, left) == train(again, twice, 5, left)
    assert json.loads(saved["param_groups"][0]["recopt"].partition(" ")[2])["steps"] == 4


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to what is in nested containers; in lists to the first and the last only."""
    found = [path] if path else []
    ends = {0, len(node) - 1} if isinstance(node, list) and node else set()
    items = node.items() if isinstance(node, dict) else [(i, node[i]) for i in ends]
    for key, value in items:
        found += places(value, (*path, key))
    return found


def changed(state: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    state = copy.deepcopy(state)
    node: Any = state
    for key in path[:-1]:
        node = node[key]
    if value is KeyError:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return state


WRONG = [KeyError, None, "word", -7, [], {}, torch.ones(7)]


def refusal(optimizer: recopt.Optimizer, state: Any) -> str:
    try:
        optimizer.load_state_dict(state)
    except RecoptError as why:
        return str(why)
    return ""


STACKS = [("adam/sgd[*]", True), ("sgd(momentum=0.9)/adam", False), ("lstm/adam", True)]
DAMAGED = [(*stack, wrong) for stack in STACKS for wrong in (WRONG if "lstm" not in stack[0] else [None])]


@pytest.mark.parametrize(("stack", "fused", "wrong"), DAMAGED, ids=str)
def test_damage_is_refused_in_a_sentence_and_changes_nothing(stack: str, fused: bool, wrong: Any) -> None:
    def told() -> Any:
        return copy.deepcopy((optimizer.state_dict(), optimizer.hyperparameters(), optimizer._steps))

    model = model_of()
    optimizer = recopt.Optimizer(model.parameters(), stack, fused=fused, average=True)
    train(model, optimizer, 3)
    saved, refused = copy.deepcopy(optimizer.state_dict()), 0
    before = repr(told())
    for path in places(saved):
        why = refusal(optimizer, changed(saved, path, wrong))
        if why:
            refused += 1
            assert why[0].isupper() and why.endswith(".")
            assert repr(told()) == before, path
        else:  # what was taken can be stepped with, unless it is a number that cannot be, or a network's own state
            for p in model.parameters():
                p.grad = torch.full_like(p, 0.01)
            own = isinstance(wrong, int) or stack.startswith("lstm")
            with contextlib.suppress(Exception if own else RecoptError):
                optimizer.step()
            optimizer.load_state_dict(copy.deepcopy(saved))
            before = repr(told())
    assert refused > 20


class Heavy(recopt.Strategy):
    """A user's momentum, with a memory that grows."""

    def init(self, point: Any) -> Any:
        return {"speed": [torch.zeros_like(p) for p in point], "lengths": [], "count": torch.zeros(())}

    def forward(self, point: Any, trials: Any, state: Any, rng: Any) -> Any:
        speed = [0.9 * s - 0.1 * g for s, g in zip(state["speed"], trials[0].grads, strict=True)]
        return speed, {"speed": speed, "lengths": [*state["lengths"], speed[0].norm()], "count": state["count"] + 1}


def test_the_state_of_a_users_strategy_is_checked_for_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    p = nn.Parameter(torch.ones(3, 2))
    optimizer = recopt.Optimizer([p], [Heavy()])
    for _ in range(3):
        p.grad = torch.ones(3, 2)
        optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(copy.deepcopy(saved))
    assert optimizer.state[p]["speed"].shape == (3, 2)
    for wrong in (torch.ones(2), torch.ones(1), torch.ones(3, 2, 1), torch.ones(3, 2).to_sparse()):
        assert "'speed' is missing or of another shape" in refusal(
            optimizer, changed(saved, ("state", 0, "speed"), wrong)
        )
    assert "damaged" in refusal(optimizer, changed(saved, ("state", 0, "speed"), KeyError))
    monkeypatch.setattr(Heavy, "init", lambda self, point: {"speed": [p.new_zeros(2) for p in point]})
    assert "the state of 'heavy' on level 1" in refusal(optimizer, copy.deepcopy(saved))


FUZZED = ["adam/sgd[*]", None, "sgd(momentum=0.9)/adam(beta1=0.8)/rmsprop", "lstm/adam", "learned", "adam/annealing"]


def mutated(rng: random.Random, state: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, Any]:
    """``state`` with one place in it, or in its text, made another thing; or another stack's in part."""
    state = copy.deepcopy(state)
    first = state["param_groups"][0]
    if rng.random() < 0.1:
        other = copy.deepcopy(rng.choice(others))
        return rng.choice([other, {**state, "state": other["state"]}, {**state, "param_groups": other["param_groups"]}])
    whole = {**state, "text": json.loads(first["recopt"].partition(" ")[2])}
    path = rng.choice(places(whole))
    here: Any = whole
    for key in path:
        here = here[key]
    wrong = [KeyError, None, "word", -7, 1e400, [], {}, True]
    if isinstance(here, Tensor):
        tensor = here.double() if here.is_floating_point() else here
        wrong += [torch.ones(7), here[..., None], tensor * float("nan"), here.reshape(-1)[:-1], 0.5]
    if isinstance(here, int | float):
        wrong += [-here, float("nan"), float("inf"), str(here)]
    whole = changed(whole, path, rng.choice(wrong))
    text = whole.pop("text", None)
    if path[0] == "text" and text is not None:
        first["recopt"] = f"{first['recopt'].partition(' ')[0]} {json.dumps(text, default=str)}"
        return state
    return whole


@pytest.mark.parametrize("stack", FUZZED)
def test_a_hundred_mutations_are_taken_or_refused_in_a_sentence_that_changes_nothing(stack: str | None) -> None:
    def made(of: str | None, fused: bool = True) -> tuple[nn.Module, recopt.Optimizer]:
        model = model_of()
        optimizer = recopt.Optimizer(model.named_parameters(), of, average=True, fused=fused)
        for _ in range(3):
            work(model, optimizer)
        return model, optimizer

    def work(model: nn.Module, optimizer: recopt.Optimizer) -> None:
        optimizer.zero_grad()
        x, y = next(batches())
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step(loss=loss)

    def told() -> bytes:
        torch.save((optimizer.state_dict(), optimizer.hyperparameters(), optimizer._steps), file := io.BytesIO())
        return file.getvalue()

    model, optimizer = made(stack)
    others = [made(of)[1].state_dict() for of in FUZZED if of != stack] + [made("adam", fused=False)[1].state_dict()]
    rng, refused = random.Random(stack), 0
    saved = copy.deepcopy(optimizer.state_dict())
    before = told()
    for _ in range(100):
        state = mutated(rng, saved, others)
        why = refusal(optimizer, state)
        if why:
            refused += 1
            assert why[0].isupper() and why.endswith(".") and len(why) < 300 and "\n" not in why, why
            assert told() == before
        else:
            with warnings.catch_warnings(), contextlib.suppress(RecoptError):
                warnings.simplefilter("ignore")
                work(model, optimizer)
            assert refusal(optimizer, copy.deepcopy(saved)) == ""
            before = told()
    assert refused > 50


def test_a_group_that_joins_a_shared_tower_is_saved_and_copied_with_it() -> None:
    a, b = (nn.Parameter(torch.full((3,), 2.0, dtype=torch.float64)) for _ in range(2))

    def step(optimizer: recopt.Optimizer, *tensors: nn.Parameter) -> None:
        for _ in range(4):
            optimizer.zero_grad()
            torch.stack([((t - 1) ** 2).sum() for t in tensors]).sum().backward()
            optimizer.step()

    for fused in (True, False):
        optimizer = recopt.Optimizer([a], "adam/sgd", scope="global", fused=fused, every=3)
        step(optimizer, a)
        optimizer.add_param_group({"params": [b]})
        step(optimizer, a, b)
        (c, d), other = copy.deepcopy(((a, b), optimizer))
        step(optimizer, a, b)
        step(other, c, d)
        assert torch.equal(a, c) and torch.equal(b, d)
        assert other.hyperparameters() == optimizer.hyperparameters()
        assert len(other.describe()) == 1


def test_there_is_a_word_for_closed_forms_that_differ() -> None:
    model = model_of()
    optimizer, taped = (recopt.Optimizer(model.parameters(), "adam/sgd", fused=fused) for fused in (True, False))
    for one, other, fused in ((optimizer, taped, True), (taped, optimizer, False)):
        train(model, one, 2)
        with pytest.raises(RecoptError, match=f"saved with fused={fused}"):
            other.load_state_dict(one.state_dict())
    alone = [recopt.Optimizer(model.parameters(), "prodigy", fused=fused) for fused in (True, False)]
    alone[0].load_state_dict(alone[1].state_dict())
