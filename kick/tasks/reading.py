"""Reading tasks: a context that is too long is cut by tokens, away from the answer, and the cut is counted.

lm-eval's task files have no tokenizer, so the cut is made in the finished prompt. Where no context is longer
than `context_tokens`, which holds for all of SQuAD's, the prompts are lm-eval's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kick.errors import KickError
from kick.records import Request, Response, Sample, TaskSpec
from kick.tasks.lm_eval_task import HarnessTask
from kick.tasks.protocol import protocol
from kick.tasks.task import Item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTEXT_TOKENS = 768


@protocol("reading", title="questions on a context, which is cut by tokens", keys=("context_tokens",))
class Reading(HarnessTask):
    """A task whose documents have a `context` that occurs in the prompt, an `answer`, and its `start`.

    `start` is the character at which the answer begins, -1 where it has to be looked for.
    """

    def items(
        self,
        spec: TaskSpec,
        tokenizer: PreTrainedTokenizerBase,
        reference: Mapping[str, Sample] | None = None,
    ) -> list[Item]:
        """lm-eval's prompts, with contexts of at most `context_tokens` tokens."""
        limit = int(self.options.get("context_tokens", CONTEXT_TOKENS))
        return [self._within(item, tokenizer, limit) for item in super().items(spec, tokenizer)]

    def _within(self, item: Item, tokenizer: PreTrainedTokenizerBase, limit: int) -> Item:
        context = item.doc["context"]
        answers = [item.doc["answer"], *item.doc["aliases"]]
        kept = cut(context, answers, item.doc["start"], tokenizer, limit)
        if kept == context:
            return item
        return replace(item, requests=tuple(self._shorter(r, context, kept) for r in item.requests))

    def _shorter(self, request: Request, context: str, kept: str) -> Request:
        head, found, tail = request.context.rpartition(context)
        if not found:
            raise KickError(f"task {self.name}: a document's context does not appear verbatim in its prompt")
        return replace(request, context=f"{head}{kept}{tail}")

    def answered(self, spec: TaskSpec, samples: Sequence[Sample]) -> list[Item]:
        """The items; one whose context was cut gets no prompt, for no tokenizer is there to cut it again."""
        lost = {sample.item for sample in samples if sample.scores.get("cut")}
        items = super().answered(spec, samples)
        return [_without_prompt(item) if item.id in lost else item for item in items]

    def score(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[dict[str, float]]:
        """The task's scores, and `cut`: whether the context had to be cut."""
        found = super().score(items, responses)
        return [
            {**scores, "cut": float(item.doc["context"] not in item.requests[0].context)}
            for item, scores in zip(items, found, strict=True)
        ]


def _without_prompt(item: Item) -> Item:
    return replace(item, requests=tuple(replace(request, context="") for request in item.requests))


def cut(
    context: str, answers: Sequence[str], start: int, tokenizer: PreTrainedTokenizerBase, limit: int
) -> str:
    """At most `limit` tokens of the context: the head, unless the answer lies beyond it.

    Then the window ends with the context where that holds the answer, else it has the answer in its middle.
    A context that holds no answer keeps its head.
    """
    encoded = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    offsets = encoded["offset_mapping"]
    if len(offsets) <= limit:
        return context
    begin, end = _place(context, answers, start)
    first = next((i for i, (_, stop) in enumerate(offsets) if stop > begin), 0)
    last = next((i for i, (_, stop) in enumerate(offsets) if stop >= end), first)
    if last < limit:
        low = 0
    elif first >= len(offsets) - limit:
        low = len(offsets) - limit
    else:
        low = max(0, (first + last + 1 - limit) // 2)
    return context[offsets[low][0] : offsets[low + limit - 1][1]]


def _place(context: str, answers: Sequence[str], start: int) -> tuple[int, int]:
    """The place of the answer, in characters; (0, 0) if it does not occur."""
    if start >= 0:
        return start, start + len(answers[0])
    folded = context.lower()
    found = [(at, at + len(a)) for a in answers if a and (at := folded.find(a.lower())) >= 0]
    return min(found, default=(0, 0))
