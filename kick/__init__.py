"""kick: measures what compression does to a language model.

    kick.plan, kick.run, kick.compress_model, kick.results, kick.compare

`kick.api` says what they do. They are imported when they are first asked for: `import kick` brings in neither
torch nor pandas.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kick.errors import CellFailed, KickError

if TYPE_CHECKING:
    from kick.api import compare, compress_model, plan, results, run
    from kick.sweep.run import RunOptions

__version__ = "0.1.0"

__all__ = [
    "CellFailed",
    "KickError",
    "RunOptions",
    "__version__",
    "compare",
    "compress_model",
    "plan",
    "results",
    "run",
]

_LAZY = dict.fromkeys(("compare", "compress_model", "plan", "results", "run"), "kick.api")
_LAZY["RunOptions"] = "kick.sweep.run"


def __getattr__(name: str) -> Any:
    """One of the five functions, or the options of a run."""
    if name not in _LAZY:
        raise AttributeError(f"module 'kick' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
