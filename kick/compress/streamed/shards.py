"""A checkpoint's safetensors files, written block by block, no file larger than asked for.

The number of files is known at the end: until then they are parts, whose entries the caller keeps, so that
a later process can cut off what was half written and go on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kick.model.stored import StoredTensor, TensorFile

LIMIT = 5 * 10**9  # bytes of a file: what model hubs take well


class Shards:
    """Files to which tensors are added in order; a file that would grow past `limit` is followed by a next.

    Args:
        room: bytes of each file's header, see `kick.model.stored.header_room`.
        entries: of each file that an earlier process wrote.
    """

    def __init__(self, folder: Path, room: int, limit: int = LIMIT, entries: Sequence[Mapping] = ()):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.room, self.limit = folder, room, limit
        self.files = [TensorFile(self._part(number), room, one) for number, one in enumerate(entries)]
        for left in set(folder.glob("part-*")) - {file.path for file in self.files}:
            left.unlink()

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number}"

    def _file(self, size: int, dtype: torch.dtype) -> TensorFile:
        """The file for a tensor: values must begin at a multiple of their size."""
        last = self.files[-1] if self.files else None
        if last is None or (last.end and last.end + size > self.limit) or last.end % dtype.itemsize:
            last = TensorFile(self._part(len(self.files)), self.room)
            self.files.append(last)
        return last

    def add(self, name: str, tensor: Tensor) -> StoredTensor:
        """Append a tensor; where it lies."""
        return self._file(tensor.nbytes, tensor.dtype).add(name, tensor)

    def copy(self, name: str, given: StoredTensor, dtype: torch.dtype) -> StoredTensor:
        """Append a tensor of another file in the type asked for, without holding it whole."""
        size = given.nbytes // given.dtype.itemsize * dtype.itemsize
        return self._file(size, dtype).copy(name, given, dtype)

    def entries(self) -> list[dict[str, Any]]:
        """What a later process needs to go on from here."""
        return [file.entries for file in self.files]

    def close(self) -> None:
        """Close the files as they are."""
        for file in self.files:
            file.close()


def finish(folder: Path, room: int, entries: Sequence[Mapping[str, Any]], parameters: int) -> None:
    """Give the closed files their headers and names, and write the index of several as transformers does.

    May be repeated after a kill: a file that has its name already is whole.
    """
    count, where = len(entries), dict[str, str]()
    for number, one in enumerate(entries):
        name = "model.safetensors" if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        if not (folder / name).exists():
            part = TensorFile(folder / f"part-{number}", room, one)
            part.seal({"format": "pt"})
            os.replace(part.path, folder / name)
        where |= dict.fromkeys(one, name)
    if count > 1:
        offsets = [entry["data_offsets"] for one in entries for entry in one.values()]
        total = sum(end - start for start, end in offsets)
        index = {"metadata": {"total_parameters": parameters, "total_size": total}, "weight_map": where}
        text = json.dumps(index, indent=2, sort_keys=True)
        (folder / "model.safetensors.index.json").write_text(text + "\n")
