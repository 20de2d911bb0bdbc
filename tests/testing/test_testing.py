"""The conformance battery: every shipped strategy passes, and each way of being wrong is caught by its own rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Generator

from recopt import Params, State, Strategy, Trial
from recopt.stacks.plugin_file import source_of
from recopt.stacks.plugins import list_strategies, load_strategy
from recopt.testing import BASIC, RULES, Finding, assert_conforms, check, form

from ..faults import BROKEN, Good, GoodSearch, answers, texts, use
from ..faults import form as forms

FAULTS = (forms, answers, use, texts)
"""Importing them fills BROKEN."""
STRATEGIES = [info.name for info in list_strategies() if info.origin == "shipped" and info.name != "replay"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_shipped_strategy_has_every_property(name: str, rule: str) -> None:
    plugin = load_strategy(name)

    def make() -> Strategy:
        torch.manual_seed(0)
        return plugin()

    RULES[rule](plugin if rule == "settings" else make)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_shipped_file_imports_only_public_names(name: str) -> None:
    form.imports(source_of(load_strategy(name))[1])


@pytest.mark.parametrize("good", [Good, GoodSearch, texts.GoodRule])
def test_what_is_right_has_no_findings(good: type[Strategy]) -> None:
    assert check(good) == []
    assert_conforms(good)


CASES = [(rule, wrong) for rule, all_ in BROKEN.items() for wrong in all_]


@pytest.mark.parametrize(("rule", "wrong"), CASES, ids=lambda c: getattr(c, "__name__", c))
def test_each_fault_is_found_by_its_own_rule_alone(rule: str, wrong: Callable[[], Strategy]) -> None:
    found = check(wrong)
    assert [f.rule for f in found] == [rule], found
    message = found[0].message
    assert message[0].islower(), "it goes on after 'rule: '"
    assert message.endswith(".")
    assert "could not be tried" not in message


def test_every_rule_has_a_fault_that_it_finds() -> None:
    assert set(BROKEN) == set(RULES)
    assert {module.__name__.rpartition(".")[2] for module in FAULTS} == {"form", "answers", "use", "texts"}
    assert set(RULES) > BASIC


def test_a_refusal_lists_every_finding() -> None:
    class Two(forms.Undocumented):
        def init(self, point: Params) -> State:
            return {**super().init(point), "word": "x"}

    with pytest.raises(AssertionError, match=r"(?s)Two does not conform:\ndocumented: .*\n") as raised:
        assert_conforms(Two)
    assert "state['word'] is a str" in str(raised.value)


def test_a_rule_that_cannot_be_tried_is_a_finding() -> None:
    class Fails(Good):
        """Raises where gradients are 0."""

        def read(self, trials: Sequence[Trial]) -> Params:
            if any(g.requires_grad and not g.any() for g in super().read(trials)):
                raise KeyError("lost")
            return super().read(trials)

    class Stops(Good):
        """Raises at its third step."""

        def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> Any:
            return super().forward(point, trials, {**state, "memory": state["memory"][: 3 - state["steps"]]}, rng)

    assert check(Fails) == [Finding("zero_gradients", "this could not be tried, for it raised KeyError: 'lost'")]
    assert [f.rule for f in check(Stops)] == ["runs"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("import numpy as np", "imports numpy"),
        ("from recopt.engine.engine import Engine", "imports recopt.engine.engine.Engine"),
        ("from recopt import _private", "imports recopt._private"),
        ("from . import beside", "imports"),
        ("def f():\n    import higher", "line 2 imports higher"),
    ],
)
def test_other_imports_are_found(line: str, what: str) -> None:
    found = check(Good, source=line)
    assert [f.rule for f in found] == ["imports"]
    assert what in found[0].message


def test_public_imports_are_not() -> None:
    source = "from __future__ import annotations\nimport math\nimport torch.nn\nfrom torch import Tensor\n"
    source += "from recopt import Strategy, positive\nfrom recopt.toolkit.random import normal\n"
    assert check(Good, source=source) == []


def test_the_battery_leaves_torchs_generator_alone() -> None:
    before = torch.get_rng_state()
    check(load_strategy("lstm"))
    check(answers.DrawsAnywhere)
    assert torch.equal(torch.get_rng_state(), before)


def test_annotations_of_class_settings_are_what_the_contract_says() -> None:
    class Annotated(Good):
        """Says how it is best moved."""

        level: ClassVar[Mapping[str, Any]] = {"normalize": "cosine"}

    assert check(Annotated) == []
