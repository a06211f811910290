"""A GGUF file with all its parts: metadata as Python values, tensors by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from kick.errors import KickError

_UNKNOWN = re.compile(r"(?P<number>\d+)\)? is not a valid GGMLQuantizationType")
_PART = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")


@dataclass(frozen=True, eq=False)
class GgufFile:
    """What a file says. `fields` are its metadata; `tensors` are gguf-py's ReaderTensor, of all parts."""

    path: Path
    fields: Mapping[str, Any]
    tensors: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        """The name that llama.cpp has for the model's kind."""
        found = self.fields.get("general.architecture")
        if not isinstance(found, str):
            raise KickError(f"{self.path.name} has no general.architecture; expected a model's .gguf file")
        return found

    def of_model(self) -> dict[str, Any]:
        """The metadata under the architecture's name, without it: `block_count`, `rope.freq_base`, ..."""
        start = f"{self.architecture}."
        return {k.removeprefix(start): v for k, v in self.fields.items() if k.startswith(start)}

    def has(self, name: str) -> bool:
        """Whether there is a tensor of that name, or of that name in any block (`*` for its number)."""
        if "*" not in name:
            return name in self.tensors
        pattern = re.compile(re.escape(name).replace(r"\*", r"\d+"))
        return any(pattern.fullmatch(tensor) for tensor in self.tensors)

    def array(self, name: str) -> np.ndarray:
        """A tensor's values, float32, in torch's order of dimensions. Raises KickError: an unknown type."""
        import gguf

        tensor = self.tensors[name]
        try:
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise KickError(
                f"{self.path.name} stores {name} as {tensor.tensor_type.name}, which gguf-py cannot read"
            ) from error
        return np.array(values, dtype=np.float32)  # a copy: the file is mapped into memory


def parts(file: Path) -> list[Path]:
    """The files that a model lies in, in order: `file` alone, or every NAME-0000i-of-0000n.gguf beside it.

    Raises KickError if one of them is missing.
    """
    named = _PART.match(file.name)
    if not named:
        return [file]
    count = int(named["count"])
    found = [file.with_name(f"{named['stem']}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]
    missing = [part.name for part in found if not part.is_file()]
    if missing:
        raise KickError(
            f"{file.name} is one of {count} parts of a model, and {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not beside it; all parts must be in one folder"
        )
    return found


def read(file: Path) -> GgufFile:
    """The file with all its parts.

    Raises:
        KickError: it is damaged, a part is missing, or its parts do not fit each other.
    """
    fields: dict[str, Any] = {}
    tensors: dict[str, Any] = {}
    paths = parts(file)
    for number, path in enumerate(paths):
        reader = _reader(path)
        found = {name: value_of(field) for name, field in reader.fields.items()}
        if found.get("split.no", number) != number or found.get("split.count", len(paths)) != len(paths):
            raise KickError(
                f"{path.name} says that it is part {found.get('split.no', 0) + 1} of "
                f"{found.get('split.count')}; expected part {number + 1} of {len(paths)}, named "
                "NAME-00001-of-0000N.gguf as llama.cpp's gguf-split names them"
            )
        fields = {**found, **fields}  # the first part has the model's metadata
        for tensor in reader.tensors:
            if tensor.name in tensors:
                raise KickError(f"{path.name} has the tensor {tensor.name} a second time")
            tensors[tensor.name] = tensor
    expected = fields.get("split.tensors.count")
    if expected not in (None, len(tensors)):
        raise KickError(f"{file.name} has {len(tensors)} tensors, expected {expected} by its own count")
    return GgufFile(file, fields, tensors)


def value_of(field: Any) -> Any:
    """A metadata value; a float32 as the shortest decimal that gives it: 1e-05, not 9.99999975e-06."""
    import gguf

    value = field.contents()
    if field.types and field.types[-1] == gguf.GGUFValueType.FLOAT32:
        return [_short(one) for one in value] if isinstance(value, list) else _short(value)
    return value


def _short(value: float) -> float:
    return float(str(np.float32(value)))


def _reader(path: Path) -> Any:
    import gguf

    try:
        return gguf.GGUFReader(str(path))
    except (ValueError, IndexError, KeyError, OSError, TypeError, OverflowError) as error:
        if unknown := _UNKNOWN.search(str(error)):
            raise KickError(
                f"{path.name} stores a tensor in type {unknown['number']} of GGUF, which the installed gguf "
                f"{version('gguf')} does not know; update gguf, or quantize the model to another type"
            ) from error
        raise KickError(
            f"{path} cannot be read as GGUF ({error}); was it copied or downloaded whole?"
        ) from error
