"""A checkpoint in the bitmap format and back, file by file and tensor by tensor: one is in memory at a time.

    encode(folder, out)        # NAME.safetensors -> NAME.bitmap.safetensors
    decode(out, again)         # the files of `folder`, byte for byte

The format of the tensors is that of `kick.model.bitmap` (after Endor, arXiv 2406.11674). A file's own header
and the checksum of its bytes are kept in the metadata, so that what is decoded is the file that was encoded,
and is known to be. transformers does not load the bitmap files; it loads what `decode` writes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kick.compress.checkpoint import check_out
from kick.errors import Damaged, KickError
from kick.model.bitmap import FORMAT, packed, unpacked
from kick.store.processes import mark

ENDING = ".bitmap.safetensors"
FILES = "bitmap.json"  # in kick/: sizes before and after
_WORDS = {2: np.uint16, 4: np.uint32, 8: np.uint64}
_WIDTHS = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
}  # bytes of a value; tensors of other types are left as they are
_MOST = 100_000_000  # bytes of a header, as safetensors itself has it


def encode(folder: Path, out: Path) -> dict[str, Any]:
    """Write the checkpoint `folder` to the new folder `out` in the bitmap format; bytes of each file.

    Returns {"files": {name: {"dense", "bitmap"}}}. Raises KickError if there is nothing to encode, or `out`
    is there already.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise KickError(f"{folder} holds no safetensors file; expected a checkpoint")
    with _made(out) as scratch:
        sizes = {}
        for file in files:
            made = scratch / f"{file.name.removesuffix('.safetensors')}{ENDING}"
            _encode(file, made)
            sizes[file.name] = {"dense": file.stat().st_size, "bitmap": made.stat().st_size}
        _others(folder, scratch, skip="*.safetensors")
        (scratch / "kick").mkdir(exist_ok=True)
        (scratch / "kick" / FILES).write_text(json.dumps({"files": sizes}, indent=1) + "\n")
    return {"files": sizes}


def decode(folder: Path, out: Path) -> list[Path]:
    """Write the checkpoint that was encoded into `folder` to the new folder `out`; its files.

    Raises KickError if `folder` does not hold one, or `out` is there already, Damaged if a file's bytes are
    not those that were encoded.
    """
    files = sorted(folder.glob(f"*{ENDING}"))
    if not files:
        raise KickError(f"{folder} holds no *{ENDING}; expected what `kick compress --format bitmap` wrote")
    with _made(out) as scratch:
        names = [f"{file.name.removesuffix(ENDING)}.safetensors" for file in files]
        for file, name in zip(files, names, strict=True):
            _decode(file, scratch / name)
        _others(folder, scratch, skip=f"*{ENDING}")
        (scratch / "kick" / FILES).unlink(missing_ok=True)
    return [out / name for name in names]


