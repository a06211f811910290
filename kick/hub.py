"""Whether the hub can be asked, and what of it is here: without a network nobody waits for retries.

The hub's libraries retry for 20 seconds and more per file. So one connection is tried before the first of
them asks; if it fails, the process stays off the hub, as with --offline.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from kick import paths
from kick.printable import say

PATIENCE = 1.5  # seconds for name and connection; a name server alone may take 10
_TRUE = ("1", "ON", "YES", "TRUE")
_PORTS = {"http": 80, "https": 443}


def online() -> bool:
    """Whether the hub may be asked and answers. If it does not answer, nothing asks it from now on."""
    if any(os.environ.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")):
        return False
    place = _place()
    if _answers(*place):
        return True
    say(f"{place[0]} does not answer: only what is on this machine is used, as with --offline")
    paths.offline()
    return False


def _place() -> tuple[str, int]:
    """Host and port of the hub, or of the proxy that leads to it."""
    names = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_ENDPOINT")
    address = next((os.environ[name] for name in names if os.environ.get(name)), "https://huggingface.co")
    parts = urlsplit(address if "://" in address else f"http://{address}")
    return parts.hostname or "huggingface.co", parts.port or _PORTS.get(parts.scheme, 443)


@cache
def _answers(host: str, port: int) -> bool:
    found: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=PATIENCE).close()
            found.append(True)
        except OSError:
            found.append(False)

    thread = threading.Thread(target=connect, daemon=True)  # looking a name up has no time limit of its own
    thread.start()
    thread.join(PATIENCE)
    return found == [True]


def commit_of(folder: Path) -> str | None:
    """The commit that a folder of the hub's cache holds, 40 hex digits; None for another folder."""
    inside = folder.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", folder.name)
    return folder.name if inside else None


def kept(kind: Literal["datasets", "models"], name: str) -> bool:
    """Whether the hub's libraries have something of that data set or model on this machine."""
    home = Path(os.environ.get("HF_HOME") or paths.cache_root().parent / "huggingface")
    caches = [Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()]
    names = {f"{kind}--{name.replace('/', '--')}".lower()}
    if kind == "datasets":
        caches.append(Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets").expanduser())
        names.add(name.replace("/", "___").lower())
    return any(entry.name.lower() in names for one in caches if one.is_dir() for entry in one.iterdir())
