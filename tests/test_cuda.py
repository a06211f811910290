"""On a CUDA device everything comes out as on the CPU: methods, whole matrices, checkpoints, peak memory."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from kick.compress import canonical, compress
from kick.compress.context import Calibration
from kick.compress.method import methods
from kick.store import Store
from tests.compress.test_every_method import REFUSED, recipe, weights
from tests.support.architectures import ARCHITECTURES, sequences, tiny

if not torch.cuda.is_available():
    pytest.skip("no CUDA device here: what runs on one is NOT tested", allow_module_level=True)

EXACT = {"random", "magnitude", "rtn", "nf4", "last-n"}  # nothing is measured, nothing is summed up
MATRIX = """
name: small
model: smoke
tasks: [kick_mini]
limit: 6
calibration: {corpus: kick_mini_calibration, sequences: 4, length: 64, propagate: dense}
variants:
  - dense
  - {method: wanda, sparsity: 0.5}
  - {method: gptq, bits: 4, group_size: 32}
replicas: []
"""


def kick(*words: str, cuda: bool) -> subprocess.CompletedProcess:
    environment = dict(os.environ) if cuda else os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", "from kick.cli import main; main()", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done


def compressed(method: str, name: str, device: str) -> tuple[dict[str, torch.Tensor], dict]:
    model = tiny(name).to(device)
    data = tuple(one.to(device) for one in sequences())
    report = compress(model, recipe(method), Calibration(data), propagate="dense")
    return {key: weight.cpu() for key, weight in weights(model).items()}, report


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("method", sorted(methods))
def test_methods(method, name):
    """On the same inputs; what differs is rounding, which can tip a weight between two steps of a grid."""
    if name in REFUSED.get(method, ()):
        pytest.skip("refused by design")
    (ours, report), (wanted, known) = compressed(method, name, "cuda"), compressed(method, name, "cpu")
    assert report["footprint"] == known["footprint"]
    close = [torch.isclose(ours[key], wanted[key], rtol=1e-3, atol=1e-4).float().mean() for key in wanted]
    assert min(close) >= (1.0 if method in EXACT else 0.98)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda")
    (folder / "small.yaml").write_text(MATRIX)
    for place in ("cpu", "cuda"):
        kick("run", str(folder / "small.yaml"), "--out", str(folder / place), cuda=place == "cuda")
    return [Store(folder / place, "small") for place in ("cpu", "cuda")]


def test_a_whole_matrix(stores):
    """The same cells, answers and scores; a generated text may part where two tokens are equally likely."""
    cpu, cuda = ({one.key: one for one in store.runs()} for store in stores)
    assert cpu.keys() == cuda.keys()
    assert len(cpu) >= 3 * 6
    logprobs, texts = [], []
    for key in cpu:
        for one, other in zip(stores[0].samples(key), stores[1].samples(key), strict=True):
            assert (one.item, one.prompt) == (other.item, other.prompt)
            for a, b in zip(one.responses, other.responses, strict=True):
                if a.logprob is not None:
                    logprobs.append((a.logprob, b.logprob))
                if a.text is not None:
                    texts.append(a.text == b.text)
    found, wanted = np.array(logprobs).T
    assert np.isclose(found, wanted, rtol=1e-3, atol=1e-3).mean() > 0.95
    assert np.mean(texts) > 0.9


def test_what_ran_where(stores):
    assert all(not one.provenance["machine"].get("accelerators") for one in stores[0].runs())
    assert all(one.provenance["machine"]["accelerators"] for one in stores[1].runs())


def test_checkpoint(tmp_path):
    kick("compress", "smoke", "--method", "gptq", "--bits", "4", "--out", str(tmp_path / "made"), cuda=True)
    assert json.loads((tmp_path / "made" / "config.json").read_text())["quantization_config"]


@pytest.mark.parametrize(
    ("method", "options"),
    [("gptq", {"bits": 4}), ("sparsegpt", {"sparsity": 0.5}), ("wanda", {"sparsity": 0.5})],
)
def test_a_pass_takes_one_blocks_statistics(method, options):
    from transformers import LlamaConfig, LlamaForCausalLM

    blocks, hidden = 24, 512
    sizes = {"hidden_size": hidden, "intermediate_size": 2 * hidden, "vocab_size": 64}
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=blocks, num_attention_heads=4, **sizes)).to("cuda")
    data = [torch.randint(64, (1, 64), device="cuda") for _ in range(4)]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    compress(model, [canonical(method, options)], data)
    grown = torch.cuda.max_memory_allocated() - before
    weights = 4 * blocks * (4 + 6) * hidden**2
    hessians = 4 * (3 + 4) * hidden**2
    masks = weights // 4 if method != "gptq" else 0  # a byte a weight
    assert grown - masks < 6 * hessians < weights / 4
