"""AQLM's checkpoints. The package reads them and has no quantizer, so codes and codebooks are random here.

On a CPU (aqlm 1.1.7, numba 0.68.1, torch 2.13) its layers in a model of transformers 5.17 gave other products
than its own dequantized weights, and others again in a second forward, while the tensors were those of the
file. So it is refused there.
"""

import json

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch import nn

from kick.errors import KickError
from kick.model import load, resolve
from tests.interop.checked import IDS, check, file_bits

pytestmark = [pytest.mark.interop, pytest.mark.timeout(1800)]  # kernels are compiled for minutes
FORM = {"in_group_size": 8, "out_group_size": 1, "num_codebooks": 2, "nbits_per_codebook": 8}


def test_aqlm(base, tmp_path):
    """Eight inputs of an output are the sum of two vectors out of 256, times a scale of the output."""
    aqlm = pytest.importorskip("aqlm")
    made = tf.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    made.save_pretrained(tmp_path / "out")
    stored, generator = load_file(tmp_path / "out/model.safetensors"), torch.Generator().manual_seed(0)
    for name, module in made.model.layers.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        layer = aqlm.QuantizedLinear(module.in_features, module.out_features, bias=False, **FORM)
        codes = torch.randint(0, 256, layer.codes.shape, generator=generator)
        books = 0.1 * torch.randn(layer.codebooks.shape, generator=generator)
        scales = 0.5 + torch.rand(layer.scales.shape, generator=generator)
        weight = sum(books[book, codes[..., book], 0] for book in range(2))  # (out, in / 8, 8)
        module.weight.data = (weight * scales[:, 0]).reshape(module.weight.shape)
        stored.pop(f"model.layers.{name}.weight")
        signed = codes.to(torch.uint8).view(torch.int8)
        stored |= {f"model.layers.{name}.codes": signed, f"model.layers.{name}.codebooks": books}
        stored[f"model.layers.{name}.scales"] = scales
    save_file(stored, tmp_path / "out/model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "out/config.json").read_text())
    config["quantization_config"] = FORM | {
        "quant_method": "aqlm", "linear_weights_not_to_quantize": ["lm_head"],
    }  # fmt: skip
    (tmp_path / "out/config.json").write_text(json.dumps(config))
    load(resolve("smoke"))[1].save_pretrained(tmp_path / "out")
    if not torch.cuda.is_available():
        with pytest.raises(KickError, match=r"aqlm, which needs a CUDA GPU .*products of its kernel"):
            resolve(str(tmp_path / "out"))
        return
    weights = sum(one.weight.numel() for one in made.model.layers.modules() if isinstance(one, nn.Linear))
    bits = file_bits(tmp_path / "out", lambda name, _: 16 if name.endswith("scales") else None)
    check(tmp_path / "out", made(IDS).logits, base, bits / weights)
