"""What a variant costs to run, measured: load, memory, prefill and decode rates, energy where NVML tells.

Each variant of stored results is loaded and compressed again, then asked prompts of random tokens through the
engine that is named. Prefill is the reading of prompts; a decode rate and joules per token are of the tokens
after the first of an answer, by the difference of two calls. Quantization by kick is simulated on dequantized
weights: no speed or memory of it is measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch

from kick import paths, plugins
from kick.analysis import cost, traits
from kick.engine.encode import max_length
from kick.errors import KickError
from kick.model.heap import give_back
from kick.model.source import locate, tokenizer_of
from kick.provenance import provenance
from kick.records import Request, Result, Variant
from kick.registry import unknown
from kick.store import Store, costs, one_matrix
from kick.sweep import planned
from kick.sweep.clock import peak, reset_peak
from kick.sweep.worker import Worker

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from kick.engine.backend import Backend

ENGINES = ("packed", "plain")
SEED = 17


@dataclass(frozen=True)
class CostOptions:
    """What is measured.

    prompt, new: tokens read and generated per request; batch: requests at a time; variants: names, all by
    default; repeats: of each call, of which the fastest counts.
    """

    engine: str = "packed"
    prompt: int = 512
    new: int = 64
    batch: int = 1
    repeats: int = 2
    variants: tuple[str, ...] = ()
    data_root: str | None = None
    plugins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise KickError(
                f"--engine: {unknown('engine', self.engine, ENGINES)}; of others costs are theirs"
            )
        for name, least in (("prompt", 2), ("new", 2), ("batch", 1), ("repeats", 1)):
            if getattr(self, name) < least:
                raise KickError(f"--{name}: got {getattr(self, name)}; expected at least {least}")


def measure(results: str, how: CostOptions, say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Measure the variants of a matrix's folder and keep what was found there; the new records.

    Raises KickError for a folder of several matrices, an unknown variant, or a model that is not here.
    """
    store, matrix = one_matrix(results)
    runs = list(store.runs())
    variants = _variants(runs, results, how.variants)
    for one in variants:
        if not _simulated(one):
            _check_window(one, how)
    loaded = plugins.load(how.plugins)
    work = Worker(
        root=results,
        matrix=matrix,
        dense=next((one for one in variants if one.dense), variants[0]),
        task_names=(),
        data_root=how.data_root,
        plugins=loaded,
        backend=how.engine,
    )
    found = []
    for variant in variants:
        record = _record(variant, work, how)
        found.append(record)
        _keep(store, store.folder(runs[0].key).rpartition("/")[0], record)
        say(f"{variant.name}: {_said(record)}")
    return found


def _variants(runs: Sequence[Result], results: str, named: Sequence[str]) -> list[Variant]:
    """The variants to measure, dense first; replicas, imported and served ones are left out, and
    run-time methods, which are simulated."""
    known = {run.cell.variant.name: run.cell.variant for run in runs if not run.cell.imported}
    known = {name: one for name, one in known.items() if not (one.replica or one.endpoint or one.runtime)}
    for name in named:
        if name not in known:
            raise KickError(f"--variant: {unknown('variant', name, known)}")
    chosen = [one for name, one in known.items() if not named or name in named]
    if not chosen:
        raise KickError(f"{results} has no variant that can be measured here")
    return sorted(chosen, key=lambda one: not one.dense)


def _simulated(variant: Variant) -> bool:
    return cost.simulated(variant.checkpoint, traits.traits(variant)["bits"])


def _check_window(variant: Variant, how: CostOptions) -> None:
    """Raises KickError for prompts and answers that do not fit the model's window; no weights are loaded."""
    from transformers import AutoConfig

    folder = locate(variant.model.name, variant.model.revision)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    window = max_length(config, tokenizer_of(variant.model))
    if how.prompt + how.new > window:
        raise KickError(
            f"--prompt: got {how.prompt}, and {how.new} are generated after it; expected at most {window} "
            f"together, the window of {variant.model.name}"
        )


def _record(variant: Variant, work: Worker, how: CostOptions) -> dict[str, Any]:
    told = provenance()
    record: dict[str, Any] = {
        "variant": variant.name,
        "identity": cost.identity(variant),
        "engine": how.engine,
        "device": _device(told["machine"]),
        "prompt": how.prompt,
        "new": how.new,
        "batch": how.batch,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": told["versions"],
        "simulated": _simulated(variant),
    }
    if record["simulated"]:
        return record
    planned.check_code(variant)
    seconds: dict[str, float] = {}
    give_back()
    with work._model(variant, seconds) as (network, tokenizer, _):
        reset_peak()
        engine = work._engine(variant, network, tokenizer, None)
        record |= _rates(engine, tokenizer, how)
        record["run_memory"] = peak()
    if not variant.recipe:
        record["load_seconds"] = seconds["load"]
    return record


