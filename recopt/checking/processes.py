"""Fresh Python processes of recopt's own."""

from __future__ import annotations

import sys
from pathlib import Path

# "-P" and this finder: nothing but recopt itself is imported from where recopt is, nor from the current folder.
_CODE = """
import importlib, importlib.machinery, importlib.util, sys
spec = importlib.machinery.PathFinder.find_spec("recopt", [sys.argv[1]])
sys.modules["recopt"] = recopt = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recopt)
importlib.import_module(sys.argv[2]).main()
"""


def command(module: str) -> list[str]:
    """The command line of a process that runs ``main()`` of a module of recopt, such as ``recopt.search.worker``."""
    return [sys.executable, "-P", "-c", _CODE, str(Path(__file__).parents[2]), module]
