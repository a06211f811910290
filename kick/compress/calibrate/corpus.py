"""Calibration data: a corpus -> token sequences (1, length), seeded, with a digest.

The same sequences for every method of a matrix. A corpus's texts are joined by blank lines, tokenised once
and cut into windows that do not overlap, from a seeded start; a seeded choice of them is taken, and another
cut only where there are not enough.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kick import hub
from kick.compress.calibrate.packaged import world_english_bible
from kick.compress.calibrate.ranking import Selection
from kick.errors import KickError
from kick.records import CalibrationSpec
from kick.registry import unknown

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


LONG = 8  # characters that no tokenizer's tokens have on average


@dataclass(frozen=True)
class Corpus:
    """Where texts come from. `source` says it in words; `texts` takes the data root."""

    name: str
    source: str
    texts: Callable[[str | None], list[str]]


def _embedded(_root: str | None) -> list[str]:
    from kick.tasks import data

    rows = data.embedded("calibration")["test"]
    return [f"{row['title']}\n\n{row['text']}" for row in rows]


def _wikitext2(root: str | None) -> list[str]:
    from kick.tasks import data

    rows = data.load("Salesforce/wikitext", ["validation"], "wikitext-2-v1", root)["validation"]
    return ["".join(rows["text"])]


def _c4(_root: str | None) -> list[str]:
    import datasets

    hub.online()  # else its libraries would try for long
    shard = "en/c4-train.00000-of-01024.json.gz"
    try:
        rows = datasets.load_dataset("allenai/c4", data_files={"train": shard}, split="train[:20000]")
    except (ConnectionError, FileNotFoundError, ValueError, OSError) as error:
        raise KickError(
            f"could not download corpus 'c4' from the hub (allenai/c4, {shard}): {type(error).__name__}; "
            "offline, use kick_mini_calibration or wikitext2"
        ) from error
    return list(rows["text"])


CORPORA = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            "kick_mini_calibration", "the embedded suite's own prose, apart from what it tests", _embedded
        ),
        Corpus("wikitext2", "WikiText-2 validation (tokenised), from the mirror or the hub", _wikitext2),
        Corpus(
            "world_english_bible", "a modern Bible in the public domain, from a package", world_english_bible
        ),
        Corpus("c4", "the first 20,000 documents of C4's first English shard, from the hub", _c4),
    )
}


def texts(corpus: str, data_root: str | None = None) -> list[str]:
    """The corpus's texts. Raises KickError: unknown corpus, or data that are nowhere."""
    if corpus not in CORPORA:
        raise KickError(unknown("calibration corpus", corpus, CORPORA))
    return CORPORA[corpus].texts(data_root)


def digest(corpus: str, data_root: str | None = None) -> str:
    """sha256 of the corpus's texts: it changes the key of every cell that calibrates on it."""
    hasher = hashlib.sha256()
    for text in texts(corpus, data_root):
        hasher.update(text.encode())
        hasher.update(b"\0")
    return hasher.hexdigest()


def sequences(
    spec: CalibrationSpec, tokenizer: PreTrainedTokenizerBase, data_root: str | None = None
) -> list[Tensor]:
    """`spec.sequences` LongTensors (1, spec.length), the same ones for the same spec and tokenizer.

    Raises:
        KickError: unknown corpus, data that are nowhere, a corpus shorter than one sequence, or sequences
            that are chosen by what a model makes of them: there is none here.
    """
    import torch

    if spec.select:
        raise KickError(
            "calibration sequences are chosen by what the dense model makes of them in a matrix alone, with "
            f"the model in memory; got select {spec.select!r}, expected none"
        )

    ids = _ids(spec, tokenizer, data_root)
    starts = windows(len(ids), spec.length, spec.sequences, spec.seed)
    places = reordered(len(starts), spec.order)
    return [torch.tensor([ids[starts[place] : starts[place] + spec.length]]) for place in places]


def check_positions(config: PretrainedConfig, length: int) -> None:
    """Raises KickError if sequences of `length` tokens are longer than a model's positions."""
    config = getattr(config, "text_config", None) or config
    known = [getattr(config, name, None) for name in ("n_positions", "max_position_embeddings", "n_ctx")]
    positions = next((count for count in known if count is not None), length)
    if length > positions:
        raise KickError(
            f"calibration sequences have length {length}, but the model has {positions} positions; "
            f"expected a length of at most {positions}"
        )


def check_length(
    spec: CalibrationSpec, tokenizer: Callable[[], PreTrainedTokenizerBase], data_root: str | None = None
) -> None:
    """Raises KickError if a corpus is shorter than one sequence, or than those that some are chosen of.
    `tokenizer` is asked for only where that may be: where there are less than LONG characters for a token."""
    pool = Selection.read(spec.select).pool if spec.select else 0
    needed = spec.length * max(1, spec.sequences * pool)
    if needed * LONG > sum(map(len, texts(spec.corpus, data_root))):
        ids = _ids(spec, tokenizer(), data_root)
        if pool:
            check_pool(len(ids), spec.corpus, spec.length, spec.sequences, pool)


def check_pool(tokens: int, name: str, length: int, count: int, pool: int) -> None:
    """Raises KickError if a corpus has fewer windows without overlap than `count` are chosen of."""
    most = max(0, tokens // length - 1)  # a cut starts where the seed says
    if count * pool > most:
        raise KickError(
            f"{count} windows of {length} tokens are chosen of {count * pool}, and the corpus {name!r} has "
            f"{most} that do not overlap; ask for fewer or shorter ones, or a smaller pool"
        )


def tokenised(name: str, tokenizer: PreTrainedTokenizerBase, data_root: str | None) -> list[int]:
    """The token ids of a whole corpus, its documents joined by blank lines."""
    text = "\n\n".join(texts(name, data_root))
    return tokenizer(text, add_special_tokens=False, verbose=False).input_ids


def _ids(spec: CalibrationSpec, tokenizer: PreTrainedTokenizerBase, data_root: str | None) -> list[int]:
    ids = tokenised(spec.corpus, tokenizer, data_root)
    if len(ids) < spec.length:
        raise KickError(
            f"the corpus {spec.corpus!r} has {len(ids)} tokens, fewer than one sequence of {spec.length}; "
            "ask for a smaller length, or another corpus"
        )
    return ids


def reordered(count: int, order: int) -> list[int]:
    """The n-th other order of `count` things, all of them different; order 0 leaves them as they are.

    Raises ValueError if they have fewer orders.
    """
    if order >= math.factorial(count):
        raise ValueError(f"{count} sequences have no {order} other orders")
    generator = random.Random(0)
    places = list(range(count))
    seen = {tuple(places)}
    while len(seen) <= order:
        generator.shuffle(places)
        seen.add(tuple(places))
    return places


def windows(tokens: int, length: int, count: int, seed: int) -> list[int]:
    """Where `count` windows of `length` start: without overlap within each cut of the text into windows."""
    generator = random.Random(seed)
    starts: list[int] = []
    while len(starts) < count:
        shift = generator.randrange(min(length, tokens - length + 1))
        cut = list(range(shift, tokens - length + 1, length))
        generator.shuffle(cut)
        starts += cut
    return starts[:count]
