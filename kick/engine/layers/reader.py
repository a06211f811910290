"""One model's reading service by passes over its blocks: as many tokens per pass as a budget holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import psutil
import torch
from torch import Tensor

from kick.engine import budget, limits, whole
from kick.engine.layers import COPIES, SHARE, Passing
from kick.engine.layers.forwards import SharedForward, forwards
from kick.engine.layers.network import LayeredNetwork
from kick.engine.layers.passes import Forward, run
from kick.engine.network import Network
from kick.engine.packed.decode import Decode
from kick.engine.packed.draft import Acceptance
from kick.engine.packed.trust import stretched_beyond, trusted_length
from kick.engine.reader import Reader
from kick.engine.stopping import Decoding, check_numbers, pick
from kick.errors import KickError
from kick.model import decoding
from kick.model.layered import Layered


class LayeredReader(Reader):
    """The model behind an engine, read block by block.

    Raises KickError for a model that is not a causal language model with a plain head.
    """

    def __init__(self, layered: Layered, batch_tokens: int | None = None, how: Passing | None = None):
        how = how or Passing()
        self.generate = how.generate
        self.layered = layered
        self.network: LayeredNetwork = layered.tried or LayeredNetwork(layered)
        layered.tried = self.network
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
        return list(forwards(self, readings))

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
            self.run([job.forward for job, _ in now])
            for job, part in now:
                yield part, job.found(job.forward)

    def run(self, forwards: Sequence[Forward]) -> None:
        """Run these in a pass over the blocks, without the head beside them."""
        self.network.release()
        run(self.network, forwards)
        self.passes += 1

    def decode(self, rows: Sequence[Decoding], drafts: Mapping[int, tuple[int, ...]]) -> Iterator[int]:
        """Finish every row, a token of each per pass; their indices as they are done. `drafts`: answers to be
        checked, by index.

        Prompts are read first, `batch_tokens` in a pass; their keys and values are kept, within the budget.
        A model that packs may not be trusted with has each row's tokens read anew in each pass.

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
        packed = [i for i, row in enumerate(rows) if not row.done and self._packs(row)]
        mine = {place: drafts[i] for place, i in enumerate(packed) if i in drafts}
        network, room = _InPasses(self), (self.memory, limits.ROWS)
        own = [rows[i] for i in packed]
        for place in Decode(network, own, self.batch_tokens, room, mine, self.acceptance):
            yield packed[place]
        yield from self._step_by_step(rows, sorted(set(range(len(rows))) - set(packed)))

    def _packs(self, row: Decoding) -> bool:
        return self.packed and (self.trusted is None or len(row.prompt) + row.limit <= self.trusted)

    def _step_by_step(self, rows: Sequence[Decoding], chosen: Sequence[int]) -> Iterator[int]:
        """Finish these rows, each read from its beginning at every token."""
        going = [i for i in chosen if not rows[i].done]
        yield from sorted(set(chosen) - set(going))
        while going:
            readings = [((*rows[i].prompt, *rows[i].tokens), 1) for i in going]
            for found in list(self._read(readings)):
                for place, hidden in found:
                    logits = self.network.logits(hidden)
                    check_numbers(logits.amax(-1))
                    rows[going[place]].accept(pick(logits[0], rows[going[place]]))
            yield from (i for i in going if rows[i].done)
            going = [i for i in going if not rows[i].done]


class _InPasses(Network):
    """A layered network, each of whose forwards is a pass over the blocks, with our attention."""

    def __init__(self, reader: LayeredReader):
        vars(self).update(vars(reader.network))
        self.reader = reader

    @torch.inference_mode()
    def hidden(self, ids: Tensor, **options: Any) -> Tensor:
        """Last hidden states (B, T, H) of token ids (B, T); `options` are the model's own keywords."""
        forward = Forward(ids, options, self.ours)
        self.reader.run([forward])
        if forward.hidden is None:
            raise RuntimeError("a forward has not been run")
        return forward.hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (N, V) in float32 of hidden states (N, H)."""
        return self.reader.network.logits(hidden)


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
        """Nothing: readings may be asked for again, and the other variants have the same head."""

    def _parts(
        self, parts: Sequence[Sequence[whole.Reading]]
    ) -> Iterator[tuple[Sequence[whole.Reading], whole.Found]]:
        if any(parts):
            self.network.release()
            alone = self.apart()
            before = alone.passes
            yield from alone._parts(parts)
            self.passes += alone.passes - before
