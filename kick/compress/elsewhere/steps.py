"""The methods `llmcompressor` and `autoround`, loaded with `--plugins`: another library carries them out.

The model as it is goes to the library's own Python as a checkpoint, with the token ids of the calibration;
the checkpoint that comes back is read as any other, and its weights take the place of the model's. Weights
only: what rounds activations as it runs is refused, and can be evaluated as a `checkpoint:`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from kick.compress.context import Calibration, Quantized, calibration_of
from kick.compress.elsewhere import made, python_of, version_of
from kick.compress.method import method, option
from kick.errors import CellFailed, KickError
from kick.model import load, named_linears, resolve
from kick.model.footprint import STORAGES


@method(
    "llmcompressor",
    title="llm-compressor",
    paper="vLLM project, llm-compressor",
    kind="quantize",
    needs=("calibration",),
)
@dataclass(frozen=True)
class LlmCompressor:
    """A recipe of llm-compressor, carried out by it (weights only)."""

    recipe: str = option("the recipe as YAML text; `recipe_file: PATH` reads it from a file")
    library: str = option("the version of llm-compressor that carries it out; filled in", "")

    @staticmethod
    def complete(options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with the recipe's text and the library's version, which so count in keys."""
        found = dict(options)
        if "recipe_file" in found:
            if "recipe" in found:
                raise KickError("llmcompressor: got both recipe and recipe_file; expected one of them")
            found["recipe"] = _read(Path(str(found.pop("recipe_file"))).expanduser())
        return found | {"library": version_of("llmcompressor")}

    def check(self, model: nn.Module) -> None:
        """Raises KickError if no Python has the library."""
        python_of("llmcompressor")

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        _carry_out("llmcompressor", model, calibration_of(calibration), {"recipe": self.recipe})


@method(
    "autoround",
    title="AutoRound",
    paper="Cheng et al., 2023, arXiv 2309.05516",
    kind="quantize",
    needs=("calibration",),
)
@dataclass(frozen=True)
class AutoRound:
    """Signed gradient descent on the rounding of each block, carried out by auto-round (weights only)."""

    bits: int = option("bits of a weight", low=2, high=8)
    group_size: int = option("inputs that share a scale; -1: the whole row", 128, low=-1)
    symmetric: bool = option("a grid around zero", True)
    iters: int = option("steps of descent per block; 0: plain rounding", 200, low=0)
    library: str = option("the version of auto-round that carries it out; filled in", "")

    @staticmethod
    def complete(options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with the library's version, which so counts in keys."""
        return {**options, "library": version_of("autoround")}

    def check(self, model: nn.Module) -> None:
        """Raises KickError if no Python has the library."""
        python_of("autoround")

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        names = ("bits", "group_size", "symmetric", "iters")
        options = {name: getattr(self, name) for name in names}
        _carry_out("autoround", model, calibration_of(calibration), options)


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KickError(f"recipe_file: {file} cannot be read: {error}") from error


def _carry_out(library: str, model: Any, calibration: Calibration, options: Mapping[str, Any]) -> None:
    """Have the library compress the model, and take over what it made."""
    seed = torch.initial_seed() % 2**32
    with tempfile.TemporaryDirectory(dir=calibration.offload) as scratch:
        base, out = Path(scratch) / "base", Path(scratch) / "out"
        model.save_pretrained(base)
        _stand_in().save_pretrained(base)
        facts = made(library, base, calibration, options, out, seed)
        other, _ = load(resolve(str(_checkpoint(out))))
        _take(model, other, calibration, library)
    calibration.note("made by another library", library=library, **facts)


def _stand_in() -> PreTrainedTokenizerFast:
    """A tokenizer, which the libraries ask for; calibration is token ids already."""
    words = WordLevel({"<unk>": 0}, unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), unk_token="<unk>", pad_token="<unk>")


def _checkpoint(out: Path) -> Path:
    """The folder with the weights: AutoRound puts them into one of its own within `out`."""
    found = sorted(file.parent for file in out.rglob("config.json"))
    if not found:
        raise CellFailed(f"{out} has no checkpoint in it")
    return found[0]


@torch.no_grad()
def _take(model: nn.Module, other: nn.Module, calibration: Calibration, library: str) -> None:
    """Put the other model's weights into the model, and note how they are stored and what is pruned.

    Raises CellFailed if they are not the same model's, or are rounded again as it runs.
    """
    ours, theirs = model.state_dict(), other.state_dict()
    running = any(getattr(module, "quantization_scheme", None) for module in other.modules())
    if running or {n: t.shape for n, t in ours.items()} != {n: t.shape for n, t in theirs.items()}:
        why = "rounds activations as it runs" if running else "has other tensors"
        raise CellFailed(
            f"what {library} made {why}: save it with {library} and name its folder as a checkpoint"
        )
    storages = getattr(other, STORAGES, {})
    if not storages and all(torch.equal(tensor, theirs[name].to(tensor)) for name, tensor in ours.items()):
        raise CellFailed(f"{library} changed no weight: is there a modifier in the recipe that it knows?")
    for name, tensor in ours.items():
        tensor.copy_(theirs[name])
    for name, _, linear in named_linears(model):
        if name in storages:
            calibration.formats[name] = Quantized(library, storages[name].bits)
        elif not bool((kept := linear.weight != 0).all()):
            calibration.keep(name, kept)
