"""An answer depends on its request alone: not on what was asked before it, nor on the reference.

The right values are transformers' own: `generate` on one row, and a whole forward of one row.
"""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig

from kick.engine import Engine, Reference
from kick.engine.plain import Plain
from kick.records import Request
from tests.engine import conftest
from tests.engine.test_generate import changed, greedy

PROMPTS = ["The river", "What is a cat?", "x", "What is 12 + 3?", "A house by the water"]
LENGTH = 10
STRETCHED = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}


@pytest.fixture(scope="module")
def kinds(tokenizer, models):
    """Models that are answered in packs, partly so (a window of 24), and not at all."""
    return {name: models(name) for name in ("llama", "mistral", "mamba", "bloom")}


@pytest.mark.parametrize("kind", [Engine, Plain])
@pytest.mark.parametrize("name", ["llama", "mistral", "mamba", "bloom"])
def test_a_fidelity_pass_changes_no_answer(name, kind, kinds, tokenizer, tmp_path):
    asked = [Request("generate", context=p, max_tokens=LENGTH) for p in PROMPTS]
    with Reference(tmp_path, write=True) as written:
        said = kind(kinds[name], tokenizer, reference=written).answer(asked)
        reads = [Request("fidelity", context=p, tokens=r.tokens) for p, r in zip(PROMPTS, said, strict=True)]
        own = kind(kinds[name], tokenizer, reference=written).answer(reads)
    assert all(response.values["fdt"] == response.values["length"] for response in own)
    variant = changed(kinds[name], 0.05)
    expected = [greedy(variant, tokenizer, prompt, LENGTH) for prompt in PROMPTS]
    for order in (asked, reads + asked, asked + reads):
        engine = kind(variant, tokenizer, reference=Reference(tmp_path))
        for part in (order, *([request] for request in order)):  # in one call, and one by one
            found = engine.answer(part)
            texts = [r.tokens for q, r in zip(part, found, strict=True) if q.kind == "generate"]
            wanted = [expected[PROMPTS.index(q.context)] for q in part if q.kind == "generate"]
            assert texts == [tokens[: len(found)] for tokens, found in zip(wanted, texts, strict=True)]


@pytest.mark.parametrize("order", [(120, 60, 90), (60, 90, 120), (90, 120, 60)])
def test_a_long_text_does_not_stretch_the_rotations_of_the_next(order, tokenizer):
    """Dynamic NTK keeps the frequencies of the longest text; a fresh model knows nothing of it."""
    conftest.CONFIGS["stretched"] = (LlamaConfig, {**conftest._GQA, "rope_parameters": STRETCHED})
    model = conftest.build("stretched", tokenizer)
    texts = {n: tuple(range(5, 6 + n)) for n in order}
    expected = {}
    for n, ids in texts.items():
        fresh = conftest.build("stretched", tokenizer)
        logits = fresh(torch.tensor([ids[:-1]]), use_cache=False).logits[0].log_softmax(-1)
        expected[n] = float(logits.gather(1, torch.tensor(ids[1:])[:, None]).sum())
    engine = Engine(model, tokenizer, window=400)
    requests = [Request("tokens", tokens=texts[n]) for n in order]
    together = [r.logprob for r in engine.answer(requests)]
    apart = [engine.answer([request])[0].logprob for request in requests]
    for found in (together, apart):
        assert found == pytest.approx([expected[n] for n in order], abs=2e-3)
