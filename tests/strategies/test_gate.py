"""A gate that opens only while paired comparisons say that it pays, and what it lets through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

import recopt
from recopt import Params, RecoptError, State, Trial
from recopt.checking.errors import Notice
from recopt.running.export import write_export
from recopt.running.plan import plan, replan
from recopt.running.recorder import keep_sources
from recopt.stacks.plugins import load_strategy
from recopt.testing import assert_conforms

from .. import engines
from .zero_order import vector

TIED = "mlp-rule(hidden=3,width=2)/gated(base=adam(lr=0.01),rule=mlp-rule(hidden=3,width=2),tied=true)"
SHORT = {2: {"every": 3, "episode": 12}, 3: {"every": 2}}


@pytest.fixture
def pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin ``pull`` in ./strategies, which moves everything by a constant, and uphill."""
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "pull.py").write_text(
        "import torch\nfrom recopt import Strategy, option\n\n\nclass Pull(Strategy):\n"
        '    """A constant pull."""\n\n    by, up = option(0.0, "how far"), option(0.0, "how far uphill")\n\n'
        "    def forward(self, point, trials, state, rng):\n"
        "        return [self.by * torch.ones_like(p) + self.up * g for p, g in zip(point, trials[0].grads)], state\n"
    )
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("pull")
@pytest.mark.filterwarnings("ignore:Strategy 'pull' is taken from ./strategies")
def test_the_source_of_a_rule_within_another_is_kept_and_its_change_is_told_of(tmp_path: Path) -> None:
    made = plan("quadratic", "switch(among=[none, pull])")
    assert list(made.spec.digests) == ["strategy pull"]
    keep_sources(made, tmp_path / "run")
    own = tmp_path / "strategies" / "pull.py"
    assert (tmp_path / "run" / "strategies" / "pull.py").read_text() == own.read_text()
    own.write_text(own.read_text().replace("A constant pull", "Another pull"))
    with pytest.warns(Notice, match="Strategy 'pull' has changed since it was recorded"):
        replan(made.spec.model_dump())


@pytest.mark.usefixtures("pull")
@pytest.mark.filterwarnings("ignore:Strategy 'pull' is taken from ./strategies")
def test_an_export_has_the_source_of_a_rule_within_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = recopt.run("quadratic", "gated(base=sgd,rule=pull(by=2),gamma=0.5)", steps=2, track=False, progress=False)
    write_export(found.engine, found.spec, tmp_path / "export", found.trace)
    assert (tmp_path / "export" / "plugins" / "pull.py").is_file()
    (tmp_path / "strategies" / "pull.py").unlink()
    point = torch.nn.Parameter(torch.ones(2))
    opt = recopt.Optimizer([point], tmp_path / "export")
    point.grad = torch.zeros(2)
    opt.step()
    assert torch.equal(point.detach(), torch.full((2,), 2.0))
    again = recopt.run("quadratic", str(tmp_path / "export"), steps=2, track=False, progress=False)
    write_export(again.engine, again.spec, tmp_path / "second", again.trace)
    assert (tmp_path / "second" / "plugins" / "pull.py").is_file()


@pytest.mark.filterwarnings("ignore:In 'gated':recopt.checking.errors.Notice")
@pytest.mark.parametrize("holder", ["gated(rule={})", "gated(base={},rule=adam)", "switch(among=[none, {}])"])
def test_a_rule_within_another_is_searched_where_the_run_says_and_drawn_from_its_seed(
    holder: str, tmp_path: Path
) -> None:
    file = tmp_path / "elsewhere" / "drawn.py"
    file.parent.mkdir()
    file.write_text(
        "import torch\nfrom torch import nn\nfrom recopt import Strategy\n\n\nclass Drawn(Strategy):\n"
        '    """A random step."""\n\n    def __init__(self, **settings):\n        super().__init__(**settings)\n'
        "        self.step = nn.Parameter(torch.randn(()))\n\n"
        "    def forward(self, point, trials, state, rng):\n"
        "        return [self.step * torch.ones_like(p) for p in point], state\n"
    )

    def steps(plugins: Path, seed: int) -> list[float]:
        found = recopt.run("quadratic", holder.format("drawn"), seed=seed, steps=1, plugins=plugins, track=False)
        (rule,) = found.engine.graph.slots.values()
        return [p.item() for name, p in rule.named_parameters() if name.endswith("step")]

    assert steps(file, 1) == steps(file.parent, 1) == [p.item() for p in recopt.strategy("drawn", file, 1).parameters()]
    assert steps(file, 2) != steps(file, 1)
    model = torch.nn.Linear(2, 1)
    made = recopt.Optimizer(model.parameters(), holder.format("drawn"), plugins=file, seed=1)
    model(torch.ones(1, 2)).sum().backward()
    made.step()
    with pytest.raises(RecoptError, match="Unknown strategy 'drawn' in 'drawn'"):
        recopt.run("quadratic", holder.format("drawn"), steps=1, track=False)


