"""Samples as the rows of a Parquet file, Responses as JSON text; equal samples give equal bytes.

Columns: item, prompt, preview, target, group (text), responses (a list of JSON texts, one a Response),
and one float64 column `score:<metric>` per score; NaN is a score that could not be computed.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kick.records import Response, Sample, jsonable

SCORE = "score:"
TEXTS = ("item", "prompt", "preview", "target", "group")
RESPONSES = pa.list_(pa.string())
_DEFAULTS = {field.name: field.default for field in fields(Response)}


def response_to_json(response: Response) -> dict[str, Any]:
    """The fields that the response has, as strict JSON values: NaN and infinities become their names."""
    found = {name: getattr(response, name) for name in _DEFAULTS}
    return {name: jsonable(value, str) for name, value in found.items() if value != _DEFAULTS[name]}


def response_from_json(data: Mapping[str, Any]) -> Response:
    """The Response that `response_to_json` was taken of; unknown fields are left out."""
    known = {name: data[name] for name in _DEFAULTS if name in data}
    if isinstance(known.get("logprob"), str):
        known["logprob"] = float(known["logprob"])
    if known.get("tokens") is not None:
        known["tokens"] = tuple(known["tokens"])
    if known.get("values") is not None:
        known["values"] = {name: float(value) for name, value in known["values"].items()}
    return Response(**known)


def to_parquet(samples: Sequence[Sample]) -> bytes:
    """The samples as a zstd-compressed Parquet file, in the order given."""
    columns: dict[str, pa.Array] = {
        name: pa.array([_utf8(getattr(sample, name)) for sample in samples], pa.string()) for name in TEXTS
    }
    columns["responses"] = pa.array([_texts(sample) for sample in samples], RESPONSES)
    for metric in sorted({name for sample in samples for name in sample.scores}):
        scores = [float(sample.scores.get(metric, math.nan)) for sample in samples]
        columns[SCORE + metric] = pa.array(scores, pa.float64(), from_pandas=False)
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return sink.getvalue()


def _texts(sample: Sample) -> list[str]:
    return [json.dumps(response_to_json(response), sort_keys=True) for response in sample.responses]


def _utf8(text: str) -> str:
    """The text as it can be written: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def from_parquet(data: bytes) -> list[Sample]:
    """The samples of such a file. Raises ValueError (pyarrow.ArrowInvalid is one) on bytes that are none."""
    file, scores = _opened(data)
    table = file.read(columns=[*TEXTS, "responses", *scores.values()], use_threads=False)
    texts = {name: table.column(name).to_pylist() for name in (*TEXTS, "responses")}
    numbers = {metric: table.column(name).to_pylist() for metric, name in scores.items()}
    return [
        Sample(
            **{name: texts[name][row] for name in TEXTS},
            responses=tuple(response_from_json(json.loads(text)) for text in texts["responses"][row]),
            scores={metric: values[row] for metric, values in numbers.items()},
        )
        for row in range(table.num_rows)
    ]


def arrays_of(data: bytes) -> tuple[list[str], list[str], dict[str, np.ndarray]]:
    """The items, their groups, and each metric's float64 array (n,), from such a file; texts are not read.

    Raises ValueError on bytes that are none.
    """
    file, scores = _opened(data)
    table = file.read(columns=["item", "group", *scores.values()], use_threads=False)
    found = {metric: table.column(name).to_numpy() for metric, name in scores.items()}
    return table.column("item").to_pylist(), table.column("group").to_pylist(), found


def _opened(data: bytes) -> tuple[pq.ParquetFile, dict[str, str]]:
    """The file, and its score columns by metric, once every column is known to be of its type.

    Columns of other types (a pickled extension type among them) are never decoded.
    """
    file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
    schema = file.schema_arrow
    scores = {name.removeprefix(SCORE): name for name in schema.names if name.startswith(SCORE)}
    expected = dict.fromkeys(TEXTS, pa.string()) | {"responses": RESPONSES}
    for name, kind in (expected | dict.fromkeys(scores.values(), pa.float64())).items():
        found = schema.field(name).type if name in schema.names else None
        if found is None or not found.equals(kind):
            raise ValueError(f"its column {name!r} is {found or 'missing'}, not {kind}")
    return file, scores
