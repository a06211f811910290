"""Checkpoints that another library writes, read with that library installed: `make interop-test`.

Each is made here by the library itself from a tiny Llama. Right logits are those of the dense model that the
library's own dequantization gives; sizes are counted from the format by hand.
"""

import pytest
import torch
import transformers as tf

from kick.model import load, resolve
from kick.model.footprint import footprint
from tests.interop.checked import IDS, check

pytestmark = [pytest.mark.interop, pytest.mark.timeout(1800)]  # kernels are compiled for minutes


@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, 4 + 32 / 64),
        (
            {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
            4 + 8 / 64 + 32 / (64 * 256),
        ),
        ({"load_in_8bit": True}, 8 + 32 * 4.5 / (4.5 * 144)),
    ],
    ids=["nf4", "nf4 twice", "int8"],
)
def test_bitsandbytes(options, bits, base, tmp_path):
    pytest.importorskip("bitsandbytes")
    quantization = tf.BitsAndBytesConfig(**options, bnb_4bit_compute_dtype=torch.float32)
    made = tf.AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, quantization_config=quantization
    )
    made.save_pretrained(tmp_path / "out")  # before any forward: after one, its CPU weights are saved wrong
    check(tmp_path / "out", made(IDS).logits, base, bits, atol=0.05)


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [("NVFP4A16", 4.5), ("MXFP4A16", 4.25), ("W4A16", 4 + 16 / 128), ("FP8_DYNAMIC", None), ("W8A8", None)],
)
def test_llm_compressor(scheme, bits, base, tmp_path):
    modifiers = pytest.importorskip("llmcompressor.modifiers.quantization")
    from llmcompressor import oneshot

    made = tf.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    recipe = [modifiers.QuantizationModifier(targets="Linear", scheme=scheme, ignore=["lm_head"])]
    oneshot(model=made, recipe=recipe)
    made.save_pretrained(tmp_path / "out", save_compressed=True)
    load(resolve("smoke"))[1].save_pretrained(tmp_path / "out")
    model, _ = load(resolve(str(tmp_path / "out")))
    assert model(IDS).logits.dtype == torch.float32
    if bits:
        assert footprint(model)["bits_per_weight"] == pytest.approx(bits, rel=0.01)
