"""Answers with a run-time method: a session per sequence, whose attention reads what the method reads.

Prompts that the method leaves alone go through the tree of shared prefixes, as in the packed backend; one
that it changes is read by itself in one forward. Then rows are continued a token at a time, several in one
forward, each with its own cache. What a method hides is computed and masked: nothing is faster for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kick.engine import budget, whole
from kick.engine.engine import Engine
from kick.engine.network import Network
from kick.engine.packed.attend import KV, partial
from kick.engine.packed.decode import choose, worth
from kick.engine.packed.pack import Done, Runner
from kick.engine.packed.reader import PackedReader
from kick.engine.packed.tree import grow
from kick.engine.stopping import Decoding
from kick.errors import KickError
from kick.runtime.method import Cache, RunTime, Sight
from kick.runtime.tally import ReadCounts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHUNK = 256  # queries of a prompt that are masked at once


class Session:
    """One sequence: its keys and values by layer, and what the method remembers of it.

    Args:
        method: what decides which keys are read.
        layers: of the model.
        prompt: tokens of the prompt.
        room: tokens that may follow.
        tally: what is counted, in place.
    """

    def __init__(self, method: RunTime, layers: int, prompt: int, room: int, tally: ReadCounts):
        self.method, self.layers, self.prompt, self.room = method, layers, prompt, room
        self.tally = tally
        self.memory: dict[Any, Any] = {}
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.settled: dict[int, tuple[int, int]] = {}
        self.filled: dict[int, int] = {}

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self.filled.get(self.layers - 1, 0)

    @property
    def nbytes(self) -> int:
        """Bytes that the cache takes here, rounded or not."""
        return sum(one.nbytes for part in (self.keys, self.values) for one in part.values())

    def take(self, spans: Sequence[KV]) -> None:
        """Fill the cache with a prompt that was read densely."""
        for layer in range(self.layers):
            keys = torch.cat([span.keys[layer] for span in spans], dim=1)
            values = torch.cat([span.values[layer] for span in spans], dim=1)
            self._append(layer, keys, values)
            self._count_prompt(layer, keys, keys.shape[1] * (keys.shape[1] + 1) // 2, None)

    def read_through(self, layer: int, query: Tensor, scale: float) -> None:
        """Tell the method of the prompt's last query (Hq, 1, D), once its layer has been read."""
        self.method.after(self._sight(layer, query, self._keys(layer), scale, decoding=False))

    def close(self) -> None:
        """Count what the cache holds."""
        for layer, keys in self.keys.items():
            heads, _, width = keys.shape
            size = keys.element_size()
            cache = Cache(layer, self.filled[layer], heads, width, size, self.memory)
            self.tally.cache += self.method.bytes(cache)
            self.tally.whole += cache.bytes(cache.length)
        self.tally.sequences += 1
        self.tally.tokens += self.prompt

    def back_to(self, length: int, memory: dict[Any, Any]) -> None:
        """Forget what came after the first `length` tokens."""
        self.filled = dict.fromkeys(self.filled, length)
        self.memory = memory

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention (Hq, n, D) of n new tokens: query (Hq, n, D), key and value (Hk, n, D)."""
        before = self.filled.get(layer, 0)
        decoding = before >= self.prompt
        self._append(layer, key, value)
        keys, values = self._keys(layer), self.values[layer][:, : self.filled[layer]]
        if decoding:
            self.settled[layer] = self.method.settle(
                keys[:, :before], values[:, :before], self.settled.get(layer, (0, 0))
            )
        out, read = self._attended(layer, query, keys, values, (scale, decoding))
        there = query.shape[0] * sum(range(before + 1, before + query.shape[1] + 1))
        if decoding:
            self.tally.read += read
            self.tally.there += there
        else:
            self._count_prompt(layer, keys, there // query.shape[0], read // query.shape[0])
            self.read_through(layer, query[:, -1:], scale)
        return out

    def _attended(
        self, layer: int, query: Tensor, keys: Tensor, values: Tensor, how: tuple[float, bool]
    ) -> tuple[Tensor, int]:
        """The attention of the last n tokens, and how many pairs of a query and a key were read."""
        scale, decoding = how
        heads, count, _ = query.shape
        length = keys.shape[1]
        parts, masks, read = [], [], 0
        for start in range(0, count, CHUNK):
            rows = slice(start, min(start + CHUNK, count))
            seen = length - count + rows.stop
            sight = self._sight(layer, query[:, rows], keys[:, :seen], scale, decoding)
            masks.append((rows, seen, self.method.look(sight)))
        if all(mask is None or bool(mask.all()) for _, _, mask in masks):
            pairs = heads * sum(range(length - count + 1, length + 1))
            return dense(query, keys, values, scale), pairs
        for rows, seen, mask in masks:
            asked = rows.stop - rows.start
            shown = torch.ones(asked, seen, dtype=torch.bool, device=keys.device).tril(seen - asked)[None]
            shown = shown if mask is None else shown & mask
            read += int(shown.sum()) * (heads // shown.shape[0])
            parts.append(masked(query[:, rows], keys[:, :seen], values[:, :seen], scale, shown))
        return torch.cat(parts, dim=1), read

    def _sight(self, layer: int, query: Tensor, keys: Tensor, scale: float, decoding: bool) -> Sight:
        return Sight(layer, self.layers, query, keys, scale, self.prompt, decoding, self.memory)

    def _keys(self, layer: int) -> Tensor:
        return self.keys[layer][:, : self.filled[layer]]

    def _append(self, layer: int, key: Tensor, value: Tensor) -> None:
        heads, count, width = key.shape
        start = self.filled.get(layer, 0)
        if layer not in self.keys:
            room = max(self.prompt, count) + self.room
            self.keys[layer] = key.new_empty(heads, room, width)
            self.values[layer] = value.new_empty(heads, room, value.shape[-1])
        self.keys[layer][:, start : start + count] = key
        self.values[layer][:, start : start + count] = value
        self.filled[layer] = start + count

    def _count_prompt(self, layer: int, keys: Tensor, there: int, read: int | None) -> None:
        sight = self._sight(layer, keys[:, -1:], keys, 1.0, decoding=False)
        self.tally.computed += self.method.computed(sight)
        self.tally.prompts += self.prompt
        self.tally.prompt_read += there if read is None else read
        self.tally.prompt_there += there


def dense(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Attention (Hq, n, D) of the last n of S tokens over all before them, by the packed backend's kernel."""
    count, length = query.shape[1], keys.shape[1]
    if count == length:
        return partial(query[None], keys[None], values[None], scale, causal=True)[0][0]
    if count == 1:
        return partial(query[None], keys[None], values[None], scale)[0][0]
    shown = torch.ones(count, length, dtype=torch.bool, device=keys.device).tril(length - count)
    mask = torch.zeros(count, length, dtype=query.dtype, device=keys.device).masked_fill(~shown, -math.inf)
    return partial(query[None], keys[None], values[None], scale, mask)[0][0]


