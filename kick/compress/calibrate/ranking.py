"""Ranking of texts by what a model scores them, for text to calibrate on and text to train on alike.

Max Marion, Ahmet Üstün, Luiza Pozzobon, Alex Wang, Marzieh Fadaee, Sara Hooker: When Less is More:
Investigating Data Pruning for Pretraining LLMs at Scale. 2023, arXiv 2309.04564. A window is scored by the
dense model, and the windows of the low, middle or high part of the ranking are kept:

    perplexity      exp of the mean negative log-likelihood of its tokens
    el2n            the mean over tokens of || softmax - onehot ||_2
    memorization    the share of its next N tokens that greedy decoding of its first N gives, N = 32
    length          its characters: a control that needs no model

Shown there for pretraining; which part is best depends on the corpus (arXiv 2405.20541). The control is
windows at random. Deviation: windows of one length from one corpus are ranked, not documents.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kick.errors import CellFailed, KickError
from kick.model.structure import device_of
from kick.paths import cache_root, keep
from kick.records import PARTS, POOL, SCORES, key

_VERSION = 1  # of the scores that are kept
DECODED = 32  # tokens given, and tokens compared, for memorization

Choose = Callable[[Sequence[Tensor], int], list[int]]  # windows and a count -> the places of those kept


@dataclass(frozen=True)
class Selection:
    """Which windows are kept: by which score, which part of the ranking, of how many times as many."""

    score: str
    keep: str = PARTS[1]
    pool: int = POOL

    @property
    def text(self) -> str:
        """The selection as text, for keys."""
        return f"{self.score} {self.keep} {self.pool}"

    @classmethod
    def read(cls, text: str) -> Selection:
        """The selection of a text. Raises KickError for another text."""
        words = text.split()
        if len(words) != 3 or words[0] not in SCORES or words[1] not in PARTS or not words[2].isdigit():
            raise KickError(
                f"invalid selection {text!r}; expected a score ({', '.join(SCORES)}), a part "
                f"({', '.join(PARTS)}) and a number, such as 'perplexity middle 2'"
            )
        return cls(words[0], words[1], int(words[2]))


def perplexity(logits: Tensor, labels: Tensor) -> Tensor:
    """(n,) exp of the mean negative log-likelihood of labels (n, t) under logits (n, t, vocabulary)."""
    chosen = logits.gather(-1, labels[..., None])[..., 0]
    return (logits.logsumexp(-1) - chosen).mean(-1).exp()


def el2n(logits: Tensor, labels: Tensor) -> Tensor:
    """(n,) mean over tokens of the distance between the probabilities and the label's one-hot vector."""
    found = logits.softmax(-1)
    chosen = found.gather(-1, labels[..., None])[..., 0]
    return (found.square().sum(-1) - chosen.square() + (1 - chosen).square()).sqrt().mean(-1)


def memorized(found: Tensor, labels: Tensor) -> Tensor:
    """(n,) share of labels (n, t) that the found tokens (n, t) are."""
    return (found == labels).double().mean(-1)


def part(scores: Sequence[float], count: int, keep: str) -> list[int]:
    """The places of `count` scores: the lowest, those around the middle or the highest of the ascending
    order, in which equal scores keep their order. In the order of places."""
    order = sorted(range(len(scores)), key=lambda place: scores[place])
    first = {"low": 0, "middle": (len(scores) - count) // 2, "high": len(scores) - count}[keep]
    return sorted(order[first : first + count])


@dataclass(frozen=True)
class Ranker:
    """Scores windows with the dense model, and keeps the scores on disk.

    Args:
        dense: gives the dense model; called if a score is not kept yet.
        identity: of that model, JSON values; None keeps no scores.
        decode: a window's text.
    """

    dense: Callable[[], Any]
    identity: Any
    decode: Callable[[Tensor], str]

    def choose(self, selection: Selection) -> Choose:
        """What keeps the windows of a selection."""
        return lambda windows, count: part(self.scores(selection.score, windows), count, selection.keep)

    def scores(self, score: str, windows: Sequence[Tensor]) -> list[float]:
        """One score per window (1, length). Raises CellFailed for a score that is not finite."""
        if score == "length":
            return [float(len(self.decode(one))) for one in windows]
        kept = None if self.identity is None else self._file(score, windows)
        if kept is not None and kept.is_file():
            found = json.loads(kept.read_text("utf-8"))
        else:
            found = scored(self.dense(), score, windows)
        if not all(map(math.isfinite, found)):
            raise CellFailed(f"the dense model's {score} of a text is not finite: it cannot be ranked")
        if kept is not None and not kept.is_file():
            keep(kept, json.dumps(found))
        return found

    def _file(self, score: str, windows: Sequence[Tensor]) -> Path:
        hasher = hashlib.sha256()
        for window in windows:
            hasher.update(window.cpu().numpy().tobytes() + b"|")
        return cache_root() / "rankings" / f"{key([_VERSION, self.identity, score, hasher.hexdigest()])}.json"


@torch.no_grad()
def scored(model: Any, score: str, windows: Sequence[Tensor]) -> list[float]:
    """One score per window (1, length), by a model."""
    found = []
    for window in windows:
        ids = window.to(device_of(model))
        if score == "memorization":
            value = memorized(*_continued(model, ids))
        else:
            logits = model(ids, use_cache=False).logits[:, :-1].float()
            value = {"perplexity": perplexity, "el2n": el2n}[score](logits, ids[:, 1:])
        found.append(float(value))
    return found


def _continued(model: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens that greedy decoding of a window's first ones gives, and those that follow there."""
    given = min(DECODED, ids.shape[1] // 2)
    start = ids[:, :given]
    whole = model.generate(
        start,
        attention_mask=torch.ones_like(start),
        min_new_tokens=given,
        max_new_tokens=given,
        do_sample=False,
        pad_token_id=0,
    )
    return whole[:, given:], ids[:, given : 2 * given]
