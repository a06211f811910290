"""A variant's model for the engine 'vllm': a checkpoint on disk that one process of vLLM serves.

A variant that kick makes is compressed in memory, in float32, and saved in the matrix's dtype as
`kick compress` saves it; vLLM serves that. In float32 quantized weights are saved dequantized: vLLM
multiplies packed ones in half precision alone. A checkpoint, and the dense model, are served as they are. The
saved folder is removed when the job is done; of a job that was killed, the next one takes it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kick import model, paths
from kick.compress.checkpoint import save
from kick.engine.backend import VLLM
from kick.engine.vllm.served import Served
from kick.engine.vllm.where import installed
from kick.model import decoding
from kick.model.footprint import footprint
from kick.model.heap import give_back
from kick.model.shipped import as_loaded
from kick.model.source import locate, tokenizer_of
from kick.records import ModelSpec, Variant
from kick.sweep.clock import timed
from kick.sweep.scratch import REPORTED, folder_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kick.compress.context import Calibration

# What compresses a model in memory: the report, and the context that knows masks and formats.
Compressing = Callable[
    ["PreTrainedModel", "PreTrainedTokenizerBase"], tuple[Mapping[str, Any], "Calibration"]
]


@contextmanager
def opened(
    variant: Variant, compressing: Compressing, seconds: dict[str, float], options: Mapping[str, Any]
) -> Iterator[tuple[Served, PreTrainedTokenizerBase, Mapping[str, Any]]]:
    """The variant as vLLM serves it, its tokenizer and the report on its compression, while this is open.

    The process is started by the first request, and ended here.

    Raises KickError as `kick.model.load` does, or if there is no vLLM; CellFailed for a checkpoint that is
    not what was computed.
    """
    installed()
    folder = locate(variant.model.name, variant.model.revision)
    if variant.recipe:
        folder = folder_of(variant, VLLM)
        report = _saved(folder)
        if report is None:
            report = _made(variant, folder, compressing, seconds)
        tokenizer = tokenizer_of(variant.model)
    else:
        tokenizer, report = _as_it_is(variant.model, seconds)
    with tempfile.TemporaryDirectory(prefix="kick-vllm-", dir=paths.offload_folder()) as scratch:
        served = _serving(folder, variant.model, Path(scratch), options)
        try:
            yield served, tokenizer, report
        finally:
            served.close()
    if variant.recipe:
        shutil.rmtree(folder)


def _serving(folder: Path, spec: ModelSpec, scratch: Path, options: Mapping[str, Any]) -> Served:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return Served(folder, spec.dtype, config, decoding.of_folder(folder), scratch=scratch, **options)


def _as_it_is(
    spec: ModelSpec, seconds: dict[str, float]
) -> tuple[PreTrainedTokenizerBase, Mapping[str, Any]]:
    """The tokenizer and sizes of a model that is not changed; reading it also checks that it is whole."""
    with timed(seconds, "load"):
        network, tokenizer = model.load(spec)
        report = {"footprint": footprint(network) | as_loaded(network)}
        del network
        give_back()
    return tokenizer, report


def _saved(folder: Path) -> Mapping[str, Any] | None:
    """The report on the checkpoint in a folder, None if there is none; what is there is whole."""
    manifest = folder / "kick" / "manifest.json"
    if not manifest.is_file():
        return None
    made = json.loads(manifest.read_text("utf-8"))
    return {name: made[name] for name in REPORTED if name in made}


def _made(
    variant: Variant, folder: Path, compressing: Compressing, seconds: dict[str, float]
) -> Mapping[str, Any]:
    with timed(seconds, "load"):  # in float32 as `kick compress` does: scales are rounded when they are saved
        network, tokenizer = model.load(replace(variant.model, dtype="float32"), device=paths.device())
    with timed(seconds, "compress"):
        report, context = compressing(network, tokenizer)
    running = any(stored.activation_bits for stored in context.formats.values())  # `save` refuses these
    dtype = None if variant.model.dtype == "float32" else getattr(torch, variant.model.dtype)
    if dtype is None and not running:
        context = replace(context, formats={})
    with timed(seconds, "save"):
        save(network, tokenizer, context, report, folder, dtype=dtype)
    del network, context
    give_back()
    return report
