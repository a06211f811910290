"""Another program's JSON with its types checked: what is wrong with it is a KickError of one line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from kick.errors import KickError

SHOWN = 60  # characters of a wrong value


class Form(BaseModel):
    """Keys of another program's file with their types; other keys are kept, unread."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


F = TypeVar("F", bound=Form)


def parsed(place: str, data: bytes) -> Any:
    """The JSON value in these bytes; `place` is what an error names. Raises KickError."""
    try:
        value = json.loads(data)
        if b"\\ud" in data.lower():  # half of a character can be written in JSON, and nowhere else
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise KickError(f"{place}: not JSON: {error}; is the file whole?") from None
    return value


def checked(place: str, value: Any, form: type[F], what: str) -> F:
    """The value in this form, `what` in words. Raises KickError that names the first wrong key."""
    try:
        return form.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    at, got = ".".join(map(str, _reached(value, first["loc"]))), repr(first["input"])
    if first["type"] == "missing":
        wrong = f"no {'.'.join(map(str, first['loc']))}"
    else:
        said = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        wrong = f"{at + ': ' if at else ''}got {got[:SHOWN]}{'...' if got[SHOWN:] else ''}; {said}"
    raise KickError(f"{place}: {wrong}; not {what}") from None


def _reached(value: Any, path: Sequence[int | str]) -> list[int | str]:
    """The path as far as it is in the value; pydantic ends some with names of types."""
    found: list[int | str] = []
    for one in path:
        there = one in value if isinstance(value, dict) else isinstance(value, list) and isinstance(one, int)
        if not there:
            break
        value = value[one]
        found.append(one)
    return found
