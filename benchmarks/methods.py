"""Methods and studies against plain loops of the same work, in CPU time on one thread.

    python benchmarks/methods.py [--only layers] [--out benchmarks/out/methods.json]

A benchmark is a function of the options that returns rows {work, against, ratio, target, seconds,
against_seconds}, entered by `@bench("name")`; ratio is theirs over ours, so that larger is better. Both sides
do the same work in one process, and their answers are compared before the times are written.

layers      `kick study layers`: each block of the demo model dropped alone, windows of perplexity, choices by
            likelihood and continuations for FDT. The plain loop takes the block out of the model and reads
            every text from the first block on, in padded batches of about as many tokens as ours, with logits
            at the scored positions alone.
bonsai      the losses of the demo model under Bonsai's masks, 5 % of each block's channels off. The plain
            loop multiplies inputs by the masks too, and runs one sequence at a time.
loraprune   which heads and channels go by LoRAPrune's criterion. The plain loop is autograd's: both
            factors of every matrix are trained parameters.
surgeon     a shot of LLM Surgeon on rows and columns. The plain loop keeps what hooks see of each sequence
            before it adds it up, inverts by torch.linalg.inv, and solves with inverses of what is left.

Peaks are of the process, of both sides, each from where the other left it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # LAPACK's idle threads use CPU time too

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.methods_loops import plain_loraprune, plain_surgeon
from kick import tasks
from kick.compress.calibrate.corpus import sequences
from kick.compress.context import calibration_of
from kick.compress.coupled import Coupled, structures
from kick.compress.methods.llm_surgeon import LlmSurgeon
from kick.compress.methods.loraprune import LoraPrune
from kick.compress.sparsity import Sparsity
from kick.compress.switches import On, batched, losses_with, switched
from kick.engine import Engine
from kick.engine.encode import Encoder, max_length
from kick.engine.network import pad_right
from kick.model import block_list, load, named_linears, resolve
from kick.model.owned import own
from kick.records import CalibrationSpec, Request, TaskSpec
from kick.study.dropping import DropEngine
from kick.sweep.clock import peak, reset_peak

Row = dict[str, Any]
BENCHES: dict[str, Callable[[argparse.Namespace], list[Row]]] = {}


def bench(name: str) -> Callable[[Callable[[argparse.Namespace], list[Row]]], Any]:
    """Enter a benchmark by its name."""

    def enter(made: Callable[[argparse.Namespace], list[Row]]) -> Any:
        BENCHES[name] = made
        return made

    return enter


@dataclass(frozen=True)
class Side:
    """What one side took: CPU seconds, and the process's peak memory in bytes."""

    seconds: float
    peak: int


def timed(work: Callable[[], Any]) -> tuple[Any, Side]:
    """What the work gives, and what it took."""
    reset_peak()
    start = time.process_time()
    made = work()
    return made, Side(time.process_time() - start, peak())


def sides(work: str, target: float, ours: Side, theirs: Side) -> Row:
    """A row of CPU seconds and peaks of both sides."""
    ratio = round(theirs.seconds / ours.seconds, 3)
    made: Row = {"work": work, "against": "plain loop", "ratio": ratio, "target": target}
    made |= {"seconds": round(ours.seconds, 3), "against_seconds": round(theirs.seconds, 3)}
    return made | {"peak_gb": round(ours.peak / 1e9, 2), "against_peak_gb": round(theirs.peak / 1e9, 2)}


# ------------------------------------------------------------------------------ kick study layers


@dataclass(frozen=True)
class Text:
    """A row of token ids, whose last `len(targets)` positions but one are scored against `targets`."""

    ids: tuple[int, ...]
    targets: tuple[int, ...]


