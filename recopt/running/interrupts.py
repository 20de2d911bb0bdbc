"""Interruption of a run between two steps instead of within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """The signals so far of Ctrl-C, SIGTERM and SIGHUP: the first is only listed, the second stops at once.

    SIGHUP stays ignored in a process that ``nohup`` started.
    """
    asked, before = list[int](), dict[signal.Signals, Any]()

    def ask(sign: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(sign)

    if threading.current_thread() is threading.main_thread():
        for sign in (getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)):
            if sign.name != "SIGHUP" or signal.getsignal(sign) is not signal.SIG_IGN:
                before[sign] = signal.signal(sign, ask)
    try:
        yield asked
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
