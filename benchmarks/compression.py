"""Our compression against a plain loop written from the papers, on the demo model, in CPU time on one thread.

    python benchmarks/compression.py [--rounds 2] [--blocks 30] [--out benchmarks/out/compression.json]

The plain loop holds one statistic for each module, runs each block over one sample at a time with hooks on
all of its linears and then once more, sorts rows in full for Wanda and takes the inverse Hessian in three
steps (Cholesky, inverse, Cholesky). Both sides see the same 8 x 512 tokens and take turns in one process;
of the rounds the fastest counts. "solver" is the time spent in the solvers alone, on one block's Hessians.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # LAPACK's idle threads use CPU time too

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from kick.compress import canonical, compress
from kick.compress.calibrate.corpus import sequences
from kick.compress.calibrate.statistics import Hessian
from kick.compress.calibrate.walk import shared, walk
from kick.compress.context import Calibration
from kick.compress.grid import Grid
from kick.compress.methods.gptq import ColumnOrder, gptq
from kick.compress.methods.sparsegpt import sparsegpt
from kick.compress.solver import factor, silence
from kick.compress.sparsity import Sparsity
from kick.model import bitmap, load, resolve
from kick.records import CalibrationSpec

TARGETS = {"wanda": 1.4, "sparsegpt": 2.0, "gptq": 1.9, "sparsegpt solver": 3.0, "gptq solver": 3.0}
STEPS = {
    "wanda": canonical("wanda", {"sparsity": 0.5}),
    "sparsegpt": canonical("sparsegpt", {"sparsity": 0.5}),
    "gptq": canonical("gptq", {"bits": 4}),
}


# --------------------------------------------------------------------------------- the plain loop


class PlainNorm:
    """Wanda's running mean of squared norms, for one module."""

    def __init__(self, inputs: int):
        self.value, self.count = torch.zeros(inputs), 0

    def add(self, x: Tensor) -> None:
        self.value *= self.count / (self.count + 1)
        self.count += 1
        self.value += torch.norm(x, p=2, dim=0) ** 2 / self.count


class PlainHessian:
    """The running mean of 2 X^T X, for one module."""

    def __init__(self, inputs: int):
        self.value, self.count = torch.zeros(inputs, inputs), 0

    def add(self, x: Tensor) -> None:
        self.value *= self.count / (self.count + 1)
        self.count += 1
        x = math.sqrt(2 / self.count) * x.t()
        self.value += x.matmul(x.t())


