"""Ctrl-C in a sweep: the first asks the workers to end, the second ends them; SIGTERM counts as one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

SIGNALS = (signal.SIGINT, signal.SIGTERM)
FIRST = "stopping: running jobs keep what is answered and end; Ctrl-C again stops at once, nothing is lost"
SECOND = "stopped at once; what is answered and stored is kept"


class Stoppable(Protocol):
    """What can be asked to end, and be ended."""

    def stop(self) -> None:
        """Ask."""

    def close(self) -> None:
        """End it."""


class Interrupts:
    """Counts the interrupts while its context is open; a thread that is not the main one sees none.

    The second one raises KeyboardInterrupt where the main thread is, and the context takes it.
    """

    def __init__(self, target: Stoppable, tell: Callable[[str], None]):
        self.count = 0
        self._target, self._tell = target, tell
        self._before: dict[int, Any] = {}
        self._woken = threading.Event()

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than to the first interrupt."""
        self._woken.wait(seconds)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self._woken.set()
        if self.count <= 2:  # told by a thread: the main one may be in the middle of printing
            threading.Thread(target=self._tell, args=(FIRST if self.count == 1 else SECOND,)).start()
        if self.count == 1:
            self._target.stop()
            return
        self._target.close()
        raise KeyboardInterrupt

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        return kind is KeyboardInterrupt
