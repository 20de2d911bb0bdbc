"""The plan of a run, from text or objects: its resolved spec, graph and task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from ..checking.errors import RecoptError, quoted, shown
from ..contracts.settings import Option, declared
from ..contracts.strategy import Strategy
from ..contracts.task import Task
from ..levels.graph import Graph
from ..levels.level import TASK, Level
from ..levels.notation import parse, parse_one
from ..stacks.build import make_level, make_strategies, make_task, stack_levels, with_settings
from ..stacks.exported import Trained
from ..stacks.fetch import export_folder, is_reference
from ..stacks.listed import Listed, graph_listed, in_notation
from ..stacks.named import Named, deepen, named_of, strategies_of
from ..stacks.origin import check_apart, check_digests, digests, held_by, name_of
from ..stacks.places import canonical, is_export
from .replay import KEPT, replayed
from .spec import COMPARES, LARGEST_SEED, RUNS, SHORT, SWEEPS, SelectionSettings, Spec, make_spec, parsed_choice
from .start import available


class Plan(NamedTuple):
    """A run that is ready to start: a complete ``spec``, and the ``graph`` and ``task`` made from it."""

    spec: Spec
    graph: Graph
    task: Task


def plan(task: str | Path | Task | None, stack: str | Path | Graph | Listed | None, *, depth: int | None = None,
         settings: Sequence[str] = (), replay: str | None = None, **fields: Any) -> Plan:  # fmt: skip
    """Plan a run from text or objects.

    Objects are described in the spec as text, which repeats the run only if their classes can be found by name.

    Args:
        task: a name or a ``.py`` file, with options in brackets (``digits(net=cnn)``), or a task.
        stack: stack notation, innermost first, a strategy, a list of names and strategies, or a graph.
        depth: repeat the last strategy of the stack up to this depth.
        settings: ``level2.every=20``, ``adam.lr=0.1``, ``task.batch_size=64`` …
        replay: a run that task and stack, if None, and all else that is not given are taken from.
        fields: fields of :class:`recopt.running.spec.Spec`, and what else :func:`replan` takes; None leaves one open.

    Raises:
        RecoptError: for unknown names and settings, for graphs that cannot work, for ``settings`` of what is an object,
            and ``settings`` or ``depth`` with a graph.
    """
    task = str(task) if isinstance(task, Path) else task
    stack = str(stack) if isinstance(stack, Path) else stack if stack is None else in_notation(stack)
    if (task is None or stack is None) and replay is None:
        raise RecoptError("Give a task and a stack; with 'replay' they are those of the run, where they are not given.")
    if not isinstance(task, Task) and (stack is None or isinstance(stack, str)):
        return replan({}, task=task, stack=stack, depth=depth, settings=settings, replay=replay, **fields)
    if isinstance(task, Task) and (key := next((x.split("=")[0] for x in settings if x.startswith("task.")), None)):
        given = f"make it so, as {type(task).__name__}({key.removeprefix('task.')}=…)"
        raise RecoptError(f"'{key}' is of a task that was given as an object: {given}.")
    told = {key: fields.pop(key, None) for key in ("stretch", "store")}
    fields = {key: value for key, value in fields.items() if value is not None}
    folders = fields.get("plugins", ())
    if stack is None or isinstance(stack, str):
        spec, graph, _ = replan({}, task="quadratic", stack=stack, depth=depth, settings=settings, replay=replay,
                                **told, **fields)  # fmt: skip
        strategies: Mapping[str, Named] = spec.strategies
        fields |= {key: getattr(spec, key) for key in ("replay", *KEPT[3:]) if replay is not None}
    else:
        if replay is not None:
            raise RecoptError("'replay' puts a record into a stack in words: give that, or none for the run's own.")
        if isinstance(stack, Graph) and (settings or depth is not None):
            raise RecoptError("'depth' and 'settings' are for stacks: put them into the levels of a recopt.Graph.")
        listed = partial(graph_listed, depth=depth, seed=fields.get("seed", 0), folders=folders, settings=settings)
        graph = stack if isinstance(stack, Graph) else listed(stack)
        strategies = {slot: strategy_in_words(s, folders) for slot, s in graph.slots.items()}
    named = task_in_words(task, folders) if isinstance(task, Task) else task_named(task or "")
    spec = make_spec({**fields, "task": named, "strategies": strategies, "levels": graph.levels})
    made = task if isinstance(task, Task) else make_task(named, spec.seed, spec.plugins)
    return Plan(_complete(spec, graph, made), graph, made)


def replan(
    data: Mapping[str, Any], *, task: str | None = None, stack: str | None = None, depth: int | None = None,
    settings: Sequence[str] = (), choose: str | Mapping[str, Any] | None = None, where: str = "the spec",
    replay: str | None = None, stretch: bool | None = None, store: str | None = None, **fields: Any,
) -> Plan:  # fmt: skip
    """Plan a run from a spec's mapping; the other arguments override it.

    The mapping may have ``stack``, ``depth`` and ``settings``, as :func:`plan` takes them, instead of ``strategies``
    and ``levels``, and ``replay``, a run in ``store`` that all that is not said is taken from, with ``stretch``.
    Arguments and errors are those of :func:`plan`; ``where`` names the mapping in error messages.
    """
    data, (own, deep, kept) = _short(data, where)
    source, stretched = replayed(data, replay, stretch, where, store)
    data = data if source is None else {**source.base(), **data}
    data |= {key: value for key, value in fields.items() if value is not None}
    if choose is not None:
        was, now = parsed_choice(data.get("choose")), parsed_choice(choose)
        data["choose"] = {**was, **now} if isinstance(was, Mapping) and isinstance(now, Mapping) else now
    # A new stack or task drops the settings that the mapping has for the old one.
    given = [stack if text.partition(".")[0] != TASK else task for text in kept]
    settings = [*(text for text, anew in zip(kept, given, strict=True) if anew is None), *settings]
    if stack is None:
        stack, depth = own, deep if depth is None else depth
    if task is not None:
        data["task"] = task_named(task).model_dump()
    if stack is not None:
        data |= _stacked(stack, depth, data.get("plugins") or [])
    elif depth is not None:
        raise RecoptError("'depth' repeats the last strategy of a stack: give the stack too.")
    if settings:
        data = with_settings(make_spec(data, where).model_dump(exclude_unset=True, mode="json"), settings)
    made = resolve(data, where)
    if source is None:
        return made
    source.refuse(settings, made.graph)
    return resolve(source.stand_in(made.spec, made.graph, stretched), where)


def _short(data: Mapping[str, Any], where: str) -> tuple[dict[str, Any], tuple[str | None, int | None, list[str]]]:
    """Split a spec's mapping into the values of :data:`.spec.SHORT` (stack, depth, settings) and the rest."""
    if (found := sorted(COMPARES & data.keys())) and not RUNS & data.keys():
        raise RecoptError(
            f"In {where} '{found[-1]}' belongs to a comparison, not to a run: give the file to 'recopt compare --spec'."
        )
    if found := sorted(SWEEPS & data.keys()):
        raise RecoptError(f"In {where} '{found[0]}' belongs to a sweep, not to a run: give the file to 'recopt sweep'.")
    rest = {key: value for key, value in data.items() if key not in SHORT}
    stack, depth, settings = (data.get(key) for key in SHORT)
    if stack is not None and not isinstance(stack, str):
        raise RecoptError(f"In {where}: 'stack' should be text like adam/hypergradient, not {quoted(stack)}.")
    if double := [key for key in ("strategies", "levels") if stack is not None and key in rest]:
        raise RecoptError(f"In {where}: 'stack' stands for strategies and levels: leave '{double[0]}' out.")
    if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int) or depth < 1):
        how = ": it is recopt run TASK STACK --depth auto, without a spec" if depth == "auto" else ""
        raise RecoptError(f"In {where}: 'depth' should be a whole number above 0, not {quoted(depth)}{how}.")
    listed = [] if settings is None else settings
    if not isinstance(listed, list) or not all(isinstance(text, str) for text in listed):
        raise RecoptError(f"In {where}: 'settings' should be a list like [level2.every=20], not {quoted(settings)}.")
    folders = data.get("plugins") or []
    if not isinstance(folders, list) or not all(isinstance(folder, str) for folder in folders):
        raise RecoptError(f"In {where}: 'plugins' should be a list of folders and files, not {quoted(folders)}.")
    return rest, (stack, depth, listed)


