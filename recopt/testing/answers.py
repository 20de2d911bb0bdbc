"""Checks of a strategy's answers: shapes, purity, states, and failed trials."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..contracts import trees
from ..contracts.strategy import Params, State, Strategy, Trial
from . import probe
from .probe import PLAIN, STEPS, Broken, Make

ODD_SHAPES: tuple[probe.Shape, ...] = ((), (1,), (5,), (2, 3), (2, 1, 3, 2))


def shapes(make: Make) -> None:
    """Each delta and proposal has the shape, dtype and device of its tensor, whatever they are."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        for dtype in (torch.float32, torch.float64):
            strategy = make().to(device, dtype)
            for chosen in ([shape] for shape in ODD_SHAPES):
                _shaped(strategy, probe.some(chosen, 1, dtype, device), f"a {dtype} tensor of shape {chosen[0]}")
            _shaped(strategy, probe.some(ODD_SHAPES, 1, dtype, device), f"{dtype} tensors of several shapes")


def empty(make: Make) -> None:
    """A tensor without elements is accepted, and the others stay finite."""
    _shaped(make().double(), probe.some([(3,), (0,), (2, 0)], 1), "a tensor without elements")


def _shaped(strategy: Strategy, point: Params, what: str) -> None:
    state, rng = strategy.init(point), probe.generator()
    for step in range(2):
        try:
            points = strategy.propose(point, state, rng)
            delta, state = strategy(point, [probe.scored(strategy.order, p, step) for p in points], state, rng)
        except Exception as why:
            raise Broken(f"it fails on {what} ({type(why).__name__}: {why}): take tensors of any shape.") from why
        for name, items in [("delta", delta), *(("proposal", p) for p in points)]:
            if probe.layout(items) != probe.layout(point):
                raise Broken(
                    f"for {what} a {name} is {probe.layout(items)}, not {probe.layout(point)}: keep each tensor's "
                    "shape, dtype and device."
                )
            if not probe.finite(items):
                raise Broken(f"for {what} a {name} is not finite: look for a division by 0 or an empty mean.")
        point = [p + d.detach() for p, d in zip(point, delta, strict=True)]


def eval_points(make: Make) -> None:
    """``eval_point`` gives finite tensors laid out as the point, at the first and later states, and changes nothing."""
    for dtype in (torch.float32, torch.float64):
        strategy, point = make().to("cpu", dtype), probe.some(PLAIN, 1, dtype)
        state = strategy.init(point)
        for step in range(2):
            found = _unchanged("eval_point", strategy.eval_point, point, state)
            if probe.layout(found) != probe.layout(point) or not probe.finite(found):
                raise Broken(
                    f"eval_point gives {probe.layout(found)} for {probe.layout(point)}, or is not finite: give "
                    "one finite tensor for each of the point's, of its shape and dtype."
                )
            with probe.seeded():
                delta, state = probe.ask(strategy, point, state, probe.generator(), step)
            point = [p + d.detach() for p, d in zip(point, delta, strict=True)]


def purity(make: Make) -> None:
    """No call changes its arguments or the strategy itself."""
    strategy = make().double()
    point = probe.some(PLAIN, 1)
    before = probe.contents(strategy)
    _unchanged("init", strategy.init, point)
    state = strategy.init(point)
    for step in range(STEPS):
        rng = probe.generator(step)
        points = _unchanged("propose", lambda p, s, r=rng: strategy.propose(p, s, r), point, state)
        trials = [probe.scored(strategy.order, p, step) for p in points]
        delta, state = _unchanged("forward", lambda p, t, s, r=rng: strategy(p, t, s, r), point, trials, state)
        point = [p + d.detach() for p, d in zip(point, delta, strict=True)]
        after = probe.contents(strategy)
        changed = [name for name in {*before, *after} if not probe.same(before.get(name), after.get(name))]
        if changed:
            raise Broken(f"it changes itself in {min(changed)}: keep all memory in the state.")


