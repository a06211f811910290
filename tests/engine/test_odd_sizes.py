"""What is left over when batches are made: one, none, twice the same, empty, too long, odd text."""

from __future__ import annotations

import math

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from kick.engine import Engine
from kick.errors import KickError
from kick.records import Request

NAMES = ["llama", "gpt2", "mamba"]
LONG = " ".join(f"{i * 7919 % 1000}" for i in range(400))
PAIRS = [
    ("The river", " is long"),
    ("The river", " is long"),
    ("", " a word"),
    ("", "<|im_start|>word"),
    ("<|im_start|>user", "\nhello"),
    ("trailing blanks   ", "and more"),
    ("東京は", "日本の首都🗼です"),
    ("é", "\u0301e"),
    (LONG, " short"),
    ("head " + LONG[:60], LONG[60:120]),
    ("x", "y"),
]


def hflm(model, tokenizer, kind, arguments, **options):
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, **options)
    return getattr(lm, kind)([Instance(kind, {}, a, 0) for a in arguments], disable_tqdm=True)


@pytest.mark.parametrize("name", NAMES)
def test_pairs(name, models, tokenizer):
    model = models(name)
    window = 96  # Mamba has none of its own
    wanted = hflm(model, tokenizer, "loglikelihood", PAIRS, max_length=window)
    engine = Engine(model, tokenizer, window=window)
    found = engine.answer([Request("loglikelihood", context=c, continuation=t) for c, t in PAIRS])
    assert [r.logprob for r in found] == pytest.approx([w[0] for w in wanted], abs=1e-4)
    assert [r.greedy for r in found] == [w[1] for w in wanted]
    whole = [len(tokenizer.encode(c + t)) for c, t in PAIRS]
    assert [r.truncated for r in found] == [max(0, length - window - 1) for length in whole]


@pytest.mark.parametrize("name", NAMES)
def test_rolling(name, models, tokenizer):
    model, texts = models(name), [LONG, "", "one", LONG[:250], "é日本🗼" * 20]
    wanted = hflm(model, tokenizer, "loglikelihood_rolling", [(t,) for t in texts], max_length=96)
    found = Engine(model, tokenizer, window=96).answer([Request("rolling", context=t) for t in texts])
    assert [r.logprob for r in found] == pytest.approx(wanted, rel=1e-6, abs=1e-4)
    assert [r.count for r in found] == [len(tokenizer.encode(t)) for t in texts]


def test_one_request_and_none(models, tokenizer):
    engine = Engine(models("llama"), tokenizer)
    assert engine.answer([]) == []
    (one,) = engine.answer([Request("loglikelihood", context="a", continuation="b")])
    assert one.logprob < 0


def test_an_empty_continuation_is_missing(models, tokenizer):
    """lm-eval fails on it; a probability of 1 would win against every choice that has a token."""
    for context in ("", "some words"):
        (found,) = Engine(models("llama"), tokenizer).answer([Request("loglikelihood", context=context)])
        assert math.isnan(found.logprob)
        assert (found.greedy, found.count) == (False, 0)


def test_a_continuation_longer_than_the_window_is_scored_to_its_end(models, tokenizer):
    """lm-eval fails on it; every token is scored once, in windows as a rolling text is."""
    engine = Engine(models("llama"), tokenizer, window=40)
    tokens = len(tokenizer.encode(LONG))
    (found,) = engine.answer([Request("loglikelihood", context="<|im_start|>", continuation=LONG)])
    (rolled,) = engine.answer([Request("rolling", context=LONG)])
    assert found.count == rolled.count == tokens > 40
    assert found.logprob == pytest.approx(rolled.logprob, rel=1e-6)
    (cut,) = engine.answer([Request("loglikelihood", context="some words before", continuation=LONG)])
    assert cut.truncated == len(tokenizer.encode("some words before")) - 1


def test_windows_of_tokens(models, tokenizer):
    model = models("llama")
    engine = Engine(model, tokenizer)
    ids = tuple(tokenizer.encode(LONG))
    (found,) = engine.answer([Request("tokens", tokens=ids[:97])])
    with torch.inference_mode():
        logs = model(torch.tensor([ids[:96]])).logits[0].log_softmax(-1)
    wanted = sum(float(logs[i, ids[i + 1]]) for i in range(96))
    assert (found.logprob, found.count) == (pytest.approx(wanted, abs=1e-3), 96)
    for wrong in (ids[:1], ids[:98]):
        with pytest.raises(KickError, match="2 to 97"):
            engine.answer([Request("tokens", tokens=wrong)])


def test_answers_come_in_the_order_asked_and_are_told_once(models, tokenizer):
    requests = [
        Request("generate", context="The house", max_tokens=3),
        *[Request("loglikelihood", context=c, continuation=t) for c, t in PAIRS],
        Request("rolling", context="The river and the sea"),
        Request("loglikelihood", context="a", continuation=""),
        Request("generate", context="The house", max_tokens=3),
    ]
    told = {}
    engine = Engine(models("llama"), tokenizer, window=96)
    found = engine.answer(requests, lambda i, response: told.setdefault(i, []).append(response))
    assert [told[i] for i in range(len(requests))] == [[response] for response in found]
    assert found[0] == found[-1]
    alone = [engine.answer([request])[0] for request in requests]
    for a, b in zip(found, alone, strict=True):
        assert (a.text, a.greedy, a.count) == (b.text, b.greedy, b.count)
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4, nan_ok=True)