@torch.inference_mode()
def plain_pass(model: Any, texts: Sequence[Text], batch_tokens: int) -> list[tuple[float, int]]:
    """Log-probability of each text's targets, and how many come before the first that is not the argmax."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i].ids))
    found: dict[int, tuple[float, int]] = {}
    while order:
        part = order[: max(1, batch_tokens // len(texts[order[0]].ids))]
        order = order[len(part) :]
        hidden = model.model(
            input_ids=pad_right([texts[i].ids for i in part], model.device), use_cache=False
        ).last_hidden_state
        for place, i in enumerate(part):
            end, targets = len(texts[i].ids), torch.tensor(texts[i].targets)
            logits = model.lm_head(hidden[place, end - len(targets) : end])
            found[i] = scored(logits, targets)
    return [found[i] for i in range(len(texts))]


def scored(logits: Tensor, targets: Tensor) -> tuple[float, int]:
    """Of logits (n, V) and targets (n,): the sum of log-probabilities, and the first n that differs."""
    wrong = (logits.argmax(-1) != targets).nonzero()
    first = int(wrong[0]) if len(wrong) else len(targets)
    return float(logits.log_softmax(-1).gather(1, targets[:, None]).double().sum()), first


def plain_layers(model: Any, texts: Sequence[Text], batch_tokens: int) -> list[list[tuple[float, int]]]:
    """The whole of it, block by block."""
    modules = block_list(model)[1]
    every, found = list(modules), []
    for gone in range(len(every)):
        del modules[:]
        modules.extend(every[:gone] + every[gone + 1 :])
        model.config.num_hidden_layers = len(modules)
        found.append(plain_pass(model, texts, batch_tokens))
    del modules[:]
    modules.extend(every)
    model.config.num_hidden_layers = len(every)
    return found


def asked(options: argparse.Namespace, model: Any, tokenizer: Any) -> tuple[list[Request], list[Text]]:
    """What is asked, as requests and as rows of tokens."""
    loaded = tasks.load(["kick_mini_perplexity", "kick_mini_mcq", "kick_mini_fidelity"])
    items = {
        name: loaded[name].items(TaskSpec(name, limit=limit), tokenizer)
        for name, limit in zip(loaded, (options.windows, options.choices, options.prompts), strict=True)
    }
    windows, choices, prefixes = ([one for item in part for one in item.requests] for part in items.values())
    continued = Engine(model, tokenizer).answer(prefixes)
    read = [
        Request("fidelity", one.context, tokens=answer.tokens or ())
        for one, answer in zip(prefixes, continued, strict=True)
    ]
    encoder = Encoder(tokenizer, max_length(model.config, tokenizer))
    texts = [Text(one.tokens[:-1], one.tokens[1:]) for one in windows]
    texts += [Text(part.ids, tuple(part.targets)) for found, _ in encoder.pairs(choices) for part in found]
    for one, prompt in zip(read, encoder.prompts(read), strict=True):
        texts.append(Text(prompt.ids + one.tokens[:-1], one.tokens))
    return [*windows, *choices, *read], texts


@bench("layers")
def layers(options: argparse.Namespace) -> list[Row]:
    """Every block of the demo model dropped alone."""
    model, tokenizer = load(resolve("smollm2-135m"))
    own(model)
    requests, texts = asked(options, model, tokenizer)
    (engine, found), ours = timed(lambda: dropped(model, tokenizer, requests))
    plain, theirs = timed(lambda: plain_layers(model, texts, engine.reader.batch_tokens))
    for mine, other in zip(found, plain, strict=True):
        for response, (logprob, first) in zip(mine, other, strict=True):
            same = response.values["fdt"] == first if response.values else close(response.logprob, logprob)
            if not same:
                raise SystemExit(f"not the same work: {response} against {logprob}, {first}")
    return [sides("kick study layers", 1.6, ours, theirs)]


def dropped(model: Any, tokenizer: Any, requests: Sequence[Request]) -> tuple[DropEngine, list[Any]]:
    """The engine, and what it answers without each block."""
    engine = DropEngine(model, tokenizer)
    found = []
    for block in range(len(block_list(model)[1])):
        engine.drop(block)
        found.append(engine.answer(requests))
    return engine, found


def close(mine: float | None, other: float) -> bool:
    """Whether two log-probabilities are the same but for rounding."""
    return mine is not None and abs(mine - other) <= 1e-2 + 1e-4 * abs(other)


# ------------------------------------------------------------------------------ all of them


# ------------------------------------------------------------------------------------------ Bonsai


@bench("bonsai")
def bonsai(_options: argparse.Namespace) -> list[Row]:
    """Four masks on eight sequences of 256 tokens, three times; the fastest of each side."""
    model, tokenizer = load(resolve("smollm2-135m"))
    own(model)
    spec = CalibrationSpec(corpus="kick_mini_calibration", sequences=8, length=256)
    texts = sequences(spec, tokenizer, None)
    found = structures(model)
    generator = torch.Generator().manual_seed(0)
    masks = [[(torch.ones(one.kv_heads), drawn(one.channels, generator)) for one in found] for _ in range(4)]
    ours, theirs = list[Side](), list[Side]()
    for _ in range(3):
        mine, side = timed(lambda: losses_with(model, found, batched(texts, model.device), masks))
        ours.append(side)
        other, side = timed(lambda: [plain_loss(model, found, texts, mask) for mask in masks])
        theirs.append(side)
        if any(abs(a - b) > 1e-4 for a, b in zip(mine, other, strict=True)):
            raise RuntimeError(f"losses differ: {mine} and {other}")
    best = [min(side, key=lambda one: one.seconds) for side in (ours, theirs)]
    return [sides("Bonsai's masks: 4 on 8 x 256 tokens", 1.2, *best)]


def drawn(count: int, generator: torch.Generator) -> Tensor:
    """A mask (count,) with about 5 % off."""
    return (torch.rand(count, generator=generator) > 0.05).float()


@torch.no_grad()
def plain_loss(model: Any, found: Sequence[Coupled], texts: Sequence[Tensor], mask: On) -> float:
    """The mean loss of the sequences, one by one, with inputs multiplied by the mask."""
    with switched(found, mask):
        losses = [float(model(ids, labels=ids, use_cache=False).loss) for ids in texts]
    return sum(losses) / len(losses)


# --------------------------------------------------------------------------- LoRAPrune, LLM Surgeon


def demo_model(count: int, length: int) -> tuple[Any, list[Tensor]]:
    """The demo model, and sequences of the calibration text."""
    model, tokenizer = load(resolve("smollm2-135m"))
    own(model)
    spec = CalibrationSpec(corpus="kick_mini_calibration", sequences=count, length=length)
    return model, sequences(spec, tokenizer, None)


@bench("loraprune")
def lora_prune(_options: argparse.Namespace) -> list[Row]:
    """A third of each block's heads and a fifth of its channels on eight sequences, twice."""
    model, texts = demo_model(8, 256)
    found, way = structures(model), LoraPrune(share=0.2)
    gone = 1, found[0].channels // 5
    ours, theirs = [], []
    for _ in range(2):
        torch.manual_seed(0)
        on = [(torch.ones(one.kv_heads), torch.ones(one.channels)) for one in found]
        mine, side = timed(lambda on=on: way._ranked(model, calibration_of(texts), on, gone))
        ours.append(side)
        torch.manual_seed(0)
        other, side = timed(lambda: plain_loraprune(model, found, texts, gone))
        theirs.append(side)
        pairs = zip(
            [part for one in mine for part in one], [part for one in other for part in one], strict=True
        )
        if not all(torch.equal(a, b) for a, b in pairs):
            raise RuntimeError("the masks differ")
    best = [min(one, key=lambda side: side.seconds) for one in (ours, theirs)]
    return [sides("LoRAPrune's criterion: 8 x 256 tokens", 0.9, *best)]


