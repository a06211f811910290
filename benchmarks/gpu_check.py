"""What `make gpu-check` runs: everything that only a GPU can show, in under 8 minutes, and docs/gpu.md of it.

    python benchmarks/gpu_check.py [--device cpu --model smoke --demo smoke] [--page docs/gpu.md]

Parts, each a process with a time limit of its own: tests/test_cuda.py; the demo, which takes the GPU by
itself; a matrix with one worker and with a worker per GPU, if there are several, whose scores must be equal;
compression and the engine on the device (benchmarks/gpu_bench.py). A part that fails or does not end in its
time is said, on the page too, and the exit status is 1. Without a GPU it says that it needs one and the exit
status is 2; `--device cpu` runs the same parts on a CPU, to test this script.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kick.store import Store
from kick.sweep.executors.local import visible_gpus

ROOT = Path(__file__).parents[1]
LIMITS = {"tests": 150, "demo": 150, "one worker": 40, "all workers": 40, "benchmarks": 90}  # s; 470 in all
START = "<!-- written by make gpu-check -->"
MATRIX = """
name: several
model: {model}
tasks: [kick_mini_mcq, kick_mini_perplexity]
limit: {{kick_mini_mcq: 16, kick_mini_perplexity: 4}}
calibration: {{corpus: kick_mini_calibration, sequences: 4, length: 64}}
variants:
  - {{method: [magnitude, wanda], sparsity: [0.3, 0.5]}}
  - {{method: rtn, bits: [8, 4], group_size: 32}}
replicas: []
"""


@dataclass(frozen=True)
class Part:
    """One part as it went: seconds, whether it passed, and a line that says more."""

    title: str
    seconds: float
    passed: bool
    said: str = ""
    output: str = ""


def run(title: str, words: Sequence[str], environment: dict[str, str], limit: float) -> Part:
    """A part in a process of its own, ended after its time."""
    start = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, errors="replace",
            check=False, timeout=limit, env=os.environ | environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Part(title, time.monotonic() - start, False, f"did not end in {limit:.0f} s")
    seconds = time.monotonic() - start
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    said = "" if done.returncode == 0 else f"status {done.returncode}: {lines[-1] if lines else 'no output'}"
    return Part(title, seconds, done.returncode == 0, said, done.stdout)


def tests(device: str, limit: float) -> Part:
    """tests/test_cuda.py; on a CPU it has nothing to run, which pytest calls status 5."""
    workers = "0" if device == "cpu" else str(max(1, min(4, (os.cpu_count() or 1) // 2)))
    words = ["-m", "pytest", "-q", "-n", workers, "tests/test_cuda.py"]
    found = run("tests/test_cuda.py", words, {}, limit)
    lines = [line for line in found.output.splitlines() if line.strip()]
    said = lines[-1].strip("= ") if lines else found.said
    passed = found.passed or (device == "cpu" and "status 5" in found.said)
    return Part(found.title, found.seconds, passed, said)


def several(model: str, folder: Path, devices: Sequence[str], device: str) -> list[Part]:
    """The same matrix with one worker and with one per device; the second part says if scores differ."""
    if len(devices) < 2:
        return []
    file, parts = folder / "several.yaml", []
    file.write_text(MATRIX.format(model=model))
    for title, count in (("one worker", 1), ("all workers", len(devices))):
        words = ["-m", "kick.cli", "run", str(file), "--workers", str(count), "--out", str(folder / title)]
        shown = {"CUDA_VISIBLE_DEVICES": ",".join(devices[:count]) if device == "cuda" else ""}
        parts.append(run(f"a matrix, {count} at a time", words, shown, LIMITS[title]))
    if all(part.passed for part in parts):
        wrong = different(*(scores(folder / title) for title in ("one worker", "all workers")))
        last = parts.pop()
        said = wrong or f"scores equal; {parts[0].seconds / last.seconds:.2f} times as fast"
        parts.append(Part(last.title, last.seconds, not wrong, said))
    return parts


def scores(folder: Path) -> dict[str, dict[str, float | None]]:
    """Every cell's values by its key."""
    runs = Store(folder, "several").runs()
    return {one.key: {score.metric: score.value for score in one.scores} for one in runs}


