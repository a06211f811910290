"""What a variant is, in columns: methods, sparsity and its pattern, bits, group size, calibration."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from kick.records import Step, Variant, key

FIXED_BITS = {"llm.int8": 8, "smoothquant": 8, "nf4": 4}  # widths that are no option of the method
STRUCTURED = ("flap", "llm-pruner", "last-n", "shortgpt", "laco")  # heads, channels or blocks go


def traits(variant: Variant) -> dict[str, Any]:
    """The columns that describe a variant.

    method: the steps' names joined by " + ", "dense" for none; sparsity: the share asked for, steps
    multiplied out; pattern: "unstructured", "2:4", "structured" or ""; bits, group_size: NaN where nothing
    is quantized; recipe: a hash of all but the calibration seed, which tells seeds of one recipe.
    """
    steps = variant.recipe
    return {
        "method": method(variant),
        "sparsity": _sparsity(steps),
        "pattern": _pattern(steps),
        "bits": _least(_bits(step) for step in steps),
        "group_size": _least(_number(step.options.get("group_size")) for step in steps if _bits(step)),
        "structured": any(step.method in STRUCTURED for step in steps),
        "replica": variant.replica or "",
        "checkpoint": variant.checkpoint,
        "recipe": _recipe(variant),
        **_place(steps),
        **_calibration(variant),
    }


def method(variant: Variant) -> str:
    """The steps' method names joined by " + "; "dense" or "checkpoint" where there is no step."""
    if variant.recipe:
        return " + ".join(step.method for step in variant.recipe)
    return "checkpoint" if variant.checkpoint else "dense"


def label(variant: Variant) -> str:
    """The variant for readers: "wanda 50 %", "gptq 4-bit", "wanda 2:4 + rtn 4-bit", "dense (batch)".

    The matrix file's own `name` comes first; a checkpoint without one is called by its last folder.
    """
    if variant.label:
        return variant.label
    if variant.replica:
        return f"dense ({variant.replica} replica)"
    if variant.recipe:
        return " + ".join(_step_label(step) for step in variant.recipe)
    return replace(variant.model, name=variant.name).title if variant.checkpoint else "dense"


def _step_label(step: Step) -> str:
    level, bits = _level(step), _bits(step)
    parts = [step.method]
    if isinstance(level, str) and ":" in level:
        parts.append(level)
    elif _number(level) is not None:
        parts.append(f"{100 * _number(level):g} %")
    if bits:
        parts.append(f"{bits:g}-bit")
    for name, text in (("layers", "{} layers"), ("rank", "rank {}")):
        if _number(step.options.get(name)):
            parts.append(text.format(step.options[name]))
    return " ".join(parts)


def _level(step: Step) -> Any:
    """What says how much a step prunes: the option sparsity, or the share of heads and channels."""
    return step.options.get("sparsity", step.options.get("share"))


def share(level: Any) -> float | None:
    """The share that a sparsity asks for: 0.5 of 0.5, of "0.5" and of "2:4"; None where it is none."""
    if isinstance(level, str) and ":" in level:
        pruned, _, of = level.partition(":")
        return int(pruned) / int(of) if pruned.isdigit() and of.isdigit() and int(of) else None
    return _number(level)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _sparsity(steps: Iterable[Step]) -> float:
    """The pruned share after all steps: one step's share of what the ones before have left."""
    kept = 1.0
    for step in steps:
        kept *= 1 - (share(_level(step)) or 0.0)
    return 1 - kept


def _pattern(steps: Iterable[Step]) -> str:
    for step in steps:
        level = _level(step)
        if isinstance(level, str) and ":" in level:
            return level
        if step.method in STRUCTURED:
            return "structured"
        if share(level):
            return "unstructured"
    return ""


def _bits(step: Step) -> float | None:
    return _number(step.options.get("bits")) or FIXED_BITS.get(step.method)


def _least(values: Iterable[float | None]) -> float:
    return min((value for value in values if value is not None), default=math.nan)


def _place(steps: Iterable[Step]) -> dict[str, Any]:
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
        return {"corpus": "", "sequences": math.nan, "length": math.nan, "seed": math.nan, "propagate": ""}
    return {
        "corpus": spec.corpus,
        "sequences": float(spec.sequences),
        "length": float(spec.length),
        "seed": float(spec.seed),
        "propagate": spec.propagate,
    }


def _recipe(variant: Variant) -> str:
    """A hash of the variant without its name, its calibration seed and the text that the seed chose."""
    values: dict[str, Any] = asdict(variant)
    del values["name"], values["label"]
    if values["calibration"]:
        values["calibration"] = {
            name: value for name, value in values["calibration"].items() if name not in ("seed", "digest")
        }
    return key(_jsonable(values))


def _jsonable(value: Any) -> Any:
    """JSON values of what a Mapping or tuple holds; NaN as text."""
    if isinstance(value, Mapping):
        return {str(name): _jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def achieved(compression: Mapping[str, Any]) -> dict[str, float]:
    """What run.json's compression record says: bytes, bits per weight, sparsity, parameters."""
    footprint = compression.get("footprint") or {}
    zeros, weights = (_first(footprint, name) for name in ("linear_zeros", "linear_parameters"))
    return {
        "bytes": _first(footprint, "packed_bytes"),
        "bits_per_weight": _first(footprint, "bits_per_weight"),
        "achieved_sparsity": zeros / weights if weights else math.nan,
        "parameters": _first(footprint, "parameters"),
    }


def _first(record: Mapping[str, Any], *names: str) -> float:
    return next((float(record[name]) for name in names if _number(record.get(name)) is not None), math.nan)
