"""Compression by another library, in a Python of its own.

`made` hands over a folder and token ids, and gets a checkpoint. `maker.py` is what that Python runs; it has
no kick. `steps.py` has the methods, for `--plugins`.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from kick import paths
from kick.errors import CellFailed, KickError
from kick.printable import plain

MAKER = Path(__file__).with_name("maker.py")
VARIABLE = "KICK_LLMCOMPRESSOR_PYTHON"
PACKAGES = {"llmcompressor": "llmcompressor", "autoround": "auto-round"}  # by method


def python_of(library: str) -> str:
    """The Python that has a library. Raises KickError if none is named, or the one that is lacks it."""
    version_of(library)
    return os.environ[VARIABLE]


def version_of(library: str) -> str:
    """The version of a library in the Python that has it. Raises KickError as `python_of` does."""
    named, package = os.environ.get(VARIABLE, ""), PACKAGES[library]
    if not named:
        raise KickError(
            f"{library} runs in an environment of its own: set {VARIABLE} to the python of one that has "
            f"{package}"
        )
    found, problem = _asked(named, package)
    if problem:
        raise KickError(f"{VARIABLE}={named}: {problem}")
    return found


@cache
def _asked(python: str, package: str) -> tuple[str, str]:
    """The version of a package in that Python, and why there is none, "" if there is."""
    asked = f"import importlib.metadata as m; print(m.version({package!r}))"
    try:
        done = subprocess.run(
            [python, "-I", "-c", asked], capture_output=True, text=True, check=False, timeout=120
        )
    except OSError as error:
        return "", f"not a python that runs ({error.strerror})"
    except subprocess.TimeoutExpired:
        return "", "did not answer within two minutes"
    problem = "" if done.returncode == 0 else f"it does not have the package {package}"
    return done.stdout.strip(), problem


def made(
    library: str, folder: Path, tokens: Sequence[Tensor], options: Mapping[str, Any], out: Path, seed: int = 0
) -> dict[str, Any]:
    """Compress the checkpoint in `folder` into `out`; versions and CPU seconds of the compression.

    Args:
        tokens: calibration sequences (1, length); the library gets these ids.
        options: of the step, JSON values.

    Raises:
        KickError: there is no Python that has the library. CellFailed: it failed; with its last line.
    """
    python = python_of(library)
    job = {
        "model": str(folder),
        "out": str(out),
        "tokens": [one.flatten().tolist() for one in tokens],
        "options": dict(options),
        "seed": seed,
        "threads": int(os.environ.get("OMP_NUM_THREADS", "0")) or len(os.sched_getaffinity(0)),
        "device": paths.device(),
    }
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "job.json"
        file.write_text(json.dumps(job))
        command = [python, "-I", str(MAKER), library, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    facts = out / "made.json"
    if done.returncode or not facts.is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = plain(lines[-1].strip()) if lines else "it said nothing"
        raise CellFailed(f"{library} failed with exit status {done.returncode}: {said}")
    return json.loads(facts.read_text("utf-8"))
