"""Recovery against peft and transformers' Trainer: CPU seconds per step on one thread, and peak memory.

    python benchmarks/recovery.py [--only lora] [--steps 3] [--rounds 1] [--out benchmarks/out/recovery.json]

Each side is a process of its own (benchmarks/recovery_sides.py), one after the other, on the same windows of
text; the losses of their steps must be equal to 1e-3 before anything is written. Seconds are those of the
fastest step but the first, of all rounds; memory is the peak of the process, with what it imports. Rows are
{work, against, ratio, target}, ratio = theirs over ours, so that larger is better.

lora         LoRA of all matrices, 4 windows of 256 tokens per step (LLM-Pruner's micro-batch), and 1 window.
             Theirs is one batch of 4, as `per_device_train_batch_size` makes it; ours a window at a time.
masked       MaskLoRA, half of the weights pruned, 1 window per step, against peft with the product masked
             densely: by W != 0 as PERP's published layer does, and by a mask kept in float32.
reconstruct  a step of one block against a step of the whole model, both ours.

Needs peft (in kick's extra `dev`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

LENGTH, RANK = 256, 8
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What the benchmarks share: a folder with checkpoints and windows, steps per run, rounds."""

    folder: Path
    steps: int
    rounds: int
    done: dict[str, list[Row]] = field(default_factory=dict)  # by job: a side serves several benchmarks

    def pair(self, ours: Row, theirs: Row) -> tuple[Row, Row]:
        """Both sides, by turns. Raises SystemExit if their losses differ."""
        found = [self.done.setdefault(json.dumps(job), []) for job in (ours, theirs)]
        for number in range(self.rounds):
            for job, into in zip((ours, theirs), found, strict=True):
                if len(into) == number:
                    into.append(self.run(job))
        if ours["form"] != "reconstruct":
            for mine, other in zip(found[0][0]["losses"], found[1][0]["losses"], strict=True):
                if abs(mine - other) > 1e-3:
                    raise SystemExit(f"not the same work: losses {mine} and {other} of {ours} and {theirs}")
        return best(found[0]), best(found[1])

    def run(self, job: Row) -> Row:
        """One side: CPU seconds of its steps, their losses, and peak bytes."""
        job = {"length": LENGTH, "rank": RANK, "batch": 1, "recompute": False, **job}
        job["windows"] = str(self.folder / f"windows-{job['batch'] * self.steps}.safetensors")
        job["folder"] = str(self.folder / job["folder"])
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "benchmarks.recovery_sides", json.dumps(job)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
        if done.returncode:
            raise SystemExit(f"{job} failed: {done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])


def best(runs: Sequence[Row]) -> Row:
    """The fastest step but the first, and the lowest peak of several runs."""
    return {
        "step": min(second for run in runs for second in run["seconds"][1:]),
        "peak": min(run["peak"] for run in runs),
    }


def rows(work: str, against: str, ours: Row, theirs: Row, targets: tuple[float, float]) -> list[Row]:
    """A row of seconds per step, and one of memory."""
    facts = {"seconds": round(ours["step"], 3), "against_seconds": round(theirs["step"], 3)}
    facts |= {"peak_gb": round(ours["peak"] / 1e9, 3), "against_peak_gb": round(theirs["peak"] / 1e9, 3)}
    return [
        {
            "work": f"{work}: {what}",
            "against": against,
            "ratio": round(theirs[key] / ours[key], 3),
            "target": target,
            **facts,
        }
        for what, key, target in zip(("CPU seconds", "memory"), ("step", "peak"), targets, strict=True)
    ]


def lora(bench: Bench) -> list[Row]:
    """Plain LoRA: at least as fast, at no more than 0.7 of the memory."""
    made = []
    for batch in (1, 4):
        job = {"form": "lora", "folder": "dense", "batch": batch}
        ours, theirs = bench.pair({"side": "kick", **job}, {"side": "peft", **job})
        work = f"LoRA r {RANK}, {batch} x {LENGTH} tokens per step"
        made += rows(work, "peft and Trainer", ours, theirs, (1.0, 1.43))
    return made


def masked(bench: Bench) -> list[Row]:
    """MaskLoRA against dense masking on peft."""
    ours: Row = {"side": "kick", "form": "masklora", "folder": "pruned"}
    work, made = f"MaskLoRA r {RANK}, 1 x {LENGTH} tokens per step", []
    for form, against, target in (
        ("masked", "peft, product masked by W != 0", 1.3),
        ("float", "peft, product times a float32 mask", 1.0),
    ):
        mine, theirs = bench.pair(ours, {"side": "peft", "form": form, "folder": "pruned"})
        made += rows(work, against, mine, theirs, (target, 1.0))
    return made


def reconstruct(bench: Bench) -> list[Row]:
    """A step of a block against a step of the whole model."""
    job: Row = {"side": "kick", "folder": "pruned"}
    ours, theirs = bench.pair({**job, "form": "reconstruct"}, {**job, "form": "masklora"})
    work = f"Block-wise reconstruction, 1 x {LENGTH} tokens, a step of one block"
    return rows(work, "our MaskLoRA of the whole model", ours, theirs, (2.0, 1.0))


BENCHES: dict[str, Callable[[Bench], list[Row]]] = {
    "masked": masked,
    "reconstruct": reconstruct,
    "lora": lora,
}


def prepare(folder: Path, steps: int) -> None:
    """Write the demo model, the same with half of each matrix pruned by magnitude, and windows of text."""
    from kick.compress.calibrate.corpus import sequences
    from kick.model import load, named_linears, resolve
    from kick.records import CalibrationSpec

    model, tokenizer = load(resolve("smollm2-135m"))
    spec = CalibrationSpec(corpus="kick_mini_calibration", sequences=4 * steps, length=LENGTH)
    ids = torch.cat(sequences(spec, tokenizer, None))
    for count in {steps, 4 * steps}:
        save_file({"ids": ids[:count].contiguous()}, folder / f"windows-{count}.safetensors")
    for name in ("dense", "pruned"):
        for _, _, linear in named_linears(model) if name == "pruned" else ():
            size = linear.weight.abs()
            linear.weight.mul_(size > size.flatten().kthvalue(size.numel() // 2)[0])
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def write(out: Path, made: Sequence[Row]) -> None:
    """Put rows into the JSON, in the place of those of the same work."""
    before = json.loads(out.read_text("utf-8")) if out.exists() else []
    new = {(one["work"], one["against"]) for one in made}
    kept = [one for one in before if (one["work"], one["against"]) not in new]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps([*kept, *made], indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure what is asked for, print a table, write the JSON; rows that are not measured now stay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=[*BENCHES], action="append")
    parser.add_argument("--steps", type=int, default=3, help="steps per run, at least 2")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each side")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/out/recovery.json")
    options = parser.parse_args()
    if options.steps < 2:
        parser.error(f"--steps: got {options.steps}; expected: at least 2")
    made: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place), options.steps)
        bench = Bench(Path(place), options.steps, options.rounds)
        for name in options.only or BENCHES:
            made += BENCHES[name](bench)
            write(options.out, made)
    table = Table("work", "against", "ratio", "target", "CPU s", "theirs", "GB", "theirs")
    keys = ("work", "against", "ratio", "target")
    keys += ("seconds", "against_seconds", "peak_gb", "against_peak_gb")
    for one in made:
        table.add_row(*(str(one[key]) for key in keys))
    Console(width=140).print(table)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