def plain_wanda(weight: Tensor, norm: PlainNorm) -> Tensor:
    """Half of each row goes, by a full sort."""
    saliency = weight.abs() * norm.value.sqrt()
    order = torch.sort(saliency, dim=-1, stable=True)[1]
    pruned = torch.zeros_like(saliency, dtype=torch.bool)
    pruned.scatter_(1, order[:, : weight.shape[1] // 2], True)
    weight = weight.clone()
    weight[pruned] = 0
    return weight


def three_steps(hessian: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of a damped Hessian."""
    index = torch.arange(len(hessian))
    hessian = hessian.clone()
    hessian[index, index] += 0.01 * torch.mean(torch.diag(hessian))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse, upper=True)


def plain_columns(weight: Tensor, upper: Tensor, rule: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
    """Blocks of 128 columns, a column at a time, errors spread over the block and then over the rest."""
    weight = weight.clone()
    for start in range(0, weight.shape[1], 128):
        end = min(start + 128, weight.shape[1])
        block = weight[:, start:end].clone()
        errors = torch.zeros_like(block)
        done = torch.zeros_like(block)
        own = upper[start:end, start:end]
        for i in range(end - start):
            column = block[:, i]
            new = rule(block, own, i)
            done[:, i] = new
            error = (column - new) / own[i, i]
            block[:, i:] -= error.unsqueeze(1).matmul(own[i, i:].unsqueeze(0))
            errors[:, i] = error
        weight[:, start:end] = done
        weight[:, end:] -= errors.matmul(upper[start:end, end:])
    return weight


def plain_sparsegpt(weight: Tensor, hessian: PlainHessian) -> Tensor:
    """Half of each 128 columns goes."""
    mask = None

    def rule(block: Tensor, own: Tensor, i: int) -> Tensor:
        nonlocal mask
        if i == 0:
            scores = block**2 / torch.diag(own).reshape(1, -1) ** 2
            mask = scores <= torch.sort(scores.flatten())[0][scores.numel() // 2]
        new = block[:, i].clone()
        new[mask[:, i]] = 0
        return new

    return plain_columns(weight, three_steps(hessian.value), rule)


def plain_gptq(weight: Tensor, hessian: PlainHessian) -> Tensor:
    """Four bits a weight, one grid a row."""
    low, high = weight.amin(1).clamp(max=0), weight.amax(1).clamp(min=0)
    scale = (high - low) / 15
    zero = torch.round(-low / scale)

    def rule(block: Tensor, own: Tensor, i: int) -> Tensor:
        codes = torch.clamp(torch.round(block[:, i] / scale) + zero, 0, 15)
        return scale * (codes - zero)

    return plain_columns(weight, three_steps(hessian.value), rule)


PLAIN = {
    "wanda": (PlainNorm, plain_wanda),
    "sparsegpt": (PlainHessian, plain_sparsegpt),
    "gptq": (PlainHessian, plain_gptq),
}


@torch.no_grad()
def plain(model: nn.Module, data: list[Tensor], method: str) -> None:
    """The whole model, block by block."""
    kind, solve = PLAIN[method]
    states, calls = embedded(model, data)
    for layer in model.model.layers:
        modules = {name: part for name, part in layer.named_modules() if isinstance(part, nn.Linear)}
        statistics = {name: kind(part.in_features) for name, part in modules.items()}
        handles = [part.register_forward_hook(observer(statistics[name])) for name, part in modules.items()]
        for hidden, call in zip(states, calls, strict=True):
            layer(hidden, **call)
        for handle in handles:
            handle.remove()
        for name, part in modules.items():
            part.weight.data = solve(part.weight.data, statistics[name])
        states = [layer(hidden, **call) for hidden, call in zip(states, calls, strict=True)]


def observer(statistic: PlainNorm | PlainHessian):
    """A hook that gives a module's input to its statistic."""

    def hook(_module, args, _output) -> None:
        statistic.add(args[0].reshape(-1, args[0].shape[-1]))

    return hook


class _Caught(Exception):
    pass


def embedded(model: nn.Module, data: list[Tensor]) -> tuple[list[Tensor], list[dict]]:
    """What the first block is called with."""
    states, calls = [], []

    def catch(_module, args, kwargs):
        states.append(args[0])
        calls.append(kwargs)
        raise _Caught

    handle = model.model.layers[0].register_forward_pre_hook(catch, with_kwargs=True)
    for ids in data:
        try:
            model(ids, use_cache=False)
        except _Caught:
            continue
    handle.remove()
    return states, calls


# --------------------------------------------------------------------------------- timing


def cpu(work: Callable[[], object]) -> float:
    """The process's CPU seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


def whole(spec, data: list[Tensor], blocks: int, rounds: int) -> list[dict]:
    """Each method over the model, ours and the plain loop in turn."""
    rows = []
    for method in STEPS:
        best = {"ours": math.inf, "plain loop": math.inf}
        for _ in range(rounds):
            for side in best:
                model = first(load(spec)[0], blocks)
                if side == "ours":
                    spent = cpu(lambda model=model, method=method: compress(model, [STEPS[method]], data))
                else:
                    spent = cpu(lambda model=model, method=method: plain(model, data, method))
                best[side] = min(best[side], spent)
        rows.append(row(method, "plain loop", best))
    return rows


def first(model: nn.Module, blocks: int) -> nn.Module:
    """The model with its first blocks only."""
    del model.model.layers[blocks:]
    model.config.num_hidden_layers = len(model.model.layers)
    return model


def solvers(spec, data: list[Tensor], rounds: int) -> list[dict]:
    """SparseGPT's and GPTQ's solvers alone, on the Hessians of the first block."""
    model = load(spec)[0]
    block = next(iter(walk(model, data)))
    groups = [(seen.matrix, [x.weight.clone() for x in group]) for seen, group in
              shared(block.measure(Hessian), block.linears)]  # fmt: skip
    rows = []
    for method in ("sparsegpt", "gptq"):
        best = {"ours": math.inf, "plain loop": math.inf}
        for _ in range(rounds + 1):
            for side in best:
                work = ours_alone if side == "ours" else plain_alone
                best[side] = min(best[side], cpu(lambda work=work, method=method: work(method, groups)))
        rows.append(row(f"{method} solver", "plain loop", best))
    return rows


def ours_alone(method: str, groups: list[tuple[Tensor, list[Tensor]]]) -> None:
    """One block's matrices, those with one input together."""
    for matrix, weights in groups:
        hessian = matrix.clone()
        dead = silence(hessian)
        if method == "sparsegpt":
            sparsegpt(weights, factor(hessian, 0.01, "benchmark", Calibration()), Sparsity.parse(0.5))
        else:
            found = factor(hessian, 0.01, "benchmark", Calibration(), inverse=False)
            gptq(weights, found, ColumnOrder(Grid(4), dead=dead))


def plain_alone(method: str, groups: list[tuple[Tensor, list[Tensor]]]) -> None:
    """One block's matrices, one by one."""
    for matrix, weights in groups:
        for weight in weights:
            hessian = PlainHessian(weight.shape[1])
            hessian.value = matrix
            PLAIN[method][1](weight, hessian)


def levels(spec, data: list[Tensor], blocks: int, folder: Path) -> dict:
    """Three Wanda levels from one dense pass, against three sequential runs."""
    steps = [canonical("wanda", {"sparsity": share}) for share in (0.3, 0.5, 0.7)]
    models = [first(load(spec)[0], blocks) for _ in range(6)]

    def kept() -> None:
        for model, step in zip(models[:3], steps, strict=True):
            compress(model, [step], data, propagate="dense", memory=folder)

    def alone() -> None:
        for model, step in zip(models[3:], steps, strict=True):
            compress(model, [step], data)

    return row(
        "wanda, 3 levels, propagate dense", "3 sequential runs", {"ours": cpu(kept), "other": cpu(alone)}
    )


def row(work: str, against: str, best: dict[str, float]) -> dict:
    """A line of the result: CPU seconds of both sides and their ratio."""
    ours, other = best["ours"], next(value for side, value in best.items() if side != "ours")
    return {
        "work": work,
        "against": against,
        "ratio": round(other / ours, 3),
        "target": TARGETS.get(work),
        "seconds": round(ours, 3),
        "against_seconds": round(other, 3),
    }


def packing(spec, folder: Path) -> bitmap.Rate:
    """The bitmap format on the matrices of the first ten blocks, half of their weights pruned."""
    model = first(load(spec)[0], 10)
    compress(model, [canonical("magnitude", {"sparsity": 0.5})], [])
    weights = {name: p.data for name, p in model.model.layers.named_parameters() if p.ndim == 2}
    return bitmap.measure(weights, folder / "bitmap.safetensors")


def main() -> None:
    """Time everything, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=30, help="blocks of the model that are used")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/compression.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    spec = resolve("smollm2-135m")
    data = sequences(CalibrationSpec("kick_mini_calibration", 8, 512), load(spec)[1])
    with tempfile.TemporaryDirectory() as scratch:
        rows = solvers(spec, data, options.rounds) + whole(spec, data, options.blocks, options.rounds)
        rows.append(levels(spec, data, options.blocks, Path(scratch)))
        rate = packing(spec, Path(scratch))
    table = Table(title=f"CPU seconds, one thread, {options.blocks} blocks, 8 x 512 tokens")
    for title in ("work", "ours", "against", "", "ratio", "target"):
        table.add_column(title, justify="left" if title in ("work", "against") else "right")
    for item in rows:
        target = "" if item["target"] is None else f"{item['target']:.1f}"
        seconds = f"{item['against_seconds']:.2f}"
        cells = (
            item["work"],
            f"{item['seconds']:.2f}",
            item["against"],
            seconds,
            f"{item['ratio']:.2f}",
            target,
        )
        table.add_row(*cells)
    Console().print(table)
    share = rate.packed_bytes / rate.dense_bytes
    Console().print(
        f"bitmap format at 50 %: {share:.3f} of the dense bytes, written at {rate.write_mb_s:.0f} MB/s, "
        f"read at {rate.read_mb_s:.0f} MB/s, bit-identical"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