def _stacked(stack: str, depth: int | None, folders: Sequence[str]) -> dict[str, Any]:
    """A stack as the ``strategies`` and ``levels`` of a spec, before defaults are filled in."""
    if is_reference(stack):
        raise RecoptError(f"'{stack}' is in a store, where only recopt.Optimizer looks: give an export of its run.")
    if folder := export_folder(stack):
        if not is_export(folder):
            raise RecoptError(f"'{stack}' is a folder, not a stack, and no export: 'recopt export RUN DIR' writes one.")
        stack, folders = canonical(folder.resolve().name), [str(folder), *folders]
    layers = deepen(parse(stack), depth)
    found = strategies_of(layers)
    levels = stack_levels(layers, make_strategies(found, 0, folders, f"in '{shown(stack)}'"))
    return {
        **({"plugins": list(folders)} if folder else {}),
        "strategies": {slot: named.model_dump() for slot, named in found.items()},
        "levels": [level.model_dump(exclude_unset=True, mode="json") for level in levels],
    }


def task_named(text: str) -> Named:
    """Parse a task: a name or a ``.py`` file, with options in brackets. Raises RecoptError for anything else."""
    if text.endswith(".py"):
        return Named(name=text)
    name, bracket, rest = text.partition(".py(")
    if bracket:
        term = parse(f"file({rest}")[0][0]
        return Named(name=f"{name}.py", settings=term.settings)
    refusal = RecoptError(
        f"'{shown(text)}' should name one task, like digits or digits(net=cnn), or a file, my_task.py."
    )
    term = parse_one(text, refusal)
    if term.only:
        raise refusal
    return Named(name=term.name, settings=term.settings)


