"""Graphs: what is left open is filled in, what cannot work is refused with the place and the remedy."""

from __future__ import annotations

from typing import Any

import pytest

from recopt.checking.errors import RecoptError
from recopt.contracts.strategy import Strategy
from recopt.levels.graph import Graph
from recopt.levels.level import Level
from recopt.stacks.plugins import load_strategy

from .. import engines

NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]


def make(*levels: dict[str, Any], **slots: str) -> Graph:
    made: dict[str, Strategy] = {slot: load_strategy(name)() for slot, name in slots.items()}
    return Graph([Level(**level) for level in levels], made, NAMES)


L1 = {"moves": "task", "by": "a"}
L2 = {"moves": "a", "by": "b"}
AB = {"a": "adam", "b": "sgd"}
REFUSED: dict[str, tuple[list[dict[str, Any]], dict[str, str], str]] = {
    "no level": ([], {}, "no level.*at least one"),
    "a slot called task": ([{"moves": "task", "by": "task"}], {"task": "adam"}, "cannot be called 'task'.*label"),
    "unknown by": ([{"moves": "task", "by": "adm"}], {"adam": "adam"}, "slot 'adm' in level1.by.*'adam'"),
    "unknown moves": ([{"moves": "tsk", "by": "adam"}], {"adam": "adam"}, "slot 'tsk' in level1.moves.*'task'"),
    "an idle strategy": ([L1], AB, "'b' moves nothing.*leave it out"),
    "from above": ([L2, L1], AB, "Level 1 .*first level must move the task"),
    "nothing scores it": (
        [L1, {"moves": "b", "by": "c"}, {"moves": "c", "by": "b"}], {**AB, "c": "sgd"}, "Level 2 .*nothing scores it"),
    "a pattern for nothing": ([{**L1, "only": "x*"}], {"a": "adam"}, r"Level 1 .*\[x\*\] matches no.*0.weight"),
    "a pattern for no hyperparameter": ([L1, {**L2, "only": "lrr"}], AB, r"Level 2 .*\[lrr\] matches no parameter of"),
    "moved twice": ([L1, {"moves": "task", "by": "b"}], AB, "Level 2 .*level 1 .*moves '0.weight' too.*disjoint"),
    "overlapping patterns": (
        [{**L1, "only": "0.*"}, {"moves": "task", "by": "b", "only": "*bias"}], AB, "'0.bias' too.*disjoint"),
    "a hypergradient of the task": ([{**L1, "gradient": "unroll"}], {"a": "adam"}, "gradient=direct, not unroll"),
    "a gradient for zero order": ([{**L1, "gradient": "direct"}], {"a": "annealing"}, "gradient=value, not direct"),
    "every at level 1": ([{**L1, "every": 2}], {"a": "adam"}, "every evaluation: drop 'every'"),
    "episode at level 1": ([{**L1, "episode": 2}], {"a": "adam"}, "'episode'.*none below"),
    "cosine at level 1": ([{**L1, "normalize": "cosine"}], {"a": "adam"}, "above level 1"),
    "objective at level 1": ([{**L1, "objective": "last"}], {"a": "adam"}, "on the level above"),
    "held-out at level 1": ([{**L1, "on": "valid"}], {"a": "adam"}, "on the level above"),
    "autograd over zero order": ([L1, L2], {"a": "annealing", "b": "sgd"}, "through level 1.*annealing"),
    "autograd by zero order": (
        [L1, {**L2, "gradient": "unroll"}], {"a": "adam", "b": "annealing"}, "zero-order.*gradient=value"),
    "values by first order": ([L1, {**L2, "gradient": "value"}], AB, "reads gradients.*zero-order strategy here"),
    "steps_to by gradient": ([L1, {**L2, "objective": "steps_to: 1"}], AB, "steps_to has no gradient.*zero-order"),
    "online in windows": ([L1, {**L2, "gradient": "online", "every": 2}], AB, "length 1.*gradient=unroll"),
    "online, second order": ([L1, {**L2, "gradient": "online", "second_order": True}], AB, "gradient=unroll"),
    "episodes of broken windows": ([L1, {**L2, "every": 4, "episode": 10}], AB, "whole windows of 4: use 8"),
    "held-out above level 2": (
        [L1, L2, {"moves": "b", "by": "c", "on": "valid"}], {**AB, "c": "sgd"}, "Level 3 .*over level 1"),
    "second order over dropped": (
        [L1, {**L2, "gradient": "unroll"}, {"moves": "b", "by": "c", "gradient": "unroll", "second_order": True}],
        {**AB, "c": "sgd"}, "level2.second_order=true or level3.second_order=false"),
    "normalize by zero order": ([{**L1, "normalize": "rms"}], {"a": "annealing"}, "no signal.*drop normalize=rms"),
    "a population of one": (
        [L1, {**L2, "population": 1}], {"a": "adam", "b": "evolution"}, "population must be at least 2, not 1"),
    "a population that cannot be": (
        [L1, {**L2, "population": 4}], {"a": "adam", "b": "annealing"}, "Level 2 .*'b' .*drop 'population'"),
    "a population of gradients": ([L1, {**L2, "population": 4}], AB, "Level 2 .*'b' .*drop 'population'"),
    "two populations": (
        [L1, {**L2, "only": "lr", "population": 4}, {**L2, "only": "beta*", "population": 6}],
        {"a": "adam", "b": "evolution"}, "Level 3 .*population is 6, but 'b' was given 4: say it once"),
    "a curriculum of nothing": ([L1, {**L2, "curriculum": 5}], AB, "'curriculum' is how fast .* set 'episode' too"),
    "a curriculum of the task": ([{**L1, "curriculum": 5}], {"a": "adam"}, "none below the task"),
    "two curricula": (
        [L1, {**L2, "only": "lr", "episode": 4, "curriculum": 3},
         {"moves": "a", "by": "c", "only": "beta*", "episode": 4}],
        {**AB, "c": "sgd"}, "level 2 .*ends episodes of 'task' with curriculum=3: use the same"),
    "a curriculum in two kinds of windows": (
        [L1, {**L2, "gradient": "unroll", "only": "lr", "every": 2, "episode": 4, "curriculum": 3},
         {"moves": "a", "by": "c", "only": "beta*", "episode": 4, "curriculum": 3}],
        {**AB, "c": "sgd"}, "level 2 .*ends episodes of 'task' with every=2: use the same"),
    "staggered without episodes": ([L1, {**L2, "stagger": True}], AB, "'stagger' is for episodes.* set 'episode' too"),
    "staggered over a strategy": (
        [L1, {**L2, "gradient": "unroll"}, {"moves": "b", "by": "c", "episode": 4, "stagger": True}],
        {**AB, "c": "sgd"}, "'stagger' is for tasks side by side: set it on the level over level 1"),
    "staggered under another window": (
        [L1, {**L2, "gradient": "unroll", "only": "lr", "every": 2, "episode": 4, "stagger": True},
         {"moves": "a", "by": "c", "only": "beta*", "every": 3}],
        {**AB, "c": "sgd"}, "level 3 .*has windows of 3: give both the same 'every'"),
    "two lengths of episodes": (
        [L1, {**L2, "only": "lr", "episode": 4}, {"moves": "a", "by": "c", "only": "beta*", "episode": 6}],
        {**AB, "c": "sgd"}, "level 2 .*ends episodes of 'task' after 4.*same length"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    levels, slots, words = REFUSED[name]
    with pytest.raises(RecoptError, match=words) as why:
        make(*levels, **slots)
    assert str(why.value).endswith((".", "?"))


def test_what_is_left_open() -> None:
    online = engines.graph("adam/sgd").levels[1]
    assert (online.gradient, online.every, online.normalize, online.trust) == ("online", 1, "rms_all", None)
    learned = engines.graph("lstm/adam").levels[1]
    assert (learned.gradient, learned.every, learned.episode, learned.second_order) == ("unroll", 20, 100, False)
    search = engines.graph("adam/hypergradient/annealing").levels[2]
    assert (search.gradient, search.normalize) == ("value", "none")
    assert search.every and search.every >= 50
    assert engines.graph("adam/sgd@k/sgd@k").levels[2].trust == 0.01
    circle = engines.graph("adam@a/sgd@b/rmsprop@c/adam@a").levels
    assert [level.trust for level in circle] == [None, None, None, 0.01]
    first = engines.graph("adam").levels[0]
    assert (first.gradient, first.every, first.normalize) == ("direct", 1, "none")


def natural(made: Graph, slot: str) -> float:
    strategy = made.slots[slot]
    return strategy.natural({"lr": dict(strategy.named_parameters())["lr"]})["lr"].item()


def test_a_rule_over_a_rate_moves_that_alone_by_a_step_of_a_logarithm() -> None:
    made = engines.graph("adam/sgd/adam@b/adagrad")
    assert [level.only for level in made.levels] == [(), ("lr",), ("lr",), ("lr",)]
    assert [natural(made, slot) for slot in ("adam", "sgd", "b", "adagrad")] == pytest.approx([0.001, 0.05, 0.01, 0.04])
    assert made.strides == {"sgd": {"lr": 0.05}, "b": {"lr": 0.01}, "adagrad": {"lr": 0.04}}
    again = Graph(made.levels, made.slots, labels=made.labels)
    assert (again.strides, again.labels) == ({}, made.labels)


def test_rules_within_a_switch_start_as_the_rule_alone_would_there() -> None:
    made = engines.graph("adam/switch(among=[sgd,adagrad(lr=0.3),adagrad])/annealing[which]")
    values = made.slots["switch"].natural(dict(made.slots["switch"].named_parameters()))
    assert [values[f"rules.{n}.lr"].item() for n in range(3)] == pytest.approx([0.05, 0.3, 1.0])
    again = Graph(made.levels, made.slots, labels=made.labels).slots["switch"]
    drawn = made.afresh("switch", 1, 2)
    for one in (again, drawn):
        assert [one.natural(dict(one.named_parameters()))[f"rules.{n}.lr"].item() for n in range(3)] == pytest.approx(
            [0.05, 0.3, 1.0]
        )
    assert made.strides == {}
    alone = engines.graph("switch(among=[sgd,adagrad])/annealing[which]").slots["switch"]
    assert alone.natural(dict(alone.named_parameters()))["rules.1.lr"].item() == pytest.approx(0.01)


STAYS = {
    "what was given": ("adam/sgd(lr=0.01)", {}, ("lr",), 0.01),
    "all hyperparameters": ("adam/sgd[*]", {}, ("*",), 0.01),
    "raw signals": ("adam/sgd", {2: {"normalize": "none"}}, (), 0.01),
    "exact hypergradients": ("adam/sgd", {2: {"second_order": True, "every": 3}}, (), 0.01),
    "learned weights": ("lstm/sgd", {}, (), 0.01),
    "a level of the task too": ("sgd/sgd@sgd", {}, ("lr",), 0.01),
}


@pytest.mark.parametrize("name", STAYS)
def test_where_a_step_stays_what_the_strategy_declares(name: str) -> None:
    stack, settings, only, rate = STAYS[name]
    made = engines.graph(stack, settings)
    assert made.levels[1].only == only
    assert made.strides == {}
    assert natural(made, "sgd") == pytest.approx(rate)


def test_a_search_moves_every_hyperparameter() -> None:
    assert engines.graph("adam/annealing").levels[1].only == ()


def test_an_episode_that_nobody_chose_holds_whole_windows() -> None:
    level = engines.graph("lstm/adam", {2: {"every": 30}}).levels[1]
    assert level.episode is not None and level.episode % 30 == 0


def test_structure() -> None:
    graph = engines.graph("adam[*weight]+sgd[*bias]/hypergradient/annealing")
    assert [graph.order(n) for n in range(5)] == [1, 1, 1, 1, 0]
    assert graph.subjects == [[], [], [0], [1], [2, 3]]
    assert graph.below(4) == {0, 1, 2, 3}
    assert graph.network().number_of_edges() == 5
    rest = make({**L1, "only": "*weight"}, {"moves": "task", "by": "b"}, **AB)
    assert rest.moved(1, NAMES) == [1, 3]


def test_weights_that_a_strategy_froze_are_not_moved() -> None:
    strategy = load_strategy("adam")()
    dict(strategy.named_parameters())["eps"].requires_grad_(False)
    levels = [Level(moves="task", by="adam"), Level(moves="adam", by="sgd", only=("*",))]
    made = Graph(levels, {"adam": strategy, "sgd": load_strategy("sgd")()})
    assert [made.names["adam"][i] for i in made.moved(1, made.names["adam"])] == ["lr", "beta1", "beta2"]


@pytest.mark.parametrize(
    ("attribute", "asked", "words"),
    [
        ("level", {"normalise": "rms"}, "'normalise'.*in asks.level.*'normalize'"),
        ("level", {"normalize": "foo"}, "asks.level: normalize='foo' will not do"),
        ("above", {"every": 0}, "asks.above: every=0 will not do"),
        ("above", 5, "asks.above must be a dict"),
    ],
)
def test_what_a_strategy_asks_of_levels_is_checked(attribute: str, asked: object, words: str) -> None:
    asks = type("Asks", (type(load_strategy("adam")()),), {attribute: asked})
    levels = [Level(moves="task", by="low"), Level(moves="low", by="up")]
    with pytest.raises(RecoptError, match=words):
        Graph(levels, {"low": asks(), "up": asks()}, NAMES)


def test_an_objective_may_be_written_as_yaml_reads_it() -> None:
    assert Level(moves="a", by="b", objective={"steps_to": 0.5}).objective == "steps_to: 0.5"  # type: ignore[arg-type]


def test_a_levels_population_is_its_strategys() -> None:
    for population, found in ((None, 8), (4, 4)):
        graph = make(L1, {**L2, "population": population}, a="adam", b="evolution")
        assert (graph.levels[1].population, graph.slots["b"].population) == (found, found)
        again = Graph(graph.levels, graph.slots, NAMES)
        assert again.levels == graph.levels
    assert "population=4" in graph.describe()
    assert make(L1, L2, a="adam", b="annealing").levels[1].population is None
