"""The engine against the usual ways to ask a model, on the demo model, in CPU time on one thread.

    python benchmarks/engine.py [--only mmlu,qa,drafts,fidelity,memory,floor,matrix]

Real MMLU and NQ-open items from ../shared/data. Both sides run in one process and take turns, ours before
and after the other; a ratio is the other's CPU seconds over the mean of ours. Equality is asserted: choices
and texts the same, log-probabilities within 1e-4. Prints a table and writes
benchmarks/out/engine.json, where lines of earlier runs stay.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import multiprocessing
import os
import resource
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import engine_items as items
import psutil
import torch
from contest import Line, contest, show, timed
from engine_matrix import matrix
from engine_ways import hflm_scores, hflm_texts, one_by_one, together, whole_forwards

from kick.compress import canonical, compress
from kick.engine import Engine, Reference
from kick.engine.packed.draft import Acceptance
from kick.model import load, resolve
from kick.records import Request

OUT = Path(__file__).parent / "out/engine.json"
STOPS = ("\n", "Q:", ".")
VARIANTS = {
    "8-bit": canonical("rtn", {"bits": 8}),
    "4-bit": canonical("rtn", {"bits": 4}),
    "magnitude 20 %": canonical("magnitude", {"sparsity": 0.2}),
    "magnitude 50 %": canonical("magnitude", {"sparsity": 0.5}),
}


# --------------------------------------------------------------------------------- contests


def scores_equal(found, wanted) -> str:
    """Log-probabilities within 1e-4, the best of each four the same."""
    worst = max(abs(r.logprob - w[0]) for r, w in zip(found, wanted, strict=True))
    assert worst < 1e-4, worst
    for start in range(0, len(found), 4):
        mine, theirs = (
            [r.logprob for r in found[start : start + 4]],
            [w[0] for w in wanted[start : start + 4]],
        )
        assert mine.index(max(mine)) == theirs.index(max(theirs)), start
    return f"largest difference {worst:.0e}"


def texts_equal(found: list, wanted: list) -> str:
    """Every answer the same; how many there were."""
    different = sum(a != b for a, b in zip(found, wanted, strict=True))
    assert different == 0, f"{different} of {len(found)} answers differ"
    return f"{len(found)} of {len(found)} answers equal"


def mmlu(model, tokenizer) -> list[Line]:
    """MMLU 5-shot, 3 subjects x 24."""
    requests = items.choices([p for part in items.mmlu(24).values() for p in part])
    engine = Engine(model, tokenizer)
    lines = []
    for against, target, theirs in (
        ("lm-eval HFLM, batch 8", 6.0, hflm_scores),
        ("one full forward a question", 5.0, whole_forwards),
    ):
        names = ("MMLU 5-shot, 3 subjects x 24", against)
        other = lambda theirs=theirs: theirs(model, tokenizer, requests)  # noqa: E731
        lines.append(contest(names, target, lambda: engine.answer(requests), other, scores_equal))
    return lines


def qa(model, tokenizer) -> list[Line]:
    """NQ-open, 24 prompts x 32 tokens."""
    engine = Engine(model, tokenizer)
    free = [Request("generate", context=p, max_tokens=32) for p in items.questions(24)]
    stopped = [Request("generate", context=r.context, max_tokens=32, until=STOPS) for r in free]
    return [
        contest(
            ("short QA, 24 prompts x 32 tokens", "batch-1 generate"),
            4.0,
            lambda: engine.answer(free),
            lambda: one_by_one(model, tokenizer, free),
            lambda a, b: texts_equal([r.tokens for r in a], b),
        ),
        contest(
            ("short QA with stop strings", "lm-eval HFLM generate, batch 8"),
            1.5,
            lambda: engine.answer(stopped),
            lambda: hflm_texts(model, tokenizer, stopped),
            lambda a, b: texts_equal([r.text for r in a], b),
        ),
    ]


def compressed(model, name: str):
    """A copy of the model, compressed."""
    variant = copy.deepcopy(model)
    compress(variant, [VARIANTS[name]], [])
    return variant


def drafts(model, tokenizer) -> list[Line]:
    """Answers drafted by the dense model, against the same engine without drafts.

    Once after short prompts, whose answers mostly end after a few tokens, and once in the model's own chat
    form, where most fill the 32. The dense model with its own drafts, all accepted, shows what drafting
    could give at most.
    """
    short = [Request("generate", context=p, max_tokens=32) for p in items.questions(24)]
    long = [Request("generate", context=p, max_tokens=32) for p in items.conversations(tokenizer, 24)]
    return [
        line
        for requests, where in ((short, ""), (long, ", chat"))
        for line in _drafted(model, tokenizer, requests, where)
    ]


def _drafted(model, tokenizer, requests: list[Request], where: str) -> list[Line]:
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        with Reference(folder, write=True) as written:
            Engine(model, tokenizer, reference=written).answer(requests)
        for name in ("dense", *VARIANTS):
            variant = model if name == "dense" else compressed(model, name)
            drafted, plain = Engine(variant, tokenizer), Engine(variant, tokenizer)
            drafted.reference = Reference(folder)
            known = Acceptance(refused=1.0, checked=1e9) if name == "dense" else Acceptance()

            def ours(engine=drafted, known=known):
                engine.reader.acceptance = replace(known)  # what is learnt of a variant is of one run
                return engine.answer(requests)

            target = 1.0 if name == "dense" else 0.95
            line = contest(
                (f"{name} variant{where}, drafts on", "our own batched decode"),
                target,
                ours,
                lambda engine=plain: engine.answer(requests),
                lambda a, b: texts_equal([r.tokens for r in a], [r.tokens for r in b]),
            )
            notes = drafted.notes()
            lines.append(_noted(line, f"{notes['accepted']} of {notes['drafted']} drafted tokens accepted"))
    return lines


def fidelity_and_answers(model, tokenizer) -> list[Line]:
    """Fidelity and the answers to the same prompts: rows that never differ are finished by the pass."""
    prompts = [Request("generate", context=p, max_tokens=32) for p in items.questions(24)]
    with tempfile.TemporaryDirectory() as folder, Reference(folder, write=True) as written:
        dense = Engine(model, tokenizer, reference=written).answer(prompts)
    asked = [
        Request("fidelity", context=r.context, tokens=a.tokens) for r, a in zip(prompts, dense, strict=True)
    ]
    lines = []
    for name in ("8-bit", "4-bit"):
        engine = Engine(compressed(model, name), tokenizer)

        def ours(engine=engine):
            engine.known = {}
            return engine.answer(asked + prompts)[len(asked) :]

        def apart(engine=engine):
            engine.answer(asked)
            engine.known = {}
            return engine.answer(prompts)

        names = (f"{name} variant, fidelity and answers", "our own pass, then our own batched decode")
        lines.append(
            contest(
                names,
                1.0,
                ours,
                apart,
                lambda a, b: texts_equal([r.tokens for r in a], [r.tokens for r in b]),
            )
        )
    return lines


def fidelity(model, tokenizer) -> list[Line]:
    """FDT and SDT of the 8-bit variant over 24 prefixes x 32 tokens."""
    prefixes = [Request("generate", context=p, max_tokens=32) for p in items.questions(24)]
    answers = Engine(model, tokenizer).answer(prefixes)
    asked = [
        Request("fidelity", context=r.context, tokens=a.tokens)
        for r, a in zip(prefixes, answers, strict=True)
    ]
    variant = compressed(model, "8-bit")
    engine = Engine(variant, tokenizer)

    def same(found, free) -> str:
        for response, request, tokens in zip(found, asked, free, strict=True):
            pairs = enumerate(zip(tokens, request.tokens, strict=False))
            first = next((i for i, (a, b) in pairs if a != b), len(request.tokens))
            assert response.values["fdt"] == first, (response.values, first)
        return "every first divergent token equal"

    return [
        contest(
            ("FDT and SDT, 24 prefixes x 32 tokens", "free-running batched generation"),
            3.5,
            lambda: engine.answer(asked),
            lambda: together(variant, tokenizer, prefixes),
            same,
        )
    ]


def _noted(line: Line, note: str) -> Line:
    return Line(**{**asdict(line), "note": f"{line.note}; {note}"})


# --------------------------------------------------------------------------------- memory, floor


def peak(work: Callable, touched: list[torch.Tensor]) -> int:
    """Bytes by which a call raises the peak of a process of its own."""

    def child(pipe) -> None:
        for tensor in touched:
            tensor.sum()  # pages of mapped weights count for both sides
        before = psutil.Process().memory_info().rss
        work()
        pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)

    near, far = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(far,))
    process.start()
    process.join()
    return near.recv()


def memory(model, tokenizer) -> list[Line]:
    """Perplexity over 8 windows of 512 tokens."""
    windows = items.windows(tokenizer, 8, 512)
    engine = Engine(model, tokenizer)
    engine.answer([Request("tokens", tokens=windows[0][:8])])  # lays out the weights
    asked = [Request("tokens", tokens=window) for window in windows]

    @torch.inference_mode()
    def full() -> float:
        ids = torch.tensor(windows)
        logs = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
        return float(logs.gather(-1, ids[:, 1:, None]).sum())

    found, wanted = sum(r.logprob for r in engine.answer(asked)), full()
    assert abs(found / wanted - 1) < 1e-5, (found, wanted)
    weights = [parameter.data for parameter in model.parameters()]
    ours, theirs = peak(lambda: engine.answer(asked), weights), peak(full, weights)
    note = f"bytes, not seconds; value equal to {abs(found / wanted - 1):.0e}"
    names = ("perplexity, peak memory", "full logits, batch 8")
    return [Line(*names, theirs / ours, 8.0, ours, theirs, note)]


def floor(model, tokenizer) -> list[Line]:
    """The largest GEMM rate at the model's shapes, and the share of it that reading 4096 tokens reaches."""
    config = model.config
    head = config.hidden_size // config.num_attention_heads
    widths = [
        (config.hidden_size, config.hidden_size),
        (config.num_key_value_heads * head, config.hidden_size),
        (config.intermediate_size, config.hidden_size),
        (config.hidden_size, config.intermediate_size),
    ]
    best = 0.0
    for rows in (512, 1024, 2048):
        for out, into in widths:
            x, weight = torch.randn(rows, into), torch.randn(out, into)
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
            for product in (
                lambda x=x, w=weight: torch.nn.functional.linear(x, w),
                lambda x=x, p=packed: torch.ops.mkldnn._linear_pointwise(x, p, None, "none", [], ""),
            ):
                product()
                seconds = min(timed(lambda p=product: [p() for _ in range(8)])[1] for _ in range(3)) / 8
                best = max(best, 2 * rows * out * into / seconds)
    windows = items.windows(tokenizer, 8, 512)
    engine = Engine(model, tokenizer)
    engine.answer([Request("tokens", tokens=windows[0][:8])])
    readings = [(window, 1) for window in windows]

    @torch.inference_mode()
    def read() -> None:
        with engine.reader.network.linears.on():
            list(engine.reader.read(readings))

    seconds = min(timed(read)[1] for _ in range(2))
    body = sum(p.numel() for name, p in model.named_parameters() if "layers" in name and p.dim() == 2)
    products = 2 * body * 4096
    looks = 2 * 2 * config.num_hidden_layers * config.hidden_size * 8 * 512 * 513 / 2
    rate = (products + looks) / seconds
    note = f"{best / 1e9:.0f} GFLOP/s at best, {rate / 1e9:.0f} while reading, {4096 / seconds:.0f} tokens/s"
    return [
        Line(
            "prefill, 8 x 512 tokens",
            "largest GEMM rate (share reached)",
            rate / best,
            0.75,
            seconds,
            (products + looks) / best,
            note,
        )
    ]


# --------------------------------------------------------------------------------- all of it


def write(lines: list[Line], path: Path) -> None:
    """The lines as JSON; those of an earlier run that were not measured now stay."""
    known = json.loads(path.read_text()) if path.exists() else []
    found = {(line["work"], line["against"]): line for line in [*known, *map(asdict, lines)]}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(list(found.values()), indent=1) + "\n")
    part.replace(path)


def main() -> None:
    """Run the contests, print the table, write the file."""
    contests = {
        f.__name__: f for f in (floor, mmlu, qa, drafts, fidelity, fidelity_and_answers, memory, matrix)
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(contests))
    parser.add_argument("--matrix-items", type=int, default=24, help="items of each of the matrix's tasks")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    items.check()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    model, tokenizer = load(resolve("smollm2-135m"))
    lines: list[Line] = []
    for name in options.only.split(","):
        more = {"count": options.matrix_items} if name == "matrix" else {}
        lines += contests[name](model, tokenizer, **more)
        write(lines, options.out)
    show(lines)


if __name__ == "__main__":
    main()
