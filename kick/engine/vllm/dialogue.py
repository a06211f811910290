"""Messages to a server process and its replies, matched by number."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kick.engine.vllm.process import ServerProcess
from kick.errors import CellFailed

Message = Mapping[str, Any]


class Line:
    """What was sent to one process, so that a late reply to an earlier message is known as such."""

    def __init__(self, process: ServerProcess):
        self.process = process
        self.numbers = itertools.count()
        self.stopped: set[int] = set()

    def dialogue(self, messages: Sequence[Message]) -> Dialogue:
        """Send the messages; iterate over what is given to get the replies."""
        return Dialogue(self, messages)


class Dialogue:
    """Replies as (index of the message, reply), in the order in which they come.

    Raises CellFailed for a process that crashes, is silent or answers what was not asked, and for a message
    that vLLM refuses. What is left open at the end is stopped.
    """

    def __init__(self, line: Line, messages: Sequence[Message]):
        self.line = line
        self.waiting: dict[int, int] = {}  # number -> index
        for index, message in enumerate(messages):
            number = next(line.numbers)
            self.waiting[number] = index
            line.process.send({"id": number, **message})

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        try:
            while self.waiting:
                reply = self.line.process.hear()
                number = reply.get("id")
                if number in self.line.stopped:
                    continue
                if not isinstance(number, int) or number not in self.waiting:
                    raise self.line.process.failed(f"answered what was not asked: {str(reply)[:200]}")
                if "error" in reply:
                    raise CellFailed(f"vLLM refuses a request: {reply['error']}")
                index = self.waiting[number]
                if reply.get("done", True):
                    del self.waiting[number]
                yield index, reply
        finally:
            for index in list(self.waiting.values()):
                self.stop(index)

    def stop(self, index: int) -> None:
        """Have no more said of a message that is still being answered."""
        number = next((number for number, own in self.waiting.items() if own == index), None)
        if number is None:
            return
        del self.waiting[number]
        self.line.stopped.add(number)
        if self.line.process.running:
            self.line.process.send({"stop": number})
