"""Statistics of the dense model on disk: with propagate "dense" one pass serves every method and level.

A folder belongs to one model and one set of calibration sequences; whoever gives it names it after both.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from kick.compress.calibrate.statistics import Statistic
from kick.paths import spare

S = TypeVar("S", bound=Statistic)
_VERSION = 2  # of what is written: files of an older one are not read
_FACTS = ("inputs", "samples", "tokens", "seen")


class Memory:
    """One file for each kind of statistic and block. A kind is read once all of its blocks were written."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._whole = True  # no block's file was lost

    def _of(self, kind: type[Statistic]) -> Path:
        return self.folder / f"{kind.kind}-v{_VERSION}"

    def get(self, kind: type[S], block: int, device: torch.device) -> dict[str, S] | None:
        """A block's statistics by linear's name, shared objects shared again; None: not all are here."""
        if not (self._of(kind) / "complete").is_file():
            return None
        file = self._of(kind) / f"{block}.safetensors"
        tensors = load_file(file, device=str(device))
        index = json.loads(file.with_suffix(".json").read_text())
        made: dict[int, S] = {}
        for number, facts in enumerate(index["statistics"]):
            statistic = kind(facts["inputs"], device)
            statistic.samples, statistic.tokens = facts["samples"], facts["tokens"]
            statistic.seen = facts["seen"]
            statistic.tensors = {name: tensors[f"{number}.{name}"] for name in statistic.tensors}
            made[number] = statistic
        return {name: made[number] for name, number in index["linears"].items()}

    def put(self, kind: type[S], block: int, blocks: int, found: dict[str, S]) -> None:
        """Keep a block's statistics; after the last of `blocks` the kind is complete, if none was lost."""
        folder = self._of(kind)
        distinct = list({id(statistic): statistic for statistic in found.values()}.values())
        number = {id(statistic): place for place, statistic in enumerate(distinct)}
        tensors = {
            f"{place}.{name}": tensor
            for place, statistic in enumerate(distinct)
            for name, tensor in statistic.tensors.items()
        }
        index = {
            "linears": {name: number[id(statistic)] for name, statistic in found.items()},
            "statistics": [{name: getattr(s, name) for name in _FACTS} for s in distinct],
        }
        file = folder / f"{block}.safetensors"
        beside = file.with_suffix(f".{os.getpid()}")
        before, self._whole = self._whole, False
        with spare(self.folder, SafetensorError):
            folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, beside)
            os.replace(beside, file)
            beside.write_text(json.dumps(index))
            os.replace(beside, file.with_suffix(".json"))
            if before and block == blocks - 1:
                (folder / "complete").touch()
            self._whole = before
