"""One model's two services, in packs where they may be trusted, else by whole forwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from kick.engine import budget, whole
from kick.engine.packed.decode import Decode
from kick.engine.packed.pack import Runner
from kick.engine.packed.tree import grow
from kick.engine.packed.trust import packs_well
from kick.engine.reader import Reader
from kick.engine.stopping import Decoding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WORTH = 16  # tokens that sharing a prefix must save


class PackedReader(Reader):
    """The model behind an engine, run in packs as far as its architecture and a text's length allow."""

    def __init__(self, model: PreTrainedModel, batch_tokens: int | None = None):
        super().__init__(model, batch_tokens)
        self.packed = packs_well(self.network)

    def _packs(self, length: int) -> bool:
        return self.packed and (self.trusted is None or length <= self.trusted)

    def read(self, readings: Sequence[whole.Reading]) -> Iterator[whole.Found]:
        """Batches of (index, hidden states (count, H)) of the last positions of each reading."""
        packed = [i for i, (ids, _) in enumerate(readings) if self._packs(len(ids))]
        if packed:
            root = grow([readings[i][0] for i in packed], lambda tokens, n: tokens * (n - 1) >= WORTH)
            counts = [readings[i][1] for i in packed]
            with self.network.ours():
                for batch in Runner(self.network, root, counts, self.batch_tokens):
                    if batch:
                        yield [(packed[done.reading], done.hidden) for done in batch]
        rest = sorted(set(range(len(readings))) - set(packed))
        for found in super().read([readings[i] for i in rest]):
            yield [(rest[index], hidden) for index, hidden in found]

    def decode(self, rows: Sequence[Decoding], drafts: Mapping[int, tuple[int, ...]]) -> Iterator[int]:
        """Finish every row; their indices as they are done. `drafts`: answers to be checked, by index."""
        packed = [
            i
            for i, row in enumerate(rows)
            if not self._configured(row) and self._packs(len(row.prompt) + row.limit) and not row.done
        ]
        if packed:
            mine = {place: drafts[i] for place, i in enumerate(packed) if i in drafts}
            limits = budget.slots(self.network.device, self.network.size)
            decode = Decode(
                self.network, [rows[i] for i in packed], self.batch_tokens, limits, mine, self.acceptance
            )
            with self.network.ours():
                for index in decode:
                    yield packed[index]
        rest = sorted(set(range(len(rows))) - set(packed))
        for index in super().decode([rows[i] for i in rest], {}):
            yield rest[index]
