"""Stored results made up: a dense model and variants whose items are right with a chance that falls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kick.records import (
    CalibrationSpec,
    Cell,
    ModelSpec,
    Response,
    Result,
    Sample,
    Score,
    Step,
    TaskSpec,
    Variant,
)
from kick.stats import intervals, metrics

MODEL = ModelSpec("smollm2-135m", digest="d" * 64, tokenizer="t" * 64)
CALIBRATION = CalibrationSpec("kick_mini_calibration", digest="c" * 16)
HOSTILE = '<script>alert("x")</script> </script><!-- =cmd|"/c calc"!A1 \u202egnp.exe \u2028'

# A task's columns: (chance or mean of the dense model, spread); one column's quality falls with the others.
TASKS: dict[str, dict[str, float]] = {
    "kick_mini_factoid": {"exact_match": 0.4, "f1": 0.5, "contains": 0.55, "empty": 0.01},
    "kick_mini_mcq": {"acc": 0.5, "acc_norm": 0.55},
    "kick_mini_closed": {"exact_match": 0.2, "f1": 0.3, "contains": 0.35, "empty": 0.02},
    "kick_mini_open": {"exact_match": 0.55, "f1": 0.65, "contains": 0.7, "empty": 0.01},
    "kick_mini_conflict": {"from_context": 0.7, "from_memory": 0.2, "from_neither": 0.1, "empty": 0.0},
    "kick_mini_summary": {"rouge1": 0.35, "rouge2": 0.12, "rougeL": 0.25, "length": 50, "copied": 0.3},
    "kick_mini_perplexity": {"nll": 2.9},
    "kick_mini_fidelity": {"fdt": 48.0, "sdt": 0.0, "agreement": 1.0, "kl_mean": 0.0, "margin": math.nan},
}
COUNTS = {"kick_mini_perplexity": 40, "kick_mini_summary": 24, "kick_mini_fidelity": 40}
FOOTPRINT = {
    "bits_per_weight": 4.5,
    "packed_bytes": 70_000_000,
    "linear_zeros": 50,
    "linear_parameters": 100,
    "parameters": 134_000_000,
}
GRADED = ("f1", "rouge1", "rouge2", "rougeL", "copied")


@dataclass
class FakeStore:
    """What the report needs of a store, in memory."""

    results: dict[str, Result] = field(default_factory=dict)
    items: dict[str, list[Sample]] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    measured: list[dict] = field(default_factory=list)

    def runs(self) -> Iterator[Result]:
        yield from self.results.values()

    def samples(self, key: str) -> list[Sample]:
        return self.items[key]

    def arrays(self, key: str) -> tuple[list[str], list[str], dict[str, np.ndarray]]:
        found = self.items[key]
        names = {name for sample in found for name in sample.scores}
        columns = {name: np.array([one.scores.get(name, math.nan) for one in found]) for name in names}
        return [one.item for one in found], [one.group for one in found], columns

    def recall(self) -> dict[str, str]:
        return self.kept

    def remember(self, texts: Mapping[str, str]) -> None:
        self.kept = dict(texts)

    def noted(self, key: str) -> dict[str, str]:
        return {}

    def costs(self) -> list[dict]:
        return self.measured

    def put(self, result: Result, samples: Sequence[Sample]) -> None:
        self.results[result.key] = result
        self.items[result.key] = list(samples)


def variant(name: str, *steps: Step, seed: int = 0, **other) -> Variant:
    calibrated = any(step.method in ("wanda", "gptq", "sparsegpt") for step in steps)
    calibration = replace(CALIBRATION, seed=seed) if calibrated else None
    return Variant(name, MODEL, tuple(steps), calibration, **other)


def pruned(method: str, level: float | str, seed: int = 0) -> Variant:
    name = f"{method}-{str(level).replace(':', 'of')}" + (f"-seed{seed}" if seed else "")
    return variant(name, Step(method, {"sparsity": level}), seed=seed)


def quantized(method: str, bits: int) -> Variant:
    return variant(f"{method}-{bits}bit", Step(method, {"bits": bits, "group_size": 32}))


DENSE = variant("dense")
BATCH = variant("dense-batch", replica="batch")
DTYPE = Variant("dense-dtype", replace(MODEL, dtype="bfloat16"), replica="dtype")
LEVELS = (0.3, 0.5, 0.7)
VARIANTS = (
    DENSE,
    BATCH,
    DTYPE,
    *(pruned(method, level) for method in ("magnitude", "wanda") for level in (*LEVELS, "2:4")),
    *(quantized(method, bits) for method in ("rtn", "gptq") for bits in (8, 4, 3)),
    pruned("wanda", 0.5, seed=1),
    variant("wanda-rtn", Step("wanda", {"sparsity": 0.5}), Step("rtn", {"bits": 4, "group_size": 32})),
)


def harm(one: Variant) -> float:
    """How much of the dense model's quality a variant has lost, 0 to 1."""
    if one.dense:
        return 0.0
    if one.replica:
        return 0.01
    lost = 0.0
    for step in one.recipe:
        level, worse = step.options.get("sparsity"), step.method in ("magnitude", "rtn")
        if level is not None:
            share = 0.6 if isinstance(level, str) else level
            lost += (1.6 if worse else 1.0) * share**3
        if step.options.get("bits"):
            lost += {8: 0.01, 4: 0.1, 3: 0.4}[step.options["bits"]] * (1.5 if worse else 1)
    return min(lost, 1.0)


