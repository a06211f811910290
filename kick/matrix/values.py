"""Values of a matrix file's keys: what each kind of text and number may be."""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictStr

from kick.matrix.yaml_marks import show
from kick.printable import plain
from kick.registry import unknown

LARGEST_SEED = 2**64 - 1  # of torch's generators
SEED = "a whole number from 0 to 2^64 - 1"

LONGEST_LABEL = 100  # characters
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


class Refused(ValueError):
    """Error of a value whose text is the whole message."""


def number(value: Any) -> Any:
    """Text that spells a number ("1e-5") counts as one; true and false do not."""
    if isinstance(value, bool):
        raise ValueError("a number")
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    return value


def whole(value: Any) -> Any:
    value = number(value)
    if isinstance(value, float) and not value.is_integer():
        raise ValueError("a whole number")
    return value


def name(value: Any) -> Any:
    if isinstance(value, str) and not _NAME.fullmatch(value):
        raise ValueError("letters, digits, - and _ only")
    return value


def label(value: Any) -> Any:
    """A label without blanks around it; it is printed in tables, so nothing in it may act on a terminal."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if not text or len(text) > LONGEST_LABEL or plain(text) != text:
        raise ValueError("a label")
    return text


def auto(value: Any) -> Any:
    return None if value == "auto" else whole(value)


def listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def growing(values: tuple[int, ...]) -> tuple[int, ...]:
    if any(later <= earlier for earlier, later in itertools.pairwise(values)):
        raise ValueError("growing numbers")
    return values


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = [value for index, value in enumerate(values) if value in values[:index]]
    if twice:
        raise Refused(f"{show(twice[0])} is given twice; keep one")
    return values


def one_of(kind: str, names: tuple[str, ...]) -> BeforeValidator:
    def check(value: Any) -> Any:
        if isinstance(value, str) and value not in names:
            raise Refused(unknown(kind, value, names))
        return value

    return BeforeValidator(check)


def address(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not re.match(r"https?://", value):
        raise Refused(f"got {value!r}; expected: an address that starts with http:// or https://")
    if "@" in value.split("//", 1)[1].split("/", 1)[0]:
        raise Refused("a name or key in the address; the key is read from the environment only")
    return value


def variable(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z_]\w{0,99}", value):
        raise Refused("not a valid name of an environment variable; expected: its name, never the key itself")
    return value


Text: TypeAlias = Annotated[StrictStr, Field(min_length=1)]
Label: TypeAlias = Annotated[StrictStr, BeforeValidator(label)]
Address: TypeAlias = Annotated[Text, BeforeValidator(address)]
Whole: TypeAlias = Annotated[int, BeforeValidator(whole)]
Number: TypeAlias = Annotated[float, BeforeValidator(number)]


LABEL = f"a label for people: one line of text, at most {LONGEST_LABEL} characters"


class Keys(BaseModel):
    """A mapping of a matrix file: its keys are known, its values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
