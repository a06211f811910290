"""Tensors of safetensors files by plain reads and writes: no page of a file is mapped into the process.

    tensors = stored(folder)                # name -> StoredTensor: where it lies
    tensors["lm_head.weight"].read()        # its values, in memory of their own

`TensorFile` is a file that grows: room for the header is left free at its start, and filled in when no more
tensors come.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kick.errors import KickError
from kick.model.heap import untouched

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PIECE = 2**24  # bytes copied at a time
_ENTRY = 256  # bytes of a header that a tensor may take beside its name


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: `start` is its first byte in the file, `held` what `as_held` rounds to."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    held: torch.dtype | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, _: Any) -> Tensor:
        """The whole tensor, as transformers asks for it."""
        return self._held(self.read())

    def get_dtype(self) -> str:
        """The type as the file names it."""
        return _NAMES[self.dtype]

    def read(self) -> Tensor:
        """The values. Raises KickError if the file ends before them."""
        made = torch.empty(self.shape, dtype=self.dtype)
        self._into(made.reshape(-1), 0)
        return made

    def pieces(self) -> Iterator[Tensor]:
        """The values in order, as flat tensors of a few megabytes."""
        count, most = math.prod(self.shape), _PIECE // self.dtype.itemsize
        for first in range(0, count, most):
            part = torch.empty(min(most, count - first), dtype=self.dtype)
            self._into(part, first * self.dtype.itemsize)
            yield part

    def rows(self, chosen: Iterable[int], dtype: torch.dtype) -> Tensor:
        """A tensor of this shape of which only some rows are filled: the others take no memory."""
        made = untouched(self.shape, dtype)
        part = torch.empty(self.shape[1:], dtype=self.dtype)
        for row in sorted(set(chosen)):
            self._into(part.view(-1), row * part.nbytes)
            made[row] = self._held(part)
        return made

    def slices(self, count: int) -> Iterator[Tensor]:
        """The values in order, so many rows at a time."""
        for first in range(0, self.shape[0], count):
            part = torch.empty((min(count, self.shape[0] - first), *self.shape[1:]), dtype=self.dtype)
            self._into(part.view(-1), first * part[0].nbytes)
            yield self._held(part)

    def as_held(self, dtype: torch.dtype) -> StoredTensor:
        """This tensor, its floating-point values rounded to a type where they are computed with."""
        return replace(self, held=dtype) if self.dtype.is_floating_point else self

    def _held(self, values: Tensor) -> Tensor:
        return values if self.held is None else values.to(self.held)

    def _into(self, flat: Tensor, skip: int) -> None:
        descriptor = os.open(self.file, os.O_RDONLY)
        try:
            read_into(descriptor, flat, self.start + skip)
        except EOFError:
            raise KickError(f"{self.file} ends before the values that its header announces") from None
        finally:
            os.close(descriptor)


class EmptyTensor:
    """A stored tensor's form without its values, as transformers' loader takes it."""

    def __init__(self, of: StoredTensor):
        self.of = of

    def __getitem__(self, _: Any) -> Tensor:
        """A tensor without values."""
        return torch.empty(self.of.shape, dtype=self.of.dtype, device="meta")

    def get_dtype(self) -> str:
        """The type as the file names it."""
        return self.of.get_dtype()


def read_into(descriptor: int, tensor: Tensor, start: int) -> None:
    """Fill a tensor with the bytes of a file from `start` on. Raises EOFError if there are too few."""
    view, at = _bytes_of(tensor.reshape(-1)), 0
    while at < len(view):
        got = os.preadv(descriptor, [view[at:]], start + at)
        if not got:
            raise EOFError
        at += got


def write_from(descriptor: int, tensor: Tensor, start: int) -> None:
    """Write a tensor's values to a file from `start` on."""
    view = _bytes_of(tensor.detach().cpu().contiguous().reshape(-1))
    while len(view):
        done = os.pwrite(descriptor, view, start)
        start, view = start + done, view[done:]


def _bytes_of(flat: Tensor) -> memoryview:
    """The memory of a flat tensor."""
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def stored(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a folder's safetensors, by name. Raises KickError for a header that is not one."""
    found: dict[str, StoredTensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= header(file)
    return found


def header(file: Path) -> dict[str, StoredTensor]:
    """Every tensor of a safetensors file, by name. Raises KickError for a header that is not one."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        text = stream.read(min(size, 2**27))
    try:
        entries = json.loads(text)
        return {
            name: StoredTensor(
                file, DTYPES[one["dtype"]], tuple(one["shape"]), 8 + size + one["data_offsets"][0]
            )
            for name, one in entries.items()
            if name != "__metadata__"
        }
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise KickError(f"{file} is not a safetensors file that kick can read: {error}") from error


def header_room(names: Iterable[str]) -> int:
    """Bytes that the header of a file with these tensors has room in."""
    return -(-sum(len(name.encode()) + _ENTRY for name in names) // 64) * 64 + 56  # + 8 of the length


class TensorFile:
    """A safetensors file to which tensors are added one by one.

    Args:
        room: bytes left free for the header, see `header_room`.
        entries: what an earlier process added, as `entries` says; all behind it is cut off.
    """

    def __init__(self, path: Path, room: int, entries: Mapping[str, Any] | None = None):
        self.path, self.room = path, room
        self.entries: dict[str, Any] = dict(entries or {})
        self.end = max((one["data_offsets"][1] for one in self.entries.values()), default=0)
        flags = os.O_RDWR | os.O_CREAT
        self.descriptor = os.open(path, flags, 0o666)
        os.ftruncate(self.descriptor, 8 + room + self.end if self.entries else 0)

    def add(self, name: str, tensor: Tensor) -> StoredTensor:
        """Append a tensor; where it lies now."""
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        return self._append(name, tuple(tensor.shape), tensor.dtype, iter([flat]))

    def copy(self, name: str, given: StoredTensor, dtype: torch.dtype) -> StoredTensor:
        """Append a stored tensor piece by piece, in the type asked for."""
        return self._append(name, given.shape, dtype, (part.to(dtype) for part in given.pieces()))

    def _append(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype, parts: Iterator[Tensor]
    ) -> StoredTensor:
        if name in self.entries:
            raise ValueError(f"{name} is in {self.path} already")
        start = self.end
        for part in parts:
            write_from(self.descriptor, part, 8 + self.room + self.end)
            self.end += part.nbytes
        offsets = [start, self.end]
        self.entries[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": offsets}
        return StoredTensor(self.path, dtype, shape, 8 + self.room + start)

    def seal(self, metadata: Mapping[str, str] | None = None) -> None:
        """Write the header and close the file: it is a safetensors file from now on."""
        known = {"__metadata__": dict(metadata)} if metadata else {}
        text = json.dumps(known | self.entries, separators=(",", ":")).encode()
        if len(text) > self.room:
            raise ValueError(f"a header of {len(text)} bytes does not fit into {self.room}")
        os.pwrite(self.descriptor, self.room.to_bytes(8, "little") + text.ljust(self.room), 0)
        self.close()

    def close(self) -> None:
        """Close the file as it is."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