def judged(wins: str, **settings: Any) -> tuple[list[Params], list[State]]:
    """The points and states of a gate that is told how its open window went: 'w' won, 'l' lost, 'n' no number."""
    gate, rng, point = load_strategy("gate")(**settings).double(), Generator(), vector(0.0)
    state, told = gate.init(point), iter(wins)
    points, states = [point], [state]
    while True:
        tried = gate.propose(point, state, rng)
        if len(tried) == 2 and (who := next(told, None)) is None:
            return points, states
        losses = {"w": (1.0, 0.5), "l": (1.0, 1.5), "n": (1.0, torch.nan)}[who] if len(tried) == 2 else (1.0,)
        trials = [Trial(p, torch.tensor(x, dtype=torch.float64)) for p, x in zip(tried, losses, strict=True)]
        delta, state = gate(point, trials, state, rng)
        point = [p + d for p, d in zip(point, delta, strict=True)]
        points.append(point)
        states.append(state)


@pytest.mark.parametrize(
    "stack", ["gated(rule=sgd)", "mlp-rule(hidden=3)/gated(rule=sgd)", "gated(rule=sgd)/adam[first*]"]
)
def test_a_rule_that_nothing_lets_in_is_told_of(stack: str) -> None:
    told = r"gamma is 0, so rule=sgd is never used: put gate above, as in gated/gate, or give gamma another value\."
    with pytest.warns(Notice, match=f"In 'gated': {told}"):
        engines.graph(stack)


def test_a_rule_that_a_gate_or_a_gamma_lets_in_is_not_told_of() -> None:
    for stack in ("gated(rule=sgd)/gate", "gated(rule=sgd,gamma=0.5)", "gated(rule=sgd)/annealing[*]"):
        engines.graph(stack)


def test_the_optimizer_tells_of_a_rule_that_nothing_lets_in() -> None:
    with pytest.warns(Notice, match="put gate above"):
        recopt.Optimizer([torch.nn.Parameter(torch.ones(2))], "gated(rule=sgd)")


def test_gate_and_gated_conform() -> None:
    assert_conforms(load_strategy("gate"))
    assert_conforms(load_strategy("gated"))


def test_evidence_below_which_there_are_no_odds_is_refused_and_never_gone_below() -> None:
    with pytest.raises(RecoptError, match="gate.evidence, the odds at which it opens, must be 1.01 or more, not 0.5"):
        load_strategy("gate")(evidence=0.5)
    gate = load_strategy("gate")().double()
    gate._parameters["evidence"].data.fill_(-5.0)  # as a level above might
    point = vector(0.0)
    lost = [Trial(point, torch.tensor(x, dtype=torch.float64)) for x in (1.0, 2.0)]
    assert gate(point, lost, gate.init(point), Generator())[1]["open"] == 0


def test_a_gate_opens_after_four_wins_and_keeps_closed_what_won_before() -> None:
    points, states = judged("wwww")
    assert [float(p[0]) for p in points[:4]] == [0.0] * 4
    assert float(points[4][0]) == pytest.approx(0.01 * 2**0.75)
    assert [s["open"] for s in states[:5]] == [0, 0, 0, 0, 1]
    assert len(points) == 5 + 3  # and goes on open for as many windows before it is compared again
    assert {float(p[0]) for p in points[4:]} == {float(points[4][0])}
    assert (states[-1]["compared"], states[-1]["won"], states[-1]["rolled_back"]) == (4, 4, 0)


