"""The command line as a user meets it: commands in a folder of their own, mistakes, and what they leave behind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

from recopt.running.plan import plan, replan
from recopt.running.spec import read_spec

from ..commands import RULE, SHORT, STEPS, Done, Recopt, write


def test_a_plugin_that_is_no_python_is_named_with_its_line(recopt: Recopt, tmp_path: Path) -> None:
    write("x = 1\ndef (:\n", "strategies/broken.py")
    done = recopt("run", "digits", "broken")
    assert (done.status, done.err.count("\n")) == (2, 2)
    assert done.err.startswith("Note: Strategy 'broken' is taken from ./strategies.\nError: ")
    assert re.search(r"strategies/broken.py, line 2: this is not Python \(invalid syntax\)", done.err)
    listed = recopt("strategies")
    assert listed.status == 0
    assert "this is not Python" in listed.out  # and the others are listed too
    assert "annealing" in listed.out
    assert not Path("runs").exists()


def test_an_error_in_a_strategy_fails_the_run_and_keeps_traceback_and_checkpoint(recopt: Recopt) -> None:
    write(RULE.format(body="raise ValueError('too late')"), "strategies/mine.py")
    done = recopt("run", "quadratic", "mine")
    assert (done.status, done.out, done.err.count("\n")) == (1, "", 2)
    assert re.search(r"Step 1 failed in .*strategies/mine.py, line 7, with ValueError: too late\. The traceback is in",
                     done.err)  # fmt: skip
    folder = Path(done.err.split("The traceback is in ")[1].strip().removesuffix(".")).parent
    assert "raise ValueError('too late')" in (folder / "traceback.txt").read_text()
    assert (folder / "plugins" / "strategies" / "mine.py").is_file()
    listed = recopt("runs").out
    assert "failed" in listed
    # Mended, it goes on from there.
    write(STEPS, "strategies/mine.py")
    run = next(line for line in listed.splitlines() if "failed" in line).split()[0]
    done = recopt("run", "--resume", run, "--steps", "5")
    assert (done.status, "finished, 5 steps" in done.out) == (0, True), done.err
    assert "finished" in recopt("runs").out


def test_an_error_in_a_task_before_the_first_step_is_kept_with_a_run_too(recopt: Recopt) -> None:
    assert recopt("new", "task", "mine").status == 0
    write(Path("mine.py").read_text().replace("return nn.Seq", "1 / 0\n        return nn.Seq"))
    done = recopt("run", "mine.py", "adam")
    assert done.status == 1
    assert re.search(r"Setting up the run failed in .*mine.py, line \d+, with ZeroDivisionError: division by", done.err)
    assert "failed" in recopt("runs").out


TASK = """
import sys, torch
from recopt import Task
class Mine(Task):
    def model(self):
        return torch.nn.Linear(3, 1)
    def batch(self, index, split="train"):
        return torch.ones(4, 3)
    def loss(self, model, batch):
        {loss}
    def metrics(self, model, batch):
        {metrics}
