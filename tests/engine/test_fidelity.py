"""Fidelity: one teacher-forced pass gives what free runs and full logits give."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import BertConfig

from kick.engine import Engine, Reference
from kick.engine.network import Head
from kick.engine.reference import on_device
from kick.errors import KickError
from kick.records import Request
from tests.engine import conftest
from tests.engine.test_generate import changed, greedy

PREFIXES = ["The river", "A house by the water", "東京と", "one two three four", "x"]
LENGTH = 24


@pytest.fixture(scope="module")
def continuations(models, tokenizer):
    """Each prefix with the dense model's greedy continuation."""
    answers = [greedy(models("llama"), tokenizer, prefix, LENGTH) for prefix in PREFIXES]
    return [Request("fidelity", context=p, tokens=y) for p, y in zip(PREFIXES, answers, strict=True)]


@pytest.fixture
def reference(models, tokenizer, continuations, tmp_path):
    with Reference(tmp_path / "dense", write=True) as written:
        dense = Engine(models("llama"), tokenizer, reference=written).answer(continuations)
    for response, request in zip(dense, continuations, strict=True):
        assert response.values["fdt"] == response.values["length"] == len(request.tokens)
        assert response.values["sdt"] == response.values["kl_max"] == 0.0
        assert response.values["agreement"] == 1.0
        assert math.isnan(response.values["margin"])
    return Reference(tmp_path / "dense")


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_the_first_divergent_token_is_that_of_two_free_runs(
    share, models, tokenizer, continuations, reference
):
    variant = changed(models("llama"), share)
    found = Engine(variant, tokenizer, reference=reference).answer(continuations)
    for response, request in zip(found, continuations, strict=True):
        free = greedy(variant, tokenizer, request.context, len(request.tokens))
        first = next((i for i, (a, b) in enumerate(zip(free, request.tokens, strict=False)) if a != b), None)
        assert response.values["fdt"] == (len(request.tokens) if first is None else first)


def test_every_number_is_that_of_the_full_logits(models, tokenizer, continuations, reference):
    dense, variant = models("llama"), changed(models("llama"), 0.3)
    found = Engine(variant, tokenizer, reference=reference).answer(continuations)
    for response, request in zip(found, continuations, strict=True):
        ids = torch.tensor([tokenizer.encode(request.context) + list(request.tokens)])
        count, values = len(request.tokens), response.values
        with torch.inference_mode():
            theirs, mine = (model(ids).logits[0, -count - 1 : -1].double() for model in (dense, variant))
        y, best = ids[0, -count:], mine.argmax(-1)
        kl = (theirs.softmax(-1) * (theirs.log_softmax(-1) - mine.log_softmax(-1))).sum(-1)
        assert values["sdt"] == pytest.approx(float((best != y).double().mean()))
        assert values["agreement"] == pytest.approx(float((best == theirs.argmax(-1)).double().mean()))
        assert values["kl_mean"] == pytest.approx(float(kl.mean()), rel=1e-4, abs=1e-6)
        assert values["kl_median"] == pytest.approx(float(kl.median()), rel=1e-3, abs=1e-6)
        assert values["kl_p99"] == pytest.approx(float(kl.quantile(0.99)), rel=1e-4, abs=1e-6)
        assert values["kl_max"] == pytest.approx(float(kl.max()), rel=1e-4, abs=1e-6)
        nll = -mine.log_softmax(-1).gather(1, y[:, None]).mean()
        assert values["dppl"] == pytest.approx(math.exp(float(nll)), rel=1e-4)
        if values["fdt"] < count:
            top = theirs[int(values["fdt"])].topk(2).values
            assert values["margin"] == pytest.approx(float(top[0] - top[1]), abs=1e-4)


