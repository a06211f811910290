"""One recipe applied to one model, outside a matrix: a model by name or one that is loaded already.

made = compress_model("smollm2-135m", [canonical("wanda", {"sparsity": 0.5})], "wikitext2")
made.report["footprint"]["bits_per_weight"]
made.save(Path("wanda-50"))
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kick import compress, model, paths
from kick.catalog import retokenises, trains_on_text
from kick.compress.calibrate import corpus
from kick.compress.calibrate.windows import Tokenised, TrainingText
from kick.compress.checkpoint import RUNNING, check_out, save
from kick.compress.context import Calibration
from kick.compress.method import methods
from kick.compress.vocabulary import check_tokenizer
from kick.errors import KickError
from kick.model.source import locate
from kick.printable import say
from kick.records import CalibrationSpec, Step

PAUSE = 10.0  # seconds between two lines on how far it is


@dataclass(frozen=True, eq=False)
class CompressedModel:
    """A model after a recipe, with its tokenizer and the report on what was done (JSON values).

    `tokenizer` is None for a loaded model that came without one. `manifest` is that of the saved checkpoint,
    None if it was not saved.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    report: dict[str, Any]
    context: Calibration = field(repr=False)
    manifest: dict[str, Any] | None = None

    def save(self, out: str | Path) -> dict[str, Any]:
        """Write a checkpoint that transformers loads, load it again and compare logits; its manifest.

        Raises KickError if `out` exists or the model cannot be a plain checkpoint, CellFailed if the
        checkpoint does not give the model's logits.
        """
        if self.tokenizer is None:
            raise KickError("a checkpoint needs a tokenizer; got none: compress_model(..., tokenizer=...)")
        return save(self.model, self.tokenizer, self.context, self.report, Path(out))


def compress_model(
    given: str | PreTrainedModel,
    recipe: Sequence[Step],
    calibration: CalibrationSpec | Sequence[Tensor],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    out: Path | None = None,
    data_root: str | None = None,
    dtype: str | None = None,
) -> CompressedModel:
    """Compress a model in place, and save it if `out` is given.

    Args:
        given: what `kick.model.resolve` takes, loaded in float32, or a loaded model, whose weights change.
        dtype: what weights and the scales of packed ones are saved in; None: as they were computed, scales
            in half precision.
        calibration: a corpus and which sequences of it, or token sequences (1, length).
        tokenizer: of a loaded model; without one, that of the folder or hub id that it was loaded from.

    Raises:
        KickError: a name, option or folder that is wrong, before a model is loaded where that is possible.
        CellFailed: NaN, a matrix that is not positive definite, a checkpoint with other logits.
    """
    offload = _savable(recipe, out)
    if isinstance(given, str):
        network, tokenizer = model.load(model.resolve(given), device=paths.device())
    else:
        _check_loaded(given)
        network, tokenizer = given, tokenizer or _tokenizer_of(given, needed=out is not None)
    tokenizer = _checked_recipe(network, recipe, tokenizer, saved=out is not None)
    spec = calibration if isinstance(calibration, CalibrationSpec) else CalibrationSpec("tokens")
    device, tokens = next(network.parameters()).device, tuple[Tensor, ...]()
    if compress.needs_calibration(recipe):
        if isinstance(calibration, CalibrationSpec):
            calibration = corpus.sequences(spec, tokenizer or _tokenizer_of(network, True), data_root)
        tokens = tuple(_checked(one, network).to(device) for one in calibration)
    context = Calibration(tokens, spec.propagate, offload, progress=told(PAUSE))
    if tokenizer is not None:
        context.corpora = Tokenised(tokenizer, data_root)
        context.texts = TrainingText(context.corpora, _loading(given))
    with _frozen(network):
        report = compress.compress(network, recipe, context, propagate=spec.propagate, seed=spec.seed)
        tokenizer = context.tokenizer or tokenizer
        as_type = None if dtype is None else getattr(torch, dtype)
        manifest = None if out is None else save(network, tokenizer, context, report, out, dtype=as_type)
    return CompressedModel(network, tokenizer, report, context, manifest)


