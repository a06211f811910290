"""Columns that describe a variant: methods, sparsity and its pattern, bits, group size, calibration."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from kick import catalog
from kick.catalog import LAST, Facts, level_of, number, recorded, share
from kick.records import RANDOM, SCORES, Step, Variant, jsonable, key
from kick.runtime.entry import runtimes

# what a run-time method read and kept (`kick.runtime.tally`), NaN of others
RUN_TIME = (
    "keys_read",
    "prompt_keys_read",
    "prompt_computed",
    "cache_bytes",
    "dense_cache_bytes",
    "prompt_tokens",
)
DENSE_PLACE, RECIPE_PLACE = -1, 9000  # before every method, and after


def traits(variant: Variant, stored: Sequence[Any] = ()) -> dict[str, Any]:
    """The columns that describe a variant; `stored` are the steps of its results' compression record.

    method: the steps' names joined by " + ", "dense" for none; sparsity: the share asked for, steps
    multiplied out; place: of the method in tables and legends; pattern: "unstructured", "2:4",
    "structured" or ""; trains, task_data: whether a step updates weights by gradient descent, or sees data of
    the tasks; bits, group_size: NaN if nothing is quantized; training_seed: of the step that trains after
    pruning, NaN without one; recipe: a hash of all but the seeds of calibration and of that step, which tells
    seeds of one recipe.
    """
    steps, known = variant.recipe, facts(variant, stored)
    bits = [known[step.method].width(step.options) for step in steps]
    patterns = [known[step.method].pattern(step.options) for step in steps]
    return {
        "method": method(variant),
        "sparsity": _sparsity(steps),
        "place": _place(variant, known),
        "pattern": next(filter(None, patterns), ""),
        "bits": _least(bits),
        "group_size": _least(
            number(step.options.get("group_size")) for step, width in zip(steps, bits, strict=True) if width
        ),
        "structured": any(known[step.method].structured for step in steps),
        "trains": any(known[step.method].trains for step in steps),
        "task_data": any(known[step.method].task_data for step in steps),
        "replica": variant.replica or "",
        "runtime": variant.runtime.method if variant.runtime else "",
        "checkpoint": variant.checkpoint,
        "training_seed": _training_seed(steps),
        "recipe": _recipe(variant),
        **_matrix(steps),
        **_calibration(variant),
    }


def facts(variant: Variant, stored: Sequence[Any] = ()) -> dict[str, Facts]:
    """Facts of each method of a variant, from its result, else from this installation.

    A method of which nothing is known has its name for a title, and no kind.
    """
    found: dict[str, Facts] = {}
    for place, step in enumerate(variant.recipe):
        record = stored[place] if place < len(stored) else None
        told = recorded(step.method, record) if isinstance(record, Mapping) else None
        unknown = Facts(step.method, title=step.method, paper="", kind="")
        found[step.method] = told or catalog.known().get(step.method) or unknown
    if variant.runtime:
        found[variant.runtime.method] = _runtime_facts(variant.runtime.method)
    return found


def _runtime_facts(name: str) -> Facts:
    """The facts of a run-time method, as of a method of the kind "runtime"."""
    known = runtimes.facts().get(name)
    title, paper = (known.title, known.paper) if known else (name, "")
    return Facts(name, title=title, paper=paper, kind="runtime", place=known.place if known else LAST)


def method(variant: Variant) -> str:
    """The steps' method names joined by " + "; "dense" or "checkpoint" without any.

    A run-time method comes last; over a checkpoint it is "checkpoint + twilight".
    """
    run = [variant.runtime.method] if variant.runtime else []
    if variant.recipe or (run and not variant.checkpoint):
        return " + ".join([*(step.method for step in variant.recipe), *run])
    if run:
        return " + ".join(["checkpoint", *run])
    return "checkpoint" if variant.checkpoint else "dense"


def label(variant: Variant, stored: Sequence[Any] = ()) -> str:
    """The variant for readers: "wanda 50 %", "gptq 4-bit", "wanda 2:4 + rtn 4-bit", "dense (batch)".

    The matrix file's own `name` comes first; a checkpoint without one is called by its last folder.
    """
    if variant.reordered and variant.calibration:
        first = replace(variant, replica=None)
        return f"{label(first, stored)} (order {variant.calibration.order})"
    if variant.label:
        return variant.label
    if variant.replica:
        return f"dense ({variant.replica} replica)"
    run = [_run_label(variant.runtime)] if variant.runtime else []
    if variant.recipe or (run and not variant.checkpoint):
        known = facts(variant, stored)
        whole = " + ".join([*(_step_label(step, known[step.method]) for step in variant.recipe), *run])
        select = variant.calibration.select.split() if variant.calibration else ()
        return f"{whole} ({select[1]} {select[0]} text)" if len(select) > 1 else whole
    return replace(variant.model, name=variant.name).title if variant.checkpoint else "dense"


def _run_label(step: Step) -> str:
    """A run-time method with its first option, which is its level: "twilight p 0.85"."""
    for name, value in step.options.items():
        return f"{step.method} {value}-bit" if name == "bits" else f"{step.method} {name} {value}"
    return step.method


def _step_label(step: Step, known: Facts) -> str:
    level, bits = level_of(step.options), known.width(step.options)
    parts = [step.method]
    if isinstance(level, str) and ":" in level:
        parts.append(level)
    elif (asked := share(level)) is not None:
        parts.append(f"{100 * asked:g} %")
    if bits:
        parts.append(f"{bits:g}-bit")
    trained = str(step.options.get("parts", ""))  # of a form of recovery; adapters may be none of them
    parts += [trained] if trained else []
    ranked = not trained or "masklora" in trained
    for name, text in (("layers", "{} layers"), ("mlps", "{} MLPs"), ("rank", "rank {}")):
        if number(step.options.get(name)) and (name != "rank" or ranked):
            parts.append(text.format(step.options[name]))
    if step.options.get("select", RANDOM) != RANDOM:  # the text that a step trains on
        scored = step.options["select"] in SCORES
        parts.append(f"{step.options['keep']} {step.options['select']}" if scored else step.options["select"])
    if step.options.get("blocks") == "l3":  # of last-n, which then has no number of layers
        parts.append(f"l3 {step.options['keep']}")
    if step.options.get("corpora"):  # whose tokens are kept
        parts.append(str(step.options["corpora"]))
    return " ".join(parts)


def _sparsity(steps: Iterable[Step]) -> float:
    """The pruned share after all steps: one step's share of what the ones before have left."""
    kept = 1.0
    for step in steps:
        kept *= 1 - (share(level_of(step.options)) or 0.0)
    return 1 - kept


