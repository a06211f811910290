"""A whole small matrix at a size at which stopping can work, compression included, three ways.

Dense and four variants on three right/wrong tasks of 256 items (short facts, MMLU 5-shot by one letter,
closed-book questions) and 24 windows of perplexity. Nothing is shared between items by the other two ways, so
their answering is measured at 24 items a task and scaled; their compressing is measured whole, their loading
is not counted. Ours is `kick run` from matrix to stored results, loading, scoring and storing included.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import engine_items as items
from contest import Line, timed
from engine_matrix import RECIPES, cut, variant, windows_one_by_one
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

import kick
from kick import tasks
from kick.compress.calibrate.corpus import sequences
from kick.records import CalibrationSpec, Request, TaskSpec

ITEMS, WINDOWS, SAMPLED = 256, 24, 24
TASKS = ("kick_mini_factoid", "kick_mcr_qa_gen", "kick_mini_closed")
PERPLEXITY = "kick_mini_perplexity"
CALIBRATION = {"corpus": "kick_mini_calibration", "sequences": 8, "length": 256}
MATRIX = {
    "name": "small",
    "model": "smollm2-135m",
    "tasks": [*TASKS, PERPLEXITY],
    "limit": {**dict.fromkeys(TASKS, ITEMS), PERPLEXITY: WINDOWS},
    "calibration": CALIBRATION,
    "replicas": [],
    "variants": [
        "dense",
        {"method": "magnitude", "sparsity": 0.5},
        {"method": "wanda", "sparsity": 0.5},
        {"method": "rtn", "bits": [8, 4]},
    ],
}


@dataclass
class Costs:
    """CPU seconds of a way: compressing, and answering by task, of the items sampled; the first texts."""

    compress: float = 0.0
    answer: dict[str, float] = field(default_factory=dict)
    texts: dict[tuple[str, str], list[Any]] = field(default_factory=dict)

    def add(self, name: str, task: str, found: tuple[list[Any], float]) -> None:
        """Add what a task's items took."""
        self.answer[task] = self.answer.get(task, 0.0) + found[1]
        self.texts[name, task] = found[0]

    @property
    def whole(self) -> float:
        """Seconds of the whole matrix: answering scaled from the items sampled to all of them."""
        scaled = (
            seconds * (1 if task == PERPLEXITY else ITEMS / SAMPLED) for task, seconds in self.answer.items()
        )
        return self.compress + sum(scaled)


def requests(tokenizer) -> dict[str, list[Request]]:
    """What kick itself asks of the first items of each task."""
    loaded = tasks.load(MATRIX["tasks"], str(items.DATA))
    asked = {}
    for name, task in loaded.items():
        count = WINDOWS if name == PERPLEXITY else SAMPLED
        spec = TaskSpec(name, task.digest, task.scoring, limit=count)
        asked[name] = [request for item in task.items(spec, tokenizer) for request in item.requests]
    return asked


def published(model, tokenizer, work, data) -> Costs:
    """Compress for every task; batch 1; the whole answer generated, then cut."""
    found = Costs()
    for name in RECIPES:
        for task, asked in work.items():
            network, seconds = timed(lambda name=name: variant(model, name, data))
            found.compress += seconds
            found.add(name, task, timed(lambda a=asked, n=network: _one_by_one(n, tokenizer, a)))
    return found


def _one_by_one(network, tokenizer, asked: list[Request]) -> list[Any]:
    if asked[0].kind == "tokens":
        return windows_one_by_one(network, asked)
    texts = []
    for request in asked:
        ids = tokenizer(request.context, return_tensors="pt")["input_ids"]
        out = network.generate(
            ids,
            attention_mask=ids.new_ones(ids.shape),
            pad_token_id=tokenizer.eos_token_id,
            max_new_tokens=request.max_tokens,
            do_sample=False,
        )
        texts.append(cut(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)))
    return texts