def _checked_recipe(
    network: PreTrainedModel, recipe: Sequence[Step], tokenizer: PreTrainedTokenizerBase | None, saved: bool
) -> PreTrainedTokenizerBase | None:
    """The tokenizer, found if a step needs one. Raises KickError if a step cannot serve the model or it."""
    compress.check(network, recipe)
    if any(trains_on_text(step) or retokenises(step) for step in recipe):
        tokenizer = tokenizer or _tokenizer_of(network, True)
    check_tokenizer(recipe, tokenizer)
    if saved:
        compress.check_saved(network, recipe)
    return tokenizer


def _savable(recipe: Sequence[Step], out: Path | None) -> Path | None:
    """The folder to offload to. Raises KickError for what cannot be saved, as far as that is known before a
    model is loaded."""
    if out is not None:
        check_out(out)
        if any(methods[step.method].activations for step in recipe):
            raise KickError(RUNNING)
    return paths.offload_folder()


def _loading(given: str | PreTrainedModel) -> Callable[[], PreTrainedModel] | None:
    """What loads the dense model again; None of a model that was given loaded."""
    if not isinstance(given, str):
        return None
    return lambda: model.load(model.resolve(given), device=paths.device())[0]


def _check_loaded(given: object) -> None:
    """Raises KickError for what is not a model of transformers with its weights."""
    if not isinstance(given, PreTrainedModel):
        raise KickError(
            f"model: got {type(given).__name__}; expected a name, a path, or a model of transformers"
        )
    if any(parameter.device.type == "meta" for parameter in given.parameters()):
        raise KickError("the model has weights on the meta device, which hold no values; load it whole")


def _tokenizer_of(network: PreTrainedModel, needed: bool) -> PreTrainedTokenizerBase | None:
    """The tokenizer beside the weights that a model was loaded from. Raises KickError if it is needed and
    cannot be found."""
    from transformers import AutoTokenizer

    name = getattr(network, "name_or_path", "")
    if not needed:
        return None
    if not name:
        raise KickError(
            "the model was not loaded from a folder or the hub, so that its tokenizer is not known: give "
            "tokenizer=..., or token sequences as calibration"
        )
    try:
        return AutoTokenizer.from_pretrained(locate(name), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise KickError(f"no tokenizer in {name!r} ({error}); give tokenizer=...") from error


def _checked(tokens: Tensor, network: PreTrainedModel) -> Tensor:
    """A token sequence as (1, length). Raises KickError for other shapes, and ids outside the vocabulary."""
    tokens = tokens.unsqueeze(0) if tokens.ndim == 1 else tokens
    if tokens.ndim != 2 or tokens.shape[0] != 1 or tokens.shape[1] < 2 or tokens.is_floating_point():
        raise KickError(
            f"calibration: got {tuple(tokens.shape)} of {tokens.dtype}; expected token ids (1, length)"
        )
    size = network.get_input_embeddings().weight.shape[0]
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= size:
        raise KickError(f"calibration: token ids from {low} to {high}; the model has 0 to {size - 1}")
    return tokens.long()


@contextmanager
def _frozen(network: PreTrainedModel) -> Iterator[None]:
    """Within it the model is in eval mode and asks no gradients; afterwards it is as it was.

    Parameters that a method put in the place of others ask gradients if all did before.
    """
    training = [module for module in network.modules() if module.training]
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    everything = len(learning) == sum(1 for _ in network.parameters())
    network.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in network.parameters() if everything else learning:
            parameter.requires_grad_(True)


def told(pause: float) -> Callable[[int, int], None]:
    """What says on standard error how many blocks are done, once in so many seconds."""
    last = time.monotonic()

    def tell(done: int, blocks: int) -> None:
        nonlocal last
        if time.monotonic() - last >= pause:
            last = time.monotonic()
            say(f"kick: {done} of {blocks} blocks done")

    return tell
