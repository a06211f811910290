"""The process that runs vLLM for one variant: started, spoken with, watched, given time limits, and ended.

Messages are lines of JSON over pipes (server.py has them); vLLM's own output goes to a log, whose tail is
told when the process fails.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from kick.engine.vllm.where import environment
from kick.errors import CellFailed
from kick.printable import plain

SERVER = Path(__file__).with_name("server.py")
TAIL = 12  # lines of the log that a failure tells
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in the process that is watched, not in one behind it
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # the token after a full window: it is never computed on
    "VLLM_CPU_INT4_W4A8": "0",  # else 4-bit weights are multiplied with activations rounded to 8 bits
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_COLOR": "0",
    "HF_HUB_OFFLINE": "1",  # a checkpoint is a folder on this machine
    "TOKENIZERS_PARALLELISM": "false",
}
DEFAULTS = {  # what a user may set otherwise
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",  # else a C++ compiler is called at the first request, for the count of a rank
}


@dataclass(frozen=True)
class Limits:
    """Seconds: until the process is ready; without a word while it has something to do; to end by itself."""

    start: float = 1800
    silent: float = 900
    end: float = 10


class ServerProcess:
    """A running server. `start`, `send` and `hear` raise CellFailed if it cannot answer; it is ended then.

    Args:
        python: the interpreter that has vLLM.
        log: the file that gets what vLLM prints.
    """

    ready: Mapping[str, Any]
    failure: str = ""  # why it was ended
    answered: bool = False  # whether it has said anything after it was ready

    def __init__(self, python: str, log: Path, limits: Limits | None = None, server: Path = SERVER):
        self.limits = limits or Limits()
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            self._popen = subprocess.Popen(
                [python, "-P", str(server)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env={**DEFAULTS, **environment(), **ENVIRONMENT},
                start_new_session=True,
                text=True,
                encoding="utf-8",
            )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(self._popen.stdout, self._lines), daemon=True).start()

    def start(self, settings: Mapping[str, Any]) -> None:
        """Have it load the model; `ready` is what it says of itself then."""
        self.send(settings)
        found = self._next(self.limits.start, "was not ready")
        if "ready" not in found:
            raise self.failed(f"said {plain(str(found))[:200]!r} in place of being ready")
        self.ready = found["ready"]

    @property
    def running(self) -> bool:
        """Whether it can still be asked."""
        return self._popen.poll() is None

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message."""
        pipe = self._popen.stdin
        try:
            if pipe is not None:
                pipe.write(json.dumps(message) + "\n")
                pipe.flush()
        except (OSError, ValueError) as error:  # a pipe that is broken, or closed
            raise self.failed("ended") from error

    def hear(self) -> dict[str, Any]:
        """The next message, waited for as long as `limits.silent` allows."""
        found = self._next(self.limits.silent, "said nothing")
        self.answered = True
        return found

    def memory(self) -> int:
        """Bytes of memory that it has now; 0 if it has ended."""
        with suppress(psutil.Error):
            return int(psutil.Process(self._popen.pid).memory_info().rss)
        return 0

    def close(self) -> None:
        """End it: by the end of its input, else with its children by a signal."""
        with suppress(OSError):
            if self._popen.stdin is not None:
                self._popen.stdin.close()
        try:
            self._popen.wait(self.limits.end)
        except subprocess.TimeoutExpired:
            self._kill()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()

    def _next(self, seconds: float, otherwise: str) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise self.failed(f"{otherwise} within {seconds:g} seconds") from None
        if line is None:
            raise self.failed("ended")
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self.failed(f"said {plain(line.strip())[:200]!r}, which is not a message")
        return found

    def failed(self, what: str) -> CellFailed:
        """The error that says what happened, with the log's tail, to be raised; the process is ended."""
        if self.running and what != "ended":
            self._kill()
        self.close()
        status = self._popen.returncode
        how = f" (status {status})" if what == "ended" else ""
        self.failure = f"vLLM's process {what}{how}; its log ends with:\n{self._tail()}"
        return CellFailed(self.failure)

    def _tail(self) -> str:
        lines = self.log.read_text("utf-8", errors="replace").splitlines()
        return "\n".join(plain(line) for line in lines[-TAIL:]) or "nothing"


def _read(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    """Put what the process says into the queue; None at its end."""
    for line in stream:
        lines.put(line)
    lines.put(None)
