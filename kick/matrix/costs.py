"""Cost of a job, from shapes alone: seconds, memory, disk. No weights are loaded and torch is not needed.
Bytes of memory are in `kick.matrix.memory`.

Seconds, with P parameters and F multiply-adds doubled a second (`Rates.flops`, stored for this machine):

    answer    items x (learned seconds per item if this machine has answered the task before;
              else tokens per item x 2 P / F)
    compress  for each step that calibrates 2 forwards of the calibration tokens, 2 x 2 P x tokens / F, and
              SOLVER seconds per parameter; for each step that does not, SIMPLE seconds per parameter;
              training is counted in forwards (`kick.matrix.training`)
    load      P x bytes per parameter / READ

An estimate of the first run is good to a factor of three; later ones use what was learned.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from kick.catalog import trains_on_text
from kick.errors import KickError
from kick.matrix import memory
from kick.matrix.backward import Backward
from kick.matrix.blockwise import blockwise
from kick.matrix.memory import BYTES, JobWork, gigabytes, tokens_of
from kick.matrix.rates import Rates, place_of
from kick.matrix.shapes import Shape
from kick.matrix.training import Training
from kick.paths import offload_folder
from kick.records import ModelSpec, Variant

ITEMS = 32  # of a task whose size is not known before it is tokenised
SOLVER = 1e-7  # seconds per parameter: statistics, factorisation, column sweep
SIMPLE = 2e-8
READ = 5e8  # bytes per second
SAMPLE = 1500  # bytes of a stored item
_BLOCK = re.compile(r"\.(\d+)\.")
_EXPERT = re.compile(r"\.experts\.\d+\.")


@dataclass(frozen=True)
class Estimate:
    """Needs of a job: seconds by part, peak bytes of memory, bytes of disk, peak bytes of `kick compress`
    with the recipe, block by block; 0 without one, or if that is not possible."""

    seconds: Mapping[str, float]
    memory: int
    disk: int
    compressing: int = 0

    @property
    def total(self) -> float:
        """All its seconds."""
        return sum(self.seconds.values())


def shape(folder: Path) -> Shape:
    """The shape of a model's folder, from the headers of its safetensors and config.json.

    Raises KickError if a header cannot be read.
    """
    sizes: dict[str, tuple[int, ...]] = {}
    stored = 0
    for file in sorted(folder.glob("*.safetensors")):
        found = _header(file)
        sizes |= {name: tuple(one["shape"]) for name, one in found.items()}
        stored += sum(end - start for start, end in (one["data_offsets"] for one in found.values()))
    blocks: dict[str, int] = {}
    experts: dict[str, int] = {}  # parameters of a block that are in experts, each with a number of its own
    widest, largest, edges, squares = 1, 0, 0, 0
    for name, size in sizes.items():
        number = _BLOCK.search(name)
        if number:
            blocks[number[1]] = blocks.get(number[1], 0) + math.prod(size)
            if _EXPERT.search(name):
                experts[number[1]] = experts.get(number[1], 0) + math.prod(size)
            widest = max([widest, *(size[-1:] if len(size) >= 2 else ())])
            largest = max(largest, math.prod(size))
            if len(size) >= 2:
                edges += sum(size[-2:]) * math.prod(size[:-2])
                squares += sum(one**2 for one in size[-2:]) * math.prod(size[:-2])
    whole = json.loads((folder / "config.json").read_text("utf-8"))
    config = whole.get("text_config", whole)
    hidden = int(config.get("hidden_size") or config.get("n_embd") or config.get("d_model") or widest)
    return Shape(
        sum(map(math.prod, sizes.values())),
        max(blocks.values(), default=0),
        widest,
        hidden,
        int(config.get("vocab_size") or 0),
        stored,
        largest,
        len(blocks) or 1,
        _cached(config, hidden),
        "quantization_config" in whole,
        edges,
        max(experts.values(), default=0),
        squares,
    )


def _cached(config: Mapping[str, Any], hidden: int) -> int:
    """Values of keys and values per token and block."""
    heads = int(config.get("num_attention_heads") or config.get("n_head") or 1)
    groups = int(config.get("num_key_value_heads") or heads)
    return 2 * groups * int(config.get("head_dim") or hidden // heads)


def _header(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(length) if length < file.stat().st_size else b""
    try:
        header = json.loads(text)
    except ValueError:
        raise KickError(
            f"{file} is not a valid safetensors file: its header cannot be read; download it again"
        ) from None
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def work_of(
    variant: Variant,
    items: Mapping[str, int],
    kinds: Mapping[str, str],
    needs: Sequence[Collection[str]],
    batch_tokens: int | None,
) -> JobWork:
    """Work of a variant's job. items, kinds: by task. needs: of each step of its recipe."""
    calibrated, spec = sum("calibration" in one for one in needs), variant.calibration
    return JobWork(
        items,
        kinds,
        calibrated=calibrated,
        simple=len(needs) - calibrated,
        sequences=spec.sequences if spec else 0,
        length=spec.length if spec else 0,
        batch_tokens=batch_tokens,
        solves=any("damping" in step.options for step in variant.recipe),  # of a Hessian
        offload=offload_folder() is not None,
        blockwise=blockwise(variant),
        gradients=tuple(filter(None, map(Backward.of, variant.recipe, needs))),
        training=tuple(Training.of(step) for step in variant.recipe if trains_on_text(step)),
    )


