"""Ours against llm-compressor's wanda, sparsegpt and gptq: the same model, token ids and recipe.

    KICK_LLMCOMPRESSOR_PYTHON=... python benchmarks/against_llmcompressor.py [--only wanda,gptq] [--out FILE]

Both compress the model of `--model` in float32 on one thread with the same calibration sequences. Compared
are perplexity on prose that is not the calibration's, the pruned positions (those of both over those of
either) or the weights that are equal, and the CPU seconds of the compression alone. Prints a Markdown table,
and keeps lines of earlier runs in benchmarks/out/against_llmcompressor.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import torch
from torch import Tensor

from kick.compress import canonical, compress
from kick.compress.calibrate.corpus import sequences
from kick.compress.elsewhere import made
from kick.model import block_list, load, named_linears, resolve
from kick.model.source import locate
from kick.records import CalibrationSpec

PRUNING = {"wanda": "WandaPruningModifier", "sparsegpt": "SparseGPTModifier"}
WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32}
GPTQ = {"bits": 4, "group_size": 32}
OURS = {
    "wanda": ("wanda", {"sparsity": 0.5}),
    "sparsegpt": ("sparsegpt", {"sparsity": 0.5}),
    "gptq": ("gptq", GPTQ),
    "gptq-act-order": ("gptq", GPTQ | {"act_order": True}),
}
PROSE = Path(__file__).parents[1] / "tasks/kick_mini/data/perplexity.jsonl"


def theirs(work: str, block: str) -> str:
    """The recipe of llm-compressor (JSON is YAML) that is closest to ours."""
    if work in PRUNING:
        options: dict[str, Any] = {"sparsity": 0.5, "mask_structure": "0:0", "targets": [block]}
        return json.dumps({"the_stage": {"the_modifiers": {PRUNING[work]: options}}})
    order = "weight" if "order" in work else None
    groups = {"group_0": {"targets": ["Linear"], "weights": WEIGHTS | {"actorder": order}}}
    options = {"config_groups": groups, "ignore": ["lm_head"], "dampening_frac": 0.01}
    return json.dumps({"the_stage": {"the_modifiers": {"GPTQModifier": options}}})


@torch.no_grad()
def perplexity(model: torch.nn.Module, windows: Tensor) -> float:
    """Of each window's tokens but the first."""
    total = 0.0
    for window in windows:
        logits = model(window[None]).logits[0, :-1].float()
        total += float(torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum"))
    return math.exp(total / (windows.shape[0] * (windows.shape[1] - 1)))


def matrices(model: torch.nn.Module) -> dict[str, Tensor]:
    """The blocks' matrices by full name."""
    return {name: linear.weight for name, _, linear in named_linears(model)}


def alike(one: dict[str, Tensor], other: dict[str, Tensor], pruned: bool) -> float:
    """Of pruned weights those of both as a share of those of either; else the share within a thousandth."""
    both = either = 0
    for name, weight in one.items():
        first, second = weight, other[name]
        if pruned:
            both += int(((first == 0) & (second == 0)).sum())
            either += int(((first == 0) | (second == 0)).sum())
        else:
            both += int(torch.isclose(first, second, rtol=1e-3, atol=1e-8).sum())
            either += first.numel()
    return both / either


def compared(work: str, name: str, tokens: list[Tensor], windows: Tensor) -> dict[str, Any]:
    """Both sides of one piece of work."""
    ours, _ = load(resolve(name))
    block = type(block_list(ours)[1][0]).__name__
    start = time.process_time()
    compress(ours, [canonical(*OURS[work])], tokens)
    seconds = time.process_time() - start
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "made"
        facts = made("llmcompressor", locate(name), tokens, {"recipe": theirs(work, block)}, out)
        other, _ = load(resolve(str(out)))
    line = {
        "ours": perplexity(ours, windows),
        "theirs": perplexity(other, windows),
        "alike": alike(matrices(ours), matrices(other), work in PRUNING),
        "our seconds": seconds,
        "their seconds": facts["cpu_seconds"],
        "versions": facts["versions"],
    }
    del ours, other
    gc.collect()
    return line


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--only", default=",".join(OURS))
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out/against_llmcompressor.json")
    given = parser.parse_args(arguments)
    strangers = [work for work in given.only.split(",") if work not in OURS]
    if strangers:
        parser.error(f"--only: got {strangers[0]!r}; expected some of {', '.join(OURS)}, with commas")
    torch.set_num_threads(1)
    dense, tokenizer = load(resolve(given.model))
    spec = CalibrationSpec("kick_mini_calibration", given.sequences, given.length, 0)
    tokens = sequences(spec, tokenizer)
    text = "\n\n".join(json.loads(line)["text"] for line in PROSE.read_text("utf-8").splitlines())
    ids = tokenizer(text, return_tensors="pt").input_ids[0]
    windows = ids[: given.windows * given.length].view(-1, given.length)
    lines = json.loads(given.out.read_text()) if given.out.is_file() else {}
    lines["dense"] = {
        "ours": perplexity(dense, windows),
        "calibration": f"{given.sequences} x {given.length}",
    }
    del dense
    for work in given.only.split(","):
        lines[work] = compared(work, given.model, tokens, windows)
        given.out.write_text(json.dumps(lines, indent=1) + "\n")
        print(work, json.dumps(lines[work]), flush=True)
    print("| | perplexity, ours | theirs | alike | CPU s, ours | theirs |\n|---|---:|---:|---:|---:|---:|")
    for work, one in lines.items():
        if "alike" in one:
            print(
                f"| {work} | {one['ours']:.2f} | {one['theirs']:.2f} | {one['alike']:.2%} "
                f"| {one['our seconds']:.0f} | {one['their seconds']:.0f} |"
            )


if __name__ == "__main__":
    main()
