"""Text that a step trains on: packed windows of a corpus, and others held out.

A corpus's documents are joined by blank lines, tokenised once, and cut into windows of one length without
padding. The last twentieth of the tokens is held out; windows to train on come from the rest, in an order
that the seed gives, each token once before any comes again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kick.compress.calibrate import corpus
from kick.compress.context import TextSpec
from kick.errors import CellFailed, KickError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HELD_OUT = 0.05  # of the tokens
MOST_HELD_OUT = 16  # windows of it that are looked at


def texts(
    tokenizer: PreTrainedTokenizerBase, data_root: str | None = None
) -> Callable[[TextSpec], tuple[list[Tensor], list[Tensor]]]:
    """What gives the windows of a `TextSpec`, and those held out, with this tokenizer."""
    return lambda spec: windows(spec, tokenizer, data_root)


def windows(
    spec: TextSpec, tokenizer: PreTrainedTokenizerBase, data_root: str | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Windows (1, length) to train on, and others held out: the same ones for the same spec and tokenizer.

    Raises:
        KickError: unknown corpus, data that are nowhere, or a corpus shorter than two windows.
        CellFailed: the corpus is not the one that the run was planned with.
    """
    if spec.digest and spec.digest != corpus.digest(spec.corpus, data_root):
        raise CellFailed(f"the corpus {spec.corpus} changed after this run was planned; run it again")
    ids = corpus.tokenised(spec.corpus, tokenizer, data_root)
    cut = len(ids) - max(spec.length, int(HELD_OUT * len(ids)))
    if cut < spec.length:
        raise KickError(
            f"the corpus {spec.corpus!r} has {len(ids)} tokens, fewer than two windows of {spec.length}; "
            "ask for a smaller length, or another corpus"
        )
    starts = corpus.windows(cut, spec.length, spec.windows, spec.seed)
    held = range(cut, len(ids) - spec.length + 1, spec.length)[:MOST_HELD_OUT]
    return [_window(ids, start, spec.length) for start in starts], [
        _window(ids, start, spec.length) for start in held
    ]


def _window(ids: list[int], start: int, length: int) -> Tensor:
    return torch.tensor([ids[start : start + length]])
