"""Graphs that cannot work, each refused before it runs with the level, the reason and the remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NoReturn

from ..checking.errors import RecoptError, quoted, shown, unknown
from ..contracts.strategy import Strategy
from . import cosines
from .level import BILEVEL, COSINES, DIRECT, INIT, LOSS, MOST_LEVELS, SETTINGS_OF, TASK
from .registry import ESTIMATORS
from .structure import Structure


def _refuse(graph: Structure, number: int, why: str) -> NoReturn:
    raise RecoptError(f"Level{graph.title(number).removeprefix('level')}: {why}")


def check_strategies(slots: Mapping[str, object]) -> None:
    """Refuse slots that hold no strategy."""
    for slot, held in slots.items():
        if not isinstance(held, Strategy):
            hint = f"the class {held.__name__}: write {held.__name__}()" if isinstance(held, type) else quoted(held)
            raise RecoptError(f"Slot '{shown(slot)}' of the graph must hold a strategy, not {hint}.")


def check_slots(graph: Structure) -> None:
    """Refuse slots that do not exist, move nothing or have a reserved name."""
    if len(graph.levels) > MOST_LEVELS:
        raise RecoptError(f"The graph has {len(graph.levels):,} levels, more than {MOST_LEVELS:,}: give fewer.")
    if not graph.levels:
        raise RecoptError("The graph has no level, so nothing moves: give at least one, e.g. 'adam'.")
    if TASK in graph.slots:
        raise RecoptError("A strategy's slot cannot be called 'task': that is the model. Give it another label.")
    for name in BILEVEL:
        if name in graph.slots:
            raise RecoptError(f"A strategy's slot cannot be called '{name}': that is the task's. Use another label.")
    for number, level in enumerate(graph.levels):
        if level.by not in graph.slots:
            raise unknown("slot", level.by, graph.slots, f"in level{number + 1}.by")
        if level.moves not in (TASK, *BILEVEL, *graph.slots):
            raise unknown("slot", level.moves, [TASK, *BILEVEL, *graph.slots], f"in level{number + 1}.moves")
        if level.teacher is not None and level.teacher not in graph.slots:
            raise unknown("slot", level.teacher, graph.slots, f"in level{number + 1}.teacher")
    idle = set(graph.slots) - {level.by for level in graph.levels} - {level.teacher for level in graph.levels}
    if idle:
        raise RecoptError(f"Strategy '{min(idle)}' moves nothing: give it a level or leave it out.")
    if graph.levels[0].moves != TASK:
        _refuse(graph, 0, "the first level must move the task; number the levels from the innermost.")


def check_level(graph: Structure, number: int) -> None:
    """Refuse a level (0-based) that cannot work, as far as the parameters of what it moves are known."""
    refuse = partial(_refuse, graph, number)
    level = graph.levels[number]
    names = graph.names.get(level.moves)
    if names is not None and not graph.moved(number, names):
        if level.only:
            asked, have = shown(" ".join(level.only)), shown(", ".join(names) or "none", 120)
            refuse(f"[{asked}] matches no parameter of '{level.moves}'. Have: {have}.")
        refuse(f"'{level.moves}' has nothing to move: it declares no parameter.")
    for what, whose in SETTINGS_OF.items():
        if getattr(level, what) is not None and level.gradient != whose:
            refuse(f"'{what}' is of gradient={whose}: set that too, or drop it.")
    if not level.perturbs and (level.sigma is not None or level.pairs is not None):
        refuse("'sigma' and 'pairs' are those of perturbed points: set gradient=es, pes or nres, or leave them out.")
    if (level.schedule != "constant") != (level.horizon is not None):
        refuse("a schedule goes with its length: set both 'schedule' and 'horizon', or neither.")
    _check_teacher(graph, number)
    if level.moves == LOSS:
        _check_loss_level(graph, number)
    if level.moves == INIT:
        _check_init_level(graph, number)
    if level.moves == TASK:
        _check_task_level(graph, number)
    else:
        _check_upper_level(graph, number)
    if graph.order(number) == 0 and level.normalize != "none":
        refuse(f"a zero-order strategy reads no signal to normalize: drop normalize={level.normalize}.")


def _check_task_level(graph: Structure, number: int) -> None:
    refuse = partial(_refuse, graph, number)
    level = graph.levels[number]
    wanted = "direct" if graph.order(number) else "value"
    if level.gradient != wanted:
        refuse(f"a level that moves the task has gradient={wanted}, not {level.gradient}.")
    if level.every != 1:
        refuse("a level that moves the task steps at every evaluation: drop 'every'.")
    if level.episode is not None or level.curriculum is not None or level.stagger:
        refuse("'episode' says when the slot below starts afresh, and there is none below the task.")
    if level.normalize in COSINES:
        refuse(f"normalize={level.normalize} compares updates with what came after them: use it above level 1.")
    if level.average is not None and graph.slots[level.by].keeps_mean():
        refuse(f"'{level.by}' keeps a mean of its own: drop 'average'.")
    if level.on != "train" or level.objective != "mean" or level.second_order:
        refuse("on, objective and second_order score a strategy: set them on the level above.")


def _check_upper_level(graph: Structure, number: int) -> None:
    refuse = partial(_refuse, graph, number)
    level, subjects = graph.levels[number], graph.subjects[number]
    if level.average is not None:
        refuse("'average' is of what moves the model: set it on level 1.")
    if not subjects:
        refuse(f"no lower level moves by '{level.moves}', so nothing scores it: put it above one that does.")
    if graph.order(number) == 0:
        if level.gradient != "value":
            refuse(f"'{level.by}' is zero-order and reads values only: set gradient=value, not {level.gradient}.")
    else:
        if level.gradient == DIRECT or not ESTIMATORS[level.gradient or ""].gradients:
            refuse(f"'{level.by}' reads gradients: set gradient=unroll or online, or put a zero-order strategy here.")
        _check_smooth(graph, number)
    if (why := ESTIMATORS[level.gradient or ""].refusal(graph, number) or cosines.refusal(graph, number)) is not None:
        refuse(why)
    if level.second_order:
        _check_exact(graph, number)
    if level.episode is not None and level.every and level.episode % level.every:
        near = level.every * max(1, round(level.episode / level.every))
        refuse(f"an episode of {level.episode} does not hold whole windows of {level.every}: use {near}.")
    if level.curriculum is not None and level.episode is None:
        refuse("'curriculum' is how fast episodes grow, and there are none: set 'episode' too.")
    if level.stagger:
        _check_stagger(graph, number)
    if level.on == "valid" and any(graph.levels[m].moves != TASK for m in subjects):
        refuse("on=valid needs a task right below: set it on the level over level 1.")


def _check_loss_level(graph: Structure, number: int) -> None:
    refuse = partial(_refuse, graph, number)
    level = graph.levels[number]
    if any(m > number for m in graph.movers[TASK]):
        refuse("it is scored by the levels that move the task: number it above all of them.")
    if level.taping and not level.second_order:
        refuse("parameters of a loss act on what comes after by second derivatives alone: leave 'second_order' and "
               "'gradient' out, or put a zero-order strategy here.")  # fmt: skip
    if level.normalize in COSINES:
        refuse(f"normalize={level.normalize} compares updates with what came after them, and no update is proportional "
               "to the parameters of a loss: set normalize=rms.")  # fmt: skip


def _check_init_level(graph: Structure, number: int) -> None:
    """Every step of such a level begins an episode, and no other level may begin one."""
    refuse = partial(_refuse, graph, number)
    level = graph.levels[number]
    if any(m > number for m in graph.movers[TASK]):
        refuse("it is scored by the levels that move the task: number it above all of them.")
    if level.episode is None:
        refuse(f"nothing ever starts from what it moves, as there are no episodes: set how many steps of the task one "
               f"has, as in --set level{number + 1}.episode=5.")  # fmt: skip
    if level.every != level.episode:
        refuse(f"a start is scored over a whole episode: leave 'every' out, or set it to {level.episode}.")
    if level.normalize in COSINES:
        refuse(f"normalize={level.normalize} compares updates with what came after them, and a start is none: drop it.")
    if level.curriculum or any(other.stagger for other in graph.levels):
        refuse("all tasks start where it steps, and its episodes have one length: drop 'curriculum' and 'stagger'.")


def refuse_disconnected(graph: Structure, number: int, index: Sequence[int]) -> NoReturn:
    """Refuse a level that never had a hypergradient by what it moves, at the places ``index`` of its slot."""
    slot = graph.levels[number].moves
    names = shown(", ".join(graph.names[slot][i] for i in index), 120)
    what, mend = f"the updates of '{slot}'", "Read parameters inside the strategy's forward, without detaching them."
    if slot in BILEVEL:
        what, mend = "gradients of the training loss", "Read them in training_loss(), where they change its gradients."
    raise RecoptError(f"Level {number + 1} gets no hypergradient: {what} do not depend on {names}. {mend}")


def _check_smooth(graph: Structure, number: int) -> None:
    """Refuse a level along gradients over what has none."""
    level = graph.levels[number]
    if level.moves in BILEVEL:
        return
    names, domains = graph.names[level.moves], graph.slots[level.moves]._domains
    moved = [names[i] for i in graph.moved(number, names)]
    rough = [name for name in moved if name in domains and not domains[name].smooth]
    if rough:
        others = ",".join(name for name in moved if name not in rough) or "…"
        kind = {"choice": "choice"}.get(domains[rough[0]].name, "whole number")
        _refuse(graph, number, f"'{rough[0]}' of '{level.moves}' is a {kind}, which has no gradient: move it by a "
                f"zero-order strategy such as annealing, or leave it out: {level.by}[{others}].")  # fmt: skip


def _check_teacher(graph: Structure, number: int) -> None:
    refuse = partial(_refuse, graph, number)
    level = graph.levels[number]
    if level.teacher is None:
        if level.imitate is not None:
            refuse("'imitate' needs somebody to imitate: set 'teacher', as in teacher=adam(lr=0.01).")
        return
    teacher = graph.slots[level.teacher]
    if level.moves in (TASK, *BILEVEL):
        refuse("a teacher is for the level that trains a rule: set it on the level above.")
    if level.imitate is None:
        refuse(f"'{level.teacher}' teaches for how long? Set 'imitate' to a number of steps.")
    if level.teacher == level.moves:
        refuse(f"'{level.moves}' cannot teach itself: name another rule.")
    if teacher.order == 0:
        refuse(f"'{level.teacher}' is zero-order, so its steps are trials and no updates to imitate: "
               "take a rule that reads gradients.")  # fmt: skip
    if teacher.level.get("normalize") in COSINES:
        refuse(f"'{level.teacher}' reads cosines of updates with what came after them, which the level "
               "below does not have: take another rule.")  # fmt: skip
    if any(graph.order(m) == 0 for m in graph.subjects[number]):
        refuse(f"'{level.moves}' is zero-order and has no updates that follow from a gradient: drop 'teacher'.")


def _check_exact(graph: Structure, number: int) -> None:
    """Refuse what no exact level differentiates through: zero-order groups, and steps of others in its windows."""
    refuse = partial(_refuse, graph, number)
    within = graph.within(number)
    or_not = "" if graph.levels[number].moves == LOSS else " or second_order=false here"
    for m in sorted(within):
        if graph.levels[m].tries:
            why = f"its gradient={graph.levels[m].gradient} is estimated from trials"
            why = why if graph.order(m) else f"'{graph.levels[m].by}' is zero-order"
            refuse(f"no gradient passes through {graph.title(m)}, since {why}: set second_order=false.")
    for n, other in enumerate(graph.levels):
        if n in {number, *within} or number in graph.below(n) or other.tries:
            continue  # the choice of a level that tries points has no derivative but where it jumps
        if other.taping and not other.second_order and within & set(graph.subjects[n]):
            refuse(f"{graph.title(n)} drops second derivatives of the same updates: "
                   f"set level{n + 1}.second_order=true{or_not}.")  # fmt: skip
        if graph.evaluations(n) % graph.evaluations(number):
            refuse(f"{graph.title(n)} steps within its windows, which no exact derivative passes "
                   f"through: let them step together{or_not and ', or set second_order=false'}.")  # fmt: skip


def check_movers(graph: Structure) -> None:
    """Refuse two levels that move one parameter, or end the episodes of one slot at different times."""
    episodes: dict[str, int] = {}
    for number, level in enumerate(graph.levels):
        for m in range(number):
            names = graph.names.get(level.moves)
            if graph.levels[m].moves != level.moves or names is None:
                continue
            both = set(graph.moved(m, names)) & set(graph.moved(number, names))
            if both:
                why = f"{graph.title(m)} moves '{names[min(both)]}' too: give them disjoint 'only' patterns."
                _refuse(graph, number, why)
        for m in graph.subjects[number] if level.episode else []:
            slot = graph.levels[m].moves
            _check_episodes(graph, number, episodes.setdefault(slot, number), slot)
            for n in graph.above[m]:
                _check_windows(graph, n, number)


def _check_episodes(graph: Structure, number: int, first: int, slot: str) -> None:
    refuse = partial(_refuse, graph, number)
    level, other = graph.levels[number], graph.levels[first]
    ends = f"{graph.title(first)} ends episodes of '{slot}'"
    if other.episode != level.episode:
        refuse(f"{ends} after {other.episode} steps: use the same length.")
    for key in ("curriculum", "stagger", "every") if level.curriculum or other.curriculum or level.stagger else ():
        theirs = getattr(other, key)
        if theirs != getattr(level, key):
            said = "none" if theirs is None else str(theirs).lower()
            refuse(f"{ends} with {key}={said}: use the same, so that they agree.")


def _check_windows(graph: Structure, number: int, other: int) -> None:
    """Refuse windows that the episodes of another level cut off before they are full."""
    every, episode = graph.levels[number].every, graph.levels[other].episode
    if every and episode and every > episode:
        _refuse(graph, number, f"{graph.title(other)} ends episodes after {episode} steps, so that its windows of "
                f"{every} are never full: set level{number + 1}.every to {episode} or less.")  # fmt: skip


def _check_stagger(graph: Structure, number: int) -> None:
    """Tasks start afresh where a window closes; no other window may be open over them then."""
    refuse = partial(_refuse, graph, number)
    level = graph.levels[number]
    if level.episode is None:
        refuse("'stagger' is for episodes, and there are none: set 'episode' too.")
    if any(graph.levels[m].moves != TASK for m in graph.subjects[number]):
        refuse("'stagger' is for tasks side by side: set it on the level over level 1.")
    for m in graph.subjects[number]:
        if graph.levels[m].average is not None:
            refuse(f"'stagger' starts tasks afresh by turns, and the mean of {graph.title(m)} is of tasks of one age: "
                   "drop 'average' there.")  # fmt: skip
    for n, other in enumerate(graph.levels):
        if n == number or not any(graph.levels[m].moves == TASK for m in graph.subjects[n]):
            continue
        if (other.every, other.tries) != (level.every, level.tries):
            refuse(f"'stagger' starts tasks afresh where windows close, and {graph.title(n)} has windows of "
                   f"{other.every}: give both the same 'every' and kind of gradient, or drop it.")  # fmt: skip
