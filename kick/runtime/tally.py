"""What a run-time method read, computed and kept, counted while a model answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ReadCounts:
    """Sums over sequences; `shares` makes columns of them.

    read, there: keys that decoding steps read and could have read, over layers and query heads;
    prompt_read, prompt_there: pairs of a query and a key of prompts; computed, prompts: tokens of prompts
    that layers computed, at once or in a later step, and all; cache, whole: bytes of the caches at the end
    of sequences, and as they would be dense; sequences: how many were answered; tokens: of their prompts.
    """

    read: int = 0
    there: int = 0
    prompt_read: int = 0
    prompt_there: int = 0
    computed: int = 0
    prompts: int = 0
    cache: int = 0
    whole: int = 0
    sequences: int = 0
    tokens: int = 0

    def shares(self) -> dict[str, float | int]:
        """Counted columns, as far as there was something to count.

        keys_read: share of keys read while decoding; prompt_keys_read: the same of prompts;
        prompt_computed: share of (token, layer) pairs of prompts computed; cache_bytes and
        dense_cache_bytes: mean of a sequence; prompt_tokens: mean length; sequences.
        """
        found: dict[str, float | int] = {"sequences": self.sequences}
        for name, part, whole in (
            ("keys_read", self.read, self.there),
            ("prompt_keys_read", self.prompt_read, self.prompt_there),
            ("prompt_computed", self.computed, self.prompts),
            ("cache_bytes", self.cache, self.sequences),
            ("dense_cache_bytes", self.whole, self.sequences),
            ("prompt_tokens", self.tokens, self.sequences),
        ):
            if whole:
                found[name] = part / whole
        return found
