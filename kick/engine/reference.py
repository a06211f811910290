"""The dense model's answers, written by its job and read by every other variant's job of a matrix.

A folder: `index.json` (written last), `head.safetensors` (the dense head, to make dense logits again) and
`hidden-*.safetensors` (last hidden states of the fidelity continuations). Never N x vocabulary logits:
they are recomputed from the hidden states, a chunk at a time. Readers map the files; nothing is loaded.

    with Reference(path, write=True) as reference:            # the dense job
        Engine(model, tokenizer, reference=reference).answer(requests)
    reference = Reference(path)                               # every other job, in any process
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from kick.engine.network import Head
from kick.errors import KickError
from kick.model import owned
from kick.records import Request, key

log = logging.getLogger("kick.engine")

MEMORY_LIMIT = 2**30  # bytes of hidden states kept in memory before a part is written


def _draft_key(request: Request) -> str:
    return key(["draft", request.context, list(request.until), request.max_tokens])


def _hidden_key(request: Request) -> str:
    return key(["hidden", request.context, list(request.tokens)])


class _HeadFacts(TypedDict):
    bias: bool
    scale: float
    cap: float | None


class _Index(TypedDict):
    """What index.json holds: greedy answers, the file of each hidden state, and the head."""

    drafts: dict[str, list[int]]
    hidden: dict[str, str]
    head: _HeadFacts | None


class Reference:
    """Dense continuations and hidden states by request; `write` adds to what the folder holds already.

    Raises KickError if a folder to be read holds no reference.
    """

    def __init__(self, path: Path | str, *, write: bool = False, memory_limit: int = MEMORY_LIMIT):
        self.path = Path(path)
        self.write = write
        self.memory_limit = memory_limit
        self.index: _Index = {"drafts": {}, "hidden": {}, "head": None}
        self._pending: dict[str, Tensor] = {}
        self._files: dict[str, safe_open] = {}
        self._head: Head | None = None
        file = self.path / "index.json"
        if file.exists():
            self.index = json.loads(file.read_text())
        elif not write:
            raise KickError(
                f"no dense reference: {file} is absent; run the dense variant of the matrix first"
            )

    # ------------------------------------------------------------------------------------ reading

    def draft(self, request: Request) -> tuple[int, ...] | None:
        """The dense model's greedy answer to a generate request, None if it is not known."""
        found = self.index["drafts"].get(_draft_key(request))
        return None if found is None else tuple(found)

    def hidden(self, request: Request) -> Tensor | None:
        """Dense hidden states (N, H) that predict the N tokens of a fidelity request, None if not known."""
        name = _hidden_key(request)
        if name in self._pending:
            return self._pending[name]
        place = self.index["hidden"].get(name)
        if place is None:
            return None
        return self._open(place).get_tensor(name)

    def head(self) -> Head | None:
        """The dense model's head; None if it is not a linear head."""
        if self._head is None and self.index["head"] is not None:
            file, known = self._open("head.safetensors"), self.index["head"]
            bias = file.get_tensor("bias") if known["bias"] else None
            self._head = Head(file.get_tensor("weight"), bias, known["scale"], known["cap"])
        return self._head

    def _open(self, name: str) -> safe_open:
        if name not in self._files:
            self._files[name] = safe_open(self.path / name, framework="pt")
        return self._files[name]

    # ------------------------------------------------------------------------------------ writing

    def add_draft(self, request: Request, tokens: Sequence[int]) -> None:
        """Keep the dense model's greedy answer."""
        self.index["drafts"][_draft_key(request)] = list(tokens)

    def add_hidden(self, request: Request, hidden: Tensor) -> None:
        """Keep the dense hidden states (N, H); past the memory limit they go to disk."""
        name = _hidden_key(request)
        if name not in self.index["hidden"]:
            self._pending[name] = hidden.detach().cpu().clone()
        if sum(t.numel() * t.element_size() for t in self._pending.values()) > self.memory_limit:
            self._spill()

    def add_head(self, head: Head | None) -> None:
        """Keep the dense head (None: no linear head, so that no divergence can be computed)."""
        if head is None or self.index["head"] is not None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        tensors = {"weight": head.weight.detach().cpu().contiguous()}
        if head.bias is not None:
            tensors["bias"] = head.bias.detach().cpu().contiguous()
        self._save(tensors, "head.safetensors")
        owned.let_go(head.weight)
        self.index["head"] = {"bias": head.bias is not None, "scale": head.scale, "cap": head.cap}
        self._head = head

    def _spill(self) -> None:
        if not self._pending:
            return
        name = f"hidden-{uuid.uuid4().hex[:12]}.safetensors"  # two writers do not meet
        self._save(self._pending, name)
        self.index["hidden"].update(dict.fromkeys(self._pending, name))
        self._pending = {}

    def _save(self, tensors: dict[str, Tensor], name: str) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        log.info("writing %.1f MB of the dense reference to %s", size / 1e6, self.path / name)
        part = self.path / f".{name}.{os.getpid()}"
        save_file(tensors, part)
        os.replace(part, self.path / name)

    def close(self) -> None:
        """Write what is still in memory, then the index; nothing for a reference that is only read."""
        if not self.write:
            return
        self._spill()
        self.path.mkdir(parents=True, exist_ok=True)
        part = self.path / f".index.json.{os.getpid()}"
        part.write_text(json.dumps(self.index))
        os.replace(part, self.path / "index.json")

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()


def on_device(head: Head | None, device: torch.device) -> Head | None:
    """The head on a device."""
    if head is None or head.weight.device == device:
        return head
    bias = None if head.bias is None else head.bias.to(device)
    return Head(head.weight.to(device), bias, head.scale, head.cap)
