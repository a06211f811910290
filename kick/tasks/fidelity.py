"""Divergence from the dense model (Divergent Token Metrics, arXiv 2311.01544).

The dense model continues each prefix greedily; a variant reads prefix and continuation in one teacher-
forced pass. Scores an item: fdt (first divergent token, the length where there is none), sdt (share of
divergent tokens), agreement (top-1), KL(dense || variant) per token, dppl (the variant's perplexity on the
continuation), and the dense margin at the first divergence, which tells a tie from a change of mind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import datasets

from kick.errors import KickError
from kick.records import Request, Response, Sample, TaskSpec
from kick.tasks.lm_eval_task import HarnessTask
from kick.tasks.protocol import protocol
from kick.tasks.task import Aggregate, Item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PREFIX_WORDS = 32
LEAST_WORDS = 48  # a shorter paragraph makes no prefix


def prefixes(docs: Any) -> datasets.Dataset:
    """The starts of paragraphs: first the first ones of all documents, then the second ones, and so on."""
    return datasets.Dataset.from_list(list(_sweeps(docs)))


def _sweeps(docs: Any) -> Iterator[dict[str, str]]:
    per_document = [list(_paragraphs(doc)) for doc in docs]
    for number in range(max(map(len, per_document), default=0)):
        yield from (rows[number] for rows in per_document if number < len(rows))


def _paragraphs(doc: Mapping[str, str]) -> Iterator[dict[str, str]]:
    for paragraph in doc["text"].split("\n\n"):
        words = paragraph.split(" ")
        if len(words) >= LEAST_WORDS:
            yield {"id": doc["id"], "genre": doc.get("genre", ""), "prefix": " ".join(words[:PREFIX_WORDS])}


def _scores(values: Mapping[str, float]) -> dict[str, float]:
    scores = {name: value for name, value in values.items() if name not in ("length", "dppl")}
    if "length" in values:
        scores["positions"] = values["length"]  # the highest FDT that the item can have
    if "dppl" in values:
        scores["continuation_nll"] = math.log(values["dppl"])
    return scores


@protocol(
    "fidelity",
    title="divergence from the dense model's answers",
    keys=("prompted",),
    tokens=100,
    metrics=("fdt", "sdt", "agreement", "kl_mean", "kl_median", "kl_p99", "kl_max", "dppl", "margin"),
)
class Fidelity(HarnessTask):
    """A task whose requests are made of the dense model's greedy continuations."""

    needs_reference = True

    def items(
        self,
        spec: TaskSpec,
        tokenizer: PreTrainedTokenizerBase,
        reference: Mapping[str, Sample] | None = None,
    ) -> list[Item]:
        """For the dense model the prefixes to continue; for a variant the continuations to read.

        Prefixes are running text, and no chat template is put around them, unless the task says `prompted`.
        Raises KickError if the dense model's answer to an item is missing.
        """
        chat = spec.chat_template and bool(self.options.get("prompted"))
        asked = super().items(replace(spec, chat_template=chat), tokenizer)
        return asked if reference is None else [self._read(item, reference) for item in asked]

    def _read(self, item: Item, reference: Mapping[str, Sample]) -> Item:
        if item.id not in reference:
            raise KickError(f"task {self.name}: the dense model has no stored continuation of item {item.id}")
        return self._teacher_forced(item, reference[item.id].responses[0])

    @staticmethod
    def _teacher_forced(item: Item, continuation: Response) -> Item:
        request = Request("fidelity", item.requests[0].context, tokens=continuation.tokens or ())
        return Item(item.id, (request,), item.target, item.group, item.doc)

    def follow_up(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[Item] | None:
        """For the dense model: reading its own continuation, which is what noise-free looks like."""
        if not items or items[0].requests[0].kind == "fidelity" or len(responses[0]) > 1:
            return None
        return [self._teacher_forced(item, answer) for item, (answer,) in zip(items, responses, strict=True)]

    def score(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[dict[str, float]]:
        """The values of the teacher-forced pass; NaN for a continuation of no token.

        continuation_nll is the log of the prefix's DPPL, in nats per token.
        """
        return [_scores(answers[-1].values or {"fdt": math.nan}) for answers in responses]

    def aggregates(self) -> dict[str, Aggregate]:
        """All are means over prefixes."""
        return {}

    def higher_is_better(self) -> dict[str, bool]:
        """Late divergence and agreement are better, the rest is distance."""
        return {"fdt": True, "agreement": True}
