"""The backend for models that memory does not hold: requests of likelihood by passes over the blocks.

Weights are read block by block, and each block is applied to the tokens of all requests of a call before the
next is read. Kernels are those of the packed backend. Answers that have to be generated are refused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kick.engine.backend import backend
from kick.engine.engine import Engine, OnDone
from kick.engine.layers import Passing
from kick.engine.layers.reader import LayeredReader, VariantReader
from kick.engine.reference import Reference
from kick.engine.whole import Reading
from kick.model.layered import Layered
from kick.records import Request, Response

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@backend("layered", title="block by block, for models larger than memory", equal=True)
class LayeredEngine(Engine):
    """Answers requests as `Engine` does, with one block in memory at a time.

    Args:
        model: the layered model.
        how: the budget of a pass, and whether answers may be generated.
    """

    def __init__(
        self,
        model: Layered,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int | None = None,
        reference: Reference | None = None,
        token_cache: Path | str | None = None,
        window: int | None = None,
        how: Passing | None = None,
    ):
        self.layers = LayeredReader(model, batch_tokens, how)
        super().__init__(
            model.model,
            tokenizer,
            batch_tokens=batch_tokens,
            reference=reference,
            token_cache=token_cache,
            window=window,
        )

    def _reader(self, model: PreTrainedModel, batch_tokens: int | None) -> LayeredReader:
        return self.layers

    def notes(self) -> dict[str, Any]:
        """How requests are answered, as JSON values for run.json; `passes` over the blocks so far."""
        return {**super().notes(), "passes": self.layers.passes, "memory": self.layers.memory}

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request], on_done: OnDone | None = None) -> list[Response]:
        """The response to each request, in the order asked; `on_done(index, response)` as each is finished.

        Raises KickError for a request that does not fit the model's window, or has to be generated.
        """
        kinds = {request.kind: None for request in requests}
        self.layers.prepare([self.readings([r for r in requests if r.kind == kind]) for kind in kinds])
        try:
            return super().answer(requests, on_done)
        finally:
            self.layers.forget()

    def variant(self, apart: Callable[[], LayeredReader]) -> LayeredEngine:
        """An engine for a variant of this one's model that goes through the blocks with others, see
        `VariantReader`. This one's reference and encoder are its own too."""
        made = copy.copy(self)
        made.layers = made.reader = VariantReader(self.layers, apart)
        made.known = {}
        return made

    def readings(self, requests: Sequence[Request]) -> list[Reading]:
        """What answering these will read. Raises KickError as `answer` does."""
        self.layers.noted = []
        try:
            self._note(requests)
            return self.layers.noted
        finally:
            self.layers.noted = None

    def _note(self, requests: Sequence[Request]) -> None:
        """Have the reader note what it will be asked to read; refuse what has to be generated."""
        for kind, give in (
            ("generate", self._generate),
            ("fidelity", self._fidelity),
            ("loglikelihood", self._loglikelihood),
            ("rolling", self._rolling),
            ("tokens", self._tokens),
        ):
            own = [request for request in requests if request.kind == kind]
            if own:
                give(own, lambda *_: None)
