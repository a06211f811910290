"""Ctrl-C in a sweep: the first asks the workers to end, the second ends them; SIGTERM counts as one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from types import FrameType
from typing import Any, Protocol

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TICK = 0.1  # seconds between two looks at whether there was an interrupt
FIRST = "stopping: running jobs keep what is answered and end; Ctrl-C again stops at once, nothing is lost"
SECOND = "stopped at once; what is answered and stored is kept"


class Stoppable(Protocol):
    """What can be asked to end."""

    def stop(self) -> None:
        """Ask. Called in a signal handler: it takes no lock."""


class Interrupts:
    """Counts the interrupts while its context is open; a thread that is not the main one sees none.

    The second one raises KeyboardInterrupt where the main thread is, and the context takes it. A handler may
    come in the middle of anything, another handler too, so that this one takes no lock: an event's would stop
    the process for good where it is held already.
    """

    def __init__(self, target: Stoppable, tell: Callable[[str], None]):
        self.count = 0
        self._target, self._tell = target, tell
        self._before: dict[int, Any] = {}
        self._said: SimpleQueue[str | None] = SimpleQueue()  # its put may be called within itself
        self._teller = threading.Thread(target=self._tell_all, daemon=True)

    def wait(self, seconds: float) -> None:
        """Sleep, but not long after the first interrupt."""
        end = time.monotonic() + seconds
        while not self.count and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, TICK))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count <= 2:  # told by a thread: the main one may be in the middle of printing
            self._said.put(FIRST if self.count == 1 else SECOND)
        if self.count == 1:
            self._target.stop()
            return
        raise KeyboardInterrupt

    def _tell_all(self) -> None:
        while (text := self._said.get()) is not None:
            self._tell(text)

    def __enter__(self) -> Interrupts:
        self._teller.start()
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._said.put(None)
        self._teller.join()
        return kind is KeyboardInterrupt