def masked(query: Tensor, keys: Tensor, values: Tensor, scale: float, shown: Tensor) -> Tensor:
    """Attention (Hq, n, D) over the keys that are shown, (Hq or 1, n, S)."""
    heads, count, width = query.shape
    groups = heads // keys.shape[0]
    asked = query.reshape(keys.shape[0], groups * count, width)
    scores = (asked @ keys.transpose(1, 2)).float().view(heads, count, -1) * scale
    weights = scores.masked_fill_(~shown, -math.inf).softmax(-1).to(values.dtype)
    out = weights.view(keys.shape[0], groups * count, -1) @ values
    return out.view(heads, count, -1)


class Sessions:
    """The layout of one forward: `counts` new tokens of each session side by side in one row."""

    def __init__(self, sessions: Sequence[Session], counts: Sequence[int]):
        self.sessions, self.counts = sessions, counts

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """(1, Hq, S, D) from queries (1, Hq, S, D), keys and values (1, Hk, S, D)."""
        parts, start = [], 0
        for session, count in zip(self.sessions, self.counts, strict=True):
            rows = slice(start, start + count)
            parts.append(session.attend(layer, query[0, :, rows], key[0, :, rows], value[0, :, rows], scale))
            start += count
        return torch.cat(parts, dim=1)[None]


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
        waiting = [i for i, row in enumerate(rows) if not row.done]
        yield from (i for i, row in enumerate(rows) if row.done)
        for i in waiting:
            self._check(len(rows[i].prompt) + rows[i].limit)
            if self._configured(rows[i]):
                raise KickError("a run-time method cannot obey generation_config: model; leave it out")
        most = budget.slots(self.network.device, self.network.size)
        open_rows: list[tuple[int, Session]] = []
        arrivals = self._changed(rows, waiting) if self.method.prompts else self._shared(rows, waiting)
        with self.network.ours():
            more = True
            while True:
                while more and len(open_rows) < most[1] and self._bytes(open_rows) < most[0]:
                    batch = next(arrivals, None)
                    more = batch is not None
                    for i, session, hidden in batch or ():
                        open_rows.append((i, session))
                        self._accept([rows[i]], hidden)
                    if batch:
                        break  # its rows go on before others begin
                for i, session in [one for one in open_rows if rows[one[0]].done]:
                    session.close()
                    yield i
                open_rows = [one for one in open_rows if not rows[one[0]].done]
                if not open_rows and not more:
                    return
                if open_rows:
                    going = [rows[i] for i, _ in open_rows]
                    hidden = self._run([one for _, one in open_rows], [row.tokens[-1:] for row in going])
                    self._accept(going, hidden)

    def _accept(self, rows: Sequence[Decoding], hidden: Tensor) -> None:
        for row, token in zip(rows, choose(self.network, hidden, rows)[0], strict=True):
            row.accept(token)

    def _bytes(self, open_rows: Sequence[tuple[int, Session]]) -> int:
        return sum(session.nbytes for _, session in open_rows)

    def _changed(
        self, rows: Sequence[Decoding], indices: Sequence[int]
    ) -> Iterator[list[tuple[int, Session, Tensor]]]:
        """Rows whose prompt has been read as the method reads it, one after another."""
        for i in sorted(indices, key=lambda i: -len(rows[i].prompt)):
            session = Session(self.method, self.layers, len(rows[i].prompt), rows[i].limit, self.tally)
            yield [(i, session, self._run([session], [rows[i].prompt])[-1:])]

    def _shared(
        self, rows: Sequence[Decoding], indices: Sequence[int]
    ) -> Iterator[list[tuple[int, Session, Tensor]]]:
        """Rows whose prompt has been read densely, what prompts begin with once."""
        if not indices:
            return
        root = grow([tuple(rows[i].prompt) for i in indices], worth)
        runner = Runner(self.network, root, [1] * len(indices), self.batch_tokens, keep=True)
        for batch in runner:
            yield [self._taken(rows[indices[done.reading]], indices[done.reading], done) for done in batch]

    def _taken(self, row: Decoding, index: int, done: Done) -> tuple[int, Session, Tensor]:
        session = Session(self.method, self.layers, len(row.prompt), row.limit, self.tally)
        session.take([*done.spans, done.tail])
        return index, session, done.hidden

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
        return network.hidden(ids, position_ids=positions, layout=layout)[0]


class SparseEngine(Engine):
    """An `Engine` whose answers a run-time method gives; `counted` says what it read and kept."""

    def __init__(
        self, method: RunTime, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **options: Any
    ):
        self.method = method
        super().__init__(model, tokenizer, **options)

    def _reader(self, model: PreTrainedModel, batch_tokens: int | None) -> SparseReader:
        return SparseReader(self.method, model, batch_tokens)

    def counted(self) -> dict[str, float | int]:
        """What was read, computed and kept since it was last asked."""
        reader = self.reader
        if not isinstance(reader, SparseReader):
            raise TypeError(f"{type(reader).__name__} counts nothing")
        found, reader.tally = reader.tally.shares(), ReadCounts()
        return found
