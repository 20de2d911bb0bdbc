"""The conformance battery: every shipped strategy passes, and each way of being wrong is caught by its own rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Generator, Tensor, nn

from recopt import Params, State, Strategy, Trial, option, positive
from recopt.plugins import list_strategies, load_strategy, source_of
from recopt.testing import BASIC, RULES, Finding, assert_conforms, check, form

STRATEGIES = [info.name for info in list_strategies() if info.origin == "shipped"]


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


# Strategies that are right, as a ground for those that are not


class Good(Strategy):
    """Momentum, done right."""

    lr = positive(0.1)
    beta = positive(0.5)

    def init(self, point: Params) -> State:
        return {"steps": 0, "memory": [torch.zeros_like(p) for p in point]}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        memory = [self.beta * m + g for m, g in zip(state["memory"], self.read(trials), strict=True)]
        return [-self.lr * m for m in memory], {"steps": state["steps"] + 1, "memory": memory}

    def read(self, trials: Sequence[Trial]) -> Params:
        assert trials[0].grads is not None
        return trials[0].grads


class GoodSearch(Strategy):
    """The better of two points, done right."""

    order = 0
    vectorize = False
    step = positive(0.3)

    @torch.no_grad()
    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        noise = [torch.randn(p.shape, generator=rng, dtype=torch.float64).to(p) for p in point]
        return [point, [p + self.step * n for p, n in zip(point, noise, strict=True)]]

    @torch.no_grad()
    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        moves = [q - p for p, q in zip(point, trials[1].point, strict=True)]
        return [torch.where(self.better(trials), m, torch.zeros_like(m)) for m in moves], state

    def better(self, trials: Sequence[Trial]) -> Tensor:
        assert trials[0].loss is not None
        assert trials[1].loss is not None
        return trials[1].loss.isfinite() & ~(trials[1].loss >= trials[0].loss)


@pytest.mark.parametrize("good", [Good, GoodSearch])
def test_what_is_right_has_no_findings(good: type[Strategy]) -> None:
    assert check(good) == []
    assert_conforms(good)


# Wrong in one way each. The key is the rule that must find it, and no other may.

BROKEN: dict[str, list[Callable[[], Any]]] = {}


def broken(rule: str) -> Callable[[Any], Any]:
    def keep(wrong: Any) -> Any:
        BROKEN.setdefault(rule, []).append(wrong)
        return wrong

    return keep


@broken("settings")
class NeedsAnArgument(Good):
    """Cannot be made without an argument."""

    def __init__(self, size: int, **settings: Any) -> None:
        super().__init__(**settings)


@broken("settings")
class DefaultOutsideItsDomain(Good):
    """A rate of 0."""

    lr = positive(0.0)


@broken("settings")
class DefaultIsNoChoice(Good):
    """A default that could not be given."""

    kind = option("green", choices=("red", "blue"))


broken("settings")(nn.Identity)


@broken("documented")
class Undocumented(Good):
    pass


@broken("signature")
class WithoutGenerator(Good):
    """Leaves rng out."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State) -> Any:  # type: ignore[override]
        return super().forward(point, trials, state, Generator())


@broken("order")
class SaysItReadsGradients(Good):
    """Says 1, reads none."""

    def read(self, trials: Sequence[Trial]) -> Params:
        return [p.detach() for p in trials[0].point]


@broken("order")
class SaysItReadsNone(Good):
    """Says 0, reads them."""

    order = 0


@broken("order")
class ReadsThemIfThere(GoodSearch):
    """Says 0, reads them where it can."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, state = super().forward(point, trials, state, rng)
        return (delta if trials[0].grads is None else [-g for g in trials[0].grads]), state


@broken("order")
class OrderTwo(Good):
    """There is no such order."""

    order = 2  # type: ignore[assignment]


@broken("runs")
class Unfinished(Strategy):
    """Has no forward."""

    lr = positive(0.1)


@broken("runs")
class ForgetsTheState(Good):
    """Gives only deltas."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> Any:
        return super().forward(point, trials, state, rng)[0]


@broken("runs")
class DividesByZero(Good):
    """Divides by the number of steps so far."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return [d / torch.tensor(float(state["steps"])) for d in delta], after


@broken("shapes")
class OnlyMatrices(Good):
    """Takes no tensor without a dimension."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return [d * torch.ones(d.shape[-1], dtype=d.dtype, device=d.device) for d in delta], after


@broken("shapes")
class AlwaysDouble(Good):
    """Answers in float64."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return [d.double() for d in delta], after


@broken("shapes")
class StandardDeviation(Good):
    """Divides by a spread that one number has not."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        eps = 0.1
        return [d / (d.std() + eps) if d.numel() else d for d in delta], after


@broken("empty")
class MeanOfNothing(Good):
    """Divides by a mean that nothing has not."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return [d + 0.01 * torch.stack([(p * p).mean() for p in point]).sum() for d in delta], after


@broken("purity")
class ChangesTheGradient(Good):
    """Clips in the list that it was given."""

    def read(self, trials: Sequence[Trial]) -> Params:
        grads = super().read(trials)
        grads[0] = grads[0].clamp(-1, 1)
        return grads


@broken("purity")
class ChangesTheState(Good):
    """Counts in the state it was given."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        answer = super().forward(point, trials, state, rng)
        state["steps"] += 1
        return answer


