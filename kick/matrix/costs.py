"""Cost of a job, from shapes alone: seconds, memory, disk. No weights are loaded and torch is not needed.

Seconds, with P parameters and F multiply-adds doubled a second (`Rates.flops`, stored for this machine):

    answer    items x (learned seconds per item if this machine has answered the task before;
              else tokens per item x 2 P / F)
    compress  for each step that calibrates 2 forwards of the calibration tokens, 2 x 2 P x tokens / F, and
              SOLVER seconds per parameter; for each step that does not, SIMPLE seconds per parameter
    load      P x bytes per parameter / READ

An estimate of the first run is good to a factor of three; later ones use what was learned.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from kick.errors import KickError
from kick.matrix.rates import Rates, place_of
from kick.records import ModelSpec
from kick.tasks.protocol import TOKENS as OTHER_TOKENS
from kick.tasks.protocol import protocols

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# of an item of lm-eval's kinds, before any was measured; a protocol says its own
TOKENS = {"multiple_choice": 100, "generate_until": 150}
ITEMS = 32  # of a task whose size is not known before it is tokenised
SOLVER = 1e-7  # seconds per parameter: statistics, factorisation, column sweep
SIMPLE = 2e-8
READ = 5e8  # bytes per second
LIBRARIES = 700 << 20  # bytes that Python, torch and transformers take by themselves
SAMPLE = 1500  # bytes of a stored item
BATCH = 4096  # tokens per batch if the engine chooses
_BLOCK = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class Shape:
    """A model's size, read off its files' headers. `block` is the parameters of its largest block, `widest`
    the longest input of a weight in a block."""

    parameters: int
    block: int
    widest: int
    hidden: int
    vocabulary: int


@dataclass(frozen=True)
class Estimate:
    """Needs of a job: seconds by part, peak bytes of memory, of which for calibration, bytes of disk."""

    seconds: Mapping[str, float]
    memory: int
    calibration: int
    disk: int

    @property
    def total(self) -> float:
        """All its seconds."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class JobWork:
    """Work of a job: items by task, and tokens of the calibration set with how many steps see them."""

    items: Mapping[str, int]
    kinds: Mapping[str, str]  # task -> how it asks, as `kick.tasks.describe` says
    calibrated: int = 0  # steps
    simple: int = 0
    sequences: int = 0
    length: int = 0
    batch_tokens: int | None = None
    gradients: bool = False  # a step needs one of every weight


def shape(folder: Path) -> Shape:
    """The shape of a model's folder, from the headers of its safetensors and config.json.

    Raises KickError if a header cannot be read.
    """
    sizes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        sizes |= _header(file)
    blocks: dict[str, int] = {}
    widest = 1
    for name, size in sizes.items():
        number = _BLOCK.search(name)
        if number:
            blocks[number[1]] = blocks.get(number[1], 0) + math.prod(size)
            widest = max([widest, *(size[-1:] if len(size) >= 2 else ())])
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config = config.get("text_config", config)
    hidden = int(config.get("hidden_size") or config.get("n_embd") or config.get("d_model") or widest)
    vocabulary = int(config.get("vocab_size") or 0)
    return Shape(
        sum(map(math.prod, sizes.values())), max(blocks.values(), default=0), widest, hidden, vocabulary
    )


def _header(file: Path) -> dict[str, tuple[int, ...]]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(length) if length < file.stat().st_size else b""
    try:
        header = json.loads(text)
    except ValueError:
        raise KickError(
            f"{file} is not a valid safetensors file: its header cannot be read; download it again"
        ) from None
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def estimate(spec: ModelSpec, size: Shape, work: JobWork, rates: Rates) -> Estimate:
    """The cost of one job; the formula is this module's docstring."""
    forward = 2 * size.parameters / rates.flops  # seconds per token
    tokens = work.sequences * work.length
    answer = sum(_answer(task, count, size, work, rates) for task, count in work.items.items())
    compress = work.calibrated * (2 * forward * tokens + SOLVER * size.parameters)
    compress += work.simple * SIMPLE * size.parameters
    weights = size.parameters * BYTES[spec.dtype]
    states = 2 * tokens * size.hidden * 4 if work.calibrated else 0  # a block's inputs and outputs
    solving = 3 * 4 * size.widest**2 + 2 * 4 * size.block if work.calibrated else 4 * size.block
    solving += 4 * size.parameters if work.gradients else 0
    answering = (work.batch_tokens or BATCH) * 4 * (size.vocabulary + 8 * size.hidden)
    return Estimate(
        {"load": weights / READ, "compress": compress, "answer": answer},
        LIBRARIES + weights + max(states + solving if work.calibrated or work.simple else 0, answering),
        states,
        sum(work.items.values()) * SAMPLE,
    )


def _answer(task: str, items: int, size: Shape, work: JobWork, rates: Rates) -> float:
    if (known := place_of(task, size.parameters)) in rates.items:
        return items * rates.items[known]
    return items * tokens_of(work.kinds.get(task, "")) * 2 * size.parameters / rates.flops


def tokens_of(kind: str) -> int:
    """Tokens read per item, of a protocol's task, or of one with an lm-eval output type."""
    facts = protocols.facts().get(kind)
    return facts.tokens if facts else TOKENS.get(kind, OTHER_TOKENS)


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


def free_disk(folder: Path) -> int:
    """Free bytes on the disk of `folder`, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def preflight(
    estimates: Mapping[str, Estimate], out: Path | None, memory: int | None = None, disk: int | None = None
) -> list[str]:
    """Warnings for what may not fit; what cannot fit is refused.

    Args:
        estimates: by variant.
        out: the local folder of the results, None for an object store.
        memory: bytes per job; `job_memory()` by default.
        disk: free bytes at `out`; asked of the system by default.

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


def gigabytes(size: int) -> str:
    """Bytes as people read them."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
