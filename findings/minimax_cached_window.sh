#!/usr/bin/env bash
# MiniMax with a sliding window: cached steps of `generate` attend beyond the window if the first
# layer is a linear one.
#
# Input: `sliding_window=24`, layers linear and full attention, a prompt of 33 tokens.
# Expected: each step of `generate` gives the logits of one forward pass over the text so far.
# Seen (transformers 5.17.0, torch 2.13.0, CPU): true for the first token only. The later steps give
#   the logits of the same weights with `sliding_window=None`: no window is applied. With the full
#   attention layer first, or with a prompt shorter than the window, the steps are right.
# The models are tiny and have random weights.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 transformers==5.17.0 numpy==2.3.5

"$folder/env/bin/python" -I - <<'PY'
import sys

import torch
import transformers
from transformers import MiniMaxConfig, MiniMaxForCausalLM

NEW, WINDOW = 4, 24
transformers.logging.set_verbosity_error()
print(f"transformers {transformers.__version__}, torch {torch.__version__}, random weights")


def build(layers, window):
    torch.manual_seed(0)
    config = MiniMaxConfig(
        vocab_size=99,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
        num_experts_per_tok=1,
        max_position_embeddings=128,
        block_size=16,
        layer_types=[f"{kind}_attention" for kind in layers],
        sliding_window=window,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=None,
    )
    return MiniMaxForCausalLM(config).eval()


def gaps(layers, length):
    """Differences of the cached steps' logits to whole forwards, with the window and without it."""
    model, windowless = build(layers, WINDOW), build(layers, None)
    ids = torch.randint(5, 99, (1, length), generator=torch.Generator().manual_seed(1))
    found = {"window": [], "no window": []}
    with torch.no_grad():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        for step, logits in enumerate(out.logits):
            text = out.sequences[:, : length + step]
            for name, other in (("window", model), ("no window", windowless)):
                whole = other(text).logits[0, -1]
                found[name].append((logits[0] - whole).abs().max().item())
    return found


results = {}
CASES = ((("linear", "full"), 33), (("linear", "full"), 16), (("full", "linear"), 33))
for layers, length in CASES:
    results[layers, length] = found = gaps(layers, length)
    for name, values in found.items():
        shown = ", ".join(f"{value:.1e}" for value in values)
        print(f"layers {'+'.join(layers)}, prompt {length}: against forward, {name}: {shown}")
print("as seen on 2026-11-29: linear+full, prompt 33: from the second token on as without a window")
bad = results[("linear", "full"), 33]
good = results[("linear", "full"), 16]["window"] + results[("full", "linear"), 33]["window"]
first, *later = bad["window"]
windowless = max(bad["no window"][1:])
if not (first < 1e-4 and min(later) > 0.1 and windowless < 1e-4 and max(good) < 1e-4):
    sys.exit("the behaviour has changed")
PY
