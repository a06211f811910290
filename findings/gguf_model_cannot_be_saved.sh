#!/usr/bin/env bash
# GGUF: a model that `from_pretrained(..., gguf_file=...)` has unpacked counts as quantized and cannot be
# saved, even if nothing in the file is quantized.
#
# Input: a GGUF file of a small Llama, all of whose tensors are float32.
# Expected: transformers unpacks it at load, so that `save_pretrained` writes an ordinary folder, or that
#   `dequantize()` makes it an ordinary model first.
# Seen (transformers 5.17.0, torch 2.13.0, gguf 0.19.0, CPU): all parameters are float32 in `nn.Linear`
#   and equal to the file's, `is_quantized` is True, `save_pretrained` raises ValueError ("not
#   serializable") and `dequantize()` raises NotImplementedError. Without its quantizer the same object
#   is saved, and the folder gives the same logits: nothing was missing.
# The model is tiny and has random weights.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 transformers==5.17.0 numpy==2.3.5 gguf==0.19.0 accelerate==1.12.0

"$folder/env/bin/python" -I - <<'PY'
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM

WIDTH, INNER, WORDS = 32, 64, 48
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
print(f"transformers {transformers.__version__}, torch {torch.__version__}, random float32 weights")

shapes = {
    "token_embd": (WORDS, WIDTH),
    "output": (WORDS, WIDTH),
    "output_norm": (WIDTH,),
    "blk.0.attn_norm": (WIDTH,),
    "blk.0.ffn_norm": (WIDTH,),
    "blk.0.attn_q": (WIDTH, WIDTH),
    "blk.0.attn_k": (WIDTH, WIDTH),
    "blk.0.attn_v": (WIDTH, WIDTH),
    "blk.0.attn_output": (WIDTH, WIDTH),
    "blk.0.ffn_gate": (INNER, WIDTH),
    "blk.0.ffn_up": (INNER, WIDTH),
    "blk.0.ffn_down": (WIDTH, INNER),
}


def written(file):
    """A Llama of one block; its up projection."""
    draw = np.random.default_rng(0)
    writer = GGUFWriter(str(file), "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(WORDS)
    tensors = {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    for name, values in tensors.items():
        writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return torch.from_numpy(tensors["blk.0.ffn_up"])


def outcome(work):
    try:
        work()
    except (ValueError, NotImplementedError) as error:
        return f"{type(error).__name__}: {str(error)[:72]}"
    return "done"


with tempfile.TemporaryDirectory() as name:
    root = Path(name)
    up = written(root / "tiny.gguf")
    model = AutoModelForCausalLM.from_pretrained(root, gguf_file="tiny.gguf").eval()
    plain = type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear
    same = torch.equal(model.model.layers[0].mlp.up_proj.weight.detach(), up)
    saved = outcome(lambda: model.save_pretrained(root / "first"))
    unpacked = outcome(lambda: model.dequantize())
    quantized = model.is_quantized
    print(f"plain nn.Linear: {plain}, equal to the file's float32: {same}, is_quantized: {quantized}")
    print(f"save_pretrained: {saved}")
    print(f"dequantize: {unpacked}")

    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(root / "second")
    again = AutoModelForCausalLM.from_pretrained(root / "second").eval()
    ids = torch.tensor([[4, 17, 8, 5, 33, 29]])
    with torch.no_grad():
        equal = torch.equal(model(ids).logits, again(ids).logits)
    print(f"without its quantizer it is saved, and loads with equal logits: {equal}")

as_seen = (
    plain and same and quantized and equal and saved.startswith("ValueError")
    and unpacked.startswith("NotImplementedError")
)
print("as seen" if as_seen else "CHANGED")
sys.exit(0 if as_seen else 1)
PY
