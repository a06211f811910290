"""Instructions in turns: each is asked after the model's own answers to those before it.

lm-eval asks once, so under lm-eval alone the scores are those of the first turn. What can be told without a
judge is measured: length, distinct words and tokens, loops, refusals, empty answers, answers that the token
limit cut off. All are means over an answer's turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kick.records import Request, Response, Sample, TaskSpec
from kick.tasks.lm_eval_task import HarnessTask
from kick.tasks.protocol import protocol
from kick.tasks.task import Item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@protocol("turns", title="instructions in two turns", judged="instruction")
class Turns(HarnessTask):
    """A task whose documents have `turns`, a list of user messages, each document as many as it has."""

    def items(
        self,
        spec: TaskSpec,
        tokenizer: PreTrainedTokenizerBase,
        reference: Mapping[str, Sample] | None = None,
    ) -> list[Item]:
        """The first turns, as lm-eval asks them."""
        self._chat = self.renderer(spec, tokenizer) if spec.chat_template else None
        return super().items(spec, tokenizer)

    def follow_up(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[Item] | None:
        """The next turns, each after the turns and answers before it, with no request for documents that have
        no more; None if none has."""
        more = [
            replace(item, requests=(self._next(item, answers),) if len(answers) < _turns(item) else ())
            for item, answers in zip(items, responses, strict=True)
        ]
        return more if any(item.requests for item in more) else None

    def _next(self, item: Item, answers: Sequence[Response]) -> Request:
        first = item.requests[0]
        turns, prefix = item.doc["turns"], self.task.config.gen_prefix or ""
        between = self.task.config.target_delimiter
        said = [(answer.text or "").strip() for answer in answers]
        if self._chat is None:
            context = first.context
            for answer, turn in zip(said, turns[1:], strict=False):
                context = f"{context} {answer}\n\n{turn}{between}{prefix}"
            return replace(first, context=context)
        history: list[dict[str, str]] = []
        for turn, answer in zip(turns, [f"{prefix} {one}" for one in said] + [prefix], strict=False):
            history += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
        return replace(first, context=self._chat(history, add_generation_prompt=False))

    def score(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[dict[str, float]]:
        """The task's scores over all turns, with distinct_tokens and unfinished, which need token counts."""
        found = []
        for item, answers in zip(items, responses, strict=True):
            texts = [answer.text or "" for answer in answers]
            limit = item.requests[0].max_tokens
            found.append({**self.task.process_results(item.doc, texts), **_of_tokens(answers, limit)})
        return found


def _turns(item: Item) -> int:
    return len(item.doc["turns"])


def _of_tokens(answers: Sequence[Response], limit: int) -> dict[str, float]:
    count = len(answers)
    return {
        "distinct_tokens": sum(len(set(answer.tokens or ())) for answer in answers) / count,
        "unfinished": sum((answer.count or 0) >= limit for answer in answers) / count,
    }
