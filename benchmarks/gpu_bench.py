"""Seconds and peak memory of compression and of the engine on a device; prints JSON.

    python benchmarks/gpu_bench.py --device cuda [--model smollm2-135m] [--items 128]

Wall time of the second of two calls, after the device has finished: the first one warms up. Compression is
that of a recipe of one step on 16 x 256 calibration tokens. The engine answers log-likelihoods and generates
32 tokens of prompts that share a beginning, with its packed backend and with `plain`, whole forwards and
transformers' `generate`.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from typing import Any

import torch

from kick.compress import canonical, compress
from kick.compress.calibrate.corpus import sequences
from kick.engine import Engine
from kick.engine.plain import Plain
from kick.model import load, resolve
from kick.records import CalibrationSpec, Request

STEPS = {
    "magnitude 50 %": ("magnitude", {"sparsity": 0.5}),
    "Wanda 50 %": ("wanda", {"sparsity": 0.5}),
    "SparseGPT 50 %": ("sparsegpt", {"sparsity": 0.5}),
    "GPTQ 4 bits": ("gptq", {"bits": 4, "group_size": 32}),
}
BACKENDS = {"packed": Engine, "plain": Plain}


def measured(device: str, work: Callable[[], Any]) -> dict[str, float | None]:
    """Seconds of the work on a device, and the most memory it took there in bytes (None on a CPU)."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak": torch.cuda.max_memory_allocated() if device == "cuda" else None}


def compression(model: torch.nn.Module, tokenizer: Any, device: str, length: int) -> list[dict[str, Any]]:
    """A line per method."""
    spec = CalibrationSpec("kick_mini_calibration", 16, length, 0)
    tokens = [one.to(device) for one in sequences(spec, tokenizer)]
    lines = []
    for title, step in STEPS.items():
        line: dict[str, Any] = {}
        for _ in range(2):
            one = copy.deepcopy(model)
            line = measured(device, lambda one=one, step=step: compress(one, [canonical(*step)], tokens))
        lines.append({"work": title, "device": device, **line})
    return lines


def requests(items: int) -> dict[str, list[Request]]:
    """Questions that share a beginning, as a task's do: four choices each, and texts to generate."""
    shots = "".join(f"Question: What is {n} and {n}?\nAnswer: {2 * n}\n\n" for n in range(12))
    asked = [f"{shots}Question: What is {n} and {n + 3}?\nAnswer:" for n in range(items)]
    choices = [Request("loglikelihood", context=one, continuation=f" {c}") for one in asked for c in range(4)]
    return {
        "log-likelihoods": choices,
        "32 tokens each": [Request("generate", context=one, max_tokens=32) for one in asked[: items // 2]],
    }


def engine(model: torch.nn.Module, tokenizer: Any, device: str, items: int) -> list[dict[str, Any]]:
    """A line per backend and kind of request, with items per second."""
    lines = []
    for name, backend in BACKENDS.items():
        for kind, asked in requests(items).items():
            line: dict[str, Any] = {}
            for _ in range(2):  # a new engine has no answers of the first call
                made = backend(model, tokenizer)
                line = measured(device, lambda made=made, asked=asked: made.answer(asked))
            rate = len(asked) / line["seconds"]
            lines.append({"work": f"{kind}, {name}", "device": device, **line, "per second": rate})
    return lines


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--items", type=int, default=128)
    parser.add_argument("--length", type=int, default=256)
    given = parser.parse_args()
    model, tokenizer = load(resolve(given.model), device=given.device)
    found = {
        "compression": compression(model, tokenizer, given.device, given.length),
        "engine": engine(model, tokenizer, given.device, given.items),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