def test_an_open_gate_takes_a_loss_back_and_closes_after_three() -> None:
    points, states = judged("wwwwlll", rest=0)
    assert [float(p[0]) for p in points[5:]] == [0.0] * (len(points) - 5)
    assert [s["open"] for s in states[4:8]] == [1, 1, 1, 0]
    assert states[7]["rolled_back"] == 3
    sizes = [s["ratio"] for s in states[4:8]]
    assert sizes == [1.0, 0.0, -1.0, -2.0]


def test_a_closed_gate_waits_ever_longer_after_losses_and_not_after_a_win() -> None:
    _, states = judged("lnlllwl")
    compared = [s["compared"] for s in states]
    windows = [compared.count(n) - 1 for n in range(1, 8)]
    assert windows == [1, 3, 7, 15, 15, 0, 1]
    assert states[-1]["odds"] == 0.25
    assert states[-1]["open"] == 0


def test_a_draw_is_no_win_and_a_closed_window_that_is_no_number_is() -> None:
    gate, rng, point = load_strategy("gate")(), Generator(), vector(0.0)
    for losses, won in (((1.0, 1.0), 0), ((torch.nan, 1.0), 1), ((torch.nan, torch.nan), 0)):
        state = gate.init(point)
        trials = [Trial(p, torch.tensor(x)) for p, x in zip(gate.propose(point, state, rng), losses, strict=True)]
        assert gate(point, trials, state, rng)[1]["won"] == won


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tied_rule_steps_with_the_weights_of_lag_steps_ago(dtype: torch.dtype) -> None:
    form = load_strategy("mlp-rule")(hidden=3, width=2).to(dtype)
    made = load_strategy("gated")(base="sgd(lr=0.1)", rule="mlp-rule(hidden=3,width=2)", tied=True, lag=3, gamma=0.5)
    made.to(dtype)
    point, rng = [p.detach().clone() for p in form.parameters()], Generator()
    copied = [p.clone() for p in point]
    state, own = made.init(point), form.init(point)
    for step in range(5):
        grads = [torch.sin(p + step) for p in point]
        with torch.no_grad():
            for weight, value in zip(form.parameters(), copied, strict=True):
                weight.copy_(value)
            wanted, own = form(point, [Trial(point, None, grads)], own, rng)
            delta, state = made(point, [Trial(point, None, grads)], state, rng)
        for d, g, w in zip(delta, grads, wanted, strict=True):
            assert torch.allclose(d, -0.1 * g + 0.5 * w, rtol=1e-5 if dtype is torch.float32 else 1e-12, atol=0)
            assert d.dtype == dtype
        point = [p + d for p, d in zip(point, delta, strict=True)]
        if step == 2:
            copied = [p.clone() for p in point]
    assert all(torch.equal(a, b) for a, b in zip(state["lagged"], copied, strict=True))


def test_steps_of_the_rule_that_are_no_numbers_move_nothing() -> None:
    made = load_strategy("gated")(base="sgd(lr=1.0)", rule="sgd(lr=2.0)", gamma=1.0).double()
    point = vector(1.0, 1.0)
    made.second.forward = lambda point, trials, state, rng: ([torch.tensor([torch.inf, -2.0])], state)  # type: ignore[method-assign]
    delta, _ = made(point, [Trial(point, None, vector(1.0, 1.0))], made.init(point), Generator())
    assert delta[0].tolist() == [-1.0, -3.0]


def steps(stack: str, windows: int, dtype: torch.dtype = torch.float64, settings: Any = None) -> engines.Engine:
    made = engines.engine(engines.Regression(seed=1), stack, settings, dtype=dtype)
    made.run(windows)
    return made


class Single(engines.Regression):
    def batch(self, index: int, split: Any = "train") -> Any:
        return tuple(x.float() for x in super().batch(index, split))