def different(one: dict[str, Any], other: dict[str, Any]) -> str:
    """What differs between the scores of two runs, "" for nothing."""
    if one.keys() != other.keys():
        return f"{len(one)} cells against {len(other)}"
    wrong = [key for key in one if not all(map(close, one[key].values(), other[key].values()))]
    return f"{len(wrong)} of {len(one)} cells have other scores" if wrong else ""


def close(one: float | None, other: float | None) -> bool:
    """Whether two scores are equal but for rounding."""
    return one == other if one is None or other is None else math.isclose(one, other, rel_tol=1e-4)


def machine(device: str) -> str:
    """What it ran on, in a line."""
    where = platform.processor() or platform.machine()
    if device == "cuda":
        names = [torch.cuda.get_device_name(one) for one in range(torch.cuda.device_count())]
        where = f"{len(names)} x {names[0]}, CUDA {torch.version.cuda}"
    return f"{where}, {os.cpu_count()} CPU cores, torch {torch.__version__}"


def tables(parts: Sequence[Part], bench: dict[str, Any], device: str) -> str:
    """The page's tables, in Markdown."""
    rows = [
        f"Run on {time.strftime('%Y-%m-%d', time.gmtime())}: {machine(device)}.", "",
        "| part | seconds | passed | |", "|---|---:|---|---|",
    ]  # fmt: skip
    rows += [
        f"| {part.title} | {part.seconds:.0f} | {'yes' if part.passed else '**no**'} "
        f"| {part.said.replace('|', '/')[:100]} |"
        for part in parts
    ]
    if not bench:
        return "\n".join(rows) + "\n"
    rows += ["", "| compression | device | seconds | peak memory |", "|---|---|---:|---:|"]
    rows += [
        f"| {one['work']} | {one['device']} | {one['seconds']:.2f} | {size(one['peak'])} |"
        for one in bench["compression"]
    ]
    rows += ["", "| engine | device | seconds | items per second | peak memory |", "|---|---|---:|---:|---:|"]
    rows += [
        f"| {one['work']} | {one['device']} | {one['seconds']:.2f} | {one['per second']:.1f} "
        f"| {size(one['peak'])} |"
        for one in bench["engine"]
    ]
    return "\n".join(rows) + "\n"


def size(peak: float | None) -> str:
    """Bytes in GB; a dash where a device does not tell."""
    return "-" if peak is None else f"{peak / 1e9:.2f} GB"


def write(page: Path, text: str) -> None:
    """Put the tables into the page, after the mark that they are written behind."""
    before = page.read_text("utf-8").partition(START)[0]
    page.write_text(f"{before}{START}\n\n{text}", "utf-8")


def check(given: argparse.Namespace, devices: Sequence[str]) -> int:
    """Run all parts and write the page; the exit status."""
    model = ["--model", given.model, "--items", str(given.items), "--length", str(given.length)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        parts = [tests(given.device, LIMITS["tests"])]
        words = ["-m", "kick.cli", "run", given.demo, "--out", str(folder / "demo")]
        parts.append(run(f"kick run {given.demo}", words, {}, LIMITS["demo"]))
        parts += several(given.model, folder, devices, given.device)
        words = ["benchmarks/gpu_bench.py", "--device", given.device, *model]
        measured = run("benchmarks", words, {}, LIMITS["benchmarks"])
        parts.append(Part(measured.title, measured.seconds, measured.passed, measured.said))
    bench = json.loads(measured.output.splitlines()[-1]) if measured.passed else {}
    text = tables(parts, bench, given.device)
    write(given.page, text)
    print(text, end="")
    return 0 if all(part.passed for part in parts) else 1


def main() -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--devices", type=int, default=2, help="with --device cpu: GPUs to act as if there were"
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--demo", default="demo", help="the matrix that stands for the demo")
    parser.add_argument("--items", type=int, default=128)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--page", type=Path, default=ROOT / "docs/gpu.md")
    given = parser.parse_args()
    if given.device == "cpu":
        return check(given, [str(one) for one in range(given.devices)])
    if not torch.cuda.is_available():
        print("make gpu-check needs a CUDA GPU; torch sees none here", file=sys.stderr)
        return 2
    return check(given, visible_gpus() or [str(one) for one in range(torch.cuda.device_count())])


if __name__ == "__main__":
    sys.exit(main())