def _rates(engine: Backend, tokenizer: PreTrainedTokenizerBase, how: CostOptions) -> dict[str, float | None]:
    """Tokens per second read and generated, and joules per generated token."""
    reads = [_timed(engine, _reading(tokenizer, how, turn)) for turn in range(how.repeats + 1)][1:]
    read = how.batch * how.prompt / min(seconds for seconds, _, _ in reads)
    runs = []
    for turn in range(how.repeats):
        prompts = _prompts(tokenizer, how, turn)
        short, read_joules, first = _timed(engine, _asking(prompts, 1))
        long, joules, tokens = _timed(engine, _asking(prompts, how.new))
        if tokens > first and long > short:
            energy = joules - read_joules if joules is not None and read_joules is not None else 0.0
            rate = (tokens - first) / (long - short)
            runs.append((rate, energy / (tokens - first) if energy > 0 else None))
    best = max(runs, key=lambda run: run[0], default=(math.nan, None))
    rates = {"prefill": read, "decode": best[0], "joules": best[1]}
    return {
        name: value if value is not None and math.isfinite(value) else None for name, value in rates.items()
    }


def _timed(engine: Backend, requests: Sequence[Request]) -> tuple[float, float | None, int]:
    """Seconds and joules of a call, and the tokens that it generated."""
    before, start = _energy(), time.perf_counter()
    answers = engine.answer(requests)
    seconds, after = time.perf_counter() - start, _energy()
    joules = after - before if before is not None and after is not None else None
    return seconds, joules, sum(answer.count or 0 for answer in answers if answer.text is not None)


def _reading(tokenizer: PreTrainedTokenizerBase, how: CostOptions, turn: int) -> list[Request]:
    return [Request("tokens", tokens=ids) for ids in _random(tokenizer, how, turn)]


def _prompts(tokenizer: PreTrainedTokenizerBase, how: CostOptions, turn: int) -> list[str]:
    return [tokenizer.decode(ids) for ids in _random(tokenizer, how, 100 + turn)]


def _asking(prompts: Sequence[str], tokens: int) -> list[Request]:
    return [Request("generate", prompt, max_tokens=tokens) for prompt in prompts]


def _random(tokenizer: PreTrainedTokenizerBase, how: CostOptions, turn: int) -> list[tuple[int, ...]]:
    """Random tokens of plain text, other ones at each turn: nothing is shared and nothing was read before."""
    import numpy as np

    special = set(tokenizer.all_special_ids)
    plain = [one for one in range(min(len(tokenizer), tokenizer.vocab_size)) if one not in special]
    draw = np.random.default_rng([SEED, turn])
    return [tuple(draw.choice(plain, how.prompt).tolist()) for _ in range(how.batch)]


def _device(machine: dict[str, Any]) -> str:
    if paths.device() == "cpu":
        return f"cpu ({machine['processor']}, {machine.get('threads', machine['cores'])} threads)"
    return str((machine.get("accelerators") or ["gpu"])[0])


def _energy() -> float | None:
    """Joules that this process's GPU has used since its driver started; None without one whose NVML tells."""
    if paths.device() == "cpu":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    uuid = torch.cuda.get_device_properties(0).uuid  # NVML's own numbers ignore CUDA_VISIBLE_DEVICES
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
    except pynvml.NVMLError:
        return None


def _keep(store: Store, folder: str, record: dict[str, Any]) -> None:
    """Put the record in the matrix's file, in place of one of the same variant, engine, device and shapes."""
    same = ("identity", "engine", "device", "prompt", "new", "batch")
    place = [record[name] for name in same]
    others = [one for one in costs.read(store.files, folder) if [one.get(name) for name in same] != place]
    costs.write(store.files, folder, [*others, record])


def _said(record: dict[str, Any]) -> str:
    if record["simulated"]:
        return "quantization is simulated: it has no speed"
    rates = [f"{name} {record[name]:,.1f} tokens/s" for name in ("prefill", "decode") if record[name]]
    return ", ".join([*rates, f"peak memory {record['run_memory'] / 1e6:,.0f} MB"])
