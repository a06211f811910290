"""Models that load and are not what they are taken for: each answered right, or refused in a line.

The right values are transformers' own, a whole forward of the model as it came.
"""

from __future__ import annotations

import copy

import pytest
import torch
import transformers as tf

from kick.compress import footprint
from kick.engine import Engine
from kick.errors import KickError
from kick.model import load, resolve
from kick.model.structure import block_list
from kick.records import Request
from tests.engine import conftest

PAIRS = [("The sky is", " blue"), ("A house by the", " water"), ("The sky is", " red and the sun")]
_MLA = {
    **conftest._MHA,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
}
_EXPERTS = {
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
}
_GROUPS = {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
LATENT = {
    "deepseek_v2": (tf.DeepseekV2Config, _MLA | _EXPERTS | _GROUPS),
    "deepseek_v3": (tf.DeepseekV3Config, _MLA | _EXPERTS | _GROUPS),
    "minicpm3": (tf.MiniCPM3Config, _MLA),
    "glm4_moe_lite": (tf.Glm4MoeLiteConfig, _MLA | _EXPERTS | {"n_group": 2, "topk_group": 1}),
}


def expected(model, tokenizer, context: str, continuation: str) -> float:
    """The log-probability by a whole forward of one row."""
    head, whole = tokenizer.encode(context), tokenizer.encode(context + continuation)
    with torch.inference_mode():
        logs = model(input_ids=torch.tensor([whole]), use_cache=False).logits[0].log_softmax(-1)
    return sum(float(logs[i - 1, whole[i]]) for i in range(len(head), len(whole)))


@pytest.mark.parametrize("values", [16, 24, 32])
@pytest.mark.parametrize("name", sorted(LATENT))
def test_latent_attention_whose_values_have_another_size(name, values, tokenizer):
    """Queries and keys have 24 features a head."""
    kind, options = LATENT[name]
    conftest.CONFIGS[f"{name}-{values}"] = (kind, options | {"v_head_dim": values})
    model = conftest.build(f"{name}-{values}", tokenizer)
    engine = Engine(model, tokenizer)
    assert engine.reader.packed is (values == 24)
    asked = [Request("loglikelihood", context=c, continuation=t) for c, t in PAIRS]
    for (context, target), response in zip(PAIRS, engine.answer(asked), strict=True):
        assert response.logprob == pytest.approx(expected(model, tokenizer, context, target), abs=2e-3)


@pytest.fixture
def wrapper(tokenizer):
    """A tiny Gemma 3 of text and images, with as many blocks in its tower as in its decoder."""
    special = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    text = tf.Gemma3TextConfig(**conftest._GQA, head_dim=8, **special)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = tf.SiglipVisionConfig(**sizes, image_size=28, patch_size=14)
    config = tf.Gemma3Config(
        text_config=text.to_dict(), vision_config=vision.to_dict(), mm_tokens_per_image=4
    )
    return tf.Gemma3ForConditionalGeneration(config).eval()


def test_a_wrapper_of_text_and_images_is_its_text_model(wrapper, tokenizer, tmp_path, caplog):
    wrapper.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    model, own = load(resolve(str(tmp_path / "m")))
    assert "vision_tower" in caplog.text
    name, found = block_list(model)
    assert (name, len(found)) == ("model.layers", 2)
    decoder = sum(p.numel() for p in wrapper.model.language_model.parameters())
    assert footprint(model)["parameters"] == decoder
    engine = Engine(model, own)
    asked = [Request("loglikelihood", context=c, continuation=t) for c, t in PAIRS]
    for (context, target), response in zip(PAIRS, engine.answer(asked), strict=True):
        assert response.logprob == pytest.approx(expected(wrapper, tokenizer, context, target), abs=2e-3)
    model.save_pretrained(tmp_path / "again")
    again, info = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(models, tokenizer, tmp_path):
    more = copy.deepcopy(tokenizer)
    more.add_special_tokens({"additional_special_tokens": ["<|user|>"]})
    models("llama").save_pretrained(tmp_path)
    more.save_pretrained(tmp_path)
    with pytest.raises(KickError, match=r"ids up to 512 \('<\|user\|>'\), the model has 512 rows"):
        load(resolve(str(tmp_path)))


def test_padding_beyond_the_embedding_is_never_looked_up(models, tokenizer, tmp_path):
    more = copy.deepcopy(tokenizer)
    more.add_special_tokens({"pad_token": "<|filler|>"})
    models("llama").save_pretrained(tmp_path)
    more.save_pretrained(tmp_path)
    engine = Engine(*load(resolve(str(tmp_path))))
    asked = [Request("generate", context="The river", max_tokens=4)]
    assert engine.answer(asked) == Engine(models("llama"), tokenizer).answer(asked)
    with pytest.raises(KickError, match="a text has the token 512"):
        engine.answer([Request("generate", context="<|filler|>hello", max_tokens=4)])
    with pytest.raises(KickError, match="the token 600"):
        engine.answer([Request("tokens", tokens=(1, 600))])


def test_an_encoder_and_decoder_is_refused(tmp_path, tokenizer):
    config = tf.T5Config(vocab_size=512, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    tf.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(KickError, match="no causal language model of type 't5'"):
        load(resolve(str(tmp_path)))
