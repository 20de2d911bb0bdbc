"""Domains: what a coordinate stands for, and what has no gradient."""

import pytest
import torch

import recopt
from recopt import Graph, Level, Params, RecoptError, Strategy, Trial, choice, integer, log_integer, positive
from recopt.levels.state import Numbers
from recopt.rules.numbers import NumberSpace
from recopt.testing import assert_conforms
from recopt.toolkit.discrete import Choice, Whole

from ..engines import Bowl, engine


class Patient(Strategy):
    """A step along the gradient or its sign, at every ``wait``-th gradient."""

    vectorize = False

    lr = positive(0.1, "length of a step")
    wait = integer(1, 1, 9, "gradients to a step")
    width = log_integer(8, 1, 1024, "read by nobody")
    form = choice(("plain", "sign"), "of the gradient")

    def init(self, point):
        return {"seen": 0}

    def forward(self, point, trials, state, rng):
        assert trials[0].grads is not None
        seen = state["seen"] + 1
        turn = float(seen % int(self.wait) == 0)
        return [-self.lr * turn * (g.sign() if int(self.form) else g) for g in trials[0].grads], {"seen": seen}


def at(domain, coordinate: float) -> float:
    return domain.natural(torch.tensor(coordinate, dtype=torch.float64)).item()


@pytest.mark.parametrize("domain", [Whole(least=-3, most=40), Whole("log_integer", 1, 5000, log=True)])
def test_whole_numbers_stand_where_their_coordinates_say(domain):
    for value in (domain.least, 2, 17, domain.most):
        assert domain.least <= value <= domain.most
        assert at(domain, domain.coordinate(value)) == value
    assert at(domain, 1e4) == domain.most
    assert at(domain, -1e4) == domain.least


def test_whole_numbers_are_rounded_to_the_nearest():
    assert [at(Whole(), c) for c in (2.4, 2.6, -7.0)] == [2, 3, 1]
    assert [at(Whole(log=True, most=1000), c) for c in (0.0, 2.3, 5.0)] == [1, 10, 148]  # exp


def test_choices_go_round():
    domain = Choice(words=("a", "b", "c"))
    assert [at(domain, c) for c in (0.0, 1.2, 2.4, 2.6, -0.6, -3.0)] == [0, 1, 2, 0, 2, 0]
    assert [domain.coordinate(word) for word in ("a", "b", "c", "")] == [0, 1, 2, 0]


def test_a_wandering_coordinate_stays_within_its_ends():
    space = NumberSpace(Patient())
    numbers = space.first()
    space.put(numbers, [1, 2, 3], [1e6, -1e6, 7.0])
    assert (numbers.value["wait"], numbers.value["width"], numbers.value["form"]) == (9, 1, 1)
    space.put(numbers, [1], [numbers.coords[1] - 1])  # one step back is one number less
    assert numbers.value["wait"] == 8


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"wait": 10}, "patient.wait must be a whole number from 1 to 9, not 10."),
        ({"wait": 2.5}, "patient.wait must be a whole number from 1 to 9, not 2.5."),
        ({"wait": "two"}, "patient.wait must be a number, not 'two'."),
        ({"wait": True}, "patient.wait must be a number, not True."),
        ({"width": 0}, "patient.width must be a whole number from 1 to 1,024, not 0."),
        ({"form": "round"}, "patient.form must be one of plain, sign, not 'round'."),
    ],
)
def test_a_value_outside_is_refused(settings, said):
    with pytest.raises(RecoptError) as told:
        Patient(**settings)
    assert str(told.value) == said


def test_a_strategy_with_whole_numbers_and_choices_conforms():
    assert_conforms(Patient)


@pytest.mark.parametrize("name", ["wait", "width", "form"])
def test_no_gradient_moves_what_has_none(name):
    levels = [Level(moves="task", by="below"), Level(moves="below", by="above", only=("lr", name))]
    with pytest.raises(RecoptError, match=rf"'{name}' of 'below' is a .* no gradient: .*above\[lr\]\."):
        Graph(levels, {"below": Patient(), "above": recopt.strategy("sgd")})
    Graph(levels, {"below": Patient(), "above": recopt.strategy("annealing")})


def test_levels_along_gradients_leave_it_alone_where_nothing_is_said():
    graph = Graph([Level(moves="task", by="below"), Level(moves="below", by="above")],
                  {"below": Patient(), "above": recopt.strategy("sgd")})  # fmt: skip
    assert graph.levels[1].only == ("lr",)


def train(stack: list[object], steps: int, **settings: object) -> tuple[recopt.Optimizer, torch.Tensor]:
    """An optimizer after some steps on x², and the x that it reached."""
    x = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    opt = recopt.Optimizer([x], stack, **settings)  # type: ignore[arg-type]
    for _ in range(steps):
        opt.zero_grad()
        loss = x * x
        loss.backward()
        opt.step(loss=loss)
    return opt, x


