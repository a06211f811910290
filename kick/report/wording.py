"""Wording of numbers, gaps and verdicts, the same on every page, table and figure."""

from __future__ import annotations

import functools
import math
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kick import catalog
from kick.analysis import verdicts
from kick.analysis.verdicts import WITHIN_NOISE, WITHIN_ORDERS
from kick.analysis.verdicts import Row as Row
from kick.errors import KickError
from kick.printable import ACTING, code_point, counted
from kick.runtime.entry import inapplicable
from kick.stats import metrics

MINUS, NOTHING = "\u2212", "\u2013"

# unit -> (factor for readers, decimals, name beside the number)
UNITS = {
    "share": (100.0, 1, "%"),
    "nats": (1.0, 3, "nats"),
    "tokens": (1.0, 1, "tokens"),
    "words": (1.0, 1, "words"),
    "ratio": (1.0, 2, ""),
    "points": (1.0, 2, "points"),
}

UNRANKED = ("tiny-mamba2", "tiny-mixtral")  # models whose variants are not ranked

# base model -> what must be said beside every one of its numbers
MODELS: Mapping[str, str] = {
    "smollm2-135m": (
        "SmolLM2-135M-Instruct comes from a GGUF file whose weights were quantized once already (Q4_1, "
        "groups of 32 with a float offset; embeddings 8-bit). Dense means that model, dequantized. Of "
        "kick's grids only hqq's has a float offset too: at 4 bits in groups of 32 it finds the file's own "
        "grid and loses nothing, which is not a result; the others' zero points are integers and still cost."
    ),
    "smoke": "The model has random weights: its numbers mean nothing.",
    **dict.fromkeys(
        UNRANKED,
        "The model has less than a million weights and was trained for minutes (benchmarks/tiny_models.py). "
        "Its numbers test mechanics: that methods run, and what they move. They rank no methods.",
    ),
}
# base model -> what a claim's verdict on it cannot say
LIMITS: Mapping[str, str] = {
    "smollm2-135m": (
        "What smollm2-135m cannot show: it is one model of one size, and most papers speak of models fifty "
        "times as large, which lose less at the same share. Its weights were rounded to 4 bits once, so "
        "rounding them again says little of models that were not. Closed-book answers of its pruned variants "
        "are near 0 %, below which nothing more can be lost. Its texts are English and at most 2,048 tokens "
        "long, and no judge grades its free answers."
    ),
}
PROTOCOL_SOURCES = (
    "LLM-KICK: Jaiswal et al., ICLR 2024, arXiv 2310.01382",
    "Divergent Token Metrics: Deiseroth et al., arXiv 2311.01544",
    "Accuracy is not all you need (flips): Dutta et al., arXiv 2407.09141",
)


