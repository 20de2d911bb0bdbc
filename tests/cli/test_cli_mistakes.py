"""Mistakes on the command line and in specs: one sentence, status 2, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..commands import Recopt, write

# Each mistake: the arguments, and what the one sentence says of the place and the remedy.
MISTAKES = {
    "strategy": (("run", "digits", "adm/sgd"), "Unknown strategy 'adm' in 'adm/sgd'. Did you mean 'adam'?"),
    "task": (("run", "digit", "adam"), "Unknown task 'digit'. Did you mean 'digits'?"),
    "kind": (("run", "digits", "quadratic"), "'quadratic' in 'quadratic' is a task, not a strategy."),
    "order": (("run", "adam", "digits"), "The task comes first: recopt run digits adam."),
    "order of a stack": (
        ("run", "adam(lr=0.1)/sgd", "digits(net=cnn)"),
        "The task comes first: recopt run 'digits(net=cnn)' 'adam(lr=0.1)/sgd'.",
    ),
    "order in a graph": (("graph", "adam", "digits"), "The task comes first: recopt graph digits adam."),
    "order in a comparison": (
        ("compare", "adam", "sgd", "digits", "lstm"),
        "The task comes first: recopt compare digits adam sgd lstm.",
    ),
    "stack for a task": (("run", "adam/sgd"), "The task comes first: recopt run digits adam/sgd."),
    "bound": (("run", "digits", "adam", "--until", "soon"), "In the options: 'until' should read like accuracy>0.97"),
    "rule of torch": (("run", "digits", "adamw"), "adam is AdamW (its weight_decay is decoupled): write adam."),
    "rule of others": (("run", "digits", "Shampoo"), "adam is the nearest; 'recopt new strategy shampoo' begins one."),
    "option of task": (("run", "digits(nett=cnn)", "adam"), "Unknown option 'nett' of digits. Did you mean 'net'?"),
    "value of option": (("run", "digits(net=cmn)", "adam"), "Did you mean 'cnn'?"),
    "hyperparameter": (("run", "digits", "adam(lrr=1)"), "Unknown option 'lrr' of adam. Did you mean 'lr'?"),
    "domain": (("run", "digits", "adam(lr=-1)"), "adam.lr must be a number above 0, not -1."),
    "domain by --set": (("run", "digits", "adam", "--set", "adam.beta1=1.5"), "adam.beta1 must be a number between 0"),
    "twice": (("run", "digits", "adam(lr=1, lr=2)"), "'lr' is given twice in 'adam(lr=1, lr=2)': keep one of them."),
    "task's twice": (("run", "digits(net=mlp,net=cnn)", "adam"), "'net' is given twice in 'digits(net=mlp,net=cnn)'"),
    "tasks": (("run", "digits", "adam", "--tasks", "1000000000"), "1000000000 is not in the range 1<=x<=1000000"),
    "no number": (("run", "digits", "adam(lr=fast)"), "adam.lr must be a number, not 'fast'."),
    "pattern": (("run", "digits", "adam[*wait]"), "[*wait] matches no parameter of 'task'."),
    "pattern above": (("run", "digits", "adam/sgd[lrr]"), "[lrr] matches no parameter of 'adam'. Have: lr, beta1"),
    "setting's form": (("run", "digits", "adam", "--set", "steps"), "'steps' should read like level2.every=20"),
    "setting's level": (
        ("run", "digits", "adam", "--set", "level2.every=3"),
        "There is no level2 in 'level2.every': the graph has one level.",
    ),
    "setting's key": (("run", "digits", "adam/sgd", "--set", "level2.evry=3"), "Did you mean 'every'?"),
    "setting's slot": (("run", "digits", "adam", "--set", "adm.lr=3"), "Unknown name 'adm' in 'adm.lr'."),
    "setting's value": (
        ("run", "digits", "adam/sgd", "--set", "level2.every=x"),
        "In level2: 'every' should be a whole number, not 'x'.",
    ),
    "setting's switch": (
        ("run", "digits", "adam/sgd", "--set", "level2.every=true"),
        "In level2: 'every' should be a number, not True.",
    ),
    "mean above": (("run", "digits", "adam/sgd", "--set", "level2.average=true"), "set it on level 1."),
    "mean's decay": (("run", "digits", "adam", "--set", "level1.average=-1"), "'average' input should be greater"),
    "save-every": (("run", "digits", "adam", "--save-every", "nan"), "should be a number of seconds, not nan"),
    "zero-order beneath": (("run", "digits", "annealing/sgd"), "no gradient passes through level 1"),
    "same parameter": (("run", "digits", "adam+sgd"), "level 1 (adam moves task) moves"),
    "nothing to move": (("run", "digits", "adam/sgd/sgd/sgd[nothing]"), "matches no parameter"),
    "notation": (("run", "digits", "adam//sgd"), "an empty place in stack 'adam//sgd' (level 2)"),
    "bracket": (("run", "digits", "sgd/adam(lr=0.1"), "should read like adam(lr=1e-3): a bracket is not closed."),
    "notation of task": (("run", "digits/x", "adam"), "'digits/x' should name one task"),
    "depth": (("run", "digits", "adam/sgd", "--depth", "1"), "--depth 1 is less than the 2 levels of the stack"),
    "depth without end": (("run", "digits", "adam/sgd", "--depth", "9" * 30), "is more than 1,000 levels: give less."),
    "no stack": (("run", "digits"), "What is to train 'digits'? Give a stack too"),
    "nothing": (("run",), "Give a task and a stack, as in: recopt run digits adam/hypergradient"),
    "choose": (
        ("run", "quadratic", "lstm/adam", "--choose", "evry=5"),
        "no 'choose.evry'. Did you mean 'every'?",
    ),
    "choose's form": (("run", "quadratic", "lstm/adam", "--choose", "every"), "'choose' should read like every=500"),
    "choose of two": (("run", "quadratic", "lstm/adam", "--choose", "every=5)/sgd("), "'choose' should read like"),
    "choose of nothing": (("run", "quadratic", "adam", "--choose", "every=5"), "There is nothing to choose from"),
    "option": (
        ("run", "digits", "adam", "--stepz", "3"),
        "No such option '--stepz'. Did you mean one of: '--set', '--steps', '--store'? See 'recopt run --help'.",
    ),
    "steps in words": (("run", "digits", "adam", "--steps", "ten"), "'ten' is not a whole number."),
    "seconds in words": (("run", "digits", "adam", "--save-every", "ten"), "'ten' is not a number."),
    "steps": (("run", "digits", "adam", "--steps", "0"), "0 is not in the range x>=1"),
    "seed": (
        ("run", "digits", "adam", "--seed", "9223372036854775808"),
        "9223372036854775808 is not in the range 0<=x<=9",
    ),
    "seed's sign": (("run", "digits", "adam", "--seed", "-1"), "-1 is not in the range 0<=x<=9223372036854775807"),
    "dtype": (("run", "digits", "adam", "--dtype", "float16"), "'float16' is not one of 'float32', 'float64'"),
    "command": (("rum",), "No such command 'rum'"),
    "device": (("run", "digits", "adam", "--device", "tpu9"), "The device 'tpu9' is not available"),
    "device without numbers": (("run", "digits", "adam", "--device", "meta"), "The device 'meta' holds no numbers"),
    "batch size": (("run", "digits(batch_size=5000)", "adam"), "there are 1197 training examples: give fewer"),
    "task's file": (("run", "none.py", "adam"), "There is no file 'none.py'"),
    "plugins": (("run", "digits", "adam", "--plugins", "none"), "Plugins cannot be read from 'none'"),
    "spec": (("run", "--spec", "none.yaml"), "The spec none.yaml cannot be read (No such file or directory)"),
    "option too small": (("graph", "digits", "lstm(hidden=0)"), "lstm.hidden must be at least 1, not 0"),
    "memory too small": (("graph", "digits", "blend(memory=1)"), "blend.memory must be at least 2, not 1"),
    "run to resume": (("run", "--resume", "abc"), "There are no runs yet: no store at"),
    "resume of nothing": (("run", "--resume", ""), "There are no runs yet: no store at"),
    "resume and more": (("run", "--resume", "abc", "--seed", "1"), "leave --seed out"),
    "resume and task": (("run", "digits", "adam", "--resume", "abc"), "leave TASK out"),
    "store's kind": (("run", "digits", "adam", "--store", "sqlit:///x.db"), "of an unknown kind 'sqlit'"),
    "store's folder": (("run", "digits", "adam", "--store", "here"), "The store 'here' is a folder"),
    "runs": (("runs",), "There are no runs yet"),
    "ui": (("ui",), "There are no runs yet"),
    "export": (("export", "abc", "out"), "There are no runs yet"),
    "show": (("show", "adm"), "Unknown strategy or task 'adm'. Did you mean 'adam'?"),
    "check": (("check", "none.py"), "There is no file 'none.py'"),
    "picture": (("graph", "digits", "adam", "-o", "x.pdf"), "A graph is drawn to .svg or .png, not 'x.pdf'"),
    "picture's place": (("graph", "digits", "adam", "-o", "no/x.svg"), "The picture cannot be written to no/x.svg"),
    "template elsewhere": (("new", "strategy", "../evil"), "'../evil' is outside of this folder"),
    "absolute template": (("new", "task", "/tmp/evil.py"), "'/tmp/evil.py' is outside of this folder"),
    "template's name": (("new", "task", "3d!"), "'3d!' cannot be the name of a task"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing_behind(recopt: Recopt, tmp_path: Path, name: str) -> None:
    args, says = MISTAKES[name]
    done = recopt(*args)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("Error: ")
    assert says in done.err
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


SPEC = """
task: quadratic
strategies: {adam: adam(lr=0.1), sgd: {name: sgd}}
levels: [{moves: task, by: adam}, {moves: adam, by: sgd}]
steps: 5
"""
SPECS = {
    "extra key": (SPEC + "stepz: 3\n", "In spec.yaml: there is no 'stepz'. Did you mean 'steps'?"),
    "extra key in a level": (SPEC.replace("by: sgd}", "by: sgd, evry: 2}"), "In level2: there is no 'evry'."),
    "extra key in a strategy": (SPEC.replace("name: sgd", "name: sgd, setings: {}"), "Did you mean 'settings'?"),
    "value": (SPEC.replace("steps: 5", "steps: many"), "In spec.yaml: 'steps' should be a whole number, not 'many'."),
    "missing key": (SPEC.replace("task: quadratic", ""), "In spec.yaml: 'task' is missing."),
    "levels": (
        SPEC.replace("[{moves: task, by: adam}, {moves: adam, by: sgd}]", "3"),
        "'levels' should be a list, not 3.",
    ),
    "no YAML": ("task: [", "line 1 is no YAML"),
    "no mapping": ("- 3\n", "The spec spec.yaml should be a mapping"),
    "stack for a strategy": (SPEC.replace("adam(lr=0.1)", "adam/sgd"), "'adam/sgd' in a spec should name one plugin"),
    "bad strategy": (SPEC.replace("adam(lr=0.1)", "'adam(lr'"), "'adam(lr'"),
    "idle strategy": (SPEC.replace("by: sgd}", "by: adam}"), "'sgd'"),
    "estimator": (SPEC.replace("moves: adam, by: sgd", "moves: adam, by: sgd, gradient: value"), "reads gradients"),
    "version": (SPEC + "recopt: 2\n", "'recopt' input should be 1, not 2"),
    "misspelt": ("tsk: quadratic\nstack: adam\n", "In spec.yaml: there is no 'tsk'. Did you mean 'task'?"),
    "misspelt stack": ("task: quadratic\nstak: adam\n", "there is no 'stak'. Did you mean 'stack'?"),
    "misspelt setting": (
        "task: quadratic\nstack: adam\nsetings: []\n",
        "there is no 'setings'. Did you mean 'settings'?",
    ),
    "misspelt in a level": (SPEC.replace("moves: adam,", "move: adam,"), "there is no 'move'. Did you mean 'moves'?"),
    "no stack": (
        "task: quadratic\n",
        "'stack' is missing: name what trains the task, as in stack: adam/hypergradient.",
    ),
    "stack and levels": (
        SPEC + "stack: adam/sgd\n",
        "'stack' stands for strategies and levels: leave 'strategies' out.",
    ),
    "stack's kind": (
        "task: quadratic\nstack: [adam]\n",
        "'stack' should be text like adam/hypergradient, not ['adam']",
    ),
    "settings' kind": ("task: quadratic\nstack: adam\nsettings: a.b=1\n", "'settings' should be a list"),
    "depth's probes": ("task: quadratic\nstack: adam\ndepth: auto\n", "it is recopt run TASK STACK --depth auto"),
    "depth's kind": ("task: quadratic\nstack: adam\ndepth: two\n", "'depth' should be a whole number above 0"),
    "no number": (SPEC.replace("steps: 5", "steps: yes"), "In spec.yaml: 'steps' should be a whole number, not True."),
    "seed": (SPEC + "seed: 9223372036854775808\n", "'seed' input should be less than 9223372036854775808, not 9"),
    "seed's sign": (SPEC + "seed: -1\n", "'seed' input should be greater than or equal to 0, not -1."),
    "comparison": (
        "task: quadratic\nstacks: [adam]\nsteps: 5\n",
        "In spec.yaml 'stacks' belongs to a comparison, not to a run: give the file to 'recopt compare --spec'.",
    ),
    "series": ("baselines: [adam]\neach: [{task: quadratic}]\n", "'each' belongs to a comparison, not to a run"),
    "key twice": (SPEC + "steps: 6\n", "The spec spec.yaml has 'steps' twice, in lines 5 and 6: keep one of them."),
    "key twice in a line": (
        SPEC.replace("by: sgd}", "by: sgd, by: adam}"),
        "spec.yaml has 'by' twice, in line 4: keep",
    ),
    "nested": ("a: " + "[" * 3000, "The spec spec.yaml is nested too deeply"),
    "date": ("task: 2020-13-45\n", "2020-13-45"),
    "depth alone": (SPEC + "depth: 3\n", "'depth' repeats the last strategy of a stack"),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_mistake_in_a_spec_is_one_sentence(recopt: Recopt, tmp_path: Path, name: str) -> None:
    text, says = SPECS[name]
    write(text, "spec.yaml")
    done = recopt("run", "--spec", "spec.yaml")
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1), done.err
    assert says in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]