def _unchanged(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
    copies = trees.tree_map(lambda t: t.detach().clone(), arguments)
    with torch.no_grad():  # with autograd, some in-place changes raise a less clear error
        answer = call(*arguments)
    if not probe.same(copies, arguments):
        raise Broken(f"{name} changes its arguments: compute new tensors and new containers instead.")
    return answer


def repeatable(make: Make) -> None:
    """The same call with the same generator gives the same answer, and torch's own generator is left alone."""
    strategy, point = make().double(), probe.some(PLAIN, 1)
    ends = []
    for seed in (1, 2):
        with probe.seeded(seed):
            before = torch.get_rng_state()
            state, at, rng = strategy.init(point), point, probe.generator()
            for step in range(STEPS):
                delta, state = probe.ask(strategy, at, state, rng, step)
                at = [p + d.detach() for p, d in zip(at, delta, strict=True)]
            touched = not torch.equal(before, torch.get_rng_state())
        ends.append((at, state))
    if touched:
        raise Broken("it draws from torch's global generator: pass generator=rng wherever it draws.")
    if not probe.same(*ends):
        raise Broken("the same call gives another answer the second time: draw from rng, keep memory in the state.")


def fresh_state(make: Make) -> None:
    """The first state is independent of the strategy's parameters, which a level above may move."""
    strategy, point = make().double(), probe.some(PLAIN, 1)
    first = strategy.init(point)
    if any(t.requires_grad for t in trees.tensors(first)):
        raise Broken("init's state carries a graph: read the parameters in forward, where they are the current ones.")
    with torch.no_grad():
        for p in strategy.parameters():
            p.add_(0.1)
    if not probe.same(first, strategy.init(point)):
        raise Broken("init's state depends on the parameters: read them in forward, where they are the current ones.")


def plain_state(make: Make) -> None:
    """States are dicts and lists of tensors and numbers, and saving and loading them changes nothing."""
    strategy, point = make().double(), probe.some(PLAIN, 1)
    at, states = probe.walk(strategy, point, 2)
    for state in states:
        _plain(state, "state")
    ends = []
    for state in (states[-1], _written_and_read(states[-1])):
        with probe.seeded():
            ends.append(probe.ask(strategy, at, state, probe.generator(), 2))
    if not probe.close(*ends):
        raise Broken("it goes on differently after its state was saved and loaded: keep all memory in the state.")


def _plain(value: Any, place: str) -> None:
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        for key, item in value.items():
            _plain(item, f"{place}[{key!r}]")
    elif type(value) is list:
        for n, item in enumerate(value):
            _plain(item, f"{place}[{n}]")
    elif not isinstance(value, Tensor | int | float):
        raise Broken(
            f"{place} is a {type(value).__name__}: keep only dicts (with words as keys), lists, tensors, numbers."
        )


def _written_and_read(state: State) -> State:
    kept = {str(n): t.detach().clone().contiguous() for n, t in enumerate(trees.tensors(state))}
    read = safetensors.torch.load(safetensors.torch.save(kept))
    rest = json.loads(json.dumps(trees.tree_map(lambda _: None, state)))
    joined: State = _joined(rest, iter([read[str(n)] for n in range(len(kept))]))
    return joined


def _joined(rest: Any, found: Any) -> Any:
    if isinstance(rest, dict):
        return {key: _joined(value, found) for key, value in rest.items()}
    if isinstance(rest, list):
        return [_joined(value, found) for value in rest]
    return next(found) if rest is None else rest


def steady_state(make: Make) -> None:
    """The state keeps its keys, lengths, shapes and dtypes from the first step on, so that tasks can be stacked."""
    _, states = probe.walk(make().double(), probe.some(PLAIN, 1), STEPS)
    for n, state in enumerate(states[1:], 1):
        if probe.layout(state) != probe.layout(states[0]):
            raise Broken(
                f"the state is {probe.layout(states[0])} at first, and {probe.layout(state)} after step {n}: "
                "let init give every entry with its final shape and dtype."
            )


def lost_trials(make: Make) -> None:
    """Zero-order only: a loss that is not finite does no lasting harm, and its point is never accepted."""
    strategy, point = make().double(), probe.some(PLAIN, 1)
    if strategy.order == 1:
        return
    for bad in (torch.nan, torch.inf, -torch.inf):
        for spared in (0, None):
            state, rng = strategy.init(point), probe.generator()
            for step in range(STEPS):
                points = strategy.propose(point, state, rng)
                trials = [probe.scored(0, p, step) for p in points]
                lost = [t if n == spared else t._replace(loss=torch.tensor(bad)) for n, t in enumerate(trials)]
                delta, state = strategy(point, lost, state, rng)
                _not_lost(point, delta, lost, bad)
            delta, state = probe.ask(strategy, point, state, rng, STEPS)
            if not probe.finite([*delta, *trees.tensors(state)]):
                raise Broken(
                    f"after losses of {bad} its deltas are never finite again: keep such losses out of the state."
                )


def _not_lost(point: Params, delta: Params, trials: list[Trial], bad: float) -> None:
    if not probe.finite(delta):
        raise Broken(f"a loss of {bad} makes its deltas not finite: leave such a trial out.")
    reached = [p + d for p, d in zip(point, delta, strict=True)]
    for trial in trials:
        gone = trial.loss is not None and not trial.loss.isfinite() and not probe.close(trial.point, point)
        if gone and probe.close(reached, trial.point):
            raise Broken(f"it moves to a point whose loss is {bad}: accept finite losses only.")
