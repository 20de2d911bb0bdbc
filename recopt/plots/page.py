"""A self-contained HTML page of runs: no script, no font and no picture comes from elsewhere."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..checking.errors import writing
from ..diagnosis.remarks import diagnosis
from ..diagnosis.view import EVALUATIONS, LevelView, RunView, spent_columns
from ..diagnosis.windows import signal_tables
from ..tracking.trace import Points
from .panels import RunPanels, hue
from .style import colour, draw_lines, figure, plain

PAGE = "report.html"
_HEADED = ("task", "stack", "status")
_PANELS = 30
"""The most charts of a section; the table of levels has all values."""
_STYLE = (Path(__file__).parent / "page.css").read_text
_WORDS = """<details class=note><summary>Words on this page</summary><ul>
<li><b>evaluation</b>: one computation of the task's loss, alone or with its gradient, or of a Hessian product</li>
<li><b>meta-loss</b>: what a level above the first lowers; by default the mean loss between two of its steps</li>
<li><b>hypergradient</b>: the gradient of the meta-loss with respect to hyperparameters or learned weights</li>
<li><b>signal</b>: the gradient or hypergradient that a strategy reads; normalized: divided by its size</li>
<li><b>trial</b>: a point that a zero-order strategy proposed, with its meta-loss; accepted, or taken back</li>
<li><b>agreement</b>: the mean cosine between one signal and the next, ± two standard errors: 1 if all point one way, 0
for noise; signal to noise: √(a / (1 − a)) of it</li>
<li><b>guard</b>: the policy that skips, takes back or bounds what would ruin a run</li>
</ul></details>"""
_CHIPS = {"finished": "good", "running": "fair", "interrupted": "fair"}


def write_page(runs: Sequence[RunView], path: Path) -> Path:
    """Write the page of ``runs`` to ``path``, and return it.

    Raises:
        RecoptError: if it cannot be written.
    """
    with writing(path):
        path.write_text(page(runs), encoding="utf-8")
    return path


def page(runs: Sequence[RunView]) -> str:
    """The page of one run, or of several beside each other and then one by one."""
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    parts = [_run(runs[0])] if len(runs) == 1 else [_together(runs), *(_folded(run) for run in runs)]
    return document(title, "\n".join([*parts, _WORDS]))


def document(title: str, body: str) -> str:
    """A whole HTML document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE()}</style></head>\n<body>\n{body}\n"
        "<footer>Written by recopt.</footer></body></html>\n"
    )


def _folded(run: RunView) -> str:
    return f"<details><summary>{escape(run.name)}</summary>{_run(run)}</details>"


def _run(run: RunView) -> str:
    shown = RunPanels(run.trace, run.levels)
    panels = shown.panels()
    about = " · ".join(f"{escape(key)} {escape(value)}" for key, value in run.about.items() if key not in _HEADED)

    def charts(title: str, section: str, note: str = "") -> str:
        return _charts(title, [panel.draw for panel in panels if panel.section == section], shown.last, note)

    stack = escape(run.about.get("stack", run.name))
    return "\n".join([
        f"<header><h1>{escape(run.about.get('task', ''))}</h1><p class=stack>{stack}</p>",
        f"<p>{_chips(run)} {about}</p></header>",
        _cards(run), titled("Diagnosis", f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in diagnosis(run))}</ul>"),
        charts("Losses and metrics", "losses"),
        titled("Levels", f"<div class=split><div class=diagram>{run.diagram}</div>{_levels(run)}</div>"),
        charts("Hyperparameters", "hyperparameters", shown.constants()),
        charts("Signals, before and after normalizing", "signals"), _signals(run),
        _budget(run),
    ])  # fmt: skip


def _chips(run: RunView) -> str:
    return f"<span class='chip {_CHIPS.get(run.status, 'bad')}'>{run.status}</span>"


def titled(title: str, inside: str) -> str:
    """A section of a page; ``inside`` is HTML."""
    return f"<section><h2>{escape(title)}</h2>{inside}</section>"


def number(value: float | None) -> str:
    """A number with four digits, a dash if there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 1000 else f"{value:.4g}"


def _cards(run: RunView) -> str:
    losses = run.trace.series(0, "loss")[1]
    cards = [("training loss", losses[0] if len(losses) else None, losses[-1] if len(losses) else None)]
    cards += [
        (key.replace("_", " "), next(iter(run.trace.series(0, key)[1].tolist()), None), value)
        for key, value in run.metrics.items()
        if key.startswith("test_")
    ]
    cards += [(key, None, round(run.metrics[key], 1)) for key in ("evaluations", "seconds") if key in run.metrics]
    shown = [
        f"<div class=card><b>{number(after)}</b><span>{escape(name)}</span>"
        + (f"<small>from {number(before)}</small>" if before is not None else "")
        + "</div>"
        for name, before, after in cards
    ]
    return f"<div class=cards>{''.join(shown)}</div>"


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table; cells are HTML."""
    names = [escape(head, quote=True) for head in heads]
    rows = [
        [f"<td data-head='{name}'><div>{cell}</div></td>" for name, cell in zip(names, line, strict=True)]
        for line in lines
    ]
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return (
        f"<div class=wide><table><tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>{body}</table></div>"
    )


