"""Answers with a run-time method: a session per sequence, whose attention reads what the method reads.

Prompts that the method leaves alone go through the tree of shared prefixes, as in the packed backend, and
are read once for all methods that continue them; one that a method changes is read by itself in one forward.
As many as may be in progress are then continued together a token at a time, each with its own cache
(`kick.engine.session`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from kick.engine import budget, whole
from kick.engine.engine import Engine, OnDone
from kick.engine.network import Network
from kick.engine.packed.decode import choose, worth
from kick.engine.packed.pack import Done, Runner
from kick.engine.packed.reader import PackedReader
from kick.engine.packed.tree import grow
from kick.engine.revival import reviving
from kick.engine.session import Session, Sessions
from kick.engine.stopping import Decoding
from kick.errors import KickError
from kick.model.structure import blocks
from kick.records import Request
from kick.runtime.method import RunTime
from kick.runtime.tally import ReadCounts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

T = TypeVar("T")
Arrived = tuple[int, Session, Tensor]  # a row's index, its session, the last hidden state of its prompt


class SparseReader(PackedReader):
    """The model behind an engine, its attention a run-time method's."""

    def __init__(self, method: RunTime, model: PreTrainedModel, batch_tokens: int | None = None):
        super().__init__(model, batch_tokens)
        if not self.packed:
            raise KickError(
                f"{type(model).__name__} cannot be run with a run-time method: its attention cannot be "
                "replaced; leave `runtime` out"
            )
        self.method, self.tally = method, ReadCounts()
        config = getattr(model.config, "text_config", None) or model.config
        self.layers = int(config.num_hidden_layers)
        self.blocks = blocks(model)

    def _check(self, length: int) -> None:
        if not self._packs(length):
            raise KickError(
                f"a text of {length} tokens is longer than the {self.trusted} up to which a run-time "
                "method can replace this model's attention"
            )

    def read(self, readings: Sequence[whole.Reading]) -> Iterator[whole.Found]:
        """Batches of (index, hidden states (count, H)); what is before those is the prompt.

        Readings with one prompt share it, and what the method chose for it.
        """
        prompts: dict[tuple[int, ...], list[int]] = {}
        for i, (ids, count) in enumerate(readings):
            self._check(len(ids))
            prompts.setdefault(ids[: len(ids) - count + 1], []).append(i)
        for prompt, members in prompts.items():
            room = max(len(readings[i][0]) for i in members) - len(prompt)
            with self.network.ours():
                session = Session(self.method, self.layers, len(prompt), room, self.tally)
                first = self._run([session], [prompt])[-1:]
                memory, found = dict(session.memory), []
                for i in members:
                    session.back_to(len(prompt), dict(memory))
                    rest = readings[i][0][len(prompt) :]
                    more = self._run([session], [rest]) if rest else first[:0]
                    found.append((i, torch.cat([first, more])))
                session.close()
            yield found

    def decode(self, rows: Sequence[Decoding], drafts: Mapping[int, tuple[int, ...]]) -> Iterator[int]:
        """Finish every row; their indices as they are done. `drafts` are not looked at."""
        yield from (i for i, row in enumerate(rows) if row.done)
        with self.network.ours():
            if self.method.prompts:
                for arrived in self._changed(rows):
                    yield from self._finish(rows, arrived)
            else:
                for part in self.prompts(rows):
                    yield from self.go_on(rows, part)

    def prompts(self, rows: Sequence[Decoding]) -> Iterator[list[Done]]:
        """The prompts of the rows that are not done, read densely, what several begin with once.

        As many at a time as may be in progress; `reading` is a row's index. Raises KickError for a row that
        cannot be run so.
        """
        waiting = self._waiting(rows)
        if not waiting:
            return
        root = grow([tuple(rows[i].prompt) for i in waiting], worth)
        runner = Runner(self.network, root, [1] * len(waiting), self.batch_tokens, keep=True)
        read = (replace(done, reading=waiting[done.reading]) for batch in runner for done in batch)
        yield from self._parts(read, lambda done: _bytes(done, rows[done.reading]))

    def go_on(self, rows: Sequence[Decoding], part: Sequence[Done]) -> Iterator[int]:
        """Finish the rows whose prompts have been read; their indices as they are done."""
        arrived = []
        for done in part:
            row = rows[done.reading]
            session = Session(self.method, self.layers, len(row.prompt), row.limit, self.tally)
            session.take([*done.spans, done.tail])
            arrived.append((done.reading, session, done.hidden))
        yield from self._finish(rows, arrived)

    def _waiting(self, rows: Sequence[Decoding]) -> list[int]:
        """The rows that are not done. Raises KickError for one that cannot be run."""
        waiting = [i for i, row in enumerate(rows) if not row.done]
        for i in waiting:
            self._check(len(rows[i].prompt) + rows[i].limit)
            if self._configured(rows[i]):
                raise KickError("a run-time method cannot obey generation_config: model; leave it out")
        return waiting

    def _changed(self, rows: Sequence[Decoding]) -> Iterator[list[Arrived]]:
        """Rows whose prompts have been read as the method reads them, one after another."""
        order = sorted(self._waiting(rows), key=lambda i: -len(rows[i].prompt))
        return self._parts((self._read_through(i, rows[i]) for i in order), lambda one: one[1].nbytes)

    def _read_through(self, index: int, row: Decoding) -> Arrived:
        session = Session(self.method, self.layers, len(row.prompt), row.limit, self.tally)
        session.chooses = self.method.chooses()
        return index, session, self._run([session], [row.prompt])[-1:].clone()

    def _parts(self, found: Iterable[T], bytes_of: Callable[[T], int]) -> Iterator[list[T]]:
        """As many rows at a time as may be in progress."""
        most = budget.slots(self.network.device, self.network.size)
        part, size = list[T](), 0
        for one in found:
            part.append(one)
            size += bytes_of(one)
            if size >= most[0] or len(part) >= most[1]:
                yield part
                part, size = [], 0
        if part:
            yield part

    def _finish(self, rows: Sequence[Decoding], arrived: Sequence[Arrived]) -> Iterator[int]:
        """Continue rows together until all are done."""
        going = [(i, session) for i, session, _ in arrived]
        self._accept([rows[i] for i, _ in going], torch.cat([hidden for *_, hidden in arrived]))
        while going:
            for i, session in going:
                if rows[i].done:
                    session.close()
                    yield i
            going = [(i, session) for i, session in going if not rows[i].done]
            if going:
                own = [rows[i] for i, _ in going]
                hidden = self._run([session for _, session in going], [row.tokens[-1:] for row in own])
                self._accept(own, hidden)

    def _accept(self, rows: Sequence[Decoding], hidden: Tensor) -> None:
        for row, token in zip(rows, choose(self.network, hidden, rows)[0], strict=True):
            row.accept(token)

    def _run(self, sessions: Sequence[Session], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Hidden states (S, H) of new tokens of each session, side by side."""
        network: Network = self.network
        ids = torch.tensor([[token for own in tokens for token in own]], device=network.device)
        places = [
            place
            for session, own in zip(sessions, tokens, strict=True)
            for place in range(session.length, session.length + len(own))
        ]
        layout = Sessions(sessions, [len(own) for own in tokens])
        positions = torch.tensor([places], device=network.device)
        comes_back = any(session.chooses for session in sessions)
        with reviving(self.blocks, sessions, layout.counts) if comes_back else nullcontext():
            return network.hidden(ids, position_ids=positions, layout=layout)[0]


def _bytes(done: Done, row: Decoding) -> int:
    """Bytes of the cache that the row comes to have."""
    token = sum(x.shape[0] * x.shape[2] * x.element_size() for x in (*done.tail.keys, *done.tail.values))
    return token * (len(row.prompt) + row.limit)


class SparseEngine(Engine):
    """An `Engine` whose answers a run-time method gives; `counted` says what it read and kept."""

    reader: SparseReader

    def __init__(
        self, method: RunTime, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **options: Any
    ):
        self.method = method
        super().__init__(model, tokenizer, **options)

    def _reader(self, model: PreTrainedModel, batch_tokens: int | None) -> SparseReader:
        return SparseReader(self.method, model, batch_tokens)

    def beside(self, method: RunTime) -> SparseEngine:
        """An engine of another method, on the same model in memory."""
        other = copy(self)
        other.method, other.reader, other.known = method, copy(self.reader), {}
        other.reader.method, other.reader.tally = method, ReadCounts()
        return other

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within it the reader may be used by itself."""
        with self._running(), self.reader.network.ours():
            yield

    def counted(self) -> dict[str, float | int]:
        """What was read, computed and kept since it was last asked."""
        found, self.reader.tally = self.reader.tally.shares(), ReadCounts()
        return found


class Generation:
    """Answers of an engine whose prompts somebody reads, for others as well.

    Args:
        engine: of a method that leaves prompts alone.
        requests: of the kind "generate".
        on_done: called with each index and response.
    """

    def __init__(self, engine: SparseEngine, requests: Sequence[Request], on_done: OnDone):
        self.engine = engine
        self.rows, _, self._told = engine.decodings(requests, on_done)

    @torch.inference_mode()
    def prompts(self) -> Iterator[list[Done]]:
        """Read them, as many at a time as may be in progress: parts for `go_on`.

        Also for that of another method, if its requests are equal.
        """
        chunks = self.engine.reader.prompts(self.rows)
        while True:
            with self.engine.running():
                part = next(chunks, None)
            if part is None:
                return
            yield part

    @torch.inference_mode()
    def go_on(self, part: Sequence[Done]) -> None:
        """Answer the requests of these prompts."""
        with self.engine.running():
            for place in self.engine.reader.go_on(self.rows, part):
                self._told(place)