def per_variant(model, tokenizer, work, data) -> Costs:
    """Compress once; lm-eval's HFLM with batch 8."""
    found = Costs()
    for name in RECIPES:
        network, seconds = timed(lambda name=name: variant(model, name, data))
        found.compress += seconds
        lm = HFLM(pretrained=network, tokenizer=tokenizer, batch_size=8)
        for task, asked in work.items():
            found.add(name, task, timed(lambda a=asked, lm=lm: _hflm(lm, a)))
    return found


def _hflm(lm: HFLM, asked: list[Request]) -> list[Any]:
    if asked[0].kind == "tokens":
        pairs = [(None, list(r.tokens[:1]), list(r.tokens[1:])) for r in asked]
        return [score for score, _ in lm._loglikelihood_tokens(pairs, disable_tqdm=True)]
    instances = [
        Instance("g", {}, (r.context, {"until": list(r.until), "max_gen_toks": r.max_tokens}), 0)
        for r in asked
    ]
    return lm.generate_until(instances, disable_tqdm=True)


def ours(folder: Path, stop: bool) -> tuple[dict[tuple[str, str], str], float]:
    """Verdicts by variant and task, and CPU seconds of `kick run` from nothing to stored results."""
    matrix = {**MATRIX, **({"stop": "decided"} if stop else {})}
    options = kick.RunOptions(executor="inline", view="lines", data_root=str(items.DATA), offline=True)
    ran, seconds = timed(lambda: kick.run(matrix, out=folder, options=options))
    assert ran.failed == 0, ran.failures()
    rows = ran.results()
    rows = rows[rows["primary"] & ~rows["dense"] & (rows["group"] == "")]
    return {(row.variant, row.task): row.verdict for row in rows.itertuples()}, seconds


def same(found: Costs, wanted: Costs) -> str:
    """How many texts the two other ways agree on: they are asked the same."""
    pairs = [
        (cut(a).strip(), cut(b).strip())
        for cell, texts in wanted.texts.items()
        for a, b in zip(found.texts[cell], texts, strict=True)
        if isinstance(a, str)
    ]
    equal = sum(a == b for a, b in pairs)
    assert equal >= 0.98 * len(pairs), f"{equal} of {len(pairs)} answers equal"
    return f"{equal} of {len(pairs)} sampled answers equal between the two other ways"


def sized_matrix(model, tokenizer, folder: Path) -> list[Line]:
    """Six lines: both other ways against ours without and with stopping, and the verdicts that stay."""
    logging.disable(logging.WARNING)
    work = requests(tokenizer)
    data = sequences(CalibrationSpec(**CALIBRATION), tokenizer)
    full, plain = ours(folder / "full", stop=False)
    early, stopped = ours(folder / "early", stop=True)
    ways = {"published workflow": published, "lm-eval HFLM per variant": per_variant}
    costs = {name: way(model, tokenizer, work, data) for name, way in ways.items()}
    note = same(*costs.values())
    size = f"{ITEMS} items x {len(TASKS)} tasks, {WINDOWS} windows"
    lines = []
    for name, target in (("published workflow", 8.0), ("lm-eval HFLM per variant", 5.0)):
        theirs = costs[name].whole
        against = f"{name}, {SAMPLED} items scaled"
        work_done = f"matrix: dense + 4 variants, {size}"
        lines.append(
            Line(f"{work_done}, stop: decided", against, theirs / stopped, target, stopped, theirs, note)
        )
        lines.append(Line(work_done, against, theirs / plain, 1.0, plain, theirs, note))
    equal = sum(early[cell] == full[cell] for cell in full)
    share = equal / len(full)
    note = f"{equal} of {len(full)} verdicts as without stopping"
    lines.append(
        Line(
            f"the same matrix, {size}",
            "verdicts at all items (share equal)",
            share / 0.97,
            1.0,
            share,
            0.97,
            note,
        )
    )
    return lines