@pytest.mark.parametrize("search", ["random-search@search(spread=9)", "annealing@search"])
def test_a_zero_order_level_finds_the_whole_number_that_helps(search):
    stack = f"patient(lr=0.001, wait=9)/{search}[wait]"
    made = engine(Bowl(), stack, {2: {"every": 18}}, rules={"patient": Patient})
    made.run(900)
    slot = made.state.slots["patient"]
    assert isinstance(slot, Numbers)
    assert slot.value["wait"] <= 2


def test_the_switch_is_the_rule_that_it_names():
    for which, alone in (("sgd(lr=0.1)", "sgd(lr=0.1)"), ("adam(lr=0.1)", "adam(lr=0.1)")):
        text = f"switch(among=[sgd(lr=0.1), adam(lr=0.1)], which='{which}')"
        assert train(text, 30)[1].item() == pytest.approx(train(alone, 30)[1].item(), rel=1e-12)


def test_a_rule_that_is_changed_to_starts_from_its_first_state():
    switch = recopt.strategy("switch(among=[sgd, adam(lr=0.1)])").double()
    adam, rng = recopt.strategy("adam(lr=0.1)").double(), torch.Generator()
    point: Params = [torch.tensor(1.0, dtype=torch.float64)]
    trials = [recopt.Trial(point, point[0], [torch.tensor(3.0, dtype=torch.float64)])]
    with torch.no_grad():
        _, state = switch(point, trials, switch.init(point), rng)
        dict(switch.named_parameters())["which"].fill_(1.0)
        first, state = switch(point, trials, state, rng)
        again, state = switch(point, trials, state, rng)
        one, own = adam(point, trials, adam.init(point), rng)
        two, _ = adam(point, trials, own, rng)
    assert first[0].equal(one[0])
    assert again[0].equal(two[0])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("switch(among=[annealing])", "'annealing' in switch.among is zero-order"),
        ("switch(among=[sgdd])", "Unknown strategy 'sgdd'.*Did you mean 'sgd'"),
        ("switch(among=[])", "names no rule"),
        ("switch(which=adagrad)", "must be one of sgd, adam"),
    ],
)
def test_what_the_switch_cannot_hold(text, said):
    with pytest.raises(RecoptError, match=said):
        recopt.strategy(text)


def test_none_in_a_switch_is_a_level_less() -> None:
    """The rate stays while it is chosen, and goes on from there with the rule's first state afterwards."""
    made = recopt.strategy("switch(among=[none, sgd(lr=0.5, momentum=0.9)])").double()
    point, rng = [torch.ones(3, dtype=torch.float64)], torch.Generator()
    trials = [Trial(point, None, [torch.full((3,), 2.0, dtype=torch.float64)])]
    with torch.no_grad():
        still, state = made(point, trials, made.init(point), rng)
        assert torch.equal(still[0], torch.zeros(3, dtype=torch.float64))
        dict(made.named_parameters())["which"].fill_(1.0)
        first, state = made(point, trials, state, rng)
        second, state = made(point, trials, state, rng)
        dict(made.named_parameters())["which"].fill_(2.0)  # round to none
        still, state = made(point, trials, state, rng)
        dict(made.named_parameters())["which"].fill_(1.0)
        again, state = made(point, trials, state, rng)
    assert not still[0].any() and torch.equal(again[0], first[0]) and not torch.equal(second[0], first[0])


def test_the_number_of_levels_is_chosen_in_a_run() -> None:
    stack = "adam(lr=0.001)/switch(among=[none, hypergradient])/annealing(temperature=1e6, target=0.99)[which]"
    found = recopt.run("digits", stack, steps=90, settings=["level3.every=10"], seed=2, track=False, progress=None)
    assert found.spec.levels[1].normalize == "cosine"  # as hypergradient asks
    at, which = found.history("which", 2)
    steps, rates = found.history("lr", 1)
    assert set(which) == {0, 1}
    for begin, end, chosen in zip(at, [*at[1:], 90], which, strict=True):
        within = rates[(steps > begin) & (steps <= end - 1)]
        assert (len(set(within)) > 1) == bool(chosen)


def test_the_size_of_a_learned_rule_is_chosen_in_a_run() -> None:
    stack = "switch(among=[lstm(hidden=4), lstm(hidden=7)])/adam[rules*]+random-search(population=2)[which]"
    settings = ["level2.every=5", "level3.every=10", "level2.episode=40", "level3.episode=40"]
    found = recopt.run("quadratic", stack, steps=160, settings=settings, seed=1, track=False, progress=None)
    assert len(set(found.history("which", 1)[1])) == 2
    began = dict(recopt.strategy("switch(among=[lstm(hidden=4), lstm(hidden=7)])").named_parameters())
    now = dict(zip(found.engine.graph.names["switch"], found.engine.state.slots["switch"].params, strict=True))
    assert [now[name].shape for name in began] == [p.shape for p in began.values()]


def test_rules_that_ask_different_things_of_their_level_cannot_be_switched() -> None:
    with pytest.raises(recopt.RecoptError, match="ask different things of the level: keep one"):
        recopt.strategy("switch(among=[sgd, hypergradient])")
