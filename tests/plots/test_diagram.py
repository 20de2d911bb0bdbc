"""Pictures of graphs: every slot and every level is in them, whatever the graph's form."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

import recopt
from recopt.checking.errors import RecoptError
from recopt.levels.level import Level
from recopt.levels.paces import Paces
from recopt.levels.registry import TRANSFORMS
from recopt.levels.structure import Structure
from recopt.levels.words import how
from recopt.plots.diagram import draw, draw_file, draw_text
from recopt.running.plan import plan

STACKS = {
    "one": "adam",
    "tower": "adam/hypergradient/annealing",
    "groups": "adam(lr=0.001)[*weight]+sgd[*bias]/annealing",
    "self-loop": "sgd@a/sgd@a",
    "tied": "sgd/sgd@b/sgd@b",
    "taught": "lstm/adam",
    "shared": "adam/hypergradient@h/hypergradient@h",
    "cycle": "sgd@a/sgd@b/sgd@a",
    "tall": "/".join(["adam"] + ["sgd"] * 11),
    "long": "adam(lr=0.001, beta1=0.85, beta2=0.95, weight_decay=0.01, eps=1e-06)/annealing(cooling=0.9)",
    "wide": "sgd[0*]+adam[2*]+rmsprop[4*]/hypergradient/annealing",
}


@pytest.mark.parametrize("name", STACKS)
def test_a_picture_has_every_slot_and_every_level(name: str) -> None:
    settings = ["level2.teacher=sgd(lr=0.1)", "level2.imitate=9"] if name == "taught" else []
    graph = plan("digits", STACKS[name], settings=settings).graph
    figure = draw(graph, "digits")
    [axes] = figure.axes
    texts = [text.get_text().replace("\n", " ") for text in axes.texts]
    assert texts.count("digits") == 1
    for slot in graph.slots:
        assert graph.labels[slot] in texts
    arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == len({(level.by, level.moves) for level in graph.levels})
    for number in range(1, len(graph.levels) + 1):
        assert sum(f"level {number} " in f"{text} ".replace(":", " ") for text in texts if "level" in text) >= 1
        assert sum(str(number) in text.split(", ") for text in texts) == 1


@pytest.mark.parametrize("name", STACKS)
def test_nothing_lies_outside_of_a_picture_nor_on_anything_else(name: str) -> None:
    figure = draw(plan("digits", STACKS[name]).graph, "digits")
    figure.draw_without_rendering()
    [axes] = figure.axes
    whole = figure.bbox
    shown = [(text.get_text(), text.get_window_extent()) for text in axes.texts]
    frames = [patch.get_window_extent() for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    for what, box in [*shown, *(("frame", frame) for frame in frames)]:
        assert whole.x0 <= box.x0 <= box.x1 <= whole.x1, what
        assert whole.y0 <= box.y0 <= box.y1 <= whole.y1, what
    for i, (one, a) in enumerate(shown):
        for other, b in shown[i + 1 :]:
            assert not a.overlaps(b), (one, other)
        assert sum(frame.overlaps(a) for frame in frames) <= 1, one
        if not one.replace(", ", "").isdigit():  # it stands in a frame, and does not reach over its sides
            assert any(f.x0 <= a.x0 and a.x1 <= f.x1 and f.y0 <= a.y0 and a.y1 <= f.y1 for f in frames), one


@pytest.mark.parametrize("height", [1, 2, 5])
def test_a_chain_fills_its_picture(height: int) -> None:
    figure = draw(plan("digits", "adam", depth=height).graph, "digits")
    figure.draw_without_rendering()
    frames = [patch.get_window_extent() for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]
    assert max(f.width for f in frames) > 0.6 * figure.bbox.width
    assert sum(f.height for f in frames) > 0.5 * figure.bbox.height


def test_text_has_a_line_for_each_level_the_highest_first() -> None:
    made = plan("digits", "adam[*weight]+sgd[*bias]/annealing", settings=["level3.every=30"])
    assert draw_text(made.graph, "digits").splitlines() == [
        "level 4  annealing  → sgd              trials, every 100 steps",
        "level 3  annealing  → adam             trials, every 30 steps",
        "level 2  sgd        → digits[*bias]",
        "level 1  adam       → digits[*weight]",
    ]
    made = plan("digits", "sgd@a/sgd@a", settings=["level2.every=5", "level2.second_order=true", "level2.on=valid",
                                                   "level2.objective=last", "level2.gradient=unroll"])  # fmt: skip
    assert all(len(line) <= 48 for line in draw_text(made.graph, "digits", 48).splitlines())
    first = draw_text(made.graph).splitlines()[0]
    words = "unroll, every 5 steps, signal over its usual size, last of the losses, held-out batches"
    assert first == f"level 2  sgd@a  → a     {words}"


def test_every_transform_is_put_in_words() -> None:
    for name in TRANSFORMS.names():
        levels = [Level(moves="task", by="a", normalize=name)]
        words = how(Paces(Structure(levels, {"a": recopt.strategy("sgd")})), 0)
        assert (words == "") == (name == "none") and "_" not in words


def test_a_pace_that_is_moved_is_told() -> None:
    made = plan("digits", "adam/hypergradient/annealing[every]", settings=["level3.every=20", "level2.every=5"])
    shown = draw_text(made.graph)
    assert "every 5 steps at first (level 3 moves that)" in shown and "trials, every 100 steps of level 1" in shown


def test_a_graph_shows_itself_in_a_notebook() -> None:
    html = plan("digits", "adam/sgd(lr=0.05)[lr]").graph._repr_html_()
    assert "<caption>adam/sgd(lr=0.05)[lr]</caption>" in html and html.count("<tr>") == 2 and "adam[lr]" in html


def test_pictures_are_written_as_svg_or_png_and_nothing_else(tmp_path: Path) -> None:
    graph = plan("quadratic", "adam/sgd").graph
    draw_file(graph, tmp_path / "a.svg")
    draw_file(graph, tmp_path / "a.png")
    assert "</svg>" in (tmp_path / "a.svg").read_text()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RecoptError, match=r"to \.svg or \.png, not 'a.pdf': change the ending"):
        draw_file(graph, tmp_path / "a.pdf")