def folder_for(out: Path | str) -> Path:
    """The folder `out`, made if it does not exist. Raises KickError if it cannot be made or written."""
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KickError(f"--out: {str(folder)!r} cannot be made a folder: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise KickError(f"--out: {str(folder)!r} cannot be written")
    return folder


def file_name(text: str) -> str:
    """The text as part of a file's name, without what a file system might take amiss."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80]


def noise_band(dense: Row) -> tuple[float, float] | None:
    """The range of scores inside the noise of dense replicas, by a dense row; None: not known.

    A distance to dense ends at dense: there is nothing on its other side.
    """
    value, noise = dense["value"], dense["noise"]
    if math.isnan(noise) or noise <= 0:
        return None
    better = 0.0 if metrics.describe(dense["metric"]).ends_at_dense else noise
    up, down = (better, noise) if dense["higher_is_better"] else (noise, better)
    return value - down, value + up


def known(value: Any) -> bool:
    """Whether there is a finite number."""
    return value is not None and not isinstance(value, str) and math.isfinite(value)


@functools.lru_cache(maxsize=1 << 16)  # a score occurs in the table, the chart, the data and three files
def number(value: float, unit: str, *, signed: bool = False) -> str:
    """The value for readers, shares in percent: "54.2", with a true minus; a dash if there is none."""
    if not known(value):
        return NOTHING
    factor, decimals, _ = UNITS.get(unit, UNITS["ratio"])
    value = value * factor
    if abs(value) >= 1000:
        decimals = 0
    text = f"{abs(value):,.{decimals}f}"
    if float(f"{abs(value):.{decimals}f}") == 0:
        return f"±{text}" if signed else text
    return (MINUS if value < 0 else "+" if signed else "") + text


def span(low: float, high: float, unit: str) -> str:
    """An interval: "47.7 to 65.2"; a dash if there is none."""
    if not (known(low) and known(high)):
        return NOTHING
    return f"{number(low, unit)} to {number(high, unit)}"


def signed_span(low: float, high: float, unit: str) -> str:
    """The interval of a gap, with signs."""
    if not (known(low) and known(high)):
        return NOTHING
    return f"{number(low, unit, signed=True)} to {number(high, unit, signed=True)}"


def unlike(row: Row) -> tuple[str, ...]:
    """What sets a variant apart from those that look at calibration text alone, in words."""
    text = f" on {row['trained_tokens']:,.0f} tokens of {row['trained_text']}" if row["trained_text"] else ""
    said = (f"trained{text}" * row["trains"], "calibrated on task data" * row["task_data"])
    return tuple(filter(None, said))


def p_value(p: float) -> str:
    """ "0.032", "< 0.001"; a dash if there is none."""
    if not known(p):
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict(row: Row) -> str:
    """The verdict of a row of the frame in words (`kick.analysis.verdicts`)."""
    return verdicts.of_row(row)


APART = "apart"


def apart(row: Row) -> str:
    """ "apart" for a distance to dense, which has no verdict, if it is shown to differ; "" for others."""
    return APART if verdicts.apart(row) else ""


def orders(row: Row) -> str:
    """The range of a score over orders of the calibration: "32.50 to 33.90 in 4 orders"; "" for none."""
    if row["orders"] < 2:
        return ""
    return f"{span(row['order_low'], row['order_high'], row['unit'])} in {row['orders']:g} orders"


def count(n: int, units: float | None = None, of: float | None = None) -> str:
    """ "n = 141", "n = 141 in 60 documents" if items of one document are not independent, or "n = 60 of 256"
    if not all were asked."""
    text = f"n = {n:g}" + (f" of {of:g}" if of is not None and known(of) and of > n else "")
    if units is None or not known(units) or units in (0, n):
        return text
    return f"{text} in {counted(units, 'document')}"


REASONS = {
    "futile": "a verdict had become unlikely",
    "precise": "as precise as was asked for",
}


def ended(row: Row, *, why: bool = False) -> str:
    """How a cell that was not asked all of its items ended: "n = 60 of 256, stopped: worse"; "" for others.

    `why`: with the reason, where the verdict does not say it.

    Metrics other than the headline have no verdict: they are of the items that happened to be asked.
    """
    if not row["stopped"]:
        return ""
    text = f"n = {row['n']:g} of {row['of']:g}"
    if not row["primary"]:
        return f"{text}, of the items asked only"
    reason = REASONS.get(row["stopped"], "")
    said = [word for word in (verdict(row), reason if why or not row["verdict"] else "") if word]
    return f"{text}, stopped: {', '.join(said)}" if said else f"{text}, stopped"


def alike(row: Row) -> str:
    """ "all 96 items scored alike" if every item has dense's own score; "" for others, and for dense."""
    same = row["n"] > 0 and row["same"] == row["n"] and not row["dense"]
    return f"all {row['n']:g} items scored alike" if same else ""


def alike_everywhere(rows: Sequence[Row]) -> str:
    """ "all 96 items of 2 tasks scored as dense's" of a variant that differs nowhere; "" for others."""
    if not rows or not all(alike(row) for row in rows):
        return ""
    items = sum(int(row["n"]) for row in rows)
    return f"all {items} items of {counted(len(rows), 'task')} scored as dense's"


def remark(row: Row) -> str:
    """What must be said beside a score and its verdict: how the cell ended, and whether nothing differs."""
    across = "another engine than dense's: no verdict" if row["foreign"] else ""
    return "; ".join(filter(None, (ended(row), alike(row), across)))


SHIPPED = (
    "Shipped: the weight files that one would ship, as they are on disk (a checkpoint's safetensors, a .gguf "
    "file), or as `kick compress` would write them: dense values of the checkpoint's own type for a pruned "
    "model, codes and scales where all matrices are on one integer grid."
)
PACKED = (
    "Packed: in an ideal format that stores each matrix in the smallest way, pruned weights left out, and "
    "16 bits for every value that is not quantized; few runtimes read such a format."
)


def megabytes(size: float) -> str:
    """A size for readers: "538 MB"; "" if it is not known."""
    if not known(size):
        return ""
    return f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:,.2f} MB"


