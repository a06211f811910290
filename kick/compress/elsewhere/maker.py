"""Compresses a checkpoint with another library: run by a Python of that library, which has no kick.

    PYTHON maker.py llmcompressor job.json

The job is a JSON object: `model` (a folder), `out` (a folder to write), `tokens` (lists of token ids, or an
empty list), `options` (of the step), `seed`, `threads` and `device`. Writes a checkpoint to `out`, and
`out/made.json` with the versions and the CPU seconds of the compression alone. Standard library and the
library asked for only.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any


def llmcompressor(model: Any, tokenizer: Any, job: dict[str, Any]) -> None:
    """Carry out a recipe of llm-compressor, as YAML, on the model in place, and save it."""
    from datasets import Dataset
    from llmcompressor import oneshot

    data: dict[str, Any] = {}
    if job["tokens"]:
        rows = {"input_ids": job["tokens"], "attention_mask": [[1] * len(one) for one in job["tokens"]]}
        data = {
            "dataset": Dataset.from_dict(rows),
            "num_calibration_samples": len(job["tokens"]),
            "max_seq_length": max(map(len, job["tokens"])),
            "shuffle_calibration_samples": False,
            "pipeline": "sequential",
        }
    oneshot(model=model, tokenizer=tokenizer, recipe=job["options"]["recipe"], **data)


def autoround(model: Any, tokenizer: Any, job: dict[str, Any]) -> Any:
    """Quantize with AutoRound; what saves the result."""
    import torch
    from auto_round import AutoRound

    options = job["options"]
    tokens = [torch.tensor([one]) for one in job["tokens"]]
    return AutoRound(
        model,
        tokenizer,
        bits=options["bits"],
        group_size=options["group_size"],
        sym=options["symmetric"],
        iters=options["iters"],
        dataset=tokens,
        nsamples=len(tokens),
        seqlen=min(map(len, job["tokens"])),
        batch_size=min(8, len(tokens)),
        seed=job["seed"],
        device_map=job["device"],
    )


def carry_out(library: str, job: dict[str, Any]) -> None:
    """Load the model, compress it, save it with the facts of the making."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(job["threads"])
    random.seed(job["seed"])
    torch.manual_seed(job["seed"])
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype="auto").to(job["device"]).eval()
    out, start = Path(job["out"]), time.process_time()
    if library == "llmcompressor":
        llmcompressor(model, tokenizer, job)
        seconds = time.process_time() - start
        model.save_pretrained(out, save_compressed=True)
        names = ["llmcompressor", "compressed-tensors"]
    else:
        autoround(model, tokenizer, job).quantize_and_save(str(out), format="auto_round:llm_compressor")
        seconds = time.process_time() - start
        names = ["auto-round"]
    tokenizer.save_pretrained(out)
    versions = {name: version(name) for name in [*names, "torch", "transformers"]}
    (out / "made.json").write_text(json.dumps({"versions": versions, "cpu_seconds": round(seconds, 1)}))


def main() -> None:
    """The command line: a library and a job's file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=["llmcompressor", "autoround"])
    parser.add_argument("job", type=Path)
    given = parser.parse_args()
    carry_out(given.name, json.loads(given.job.read_text("utf-8")))


if __name__ == "__main__":
    main()