@dataclass(frozen=True)
class Layers:
    """Work of a job by the engine 'layered': the budget of its passes in bytes, and how many variants go
    through the blocks together."""

    budget: int
    variants: int = 1


def estimate(
    spec: ModelSpec, size: Shape, work: JobWork, rates: Rates, layers: Layers | None = None
) -> Estimate:
    """The cost of one job, in memory or block by block; the formula is this module's docstring, and for bytes
    that of `kick.matrix.memory`."""
    forward = 2 * size.parameters / rates.flops  # seconds per token
    tokens = work.sequences * work.length
    answer = sum(_answer(task, count, size, work, rates) for task, count in work.items.items())
    compress = work.calibrated * (2 * forward * tokens + SOLVER * size.parameters)
    compress += work.simple * SIMPLE * size.parameters
    compress += forward * sum(one.forwards(size) for one in work.training)
    weights = size.parameters * BYTES[spec.dtype]
    if layers is None:
        needed = memory.in_memory(size, spec.dtype, work)
    else:
        needed = memory.layered(size, spec.dtype, work, layers.budget, layers.variants)
    return Estimate(
        {"load": weights / READ, "compress": compress, "answer": answer},
        needed,
        sum(work.items.values()) * SAMPLE,
        memory.compressing(size, work) if work.blockwise else 0,
    )


def _answer(task: str, items: int, size: Shape, work: JobWork, rates: Rates) -> float:
    if (known := place_of(task, size.parameters)) in rates.items:
        return items * rates.items[known]
    return items * tokens_of(work.kinds.get(task, "")) * 2 * size.parameters / rates.flops


# ---------------------------------------------------------------------------------------- what fits


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's limit."""
    total = psutil.virtual_memory().total
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(text)) if text.isdigit() else total


def job_memory() -> int:
    """Bytes of memory that a job may use: the smallest GPU's if there is one, else the machine's."""
    import torch

    if not torch.cuda.is_available():
        return machine_memory()
    return min(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))


def free_memory() -> int:
    """Bytes of memory that a job may take now: the GPU's if there is one, else what is available."""
    import torch

    if torch.cuda.is_available():
        return job_memory()
    return min(machine_memory(), psutil.virtual_memory().available)


def free_disk(folder: Path) -> int:
    """Free bytes on the disk of `folder`, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def preflight(
    estimates: Mapping[str, Estimate],
    out: Path | None,
    memory: int | None = None,
    disk: int | None = None,
    note: str = "",
) -> list[str]:
    """Warnings for what may not fit; what cannot fit is refused.

    Args:
        estimates: by variant.
        out: the local folder of the results, None for an object store.
        memory: bytes per job; `job_memory()` by default.
        disk: free bytes at `out`; asked of the system by default.
        note: what is known about another way, for the refusal.

    Raises:
        KickError: a job needs more memory, or all results more disk, than there is.
    """
    memory = job_memory() if memory is None else memory
    largest = max(estimates, key=lambda name: estimates[name].memory)
    most = estimates[largest].memory
    if most > memory:
        raise KickError(
            f"variant {largest} needs about {gigabytes(most)} of memory, there is {gigabytes(memory)}; "
            "choose a smaller model, a smaller dtype, fewer calibration sequences or another machine"
            + (f" ({note})" if note else "")
        )
    needed = sum(one.disk for one in estimates.values())
    if out is not None:
        disk = free_disk(out) if disk is None else disk
        if needed > disk:
            raise KickError(
                f"the results need about {gigabytes(needed)} of disk, {out} has {gigabytes(disk)} free; "
                "give --out another folder, or a limit"
            )
    if most > 0.8 * memory:
        return [f"variant {largest} needs about {gigabytes(most)} of this machine's {gigabytes(memory)}"]
    return []
