"""What a pass over a model takes at most: one block's statistics beside the model, never the model again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BLOCKS, HIDDEN = 18, 512
SCRIPT = """
import json, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from kick.compress import canonical, compress

def model(blocks, hidden):
    sizes = {"hidden_size": hidden, "intermediate_size": 2 * hidden, "vocab_size": 64}
    return LlamaForCausalLM(LlamaConfig(num_hidden_layers=blocks, num_attention_heads=4, **sizes))

def resident(line):
    words = [one.split() for one in open("/proc/self/status") if one.startswith(line)]
    return int(words[0][1]) * 1024

torch.set_num_threads(1)
method, options, propagate, blocks, hidden = json.loads(sys.argv[1])
data = [torch.randint(64, (1, 64)) for _ in range(4)]
compress(model(2, 64), [canonical(method, options)], data, propagate=propagate)  # what is loaded on the way
large = model(blocks, hidden)
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = resident("VmRSS")
compress(large, [canonical(method, options)], data, propagate=propagate)
print(json.dumps(resident("VmHWM") - before))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read off Linux's /proc")
@pytest.mark.parametrize(
    ("method", "options", "propagate"),
    [
        ("gptq", {"bits": 4}, "compressed"),
        pytest.param("sparsegpt", {"sparsity": 0.5}, "dense", marks=pytest.mark.slow),
        pytest.param("wanda", {"sparsity": 0.5}, "compressed", marks=pytest.mark.slow),
    ],
)
def test_a_pass_takes_one_blocks_statistics(method, options, propagate):
    arguments = json.dumps([method, options, propagate, BLOCKS, HIDDEN])
    # what is freed goes back at once: held is measured, not what malloc keeps in between
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144"}
    command = [sys.executable, "-c", SCRIPT, arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    weights = 4 * BLOCKS * (4 + 6) * HIDDEN**2
    hessians = 4 * (3 + 4) * HIDDEN**2  # of a block: three inputs of HIDDEN, one of twice that
    masks = weights // 4 if method != "gptq" else 0  # what is pruned, a byte a weight
    grown = int(done.stdout)
    # beside its statistics a block needs a factor, its stacked weights, packs of them and activations
    assert grown - masks < 6 * hessians, f"{grown / 2**20:.0f} MiB beside {weights / 2**20:.0f} of weights"
    assert 6 * hessians < BLOCKS * hessians / 2, "statistics of all blocks would be seen"
    assert 6 * hessians < weights / 4, "so would the model, held twice"
