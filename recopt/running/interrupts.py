"""Interruption of a run between two steps instead of within one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Interrupts:
    """Handles Ctrl-C, SIGTERM and SIGHUP: the first sets ``asked``, the second stops at once.

    SIGHUP stays ignored in a process that ``nohup`` started.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for sign in (getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)):
                if sign.name != "SIGHUP" or signal.getsignal(sign) is not signal.SIG_IGN:
                    self._before[sign] = signal.signal(sign, self._ask)
        return self

    def _ask(self, sign: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None) -> None:
        for sign, handler in self._before.items():
            signal.signal(sign, handler)
