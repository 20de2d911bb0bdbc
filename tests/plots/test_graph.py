"""Pictures of graphs: every slot and every level is in them, whatever the graph's form."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.patches import FancyArrowPatch

from recopt.contracts.errors import RecoptError
from recopt.plots.graph import draw, draw_file, draw_text
from recopt.running.plan import plan

STACKS = {
    "one": "adam",
    "tower": "adam/hypergradient/annealing",
    "groups": "adam(lr=0.001)[*weight]+sgd[*bias]/annealing",
    "self-loop": "sgd@a/sgd@a",
    "tied": "sgd/sgd@b/sgd@b",
    "taught": "lstm/adam",
    "shared": "adam/hypergradient@h/hypergradient@h",
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
        assert sum(f"level {number}" in text for text in texts) == 1


@pytest.mark.parametrize("name", STACKS)
def test_nothing_lies_outside_of_a_picture_nor_boxes_on_each_other(name: str) -> None:
    figure = draw(plan("digits", STACKS[name]).graph, "digits")
    figure.draw_without_rendering()
    [axes] = figure.axes
    whole = figure.bbox
    shown = [(text, text.get_window_extent()) for text in axes.texts]
    for text, box in shown:
        assert whole.x0 <= box.x0 <= box.x1 <= whole.x1, text.get_text()
        assert whole.y0 <= box.y0 <= box.y1 <= whole.y1, text.get_text()
    for i, (one, a) in enumerate(shown):
        for other, b in shown[i + 1 :]:
            assert not a.overlaps(b), (one.get_text(), other.get_text())


def test_text_has_a_line_for_each_level_the_highest_first() -> None:
    made = plan("digits", "adam[*weight]+sgd[*bias]/annealing", settings=["level3.every=30"])
    assert draw_text(made.graph, "digits").splitlines() == [
        "level 4  annealing  → sgd              trials, every 100",
        "level 3  annealing  → adam             trials, every 30",
        "level 2  sgd        → digits[*bias]",
        "level 1  adam       → digits[*weight]",
    ]
    made = plan("digits", "sgd@a/sgd@a", settings=["level2.every=5", "level2.second_order=true", "level2.on=valid",
                                                   "level2.objective=last", "level2.gradient=unroll"])  # fmt: skip
    first = draw_text(made.graph).splitlines()[0]
    assert first == "level 2  sgd@a  → a     unroll, every 5, rms_all signal, last of the losses, held-out batches"


def test_pictures_are_written_as_svg_or_png_and_nothing_else(tmp_path: Path) -> None:
    graph = plan("quadratic", "adam/sgd").graph
    draw_file(graph, tmp_path / "a.svg")
    draw_file(graph, tmp_path / "a.png")
    assert "</svg>" in (tmp_path / "a.svg").read_text()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RecoptError, match=r"to \.svg or \.png, not 'a.pdf': change the ending"):
        draw_file(graph, tmp_path / "a.pdf")
