"""Exports that were damaged are refused in one sentence that says what is wrong, wherever they are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import recopt
from recopt.stacks.fetch import read_export
from recopt.stacks.plugins import load_strategy

from ..exported import refusal, trained_lstm


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_lstm(tmp_path_factory.mktemp("trained") / "export")


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edited(folder: Path) -> None:
        told = json.loads((folder / "stack.json").read_text())
        change(told)
        told.pop("digests", None)  # as who edits an export by hand may do
        (folder / "stack.json").write_text(json.dumps(told))

    return edited


def other_values(change: Callable[[dict[str, torch.Tensor]], object], digest: bool = False) -> Callable[[Path], None]:
    def edited(folder: Path) -> None:
        found = load_file(folder / "strategies.safetensors")
        change(found)
        save_file(found, folder / "strategies.safetensors")
        if not digest:
            edit(lambda told: None)(folder)

    return edited


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no json": (lambda f: (f / "stack.json").write_text("{"), "is no export of recopt (Expecting"),
    "no text": (lambda f: (f / "stack.json").write_bytes(b"\xff\xfe\x00"), "is no export of recopt ("),
    "a list": (lambda f: (f / "stack.json").write_text("[]"), "has format None, and this recopt reads 1."),
    "later": (edit(lambda t: t.update(recopt=2)), "has format 2, and this recopt reads 1."),
    "no values": (lambda f: (f / "strategies.safetensors").unlink(), "is no export of recopt ("),
    "cut": (
        lambda f: (f / "strategies.safetensors").write_bytes((f / "strategies.safetensors").read_bytes()[:-4]),
        "is no export of recopt (",
    ),
    "other values": (
        other_values(lambda v: v["lstm/scale"].add_(1), digest=True),
        "strategies.safetensors is not as it was written with the rest of the export: export the run again",
    ),
    "not finite": (other_values(lambda v: v["lstm/scale"].fill_(float("nan"))), "numbers in 'lstm/scale' that are not"),
    "missing": (other_values(lambda v: v.pop("lstm/scale")), "does not fit 'lstm': scale is missing or of another"),
    "too many": (other_values(lambda v: v.update({"lstm/x": torch.ones(1)})), "does not fit 'lstm': x is missing or"),
    "shape": (other_values(lambda v: v.update({"lstm/scale": torch.ones(1, 3)})), "does not fit 'lstm': scale is"),
    "key": (edit(lambda t: t.update(stategies={})), "is not as recopt writes it (there is no 'stategies'"),
    "level": (edit(lambda t: t["levels"][0].update(every="x")), "is not as recopt writes it ('level1.every'"),
    "no levels": (edit(lambda t: t.update(levels=[])), "is not as recopt writes it (nothing in it moves a task)"),
    "no strategy": (edit(lambda t: t["strategies"].pop("lstm")), "(it lacks the strategy 'lstm')"),
    "name": (edit(lambda t: t["strategies"]["lstm"].update(name="lstn")), "Unknown strategy 'lstn' in "),
    "settings": (edit(lambda t: t["strategies"]["lstm"].update(settings={"hid": 1})), "Unknown option 'hid' of "),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(here: Path, trained: Path, damage: str) -> None:
    folder = Path(shutil.copytree(trained, "mine/rule"))
    DAMAGE[damage][0](folder)
    expected = DAMAGE[damage][1]
    assert expected in refusal(lambda: read_export(folder))
    assert expected in refusal(lambda: recopt.Optimizer([torch.nn.Parameter(torch.ones(2))], "mine/rule"))
    if (folder / "stack.json").is_file():
        assert expected in refusal(lambda: load_strategy("rule", "mine"))
