"""What a model's generation configuration says of logits: set aside unless asked for, obeyed whole if so.

The right values are transformers' own `generate` on one row, under the configuration or without it.
"""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from kick.engine import Engine, Reference
from kick.engine.plain import Plain
from kick.errors import KickError
from kick.model import decoding
from kick.records import Request
from tests.engine import conftest
from tests.engine.test_generate import greedy

PROMPTS = ["The river", "What is a cat?", "x", "What is 12 + 3?"]
LENGTH = 8
SETTINGS = [
    {"min_new_tokens": 1},
    {"min_new_tokens": 3},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"forced_eos_token_id": 0},
    {"forced_eos_token_id": 1},
    {"forced_bos_token_id": 0},
    {"repetition_penalty": 1.8},
    {"repetition_penalty": 0.5},
    {"suppress_tokens": [0, 11]},
    {"begin_suppress_tokens": [388]},
]


def model_with(tokenizer, name: str, settings):
    """A tiny model that likes to end, under these settings."""
    model = conftest.build(name, tokenizer)
    if name == "llama":  # its likeliest first token is the end
        with torch.no_grad():
            states = [
                model.model(torch.tensor([tokenizer.encode(p)])).last_hidden_state[0, -1] for p in PROMPTS
            ]
            model.get_output_embeddings().weight[2] = torch.stack(states).mean(0) * 3
    ends = {"eos_token_id": model.generation_config.eos_token_id}
    model.generation_config = GenerationConfig(**ends, **settings)
    return model


def asked(configured: bool):
    return [Request("generate", context=p, max_tokens=LENGTH, configured=configured) for p in PROMPTS]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_every_backend_obeys_all_of_it_or_nothing(name, settings, tokenizer):
    model = model_with(tokenizer, name, settings)
    under = [greedy(model, tokenizer, prompt, LENGTH) for prompt in PROMPTS]
    bare = model_with(tokenizer, name, {})
    without = [greedy(bare, tokenizer, prompt, LENGTH) for prompt in PROMPTS]
    for plain in (False, True):
        engine = (Plain if plain else Engine)(model, tokenizer)
        mixed = engine.answer([r for pair in zip(asked(True), asked(False), strict=True) for r in pair])
        for expected, found in ((under, mixed[::2]), (without, mixed[1::2])):
            for tokens, response in zip(expected, found, strict=True):
                assert response.tokens == tokens[: len(response.tokens)]
                assert len(response.tokens) == LENGTH or response.tokens[-1] == 2
        assert engine.notes()["generation_config"] == settings
        assert vars(model.generation_config) == vars(model_with(tokenizer, name, settings).generation_config)


@pytest.mark.parametrize("name", ["qwen3", "mamba"])
def test_dense_agrees_with_itself_whatever_its_configuration_says(name, tokenizer, tmp_path):
    model = model_with(tokenizer, name, {"repetition_penalty": 1.8, "no_repeat_ngram_size": 2})
    with Reference(tmp_path, write=True) as written:
        engine = Engine(model, tokenizer, reference=written)
        said = engine.answer(asked(False))
        reads = [Request("fidelity", context=p, tokens=r.tokens) for p, r in zip(PROMPTS, said, strict=True)]
        for response in engine.answer(reads):
            assert response.values["fdt"] == response.values["length"] > 0


def test_what_no_backend_obeys_is_refused_where_it_is_asked_for(tokenizer):
    model = model_with(tokenizer, "llama", {"num_beams": 4, "cache_implementation": "quantized"})
    engine = Engine(model, tokenizer)
    assert engine.notes()["generation_config"] == {"num_beams": 4, "cache_implementation": "quantized"}
    engine.answer(asked(False))
    with pytest.raises(KickError, match="cache_implementation, num_beams, which no backend"):
        engine.answer(asked(True))


def test_settings_that_change_nothing_are_no_settings():
    neutral = {name: value for name, value in decoding.PROCESSORS.items() if value is not None}
    sampling = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "max_length": 4096}
    found = GenerationConfig(**neutral, **sampling, cache_implementation="hybrid", num_beams=1)
    assert decoding.changes(found) == decoding.searches(found) == {}
    zeros = GenerationConfig(forced_bos_token_id=0, suppress_tokens=[3])
    assert decoding.changes(zeros) == {"forced_bos_token_id": 0, "suppress_tokens": [3]}
