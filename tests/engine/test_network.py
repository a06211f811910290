"""Body and head apart give the model's logits; memory stays flat; changed weights are laid out anew."""

from __future__ import annotations

import copy

import pytest
import torch

from kick.engine import Engine, network
from kick.engine.network import Network, out_of_memory
from kick.engine.score import score
from kick.model.packed import settle
from kick.records import Request


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gpt_neox", "mamba", "bloom", "mixtral"])
def test_body_and_head_are_the_model(name, models):
    model = models(name)
    net, ids = Network(model), torch.arange(3, 20)[None]
    assert net.plain_head
    with torch.inference_mode():
        assert torch.allclose(net.logits(net.hidden(ids)[0]), model(ids).logits[0], atol=1e-5)


def test_a_head_that_is_not_plain_is_left_to_the_model(models, tokenizer, monkeypatch):
    """As if there were something between head and logits that the engine does not know."""
    model = models("llama")
    requests = [Request("loglikelihood", context="The river", continuation=" is a long")]
    plain = Engine(model, tokenizer).answer(requests)[0].logprob
    free = type(model).forward

    def doubled(self, *arguments, **options):
        output = free(self, *arguments, **options)
        output.logits = output.logits * 2
        return output

    monkeypatch.setattr(type(model), "forward", doubled)
    net, ids = Network(model), torch.arange(3, 20)[None]
    assert not net.plain_head
    with torch.inference_mode():
        assert torch.allclose(net.logits(net.hidden(ids)[0]), model(ids).logits[0], atol=1e-5)
    engine = Engine(model, tokenizer)
    assert engine.reader.packed
    assert engine.answer(requests)[0].logprob != pytest.approx(plain, abs=0.1)


def test_never_more_logits_at_once_than_the_chunk(models, monkeypatch):
    net = Network(models("llama"))
    monkeypatch.setattr(network, "CHUNK_ELEMENTS", 3 * net.vocabulary)
    seen, hidden = [], torch.randn(40, 32)
    free = net.logits

    def watched(rows):
        seen.append(len(rows))
        return free(rows)

    monkeypatch.setattr(net, "logits", watched)
    targets = tuple(range(40))
    with torch.inference_mode():
        ((found, more),) = score(net, [(hidden, [targets, targets[-2:]])])
        logs = free(hidden).log_softmax(-1)
    assert max(seen) == 3
    assert found[0] == pytest.approx(float(logs[range(40), range(40)].sum()), rel=1e-6)
    assert more[0] == pytest.approx(float(logs[38, 38] + logs[39, 39]), rel=1e-6)


def test_changed_weights_are_used(models, tokenizer):
    model = models("llama")
    engine = Engine(model, tokenizer)
    asked = [Request("rolling", context="The river and the house")]
    before = engine.answer(asked)[0].logprob
    weight = model.model.layers[0].mlp.up_proj.weight
    kept = weight.data.clone()
    weight.data.mul_(0.5)
    try:
        after = engine.answer(asked)[0].logprob
        assert after == pytest.approx(Engine(model, tokenizer).answer(asked)[0].logprob, abs=1e-5)
        assert abs(after - before) > 1e-2
    finally:
        weight.data.copy_(kept)
    assert engine.answer(asked)[0].logprob == before
    assert not any("forward" in vars(module) for module in model.modules())


def test_what_lack_of_memory_looks_like():
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize("name", ["llama", "opt", "mamba", "mixtral"])
def test_an_engine_of_a_settled_model_answers_alike(name, models, tokenizer):
    requests = [
        Request("loglikelihood", context="The river", continuation=" is a long"),
        Request("generate", context="The river", until=("\n",), max_tokens=6),
    ]
    model = copy.deepcopy(models(name))
    expected = Engine(model, tokenizer).answer(requests)
    settle(model)
    engine = Engine(model, tokenizer)
    assert [engine.answer(requests) for _ in range(2)] == [expected, expected]
