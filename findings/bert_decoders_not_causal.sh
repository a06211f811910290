#!/usr/bin/env bash
# MegatronBert and BigBird decoders: a later token changes the logits of earlier ones.
#
# Input: `is_decoder=True` (BigBird also with `attention_type="original_full"`), a single row of six
#   tokens, and the same row with another last token.
# Expected: the logits of the first five positions are the same, as they are for Bert and Roberta.
# Seen (transformers 5.17.0, torch 2.13.0, CPU): they differ, because neither model builds a causal
#   mask for its own attention. Their `ForCausalLM` classes accept the configuration without a
#   warning about it.
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

transformers.logging.set_verbosity_error()
print(f"transformers {transformers.__version__}, torch {torch.__version__}, random weights")
ids = torch.tensor([[40, 17, 88, 5, 63, 29]])
other = torch.tensor([[40, 17, 88, 5, 63, 70]])
CASES = (  # class, configuration, own options, seen to be causal
    ("MegatronBertForCausalLM", "MegatronBertConfig", {}, False),
    ("BigBirdForCausalLM", "BigBirdConfig", {"attention_type": "original_full"}, False),
    ("BertLMHeadModel", "BertConfig", {}, True),
    ("RobertaForCausalLM", "RobertaConfig", {}, True),
)
changed = []
for name, config_name, own, causal in CASES:
    torch.manual_seed(0)
    config = getattr(transformers, config_name)(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        is_decoder=True,
        initializer_range=0.2,
        **own,
    )
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        gap = (model(ids).logits - model(other).logits)[0, :5].abs().max().item()
    print(f"{name}: another last token moves the first five positions' logits by {gap:.3f}")
    if (gap < 1e-4) != causal or (not causal and gap < 0.1):
        changed.append(name)
print("as seen on 2026-11-29: MegatronBert and BigBird are not causal, Bert and Roberta are")
if changed:
    sys.exit(f"the behaviour has changed for {', '.join(changed)}")
PY
