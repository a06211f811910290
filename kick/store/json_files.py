"""run.json and failed.json as text: strict JSON, run.json with a checksum of itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from kick.records import Cell, Result, canonical, cell_from_json, jsonable

RUN, FAILED = "run.json", "failed.json"


@dataclass(frozen=True)
class Failure:
    """The content of failed.json. `cell` is None if only the key was known; `time`: seconds since 1970."""

    key: str
    cause: str
    cell: Cell | None = None
    traceback: str = ""
    log: str = ""
    attempts: int = 1
    time: float = 0.0


def render_failure(failure: Failure) -> bytes:
    """The text of failed.json."""
    return json.dumps(asdict(failure), indent=1).encode()


def parse_failure(text: bytes, key: str) -> Failure:
    """The Failure of a failed.json; one that says so if the text is damaged."""
    try:
        data = json.loads(text)
        cell = cell_from_json(data["cell"]) if data.get("cell") else None
        known = {name: data[name] for name in Failure.__dataclass_fields__ if name in data}
        return Failure(**{**known, "cell": cell})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Failure(key, f"failed; its {FAILED} cannot be read ({error})")


def render_run(result: Result) -> bytes:
    """run.json of a Result: strict JSON, with the checksum of all the rest under "checksum"."""
    data = jsonable(result.to_json())
    data["checksum"] = hashlib.sha256(canonical(data).encode()).hexdigest()
    return json.dumps(data, indent=1).encode()


def parse_run(text: bytes, key: str) -> Result:
    """The Result of a run.json. Raises ValueError saying what is damaged; one without a checksum is taken."""
    try:
        data = json.loads(text)
        checksum = data.pop("checksum", None)
        if checksum is not None and hashlib.sha256(canonical(data).encode()).hexdigest() != checksum:
            raise ValueError("its own checksum does not match")
        result = Result.from_json(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{RUN} ({len(text):,} bytes): {error}") from error
    if result.key != key:
        raise ValueError(f"{RUN} is of cell {result.key}, but lies in the folder of {key}")
    return result
