"""Instructions in one or two turns: the second is asked after the model's own answer to the first.

lm-eval asks once, so under lm-eval alone the scores are those of the first turn. What can be told without a
judge is measured: length, distinct words and tokens, loops, refusals, empty answers, answers that the token
limit cut off. All are means over an answer's turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kick.records import Request, Response, Sample, TaskSpec
from kick.tasks.lm_eval_task import HarnessTask
from kick.tasks.protocol import protocol
from kick.tasks.task import Item


@protocol("turns", title="instructions in two turns", judged="instruction")
class Turns(HarnessTask):
    """A task whose documents have `turns`, a list of one or two user messages."""

    def items(
        self, spec: TaskSpec, tokenizer: Any, reference: Mapping[str, Sample] | None = None
    ) -> list[Item]:
        """The first turns, as lm-eval asks them."""
        self._chat = self.renderer(spec, tokenizer) if spec.chat_template else None
        return super().items(spec, tokenizer)

    def follow_up(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[Item] | None:
        """The second turns, each after its first turn and the answer to it; None where there are none."""
        if not items or len(items[0].doc["turns"]) < 2:
            return None
        return [
            replace(item, requests=(self._second(item, answers[0].text or ""),))
            for item, answers in zip(items, responses, strict=True)
        ]

    def _second(self, item: Item, answer: str) -> Request:
        first = item.requests[0]
        turns, prefix = item.doc["turns"], self.task.config.gen_prefix or ""
        between = self.task.config.target_delimiter
        answer = answer.strip()
        if self._chat is None:
            return replace(first, context=f"{first.context} {answer}\n\n{turns[1]}{between}{prefix}")
        history = [
            {"role": "user", "content": turns[0]},
            {"role": "assistant", "content": f"{prefix} {answer}"},
            {"role": "user", "content": turns[1]},
            {"role": "assistant", "content": prefix},
        ]
        return replace(first, context=self._chat(history, add_generation_prompt=False))

    def score(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[dict[str, float]]:
        """The task's scores over all turns, with distinct_tokens and unfinished, which need token counts."""
        found = []
        for item, answers in zip(items, responses, strict=True):
            texts = [answer.text or "" for answer in answers]
            limit = item.requests[0].max_tokens
            found.append({**self.task.process_results(item.doc, texts), **_of_tokens(answers, limit)})
        return found


def _of_tokens(answers: Sequence[Response], limit: int) -> dict[str, float]:
    count = len(answers)
    return {
        "distinct_tokens": sum(len(set(answer.tokens or ())) for answer in answers) / count,
        "unfinished": sum((answer.count or 0) >= limit for answer in answers) / count,
    }