@bench("surgeon")
def surgeon(_options: argparse.Namespace) -> list[Row]:
    """A tenth of all weights in one shot on four sequences of 128 tokens."""
    model, texts = demo_model(4, 128)
    other = deepcopy(model)
    way = LlmSurgeon(sparsity=Sparsity(0.1), structure="row-column", shots=1)
    _, ours = timed(lambda: way(model, calibration_of(texts)))
    _, theirs = timed(lambda: plain_surgeon(other, texts, 0.1))
    for (name, _, mine), (_, _, plain) in zip(named_linears(model), named_linears(other), strict=True):
        off = float((mine.weight - plain.weight).abs().max())
        if off > 1e-3 or not torch.equal(mine.weight == 0, plain.weight == 0):
            raise RuntimeError(f"{name} differs by up to {off}")
    return [sides("LLM Surgeon: a shot of rows and columns, 4 x 128 tokens", 0.9, ours, theirs)]


def main() -> None:
    """Time what is asked for, print a table, write the JSON; rows that are not measured now stay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=[*BENCHES], action="append")
    parser.add_argument("--windows", type=int, default=2, help="layers: windows of 512 tokens")
    parser.add_argument("--choices", type=int, default=12, help="layers: multiple-choice items")
    parser.add_argument("--prompts", type=int, default=12, help="layers: prompts of FDT")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/methods.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [one for name in options.only or BENCHES for one in BENCHES[name](options)]
    table = Table(title="CPU seconds, one thread")
    for title in ("work", "ours", "against", "", "ratio", "target", "peak, GB", "theirs"):
        table.add_column(title, justify="left" if title in ("work", "against") else "right")
    for one in rows:
        seconds = f"{one['seconds']:.1f}", f"{one['against_seconds']:.1f}"
        ratios = f"{one['ratio']:.2f}", f"{one['target']:.1f}"
        peaks = f"{one['peak_gb']:.2f}", f"{one['against_peak_gb']:.2f}"
        table.add_row(one["work"], seconds[0], one["against"], seconds[1], *ratios, *peaks)
    Console().print(table)
    before = json.loads(options.out.read_text("utf-8")) if options.out.exists() else []
    new = {(one["work"], one["against"]) for one in rows}
    kept = [one for one in before if (one["work"], one["against"]) not in new]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps([*kept, *rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
