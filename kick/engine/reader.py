"""One model's two services, by whole forwards: read token sequences, and continue them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from kick.engine import budget, whole
from kick.engine.network import Network
from kick.engine.packed.draft import Acceptance
from kick.engine.packed.trust import stretched_beyond, trusted_length
from kick.engine.probe import generates, manner_of
from kick.engine.stopping import Decoding
from kick.model import decoding

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Reader:
    """The model behind an engine, run in whole forwards.

    `packed`: whether the architecture may be run in packs; `trusted`: up to which length (None: any);
    `stretched`: beyond which length a text's numbers depend on the longest text of its forward (None: never);
    `settings`: what of its generation configuration changes logits, for rows that obey it.

    Raises KickError for a model that is not a causal language model.
    """

    packed = False

    def __init__(self, model: PreTrainedModel, batch_tokens: int | None = None):
        self.network = Network(model)
        self.batch_tokens = batch_tokens or budget.batch_tokens(self.network.device)
        self.network.manner = manner_of(self.network)
        self.trusted = trusted_length(model.config)
        self.stretched = stretched_beyond(model.config)
        self.settings = decoding.changes(model.generation_config)
        self.acceptance = Acceptance()
        self._probed = False  # whether `network.generates` has been found out

    def read(self, readings: Sequence[whole.Reading]) -> Iterator[whole.Found]:
        """Batches of (index, hidden states (count, H)) of the last positions of each reading."""
        yield from whole.read(self.network, readings, self.batch_tokens, self.stretched)

    def decode(self, rows: Sequence[Decoding], drafts: Mapping[int, tuple[int, ...]]) -> Iterator[int]:
        """Finish every row; their indices as they are done. `drafts` are not looked at."""
        if rows and not self._probed:
            self.network.generates, self._probed = generates(self.network), True
        for configured in (False, True):
            own = [i for i, row in enumerate(rows) if self._configured(row) is configured]
            settings = self.settings if configured else {}
            for index in whole.generate(self.network, [rows[i] for i in own], self.batch_tokens, settings):
                yield own[index]

    def _configured(self, row: Decoding) -> bool:
        """Whether the row obeys settings that only the model's own `generate` does."""
        return row.configured and bool(self.settings)
