"""Answers come from the logits that are scored, whatever a model's own `generate` does.

transformers 5.17 hands `generate`'s positions to every model whose forward takes them. RoBERTa's family
numbers positions from its padding token on, so its own `generate` answers as another model would. The right
answer takes the best token of a whole forward, again and again.
"""

from __future__ import annotations

import pytest
import torch
import transformers as tf

from kick.engine import Engine
from kick.engine.network import Network
from kick.engine.plain import Plain
from kick.engine.probe import generates
from kick.errors import KickError
from kick.records import Request
from tests.engine import conftest

PROMPTS = ["The quick brown fox", "Water is", "The king and the queen"]
TOKENS = 6
ROBERTA = {**conftest._MHA, "is_decoder": True}


@pytest.fixture(scope="module")
def roberta(tokenizer):
    conftest.CONFIGS["roberta"] = (tf.RobertaConfig, ROBERTA)
    return conftest.build("roberta", tokenizer)


def step_by_step(model, ids: list[int], end: int) -> tuple[int, ...]:
    """Greedy tokens of whole forwards without a cache."""
    said: list[int] = []
    while len(said) < TOKENS and said[-1:] != [end]:
        with torch.inference_mode():
            said.append(int(model(torch.tensor([ids + said]), use_cache=False).logits[0, -1].argmax()))
    return tuple(said)


@pytest.mark.parametrize("kind", [Engine, Plain])
def test_answers_are_those_of_the_forward(kind, roberta, tokenizer):
    engine = kind(roberta, tokenizer)
    found = engine.answer([Request("generate", context=p, max_tokens=TOKENS) for p in PROMPTS])
    expected = [step_by_step(roberta, tokenizer.encode(p), tokenizer.eos_token_id) for p in PROMPTS]
    assert [response.tokens for response in found] == expected
    assert engine.notes()["own_generate"] is False
    ids = torch.tensor([tokenizer.encode(PROMPTS[0])])
    theirs = roberta.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False
    )
    assert tuple(theirs[0, ids.shape[1] :].tolist()) != expected[0]  # what this test is about


def test_settings_that_only_generate_obeys_are_refused_there(roberta, tokenizer):
    roberta.generation_config.repetition_penalty = 1.3
    try:
        engine = Plain(roberta, tokenizer)
        with pytest.raises(KickError, match=r"cannot obey repetition_penalty.*other logits than its forward"):
            engine.answer([Request("generate", context=PROMPTS[0], max_tokens=4, configured=True)])
    finally:
        roberta.generation_config.repetition_penalty = None


def test_a_generate_that_raises_is_not_needed(tokenizer, monkeypatch):
    """As transformers' does for a Jamba without an attention layer."""
    model = conftest.build("bloom", tokenizer)
    expected = [step_by_step(model, tokenizer.encode(p), tokenizer.eos_token_id) for p in PROMPTS]

    def broken(**options):
        raise ValueError("`get_seq_length` can only be called on Attention layers")

    monkeypatch.setattr(model, "generate", broken)
    found = Engine(model, tokenizer).answer(
        [Request("generate", context=p, max_tokens=TOKENS) for p in PROMPTS]
    )
    assert [response.tokens for response in found] == expected


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "mixtral", "mamba", "bloom", "mistral"])
def test_where_both_are_the_same_generate_is_used(name, models):
    assert generates(Network(models(name)))