@contextmanager
def _made(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes it at the end; nothing is left of it if it does not come to that."""
    check_out(out)
    prefix = f".{out.name}-{mark(os.getpid())}-"  # by which `check_out` knows what a killed command left
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=prefix) as beside:
            scratch = Path(beside) / "checkpoint"
            scratch.mkdir()
            yield scratch
            if out.exists():
                out.rmdir()
            os.replace(scratch, out)
    except OSError as error:
        raise KickError(f"{out} cannot be written: {error.strerror or error}") from error


def _others(folder: Path, out: Path, skip: str) -> None:
    """Copy what is not weights: config, tokenizer, the manifest and masks in kick/."""
    for one in folder.iterdir():
        if one.is_dir():
            shutil.copytree(one, out / one.name)
        elif not one.match(skip):
            shutil.copy2(one, out / one.name)


# ---------------------------------------------------------------------------------------- one file


def _encode(file: Path, made: Path) -> None:
    with file.open("rb") as read, made.open("wb") as write:
        text, start = _header(read, file)
        tensors = _tensors(text, file, file.stat().st_size - start)
        room = _room(text, tensors)
        write.seek(8 + room)
        entries: dict[str, Any] = {}
        at = 0
        for name, kind, shape, first, last in tensors:
            read.seek(start + first)
            raw = read.read(last - first)
            for part in _parts(name, kind, shape, raw):
                at += write.write(part[3])
                entries[part[0]] = {
                    "dtype": part[1],
                    "shape": list(part[2]),
                    "data_offsets": [at - len(part[3]), at],
                }
        read.seek(0)
        told = {"format": FORMAT, "header": text, "sha256": hashlib.file_digest(read, "sha256").hexdigest()}
        head = json.dumps({"__metadata__": told, **entries}).encode()
        write.seek(0)
        write.write(room.to_bytes(8, "little") + head + b" " * (room - len(head)))


Part = tuple[str, str, tuple[int, ...], bytes]  # name, type, shape, bytes


def _parts(name: str, kind: str, shape: tuple[int, ...], raw: bytes) -> list[Part]:
    """A tensor as shape, values and bitmap, together a multiple of eight bytes, so that what follows is
    aligned; as it is if that is not smaller."""
    width = _WIDTHS.get(kind)
    if width is None:
        return [(name, kind, shape, raw)]
    bitmap, values = (part.tobytes() for part in packed(np.frombuffer(raw, _WORDS[width])))
    if len(bitmap) + len(values) >= len(raw):
        return [(name, kind, shape, raw)]
    size = np.array(shape, dtype=np.int64)
    bitmap += b"\0" * (-(len(values) + len(bitmap)) % 8)
    return [
        (f"{name}.shape", "I64", size.shape, size.tobytes()),
        (f"{name}.values", kind, (len(values) // width,), values),
        (f"{name}.bitmap", "U8", (len(bitmap),), bitmap),
    ]


def _decode(file: Path, made: Path) -> None:
    with file.open("rb") as read, made.open("wb") as write:
        text, start = _header(read, file)
        told = _loaded(text, file).get("__metadata__")
        if not isinstance(told, Mapping) or told.get("format") != FORMAT or "header" not in told:
            raise KickError(f"{file} is not in the bitmap format of `kick compress --format bitmap`")
        held = {one[0]: one for one in _tensors(text, file, file.stat().st_size - start)}
        own = str(told["header"]).encode()
        write.write(len(own).to_bytes(8, "little") + own)
        for name, kind, shape, first, last in _tensors(str(told["header"]), file, None):
            raw = _bytes(read, start, held, name, math.prod(shape), kind)
            if len(raw) != last - first:
                raise Damaged(f"{file}: {name} has {len(raw)} bytes, expected {last - first}")
            write.write(raw)
    with made.open("rb") as written:
        if hashlib.file_digest(written, "sha256").hexdigest() != told.get("sha256"):
            raise Damaged(f"{file} does not give the bytes that were encoded; nothing was written")


def _bytes(read: BinaryIO, start: int, held: Mapping[str, Placed], name: str, count: int, kind: str) -> bytes:
    """The bytes of a tensor: as they are, or unpacked."""

    def part(what: str) -> bytes:
        if what not in held:
            raise Damaged(f"{what} is missing among the tensors")
        *_, first, last = held[what]
        read.seek(start + first)
        return read.read(last - first)

    if name in held:
        return part(name)
    if kind not in _WIDTHS:
        raise Damaged(f"{name} is missing among the tensors")
    try:
        bits = np.frombuffer(part(f"{name}.bitmap"), np.uint8)
        values = np.frombuffer(part(f"{name}.values"), _WORDS[_WIDTHS[kind]])
        return unpacked(bits, values, count).tobytes()
    except ValueError as error:
        raise Damaged(f"{name}: {error}") from error


def _header(read: BinaryIO, file: Path) -> tuple[str, int]:
    """The text of a safetensors header, and where its data begin."""
    size = int.from_bytes(read.read(8), "little")
    if not 2 <= size <= _MOST:
        raise Damaged(f"{file} is not a safetensors file: its header would have {size:,} bytes")
    try:
        return read.read(size).decode(), 8 + size
    except UnicodeDecodeError as error:
        raise Damaged(f"{file} is not a safetensors file: {error}") from error


def _loaded(text: str, file: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise Damaged(f"{file} is not a safetensors file: {error}") from error
    if not isinstance(found, dict):
        raise Damaged(f"{file} is not a safetensors file: its header is not a mapping")
    return found


Placed = tuple[str, str, tuple[int, ...], int, int]  # name, type, shape, first byte, behind the last


def _tensors(text: str, file: Path, size: int | None) -> list[Placed]:
    """The tensors of a header in the order of their bytes, which fill the `size` bytes of data."""
    found = []
    try:
        for name, entry in _loaded(text, file).items():
            if name != "__metadata__":
                first, last = map(int, entry["data_offsets"])
                found.append((name, str(entry["dtype"]), tuple(map(int, entry["shape"])), first, last))
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{file} is not a safetensors file: {error!r} in its header") from error
    found.sort(key=lambda one: (one[3], one[4]))
    ends = [0, *(one[4] for one in found)]
    if any(first != end for (*_, first, _), end in zip(found, ends, strict=False)) or size not in (
        None,
        ends[-1],
    ):
        raise Damaged(f"{file}: the tensors of its header do not fill its bytes")
    return found


def _room(text: str, tensors: list[Placed]) -> int:
    """Bytes that the header may take: that of the file, escaped once more, and three entries per tensor."""
    entries = sum(3 * (len(json.dumps(name)) + 200 + 24 * len(shape)) for name, _, shape, *_ in tensors)
    return (len(json.dumps(text)) + entries + 400) // 8 * 8 + 8
