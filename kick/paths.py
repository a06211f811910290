"""The cache and what is kept under it, the device to compute on, and staying off the hub."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from kick.errors import KickError
from kick.records import KEY_VERSION, Variant

log = logging.getLogger(__name__)

OFFLOAD_VARIABLE = "KICK_OFFLOAD"
_OFFLINE = {
    "huggingface_hub.constants": ("HF_HUB_OFFLINE",),
    "datasets.config": ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"),
}


def cache_root() -> Path:
    """The folder for converted models and digests: $XDG_CACHE_HOME/kick, else ~/.cache/kick.

    Raises KickError if there is no home folder.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kick"
    except RuntimeError as error:
        raise KickError(
            f"no folder for the cache: {error}; set XDG_CACHE_HOME to a writable folder"
        ) from error


@contextmanager
def spare(file: Path, *errors: type[Exception]) -> Iterator[None]:
    """Context for files that only save time: if one cannot be written, that is said and no result is lost.

    `errors`: what else writing raises, beside OSError.
    """
    failures: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except failures as error:
        _say_once(file.parent, str(error))


def keep(file: Path, text: str) -> None:
    """Write a file that only saves time, whole or not at all, as `spare` has it."""
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    with spare(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, "utf-8")
        os.replace(beside, file)


@cache
def _say_once(folder: Path, reason: str) -> None:
    log.warning("the cache %s cannot be written (%s): going on without it", folder, reason)


def rates_file() -> Path:
    """The file of this machine's rates: $XDG_CACHE_HOME/kick/rates.json."""
    return cache_root() / "rates.json"


def tokens_folder(tokenizer: str) -> Path:
    """The folder for the token ids of texts, by the tokenizer's digest."""
    return cache_root() / "tokens" / tokenizer[:16]


def reference_folder(root: str, matrix: str, dense: Variant, engine: str = "") -> Path:
    """The folder of the dense model's reference: beside the cells, or in the cache for a store by URL.

    What an earlier version computed, another tokenizer's token ids, or what an engine with keys of its own
    (`Cell.engine`) computed, is not read.
    """
    beside = Path(root) / matrix / ".reference"
    spec = dense.model
    name = f"{spec.digest[:16]}-{spec.tokenizer[:8]}-{spec.dtype}-v{KEY_VERSION}"
    name += f"-{engine.replace(' ', '-')}" if engine else ""
    return (cache_root() / "reference" / matrix if "://" in root else beside) / name


EXPERTS = 2**30  # bytes of a block's experts, in float32, up to which a block of a large model is read whole


def offload_folder() -> Path | None:
    """The folder for hidden states and sums of gradients, in place of memory, while a model is calibrated.

    It is the folder that KICK_OFFLOAD names; results do not depend on it. Raises KickError if it is not one.
    """
    named = os.environ.get(OFFLOAD_VARIABLE)
    if not named:
        return None
    if not Path(named).is_dir():
        raise KickError(f"{OFFLOAD_VARIABLE}={named!r} is not a folder; name one that exists, on a fast disk")
    return Path(named)


def device() -> str:
    """The device to compute on: the GPU, or else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def offline() -> None:
    """Never ask the hub, for the rest of this process and in the processes that it starts.

    The hub's libraries read the variables once, as they are imported; those that are already are told.
    """
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    for module, names in _OFFLINE.items():
        for name in names if module in sys.modules else ():
            setattr(sys.modules[module], name, True)