def _levels(run: RunView) -> str:
    lines = []
    for level in reversed(run.levels):
        values = "<br>".join(_value(key, level.start.get(key, end), end) for key, end in level.end.items())
        what = escape(level.how) or "its gradient"
        lines.append((
            str(level.number), f"<b>{escape(level.name)}</b>", escape(level.moves), what,
            f"<div class=values>{values}</div>", number(level.spent.get("steps")),
        ))  # fmt: skip
    return table(("level", "strategy", "moves", "how", "hyperparameters", "steps"), lines)


def _signals(run: RunView) -> str:
    """Tables of how successive signals of the levels above the first agree, and of windows that were examined."""
    return "".join(
        titled(title, table(heads, [tuple(map(escape, row)) for row in reversed(rows)]))
        for title, heads, rows in signal_tables(run)
    )


def _value(key: str, start: float, end: float) -> str:
    moved = f"{number(start)} → <b>{number(end)}</b>" if start != end else number(end)
    return f"<span class=key>{escape(key)}</span> {moved}"


def _budget(run: RunView) -> str:
    """Evaluations and seconds by level, each with a bar as long as its share of the largest.

    Evaluations are those of the task, of losses and gradients, so that they add up to the run's.
    """
    if not any(level.spent for level in run.levels):
        return ""
    totals = [sum(level.spent.get(key, 0.0) for key in EVALUATIONS) for level in run.levels]
    longest, slowest = max(totals), max(level.spent.get("seconds", 0.0) for level in run.levels)
    columns, lines = spent_columns(level.spent for level in run.levels), []
    for level, total in reversed(list(zip(run.levels, totals, strict=True))):
        seconds = level.spent.get("seconds", 0.0)
        lines.append((
            str(level.number), f"<b>{escape(level.name)}</b>", *(number(level.spent.get(key)) for key in columns),
            _bar(total, longest, level, number(total)), _bar(seconds, slowest, level, f"{seconds:.1f}"),
        ))  # fmt: skip
    heads = ("level", "strategy", *columns.values(), "evaluations", "seconds")
    return titled("Budget by level", table(heads, lines))


def _bar(value: float, longest: float, level: LevelView, words: str) -> str:
    width = 100 * value / longest if longest else 0
    return f"<span class=bar><i style='width:{width:.1f}%;background:{hue(level)}'></i></span>&nbsp;{words}"


def _charts(title: str, draws: Sequence[Callable[[Any], None]], last: int, note: str = "") -> str:
    """A grid of charts, as SVG whose letters are text."""
    notes = [note] if note else []
    if len(draws) > _PANELS:
        notes.append(f"{len(draws) - _PANELS} more are in the table of levels")
    charts = "".join(f"<figure>{_chart(draw, last)}</figure>" for draw in draws[:_PANELS])
    below = f"<p class=note>{escape('. '.join(notes))}.</p>" if notes else ""
    return titled(title, f"<div class=charts>{charts}</div>{below}") if charts or below else ""


def _chart(draw: Callable[[Any], None], last: int) -> str:
    made = figure(4.2, 2.2)
    made.set_layout_engine("none")
    axes = plain(made.add_axes((0.165, 0.18, 0.79, 0.65)))
    draw(axes)
    axes.set_xlim(-0.015 * last, 1.015 * max(last, 1))
    return svg(made)


def svg(made: Any) -> str:
    """A figure as an SVG element whose letters are text."""
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        made.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    text = out.getvalue()
    return text[text.find("<svg") :]


def _together(runs: Sequence[RunView]) -> str:
    """Several runs in one table, and their curves in common charts."""
    tests = list(dict.fromkeys(key for run in runs for key in run.metrics if key.startswith("test_")))
    keys = ["final_loss", *tests, "evaluations", "seconds"]
    lines = [
        (f"<i class=dot style='background:{colour(n)}'></i>&nbsp;{escape(run.name)}",
         escape(run.about.get("task", "")), escape(run.about.get("stack", "")), _chips(run),
         *(number(run.metrics.get(key)) for key in keys))
        for n, run in enumerate(runs)
    ]  # fmt: skip
    heads = ("run", "task", "stack", "status", *(key.replace("_", " ") for key in keys))
    columns = dict.fromkeys(key for run in runs for level, key in list(run.trace.keys()) if level == 0)
    shared = [key for key in columns if key == "loss" or key.startswith("valid")]
    last = max((int(run.trace.series(0, key)[0].max(initial=0)) for run in runs for key in shared), default=0)
    draws = [lambda axes, key=key: _overlay(axes, runs, key) for key in shared]
    return "\n".join([f"<header><h1>{len(runs)} runs</h1></header>", titled("Side by side", table(heads, lines)),
                      _charts("Curves", draws, last)])  # fmt: skip


def _overlay(axes: Any, runs: Sequence[RunView], key: str) -> None:
    names = [run.name if len(run.name) <= 30 else f"{run.name[:28]} …" for run in runs]
    columns = [Points(0, key, *run.trace.series(0, key)) for run in runs]
    lines = [(column, names[n], colour(n)) for n, column in enumerate(columns) if len(column.steps)]
    draw_lines(axes, lines, "Training loss" if key == "loss" else key.replace("_", " ").capitalize(), "", most=4)


def spread(value: tuple[float, float, float]) -> str:
    """A value with the ends of its interval."""
    middle, low, high = value
    if not math.isfinite(low):
        return number(middle)
    return f"{number(middle)} <span class='key values'>({number(low)} to {number(high)})</span>"