def test_generation_goes_on_from_where_fidelity_differed(models, tokenizer, continuations, reference):
    """What the pass has shown is a draft of the model's own answer, and all of it is accepted."""
    asked = [Request("generate", context=r.context, max_tokens=LENGTH) for r in continuations]
    for share in (0.0, 0.1):
        variant = changed(models("llama"), share)
        wanted = Engine(variant, tokenizer).answer(asked)
        engine = Engine(variant, tokenizer, reference=reference)
        assert engine.answer(asked + continuations)[: len(asked)] == wanted
        assert engine.reader.acceptance.drafted == engine.reader.acceptance.accepted > 0


def test_without_a_reference_only_what_needs_none(models, tokenizer, continuations):
    variant = changed(models("llama"), 0.3)
    for response in Engine(variant, tokenizer).answer(continuations):
        known = {name for name, value in response.values.items() if not math.isnan(value)}
        assert known == {"fdt", "sdt", "dppl", "length"}
    (empty,) = Engine(variant, tokenizer).answer([Request("fidelity", context="The river")])
    assert empty.values["length"] == 0
    assert math.isnan(empty.values["sdt"])


def test_hidden_states_go_to_disk_past_the_limit_and_are_added_to(
    models, tokenizer, continuations, tmp_path, caplog
):
    caplog.set_level("INFO", "kick.engine")
    variant = changed(models("llama"), 0.3)
    for part in (continuations[:3], continuations[3:]):
        with Reference(tmp_path, write=True, memory_limit=LENGTH * 32 * 4) as written:
            Engine(models("llama"), tokenizer, reference=written).answer(part)
    assert len(list(tmp_path.glob("hidden-*.safetensors"))) > 1
    assert "MB of the dense reference" in caplog.text
    found = Engine(variant, tokenizer, reference=Reference(tmp_path)).answer(continuations)
    assert all(response.values["kl_mean"] > 0 for response in found)


def test_a_reference_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(KickError, match="no dense reference"):
        Reference(tmp_path / "none")


def test_nothing_is_written_after_an_error(tmp_path):
    written = Reference(tmp_path / "r", write=True)
    written.add_draft(Request("generate", context="a"), (1, 2))
    written.__exit__(ZeroDivisionError, None, None)
    assert not (tmp_path / "r").exists()


def test_a_head_with_a_factor_and_a_cap():
    head = on_device(Head(torch.eye(2) * 4.0, torch.ones(2), 0.5, 2.0), torch.device("cpu"))
    wanted = 2.0 * torch.tanh(torch.tensor([[4.0 * 3 + 1, 1.0]]) * 0.5 / 2.0)
    assert torch.allclose(head(torch.tensor([[3.0, 0.0]])), wanted)


def test_divergence_of_a_model_whose_head_transforms_first(tokenizer, tmp_path):
    """BERT's head is a dense layer and a norm before the vocabulary: what goes into the latter is kept."""
    conftest.CONFIGS["bert"] = (BertConfig, {**conftest._MHA, "is_decoder": True})
    dense, variant = (conftest.build("bert", tokenizer) for _ in range(2))
    with torch.no_grad():
        variant.cls.predictions.transform.dense.weight.mul_(0.9)
        variant.cls.predictions.bias.add_(torch.linspace(-1, 1, len(tokenizer)))
    asked = [Request("fidelity", context="The river", tokens=tuple(tokenizer.encode(" is a long one")))]
    with Reference(tmp_path, write=True) as written:
        own = Engine(dense, tokenizer, reference=written).answer(asked)[0].values
    assert own["kl_max"] == pytest.approx(0.0, abs=1e-6)
    values = Engine(variant, tokenizer, reference=Reference(tmp_path)).answer(asked)[0].values
    head, targets = tokenizer.encode("The river"), list(asked[0].tokens)
    ids = torch.tensor([head + targets[:-1]])
    with torch.inference_mode():
        said, got = (model(ids).logits[0, len(head) - 1 :].log_softmax(-1) for model in (dense, variant))
    expected = (said.exp() * (said - got)).sum(-1)
    assert values["kl_mean"] == pytest.approx(float(expected.mean()), rel=1e-4)
    assert values["kl_max"] == pytest.approx(float(expected.max()), rel=1e-4)