def samples(task: str, one: Variant, n: int) -> list[Sample]:
    """n items of a task; the same item has the same luck in every variant, and for every book."""
    lost, columns = harm(one), TASKS[task]
    topic = "kick_mini_reading" if task.endswith(("closed", "open")) else task
    out = []
    for i in range(n):
        luck = np.random.default_rng([*topic.encode(), i]).random()
        noise = np.random.default_rng([*topic.encode(), *one.name.encode(), i]).normal()
        scores = {name: _score(name, value, lost, luck, noise) for name, value in columns.items()}
        if task == "kick_mini_fidelity" and not lost:
            scores["margin"] = math.nan
        answer = HOSTILE if i == 0 else f"answer {i} of {one.name}"
        responses = (Response(text=answer, count=4, truncated=i == 1),)
        group = ("geography", "science", "history")[i % 3]
        out.append(
            Sample(
                f"{topic}-{i:04}",
                "p" * 16,
                f"Question: number {i}?\nAnswer:",
                f"gold {i}",
                responses,
                scores,
                group,
            )
        )
    return out


def _score(name: str, value: float, lost: float, luck: float, noise: float) -> float:
    if name == "nll":
        return value + 0.3 * (luck - 0.5) + 1.2 * lost**2 + 0.01 * noise * (lost > 0)
    if name == "fdt":
        return float(max(0, round(value * (1 - lost) ** 3 - 8 * luck * (lost > 0))))
    if name in ("sdt", "kl_mean", "margin"):
        return lost * (0.5 + luck)
    if name in ("length", "agreement"):
        return value * (1 - lost / 2) * (1 + 0.1 * noise * (lost > 0))
    if name in GRADED:
        return float(np.clip(value * (1 - lost) + 0.3 * (luck - 0.5) + 0.05 * noise * (lost > 0), 0, 1))
    if name in ("empty", "from_memory", "from_neither"):
        return float(1 - luck < value * (1 + lost))
    return float(luck < value * (1 - lost) + 0.05 * noise * (lost > 0))


def result(task: str, one: Variant, found: Sequence[Sample], matrix: str = "synthetic", **spec) -> Result:
    cell = Cell(one, TaskSpec(task, digest="e" * 16, **spec))
    scores = []
    for name in sorted(metrics.known):
        metric = metrics.known[name]
        if metric.column not in TASKS[task]:
            continue
        values = np.array([sample.scores[metric.column] for sample in found])
        low, high, stderr = intervals.interval(values, metric.kind, support=metric.support, resamples=500)
        missing = int(np.isnan(values).sum())
        value = intervals.aggregate(values, metric.kind)
        better = metric.higher_is_better
        scores.append(Score(name, value, len(found) - missing, stderr, low, high, better, missing))
    return Result(
        cell.key,
        matrix,
        cell,
        tuple(scores),
        counts={"items": len(found), "truncated": 1},
        seconds={"load": 1.0, "compress": 12.5, "answer": 30.0, "score": 0.5},
        peak_memory=1_500_000_000,
        compression={"footprint": FOOTPRINT},
        provenance={
            "time": "2026-01-01T00:00:00+00:00",
            "kick": "0.1.0",
            "commit": "abcdef0123456789",
            "dirty": False,
            "machine": {"processor": "a processor", "cores": 2, "memory": 8_000_000_000},
            "versions": {"torch": "2.13.0", "python": "3.11.7"},
            "command": ["kick", "run", "synthetic.yaml"],
        },
    )


def fill(
    store: FakeStore,
    variants: Sequence[Variant] = VARIANTS,
    tasks: Mapping[str, object] | Sequence[str] = tuple(TASKS),
    matrix: str = "synthetic",
    n: int = 120,
    **spec,
) -> FakeStore:
    """Every variant on every task."""
    for one in variants:
        for task in tasks:
            found = samples(task, one, COUNTS.get(task, n))
            store.put(result(task, one, found, matrix, **spec), found)
    return store
