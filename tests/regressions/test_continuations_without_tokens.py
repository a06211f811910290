"""A continuation that the tokenizer joins with its context, or that is empty, is never certain.

The right value is the log-probability of the whole text from the first token on in which it differs from the
context alone, by a whole forward of transformers.
"""

from __future__ import annotations

import math

import pytest
import torch

from kick.engine import Engine
from kick.engine.lm_eval_model import KickLM
from kick.errors import KickError
from kick.records import Request, Response
from kick.tasks import evaluate
from kick.tasks.task import Item

# the smoke tokenizer's own words: "the", "river", " house", ... are single tokens
PAIRS = [
    ("I saw the riv", "er"),
    ("I saw the riv", "et"),
    ("t", "he"),
    ("a hou", "se"),
    ("a hou", "nd today"),
]


def border(tokenizer, context: str, continuation: str) -> tuple[list[int], int]:
    """The whole's token ids, and where they part from the context's."""
    head, whole = tokenizer.encode(context), tokenizer.encode(context + continuation)
    same = [a == b for a, b in zip(head, whole, strict=False)]
    return whole, same.index(False) if False in same else len(same)


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_what_was_joined_is_scored_from_the_first_token_that_differs(name, models, tokenizer):
    model = models(name)
    found = Engine(model, tokenizer).answer(
        [Request("loglikelihood", context=c, continuation=t) for c, t in PAIRS]
    )
    joined = 0
    for (context, continuation), response in zip(PAIRS, found, strict=True):
        whole, start = border(tokenizer, context, continuation)
        joined += len(whole) <= len(tokenizer.encode(context))
        start, ids = (start, whole) if start else (1, [tokenizer.bos_token_id, *whole])
        with torch.inference_mode():
            logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = sum(float(logs[i - 1, ids[i]]) for i in range(start, len(ids)))
        assert response.logprob == pytest.approx(expected, abs=1e-3)
        assert response.logprob < -0.01
        assert response.count == len(ids) - start
    assert joined, "no pair leaves its continuation without a token by lm-eval's cut: choose others"


def test_an_item_with_an_empty_choice_is_missing_and_counted(models, tokenizer):
    engine = Engine(models("llama"), tokenizer)
    asked = [Request("loglikelihood", context="The river", continuation=c) for c in ("", " house", " a")]
    answers = engine.answer(asked)
    assert math.isnan(answers[0].logprob)

    class Task:
        def score(self, items, responses):
            best = [max(range(3), key=lambda i: answers[i].logprob) for answers in responses]
            return [{"acc": float(place == 0)} for place in best]

    (sample,) = evaluate.score(Task(), [Item("a", tuple(asked))], [answers])
    assert math.isnan(sample.scores["acc"])
    assert evaluate.counts([sample])["unscored"] == 1


def test_lm_eval_itself_is_told_so(models, tokenizer):
    class Instance:
        args = ("The river", "")

    with pytest.raises(KickError, match="no token of its own"):
        KickLM(models("llama"), tokenizer).loglikelihood([Instance()])


def test_counts_tell_how_many_had_no_token():
    item = Item("a", (Request("loglikelihood", "a", "b"),))
    scored = Response(logprob=-1.0, greedy=True, count=1)
    none = Response(logprob=math.nan, greedy=False, count=0)
    samples = [item.sample([scored], {"acc": 1.0}), item.sample([none], {"acc": math.nan})]
    assert evaluate.counts(samples)["unscored"] == 1
