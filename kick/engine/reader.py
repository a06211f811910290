"""One model's two services: read token sequences, and continue them; in packs where they may be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kick.engine import budget, plain
from kick.engine.network import Network
from kick.engine.packed.decode import Decode
from kick.engine.packed.draft import Acceptance
from kick.engine.packed.pack import Runner
from kick.engine.packed.tree import grow
from kick.engine.packed.trust import packs_well, stretched_beyond, trusted_length
from kick.engine.probe import manner_of
from kick.engine.stopping import Decoding
from kick.model import decoding

WORTH = 16  # tokens that sharing a prefix must save


class Reader:
    """The model behind an engine; `plain` runs any in whole forwards.

    `packed`: whether the architecture may be run in packs; `trusted`: up to which length (None: any);
    `stretched`: beyond which length a text's numbers depend on the longest text of its forward (None: never);
    `settings`: what of its generation configuration changes logits, for rows that obey it.

    Raises KickError for a model that is no causal language model.
    """

    def __init__(self, model, batch_tokens: int | None = None, plain: bool = False):
        self.network = Network(model)
        self.batch_tokens = batch_tokens or budget.batch_tokens(self.network.device)
        self.network.manner = manner_of(self.network)
        self.packed = not plain and packs_well(self.network)
        self.trusted = trusted_length(model.config)
        self.stretched = stretched_beyond(model.config)
        self.settings = decoding.changes(model.generation_config)
        self.acceptance = Acceptance()

    def _packs(self, length: int) -> bool:
        return self.packed and (self.trusted is None or length <= self.trusted)

    def read(self, readings: Sequence[plain.Reading]) -> Iterator[plain.Found]:
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
        left = [readings[i] for i in rest]
        for batch in plain.read(self.network, left, self.batch_tokens, self.stretched):
            yield [(rest[index], hidden) for index, hidden in batch]

    def decode(self, rows: Sequence[Decoding], drafts: Mapping[int, tuple[int, ...]]) -> Iterator[int]:
        """Finish every row; their indices as they are done. `drafts`: answers to be checked, by index."""
        packed = [
            i
            for i, row in enumerate(rows)
            if not self._configured(row) and self._packs(len(row.prompt) + row.limit) and not row.done
        ]
        if packed:
            mine = {place: drafts[i] for place, i in enumerate(packed) if i in drafts}
            limits = budget.slots(self.network.device)
            decode = Decode(
                self.network, [rows[i] for i in packed], self.batch_tokens, limits, mine, self.acceptance
            )
            with self.network.ours():
                for index in decode:
                    yield packed[index]
        rest = sorted(set(range(len(rows))) - set(packed))
        for configured in (False, True):
            own = [i for i in rest if self._configured(rows[i]) is configured]
            settings = self.settings if configured else {}
            for index in plain.generate(self.network, [rows[i] for i in own], self.batch_tokens, settings):
                yield own[index]

    def _configured(self, row: Decoding) -> bool:
        """Whether the row obeys settings that only the model's own `generate` does."""
        return row.configured and bool(self.settings)
