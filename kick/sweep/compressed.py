"""Compression of a worker's variants in memory; texts and calibration are made once for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from kick import compress, model, paths
from kick.compress.calibrate import corpus, windows
from kick.compress.calibrate.ranking import Ranker, Selection
from kick.compress.calibrate.windows import Tokenised
from kick.compress.context import Calibration
from kick.model.footprint import footprint
from kick.model.shipped import as_loaded
from kick.paths import cache_root
from kick.records import CalibrationSpec, ModelSpec, Variant, key
from kick.recover.step import supply

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Compressed = tuple[Mapping[str, Any], Calibration]  # the report, and what knows masks and formats


@dataclass
class Compressor:
    """Compresses variants. Corpora are tokenised, and calibration sequences made, once."""

    data_root: str | None = None
    _sequences: dict[Any, list[Tensor]] = field(default_factory=dict, repr=False)
    _tokenised: dict[str, Tokenised] = field(default_factory=dict, repr=False)

    def __call__(
        self, variant: Variant, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> Compressed:
        """Compress the dense model in place."""
        spec = variant.calibration
        if not variant.recipe:
            return {"footprint": footprint(network) | as_loaded(network)}, Calibration()
        sequences = [one.to(network.device) for one in self.sequences(variant, tokenizer, network)]
        shared = None  # with propagate "dense" one calibration pass serves every variant, through the cache
        if spec is not None and spec.propagate == "dense":
            shared = cache_root() / "statistics" / key([asdict(variant.model), spec.identity()])
        propagate = spec.propagate if spec else "compressed"
        context = Calibration(tuple(sequences), propagate, paths.offload_folder(), shared)
        identity = [asdict(variant.model), spec.identity() if spec else None]
        tokenised = self._tokens(variant.model, tokenizer)
        context.corpora = tokenised
        supply(context, variant.recipe, tokenised, lambda: _loaded(variant.model), identity)
        seed = spec.seed if spec else 0
        return compress.compress(network, variant.recipe, context, propagate=propagate, seed=seed), context

    def sequences(
        self, variant: Variant, tokenizer: PreTrainedTokenizerBase, network: PreTrainedModel | None = None
    ) -> Sequence[Tensor]:
        """The variant's calibration sequences, none if it has no calibration.

        network: the dense model, for sequences that are chosen by what it makes of them.
        """
        spec = variant.calibration
        if spec is None:
            return []
        known = spec, variant.model.tokenizer, variant.model if spec.select else None
        if known not in self._sequences:
            self._sequences[known] = (
                self._chosen(spec, variant.model, tokenizer, network)
                if spec.select and network is not None
                else corpus.sequences(spec, tokenizer, self.data_root)
            )
        return self._sequences[known]

    def _chosen(
        self,
        spec: CalibrationSpec,
        of: ModelSpec,
        tokenizer: PreTrainedTokenizerBase,
        network: PreTrainedModel,
    ) -> list[Tensor]:
        tokenised, selection = self._tokens(of, tokenizer), Selection.read(spec.select)
        ranker = Ranker(lambda: network, asdict(of), tokenised.text)
        return windows.sequences(spec, tokenised, selection.pool, ranker.choose(selection))

    def _tokens(self, of: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> Tokenised:
        if of.tokenizer not in self._tokenised:
            self._tokenised[of.tokenizer] = Tokenised(tokenizer, self.data_root)
        return self._tokenised[of.tokenizer]


def _loaded(spec: ModelSpec) -> PreTrainedModel:
    """The dense model, on the device, for looking alone."""
    return model.load(spec, device=paths.device())[0]
