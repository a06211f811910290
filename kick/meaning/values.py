"""JSON values in one form, and keys of them: equal values give equal text and equal keys."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any


def jsonable(value: Any, strange: Callable[[float], Any] = lambda value: None) -> Any:
    """The value as JSON values: mappings, lists, and numbers of numpy or torch as Python's own.

    NaN and infinities, which JSON lacks, become what `strange` gives: null by default.
    """
    if isinstance(value, Mapping):
        return {str(name): jsonable(item, strange) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item, strange) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return strange(value) if isinstance(value, float) and not math.isfinite(value) else value


def canonical(value: Any) -> str:
    """JSON with sorted keys and no blanks: equal values give equal text. Raises ValueError on NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def key(value: Any) -> str:
    """The first 16 hex digits of the sha256 of `canonical(value)`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]
