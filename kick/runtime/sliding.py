"""A sliding window with attention sinks, as StreamingLLM.

Xiao et al., ICLR 2024, arXiv 2309.17453. Every token reads the first tokens and those just before it, in the
prompt as well. Other than theirs, positions stay the original ones: texts here are within the model's own
window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kick.runtime.entry import runtime
from kick.runtime.method import Cache, RunTime, Sight, option
from kick.runtime.selection import window


@runtime(
    "sliding",
    title="Sliding window with sinks",
    paper="Xiao et al., ICLR 2024, arXiv 2309.17453",
    affects=("generate", "loglikelihood", "text"),
    place=50,
    look="quiet d -",
)
@dataclass(frozen=True)
class Sliding(RunTime):
    """The first tokens and the last ones, in the prompt as well (StreamingLLM)."""

    prompts: ClassVar[bool] = True
    window: int = option("last tokens that are read", 256, low=1)
    sinks: int = option("first tokens that are read", 4, low=0)

    def look(self, sight: Sight) -> Tensor | None:
        """The keys of each token, (1, n, S)."""
        length, asked = sight.keys.shape[1], sight.query.shape[1]
        if self.window >= length:
            return None
        return window(length, asked, self.sinks, self.window).to(sight.keys.device)[None]

    def bytes(self, cache: Cache) -> int:
        """Keys and values of the sinks and the window."""
        return cache.bytes(min(cache.length, self.sinks + self.window))
