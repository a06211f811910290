"""What a worker process imports: transformers without what it takes along for work that no job has.

Where they are installed, transformers imports scikit-learn, for assisted generation, accelerate imports
boto3, for SageMaker, and requests imports chardet, in place of which it takes charset_normalizer: 55 MB of a
worker's 560.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

UNUSED = ("sklearn", "boto3", "chardet")
TAKES_ALONG = ("requests", "transformers.modeling_utils", "transformers.generation.candidate_generator")
T = TypeVar("T")


@contextmanager
def absent(*names: str) -> Iterator[None]:
    """Within it packages that are not imported yet are as if they were not installed."""
    hidden = {name: None for name in names if name not in sys.modules}
    modules: dict[str, Any] = sys.modules
    modules.update(hidden)
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]


def prepare() -> None:
    """Import transformers without packages that no job uses; those can be imported afterwards."""
    with absent(*UNUSED):
        for name in TAKES_ALONG:
            importlib.import_module(name)


class Prepared:
    """Sent before a work: calls `prepare` where it arrives, before the work's own modules are imported."""

    def __reduce__(self) -> tuple[Any, ...]:
        return prepare, ()


def arrive(_: Prepared | None, kind: Callable[..., T], given: Mapping[str, Any]) -> T:
    """The work that `kind` makes of what was given, in the process that it was sent to."""
    return kind(**given)
