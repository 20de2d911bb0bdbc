"""Files with plugins, and how those that cannot be used are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from recopt import RecoptError
from recopt.stacks.plugins import load_strategy

STRATEGY = '''"""The module."""
from recopt import Strategy, positive

class {name}(Strategy):
    """{doc}

    More.
    """

    lr = positive(0.1)
'''
TASK = "from recopt import Task\nclass Mine(Task):\n    'My task.'\n"


def write(path: Path, text: str = STRATEGY, name: str = "Rule", doc: str = "One line.") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.format(name=name, doc=doc) if text is STRATEGY else text)
    return path


def refusal(name: str, *folders: Path | str, load: object = load_strategy) -> str:
    """The one sentence that asking for ``name`` is refused with."""
    assert callable(load)
    with pytest.raises(RecoptError) as caught:
        load(name, folders)
    text = str(caught.value)
    assert "\n" not in text
    assert text[-1] in ".?"
    return text
