"""Models that benchmarks/tiny_models.py trains on this machine: the presets `moe` and `ssm` name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from kick.errors import KickError
from kick.paths import cache_root

VERSION = 1  # raised when the script changes what it trains
NAMES = ("tiny-mamba2", "tiny-mixtral")


def folder(name: str) -> Path:
    """Where the script writes a model."""
    return cache_root() / f"{name}-v{VERSION}"


def locate(name: str) -> Path:
    """The folder of a model. Raises KickError if it was not trained here."""
    found = folder(name)
    if not (found / "config.json").is_file():
        raise KickError(
            f"the model {name!r} has not been trained on this machine: expected it in {found}; run "
            f"benchmarks/tiny_models.py {name} in a checkout of kick, which takes some minutes"
        )
    return found


ALIASES: Mapping[str, Callable[[], Path]] = {name: partial(locate, name) for name in NAMES}
