"""Broken words: seeded command lines and specs, each of which must be good for something or refused in one sentence.

    python benchmarks/fuzz.py [CASES] [SEED]

Each case is a sentence of the grammar of stacks, tasks, settings and specs, most of them changed in a few places by
mutation, and goes through the command line up to the point where a run would start. It must end within ``LIMIT``
seconds as planned (status 0), or with status 2 and one sentence of under ``LONGEST`` characters.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

LIMIT, LONGEST = 60.0, 300
OWN = {
    "sgd": ("lr", "momentum", "weight_decay"), "adam": ("lr", "beta1", "beta2"), "rmsprop": ("lr", "alpha"),
    "adagrad": ("lr", "initial_accumulator_value"), "hypergradient": ("kappa",), "annealing": ("cooling", "step"),
    "random-search": ("population", "spread"), "kesten": (), "dog": ("reach",), "lstm": ("hidden", "layers"),
}  # fmt: skip
"""Strategies, and settings that they have."""
WORDS = (
    "", " ", "\t", "\n", ",", ";", ":", "/", "//", "+", "@", "@a", "(", ")", "[", "]", "{", "}", "=", "==", "!",
    "&a", "*a", "<<", "- ", "? ", "# ", "|", ">", "%", "`", "\0", "\ud800", "é", "🙂", "\u2028", "null", "~",
    "true", "yes", "nan", ".inf", "-1", "0", "1e400", "1e-400", "0x_", "0o8", "1_000", "9" * 30, "9" * 400,
    "9" * 5000, "2024-13-45", "2024-01-01", "12:30:45", "!!timestamp x", "!!bool x", "!!python/object:os.system x",
    "!!binary =", "'", '"', "''", "x" * 300, " " * 3000, "[" * 200, "]]]]", "a.b", "..", "task", "level1",
    "level2.every=2", "adam", "digits", "*", "[*]", "self", "seed", "domains", "params",
    "[" + ",".join(["1"] * 2000) + "]", "{a: 1}", "/".join(["sgd"] * 40), "+".join(["sgd"] * 40),
)  # fmt: skip
KEYS = (
    "every", "episode", "curriculum", "stagger", "gradient", "second_order", "objective", "on", "normalize",
    "teacher", "imitate", "imitate_weight", "penalty_update", "penalty_moved", "schedule", "horizon", "average",
    "trust", "population", "null_step", "guard", "only", "moves", "by", "evry",
)  # fmt: skip
VALUES = (
    "1", "2", "5", "0", "true", "false", "unroll", "online", "value", "direct", "mean", "last", "steps_to: 0.5",
    "valid", "train", "rms", "cosine", "clip", "none", "sgd", "adam(lr=0.1)", "lr", "[lr, beta1]", "8.0", "0.01",
    "'*'",
)  # fmt: skip
Draw = random.Random


class Case(NamedTuple):
    """Arguments of the command line, and the spec that lies in ``spec.yaml``."""

    args: list[str]
    spec: str = ""


def _name(draw: Draw) -> str:
    return (
        draw.choice([*OWN]) if draw.random() < 0.97 else draw.choice(("adamw", "lion", "digits", "lr", "no.py", "./x"))
    )


def _term(draw: Draw, label: float = 0.1) -> str:
    name = text = _name(draw)
    if draw.random() < label:
        text += f"@{draw.choice('abcd')}"
    keys = [*OWN.get(name, ()), *(["x"] if draw.random() < 0.05 else [])]
    if keys and draw.random() < 0.4:
        given = draw.sample(keys, draw.randint(1, len(keys)))
        text += f"({', '.join(f'{key}={_setting_value(key, draw)}' for key in given)})"
    if draw.random() < 0.1:
        text += f"[{draw.choice(('*', 'lr', '*weight', '0.*', 'x', 'lr,beta1'))}]"
    return text


def _setting_value(key: str, draw: Draw) -> str:
    whole = key in ("candidates", "hidden", "layers")
    return draw.choice(("2", "3") if whole else ("0.1", "0.5", "1e-3")) if draw.random() < 0.9 else _value(draw)


def _value(draw: Draw) -> str:
    return draw.choice(("0.1", "1e-3", "0.9", "1", "4", *VALUES)) if draw.random() < 0.8 else draw.choice(WORDS)


def _stack(draw: Draw) -> str:
    layers = draw.choice((1, 1, 2, 2, 3, 4))
    return "/".join("+".join(_term(draw) for _ in range(draw.choice((1, 1, 1, 1, 2)))) for _ in range(layers))


def _task(draw: Draw) -> str:
    name = draw.choice(("quadratic", "quadratic", "rosenbrock", "rastrigin", "rescaled", "mixture"))
    options = ("task=quadratic", "seed=3", "self=1", f"dim={_value(draw)}", f"x={_value(draw)}")
    if name in ("rescaled", "mixture") or draw.random() < 0.6:
        return name
    return f"{name}({draw.choice(options) if draw.random() < 0.2 else 'dim=3'})"


FITTING = {
    "every": ("1", "2", "4"), "episode": ("4", "8"), "gradient": ("unroll", "online", "value", "direct"),
    "average": ("8.0", "true"), "objective": ("mean", "last", "steps_to: 0.5"), "on": ("valid", "train"),
    "normalize": ("rms", "clip", "cosine", "none"), "trust": ("0.1",), "second_order": ("true", "false"),
    "only": ("lr", "'*'", "[lr, beta1]"), "penalty_update": ("0.1",),
}  # fmt: skip


def _pair(draw: Draw) -> tuple[str, str]:
    """A setting of a level, mostly with a value of its kind."""
    key = draw.choice([*FITTING]) if draw.random() < 0.8 else draw.choice(KEYS)
    return key, draw.choice(FITTING.get(key, VALUES)) if draw.random() < 0.8 else _value(draw)


def _setting(draw: Draw) -> str:
    place = draw.choice(("level1", "level2", "level2", "task", "sgd", "adam"))
    if place.startswith("level"):
        return f"{place}.{'='.join(_pair(draw))}"
    key = "dim" if place == "task" else draw.choice(OWN[place])
    return f"{place}.{key}={'3' if key == 'dim' else _setting_value(key, draw)}"


def _choice(draw: Draw) -> str:
    names = draw.sample(("every", "tasks", "steps", "objective", "patience", "x"), draw.choice((1, 2)))
    return ",".join(f"{name}={_value(draw)}" for name in names)


def _quoted(value: str) -> str:
    return f"'{value}'" if ":" in value else value


def _spec(draw: Draw) -> str:
    lines = [f"task: {_task(draw)}"]
    if draw.random() < 0.5:
        lines.append(f"stack: {_stack(draw)!r}")
        if draw.random() < 0.3:
            lines.append(f"depth: {draw.choice(('2', '3', '1000', _value(draw)))}")
        if draw.random() < 0.5:
            lines.append(f"settings: [{', '.join(repr(_setting(draw)) for _ in range(2))}]")
    else:
        slots = [f"s{n}" for n in range(draw.choice((1, 2, 3)))]
        lines.append("strategies:")
        lines += [f"  {slot}: {draw.choice((repr(_term(draw, 0)), '{name: ' + _name(draw) + '}'))}" for slot in slots]
        lines.append("levels:")
        for number in range(len(slots) + draw.choice((0, 0, 0, 1))):
            moves = draw.choice(["task", *slots]) if number else draw.choice(["task"] * 9 + slots)
            by = slots[min(number, len(slots) - 1)] if draw.random() < 0.8 else draw.choice(slots)
            ends = f"moves: {moves}, by: {by}"
            rest = dict(_pair(draw) for _ in range(draw.choice((0, 0, 1, 2))))
            lines.append(f"  - {{{ends}{''.join(f', {key}: {_quoted(value)}' for key, value in rest.items())}}}")
    more = {"steps": 5, "seed": 1, "tasks": 2, "device": "cpu", "dtype": "float64", "measure": 2, "choose": "every=2",
            "plugins": "[]"}  # fmt: skip
    lines += [
        f"{key}: {value if draw.random() < 0.85 else _value(draw)}"
        for key, value in more.items()
        if draw.random() < 0.3
    ]
    return "\n".join(lines)


def _mutated(text: str, draw: Draw) -> str:
    for _ in range(draw.choice((1, 1, 2, 4))):
        at, to = sorted((draw.randint(0, len(text)), draw.randint(0, len(text))))
        piece = draw.choice(WORDS)
        text = draw.choice((
            text[:at] + piece + text[at:], text[:at] + text[min(to, at + 5):], text[:at] + text[at:to] * 2 + text[to:],
            text[:at] + piece + text[min(len(text), at + 3):],
        ))  # fmt: skip
    return text


def cases(count: int, seed: int) -> Iterator[Case]:
    """``count`` cases, all determined by ``seed``."""
    draw = random.Random(seed)
    for _ in range(count):
        change: Callable[[str], str] = (lambda text: _mutated(text, draw)) if draw.random() < 0.55 else str
        kind = draw.random()
        if kind < 0.45:
            args = ["run", "--no-track", "--", _task(draw), _stack(draw)]
            options = [("--set", _setting(draw)), ("--set", _setting(draw)), ("--depth", draw.choice(("2", "4", "60"))),
                       ("--choose", _choice(draw)), ("--steps", draw.choice(("3", "1000000"))), ("--tasks", "2"),
                       ("--measure", "1")]  # fmt: skip
            given = [word for option in draw.sample(options, draw.choice((0, 0, 1, 2))) for word in option]
            args = ["run", "--no-track", *given, "--", *args[3:]]
            at = draw.choice([n for n, word in enumerate(args) if not word.startswith("-") and n > 0])
            args[at] = change(args[at])
            yield Case(args)
        elif kind < 0.9:
            yield Case(["run", "--no-track", "--spec", "spec.yaml"], change(_spec(draw)))
        else:
            name = change(_name(draw))
            args = draw.choice((
                ["show", "--", name], ["check", "--", name], ["new", "task", "--", f"{name} "],
                ["run", "--no-track", "--plugins", name, "--", "quadratic", "sgd"], ["compare", "--spec", "spec.yaml"],
            ))  # fmt: skip
            yield Case(args, change(f"stacks: [sgd]\n{_spec(draw)}"))


class Started(Exception):
    """A run, or a check, would start."""


class Slow(BaseException):
    """A case took longer than ``LIMIT``."""


def outcome(case: Case) -> tuple[str, str]:
    """The outcome of a case in the current folder: ``valid``, ``refused``, or a fault; and what was written."""
    from recopt.cli import main

    Path("spec.yaml").write_bytes(case.spec.encode("utf-8", "surrogatepass"))
    err, out = io.StringIO(), io.StringIO()

    def late(*_: Any) -> None:
        raise Slow

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
            # As a terminal hands them on: bytes that are no UTF-8 arrive as others than they are in a file.
            main([os.fsdecode(word.encode("utf-8", "surrogatepass")) for word in case.args])
    except SystemExit as end:
        return _judged(int(end.code or 0), err.getvalue())
    except Started:
        return "valid", ""
    except Slow:
        return "slow", traceback.format_exc()
    except BaseException:
        return "traceback", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return "no end", ""


def _judged(status: int, said: str) -> tuple[str, str]:
    text = said.removeprefix("Error: ").removesuffix("\n")
    if status == 0:
        return "valid", said
    if status != 2:
        return f"status {status}", said
    if not said.startswith("Error: ") or len(text.splitlines()) != 1 or text[-1:] not in (".", "?"):
        return "no sentence", said
    return ("refused" if len(text) < LONGEST else "long"), said


@contextlib.contextmanager
def before_runs() -> Iterator[None]:
    """Stop every command at the point where something would be trained."""
    import recopt.testing
    from recopt import comparison
    from recopt.running.session import Session

    def start(*_: Any, **__: Any) -> None:
        raise Started

    def compare(spec: Any, *_: Any, **__: Any) -> None:
        comparison.prepare(spec)
        raise Started

    with (
        mock.patch.object(Session, "run", start), mock.patch.object(recopt.testing, "check", start),
        mock.patch.object(recopt.testing, "check_task", start),
        mock.patch.object(comparison, "run_comparison", compare),
    ):  # fmt: skip
        yield


def campaign(count: int, seed: int) -> tuple[Counter[str], list[tuple[Case, str, str]]]:
    """The counts of outcomes, and the cases that ended in none of the two that are right."""
    found, wrong = Counter[str](), list[tuple[Case, str, str]]()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), before_runs():
        for case in cases(count, seed):
            kind, said = outcome(case)
            found[kind] += 1
            if kind not in ("valid", "refused"):
                wrong.append((case, kind, said))
            for left in Path().rglob("*.py"):
                left.unlink()
    return found, wrong


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    numbers = [int(text) for text in sys.argv[1:]]
    began = time.monotonic()
    counts, faults = campaign(*(numbers + [20_000, 0][len(numbers) :]))
    for fault in faults[:40]:
        print(*fault, sep="\n", end="\n\n")
    print(dict(counts), f"in {time.monotonic() - began:.0f} s")
