"""Text that a step trains on: packed windows of a corpus, and others held out.

A corpus's documents are joined by blank lines, tokenised once, and cut into windows of one length without
padding. The last twentieth of the tokens is held out; windows to train on come from the rest, in an order
that the seed gives, each token once before any comes again. If windows are chosen by what a model makes of
them, more are drawn in that order, none of them twice, and those kept stay in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kick.compress.calibrate import corpus
from kick.compress.calibrate.ranking import Choose, Ranker
from kick.compress.context import TextSpec
from kick.errors import CellFailed, KickError
from kick.records import CalibrationSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HELD_OUT = 0.05  # of the tokens
MOST_HELD_OUT = 16  # windows of it that are looked at


class Tokenised:
    """Corpora as a tokenizer's ids, each made once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, data_root: str | None = None):
        self.tokenizer, self.data_root = tokenizer, data_root
        self._ids: dict[str, list[int]] = {}
        self._digests: set[tuple[str, str]] = set()  # that were found to be the corpora's

    def ids(self, name: str, digest: str = "") -> list[int]:
        """The ids of a corpus.

        Raises KickError: unknown corpus, or data that are nowhere. CellFailed: its text has another digest.
        """
        if digest and (name, digest) not in self._digests:
            if digest != corpus.digest(name, self.data_root):
                raise CellFailed(f"the corpus {name} changed after this run was planned; run it again")
            self._digests.add((name, digest))
        if name not in self._ids:
            self._ids[name] = corpus.tokenised(name, self.tokenizer, self.data_root)
        return self._ids[name]

    def cut(self, name: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """The ids of a corpus by another tokenizer; raises as `ids` does."""
        return corpus.tokenised(name, tokenizer, self.data_root)

    def text(self, window: Tensor) -> str:
        """The text of a window (1, length)."""
        return self.tokenizer.decode(window.flatten())


@dataclass(frozen=True)
class TrainingText:
    """Text for steps that train, and the dense model for choosing it.

    load: loads the dense model, None where it is not known where it is. identity: of that model, JSON values;
    None: its scores are not kept.
    """

    tokenised: Tokenised
    load: Callable[[], Any] | None = None
    identity: Any = None

    def __call__(self, spec: TextSpec, choose: Choose | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Windows to train on, and others held out; raises as the function `windows` does."""
        return windows(spec, self.tokenised, choose)

    def text(self, window: Tensor) -> str:
        """The text of a window (1, length)."""
        return self.tokenised.text(window)

    def dense(self) -> Any:
        """The dense model, loaded anew. Raises KickError if it is not known where it is."""
        if self.load is None:
            raise KickError(
                "text is chosen by what the dense model makes of it, and the model was given loaded, so that "
                "its dense weights are gone by then; give the model by its name, or choose `select: random`"
            )
        return self.load()

    @property
    def ranker(self) -> Ranker:
        """What ranks windows by the dense model's scores."""
        return Ranker(self.dense, self.identity, self.text)


def windows(
    spec: TextSpec, tokenised: Tokenised, choose: Choose | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Windows (1, length) to train on, and others held out: the same ones for the same spec and tokenizer.

    choose: keeps `spec.windows` of `spec.pool` times as many.

    Raises:
        KickError: unknown corpus, data that are nowhere, or a corpus shorter than two windows, or than those
            to choose from.
        CellFailed: the corpus is not the one that the run was planned with.
    """
    ids = tokenised.ids(spec.corpus, spec.digest)
    cut = len(ids) - max(spec.length, int(HELD_OUT * len(ids)))
    if cut < spec.length:
        raise KickError(
            f"the corpus {spec.corpus!r} has {len(ids)} tokens, fewer than two windows of {spec.length}; "
            "ask for a smaller length, or another corpus"
        )
    if choose is None:
        starts = corpus.windows(cut, spec.length, spec.windows, spec.seed)
        trained = [_window(ids, start, spec.length) for start in starts]
    else:
        trained = _chosen(ids[:cut], spec, spec.windows, spec.pool, choose)
    held = range(cut, len(ids) - spec.length + 1, spec.length)[:MOST_HELD_OUT]
    return trained, [_window(ids, start, spec.length) for start in held]


def sequences(spec: CalibrationSpec, tokenised: Tokenised, pool: int, choose: Choose) -> list[Tensor]:
    """Calibration sequences (1, length) that are chosen of `pool` times as many, in the order of the spec.

    Raises KickError as `windows` does.
    """
    found = _chosen(tokenised.ids(spec.corpus), spec, spec.sequences, pool, choose)
    return [found[place] for place in corpus.reordered(len(found), spec.order)]


def _chosen(
    ids: list[int], spec: TextSpec | CalibrationSpec, count: int, pool: int, choose: Choose
) -> list[Tensor]:
    """`count` of the `pool * count` windows that the spec's seed draws first."""
    corpus.check_pool(len(ids), spec.corpus, spec.length, count, pool)
    starts = corpus.windows(len(ids), spec.length, pool * count, spec.seed)
    candidates = [_window(ids, start, spec.length) for start in starts]
    return [candidates[place] for place in choose(candidates, count)]


def _window(ids: list[int], start: int, length: int) -> Tensor:
    return torch.tensor([ids[start : start + length]])
