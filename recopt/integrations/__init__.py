"""Callbacks that have :class:`recopt.Optimizer` used well inside other people's training loops.

``LightningCallback`` and ``HuggingFaceCallback`` evaluate and save the model at its mean, log hyperparameters and
counts of the guards, and tell losses to rules that read them. They load when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..checking.errors import RecoptError

if TYPE_CHECKING:
    from .hugging_face import HuggingFaceCallback as HuggingFaceCallback
    from .lightning import LightningCallback as LightningCallback

__all__ = ["HuggingFaceCallback", "LightningCallback"]
_HOME = {
    "LightningCallback": ("lightning", ("lightning", "pytorch_lightning")),
    "HuggingFaceCallback": ("hugging_face", ("transformers",)),
}
"""The module of each, and the libraries of which one has to be installed."""


def __getattr__(name: str) -> Any:  # PEP 562
    if name not in _HOME:
        raise AttributeError(f"module 'recopt.integrations' has no attribute '{name}'")
    module, libraries = _HOME[name]
    if all(find_spec(library) is None for library in libraries):
        raise RecoptError(f"{name} needs {libraries[0]}, which is not installed: pip install 'recopt[{libraries[0]}]'.")
    return getattr(import_module(f".{module}", __name__), name)
