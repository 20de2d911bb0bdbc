"""The conformance battery for strategies, for authors of plugins and for the shipped strategies.

    from recopt.testing import assert_conforms

    def test_my_rule_conforms():
        assert_conforms(MyRule)                       # or a factory: lambda: MyRule(momentum=0.9)

``RULES`` has one function per property, in the order of the checks; a finding says what to correct. If one of the
``BASIC`` properties fails, the later ones are skipped, as they would only repeat it. The battery needs no test
framework, leaves torch's global generator alone, and takes well under a second for a small strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from ..contracts.strategy import Strategy
from ..stacks.plugin_file import sources_of
from . import answers, derivatives, form, probe, texts
from .probe import Broken, Make
from .tasks import TASK_BASIC, TASK_RULES, MakeTask

RULES: dict[str, Callable[[Make], None]] = {
    rule.__name__: rule
    for rule in (
        form.settings,
        form.documented,
        form.signature,
        form.order,
        form.runs,
        answers.shapes,
        answers.empty,
        answers.eval_points,
        answers.purity,
        answers.repeatable,
        answers.fresh_state,
        answers.plain_state,
        answers.steady_state,
        answers.lost_trials,
        derivatives.zero_gradients,
        derivatives.derivatives,
        derivatives.patched,
        derivatives.many_tasks,
        texts.back_ends,
        texts.reads,
        texts.linear,
    )
}
BASIC = frozenset({"settings", "signature", "order", "runs"})
"""Properties that the later ones depend on."""


@dataclass(frozen=True)
class Finding:
    """A property that does not hold: its name in ``RULES``, and one sentence that says what to correct."""

    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.message}"


def check(strategy: Make, source: str | None = None) -> list[Finding]:
    """The findings on every property; empty if all hold.

    Args:
        strategy: the class, or a function that makes an instance.
        source: the text of the plugin's file; if given, its imports are checked too.
    """
    found: list[Finding] = []
    if source is not None:
        sources = sources_of(strategy) if isinstance(strategy, type) else {}
        beside = {file.relative_to(next(iter(sources)).parent).parts[0].removesuffix(".py") for file in sources}
        found += _tried("imports", partial(form.imports, source, beside))

    def made() -> Strategy:
        with probe.seeded():  # learned weights may be drawn from torch's global generator
            return strategy()

    return found + _findings({name: partial(rule, strategy if name == "settings" else made)
                              for name, rule in RULES.items()}, BASIC)  # fmt: skip


def check_task(task: MakeTask) -> list[Finding]:
    """The findings on a task, one per property that fails. ``task`` is the class, or makes one from ``seed=``."""
    return _findings({name: partial(rule, task) for name, rule in TASK_RULES.items()}, TASK_BASIC)


def assert_conforms(strategy: Make, source: str | None = None) -> None:
    """Raise AssertionError with every finding of :func:`check`, one a line, if there is any."""
    found = check(strategy, source)
    if found:
        name = getattr(strategy, "__name__", "The strategy")
        raise AssertionError("\n".join([f"{name} does not conform:", *map(str, found)]))


def _findings(rules: Mapping[str, Callable[[], None]], basic: frozenset[str]) -> list[Finding]:
    """The findings of ``rules`` in turn, up to the first on one of the ``basic``."""
    found: list[Finding] = []
    for name, rule in rules.items():
        found += _tried(name, rule)
        if name in basic and found and found[-1].rule == name:
            break
    return found


def _tried(name: str, rule: Callable[[], None]) -> list[Finding]:
    try:
        with probe.seeded():
            rule()
    except Broken as why:
        return [Finding(name, str(why))]
    except Exception as why:
        return [Finding(name, f"this could not be tried, for it raised {type(why).__name__}: {why}")]
    return []
