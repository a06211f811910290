"""torchao's checkpoints: its tensors compute by themselves, so they stay as they are. Some need a GPU."""

import pytest
import torch
import transformers as tf
from safetensors.torch import save_file

from kick.errors import KickError
from kick.model import load, resolve
from tests.interop.checked import IDS, check, file_bits

pytestmark = [pytest.mark.interop, pytest.mark.timeout(1800)]  # kernels are compiled for minutes
KINDS = {
    "int8": lambda ao: ao.Int8WeightOnlyConfig(),
    "int8 and activations": lambda ao: ao.Int8DynamicActivationInt8WeightConfig(),
    "float8": lambda ao: ao.Float8WeightOnlyConfig(),
    "int4 in bytes": lambda ao: ao.IntxWeightOnlyConfig(torch.int4, ao.PerGroup(32)),
    "int2 in bytes": lambda ao: ao.IntxWeightOnlyConfig(torch.int2, ao.PerGroup(32)),
}


def scales(name, _type):
    return 16 if name.endswith("_weight_scale") else None


@pytest.mark.parametrize("everything", [False, True], ids=["blocks", "embeddings too"])
@pytest.mark.parametrize("kind", KINDS)
def test_torchao(kind, everything, base, tmp_path):
    ao = pytest.importorskip("torchao.quantization")
    quantization = tf.TorchAoConfig(KINDS[kind](ao), include_input_output_embeddings=everything)
    try:
        made = tf.AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, quantization_config=quantization
        )
        right = made(IDS).logits
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"torchao makes no such model here: {error}")
    made.save_pretrained(tmp_path / "out")
    bits = file_bits(tmp_path / "out", scales) / sum(
        p.numel() for name, p in made.named_parameters() if "_proj." in name
    )
    check(tmp_path / "out", right, base, bits, atol=0)


def written(model, folder, quantization):
    """A checkpoint of tensors that torchao's quantize_ made, as its own safetensors support writes it."""
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    model.config.quantization_config = tf.TorchAoConfig(quantization)
    tensors, about = flatten_tensor_state_dict({name: one.data for name, one in model.state_dict().items()})
    model.config.save_pretrained(folder)
    tensors = {name: one.contiguous() for name, one in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata=about | {"format": "pt"})


def test_torchao_nvfp4(base, tmp_path):
    ao = pytest.importorskip("torchao.quantization")
    formats = pytest.importorskip("torchao.prototype.mx_formats")
    made = tf.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    ao.quantize_(made.model.layers, formats.NVFP4WeightOnlyConfig())
    written(made, tmp_path / "out", ao.Int8WeightOnlyConfig())
    check(tmp_path / "out", made(IDS).logits, base, atol=0)


def test_torchao_int4_is_refused_where_it_cannot_be_multiplied_with(base, tmp_path):
    """It is read on any machine; its product is in a package for GPUs."""
    ao = pytest.importorskip("torchao.quantization")
    made = tf.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for module in made.model.layers.modules():
        if isinstance(module, torch.nn.Linear):
            rows, columns = module.weight.shape
            weight = ao.Int4Tensor(
                torch.zeros(rows, columns // 2, dtype=torch.int8), torch.ones(columns // 32, rows),
                torch.zeros(columns // 32, rows), [1, 32], torch.Size([rows, columns]),
            )  # fmt: skip
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
    written(made, tmp_path / "out", ao.Int4WeightOnlyConfig(group_size=32))
    load(resolve("smoke"))[1].save_pretrained(tmp_path / "out")
    with pytest.raises(KickError, match="torchao stores as Int4Tensor, with which this machine cannot"):
        resolve(str(tmp_path / "out"))
