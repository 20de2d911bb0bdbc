"""``python -m recopt`` is ``recopt``."""

from __future__ import annotations

import os
import sys

# Python puts the current folder before all others, where a random.py or torch/ would be what recopt imports.
if sys.path and sys.path[0] == os.getcwd():
    del sys.path[0]
    if os.path.samefile(os.path.dirname(os.path.dirname(__file__)), os.getcwd()):  # a checkout without installation
        sys.path.append(os.getcwd())

from .cli import main

if __name__ == "__main__":
    main()
