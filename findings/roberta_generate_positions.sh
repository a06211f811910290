#!/usr/bin/env bash
# RoBERTa-family decoders: the first logits of `generate` are not the logits of a forward pass.
#
# Input: a single unpadded row of six tokens, with an attention mask of ones.
# Expected: `generate` and `forward` give the same logits for the seventh token.
# Seen (transformers 5.17.0, torch 2.13.0, CPU): they differ by more than 1 in every class below.
#   `forward` numbers positions from `padding_idx + 1`, as these models were trained. `generate`
#   numbers them from 0 and passes them in as `position_ids`.
# The models are tiny and have random weights, so the logits have no meaning beyond this comparison.
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
mask = torch.ones_like(ids)
changed = []
for family in ("Roberta", "XLMRoberta", "Camembert", "RobertaPreLayerNorm", "Data2VecText"):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        is_decoder=True,
        pad_token_id=1,
        initializer_range=0.2,
    )
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        whole = model(ids, attention_mask=mask).logits[0, -1]
        positions = torch.arange(6)[None]
        from_zero = model(ids, attention_mask=mask, position_ids=positions).logits[0, -1]
        step = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=1,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        ).logits[0][0]
    gap = (step - whole).abs().max().item()
    to_zero = (step - from_zero).abs().max().item()
    print(
        f"{family}: generate against forward {gap:.3f} (argmax {int(step.argmax())} against "
        f"{int(whole.argmax())}); generate against forward with position_ids 0..5 {to_zero:.1e}"
    )
    if not (gap > 1 and to_zero < 1e-4):
        changed.append(family)
print("as seen on 2026-11-29: generate counts positions from 0, forward from padding_idx + 1")
if changed:
    sys.exit(f"the behaviour has changed for {', '.join(changed)}")
PY
