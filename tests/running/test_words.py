"""Broken words: whatever is written, it is planned or refused in one short sentence, and soon."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from recopt import RecoptError
from recopt.checking.errors import shown
from recopt.levels.plain_yaml import plain_yaml
from recopt.running.plan import Plan, replan
from recopt.running.spec import read_spec

ROOT = Path(__file__).parents[2]
WORK: list[int] = []


@pytest.fixture
def effort() -> Iterator[list[int]]:
    """The number of calls made so far, as the measure of work that a slow machine does not change."""
    count = [0]

    def called(*_: object) -> None:
        count[0] += 1

    sys.setprofile(called)
    yield count
    sys.setprofile(None)


def planned(stack: str, **more: object) -> Plan:
    return replan({}, task="quadratic(dim=2)", stack=stack, **more)  # type: ignore[arg-type]


def refusal(stack: str = "sgd", **more: object) -> str:
    with pytest.raises(RecoptError) as caught:
        planned(stack, **more)
    text = str(caught.value)
    assert len(text) < 300 and text[-1] in ".?" and len(text.splitlines()) == 1, text
    return text


def test_two_thousand_seeded_cases_are_good_or_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from fuzz import campaign  # type: ignore[import-not-found]

    counts, wrong = campaign(2_000, 1)
    assert not wrong
    assert counts["valid"] > 150 and counts["refused"] > 1_000


def test_towers_of_groups_and_repeated_strategies_cost_in_proportion(effort: list[int]) -> None:
    def cost(height: int) -> int:
        before = effort[0]
        layers = ["sgd[theta]", *(f"sgd@a{n}[lr]+adam@b{n}[eps]" for n in range(height))]
        with pytest.raises(RecoptError):
            planned("/".join([*layers, "sgd[nothing]"]))
        return effort[0] - before

    cost(2)  # what is imported on the way
    low, high = cost(6), cost(24)
    assert high < 16 * low


@pytest.mark.parametrize("space", [" ", "\t", "\n", "("])
def test_a_stack_of_blanks_is_refused_at_once(space: str) -> None:
    assert "should read like adam(lr=1e-3)" in refusal(f"adam{space * 100_000}!")


def test_a_stack_has_a_bounded_number_of_strategies_and_levels() -> None:
    for between in "/+":  # before the names of their slots are looked for, which takes minutes
        assert "has more than 1,000 strategies: give fewer." in refusal(between.join(["sgd"] * 20_000))
    assert "has more than 1,000 levels" in refusal("/".join(["+".join(["sgd"] * 40)] * 2))
    levels = [{"moves": "task", "by": "a"}] * 1001
    with pytest.raises(RecoptError, match="The graph has 1,001 levels, more than 1,000: give fewer."):
        replan({"task": "quadratic", "strategies": {"a": "sgd"}, "levels": levels})


def test_the_highest_tower_can_be_planned() -> None:
    assert planned("sgd", depth=1000).graph.slots["sgd1000"].lr.item() > 0  # type: ignore[operator]


def test_a_stack_longer_than_a_file_name_is_a_stack(here: Path) -> None:
    settings = ", ".join(["lr=0.1", "momentum=0.9", "weight_decay=0.1", "nesterov=true"])
    stack = f"sgd({settings}{' ' * 300})/adam"
    assert len(planned(stack).spec.levels) == 2
    assert "Unknown strategy 'xxx" in refusal("x" * 5000)
    assert "There is no file" in refusal("x" * 5000 + ".py")


@pytest.mark.parametrize(
    "value",
    ["!!timestamp x", "!!bool x", "2024-13-45", "0x_", ",", "]]]]", "\t", "9" * 400, "9" * 5000, "-" + "9" * 400,
     "[" * 5000, "[" + ",".join(["1"] * 2000) + "]", "&a [*a]", "!!python/object:os.system x", "1e400", "'", "x" * 3000,
     "\0", "{a: 1}"],
)  # fmt: skip
def test_a_value_that_is_none_is_refused_where_it_stands(value: str) -> None:
    assert "sgd.lr" in refusal(settings=[f"sgd.lr={value}"]) or "should read" in refusal(settings=[f"sgd.lr={value}"])
    assert "level2" in refusal("sgd/adam", settings=[f"level2.every={value}"])


@pytest.mark.parametrize("key", ["seed", "self", "domains", "dimm"])
def test_settings_that_are_none_of_a_task_or_strategy_are_refused_by_name(key: str) -> None:
    with pytest.raises(RecoptError, match=f"Unknown option '{key}' of quadratic"):
        replan({}, task=f"quadratic({key}=1)", stack="sgd")
    assert f"Unknown option '{key}' of sgd" in refusal(f"sgd({key}=1)")


def test_a_task_that_takes_no_options_says_which_it_knows(here: Path) -> None:
    head = "from recopt.tasks.quadratic import Quadratic\nclass Own(Quadratic):\n"
    Path("own.py").write_text(f"{head}    def __init__(self, seed=0, width=1):\n        super().__init__(seed=seed)\n")
    with pytest.raises(RecoptError, match="Unknown option 'widht' of own.py. Did you mean 'width'?"):
        replan({}, task="own.py(widht=3)", stack="sgd")


def test_levels_that_nothing_scores_are_refused_whatever_is_above_them() -> None:
    strategies = {"a": "sgd", "b": "sgd", "c": "annealing"}
    levels = [{"moves": "task", "by": "a"}, {"moves": "b", "by": "c"}, {"moves": "c", "by": "b"}]
    with pytest.raises(RecoptError, match="no lower level moves by 'b', so nothing scores it"):
        replan({"task": "quadratic", "strategies": strategies, "levels": levels})


def test_choosing_by_endless_runs_is_refused() -> None:
    assert "less than or equal to 1000000, not 1000000000" in refusal("lstm/adam", choose="steps=1e9")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a0: &a0 1\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)), "more than 100,000"),
        ("a: &a [*a]", "an anchor stands within itself"),
        ("a: " + "[" * 60 + "]" * 60, "nested too deeply"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: !!python/object:os.system x", "a tag like !!python/object:o"),
        ("a: !!timestamp 2020-01-01", "a tag like !!timestamp is not allowed"),
        ("a: " + "9" * 5000, "Exceeds the limit"),
    ],
    ids=["bomb", "circle", "deep", "deeper", "python", "date", "number"],
)  # fmt: skip
def test_a_spec_file_that_is_a_trap_is_refused(here: Path, text: str, says: str) -> None:
    Path("s.yaml").write_text(text)
    with pytest.raises(RecoptError, match=says) as caught:
        read_spec(Path("s.yaml"))
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_anchors_and_merges_that_stay_small_are_read_and_dates_are_text() -> None:
    text = "base: &b {steps: 3}\none: {<<: *b, seed: 1}\nday: 2024-01-01\n"
    assert plain_yaml(text) == {"base": {"steps": 3}, "one": {"steps": 3, "seed": 1}, "day": "2024-01-01"}
    with pytest.raises(yaml.YAMLError):
        plain_yaml("a: !!set {x}")


def test_what_is_shown_is_short_and_in_one_line() -> None:
    assert shown("a\nb\u2028\ud800") == "a\\nb\\u2028\\ud800"
    assert shown("x" * 500) == "x" * 60 + "…"
    assert len(shown([0.1] * 2000)) < 70 and len(shown({str(n): "y" * 99 for n in range(99)})) < 70
    assert shown(10**5000) == "a number of 16,610 bits"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("adamw", "Unknown strategy 'adamw' in 'adamw': adam is AdamW (its weight_decay is decoupled): write adam."),
        ("AdamW", "adam is AdamW"),
        ("Adam", "Unknown strategy 'Adam' in 'Adam'. Did you mean 'adam'?"),
        ("SGD", "Did you mean 'sgd'?"),
        ("lion", "Unknown strategy 'lion' in 'lion': adam is the nearest; 'recopt new strategy lion' begins one."),
        ("rmspropp", "Did you mean 'rmsprop'?"),
        ("momentum", "write sgd(momentum=0.9)."),
    ],
)
def test_rules_by_the_names_they_have_elsewhere(name: str, says: str) -> None:
    assert says in refusal(name)


def test_levels_of_grouped_stacks_are_named_where_a_number_is_wrong() -> None:
    said = refusal("sgd[theta]+adam[x]/sgd", settings=["level9.every=2"])
    assert (
        "There is no level9 in 'level9.every': the graph has level1 (sgd moves task), level2 (adam moves task)" in said
    )