"""
FAULTS = {
    "no number": ("return model(batch)", "return {}"),
    "no tensor": ("return 3.0", "return {}"),
    "no mapping": ("return model(batch).mean()", "return 3"),
    "a word": ("return model(batch).mean()", "return {'accuracy': 'good'}"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_a_task_gives_amiss_is_told_with_the_command_that_tells_more(recopt: Recopt, name: str) -> None:
    loss, metrics = FAULTS[name]
    write(TASK.format(loss=loss, metrics=metrics))
    for command in (("run", "mine.py", "sgd"), ("compare", "mine.py", "sgd", "--baselines", "none", "--seeds", "2")):
        done = recopt(*command, "--steps", "2", "--no-track")
        assert (done.status, done.err.count("\n")) == (1, 1 + (command[0] == "compare"))
        told = re.search(
            r"; '(recopt check .*mine.py)' tries whether it does all that is asked of it\.$", done.err.strip()
        )
        assert told, done.err
        checked = recopt(*told[1].split()[1:])
        assert (checked.status, "does not conform" in checked.out) == (1, True), checked.err


def test_a_task_that_exits_fails_its_run(recopt: Recopt) -> None:
    write(TASK.format(loss="sys.exit(3)", metrics="return {}"))
    done = recopt("run", "mine.py", "sgd", "--steps", "2")
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert "mine.py, line 10, with SystemExit: 3. The traceback is in" in done.err
    assert "failed" in recopt("runs").out
    assert recopt("compare", "mine.py", "sgd", "--baselines", "none", "--no-track").status == 1


def test_a_run_that_failed_at_its_very_end_is_finished_by_resuming_it(recopt: Recopt) -> None:
    text = TASK.format(loss="return (model(batch) ** 2).mean()", metrics="return {'size': model.bias.abs().sum()}")
    broken = "if float(model.bias) != self.first: raise ValueError('not yet')\n        return {}"
    first = "made = torch.nn.Linear(3, 1); self.first = float(made.bias)\n        return made"
    write(
        TASK.format(loss="return (model(batch) ** 2).mean()", metrics=broken).replace(
            "return torch.nn.Linear(3, 1)", first
        )
    )
    done = recopt("run", "mine.py", "sgd", "--steps", "3", "--measure", "0")
    assert (done.status, "ValueError: not yet" in done.err) == (1, True), done.err
    run = next(line for line in recopt("runs").out.splitlines() if "failed" in line).split()[0]
    write(text)
    done = recopt("run", "--resume", run)
    assert (done.status, "finished, 3 steps" in done.out) == (0, True), done.err
    assert "finished" in recopt("runs").out and "size" in recopt("runs").out
    assert recopt("run", "--resume", run).status == 2


def test_runs_tells_the_steps_that_were_made_and_show_a_command_that_works(recopt: Recopt) -> None:
    recopt("run", "quadratic", "adam", "--steps", "3")
    [run] = json.loads(recopt("runs", "--json").out)
    recopt("run", "--resume", run["id"], "--steps", "12")
    [run] = json.loads(recopt("runs", "--json").out)
    assert (run["step"], run["status"]) == (12, "finished")
    assert re.search(r" 12 +\S+ +loss \S+ +\d+\.\d$", recopt("runs").out, re.MULTILINE)
    recopt("run", "quadratic", "adam", "--steps", "9", "--name", "at once")
    changed = json.loads(recopt("diff", run["id"], "at once", "--json").out)["changed"]
    assert changed["steps"] == ["12", "9"]  # and not the 3 that the first began with
    recopt("new", "strategy", "my_rule")
    command = recopt("show", "strategies/my_rule.py").out.splitlines()[-1]
    assert command == "recopt run digits my_rule --plugins strategies"
    assert recopt(*command.split()[1:], "--steps", "2", "--no-track").status == 0


def test_diff_shows_what_two_runs_do_not_share(recopt: Recopt) -> None:
    recopt("run", "quadratic", "adam", "--steps", "3", "--name", "one")
    recopt("run", "quadratic", "adam(lr=0.1)", "--steps", "3", "--name", "other")
    found = json.loads(recopt("diff", "one", "other", "--json").out)["changed"]
    assert found["adam.lr"] == [None, "0.1"], "what a strategy starts from of itself is no param"
    assert {"stack", "final_loss"} <= found.keys()
    assert not {"steps", "seed", "device"} & found.keys()
    shown = recopt("diff", "one", "other").out
    assert re.search(r"^adam\.lr +0\.1 *$", shown, re.MULTILINE)
    assert recopt("diff", "one", "one").out.startswith("The two runs have the same settings and figures.")


def test_a_run_without_a_terminal_shows_a_line_now_and_then(recopt: Recopt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recopt.running.progress.LINE_EVERY", 0.0)
    done = recopt("run", "quadratic", "adam", "--steps", "5", "--no-track", "--json")
    assert re.search(r"^step \d of 5 .* a second .*loss \d", done.err, re.MULTILINE), done.err
    assert json.loads(done.out)["outcome"] == "finished"


def test_listings_and_descriptions_are_there_as_json(recopt: Recopt) -> None:
    listed = {one["name"]: one for one in json.loads(recopt("strategies", "--json").out)}
    assert (listed["adam"]["kind"], listed["adam"]["problem"]) == ("strategy", None)
    assert "digits" in {one["name"] for one in json.loads(recopt("tasks", "--json").out)}
    shown = json.loads(recopt("show", "adam", "--json").out)
    assert (shown["kind"], shown["hyperparameters"]["lr"]["domain"]) == ("strategy", "positive")
    assert shown["hyperparameters"]["lr"]["value"] == 0.001


def test_doctor_tells_versions_and_what_does_not_work(recopt: Recopt) -> None:
    done = recopt("doctor")
    assert done.status == 0
    assert re.search(r"^torch +\d+\.\d+", done.out, re.MULTILINE)
    assert "none yet: the first run makes it" in done.out
    done = recopt("doctor", "--store", "http://127.0.0.1:9", "--json")
    assert (done.status, "127.0.0.1:9" in json.loads(done.out)["store"]) == (1, True)


def test_what_new_writes_runs_and_conforms(recopt: Recopt) -> None:
    assert recopt("new", "task", "my-task").out.startswith("my_task.py\n")
    assert recopt("new", "strategy", "my_rule").out.startswith("strategies/my_rule.py\n")
    assert "class MyTask(Task)" in Path("my_task.py").read_text()
    done = recopt("run", "my_task.py", "adam", *SHORT)
    assert (done.status, done.err) == (0, "")
    assert recopt("run", "my_task.py(hidden=5)", "my_rule/hypergradient", *SHORT, "--tasks", "2").status == 0
    assert "conforms: 10 properties of a task hold" in recopt("check", "my_task.py").out
    done = recopt("check", "my_rule")
    assert (done.status, "properties of a strategy hold" in done.out) == (0, True)
    again = recopt("new", "task", "my_task")
    assert (again.status, again.err) == (2, "Error: my_task.py is there already: give another name.\n")
    assert "Tells two interleaved spirals apart." in recopt("tasks", "--plugins", ".").out
    assert "Steps along a running mean" in recopt("strategies").out


def test_check_says_what_to_mend_and_ends_with_1(recopt: Recopt) -> None:
    write(RULE.format(body="trials[0].grads[0].zero_()"))
    done = recopt("check", "mine.py")
    assert done.status == 1
    assert done.out.startswith("mine.py does not conform:\n  purity: ")
    recopt("new", "task", "other")
    write(Path("other.py").read_text().replace("generator=self.generator(index)", ""), "other.py")
    done = recopt("check", "other.py")
    assert (done.status, "batches: batch(…, 'train') is another one" in done.out) == (1, True)


def test_check_says_what_a_seed_does_not_change_and_ends_with_0(recopt: Recopt) -> None:
    recopt("new", "task", "other")
    write(
        Path("other.py").read_text().replace("self.generator(index)", "torch.Generator().manual_seed(index)"),
        "other.py",
    )
    done = recopt("check", "other.py")
    assert done.status == 0
    assert done.err.startswith("Note: The data and the loss are the same for all seeds, only the start of the model")


def test_show_gives_hyperparameters_domains_and_defaults(recopt: Recopt) -> None:
    out = recopt("show", "adam").out
    assert re.search(r"lr +0\.001 +positive \(above 0\) +learning rate", out)
    assert re.search(r"beta1 +0\.9 +unit \(0 to 1, or 0\)", out)
    assert re.search(r"decoupled_weight_decay +true +true or false", out)
    out = recopt("show", "digits").out
    assert re.search(r"net +mlp +logistic, mlp, cnn +which model", out)
    assert "recopt run 'digits(net=mlp)' adam" in out or "recopt run 'digits(batch_size=64)' adam" in out
    assert "losses only (zero-order)" in recopt("show", "annealing").out


def test_a_graph_is_drawn_as_text_or_picture_without_running(recopt: Recopt, tmp_path: Path) -> None:
    done = recopt("graph", "digits", "adam/hypergradient/annealing", "--set", "level3.every=30")
    assert [line.split()[:3] for line in done.out.splitlines()[:3]] == [
        ["level", "3", "annealing"], ["level", "2", "hypergradient"], ["level", "1", "adam"]]  # fmt: skip
    assert "every 30" in done.out
    assert list(tmp_path.iterdir()) == []
    assert recopt("graph", "digits", "adam/sgd", "--depth", "4", "-o", "deep.svg").out == "deep.svg\n"
    assert "<svg" in Path("deep.svg").read_text()
    assert recopt("graph", "digits", "adam[*weight]+sgd[*bias]/annealing", "-o", "groups.png").status == 0
    with Image.open("groups.png") as picture:
        assert min(picture.size) > 200


def test_a_spec_repeats_a_run_exactly_and_options_change_it(recopt: Recopt) -> None:
    first = recopt("run", "quadratic(dim=3)", "adam(lr=0.1)/sgd", "--steps", "12", "--seed", "3", "--depth", "3")
    assert first.status == 0, first.err
    [folder] = Path("runs/artifacts/recopt").glob("*/artifacts")
    spec = folder / "spec.yaml"
    assert yaml.safe_load(spec.read_text())["levels"][2]["moves"] == "sgd"

    def figures(done: Done) -> list[str]:
        assert done.status == 0, done.err
        lines = done.out.splitlines()
        return [" ".join(line.split()[:-1]) for line in lines if not line.startswith(("run ", "folder "))][2:]

    assert figures(recopt("run", "--spec", str(spec))) == figures(first)
    assert figures(recopt("run", "--spec", str(spec), "--seed", "4")) != figures(first)
    changed = recopt("run", "--spec", str(spec), "--set", "adam.lr=0.2", "--steps", "4")
    assert "adam(lr=0.2)" in changed.out
    assert "4 steps" in changed.out
    other = recopt("run", "rosenbrock", "sgd(lr=1e-4)", "--spec", str(spec), "--no-track")
    assert other.out.startswith("rosenbrock  sgd(lr=0.0001)\nfinished, 12 steps")
    assert recopt("runs", "-n", "2").out.count("finished") == 2


SHORT_SPEC = """
task: quadratic(dim=3)
stack: adam(lr=0.1)/hypergradient
settings: [level2.every=5, task.dim=4]
steps: 8
"""


def test_a_spec_may_have_a_stack_and_settings(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text(SHORT_SPEC)
    data = read_spec(path)
    made = replan(data).spec
    assert made == plan("quadratic(dim=4)", "adam(lr=0.1)/hypergradient", settings=["level2.every=5"], steps=8).spec
    assert [level.every for level in replan(data, settings=["level2.every=7"]).spec.levels] == [1, 7]
    assert len(replan({**data, "depth": 4}).spec.levels) == 4
    assert len(replan({**data, "depth": 4}, depth=3).spec.levels) == 3
    # What is given anew begins without the settings of what it stands for.
    other = replan(data, stack="sgd/hypergradient").spec
    assert (other.task.settings, other.levels[1].every) == ({"dim": 4}, 1)
    assert replan(data, task="quadratic(dim=2)").spec.task.settings == {"dim": 2}
    assert replan(data, task="quadratic(dim=2)").spec.levels[1].every == 5


def test_a_short_spec_runs(recopt: Recopt) -> None:
    write(SHORT_SPEC, "short.yaml")
    done = recopt("run", "--spec", "short.yaml", "--no-track", "--depth", "3")
    assert done.status == 0, done.err
    assert "hypergradient@hypergradient3" in done.out, "three levels, one of which --depth made"


def test_a_run_that_chooses_says_what_and_why_it_ended(recopt: Recopt) -> None:
    # Steps too small to change the rate, so that no score is better than the first.
    write("task: quadratic(dim=2)\nstack: adam(lr=0.1)/sgd(lr=1e-12)\nchoose: {tasks: 3, steps: 5}\n", "s.yaml")
    done = recopt("run", "--spec", "s.yaml", "--steps", "40", "--choose", "every=5, patience=2", "--no-track")
    assert done.status == 0, done.err
    assert "stopped early at step 10 of 40, since the score got no better" in done.out
    assert "Chosen: the values of step 0, by the sum of the losses over 5 updates on each of 3 fresh tasks" in done.out
    assert re.search(r"chosen +0 .*\n *last +10 .*\n *before +0 ", done.out), done.out


def examples(file: str) -> list[str]:
    """The run specs in a page, as they stand there."""
    text = (Path(__file__).parents[2] / file).read_text()
    return [found for found in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "\nstack: " in found]


@pytest.mark.parametrize("file", ["docs/levels.md"])
def test_the_spec_in_the_docs_runs(recopt: Recopt, file: str) -> None:
    [text] = examples(file)
    write(text, "spec.yaml")
    done = recopt("run", "--spec", "spec.yaml", *SHORT)
    assert (done.status, "finished, 6 steps" in done.out) == (0, True), done.err + done.out


def test_an_export_has_what_another_machine_needs(recopt: Recopt, monkeypatch: pytest.MonkeyPatch) -> None:
    write("FACTOR = 0.5\n", "strategies/_helper.py")
    write("import _helper\n" + STEPS.replace("0.1", "_helper.FACTOR"), "strategies/mine.py")
    done = recopt("run", "quadratic", "mine/hypergradient", "--steps", "8", "--name", "first")
    found = re.search(r"rate (\S+)", done.out)
    assert found is not None
    assert recopt("export", "first", "out").out == "out\n"
    assert recopt("export", "first", "out").err.startswith("Error: out is there already")
    Path("elsewhere").mkdir()
    Path("out").rename("elsewhere/out")
    monkeypatch.chdir("elsewhere")
    from recopt.stacks.fetch import read_export

    levels, strategies = read_export(Path("out"))
    assert [level.by for level in levels] == ["mine", "hypergradient"]
    assert f"{float(strategies['mine'].rate):.4g}" == found[1]  # type: ignore[attr-defined]


def test_help_tells_each_command(recopt: Recopt) -> None:
    out = recopt("--help").out
    for command in ("run", "graph", "runs", "ui", "export", "strategies", "tasks", "show", "new", "check"):
        assert re.search(rf"│ {command} ", out), command
    assert "--resume" in recopt("run", "--help").out
    assert recopt("--version").out.startswith("recopt 0.")


def test_summaries_of_plugins_are_words_without_markup(recopt: Recopt) -> None:
    write('"""Plain."""\n' + STEPS.replace("Plain steps.", "Steps of ``lr``, as in `sgd`."), "strategies/mine.py")
    found = recopt("strategies").out
    assert "Steps of lr, as in sgd." in found and "`" not in found