def _place(variant: Variant, known: Mapping[str, Facts]) -> int:
    if variant.runtime:
        own = runtimes.facts().get(variant.runtime.method)
        return own.order if own and not variant.recipe and not variant.checkpoint else RECIPE_PLACE
    if len(variant.recipe) == 1:
        return known[variant.recipe[0].method].order
    return RECIPE_PLACE if variant.recipe or variant.checkpoint else DENSE_PLACE


def _least(values: Iterable[float | None]) -> float:
    return min((value for value in values if value is not None), default=math.nan)


def _matrix(steps: Iterable[Step]) -> dict[str, Any]:
    """The one weight matrix that a component study changes: its layer and name, of a step's option `only`."""
    for step in steps:
        only = step.options.get("only")
        only = only[0] if isinstance(only, list | tuple) and len(only) == 1 else only
        found = (
            re.fullmatch(r"(?:.*\.)?(\d+)\.(?:.*\.)?([A-Za-z_]\w*)", only) if isinstance(only, str) else None
        )
        if found:
            return {"layer": float(found[1]), "component": found[2]}
    return {"layer": math.nan, "component": ""}


def _calibration(variant: Variant) -> dict[str, Any]:
    spec = variant.calibration
    if spec is None:
        none = {"sequences": math.nan, "length": math.nan, "seed": math.nan}
        return {"corpus": "", **none, "propagate": "", "selection": ""}
    return {
        "corpus": spec.corpus,
        "sequences": float(spec.sequences),
        "length": float(spec.length),
        "seed": float(spec.seed),
        "propagate": spec.propagate,
        "selection": spec.select,
    }


