"""The bitmap format on the demo model: rates, sizes and the time to load, in CPU time on one thread.

    python benchmarks/bitmap.py [--rounds 2] [--out benchmarks/out/bitmap.json]

The block's matrices of SmolLM2-135M are pruned by magnitude and saved in bfloat16. Megabytes are of the dense
file. Compared are the dense file, CSR (a value and a 16-bit column per weight that is kept, 32 bits per row),
2:4 (a value and 2 bits per weight that is kept) and the bitmap format (a bit per weight, and the values).
Loading is safetensors' `load_file` of the dense file against `kick.model.bitmap.read`; both files are in the
page cache, so that the disk's own speed is not in the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1"}

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import nn

from kick.compress import bitmaps, canonical, compress
from kick.compress.context import Calibration
from kick.model import bitmap, load, named_linears, resolve

LEVELS = (0.5, 0.7, "2:4")
HEADS = ("sparsity", "dense", "CSR", "2:4", "bitmap", "pack", "unpack to files", "load dense", "load bitmap")


def fastest(work: Callable[[], object], rounds: int) -> float:
    """CPU seconds of the fastest round."""
    found = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def sizes(model: nn.Module) -> dict[str, int]:
    """Bytes of the pruned matrices in each format, with two bytes per value."""
    found = {"dense": 0, "csr": 0, "2:4": 0, "bitmap": 0}
    for _, _, linear in named_linears(model):
        weight = linear.weight
        kept, count = int(weight.count_nonzero()), weight.numel()
        found["dense"] += 2 * count
        found["csr"] += 4 * kept + 4 * (weight.shape[0] + 1)
        found["2:4"] += 2 * (count // 2) + count // 2 // 4
        found["bitmap"] += 2 * kept + count // 8
    return found


def measured(level: float | str, rounds: int) -> dict[str, float | str]:
    """A row: sizes in megabytes, rates in megabytes of the dense file per CPU second, seconds to load."""
    model = load(resolve("smollm2-135m"))[0]
    compress(model, [canonical("magnitude", {"sparsity": level})], Calibration(()))
    model = model.to(torch.bfloat16)
    of = sizes(model)
    with tempfile.TemporaryDirectory() as scratch:
        dense, packed = Path(scratch) / "dense", Path(scratch) / "packed"
        model.save_pretrained(dense)
        (file,) = dense.glob("*.safetensors")
        size = file.stat().st_size / 1e6
        start = time.process_time()
        bitmaps.encode(dense, packed)
        pack = time.process_time() - start
        start = time.process_time()
        bitmaps.decode(packed, Path(scratch) / "again")
        unpack = time.process_time() - start
        (made,) = packed.glob("*.safetensors")
        loads = [fastest(lambda: load_file(file), rounds), fastest(lambda: bitmap.read(made), rounds)]
    return {
        "sparsity": str(level),
        **{name: count / 1e6 for name, count in of.items()},
        "pack_mb_s": size / pack,
        "unpack_mb_s": size / unpack,
        "load_dense_s": loads[0],
        "load_bitmap_s": loads[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/bitmap.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measured(level, options.rounds) for level in LEVELS]
    table = Table(*HEADS, title="the block's matrices in MB; MB per CPU second; CPU seconds to load the file")
    for row in rows:
        numbers = [value for value in row.values() if isinstance(value, float)]
        table.add_row(str(row["sparsity"]), *(f"{number:,.2f}" for number in numbers))
    Console(width=140).print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
