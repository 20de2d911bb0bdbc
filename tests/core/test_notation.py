"""The notation of stacks, there and back."""

from __future__ import annotations

import random

import pytest

from recopt.checking.errors import RecoptError
from recopt.contracts.strategy import Strategy
from recopt.levels.graph import Graph
from recopt.levels.level import Level
from recopt.levels.notation import levels_of, parse
from recopt.stacks.named import Named, strategies_of, written
from recopt.stacks.plugins import load_strategy


def graph(stack: str) -> Graph:
    layers = parse(stack)
    named: dict[str, Named] = strategies_of(layers)
    slots: dict[str, Strategy] = {k: load_strategy(n.name)(**n.settings) for k, n in named.items()}
    levels = levels_of(layers, {k: [n for n, _ in s.named_parameters()] for k, s in slots.items()})
    return Graph(levels, slots, labels={k: written(k, n) for k, n in named.items()})


def same(a: Graph, b: Graph) -> bool:
    return a.levels == b.levels and all(
        type(a.slots[k]) is type(b.slots[k]) and a.slots[k]._made_with == b.slots[k]._made_with
        for k in {*a.slots, *b.slots}
    )


STACKS = [
    "adam",
    "adam(lr=0.001)/sgd(lr=0.01)/annealing",
    "adam@a/sgd@b/sgd@b",
    "lstm@a/lstm@a",
    "lstm(hidden=4)/self",
    "adam@a(lr=0.1)/sgd@a2/self[*]",
    "adam[*weight] + sgd[*bias]/self[lr]",
    "annealing/self[step]",
    "sgd(momentum=0.9, nesterov=true)/hypergradient(kappa=0.05)",
    "adam[*weight] + sgd[*bias]/hypergradient",
    "adam@a(lr=0.1)[0.*] + adam@b[2.*]/sgd@k/sgd@t",
    "sgd@s[0.*] + sgd@s[2.*]/adam",
    "adam/sgd[lr] + annealing[beta*]/annealing@top",
]


@pytest.mark.parametrize("stack", STACKS)
def test_there_and_back(stack: str) -> None:
    made = graph(stack)
    assert same(graph(made.describe()), made)


def test_the_description_is_what_was_written() -> None:
    for stack in (STACKS[0], "adam(lr=0.001)/sgd(lr=0.01)[lr]/annealing", "adam/sgd[*]"):
        assert graph(stack).describe() == stack
    assert graph("adam/sgd@b/sgd@b").describe() == "adam/sgd@b(lr=0.05)[lr]/self[lr]"


def test_self_is_the_strategy_beneath_once_more() -> None:
    for one, other in (("lstm/self", "lstm@lstm/lstm@lstm"), ("adam/sgd/self[*]", "adam/sgd@sgd/sgd@sgd[*]")):
        assert same(graph(one), graph(other))
    assert [(x.moves, x.by) for x in graph("adam[*weight]+sgd[*bias]/self").levels[2:]] == [
        ("adam", "adam"),
        ("sgd", "sgd"),
    ]


@pytest.mark.parametrize("seed", range(60))
def test_random_stacks_there_and_back(seed: int) -> None:
    draw = random.Random(seed)
    layers, labels = [], 0
    for depth in range(draw.randint(1, 4)):
        terms = []
        for part in range(draw.choice([1, 1, 2]) if depth == 0 else 1):
            labels += 1
            name = draw.choice(["sgd", "adam", "rmsprop"])
            lr = draw.choice(["", f"(lr={draw.choice([0.1, 1e-05, 0.25])})"])
            label = draw.choice(["", f"@x{labels}"]) if depth or part == 0 else f"@x{labels}"
            terms.append(f"{name}{label}{lr}" + (("[*weight]", "[*bias]")[part] if depth == 0 else ""))
        layers.append(" + ".join(terms))
    stack = "/".join(layers)
    made = graph(stack)
    assert same(graph(made.describe()), made), (stack, made.describe())


def test_what_is_no_stack_is_written_as_arrows() -> None:
    slots: dict[str, Strategy] = {k: load_strategy("sgd")() for k in "abc"}
    levels = [
        Level(moves="task", by="a", only="0.*"), Level(moves="task", by="b", only="2.*"), Level(moves="a", by="c"),
    ]  # fmt: skip
    text = Graph(levels, slots).describe()
    assert "task" in text and "←" in text


@pytest.mark.parametrize(
    ("stack", "words"),
    [
        ("", "an empty place"),
        ("adam//sgd", r"an empty place.*level 2"),
        ("adam(lr)", "should read name=value"),
        ("adam(lr=0.1", "should read like"),
        ("ad am", "should read like"),
        ("adam@a/sgd@a", "'@a' names both adam and sgd"),
        ("sgd@a/sgd@a(lr=0.1)", "drop the later ones"),
        ("adam/sgd[xx]+sgd@b[lr]", None),
        ("self", "nothing beneath"),
        ("adam/self/sgd", "stands last and alone"),
        ("adam/self+sgd", "stands last and alone"),
        ("adam/self(lr=1)", "give that its label and settings"),
        ("sgd/loss:adam/self", "parameters of the task's loss, and only a strategy"),
        ("sgd/init:adam/self", "start of the task's episodes, and only a strategy"),
        ("dog/self", "'dog' has nothing to move: it declares no parameter"),
    ],
)
def test_refusals(stack: str, words: str | None) -> None:
    with pytest.raises(RecoptError, match=words or "matches no"):
        graph(stack)


def test_values() -> None:
    (term,) = parse("x(a=1e-3, b=2, c=true, d=[1, 2], e=word, f=-.5)")[0]
    assert term.settings == {"a": 1e-3, "b": 2, "c": True, "d": [1, 2], "e": "word", "f": -0.5}
