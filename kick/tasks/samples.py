"""Several answers to one question, and whether the model knows which of them is right.

Rohin Manvi, Anikait Singh, Stefano Ermon: Adaptive Inference-Time Compute: LLMs Can Predict if They Can Do
Better, Even Mid-Generation. 2024, arXiv 2410.02725. Their model is trained to judge itself by one token; here
nothing is trained, and the model is asked afterwards: the probability of " Yes" against " No" after its own
answer and a question. Sampling k times costs k times as much. Where dense solves less than a fifth of the
items there is little to choose from, and best of k says nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kick.records import Request, Response
from kick.tasks.lm_eval_task import HarnessTask
from kick.tasks.protocol import protocol
from kick.tasks.task import Item
from kick.tasks.text import words
from kick.tasks.worked import solution, stated

VERSION = 1
ASK = "Is this answer right? Yes or No:"
SAYS = (" Yes", " No")


@protocol("samples", title="several answers, judged by their own model", keys=("ask",), tokens=2400)
class Samples(HarnessTask):
    """A task with `repeats`, whose answers are then put to the model with a question (`ask`)."""

    def follow_up(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[Item] | None:
        """Two continuations of each answer with the question; None once they are answered."""
        if not items or any(len(answers) > len(item.requests) for item, answers in _pairs(items, responses)):
            return None
        ask = str(self.options.get("ask", ASK))
        return [
            replace(
                item,
                requests=tuple(
                    Request("loglikelihood", f"{request.context} {(answer.text or '').strip()}\n{ask}", said)
                    for request, answer in zip(item.requests, answers, strict=True)
                    for said in SAYS
                ),
            )
            for item, answers in _pairs(items, responses)
        ]

    def score(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[dict[str, float]]:
        """What `process_results` makes of the texts and how sure the model is of each, a share."""
        found = []
        for item, answers in _pairs(items, responses):
            count = len(answers) // (1 + len(SAYS))
            texts = [answer.text or "" for answer in answers[:count]]
            logs = [math.nan if one.logprob is None else one.logprob for one in answers[count:]]
            sure = [
                1 / (1 + math.exp(min(700.0, no - yes)))
                for yes, no in zip(logs[::2], logs[1::2], strict=True)
            ]
            found.append(self.task.process_results(item.doc, [texts, sure]))
        return found


def _pairs(
    items: Sequence[Item], responses: Sequence[Sequence[Response]]
) -> list[tuple[Item, Sequence[Response]]]:
    return list(zip(items, responses, strict=True))


def best_of(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """exact_match: the share of samples that are right; best_of: the one of which the model is surest is;
    majority: one with the number that most samples state is, the earliest of equals; pass_at_K: any of the K
    samples is; self_auroc: of the pairs of a right and a wrong sample, those with the model surer of the
    right one, ties half, NaN without such a pair; empty.

    `results`: the samples' texts, and how sure the model is of each; NaN in best_of and self_auroc if that is
    not known.
    """
    texts, sure = results
    right = [solution(doc, [text])["exact_match"] for text in texts]
    known = not any(map(math.isnan, sure))
    numbers = [stated(text) for text in texts]
    votes = Counter(number for number in numbers if number is not None)
    most = max(votes.values(), default=0)
    elected = [place for place, number in enumerate(numbers) if number is not None and votes[number] == most]
    return {
        "exact_match": sum(right) / len(right),
        "best_of": right[max(range(len(sure)), key=sure.__getitem__)] if known else math.nan,
        "majority": right[elected[0]] if elected else 0.0,
        f"pass_at_{len(texts)}": max(right),
        "self_auroc": _surer(right, sure) if known else math.nan,
        "empty": sum(not words(text) for text in texts) / len(texts),
    }


def _surer(right: Sequence[float], sure: Sequence[float]) -> float:
    """The area under ROC of `sure` against right and wrong; NaN if all are one."""
    good = [share for share, one in zip(sure, right, strict=True) if one]
    bad = [share for share, one in zip(sure, right, strict=True) if not one]
    if not good or not bad:
        return math.nan
    return sum((one > other) + (one == other) / 2 for one in good for other in bad) / (len(good) * len(bad))
