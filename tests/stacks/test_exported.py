"""Exports as strategies: found by name in every place, exact in what they do, complete in what they keep."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import recopt
from recopt import Graph, Level, Strategy
from recopt.checking.errors import Notice
from recopt.running.export import write_export
from recopt.running.session import RunOptions, Session
from recopt.stacks import places
from recopt.stacks.exported import Trained, read_folder
from recopt.stacks.fetch import read_export
from recopt.stacks.plugin_file import source_of
from recopt.stacks.plugins import is_known, list_strategies, list_tasks, load_any, load_strategy, load_task
from recopt.testing import check

from ..exported import refusal, trained_lstm

pytestmark = pytest.mark.usefixtures("here")

RULE = """from recopt import Strategy, positive

class Rule(Strategy):
    "One."
    rate = positive(0.1)

    def forward(self, point, trials, state, rng):
        return [-self.rate * g for g in trials[0].grads], state
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_lstm(tmp_path_factory.mktemp("trained") / "export")


@pytest.fixture
def put(trained: Path) -> Callable[[str], Path]:
    """Copies the export to a place."""
    return lambda place: Path(shutil.copytree(trained, place))


def values(strategy: Strategy) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in strategy.named_parameters()}


def same(a: Strategy, b: Strategy) -> bool:
    return all(torch.equal(x, y) for x, y in zip(values(a).values(), values(b).values(), strict=True))


# Places


def test_a_folder_in_any_place_is_a_strategy_by_its_name(here: Path, put: Callable[[str], Path]) -> None:
    put("strategies/my_rule")
    made = load_strategy("my-rule")
    assert load_strategy("my_rule").name == "my-rule"  # type: ignore[attr-defined]
    put("mine/other")
    assert issubclass(load_strategy("other", "mine"), Trained)
    assert issubclass(load_strategy("other", "mine/other"), Trained)  # the folder itself as a place
    assert load_any("my-rule")[0] == load_any("mine/other")[0] == "strategy"
    assert is_known("strategy", "other", "mine") and not is_known("strategy", "other")
    assert same(made(), load_strategy("other", "mine")())
    assert same(made(), read_export(Path("mine/other"))[1]["lstm"])
    assert not same(made(), load_strategy("lstm")(hidden=4))


def test_it_is_listed_as_trained_with_the_first_line_of_its_card(here: Path, put: Callable[[str], Path]) -> None:
    put("strategies/my-rule")
    (broken := put("strategies/broken") / "strategies.safetensors").write_bytes(b"x")
    found = {info.name: info for info in list_strategies()}
    assert (found["my-rule"].trained, found["my-rule"].origin, found["my-rule"].problem) == (True, "./strategies", None)
    assert found["my-rule"].summary == "lstm(hidden=4), trained on quadratic(dim=3) for 60 steps."
    assert found["my-rule"].path == Path("strategies/my-rule")
    assert "is no export of recopt" in (found["broken"].problem or "") and str(broken.parent) in found["broken"].problem
    assert not found["lstm"].trained
    assert "my-rule" not in {info.name for info in list_tasks(["strategies"])}
    assert refusal(lambda: load_task("my-rule", "strategies")) == "'my-rule' is a strategy, not a task."


