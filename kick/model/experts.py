"""The experts of a mixture's block, of which one matrix at a time is in memory.

Dense matrices are read from the checkpoint; what a method makes of one goes to a file without a name, which
ends with the process, and is read from there. Blocks whose experts are small stay whole: that is faster.
"""

from __future__ import annotations

import inspect
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from kick.model.stored import StoredTensor, read_into, write_from
from kick.model.structure import SOURCE, is_experts

_NUMBER = re.compile(r"\.experts\.(\d+)\.")
_MERGED = [[MergeModulelist], [MergeModulelist, Concatenate]]


@dataclass(frozen=True)
class Piece:
    """A stored matrix that an expert's matrix is made of: the key of its file, where it lies."""

    key: str
    stored: StoredTensor


Part = tuple[str, str | None, Any]  # of what a parameter is made: key, its converter's pattern, stored tensor
Pieces = dict[str, list[list[Piece]]]  # parameter -> by expert the pieces, one below the other


class Experts:
    """The matrices of one module's experts, and its forward.

    Args:
        module: with 3-D parameters on the meta device; path: its name in the block.
        like: a tensor of the type and on the device that matrices are wanted in.
        scratch: a folder for matrices that were changed.
    """

    def __init__(
        self,
        module: nn.Module,
        path: str,
        pieces: Pieces,
        like: Tensor,
        scratch: Path,
    ):
        self.module, self.path, self.pieces, self.scratch = module, path, pieces, scratch
        self.dtype, self.device = like.dtype, like.device
        self.activation: Callable[[Tensor], Tensor] = module.act_fn  # type: ignore[assignment]
        self.file: int | None = None
        self.places: dict[tuple[str, int], int] = {}  # of changed matrices, in the file
        self.end = 0  # of the file
        self.at: tuple[str, int] | None = None
        self.held = torch.empty(0)
        self.version = 0

    @torch.inference_mode(False)
    def weight(self, parameter: str, expert: int) -> Tensor:
        """An expert's matrix (out, in), until another one is asked for. Writing into it with operations of
        torch changes it for good."""
        if self.at != (parameter, expert):
            self._put_back()
            self.held = torch.empty(0)
            self.held = self._read(parameter, expert)
            self.at, self.version = (parameter, expert), self.held._version
        return self.held

    def _read(self, parameter: str, expert: int) -> Tensor:
        place = self.places.get((parameter, expert))
        if place is not None and self.file is not None:
            made = torch.empty(getattr(self.module, parameter).shape[1:], dtype=self.dtype)
            read_into(self.file, made, place)
            return made.to(self.device)
        pieces = self.pieces[parameter][expert]
        made = torch.empty(getattr(self.module, parameter).shape[1:], dtype=self.dtype, device=self.device)
        start = 0
        for piece in pieces:
            made[start : start + piece.stored.shape[0]] = piece.stored.read()
            start += piece.stored.shape[0]
        return made

    def _put_back(self) -> None:
        """Write the matrix at hand to the file if it was changed."""
        if self.at is None or self.held._version == self.version:
            return
        if self.file is None:
            self.scratch.mkdir(parents=True, exist_ok=True)
            self.file, name = tempfile.mkstemp(dir=self.scratch)
            os.unlink(name)
        if self.at not in self.places:
            self.places[self.at], self.end = self.end, self.end + self.held.nbytes
        write_from(self.file, self.held, self.places[self.at])

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """What Mixtral's experts give for tokens (N, H), each sent to k of them with its weights (N, k)."""
        found = torch.zeros_like(hidden_states)
        for expert in range(len(self.pieces["down_proj"])):
            tokens, chosen = torch.where(top_k_index == expert)
            if not len(tokens):
                continue
            up = nn.functional.linear(hidden_states[tokens], self.weight("gate_up_proj", expert))
            gate, up = up.chunk(2, dim=-1)
            inner = self.activation(gate) * up
            made = nn.functional.linear(inner, self.weight("down_proj", expert))
            made = made * top_k_weights[tokens, chosen, None]
            found.index_add_(0, tokens, made.to(found.dtype))
        return found

    def saved(self) -> Iterator[tuple[str, str, Tensor]]:
        """Every matrix of the checkpoint: its key, the parameter that it is in, a view (out, in) of it."""
        for parameter, experts in self.pieces.items():
            for expert, pieces in enumerate(experts):
                start = 0
                for piece in pieces:
                    rows = piece.stored.shape[0]
                    yield piece.key, parameter, self.weight(parameter, expert)[start : start + rows]
                    start += rows

    def name(self, path: str, parameter: str) -> str:
        """A parameter's name in the model; path: the block's."""
        return f"{path}.{self.path}.{parameter}"

    def open(self) -> None:
        """Take the place of the module's weights."""
        setattr(self.module, SOURCE, self)
        vars(self.module)["forward"] = self.forward

    def close(self) -> None:
        """Let everything go."""
        delattr(self.module, SOURCE)
        vars(self.module).pop("forward", None)
        self.at, self.held = None, torch.empty(0)
        if self.file is not None:
            os.close(self.file)
            self.file = None


def found(
    block: nn.Module,
    path: str,
    sources: Mapping[str, Sequence[Part]],
    converters: Iterable[WeightConverter],
) -> dict[str, Pieces]:
    """By name in the block the modules whose experts can be read one at a time, and what of.

    Args:
        path: of the block in the model.
        sources: by parameter what it is made of.
    """
    patterns = {pattern: one for one in converters for pattern in one.source_patterns}
    made = {}
    for name, module in block.named_modules():
        if not is_experts(module) or not _plain(module):
            continue
        parts = {
            leaf: _pieces(sources.get(f"{path}.{name}.{leaf}", ()), getattr(module, leaf), patterns)
            for leaf in ("gate_up_proj", "down_proj")
        }
        if all(parts.values()):
            made[name] = parts
    return made


def _plain(module: nn.Module) -> bool:
    """Whether the experts compute as Mixtral's do: transformers repeats that code to the letter."""
    return _source(type(module)) == _source(MixtralExperts)


def _source(kind: type) -> str:
    return inspect.getsource(inspect.unwrap(kind.forward))  # type: ignore[attr-defined]


def _pieces(
    given: Sequence[Part], parameter: Tensor, patterns: Mapping[str, WeightConverter]
) -> list[list[Piece]]:
    """By expert what its matrix is made of; nothing if that is not one matrix below the other."""
    by_expert: dict[int, dict[int, Piece]] = defaultdict(dict)
    for key, pattern, stored in given:
        number, converter = _NUMBER.search(key), patterns.get(pattern or "")
        if number is None or converter is None or type(stored) is not StoredTensor:
            return []
        kinds = [type(operation) for operation in converter.operations]
        dims = [operation.dim for operation in converter.operations]
        if kinds not in _MERGED or dims != [0, 1][: len(dims)] or not stored.dtype.is_floating_point:
            return []
        by_expert[int(number[1])][converter.source_patterns.index(pattern)] = Piece(key, stored)
    pieces = [[parts[place] for place in sorted(parts)] for _, parts in sorted(by_expert.items())]
    count, rows, columns = parameter.shape
    whole = all(
        sum(one.stored.shape[0] for one in parts) == rows
        and {one.stored.shape[1] for one in parts} == {columns}
        for parts in pieces
    )
    return pieces if len(pieces) == count and whole else []
