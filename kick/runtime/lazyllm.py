"""LazyLLM: tokens of the prompt that the last token does not look at are dropped on the way up.

Fu et al., 2024, arXiv 2407.14057; no code of the authors is available. After the attention of a chosen block,
tokens with the smallest attention of the prompt's last token, averaged over heads, are dropped for all later
blocks; positions stay the original ones. A dropped token is hidden as a key from later blocks, which gives
the numbers of a prompt without it.

A dropped token may come back: each generated token chooses among the prompt's tokens anew, block by block, by
its own attention. One that a block has not had yet goes on from where it was dropped, whose hidden states are
kept, and reads the tokens before it that are alive in that step. Its keys and values stay; what it was
before is not computed again. `revive: false` leaves the choice to the prompt's last token for good. Answers
that are scored after a prompt choose nothing: else each would choose its own evidence.

The schedule is not in the paper's text: independent ports keep 70, 50 and 30 % after a quarter, half and
three quarters of the depth, and that is the default here; it is ours. Generated tokens are never dropped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from kick.errors import KickError
from kick.runtime.entry import runtime
from kick.runtime.method import Cache, RunTime, Sight, option
from kick.runtime.selection import attention, survivors


@runtime(
    "lazyllm",
    title="LazyLLM",
    paper="Fu et al., 2024, arXiv 2407.14057",
    affects=("generate", "loglikelihood"),
    place=30,
    version=2,
    look="green X -",
)
@dataclass(frozen=True)
class LazyLLM(RunTime):
    """Fewer of the prompt's tokens from block to block, by the attention of its last token."""

    prompts: ClassVar[bool] = True
    schedule: str = option(
        "pairs of block:share of the prompt kept after it; a block below 1 is a share of the depth",
        "0.25:0.7 0.5:0.5 0.75:0.3",
    )
    revive: bool = option("whether generated tokens may bring dropped tokens of the prompt back", True)

    def check(self) -> None:
        """Raises KickError for a schedule that is not pairs of block:share, growing and falling."""
        self._pairs()

    def _pairs(self) -> list[tuple[float, float]]:
        pairs = []
        for part in self.schedule.split():
            block, _, share = part.partition(":")
            try:
                pairs.append((float(block), float(share)))
            except ValueError:
                raise KickError(f"schedule has {part!r}; expected block:share, as 0.5:0.3") from None
        shares = [share for _, share in pairs]
        fine = all(0 < share <= 1 for share in shares) and all(block >= 0 for block, _ in pairs)
        if not pairs or not fine or shares != sorted(shares, reverse=True):
            raise KickError(
                f"schedule is {self.schedule!r}; expected pairs of block:share, with falling shares"
            )
        return pairs

    def share_after(self, layer: int, layers: int) -> float:
        """The share of the prompt that is kept after a block, of `layers`."""
        kept = 1.0
        for block, share in self._pairs():
            at = block * layers if block < 1 else block
            if layer + 1 >= at:
                kept = min(kept, share)
        return kept

    def _drops(self, layer: int, layers: int) -> bool:
        return self.share_after(layer, layers) < (self.share_after(layer - 1, layers) if layer else 1.0)

    def look(self, sight: Sight) -> Tensor | None:
        """The prompt's tokens that are alive in this layer, and all after it, (1, 1, S)."""
        alive = sight.memory.get(sight.layer)
        if alive is None or bool(alive.all()):
            return None
        return _with_later(alive, sight.keys.shape[1])[None, None]

    def after(self, sight: Sight) -> None:
        """Choose the tokens that are alive in the next layer."""
        if (alive := self._chosen(sight)) is not None:
            sight.memory["had", sight.layer + 1] = alive.clone()

    def chooses(self) -> bool:
        """If dropped tokens may come back."""
        return self.revive

    def again(self, sight: Sight) -> None:
        """Choose the tokens that are alive in the next layer in this step."""
        if (alive := self._chosen(sight)) is not None:
            sight.memory["had", sight.layer + 1] |= alive

    def kept(self, layer: int, memory: Mapping[Any, Any]) -> Tensor | None:
        """The prompt's tokens that are alive in the layer."""
        found: Tensor | None = memory.get(layer)
        return found

    def _chosen(self, sight: Sight) -> Tensor | None:
        """Note the tokens that are alive in the next layer, (prompt,), the last one always; None for all."""
        alive = sight.memory.get(sight.layer)
        if self._drops(sight.layer, sight.layers):
            whole = torch.ones(sight.prompt, dtype=torch.bool, device=sight.keys.device)
            alive = whole if alive is None else alive
            keys = sight.keys.repeat_interleave(sight.groups, 0)
            weights = attention(sight.query[:, -1], keys, sight.scale, _with_later(alive, keys.shape[1]))
            count = math.ceil(self.share_after(sight.layer, sight.layers) * sight.prompt)
            alive = survivors(weights.double().mean(0)[: sight.prompt], alive, count)
        if alive is not None:
            sight.memory[sight.layer + 1] = alive
        return alive

    def computed(self, sight: Sight) -> int:
        """The prompt's tokens that are alive in this layer."""
        alive = sight.memory.get(sight.layer)
        return sight.prompt if alive is None else int(alive.sum())

    def bytes(self, cache: Cache) -> int:
        """Keys and values of the tokens that the layer has had, hidden states of those dropped before it."""
        had, before = (cache.memory.get(("had", layer)) for layer in (cache.layer, cache.layer - 1))
        if had is None:
            return cache.bytes(cache.length)
        waiting = int((~had if before is None else before & ~had).sum())
        return cache.bytes(cache.length - int((~had).sum())) + waiting * cache.hidden * cache.size


def _with_later(alive: Tensor, length: int) -> Tensor:
    """The prompt's tokens alive and all after it, (length,)."""
    later = torch.ones(max(0, length - len(alive)), dtype=torch.bool, device=alive.device)
    return torch.cat([alive[:length], later])
