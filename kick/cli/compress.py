"""Options of `kick compress` and `kick study`: a recipe and its calibration."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kick import compress
from kick.compress.calibrate import corpus as calibrate_corpus
from kick.errors import KickError
from kick.matrix.values import LARGEST_SEED
from kick.model.source import DTYPES
from kick.records import CalibrationSpec, Step
from kick.registry import unknown


def steps(words: Sequence[str]) -> list[Step]:
    """The recipe of `--method wanda --sparsity 0.5 --method rtn --bits 4`: options follow their method.

    Raises KickError for another sequence, an unknown method or an option that it does not have.
    """
    pairs = _pairs(words)
    if not pairs or pairs[0][0] != "method":
        wrong = "must come first" if pairs else "is missing"
        raise KickError(f"--method {wrong}; expected: --method wanda --sparsity 0.5; see `kick methods`")
    recipe: list[tuple[str, dict[str, Any]]] = []
    for name, value in pairs:
        if name == "method":
            recipe.append((value, {}))
        elif name in recipe[-1][1]:
            raise KickError(
                f"--{name} is given twice for {recipe[-1][0]}; a recipe has one --method for each step"
            )
        else:
            recipe[-1][1][name] = _value(name, value)
    try:
        return [compress.canonical(name, options) for name, options in recipe]
    except (ValueError, KeyError, OverflowError) as error:
        raise KickError(str(error)) from error


def calibration_of(corpus: str, sequences: int, length: int, seed: int) -> CalibrationSpec:
    """Calibration as the command line gives it. Raises KickError for a number out of range and an unknown
    corpus."""
    for name, value, least in (("sequences", sequences, 1), ("length", length, 2)):
        if value < least:
            raise KickError(f"--{name}: got {value}; expected: a whole number of at least {least}")
    if not 0 <= seed <= LARGEST_SEED:
        raise KickError(f"--calibration-seed: got {seed}; expected: a whole number from 0 to 2^64 - 1")
    if corpus not in calibrate_corpus.CORPORA:
        raise KickError(unknown("calibration corpus", corpus, calibrate_corpus.CORPORA))
    return CalibrationSpec(corpus, sequences, length, seed)


FORMATS = ("plain", "bitmap")


@dataclass(frozen=True)
class Saving:
    """Where and how `kick compress` saves: the folder, the type of weights, the files' format; and a mirror
    of data sets for the calibration."""

    out: Path
    dtype: str | None = None
    form: str = FORMATS[0]
    data_root: str | None = None


def carry_out(
    model: str, recipe: Sequence[Step], calibration: CalibrationSpec, how: Saving
) -> dict[str, Any]:
    """Compress a checkpoint into a folder; the manifest. Raises KickError for a dtype or format that is not
    known."""
    from kick.compress import bitmaps, checkpoint
    from kick.compress.streamed.compress import compress_checkpoint

    if how.dtype is not None and how.dtype not in DTYPES:
        raise KickError(f"--dtype: got {how.dtype!r}; expected one of {', '.join(DTYPES)}")
    if how.form not in FORMATS:
        raise KickError(f"--format: {unknown('format', how.form, FORMATS)}")
    if how.form == "plain":
        return compress_checkpoint(
            model, recipe, calibration, how.out, dtype=how.dtype, data_root=how.data_root
        )
    checkpoint.check_out(how.out)
    dense = how.out.with_name(f".{how.out.name}.dense")  # one name, so that a killed command is gone on with
    if (dense / "config.json").exists():  # whole, of a command that was killed later: of which is not known
        shutil.rmtree(dense)
    manifest = compress_checkpoint(
        model, recipe, calibration, dense, dtype=how.dtype, data_root=how.data_root
    )
    made = bitmaps.encode(dense, how.out)
    shutil.rmtree(dense)
    return manifest | {"bitmap": made["files"]}


def _pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    flat = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    names, values = flat[::2], flat[1::2]
    if len(names) != len(values) or any(not name.startswith("--") for name in names):
        raise KickError(f"got {' '.join(words)!r}; expected: pairs such as --method wanda --sparsity 0.5")
    return [(n.removeprefix("--").replace("-", "_"), v) for n, v in zip(names, values, strict=True)]


def _value(name: str, text: str) -> Any:
    """A number, true or false, a list or mapping in YAML's short form, or text (n:m)."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if text[:1] not in ("[", "{"):
        return {"true": True, "false": False}.get(text, text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise KickError(
            f"--{name}: got {text!r}; not a valid list or mapping: {' '.join(str(error).split())}"
        ) from error