def test_shipped_exports_are_no_different(
    here: Path, put: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put("package/learned-tiny")
    monkeypatch.setattr(places, "shipped_folder", lambda name: here / "package")
    assert [(info.name, info.origin, info.trained) for info in list_strategies()] == [("learned-tiny", "shipped", True)]
    assert same(load_strategy("learned-tiny")(), load_strategy("learned-tiny", "package/learned-tiny")())
    put("strategies/learned-tiny")  # a copy of it shadows nothing
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_strategy("learned-tiny")
    (here / "strategies/learned-tiny/card.md").write_text("Another.")
    with pytest.warns(Notice, match=r"taken from ./strategies, not shipped"):
        assert load_strategy("learned-tiny").__doc__ == "Another."


def test_an_installed_package_offers_one_by_an_entry_point(
    here: Path, put: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put("site/acme/tiny")
    (here / "site/acme/__init__.py").touch()
    info = here / "site/acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[recopt.strategies]\nacme-tiny = acme.tiny\n")
    monkeypatch.syspath_prepend(here / "site")
    found = {info.name: info for info in list_strategies()}["acme-tiny"]
    assert (found.origin, found.trained) == ("installed (acme)", True)
    assert load_strategy("acme_tiny").name == "acme-tiny"  # type: ignore[attr-defined]


def test_names_that_clash_or_cannot_be_written(here: Path, put: Callable[[str], Path]) -> None:
    put("mine/my-rule")
    Path("mine/my_rule.py").write_text(RULE)
    expected = "mine/my-rule and my_rule.py have the same name, 'my-rule': rename one."
    assert refusal(lambda: load_strategy("my-rule", "mine")) == expected
    put("mine/2nd")
    assert refusal(lambda: load_strategy("2nd", "mine")) == "'2nd' cannot be written in a stack: rename mine/2nd."
    assert refusal(lambda: load_strategy("2nd", "mine/2nd")) == "'2nd' cannot be written in a stack: rename mine/2nd."


# What it is


def test_it_makes_the_steps_that_the_export_makes(here: Path, put: Callable[[str], Path]) -> None:
    folder = put("strategies/my-rule")
    plain = read_export(folder)[1]["lstm"]
    one = recopt.run("quadratic(dim=3)", "my-rule", steps=12, track=False)
    two = recopt.run(
        "quadratic(dim=3)", Graph([Level(moves="task", by="lstm")], {"lstm": plain}), steps=12, track=False
    )
    assert one.losses.tolist() == two.losses.tolist()
    assert (
        one.losses.tolist() != recopt.run("quadratic(dim=3)", "lstm(hidden=4)", steps=12, track=False).losses.tolist()
    )


@pytest.mark.parametrize("stack", ["my-rule/adam", "sgd/my-rule", "my-rule@a/my-rule@a"])
def test_it_stands_at_any_level(here: Path, put: Callable[[str], Path], stack: str) -> None:
    put("strategies/my-rule")
    result = recopt.run("quadratic(dim=3)", stack, steps=12, track=False, settings=["level2.every=2"])
    assert all(torch.isfinite(torch.tensor(result.losses)))
    assert result.engine.state.levels[1].steps > 0


def test_settings_go_before_trained_values_where_they_fit(here: Path, put: Callable[[str], Path]) -> None:
    put("strategies/my-rule")
    rule = load_strategy("my-rule")
    changed, plain = values(rule(scale=0.5)), values(rule())
    assert float(rule(scale=0.5).scale.detach()) == pytest.approx(0.5)  # type: ignore[attr-defined]
    assert [name for name in plain if not torch.equal(plain[name], changed[name])] == ["scale"]
    assert "trained with other settings: leave out hidden." in refusal(lambda: rule(hidden=5))
    assert "trained in domains of its own" in refusal(lambda: rule(domains={"scale": "real"}))
    assert "Unknown option 'hiden' of my-rule" in refusal(lambda: rule(hiden=5))


def test_made_afresh_it_is_trained_and_draws_nothing(here: Path, put: Callable[[str], Path]) -> None:
    put("strategies/my-rule")
    before = torch.get_rng_state()
    made = load_strategy("my-rule")(scale=0.5)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(made.afresh(3, 1), made)


def test_it_keeps_what_its_level_had(here: Path) -> None:
    result = recopt.run("quadratic(dim=3)", "sgd(lr=1e-3)/hypergradient", steps=4, track=False,
                        settings=["level1.normalize=rms"])  # fmt: skip
    write_export(result.engine, result.spec, Path("strategies/mine"))
    rule = load_strategy("mine")
    assert dict(rule.level) == {"normalize": "rms"}
    assert recopt.run("quadratic(dim=3)", "mine", steps=2, track=False).engine.levels[0].normalize == "rms"


def test_it_passes_the_battery_that_authors_run(here: Path, put: Callable[[str], Path]) -> None:
    put("strategies/my-rule")
    rule = load_strategy("my-rule")
    assert check(rule, source_of(rule)[1]) == []


# What it is made of


def test_a_file_of_the_same_name_does_not_change_it(here: Path, put: Callable[[str], Path]) -> None:
    folder = put("mine")
    before = values(read_export(folder)[1]["lstm"])
    Path("strategies").mkdir()
    Path("strategies/lstm.py").write_text(RULE)
    after = values(read_export(folder)[1]["lstm"])
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_folder_may_be_called_as_what_it_was_made_of(here: Path, put: Callable[[str], Path]) -> None:
    put("mine/lstm")
    with pytest.warns(Notice, match="'lstm' is taken from mine, not shipped"):
        rule = load_strategy("lstm", "mine")
    assert issubclass(rule, Trained) and same(rule(), read_export(Path("mine/lstm"))[1]["lstm"])


def test_a_users_own_rule_comes_with_its_file(here: Path) -> None:
    Path("strategies").mkdir()
    Path("strategies/own.py").write_text(RULE)
    result = recopt.run("quadratic(dim=3)", "own/hypergradient", steps=8, track=False)
    write_export(result.engine, result.spec, here / "elsewhere" / "mine")
    Path("strategies/own.py").unlink()
    rule = load_strategy("mine", "elsewhere")
    assert float(rule().rate.detach()) == pytest.approx(result.hyperparameters["own.rate"])  # type: ignore[attr-defined]
    assert source_of(rule)[0] == here / "elsewhere/mine/plugins/own.py"


def test_trained_on_from_an_export_it_needs_that_no_more(here: Path, put: Callable[[str], Path]) -> None:
    put("strategies/my-rule")
    result = recopt.run(
        "quadratic(dim=3)", "my-rule(scale=0.2)/adam", steps=20, settings=["level2.every=5", "level2.episode=20"]
    )
    assert result.folder is not None
    kept = result.folder / "plugins/strategies/my-rule"
    assert sorted(path.name for path in kept.iterdir()) == ["card.md", "stack.json", "strategies.safetensors"]
    shutil.rmtree("strategies")
    told = read_folder(result.folder / "export").manifest.strategies["my_rule"]
    assert (told.name, told.settings) == ("lstm", {"hidden": 4, "scale": 0.2})
    made = read_export(result.folder / "export")[1]["my_rule"]
    moved = result.engine.state.slots["my_rule"].params
    pairs = zip(values(made).values(), moved, strict=True)
    assert all(torch.equal(a, b.to(a.dtype)) for a, b in pairs)
    from recopt.running.plan import replan
    from recopt.running.relocated import relocated
    from recopt.running.spec import read_spec

    again = replan(relocated(read_spec(result.folder / "spec.yaml"), result.folder), steps=22)  # from the copy kept
    assert isinstance(again.graph.slots["my_rule"], Trained)
    assert Session(again, RunOptions(resume=result.run_id)).run().status == "FINISHED"
    assert sorted(path.name for path in kept.iterdir()) == ["card.md", "stack.json", "strategies.safetensors"]


def test_a_graph_that_was_made_by_hand_is_told_by_its_name(here: Path, put: Callable[[str], Path]) -> None:
    put("strategies/my-rule")
    graph = Graph([Level(moves="task", by="a")], {"a": load_strategy("my-rule")(scale=0.5)})
    result = recopt.run("quadratic(dim=3)", graph, steps=2, track=False)
    assert result.spec.strategies["a"].model_dump() == {"name": "my-rule", "settings": {"scale": 0.5}, "domains": {}}


def test_a_folder_as_a_stack_is_run(here: Path, put: Callable[[str], Path]) -> None:
    put("out/my-rule")
    result = recopt.run("quadratic(dim=3)", "out/my-rule", steps=3, track=False, depth=2)
    assert (result.stack, result.spec.plugins) == ("my-rule/my-rule@my_rule2", ["out/my-rule"])
    put("strategies/by-name")
    assert recopt.run("quadratic(dim=3)", "by-name", steps=3, track=False).losses[1] == result.losses[1]
    assert "is in a store, where only recopt.Optimizer" in refusal(
        lambda: recopt.run("quadratic", "models:/x@best", track=False)
    )


def test_one_name_cannot_stand_for_parts(here: Path) -> None:
    result = recopt.run("digits(net=mlp)", "adam[*weight]+sgd[*bias]", steps=2, track=False)
    write_export(result.engine, result.spec, Path("mine/parts"))
    assert "mine/parts has one strategy for each part of a task" in refusal(lambda: load_strategy("parts", "mine"))
    assert read_export(Path("mine/parts"))[1].keys() == {"adam", "sgd"}
