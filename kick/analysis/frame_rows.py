"""Rows of the frame (`kick.analysis.frame`): the headline ones, and rows as dicts."""

from __future__ import annotations

from typing import Any

import pandas as pd

SECTION = ["matrix", "base"]


def headlines(frame: pd.DataFrame, *, replicas: bool = False) -> pd.DataFrame:
    """The headline metric of every task over all items; dense replicas left out unless asked for."""
    rows = frame[frame["primary"] & (frame["group"] == "")]
    return rows if replicas else rows[rows["replica"] == ""]


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dicts, which are read much faster than a frame's rows."""
    names = list(rows.columns)
    columns = [rows[name].tolist() for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
