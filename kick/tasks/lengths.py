"""How long generated answers are: in tokens, and whether the limit cut them.

Every generated task gets these two scores beside its own. Compression that keeps the right answer may
double the tokens up to it. An answer that the limit cut has no length of its own: it is censored.
"""

from __future__ import annotations

from collections.abc import Sequence

from kick.records import Response
from kick.tasks.task import Item


def scores(item: Item, answers: Sequence[Response]) -> dict[str, float]:
    """answer_tokens: generated tokens of the item, the stop included; unfinished: the share of its answers
    that were cut off by the limit.

    Nothing for an item that is not only generated, or whose tokens were not counted.
    """
    limit = next((request.max_tokens for request in item.requests if request.kind == "generate"), 0)
    counts = [answer.count for answer in answers if answer.text is not None]
    known = [count for count in counts if count is not None]
    if not limit or not known or len(known) < len(answers):
        return {}
    cut = sum(count >= limit for count in known)
    return {"answer_tokens": float(sum(known)), "unfinished": cut / len(known)}