@broken("purity")
class RemembersInItself(Good):
    """Keeps the last delta on self."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        self.last = len(delta) + state["steps"]
        return delta, after


@broken("repeatable")
class DrawsAnywhere(GoodSearch):
    """Draws from torch's own generator."""

    @torch.no_grad()
    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        return [point, [p + self.step * torch.randn_like(p) for p in point]]


CALLS = [0]


@broken("repeatable")
class CountsElsewhere(GoodSearch):
    """Remembers outside."""

    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        CALLS[0] += 1
        return [[p + 1e-15 * CALLS[0] for p in q] for q in super().propose(point, state, rng)]


@broken("fresh_state")
class StateFromTheRate(Good):
    """Keeps the rate that it was made with."""

    def init(self, point: Params) -> State:
        return {**super().init(point), "first_rate": self.lr.detach().clone()}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return delta, {**after, "first_rate": state["first_rate"]}


@broken("plain_state")
class TupleInTheState(Good):
    """Keeps a pair."""

    def init(self, point: Params) -> State:
        return {**super().init(point), "pair": (1, 2)}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return delta, {**after, "pair": state["pair"]}


ELSEWHERE: dict[int, Any] = {}


@broken("plain_state")
class FindsItsMemoryByIdentity(Good):
    """Keeps a part of what it remembers outside, under the identity of another part."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        count = ELSEWHERE.get(id(state["memory"]), (0, None))[0] + 1
        ELSEWHERE[id(after["memory"])] = (count, after["memory"])
        return [d / count for d in delta], after


@broken("steady_state")
class GrowsForEver(Good):
    """Keeps every loss."""

    def init(self, point: Params) -> State:
        return {**super().init(point), "all": []}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return delta, {**after, "all": [*state["all"], trials[0].loss]}


@broken("lost_trials")
class TakesMinusInfinity(GoodSearch):
    """Believes any low loss."""

    def better(self, trials: Sequence[Trial]) -> Tensor:
        assert trials[0].loss is not None
        assert trials[1].loss is not None
        return trials[1].loss < trials[0].loss


@broken("lost_trials")
class TakesNan(GoodSearch):
    """Takes what is not known to be worse."""

    def better(self, trials: Sequence[Trial]) -> Tensor:
        assert trials[0].loss is not None
        assert trials[1].loss is not None
        return ~(trials[1].loss >= trials[0].loss)


@broken("lost_trials")
class NeverForgetsNan(GoodSearch):
    """Averages losses, whatever they are."""

    def init(self, point: Params) -> State:
        return {"mean": point[0].new_zeros(())}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, _ = super().forward(point, trials, state, rng)
        return delta, {"mean": 0.9 * state["mean"] + 0.1 * trials[1].loss}


@broken("zero_gradients")
class RootOfASquare(Good):
    """Takes a root whose slope at 0 is infinite."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return [d / ((m * m).sqrt() + 1) for d, m in zip(delta, after["memory"], strict=True)], after


@broken("zero_gradients")
class UnitLength(Good):
    """Divides by the gradient's length."""

    def read(self, trials: Sequence[Trial]) -> Params:
        return [g / (g * g).sum().sqrt() if g.numel() else g for g in super().read(trials)]


@broken("derivatives")
class DetachesTheRate(Good):
    """Loses the graph of one hyperparameter."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return [d - self.lr.detach() * p for d, p in zip(delta, point, strict=True)], after


@broken("derivatives")
class DetachesTheGradient(Good):
    """Loses the second derivatives that an exact unroll needs."""

    def read(self, trials: Sequence[Trial]) -> Params:
        return [g.detach() for g in super().read(trials)]


@broken("derivatives")
class DetachesAll(Good):
    """Carries no graph."""

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        with torch.no_grad():
            return super().forward(point, trials, state, rng)


@broken("patched")
class KeepsAReference(Good):
    """Reads a parameter by a reference of its own."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.table = [self._parameters["lr"]]

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        rate = self.table[0]
        assert rate is not None
        delta, after = super().forward(point, trials, state, rng)
        return [d + rate.to(g) * g * 0.01 for d, g in zip(delta, self.read(trials), strict=True)], after


@broken("many_tasks")
class BranchesOnValues(Good):
    """Looks at a number."""

    def read(self, trials: Sequence[Trial]) -> Params:
        return [g if float(g.detach().abs().sum()) > 1e9 else g * 1.5 for g in super().read(trials)]


@broken("many_tasks")
class FloatOfItsOwn(Good):
    """Keeps a number in the state that differs between tasks, as if it were one of the clock."""

    def init(self, point: Params) -> State:
        return {**super().init(point), "first": [float(p.sum()) for p in point]}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return [d * (1 + s * s) for d, s in zip(delta, state["first"], strict=True)], {**after, "first": state["first"]}


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
    assert set(RULES) > BASIC


def test_a_refusal_lists_every_finding() -> None:
    class Two(Undocumented):
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
        ("from recopt.engine import Engine", "imports recopt.engine.Engine"),
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
    source += "from recopt import Strategy, positive\nfrom recopt.draws import normal\n"
    assert check(Good, source=source) == []


def test_the_battery_leaves_torchs_generator_alone() -> None:
    before = torch.get_rng_state()
    check(load_strategy("lstm"))
    check(DrawsAnywhere)
    assert torch.equal(torch.get_rng_state(), before)


def test_annotations_of_class_settings_are_what_the_contract_says() -> None:
    class Annotated(Good):
        """Says how it is best moved."""

        level: ClassVar[Mapping[str, Any]] = {"normalize": "cosine"}

    assert check(Annotated) == []
