#!/usr/bin/env bash
# Youtu: `from_pretrained` sets the embedding row of the pad token to zero, whatever the file holds.
#
# Input: a model with `pad_token_id=3` whose row 3 is not zero, written with `save_pretrained`.
# Expected: `from_pretrained` gives the stored row.
# Seen (transformers 5.17.0, torch 2.13.0, CPU): the file has the row and the loaded model has zeros
#   in it. The head is tied to the embedding, so the logit of that token becomes 0 everywhere.
#   `_init_weights` clears the row through a slice of `weight.data`, a new tensor without the
#   mark that protects loaded weights from being initialised again.
# The model is tiny and has random weights.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 transformers==5.17.0 numpy==2.3.5

"$folder/env/bin/python" -I - <<'PY'
import sys
import tempfile

import torch
import transformers
from safetensors import safe_open
from transformers import YoutuConfig, YoutuForCausalLM

PAD = 3
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
print(f"transformers {transformers.__version__}, torch {torch.__version__}, random weights")
torch.manual_seed(0)
config = YoutuConfig(
    vocab_size=99,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=64,
    q_lora_rank=16,
    kv_lora_rank=16,
    qk_rope_head_dim=8,
    qk_nope_head_dim=8,
    v_head_dim=8,
    pad_token_id=PAD,
    bos_token_id=1,
    eos_token_id=2,
)
model = YoutuForCausalLM(config).eval()
with torch.no_grad():
    model.model.embed_tokens.weight[PAD] = torch.randn(32)
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    with safe_open(f"{folder}/model.safetensors", "pt") as file:
        stored = file.get_tensor("model.embed_tokens.weight")
    loaded = YoutuForCausalLM.from_pretrained(folder).eval()

ids = torch.tensor([[40, 17, 88, 5, 63, 29]])  # no pad token among them
with torch.no_grad():
    before, after = model(ids).logits[0], loaded(ids).logits[0]
row = loaded.model.embed_tokens.weight[PAD].abs().max().item()
head = loaded.lm_head.weight[PAD].abs().max().item()
others = torch.arange(99) != PAD
moved = (loaded.model.embed_tokens.weight[others] - stored[others]).abs().max().item()
written = stored[PAD].abs().max().item()
print(f"largest entry of the pad row: file {written:.3f}, loaded {row}, head {head}")
print(f"largest change of any other row: {moved}")
for name, logits in (("saved", before), ("loaded", after)):
    shown = ", ".join(f"{value:.3f}" for value in logits[:, PAD].tolist())
    print(f"logits of the pad token, {name} model: {shown}")
print("as seen on 2026-11-29: the stored row is not zero, the loaded row and the tied head's are")
if not (written > 0 and row == 0 and head == 0 and moved == 0):
    sys.exit("the behaviour has changed")
PY
