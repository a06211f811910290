"""One model's reading service by passes over its blocks: as many tokens per pass as a budget holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import psutil
import torch
from torch import Tensor

from kick.engine import budget, whole
from kick.engine.layers import COPIES, SHARE, Passing
from kick.engine.layers.network import LayeredNetwork
from kick.engine.layers.passes import Forward, run
from kick.engine.network import mask_of, pad_right
from kick.engine.packed.attend import PackLayout
from kick.engine.packed.draft import Acceptance
from kick.engine.packed.pack import Pack, gather
from kick.engine.packed.tree import Node, common, grow
from kick.engine.packed.trust import stretched_beyond, trusted_length
from kick.engine.reader import Reader
from kick.engine.stopping import Decoding, check_numbers, pick
from kick.errors import KickError
from kick.model import decoding
from kick.model.layered import Layered

WORTH = 16  # tokens that sharing a prefix must save


class LayeredReader(Reader):
    """The model behind an engine, read block by block.

    Raises KickError for a model that is not a causal language model with a plain head.
    """

    def __init__(self, layered: Layered, batch_tokens: int | None = None, how: Passing | None = None):
        how = how or Passing()
        self.generate = how.generate
        self.layered = layered
        self.network: LayeredNetwork = LayeredNetwork(layered)
        self.packed = self.network.packed
        self.batch_tokens = batch_tokens or budget.batch_tokens(self.network.device)
        config = layered.model.config
        self.trusted = trusted_length(config)
        self.stretched = stretched_beyond(config)
        self.settings = decoding.changes(layered.model.generation_config)
        self.acceptance = Acceptance()
        self.memory = how.memory or psutil.virtual_memory().available // SHARE
        self.passes = 0
        self.noted: list[whole.Reading] | None = None  # while it is a list, readings are noted, not read
        self.known: dict[tuple[tuple[int, ...], int], Tensor] = {}

    def read(self, readings: Sequence[whole.Reading]) -> Iterator[whole.Found]:
        """Batches of (index, hidden states (count, H)) of the last positions of each reading."""
        if self.noted is not None:
            self.noted += readings
            return
        known = [(i, self.known[reading]) for i, reading in enumerate(readings) if reading in self.known]
        for start in range(0, len(known), 64):
            yield known[start : start + 64]
        done = {i for i, _ in known}
        rest = [i for i in range(len(readings)) if i not in done]
        for found in self._read([readings[i] for i in rest]):
            yield [(rest[index], hidden) for index, hidden in found]

    def prepare(self, parts: Sequence[Sequence[whole.Reading]]) -> None:
        """Read all of these together, for `read` to give, if their states fit the budget.

        Readings of two parts share no forward: the numbers of one do not hang on what else is asked.
        """
        new = [[one for one in dict.fromkeys(part) if one not in self.known] for part in parts]
        if self._bytes(sum(count for part in new for _, count in part)) * COPIES > self.memory:
            return
        for part, found in self._parts(new):
            self.known |= {part[index]: hidden.clone() for index, hidden in found}

    def take(
        self, readings: Sequence[whole.Reading], jobs: Sequence[SharedForward], forwards: Sequence[Forward]
    ) -> None:
        """Keep the states of these readings, from forwards that were run; they are let go."""
        self.passes += 1
        for job, forward in zip(jobs, forwards, strict=True):
            self.known |= {readings[index]: hidden.clone() for index, hidden in job.found(forward)}

    def forget(self) -> None:
        """Let go what `prepare` has read, and the head."""
        self.known.clear()
        self.network.release()

    def _bytes(self, tokens: int) -> int:
        weight = self.network.embedding.weight
        return tokens * weight.shape[1] * weight.dtype.itemsize

    def shared(self, readings: Sequence[whole.Reading]) -> list[SharedForward]:
        """The forwards that give these readings."""
        packs = [i for i, (ids, _) in enumerate(readings) if self._packs(len(ids))]
        rest = sorted(set(range(len(readings))) - set(packs))
        return [*self._trees(readings, packs), *self._rows(readings, rest)]

    def bytes_of(self, jobs: Sequence[SharedForward]) -> int:
        """Bytes that hidden states take while these forwards are run."""
        return self._bytes(sum(job.tokens for job in jobs)) * COPIES

    def _read(self, readings: Sequence[whole.Reading]) -> Iterator[whole.Found]:
        for _, found in self._parts([readings]):
            yield found

    def _parts(
        self, parts: Sequence[Sequence[whole.Reading]]
    ) -> Iterator[tuple[Sequence[whole.Reading], whole.Found]]:
        """The states of each part's readings, in as few passes as the budget allows."""
        jobs = [(job, part) for part in parts for job in self.shared(part)]
        while jobs:
            now = [jobs.pop(0)]
            while jobs and self.bytes_of([job for job, _ in (*now, jobs[0])]) <= self.memory:
                now.append(jobs.pop(0))
            self.network.release()
            run(self.network, [job.forward for job, _ in now])
            self.passes += 1
            for job, part in now:
                yield part, job.found(job.forward)

    def _packs(self, length: int) -> bool:
        return self.packed and (self.trusted is None or length <= self.trusted)

    def _trees(self, readings: Sequence[whole.Reading], chosen: Sequence[int]) -> Iterator[_Tree]:
        """Forwards of neighbours in the order of their tokens, as many as a forward holds."""
        order = sorted(chosen, key=lambda i: readings[i][0])
        group: list[int] = []
        size = 0
        for i in order:
            ids = readings[i][0]
            more = len(ids) - (common(readings[group[-1]][0], ids) if group else 0)
            if group and size + more > self.batch_tokens:
                yield _Tree(self.network, readings, group)
                group, size, more = [], 0, len(ids)
            group.append(i)
            size += more
        if group:
            yield _Tree(self.network, readings, group)

    def _rows(self, readings: Sequence[whole.Reading], chosen: Sequence[int]) -> Iterator[_Rows]:
        """Forwards of whole rows padded on the right, longest first."""
        order = sorted(chosen, key=lambda i: -len(readings[i][0]))
        while order:
            longest = len(readings[order[0]][0])
            part = order[: 1 if self.network.manner.alone else max(1, self.batch_tokens // longest)]
            if self.stretched is not None and longest > self.stretched:
                part = [i for i in part if len(readings[i][0]) == longest]
            order = order[len(part) :]
            yield _Rows(self.network, readings, part)

    def decode(self, rows: Sequence[Decoding], drafts: Mapping[int, tuple[int, ...]]) -> Iterator[int]:
        """Finish every row, a token of each per pass; their indices as they are done.

        Raises KickError unless `generate` is set: each step reads all weights.
        """
        if rows and not self.generate:
            size = sum(one.nbytes for part in self.layered.parts.values() for one in part.values())
            steps = max(row.limit for row in rows)
            raise KickError(
                f"the engine 'layered' reads all weights at every step: {size / 1e9:.1f} GB x {steps} "
                f"tokens = {size * steps / 1e9:,.0f} GB for {len(rows)} answers; leave out tasks that "
                "generate, set `generate: true` beside the engine's name, or choose packed on a machine "
                "that holds the model"
            )
        if any(self._configured(row) for row in rows):
            raise KickError("the engine 'layered' obeys no generation_config; expected: greedy")
        if self.noted is not None:
            return
        going = [i for i, row in enumerate(rows) if not row.done]
        yield from sorted(set(range(len(rows))) - set(going))
        while going:
            readings = [((*rows[i].prompt, *rows[i].tokens), 1) for i in going]
            for found in list(self._read(readings)):
                for place, hidden in found:
                    logits = self.network.logits(hidden)
                    check_numbers(logits.amax(-1))
                    rows[going[place]].accept(pick(logits[0], rows[going[place]]))
            yield from (i for i in going if rows[i].done)
            going = [i for i in going if not rows[i].done]


class VariantReader(LayeredReader):
    """The readings of a variant that goes through the blocks with others: `take` has those that were shared.

    Args:
        of: the dense model's reader, whose network this one shares.
        apart: gives a reader of the variant alone, for what is read later.
    """

    def __init__(self, of: LayeredReader, apart: Callable[[], LayeredReader]):
        vars(self).update(vars(of))
        self.acceptance, self.known, self.passes = Acceptance(), {}, 0
        self.apart = apart

    def forget(self) -> None:
        """Let the head go: readings may be asked for again."""
        self.network.release()

    def _parts(
        self, parts: Sequence[Sequence[whole.Reading]]
    ) -> Iterator[tuple[Sequence[whole.Reading], whole.Found]]:
        if any(parts):
            alone = self.apart()
            before = alone.passes
            yield from alone._parts(parts)
            self.passes += alone.passes - before


class SharedForward(Protocol):
    """Several readings in one forward. `forward` is the call; `found` takes one that was run, which may be
    another model's."""

    forward: Forward
    tokens: int

    def found(self, forward: Forward) -> whole.Found:
        """The states of its readings; the forward's own are let go."""


class _Tree:
    """Readings that go into one forward as a tree of shared prefixes."""

    def __init__(self, network: LayeredNetwork, readings: Sequence[whole.Reading], chosen: Sequence[int]):
        self.chosen, self.counts = list(chosen), [readings[i][1] for i in chosen]
        self.root = grow([readings[i][0] for i in chosen], lambda tokens, n: tokens * (n - 1) >= WORTH)
        for node in self.root.below():
            for reading in node.readings:
                node.want(self.counts[reading])
        self.pack = Pack(network.device)
        for child in self.root.children:
            self.pack.add(child, (), True)
        layout = PackLayout(self.pack.own + self.pack.shared, False)
        positions = torch.tensor([self.pack.positions], device=network.device)
        ids = torch.tensor([self.pack.ids], device=network.device)
        self.forward = Forward(ids, {"position_ids": positions, "layout": layout}, network.ours)
        self.tokens = len(self.pack.ids)

    def found(self, forward: Forward) -> whole.Found:
        """The states of its readings; the forward's own are let go."""
        hidden = _taken(forward)[0]
        ends: list[Node] = []
        for node, start, _ in self.pack.placed:
            end = start + len(node.ids)
            node.hidden = hidden[end - node.wanted : end]
            ends += [node] if node.readings else []
        found = [(self.chosen[one], gather(node, self.counts[one])) for node in ends for one in node.readings]
        for node, _, _ in self.pack.placed:
            node.hidden = None  # variants share the tree: it must not keep the states of the last one
        return found


class _Rows:
    """Readings that go into one forward as padded rows."""

    def __init__(self, network: LayeredNetwork, readings: Sequence[whole.Reading], chosen: Sequence[int]):
        self.readings = [(i, len(readings[i][0]), readings[i][1]) for i in chosen]
        rows = [readings[i][0] for i in chosen]
        mask = {"attention_mask": mask_of(rows, network.device)} if network.manner.mask else {}
        self.forward = Forward(pad_right(rows, network.device), mask, network.native)
        self.tokens = self.forward.tokens

    def found(self, forward: Forward) -> whole.Found:
        """The states of its readings; the forward's own are let go."""
        hidden = _taken(forward)
        return [(i, hidden[row, end - count : end]) for row, (i, end, count) in enumerate(self.readings)]


def _taken(forward: Forward) -> Tensor:
    if forward.hidden is None:
        raise RuntimeError("a forward has not been run")
    hidden, forward.hidden = forward.hidden, None
    return hidden
