"""Checkpoints that their own library writes and transformers does not read: refused by name at plan."""

import json

import pytest
import torch
import transformers as tf

from kick.errors import KickError
from kick.model import load, resolve

pytestmark = [pytest.mark.interop, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("declared", [False, True])
def test_quanto(declared, base, tmp_path):
    quanto, folder = pytest.importorskip("optimum.quanto"), tmp_path / "out"
    model = tf.AutoModelForCausalLM.from_pretrained(base)
    made = quanto.QuantizedModelForCausalLM.quantize(model, weights=quanto.qint8, exclude="lm_head")
    made.save_pretrained(folder)
    load(resolve("smoke"))[1].save_pretrained(folder)
    if declared:  # as transformers 4 wrote it
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "quanto", "weights": "int8"}
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(KickError, match="quantized with quanto, and transformers reads no checkpoint"):
        resolve(str(folder))


def test_hqq(base, tmp_path):
    quantize = pytest.importorskip("hqq.core.quantize")
    from hqq.models.hf.base import AutoHQQHFModel

    folder = tmp_path / "out"
    model = tf.AutoModelForCausalLM.from_pretrained(base)
    form = quantize.BaseQuantizeConfig(nbits=4, group_size=64)
    AutoHQQHFModel.quantize_model(model, quant_config=form, compute_dtype=torch.float32, device="cpu")
    model.config.quantization_config = {
        "quant_method": "hqq",
        "quant_config": {},
        "skip_modules": ["lm_head"],
    }
    AutoHQQHFModel.save_to_safetensors(model, str(folder))
    load(resolve("smoke"))[1].save_pretrained(folder)
    with pytest.raises(KickError, match="quantized with hqq, and transformers reads no checkpoint"):
        resolve(str(folder))
