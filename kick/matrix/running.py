"""Which variants are asked which tasks, which engines run a variant with a run-time method, which share one
reading of the prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from kick.catalog import OTHER_TOKENS, retokenises
from kick.engine.backend import DEFAULT, LAYERED, VLLM
from kick.matrix.costs import Estimate
from kick.matrix.engines import unlayered
from kick.matrix.schema import Matrix
from kick.matrix.variants import Expanded
from kick.matrix.yaml_marks import Path, Problem
from kick.records import Variant, key
from kick.runtime.entry import inapplicable, runtimes

if TYPE_CHECKING:
    from kick.tasks import Task

ENGINES = (DEFAULT, "plain")  # beside whose cells those of a run-time method belong
CONTINUED = 0.2  # of the seconds of an answer: what is left of it once its prompt has been read


def not_asked(variant: Variant, task: Task) -> str:
    """Why the variant is not asked the task; "" if it is.

    Another order of calibration is asked only the tasks that rounding moves, and a run-time method only
    those that it can affect: elsewhere its answers would be dense's own and say nothing of it. With a
    tokenizer of its own windows of tokens, and dense's continuations, are other ones.
    """
    if variant.reordered and not (task.reads_text or task.needs_reference):
        return "another order of the calibration shows on perplexity and fidelity alone"
    if any(map(retokenises, variant.recipe)) and (task.needs_reference or task.size is None):
        return OTHER_TOKENS
    if variant.runtime is None:
        return ""
    if task.reads_states:
        return "hidden states are read without run-time methods"
    return inapplicable(variant.runtime.method, asks(task))


def asks(task: Task) -> str:
    """The kind of answer that a task asks for, as a run-time method's `affects` names them."""
    if task.reads_text:
        return "text"
    return "generate" if task.generates and not task.needs_reference else "loglikelihood"


def asked_of(variant: Variant, tasks: Mapping[str, Task], items: Mapping[str, int]) -> dict[str, int]:
    """The items of the tasks that the variant is asked."""
    return {name: count for name, count in items.items() if not not_asked(variant, tasks[name])}


def weights_of(variant: Variant) -> str:
    """What variants have in common that can share the reading of their prompts; "" for others.

    They are of one model and recipe, each with a run-time method that changes decoding alone.
    """
    facts = runtimes.facts().get(variant.runtime.method) if variant.runtime else None
    if facts is None or facts.affects != ("generate",) or variant.endpoint:
        return ""
    return key(asdict(replace(variant, name="", label="", runtime=None)))


def seconds_of(variants: Sequence[Variant], estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """Seconds of each variant's part of a run, by name: where several share the reading of prompts and the
    compression, the first one has it."""
    found: dict[str, float] = {}
    seen: set[str] = set()
    for variant in variants:
        one, weights = estimates[variant.name], weights_of(variant)
        found[variant.name] = CONTINUED * one.seconds["answer"] if weights in seen else one.total
        if weights:
            seen.add(weights)
    return found


def problems(
    matrix: Matrix, variants: Sequence[Expanded], tasks: Mapping[str, Task], engine: str
) -> Iterator[Problem]:
    """Problems of the variants with a run-time method, of tasks that read hidden states, and of recipes that
    do not go block by block: an engine that cannot run them, nothing to ask; and of calibration that it has
    no model in memory for."""
    if engine == LAYERED:
        yield from _whole(variants)
    if states := next((task.name for task in tasks.values() if task.reads_states), ""):
        yield from _of_states(states, variants, engine)
    if guided := next((task.name for task in tasks.values() if task.guided), ""):
        yield from _of_guides(guided, variants, engine)
    chosen = {one.variant.calibration.select for one in variants if one.variant.calibration} - {""}
    if engine == LAYERED and chosen:
        message = f"ranking text needs the whole model in memory; the engine here is {LAYERED}"
        yield Problem(("calibration", "select"), message)
    for one in variants:
        yield from _retokenised(one, tasks, engine)
        if one.variant.runtime is None:
            continue
        name, path = one.variant.name, _place(one.path)
        if engine not in ENGINES:
            yield Problem(path, f"{name}: run-time methods need the engine {DEFAULT}; got {engine}")
        if matrix.generation_config == "model":
            yield Problem(path, f"{name}: run-time methods decode greedily; leave generation_config out")
        reasons = {not_asked(one.variant, task) for task in tasks.values()}
        if tasks and "" not in reasons:
            yield Problem(path, f"{name}: not applicable to any task here: {sorted(reasons)[0]}")


def _retokenised(one: Expanded, tasks: Mapping[str, Task], engine: str) -> Iterator[Problem]:
    """Problems of a variant with a tokenizer of its own."""
    if not any(map(retokenises, one.variant.recipe)):
        return
    if engine not in ENGINES:
        message = f"a tokenizer of its own needs the engine {DEFAULT}; got {engine}"
        yield Problem(one.path, f"{one.variant.name}: {message}")
    reasons = {not_asked(one.variant, task) for task in tasks.values()}
    if tasks and "" not in reasons and one.variant.runtime is None:
        yield Problem(one.path, f"{one.variant.name}: not applicable to any task here: {sorted(reasons)[0]}")


def _whole(variants: Sequence[Expanded]) -> Iterator[Problem]:
    """Problems of recipes that the engine 'layered' cannot carry out."""
    for one in variants:
        if reason := unlayered(one.variant):
            yield Problem(
                one.path,
                f"{one.variant.name}: the engine {LAYERED} is out, because {reason}; choose the engine "
                f"{DEFAULT}, or measure a checkpoint that `kick compress` saved",
            )


def _of_states(task: str, variants: Sequence[Expanded], engine: str) -> Iterator[Problem]:
    """Problems of a task that reads hidden states with engines and servers that do not give them."""
    if engine not in ENGINES:
        message = f"{task} reads hidden states, which need the engine {DEFAULT}; got {engine}"
        yield Problem(("engine", "name"), message)
    yield from _of_servers(variants, f"its server gives no hidden states, which {task} reads")


def _of_guides(task: str, variants: Sequence[Expanded], engine: str) -> Iterator[Problem]:
    """Problems of a task with guided decoding with engines and servers that choose tokens themselves."""
    if engine == VLLM:
        message = f"{task} guides decoding, which needs the engine {DEFAULT}; got {engine}"
        yield Problem(("engine", "name"), message)
    yield from _of_servers(variants, f"its server cannot guide decoding, which {task} needs")


def _of_servers(variants: Sequence[Expanded], why: str) -> Iterator[Problem]:
    """Problems of the variants that a server answers for."""
    for one in variants:
        if one.variant.endpoint:
            yield Problem(one.path, f"{one.variant.name}: {why}")


def _place(path: Path) -> Path:
    return path if "runtime" in path else (*path, "runtime")
