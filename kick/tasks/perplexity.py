"""Corpus perplexity by the papers' protocol: exp of the mean negative log-likelihood over windows.

The texts are joined, tokenised once with the special tokens that the tokenizer adds by default, and cut
into windows of `seqlen` tokens; the tail is dropped. In each window the first token is given and the seqlen
- 1 others are scored, as in the evaluation code of SparseGPT (arXiv 2301.00774) and Wanda (arXiv 2306.11695),
there with seqlen 2048.

Windows of one document resemble each other, so they are not independent: each has a column `document`, the
number of the document in which its middle lies, and intervals are taken over documents. A text that is one
document, and in which the task file's `document` (a regular expression that a document's first line
matches) finds no other, is cut into blocks of neighbouring windows, their number growing with the cube root
of the windows'.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kick.errors import KickError
from kick.records import Request, Response, Sample, TaskSpec
from kick.tasks.lm_eval_task import HarnessTask, item_ids
from kick.tasks.protocol import protocol
from kick.tasks.task import Aggregate, Item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNIT = "document"  # the column that kick.stats.metrics reads


@protocol(
    "perplexity",
    title="perplexity of a corpus, by windows",
    keys=("seqlen", "separator"),
    tokens=512,
    metrics=("perplexity",),
)
class Perplexity(HarnessTask):
    """Token perplexity by windows. An item is a window; its score `nll` is nats per token."""

    def __init__(self, name: str, task: Any, config: Mapping[str, Any]):
        super().__init__(name, task, config)
        self.size = None
        self.reads_text = True
        self.seqlen = int(self.options.get("seqlen", 2048))
        self.separator = self.options.get("separator", "\n\n")
        self.document = _pattern(name, self.options.get("document"))

    def items(
        self,
        spec: TaskSpec,
        tokenizer: PreTrainedTokenizerBase,
        reference: Mapping[str, Sample] | None = None,
    ) -> list[Item]:
        """The first `spec.limit` windows. Raises KickError if the text is shorter than one."""
        texts = [self.task.doc_to_target(doc) for doc in self._docs]
        text = self.separator.join(texts)
        encoded = tokenizer(
            text, verbose=False, **({"return_offsets_mapping": True} if _offsets(tokenizer) else {})
        )
        ids = encoded["input_ids"]
        starts = range(0, len(ids) - self.seqlen + 1, self.seqlen)
        windows = [tuple(ids[start : start + self.seqlen]) for start in starts][: spec.limit]
        if not windows:
            raise KickError(f"task {self.name}: the text has {len(ids)} tokens, a window {self.seqlen}")
        middles = np.arange(len(windows)) * self.seqlen + self.seqlen // 2
        units = documents(_places(encoded, len(text))[middles], self._starts(texts, text))
        names = item_ids([list(window) for window in windows])
        return [
            Item(name, (Request("tokens", tokens=window),), doc={UNIT: float(unit)})
            for name, window, unit in zip(names, windows, units, strict=True)
        ]

    def _starts(self, texts: Sequence[str], text: str) -> list[int]:
        """Where documents start in the joined text, in characters."""
        if len(texts) == 1 and self.document:
            return [found.start() for found in self.document.finditer(text)]
        lengths = [len(one) + len(self.separator) for one in texts[:-1]]
        return [0, *itertools.accumulate(lengths)]

    def answered(self, spec: TaskSpec, samples: Sequence[Sample]) -> list[Item]:
        """The stored windows: their ids are hashes of their tokens."""
        known = ((sample, sample.scores.get(UNIT)) for sample in samples)
        return [Item(sample.item, (), doc={} if unit is None else {UNIT: unit}) for sample, unit in known]

    def score(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[dict[str, float]]:
        """The mean negative log-likelihood of each window, in nats per token, and its document's number."""
        losses = [_loss(answer) for (answer,) in responses]
        return [{"nll": loss, **item.doc} for item, loss in zip(items, losses, strict=True)]

    def aggregates(self) -> dict[str, Aggregate]:
        """perplexity: exp of the mean over windows (all of one length, so over all targets)."""
        return {}

    def higher_is_better(self) -> dict[str, bool]:
        """A smaller loss is better."""
        return {"nll": False, "perplexity": False}


def _loss(answer: Response) -> float:
    """Nats per token; NaN for a window without a probability."""
    if answer.logprob is None or not answer.count:
        return math.nan
    return -answer.logprob / answer.count


def _pattern(task: str, text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text, re.MULTILINE)
    except (re.error, TypeError) as error:
        raise KickError(
            f"task {task}: metadata.kick.document: {text!r} is not a regular expression: {error}"
        ) from error


def documents(places: NDArray, starts: Sequence[int]) -> NDArray:
    """The number of the document of each window, by the place of its middle in the text; blocks of one
    document."""
    if len(starts) > 1:
        return np.searchsorted(starts, places, side="right")
    return np.arange(len(places)) // max(1, round(len(places) ** (1 / 3)))


def _offsets(tokenizer: PreTrainedTokenizerBase) -> bool:
    return bool(getattr(tokenizer, "is_fast", False))


def _places(encoded: Mapping[str, Any], characters: int) -> NDArray:
    """Each token's place in the text; in proportion if the tokenizer does not give it."""
    if "offset_mapping" in encoded:
        return np.array([start for start, _ in encoded["offset_mapping"]])
    tokens = len(encoded["input_ids"])
    return np.arange(tokens) * characters // max(1, tokens)


def perplexity(nll: Sequence[float]) -> float:
    """exp of the mean."""
    return math.exp(sum(nll) / len(nll))
