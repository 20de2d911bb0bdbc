"""Spec files: what YAML would let pass in silence, or answer with a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from recopt.checking.errors import RecoptError
from recopt.running.spec import read_spec


def read(folder: Path, text: str | bytes) -> dict[str, object]:
    path = folder / "spec.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_spec(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "has 'a' twice, in lines 1 and 3: keep one of them."),
        ("a: 1\n\"a\": 2\n", "has 'a' twice, in lines 1 and 2"),
        ("b: {x: 1, x: 2}\n", "has 'x' twice, in line 1"),
        ("c:\n  - {y: 1}\n  - y: 1\n    z: 2\n    y: 3\n", "has 'y' twice, in lines 3 and 5"),
        ("a: &a {x: 1}\nb: {<<: *a, y: 1, y: 2}\n", "has 'y' twice, in line 2"),
        ("? [a]\n: 1\n", "line 1 is no YAML: found unhashable key."),
        ("a: &a [*a]\n", "line 1 is no YAML: an anchor stands within itself."),
        ("a: 1\n---\nb: 2\n", "line 2 is no YAML: but found another document."),
        ("a: 'x\n", "line 2 is no YAML: found unexpected end of stream."),
        ("a: !!python/object/apply:os.system [ls]\n", "line 1 is no YAML: a tag like !!python/object"),
        (b"a: \x00\n", "is no YAML: unacceptable character #x0000"),
        (b"a: \xff\n", "is no YAML: 'utf-8' codec can't decode byte 0xff"),
        ("[" * 5000, "is nested too deeply"),
        ("", "should be a mapping"),
        ("[a]", "should be a mapping"),
    ],
)  # fmt: skip
def test_what_is_refused_in_one_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(RecoptError) as why:
        read(tmp_path, text)
    assert said in str(why.value) and "\n" not in str(why.value)
    assert str(why.value).startswith(f"The spec {tmp_path / 'spec.yaml'}")


def test_merged_keys_and_anchors_are_no_doubles(tmp_path: Path) -> None:
    text = "r: &r {a: 1}\nz: [{<<: *r, a: 2}, {<<: *r}]\ny: {<<: *r, <<: {b: 3}}\nx: *r\n"
    assert read(tmp_path, text) == {"r": {"a": 1}, "z": [{"a": 2}, {"a": 1}], "y": {"a": 1, "b": 3}, "x": {"a": 1}}
