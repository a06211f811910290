"""No model's masks are taken on trust: a row equals itself alone, and nothing sees what comes after it.

The right values are transformers' own, a whole forward of one row, with eager attention and a mask.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertLMHeadModel, BitsAndBytesConfig, DogeConfig

from kick.engine import Engine
from kick.engine.network import Manner, Network
from kick.engine.plain import Plain
from kick.engine.probe import manner_of
from kick.errors import KickError
from kick.records import Request
from tests.engine import conftest

PAIRS = [
    ("The quick brown fox", " jumps"),
    ("Water is", " jumps"),
    ("The quick brown fox jumps over the lazy dog and then it goes home to sleep all night", " then"),
]


@pytest.fixture(scope="module")
def doge(tokenizer):
    """Without a mask its attention is not causal, and sees padding (transformers 5.17, sdpa)."""
    conftest.CONFIGS["doge"] = (DogeConfig, {**conftest._GQA, "head_dim": 8})
    return conftest.build("doge", tokenizer)


@pytest.mark.parametrize("plain", [False, True])
def test_a_model_that_sees_what_it_must_not_is_run_so_that_it_does_not(plain, doge, tokenizer):
    engine = (Plain if plain else Engine)(doge, tokenizer)
    found = engine.answer([Request("loglikelihood", context=c, continuation=t) for c, t in PAIRS])
    said = engine.answer([Request("generate", context=c, max_tokens=6) for c, _ in PAIRS])
    assert engine.notes()["whole_forwards"] == "rows padded on the right, with a mask, eager attention"
    doge.set_attn_implementation("eager")
    try:
        for (context, target), response, answer in zip(PAIRS, found, said, strict=True):
            head, whole = tokenizer.encode(context), tokenizer.encode(context + target)
            ids = torch.tensor([whole])
            with torch.inference_mode():
                logs = (
                    doge(ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0].log_softmax(-1)
                )
            expected = sum(float(logs[i - 1, whole[i]]) for i in range(len(head), len(whole)))
            assert response.logprob == pytest.approx(expected, abs=1e-3)
            ids = list(head)
            for token in answer.tokens:  # token by token, in whole forwards
                row = torch.tensor([ids])
                with torch.inference_mode():
                    logits = doge(row, attention_mask=torch.ones_like(row), use_cache=False).logits
                assert int(logits[0, -1].argmax()) == token
                ids.append(token)
    finally:
        doge.set_attn_implementation("sdpa")


def test_a_model_that_looks_both_ways_is_refused(tokenizer):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    both = BertLMHeadModel(BertConfig(vocab_size=len(tokenizer), eos_token_id=2, **sizes)).eval()
    with pytest.raises(
        KickError, match=r"BertLMHeadModel cannot be measured as a causal.*computed before it"
    ):
        Engine(both, tokenizer)


class Crowded(nn.Module):
    """Adds to each row something of the row beside it, as experts of limited room do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, hidden, *args, **options):
        found = self.inner(hidden, *args, **options)
        return found + found.roll(1, 0) - found if len(found) > 1 else found


def test_rows_that_meet_are_answered_one_at_a_time(tokenizer):
    asked = [Request("loglikelihood", context=c, continuation=t) for c, t in PAIRS]
    asked += [Request("generate", context=c, max_tokens=4) for c, _ in PAIRS]
    expected = Engine(conftest.build("bloom", tokenizer), tokenizer).answer(asked)
    crowded = conftest.build("bloom", tokenizer)
    crowded.transformer.h[0].mlp.dense_h_to_4h = Crowded(crowded.transformer.h[0].mlp.dense_h_to_4h)
    engine = Engine(crowded, tokenizer)
    assert engine.notes()["whole_forwards"] == "one row at a time"
    for found, wanted in zip(engine.answer(asked), expected, strict=True):
        assert found.logprob == pytest.approx(wanted.logprob, abs=1e-4) if wanted.text is None else True
        assert (found.text, found.tokens) == (wanted.text, wanted.tokens)


class RoundedTogether(nn.Linear):
    """Rounds its input, but for columns in which any token of the forward is large, as LLM.int8() does."""

    def forward(self, hidden):
        step = hidden.abs().amax(-1, keepdim=True) / 127
        large = (hidden.abs() > 1.5).flatten(0, -2).any(0)
        return super().forward(torch.where(large, hidden, (hidden / step).round() * step))


def test_rounding_that_hangs_on_all_tokens_is_answered_one_whole_row_at_a_time(tokenizer):
    """bitsandbytes' 8 bits lost every cell: a token changes a little what is computed before it."""
    model = conftest.build("llama", tokenizer)
    for layer in model.model.layers:
        layer.mlp.up_proj.__class__ = RoundedTogether
    asked = [Request("loglikelihood", context=c, continuation=t) for c, t in PAIRS]
    with pytest.raises(KickError, match="a token changes what is computed before it"):
        Engine(model, tokenizer)
    model.config.quantization_config = BitsAndBytesConfig(load_in_8bit=True)
    engine = Engine(model, tokenizer)
    assert engine.notes()["whole_forwards"] == "one row at a time"
    for found, (context, continuation) in zip(engine.answer(asked), PAIRS, strict=True):
        before = tokenizer(context, add_special_tokens=False).input_ids
        ids = tokenizer(context + continuation, add_special_tokens=False).input_ids
        logprobs = model(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
        right = sum(float(logprobs[i - 1, ids[i]]) for i in range(len(before), len(ids)))
        assert found.logprob == pytest.approx(right, abs=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "mixtral", "mamba", "bloom"])
def test_models_that_keep_to_it_are_run_as_they_are(name, models):
    assert manner_of(Network(models(name))) == Manner()


def test_a_model_without_numbers_is_not_judged(tokenizer):
    model = conftest.build("llama", tokenizer)
    model.model.norm.weight.data.fill_(float("nan"))
    assert not manner_of(Network(model)).checked