def percent(margin: float) -> str:
    """A margin for readers: "5 %"."""
    return f"{100 * margin:g} %"


MARKS = {
    "matching": "=",
    "worse": "\u25bc",
    "better": "\u25b2",
    "undecided": "?",
    WITHIN_NOISE: "~",
    WITHIN_ORDERS: "\u2248",
    APART: "\u2260",
    "dense": "",
    "": "",
}


def metric_label(name: str) -> str:
    """The metric's label with its unit: "exact match (%)"."""
    metric = metrics.describe(name)
    unit = UNITS.get(metric.unit, UNITS["ratio"])[2]
    return f"{metric.label} ({unit})" if unit else metric.label


def task_label(row: Row) -> str:
    """The task's title, which says how it was asked if that tells it from another."""
    return str(row["title"])


def question(preview: str, most: int = 280) -> str:
    """The end of a prompt for readers: its last part alone if the parts before are examples like it."""
    *before, last = preview.strip().split("\n\n")
    start = last.partition(":")[0] + ":"
    if ":" in last and any(part.startswith(start) for part in before):
        preview = last
    return ("\u2026" if len(preview) > most else "") + preview.strip()[-most:]


def visible(text: str, most: int = 400) -> str:
    """Text from a model as something that can be read and does nothing: at most `most` characters.

    Controls, direction marks and invisible characters are shown as their code points, and piles of combining
    marks are cut. Escaping for HTML is still to be done.
    """
    shown: list[str] = []
    pile = 0
    for mark in text[: most + 1]:
        kind = unicodedata.category(mark)
        pile = pile + 1 if kind in ("Mn", "Me") else 0
        if mark == "\n":
            shown.append("\u21b5\n")
        elif kind in ACTING:
            shown.append(code_point(mark))
        elif pile <= 2:
            shown.append(mark)
    return "".join(shown[:most]) + ("\u2026" if len(text) > most else "")


def harmless(value: Any) -> Any:
    """A CSV cell that no spreadsheet takes for a formula: text that starts like one gets a quote."""
    if not isinstance(value, str) or not value:
        return value
    text = value.replace("\x00", "")
    return f"'{text}" if text.lstrip(" \u00a0\ufeff")[:1] in _FORMULA or text[:1] in "\t\r\n" else text


_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")


def csv(frame: pd.DataFrame, *, short: bool = False) -> str:
    """The frame as CSV without its index, numbers in full, text harmless.

    short: numbers to 12 digits, and columns with nothing in any row left out.
    """
    nothing = [name for name in frame.columns if short and _nothing(frame[name])]
    safe = frame.drop(columns=nothing)
    safe.columns = [harmless(str(name)) for name in safe.columns]
    for name in safe.columns[safe.dtypes.map(lambda kind: not pd.api.types.is_numeric_dtype(kind))]:
        safe[name] = safe[name].map({value: harmless(value) for value in safe[name].unique()})
    return safe.to_csv(index=False, lineterminator="\n", float_format="%.12g" if short else None)


def _nothing(column: pd.Series) -> bool:
    """Whether all rows lack both a number and a text."""
    return bool((column.isna() | column.astype(object).eq("")).all())


OF_DENSE_TOKENS = {"perplexity", "fdt", "sdt", "agreement", "kl_mean", "dppl"}  # metrics of dense's windows


def not_applicable(row: Row, others: Mapping[str, Row]) -> str | None:
    """Why a variant is not asked a task, of which `others` are the rows; None if only its cell is missing."""
    known, metrics = catalog.known(), {one["metric"] for one in others.values()}
    names = [name for name in row["method"].split(" + ") if name in known]
    if any(known[name].retokenises for name in names) and not metrics.isdisjoint(OF_DENSE_TOKENS):
        return catalog.OTHER_TOKENS
    asks = next((one["asks"] for one in others.values() if one["asks"]), "")
    return inapplicable(row["runtime"], asks) or None
