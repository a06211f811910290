"""Provenance of a number: versions, git commit, machine, command. No secret of the environment."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import kick

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "lm-eval",
    "datasets",
    "numpy",
    "pandas",
    "pyarrow",
    "compressed-tensors",
    "safetensors",
    "rouge-score",
)


def provenance(command: list[str] | None = None) -> dict[str, Any]:
    """JSON values for run.json: kick's version and commit, package versions, machine, command, time (UTC)."""
    return {
        "kick": kick.__version__,
        **_git(),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": machine(),
        "command": command or [],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


@cache
def _git() -> dict[str, Any]:
    """The commit of kick's own checkout and whether it has changes; none for an installed package."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}
    commit = _run("git", "-C", str(root), "rev-parse", "HEAD")
    changed = _run("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit or None, "dirty": None if changed is None else bool(changed)}


def _run(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or not ours to read: the commit is then unknown, and said to be
    return done.stdout.strip()


@cache
def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory in bytes, operating system, accelerators in use."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": pages,
        "system": platform.platform(terse=True),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            found["accelerators"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