@pytest.mark.filterwarnings("ignore:In 'gated':recopt.checking.errors.Notice")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_harmful_rule_never_gets_through_and_leaves_no_trace(dtype: torch.dtype, pull: None) -> None:
    task = Single if dtype is torch.float32 else engines.Regression
    ends = []
    below = "gated(base=sgd(lr=0.05),rule=pull(up=0.1))"
    for stack in (below, f"{below}/gate(size=1)"):
        made = engines.engine(task(seed=1), stack, {2: {"every": 5}} if stack != below else None, dtype=dtype)
        made.run(100)
        ends.append(made)
    plain, gated = ends
    assert all(torch.equal(a, b) for a, b in zip(engines.params(plain), engines.params(gated), strict=True))
    assert engines.losses(plain) == engines.losses(gated)
    state = gated.state.levels[1].parts[0].strategy
    assert (state["open"], state["won"]) == (0, 0)
    assert state["compared"] >= 3
    trials = gated.budget.levels[1]
    assert trials.gradient == 5 * state["compared"]  # of which each costs one window, counted as the gate's
    assert isinstance(gated.sink, engines.Recorder)
    assert gated.sink.series(2, "gate.compared")[-1] == state["compared"]
    assert set(gated.sink.series(2, "accepted")) == {0.0}


def test_a_good_rule_gets_through() -> None:
    stack = "gated(base=sgd(lr=0.001),rule=sgd(lr=0.1))/gate(size=0.5)"
    plain = engines.engine(engines.Regression(seed=1), "sgd(lr=0.001)")
    gated = engines.engine(engines.Regression(seed=1), stack, {2: {"every": 5}})
    plain.run(300)
    gated.run(300)
    state = gated.state.levels[1].parts[0].strategy
    assert state["open"]
    assert state["won"] > 0.6 * state["compared"]
    assert sum(engines.losses(gated)[-50:]) < 0.5 * sum(engines.losses(plain)[-50:])


def test_a_rule_that_turns_harmful_is_rolled_back(pull: None) -> None:
    # A pull towards larger weights is good as long as they are too small: Σ (x − 1)² from 0 with steps of 0.02.
    class Ahead(engines.Bowl):
        def model(self) -> Any:
            made = super().model()
            torch.nn.init.zeros_(made.weight)
            return made

        def loss(self, model: Any, batch: Any) -> Tensor:
            return ((model.weight - 1) ** 2).sum()

    stack = "gated(base=sgd(lr=1e-6),rule=pull(by=0.02))/gate(size=1,rest=0)"
    made = engines.engine(Ahead(seed=1), stack, {2: {"every": 5}})
    made.run(250)
    state, losses = made.state.levels[1].parts[0].strategy, engines.losses(made)
    assert state["won"] >= 4
    assert state["rolled_back"] >= 1
    assert min(losses) < 0.05 * losses[0]
    assert losses[-1] < 0.05 * losses[0]  # there it stays, and the pull alone would go on


def test_a_closed_gate_leaves_a_learned_rules_training_as_its_base_alone_makes_it() -> None:
    alone = {2: {"every": 3, "episode": 12, "trust": 0.01}}
    plain = steps("mlp-rule(hidden=3,width=2)/adam(lr=0.01)", 48, settings=alone)
    gated = steps(f"{TIED}/gate", 48, settings=SHORT)
    state = gated.state.levels[2].parts[0].strategy
    assert state["compared"] >= 2
    assert not state["open"]
    for a, b in zip(engines.params(plain, "mlp_rule"), engines.params(gated, "mlp_rule"), strict=True):
        assert torch.equal(a, b)
    assert gated.levels[1].trust == 0.01
    assert gated.levels[2].only == ("gamma",)


@pytest.mark.parametrize("at", [5, 16, 29])
def test_a_self_loop_behind_a_gate_goes_on_bit_for_bit(at: int, tmp_path: Path) -> None:
    def fresh() -> engines.Engine:
        stack = f"{TIED.replace('tied=true', 'tied=true,lag=2')}/gate(evidence=1.2)"
        return engines.engine(engines.Regression(seed=1), stack, SHORT, tasks=2)

    engines.goes_on_bit_for_bit(fresh, at, 48, tmp_path / "state")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: load_strategy("gated")(rule="annealing"), "annealing is zero-order"),
        (lambda: load_strategy("gated")(rule="hypergradient"), "ask different things of the level"),
        (lambda: engines.engine(engines.Regression(seed=1), "lstm(hidden=3)/gated(rule=lstm,tied=true)/gate"),
         "as it stands beneath, with its settings"),
        (lambda: recopt.Optimizer([torch.nn.Parameter(torch.ones(2))], "gated(rule=sgd)/gate"),
         "compares runs on the same batches"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(make: Any, says: str) -> None:
    with pytest.raises(RecoptError, match=says):
        make()