def _training_seed(steps: Sequence[Step]) -> float:
    place = catalog.recovery(steps)
    seed = None if place is None else number(steps[place].options.get("seed"))
    return math.nan if seed is None else seed


def _recipe(variant: Variant) -> str:
    """A hash of the variant without its name, its calibration without seed, order and text, and the step that
    trains without its seed."""
    values: dict[str, Any] = asdict(variant)
    if (place := catalog.recovery(variant.recipe)) is not None:
        values["recipe"][place]["options"].pop("seed", None)
    del values["name"], values["label"]
    if values["runtime"] is None:
        del values["runtime"]
    if variant.calibration:
        known = variant.calibration.identity().items()
        values["calibration"] = {k: value for k, value in known if k not in ("seed", "digest", "order")}
    return key(jsonable(values, str))


def achieved(compression: Mapping[str, Any]) -> dict[str, Any]:
    """Values in run.json's compression record: sizes, bits per weight, sparsity, parameters.

    shipped_bytes: of the files that one would ship, NaN if there are none or the result is older; shipped_as:
    what they are, or why there are none; bytes: in an ideal packed format; removed: the share of the blocks'
    weights that structured steps took out, NaN without such a step; forwards, backwards, step_seconds,
    step_cpu: what the steps ran and took together, step_memory: the peak at the last; NaN if a step does not
    say it.
    """
    footprint = compression.get("footprint") or {}
    zeros, weights = (_first(footprint, name) for name in ("linear_zeros", "linear_parameters"))
    return {
        "shipped_bytes": _first(footprint, "shipped_bytes"),
        "shipped_as": said if isinstance(said := footprint.get("shipped_as"), str) else "",
        "bytes": _first(footprint, "packed_bytes"),
        "bits_per_weight": _first(footprint, "bits_per_weight"),
        "achieved_sparsity": zeros / weights if weights else math.nan,
        "parameters": _first(footprint, "parameters"),
        "removed": _removed(compression.get("steps") or ()),
        **_took(compression.get("steps") or ()),
        **{name: _first(compression.get("run_time") or {}, name) for name in RUN_TIME},
    }


def _took(steps: Iterable[Any]) -> dict[str, float]:
    """What stored steps ran and took together, and the peak of memory at the end of the last."""
    known = [step for step in steps if isinstance(step, Mapping)]
    passes = [found if isinstance(found := step.get("passes"), Mapping) else {} for step in known]
    ran = [one for one in passes if one]  # a step without passes looks at no data, or goes block by block
    memory = [_first(step, "peak_memory") for step in known]
    return {
        "forwards": _sum(ran, "forward"),
        "backwards": _sum(ran, "backward"),
        "step_seconds": _sum(known, "seconds"),
        "step_cpu": _sum(known, "cpu_seconds"),
        "step_memory": max(memory) if memory else math.nan,
    }


def _sum(records: Sequence[Mapping[str, Any]], name: str) -> float:
    """The sum of a number over records; NaN without any, or if one lacks it."""
    return math.fsum(_first(one, name) for one in records) if records else math.nan


def _removed(steps: Iterable[Any]) -> float:
    """The share of the blocks' weights that stored steps removed; NaN if none of them is structured."""
    records = [step.get("removed") for step in steps if isinstance(step, Mapping)]
    shares = [number(record.get("share")) for record in records if isinstance(record, Mapping)]
    known = [one for one in shares if one is not None]
    return 1 - math.prod(1 - one for one in known) if known else math.nan


def _first(record: Mapping[str, Any], *names: str) -> float:
    return next((float(record[name]) for name in names if number(record.get(name)) is not None), math.nan)
