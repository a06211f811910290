"""GPTQ's and AWQ's checkpoints, read with gptqmodel. It makes AWQ's on a GPU alone, so one is by hand."""

import json

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch import nn

from kick.model import load, resolve
from tests.interop.checked import IDS, check

pytestmark = [pytest.mark.interop, pytest.mark.timeout(1800)]  # kernels are compiled for minutes
TEXT = "The city of water and the river of stone were known to all who came before the war "
KINDS = {
    "gptq": {"bits": 4, "group_size": 32, "sym": True, "desc_act": False},
    "gptq in act order": {"bits": 4, "group_size": 32, "sym": False, "desc_act": True},
    "gptq, 8 bits": {"bits": 8, "group_size": 64, "sym": True, "desc_act": False},
}


@pytest.mark.parametrize("kind", KINDS)
def test_gptq(kind, base, tmp_path):
    gptqmodel = pytest.importorskip("gptqmodel")
    options, folder = KINDS[kind], tmp_path / "out"
    maker = gptqmodel.GPTQModel.load(str(base), gptqmodel.QuantizeConfig(**options), device="cpu")
    maker.quantize([TEXT * 4] * 16, batch_size=1)
    maker.save(str(folder))
    load(resolve("smoke"))[1].save_pretrained(folder)
    reader = gptqmodel.GPTQModel.load(str(folder), device="cpu", backend="torch", dtype=torch.bfloat16)
    bits, group = options["bits"], options["group_size"]
    order = 32 * (6 * 128 + 256) / (2 * 128 * 128 + 2 * 64 * 128 + 3 * 256 * 128)  # the group of each input
    bits = bits + (16 + bits) / group + (order if options["desc_act"] else 0)
    check(folder, reader.model(IDS).logits, base, bits, atol=0.05)  # the maker computes in bfloat16


def awq(weight, group=32):
    """AWQ's "gemm" form of a matrix (out, in): eight outputs in a word, even ones first; what they mean."""
    place = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    grouped = weight.T.reshape(-1, group, weight.shape[0])  # (in / group, group, out)
    least, most = grouped.amin(1), grouped.amax(1)
    scales = ((most - least) / 15).half()
    zeros = (-least / scales.float()).round().clamp(0, 15)
    codes = (grouped / scales.float()[:, None] + zeros[:, None]).round().clamp(0, 15)
    right = ((codes - zeros[:, None]) * scales.float()[:, None]).reshape(weight.shape[::-1]).T

    def words(values):
        eights = values.long().reshape(values.shape[0], -1, 8)[..., place]
        return (eights << 4 * torch.arange(8)).sum(-1).to(torch.uint32).view(torch.int32)

    tensors = {"qweight": words(codes.reshape(weight.shape[::-1])), "qzeros": words(zeros), "scales": scales}
    return tensors, right.contiguous()


def test_awq(base, tmp_path):
    pytest.importorskip("gptqmodel")
    folder = tmp_path / "out"
    made = tf.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    made.save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    for name, module in made.model.layers.named_modules():
        if isinstance(module, nn.Linear):
            tensors, module.weight.data = awq(stored.pop(f"model.layers.{name}.weight"))
            stored |= {f"model.layers.{name}.{leaf}": one.contiguous() for leaf, one in tensors.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "awq", "version": "gemm", "bits": 4, "group_size": 32, "zero_point": True,
        "modules_to_not_convert": ["lm_head"],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    check(folder, made(IDS).logits, base, 4 + 20 / 32, atol=0.05)  # it computes in float16
