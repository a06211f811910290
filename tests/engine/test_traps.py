"""Masks, positions and caches that give wrong logits without an error: each is ruled out here."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch

from kick.engine import Engine
from kick.engine.network import Network
from kick.engine.packed import attend
from kick.engine.packed.attend import NAME, partial
from kick.engine.packed.trust import packs_well, trusted_length
from kick.engine.plain import Plain
from kick.records import Request

PACKED = ["llama", "gpt2", "opt", "gpt_neox", "mixtral", "mistral", "qwen3"]
SHARED = "The following are questions about the city and the river.\n\n"
ENDS = ["Question: who?\nAnswer:", "Question: which mountain is high?\nAnswer:", "What"]


def pairs(text: str = SHARED):
    return [
        Request("loglikelihood", context=text + end, continuation=option)
        for end in ENDS
        for option in (" red", " the black house", " never")
    ]


def plain(model, tokenizer, requests):
    """The same by one whole forward each, with every logit."""
    found = []
    for request in requests:
        whole = tokenizer.encode(request.context + request.continuation)
        start = len(tokenizer.encode(request.context))
        with torch.inference_mode():
            logs = model(torch.tensor([whole]), use_cache=False).logits[0].float().log_softmax(-1)
        found.append(sum(float(logs[i - 1, whole[i]]) for i in range(start, len(whole))))
    return found


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", PACKED)
def test_packs_give_the_logits_of_whole_forwards(name, attention, models, tokenizer):
    """Under eager attention a bool mask is added as 0 and 1; without position_ids suffixes start at 0."""
    model = models(name, attention)
    engine = Engine(model, tokenizer, batch_tokens=32)
    assert engine.reader.packed
    found = [response.logprob for response in engine.answer(pairs())]
    assert found == pytest.approx(plain(model, tokenizer, pairs()), abs=1e-4)
    assert model.config._attn_implementation == attention


@pytest.mark.parametrize("name", ["mamba", "bloom"])
def test_architectures_that_cannot_be_packed_are_found_out(name, models, tokenizer):
    """Mamba swallows what is no keyword of its own; ALiBi takes its positions from a mask."""
    model = models(name)
    engine = Engine(model, tokenizer)
    assert not engine.reader.packed
    assert [r.logprob for r in engine.answer(pairs())] == pytest.approx(
        plain(model, tokenizer, pairs()), abs=1e-4
    )


def test_a_sliding_window_is_not_packed_beyond_it(models, tokenizer):
    model = models("mistral")
    assert trusted_length(model.config) == 24
    long = pairs(SHARED * 2)
    assert len(tokenizer.encode(long[0].context)) > 24
    found = [response.logprob for response in Engine(model, tokenizer).answer(long)]
    assert found == pytest.approx(plain(model, tokenizer, long), abs=1e-4)


def test_rotations_that_change_with_length_are_not_packed(models):
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 48}
    assert trusted_length(SimpleNamespace(rope_parameters=rope, max_position_embeddings=96)) == 48
    each = {"full_attention": {"rope_type": "dynamic", "factor": 2.0}}
    assert trusted_length(SimpleNamespace(rope_parameters=each, max_position_embeddings=96)) == 96
    assert trusted_length(models("llama").config) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gpt_neox", "qwen3"])
def test_a_model_with_wrong_packs_is_not_trusted(models, monkeypatch, name, dtype):
    """As if an architecture ignored the positions that it is given."""
    network = Network(copy.deepcopy(models(name)).to(dtype))
    assert packs_well(network)
    free = network.hidden
    monkeypatch.setattr(network, "hidden", lambda ids, position_ids=None, **options: free(ids, **options))
    assert not packs_well(network)


def test_half_precision_is_packed_and_answers_as_plain_forwards_do(models, tokenizer):
    """A dense model in bfloat16 is every matrix's replica; run plainly it would take three times as long."""
    model = copy.deepcopy(models("llama")).to(torch.bfloat16)
    engine = Engine(model, tokenizer)
    assert engine.notes()["packed"]
    found = [response.logprob for response in engine.answer(pairs())]
    assert found == pytest.approx(plain(model, tokenizer, pairs()), abs=0.25)


def test_any_model_can_be_asked_plainly_and_answers_the_same(models, tokenizer):
    """`engine: {name: plain}` is how a user checks the packs on an architecture of his own."""
    model = models("llama")
    asked = [*pairs(), *(Request("generate", context=SHARED + end, max_tokens=6) for end in ENDS)]
    plainly, packed = Plain(model, tokenizer), Engine(model, tokenizer)
    assert (plainly.notes()["packed"], packed.notes()["packed"]) == (False, True)
    found, wanted = plainly.answer(asked), packed.answer(asked)
    assert [r.tokens for r in found] == [r.tokens for r in wanted]
    assert [r.logprob for r in found[: len(pairs())]] == pytest.approx(
        [r.logprob for r in wanted[: len(pairs())]], abs=1e-4
    )


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_an_engine_without_a_kernel_answers_the_same(name, models, tokenizer, monkeypatch):
    """Prefixes, packs and decoding by plain products, a few queries at a time, as on an accelerator."""
    model = models(name)
    asked = [*pairs(), *(Request("generate", context=SHARED + end, max_tokens=6) for end in ENDS)]
    wanted = Engine(model, tokenizer).answer(asked)
    monkeypatch.setattr(attend, "_kernel", attend.by_products)
    monkeypatch.setattr(attend, "SCORES", 1000)
    found = Engine(model, tokenizer).answer(asked)
    assert [r.tokens for r in found] == [r.tokens for r in wanted]
    assert [r.logprob for r in found[: len(pairs())]] == pytest.approx(
        [r.logprob for r in wanted[: len(pairs())]], abs=1e-4
    )


def test_attention_is_as_before_after_an_error(models, tokenizer):
    model = models("llama", "eager")
    network = Network(model)

    def fail():
        assert model.config._attn_implementation == NAME
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), network.ours():
        fail()
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_partial_attention_is_softmax_attention(heads):
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 5, 8), torch.randn(1, heads, 5, 8), torch.randn(1, heads, 5, 8)
    out, lse = partial(query, key, value, 0.3, causal=True)
    keys, values = (x.repeat_interleave(4 // heads, 1) for x in (key, value))
    scores = (query @ keys.transpose(2, 3) * 0.3).masked_fill(torch.ones(5, 5).triu(1).bool(), -float("inf"))
    assert torch.allclose(out, scores.softmax(-1) @ values, atol=1e-6)
    assert torch.allclose(lse, scores.logsumexp(-1), atol=1e-6)


@pytest.mark.parametrize("scores", [1, 500, 2**28])
@pytest.mark.parametrize("kind", ["all", "causal", "blocks", "rows"])
def test_attention_without_a_kernel_is_the_kernels(kind, scores, monkeypatch):
    """What runs on an accelerator: all queries at once, a few, and one at a time."""
    monkeypatch.setattr(attend, "SCORES", scores)
    batch, keys = (3, 40) if kind == "rows" else (1, 23)
    random = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(batch, 4, n, 8, generator=random) for n in (23, keys, keys))
    mask = None
    if kind == "blocks":
        same = torch.arange(23) // 5
        mask = torch.zeros(23, 23).masked_fill(
            (same[:, None] != same).logical_or(~torch.ones(23, 23).tril().bool()), -torch.inf
        )
    if kind == "rows":
        mask = torch.zeros(3, 1, 1, keys)
        mask[1, ..., -7:] = -torch.inf
    arguments = (query, key, value, 0.3, mask, kind == "causal")
    for found, wanted in zip(attend.by_products(*arguments), attend._kernel(*arguments), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