def resolve(data: Mapping[str, Any], where: str = "the spec") -> Plan:
    """Check and complete a spec's mapping, and make its graph and task."""
    levels = data.get("levels")
    for number, level in enumerate(levels if isinstance(levels, list) else [], 1):
        if isinstance(level, Mapping):
            make_level(level, number)
    spec = _with_teachers(make_spec(data, where))
    slots = make_strategies(spec.strategies, spec.seed, spec.plugins)
    for number, level in enumerate(spec.levels, 1):
        if level.teacher in slots and slots[level.teacher].learned and not isinstance(slots[level.teacher], Trained):
            raise RecoptError(
                f"Level {number}: '{spec.strategies[level.teacher].name}' has learned nothing that it could teach: "
                "name an export, or a rule that is not learned, as in teacher=adam(lr=0.01)."
            )
    task = make_task(spec.task, spec.seed, spec.plugins)
    graph = Graph(spec.levels, slots, labels=spec.labels)
    return Plan(_complete(spec, graph, task), graph, task)


def _with_teachers(spec: Spec) -> Spec:
    """``spec`` with each teacher that is given as text (``adam(lr=0.01)``) in a slot of its own."""
    strategies, levels = dict(spec.strategies), list[Level]()
    for level in spec.levels:
        if level.teacher is None or level.teacher in strategies:
            levels.append(level)
            continue
        named = Named.model_validate(named_of(level.teacher))
        free = (f"teacher{n}" if n > 1 else "teacher" for n in count(1))
        slot = next(name for name in free if strategies.get(name, named) == named)
        strategies[slot] = named
        levels.append(level.model_copy(update={"teacher": slot}))
    return spec.model_copy(update={"strategies": strategies, "levels": levels})


def _complete(spec: Spec, graph: Graph, task: Task) -> Spec:
    strategies = [(spec.strategies[slot].name, type(strategy)) for slot, strategy in graph.slots.items()]
    strategies += held_by(graph.slots.values())
    check_apart(rule for _, rule in strategies)
    now = digests((spec.task.name, type(task)), strategies)
    check_digests(spec.digests, now)
    every = spec.measure if spec.measure is not None else max(1, spec.steps // 10)
    if (asked := "until" if spec.until else "patience" if spec.patience else "") and not every:
        raise RecoptError(f"'{asked}' needs measurements, and measure=0 makes none in between: leave one of them out.")
    filled = {slot: named.model_copy(update={"settings": {**named.settings, **graph.strides[slot]}})
              for slot, named in spec.strategies.items() if slot in graph.strides}  # fmt: skip
    device = available() if spec.device == "auto" else spec.device
    return spec.model_copy(update={"device": device, "levels": graph.levels, "measure": every,
                                   "choose": _chooses(spec, graph), "strategies": {**spec.strategies, **filled},
                                   "digests": now})  # fmt: skip


def _chooses(spec: Spec, graph: Graph) -> SelectionSettings | None:
    """The complete ``choose`` settings. Raises RecoptError if no level trains the rule that moves the task."""
    if spec.choose is None:
        return None
    rules = {level.by for level in graph.levels if level.moves == TASK}
    if not any(level.moves in rules for level in graph.levels):
        raise RecoptError(
            f"There is nothing to choose from: no level moves {' or '.join(sorted(rules))}. Leave 'choose' out, or put "
            "a level above, as in lstm/adam."
        )
    if spec.seed >= LARGEST_SEED:
        raise RecoptError(f"With 'choose' the seed must be below {LARGEST_SEED:,}: the rest is kept for its tasks.")
    every, wanted = spec.choose.every or max(1, spec.steps // 20), spec.choose.descendants
    if wanted > (scores := spec.steps // every):
        raise RecoptError(
            f"choose.descendants={wanted:,} asks for as many scores after a candidate's own, and {spec.steps:,} steps "
            f"with a score every {every:,} have {scores:,}: lower it or choose.every, or give more steps."
        )
    return spec.choose.model_copy(update={"every": every})


def strategy_in_words(strategy: Strategy, folders: Sequence[str]) -> Named:
    """A strategy by the name that finds its class again, with the settings that it was made with."""
    settings = {key: value for key, value in strategy._made_with.items() if key != "domains"}
    domains = dict(strategy._made_with["domains"] or {})
    return Named(name=name_of("strategy", type(strategy), folders), settings=settings, domains=domains)


def task_in_words(task: Task, folders: Sequence[str]) -> Named:
    """A task likewise."""
    options = declared(type(task), Option)
    settings = {key: value for key, value in task._options.items() if value != options[key].default}
    return Named(name=name_of("task", type(task), folders), settings=settings)
