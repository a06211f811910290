"""The answers of an unfinished cell: append-only chunks with a checksum each: a kill costs one chunk.

A chunk is a file of its own (object stores cannot append): a header line with count and sha256, then one line
an answer. Its name carries count and total, so that progress is read off a listing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import time
from types import TracebackType

from kick.records import Response
from kick.store.files import Files
from kick.store.samples import response_from_json, response_to_json

log = logging.getLogger("kick.store")
SECONDS = 5.0  # the longest that an answer waits to be written, once the next one comes


class Partial:
    """The kept answers of a cell, by the index of their request; a context that keeps the rest on leaving.

        with store.partial(key, total=len(requests)) as partial:
            todo = [i for i in range(len(requests)) if i not in partial.answers]
            engine.answer([requests[i] for i in todo], lambda j, response: partial.add(todo[j], response))
            responses = [partial.answers[i] for i in range(len(requests))]

    `fingerprint` names the list of requests: chunks of another list are not used. A chunk is written after
    `every` answers or `SECONDS`, and at the end, also when an exception (Ctrl-C) ends it.
    """

    def __init__(self, files: Files, folder: str, total: int, fingerprint: str = "", every: int = 32):
        self.answers: dict[int, Response] = {}
        self.damaged: list[str] = []
        self._files, self._folder, self._total = files, folder, total
        self._fingerprint = hashlib.sha256(fingerprint.encode()).hexdigest()[:8]
        self._every = every
        self._fresh: dict[int, Response] = {}
        self._flushed = time.monotonic()
        self._load()

    def _load(self) -> None:
        for name in self._files.names(self._folder):
            parts = name.split(".")
            if len(parts) != 5 or parts[2] != self._fingerprint or parts[4] != "jsonl":
                continue
            try:
                found = decode(self._files.read(f"{self._folder}/{name}"))
            except ValueError as error:
                self.damaged.append(name)
                log.warning("%s/%s is damaged (%s): its answers are asked again", self._folder, name, error)
                continue
            self.answers.update({index: item for index, item in found.items() if index < self._total})

    def add(self, index: int, response: Response) -> None:
        """Keep the answer to request `index`. Raises StoreError if the chunk cannot be written."""
        response = response_from_json(response_to_json(response))  # as it will be read back
        self.answers[index] = response
        self._fresh[index] = response
        if len(self._fresh) >= self._every or time.monotonic() - self._flushed >= SECONDS:
            self.flush()

    @property
    def waiting(self) -> int:
        """The number of answers that are not yet on disk: what a kill now would cost."""
        return len(self._fresh)

    def flush(self) -> None:
        """Write the answers not yet on disk as one chunk."""
        self._flushed = time.monotonic()
        if not self._fresh:
            return
        name = f"{len(self._fresh)}.{self._total}.{self._fingerprint}.{secrets.token_hex(6)}.jsonl"
        # not durable: after a power cut the checksum tells what was not yet on disk, and that is asked again
        self._files.write(f"{self._folder}/{name}", encode(self._fresh), durable=False)
        self._fresh = {}

    def __enter__(self) -> Partial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()


def encode(answers: dict[int, Response]) -> bytes:
    """A chunk's bytes: the header line, then one line per answer."""
    lines = [json.dumps([index, response_to_json(response)]) for index, response in answers.items()]
    body = "\n".join(lines).encode()
    header = {
        "kick": "answers",
        "version": 1,
        "count": len(lines),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    return json.dumps(header).encode() + b"\n" + body


def decode(data: bytes) -> dict[int, Response]:
    """The answers of a chunk. Raises ValueError if its checksum does not match or it is not a chunk."""
    first, _, body = data.partition(b"\n")
    header = json.loads(first)
    if not isinstance(header, dict) or header.get("sha256") != hashlib.sha256(body).hexdigest():
        raise ValueError(f"checksum mismatch over {len(body)} bytes")
    pairs = [json.loads(line) for line in body.split(b"\n") if line]
    return {index: response_from_json(answer) for index, answer in pairs}


def progress(files: Files, folder: str) -> tuple[int, int]:
    """Answers kept and answers asked for, from the names of the chunks; (0, 0) if there is none."""
    done, totals = 0, {}
    for name in files.names(folder):
        parts = name.split(".")
        if len(parts) == 5 and parts[4] == "jsonl":
            done, totals[parts[2]] = done + int(parts[0]), int(parts[1])
    return done, sum(totals.values())
