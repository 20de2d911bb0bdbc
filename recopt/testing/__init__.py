"""The conformance battery for strategies, for authors of plugins and for the shipped strategies.

    from recopt.testing import assert_conforms

    def test_my_rule_conforms():
        assert_conforms(MyRule)                       # or a factory: lambda: MyRule(momentum=0.9)

``RULES`` has one function per property, in the order of the checks; a finding says what to correct. If one of the
``BASIC`` properties fails, the later ones are skipped, as they would only repeat it. The battery needs no test
framework, leaves torch's global generator alone, and takes well under a second for a small strategy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..contracts.strategy import Strategy
from ..stacks.plugins import sources_of
from . import answers, derivatives, form, probe, texts
from .probe import Broken
from .tasks import TASK_BASIC, TASK_RULES, MakeTask

Make = Callable[[], Strategy]

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
        found += _tried("imports", lambda _: form.imports(source, beside), strategy)
    for name, rule in RULES.items():
        found += _tried(name, rule, strategy)
        if name in BASIC and any(f.rule == name for f in found):
            break
    return found


def assert_conforms(strategy: Make, source: str | None = None) -> None:
    """Raise AssertionError with every finding of :func:`check`, one a line, if there is any."""
    found = check(strategy, source)
    if found:
        name = getattr(strategy, "__name__", "The strategy")
        raise AssertionError("\n".join([f"{name} does not conform:", *map(str, found)]))


def _tried(name: str, rule: Callable[[Make], None], strategy: Make) -> list[Finding]:
    def made() -> Strategy:
        with probe.seeded():  # learned weights may be drawn from torch's global generator
            return strategy()

    try:
        with probe.seeded():
            rule(strategy if name == "settings" else made)
    except Broken as why:
        return [Finding(name, str(why))]
    except Exception as why:
        return [Finding(name, f"this could not be tried, for it raised {type(why).__name__}: {why}")]
    return []


def check_task(task: MakeTask) -> list[Finding]:
    """The findings on a task, one per property that fails. ``task`` is the class, or makes one from ``seed=``."""
    found: list[Finding] = []
    for name, rule in TASK_RULES.items():
        try:
            with probe.seeded():
                rule(task)
        except Broken as why:
            found.append(Finding(name, str(why)))
        except Exception as why:
            found.append(Finding(name, f"this could not be tried, for it raised {type(why).__name__}: {why}"))
        if found and found[-1].rule == name and name in TASK_BASIC:
            break
    return found
