"""Published numbers as rows of the frame, to go beside ours: llm_kick_published.json, beside this file.

Their models are larger and their scoring looser (an answer anywhere in the text counts, docs/protocol.md),
so shapes compare, not digits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from kick.analysis import traits
from kick.catalog import shipped
from kick.errors import KickError

PACKAGED = Path(__file__).with_name("llm_kick_published.json")
# table 3's key -> (family, metric, unit, factor to our scale)
_TABLE_3 = {
    "factoid_qa_percent": ("factoid_qa", "containment, as published", "share", 0.01),
    "mcr_qa_accuracy": ("mcr_qa", "accuracy, as published", "share", 1.0),
    "summarization_long_coherence_judge": ("summarization", "judge: coherence, long stories", "points", 1.0),
    "instruction_following_judge": ("instruction_following", "judge", "points", 1.0),
}


def load(path: Path = PACKAGED) -> Mapping[str, Any]:
    """The published numbers. Raises KickError if the file is not valid."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise KickError(f"{path} cannot be read as the published numbers: {error}") from error


def pruning(family: str, numbers: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """The paper's scores by unstructured sparsity for a task family; empty if it has none."""
    numbers = numbers or load()
    return pd.DataFrame(list(_rows(family, numbers)))


def _rows(family: str, numbers: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    table = numbers["table_3_unstructured"]
    for name, (of, metric, unit, factor) in _TABLE_3.items():
        if of != family:
            continue
        for method, scores in table[name].items():
            for sparsity, score in zip(table["sparsity"], scores, strict=True):
                yield {
                    "matrix": "published",
                    "base": numbers["model"],
                    "label": f"{method} {100 * sparsity:g} %" if sparsity else "dense",
                    "method": method if sparsity else "dense",
                    "place": shipped()[method].order if sparsity else traits.DENSE_PLACE,
                    "dense": sparsity == 0,
                    "sparsity": sparsity,
                    "pattern": "unstructured" if sparsity else "",
                    "bits": math.nan,
                    "replica": "",
                    "task": family,
                    "title": family.replace("_", " "),
                    "setting": "",
                    "group": "",
                    "metric": metric,
                    "unit": unit,
                    "higher_is_better": True,
                    "value": score * factor,
                    "low": math.nan,
                    "high": math.nan,
                    "noise": math.nan,
                    "published": True,
                }
