"""One side of a benchmark of recovery, in a process of its own: `python -m benchmarks.recovery_sides JOB`.

JOB is a JSON object: side ("kick" or "peft"), form, folder (a float32 checkpoint), windows (a file of token
ids), length, batch, rank, recompute. Printed is a JSON object: CPU seconds of each step, the losses of the
steps, and the process's peak memory in bytes. Losses of both sides are equal but for rounding: the same
start of the adapters, the same optimizer and rates, no dropout, no clipping.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WARM_UP = 0.1
LR = 5e-4


def rate(step: int, steps: int) -> float:
    """The share of the highest learning rate at a step: up in the first tenth, down to zero in a line."""
    warm = math.ceil(WARM_UP * steps)
    return (step + 1) / warm if step < warm else (steps - step) / (steps - warm)


def start_of(weight: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """An adapter's A (rank, in) at the start."""
    bound = 1 / math.sqrt(weight.shape[1])
    return torch.rand(rank, weight.shape[1], generator=generator).mul_(2 * bound).sub_(bound)


# ----------------------------------------------------------------------------------- peft and Trainer


def peft_side(job: dict[str, Any]) -> dict[str, Any]:
    """A plain peft model in transformers' Trainer; `masked`: its layers with a dense mask."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    class Steps(TrainerCallback):
        def __init__(self) -> None:
            self.marks = [time.process_time()]

        def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
            self.marks.append(time.process_time())

    class InOrder(Trainer):
        def _get_train_sampler(self, *_args: Any, **_kwargs: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    model = AutoModelForCausalLM.from_pretrained(job["folder"], dtype=torch.float32)
    config = LoraConfig(
        r=job["rank"], lora_alpha=16, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    wrapped = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(0)
    for module in wrapped.modules():
        if hasattr(module, "lora_A"):
            weight = module.base_layer.weight
            with torch.no_grad():
                module.lora_A["default"].weight.copy_(start_of(weight, job["rank"], generator))
            if job["form"] != "lora":
                densely_masked(module, job["form"])
    windows = load_file(job["windows"])["ids"]
    steps = len(windows) // job["batch"]
    trained = [one for one in wrapped.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(min(step, steps - 1), steps))
    marks = Steps()
    options = TrainingArguments(
        output_dir=str(Path(job["windows"]).parent / "trainer"), per_device_train_batch_size=job["batch"],
        max_steps=steps, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, max_grad_norm=0.0,
        dataloader_pin_memory=False, disable_tqdm=True, dataloader_num_workers=0,
    )  # fmt: skip
    data = [{"input_ids": ids, "labels": ids} for ids in windows]
    trainer = InOrder(
        model=wrapped, args=options, train_dataset=data, optimizers=(optimizer, schedule), callbacks=[marks]
    )
    marks.marks[0] = time.process_time()
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {"seconds": _differences(marks.marks), "losses": losses}


def densely_masked(module: Any, form: str) -> None:
    """Let a peft layer multiply by W + s (B A) M, made by plain operations, of which autograd keeps what it
    needs. "masked": M is W != 0, looked at each time, as PERP's published layer does; "float": M is kept in
    float32."""
    weight, scale = module.base_layer.weight, module.scaling["default"]
    down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
    kept = (weight != 0).float() if form == "float" else None

    def forward(x: Tensor) -> Tensor:
        product = up @ down
        product = product.masked_fill(weight == 0, 0) if kept is None else product * kept
        return nn.functional.linear(x, weight + scale * product, module.base_layer.bias)

    module.forward = forward


# ------------------------------------------------------------------------------------------------ kick


def kick_side(job: dict[str, Any]) -> dict[str, Any]:
    """The step of a recipe, on the same windows; of `reconstruct` each step is one of a single block."""
    from kick.sweep import lean

    lean.prepare()  # as in the worker processes that recipes run in
    from kick.compress import canonical
    from kick.compress.context import Calibration
    from kick.compress.dense import DenseWeights
    from kick.compress.method import build
    from kick.model import load, named_linears, resolve
    from kick.model.owned import own
    from kick.recover.train import TrainingRun

    model = load(resolve(job["folder"]))[0]  # their side has no tokenizer either
    own(model)
    windows = [one[None] for one in load_file(job["windows"])["ids"]]
    name = f"recover-{job['form']}"
    made = build(canonical(name, _options(job, sum(one.numel() for one in windows))))
    calibration = Calibration((), texts=lambda spec: (windows, []))
    if name != "recover-lora":
        calibration.masks = {name: linear.weight != 0 for name, _, linear in named_linears(model)}
    losses, marks = list[float](), list[float]()
    advance = TrainingRun.advance

    def marked(run: Any) -> None:
        advance(run)
        marks.append(time.process_time())
        losses.append(run.losses[-1])

    TrainingRun.advance = marked  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as place:
        if made.dense:
            calibration = Calibration(windows, texts=calibration.texts, masks=calibration.masks)
            calibration.dense = DenseWeights(Path(place))
            calibration.dense.keep(model)
        marks.append(time.process_time())
        made(model, calibration)
    return {"seconds": _differences(marks), "losses": losses}


def _options(job: dict[str, Any], tokens: int) -> dict[str, Any]:
    made: dict[str, Any] = {"tokens": tokens, "length": job["length"], "batch": job["batch"]}
    made |= {"rank": job["rank"], "lr": LR}
    return made | ({"recompute": True} if job["recompute"] else {})


def _differences(marks: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(marks)]


def peak() -> int:
    """The peak of this process's resident memory in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def main() -> None:
    """Run the job of the command line."""
    torch.set_num_threads(1)
    job = json.loads(sys.argv[1])
    found = {"kick": kick_side, "peft": peft_side}[job["side"]](job)
    print(json.dumps(found | {"peak": peak()}))


if __name__ == "__main__":
    main()
