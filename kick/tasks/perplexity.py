"""Corpus perplexity by the papers' protocol: exp of the mean negative log-likelihood over windows.

The texts are joined, tokenised once with the special tokens that the tokenizer adds by default, and cut
into windows of `seqlen` tokens; the tail is dropped. In each window the first token is given and the seqlen
- 1 others are scored (PROTOCOL: SparseGPT's and Wanda's evaluation, there with seqlen 2048).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kick.errors import KickError
from kick.records import Request, Response, Sample, TaskSpec
from kick.tasks.lm_eval_task import HarnessTask
from kick.tasks.protocol import protocol
from kick.tasks.task import Aggregate, Item, digest


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
        self.seqlen = int(self.options.get("seqlen", 2048))
        self.separator = self.options.get("separator", "\n\n")

    def items(
        self, spec: TaskSpec, tokenizer: Any, reference: Mapping[str, Sample] | None = None
    ) -> list[Item]:
        """The first `spec.limit` windows. Raises KickError where the text is shorter than one."""
        text = self.separator.join(self.task.doc_to_target(doc) for doc in self._docs)
        ids = tokenizer(text, verbose=False)["input_ids"]
        starts = range(0, len(ids) - self.seqlen + 1, self.seqlen)
        windows = [tuple(ids[start : start + self.seqlen]) for start in starts][: spec.limit]
        if not windows:
            raise KickError(f"task {self.name}: the text has {len(ids)} tokens, a window {self.seqlen}")
        return [Item(digest(list(w)), (Request("tokens", tokens=w),)) for w in windows]

    def answered(self, spec: TaskSpec, samples: Sequence[Sample]) -> list[Item]:
        """The stored windows: their ids are hashes of their tokens."""
        return [Item(sample.item, ()) for sample in samples]

    def score(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[dict[str, float]]:
        """The mean negative log-likelihood of each window, in nats per token."""
        return [{"nll": -answer.logprob / answer.count} for (answer,) in responses]

    def aggregates(self) -> dict[str, Aggregate]:
        """perplexity: exp of the mean over windows (all of one length, so over all targets)."""
        return {}

    def higher_is_better(self) -> dict[str, bool]:
        """A smaller loss is better."""
        return {"nll": False, "perplexity": False}


def perplexity(nll: Sequence[float]) -> float:
    """exp of the mean."""
    return math.exp(sum(nll) / len(nll))
