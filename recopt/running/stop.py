"""Signals that stop a run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Stop:
    """Ctrl-C, SIGTERM and SIGHUP: the first asks a run to stop, a second one stops it at once.

    SIGHUP stays ignored in a process that ``nohup`` started.
    """

    def __init__(self) -> None:
        self.asked = False
        self._at_once = False

    def __call__(self, sign: int, frame: FrameType | None) -> None:
        if self.asked or self._at_once:
            raise KeyboardInterrupt
        self.asked = True

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Handle the signals within the block."""
        before = dict[signal.Signals, Any]()
        if threading.current_thread() is threading.main_thread():
            for sign in (getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)):
                if sign.name != "SIGHUP" or signal.getsignal(sign) is not signal.SIG_IGN:
                    before[sign] = signal.signal(sign, self)
        try:
            yield
        finally:
            for sign, handler in before.items():
                signal.signal(sign, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let the first signal in the block stop the run: its work takes long, and is done again after a resume."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False
