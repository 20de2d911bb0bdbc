"""Tasks written as text, for the options of other tasks: ``mnist(hidden=[40]) + quadratic(dim=20)``."""

from __future__ import annotations

from ..contracts.errors import RecoptError
from ..contracts.task import Task
from ..levels.notation import parse
from . import get


def members(text: str, where: str) -> list[Task]:
    """The tasks written ``name(option=value, …) + …``, in the notation of stacks.

    Raises:
        RecoptError: for text of another form (naming ``where``), or an unknown task or option.
    """
    layers = parse(text)
    if len(layers) != 1 or "@" in text or any(term.only for term in layers[0]):
        raise RecoptError(f"{where} should read like mnist(hidden=[40]) + quadratic, not '{text}'.")
    return [get(term.name)(**term.settings) for term in layers[0]]
