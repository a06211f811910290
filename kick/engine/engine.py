"""`Engine`: takes all requests at once, answers them in the order that is cheapest, returns them as asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kick.engine import fidelity, states
from kick.engine.backend import backend
from kick.engine.encode import Encoder, Scoring, max_length
from kick.engine.guide import Guide
from kick.engine.packed.reader import PackedReader
from kick.engine.reader import Reader
from kick.engine.reference import Reference, on_device
from kick.engine.score import score
from kick.engine.stopping import Decoding, Stops
from kick.engine.thinking import Thinking
from kick.errors import KickError
from kick.model import decoding
from kick.records import Request, Response

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OnDone = Callable[[int, Response], None]
Scored = Callable[[int, float, bool, int], None]  # item, log-probability, greedy, scored tokens
# Token ids, and sequences of targets: one of k is what the last k positions should predict.
Asked = tuple[tuple[int, ...], list[tuple[int, ...]]]


@backend("packed", title="shared prefixes, packs and drafts", also=("transformers",), equal=True)
class Engine:
    """Answers requests with one model. Numbers and texts are those of lm-eval's HFLM with its defaults.

    Args:
        model: a causal LM of transformers, in eval mode, on its device.
        tokenizer: its tokenizer.
        batch_tokens: tokens computed at once; None chooses for the device.
        reference: the dense model's answers, to be written (dense job) or read.
        token_cache: a folder for the token ids of every text, shared by the jobs of a matrix.
        window: the model's window in tokens; None reads it from the configuration as lm-eval does.
    """

    reads: type[Reader] = PackedReader  # what runs the model; another backend's may differ

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int | None = None,
        reference: Reference | None = None,
        token_cache: Path | str | None = None,
        window: int | None = None,
    ):
        self.tokenizer = tokenizer
        self.reader = self._reader(model, batch_tokens)
        rows = self._rows(model)
        self.encoder = Encoder(tokenizer, window or max_length(model.config, tokenizer), token_cache, rows)
        self.reference = reference
        self.config = model.generation_config
        self.known: dict[tuple[int, ...], tuple[int, ...]] = {}  # greedy tokens that fidelity has shown
        ends = model.generation_config.eos_token_id
        self.ends = frozenset([ends] if isinstance(ends, int) else ends or ())

    def _reader(self, model: PreTrainedModel, batch_tokens: int | None) -> Reader:
        return self.reads(model, batch_tokens)

    def _rows(self, model: PreTrainedModel) -> int:
        """How many tokens the model has an embedding of."""
        return model.get_input_embeddings().weight.shape[0]

    def _running(self) -> AbstractContextManager[Any]:
        """Within it requests are answered."""
        return self.reader.network.linears.on()

    def notes(self) -> dict[str, Any]:
        """How requests are answered, as JSON values for run.json: BOS, window, packing, drafts so far.

        generation_config: what the model's own sets that would change a greedy answer; a cell's task says
        whether it is obeyed.
        """
        reader = self.reader
        return {
            **self.encoder.notes(),
            "batch_tokens": reader.batch_tokens,
            "packed": reader.packed,
            "packed_up_to": reader.trusted,
            "whole_forwards": str(reader.network.manner),
            "own_generate": reader.network.generates,
            "generation_config": {**reader.settings, **decoding.searches(self.config)},
            "drafted": reader.acceptance.drafted,
            "accepted": reader.acceptance.accepted,
            "smallest_margin": reader.acceptance.margin,
        }

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request], on_done: OnDone | None = None) -> list[Response]:
        """The response to each request, in the order asked; `on_done(index, response)` as each is finished.

        Raises KickError for a request that does not fit the model's window.
        """
        responses: dict[int, Response] = {}

        def finish(index: int, response: Response) -> None:
            responses[index] = response
            if on_done is not None:
                on_done(index, response)

        answers = {
            "fidelity": self._fidelity,
            "loglikelihood": self._loglikelihood,
            "rolling": self._rolling,
            "tokens": self._tokens,
            "similarity": self._similarity,
            "generate": self._generate,
        }
        with self._running():
            for kind, give in answers.items():
                at = [i for i, request in enumerate(requests) if request.kind == kind]

                def done(i: int, response: Response, at: list[int] = at) -> None:
                    finish(at[i], response)

                if at:
                    give([requests[i] for i in at], done)
        return [responses[i] for i in range(len(requests))]

    # ------------------------------------------------------------------------------------ scoring

    def _loglikelihood(self, requests: Sequence[Request], finish: OnDone) -> None:
        pairs = self.encoder.pairs(requests)

        def done(i: int, logprob: float, greedy: bool, count: int) -> None:
            if not count:  # nothing of its own to score: it has no probability, and least of all 1
                logprob, greedy = math.nan, False
            finish(i, Response(logprob=logprob, greedy=greedy, count=count, truncated=pairs[i][1]))

        self._score([windows for windows, _ in pairs], done)

    def _rolling(self, requests: Sequence[Request], finish: OnDone) -> None:
        self._score(
            self.encoder.rolling(requests),
            lambda i, logprob, _, count: finish(i, Response(logprob=logprob, count=count)),
        )

    def _tokens(self, requests: Sequence[Request], finish: OnDone) -> None:
        for request in requests:
            if not 2 <= len(request.tokens) <= self.encoder.max_length + 1:
                raise KickError(
                    f"a window of tokens must have 2 to {self.encoder.max_length + 1} of them; "
                    f"got {len(request.tokens)}"
                )
            self.encoder.within(request.tokens)
        self._score(
            [[Scoring(request.tokens[:-1], request.tokens[1:])] for request in requests],
            lambda i, logprob, _, count: finish(i, Response(logprob=logprob, count=count)),
        )

    def _similarity(self, requests: Sequence[Request], finish: OnDone) -> None:
        network, most = self.reader.network, self.reader.batch_tokens
        for index, response in states.similarities(network, self.encoder, requests, most):
            finish(index, response)

    def _score(self, windows: Sequence[Sequence[Scoring]], done: Scored) -> None:
        """Sum the log-probabilities of each item's windows; `done` once for each. Equal inputs go in once."""
        owners: dict[tuple[int, ...], list[tuple[int, Scoring]]] = {}
        left = [len(own) for own in windows]
        sums, greedy = [0.0] * len(windows), [True] * len(windows)
        counts = [sum(len(w.targets) for w in own) for own in windows]
        for item, own in enumerate(windows):
            for window in own:
                owners.setdefault(window.ids, []).append((item, window))
            if not own:
                done(item, 0.0, True, 0)
        inputs = list(owners)
        for index, found in self._scored([(ids, [w.targets for _, w in owners[ids]]) for ids in inputs]):
            for (item, _), (logprob, best) in zip(owners[inputs[index]], found, strict=True):
                sums[item] += logprob
                greedy[item] &= best
                left[item] -= 1
                if not left[item]:
                    done(item, sums[item], greedy[item], counts[item])

    def _scored(self, asked: Sequence[Asked]) -> Iterator[tuple[int, list[tuple[float, bool]]]]:
        """Of each input by its index a (log-probability, greedy) for each of its sequences of targets."""
        for batch in self.reader.read([(ids, max(map(len, targets))) for ids, targets in asked]):
            read = [(hidden, asked[index][1]) for index, hidden in batch]
            for (index, _), found in zip(batch, score(self.reader.network, read), strict=True):
                yield index, found

    # ------------------------------------------------------------------------------------ fidelity

    def _fidelity(self, requests: Sequence[Request], finish: OnDone) -> None:
        prompts = self.encoder.prompts(requests)
        network, reference = self.reader.network, self.reference
        if reference is not None and reference.write:
            reference.add_head(network.head if network.linear_head else None)
        head = None if reference is None else network.like(on_device(reference.head(), network.device))
        say = None if head is None else lambda hidden: fidelity.Said.of(head(hidden))

        def done(i: int, hidden: Tensor | None) -> None:
            dense = None if reference is None or hidden is None else _dense(reference, requests[i], hidden)
            values, own = fidelity.measure(network, hidden, requests[i].tokens, dense, say)
            if len(own) > len(self.known.get(prompts[i].ids, ())):
                self.known[prompts[i].ids] = own
            if math.isfinite(values["fdt"]):
                self.reader.acceptance.learn(len(requests[i].tokens), int(values["fdt"]))
            finish(i, Response(values=values, truncated=prompts[i].truncated))

        asked = [i for i, request in enumerate(requests) if request.tokens]
        for i, request in enumerate(requests):
            if not request.tokens:
                done(i, None)
        readings = [(prompts[i].ids + requests[i].tokens[:-1], len(requests[i].tokens)) for i in asked]
        for batch in self.reader.read(readings):
            for index, hidden in batch:
                done(asked[index], hidden)

    # ------------------------------------------------------------------------------------ generation

    def _generate(self, requests: Sequence[Request], finish: OnDone) -> None:
        rows, drafts, told = self.decodings(requests, finish)
        for place in self.reader.decode(rows, drafts):
            told(place)

    def decodings(
        self, requests: Sequence[Request], finish: OnDone
    ) -> tuple[list[Decoding], dict[int, tuple[int, ...]], Callable[[int], None]]:
        """What is to be continued for requests to generate, drafts of it by index, and what to call with the
        index of each that is done."""
        prompts = self.encoder.prompts(requests)
        stops = {until: Stops.of(self.tokenizer, until, self.ends) for until in {r.until for r in requests}}
        owners: dict[tuple, list[int]] = {}
        for i, r in enumerate(requests):  # equal ones are generated once
            sampling = (r.temperature, r.top_p, r.seed) if r.temperature else ()
            how = (r.until, r.max_tokens, r.configured, r.reasoning_end, r.guide and r.context)
            owners.setdefault((prompts[i].ids, *how, *sampling), []).append(i)
        groups = list(owners.values())
        rows, drafts = [], {}
        for place, (i, *_) in enumerate(groups):
            r = requests[i]
            sampling = (r.temperature, r.top_p, r.seed)
            thinking = Thinking(self.tokenizer, r.reasoning_end, r.context) if r.reasoning_end else None
            stop = stops[r.until]
            guide = Guide(r.context, stop.told) if r.guide else None
            rows.append(
                Decoding(prompts[i].ids, r.max_tokens, stop, *sampling, r.configured, thinking, guide)
            )
            if r.configured:
                decoding.obeyed(self.config)  # says which settings cannot be
            if guide is None and (draft := self._draft(r, prompts[i].ids)):
                drafts[place] = draft

        def told(place: int) -> None:
            row = rows[place]
            (text, thought), tokens = row.text(), tuple(row.tokens)
            plain = row.temperature == 0.0 and row.guide is None
            values = None if row.guide is None else row.guide.values
            for i in groups[place]:
                if self.reference is not None and self.reference.write and plain:
                    self.reference.add_draft(requests[i], tokens)
                answer = Response(
                    text=text,
                    reasoning=thought,
                    tokens=tokens,
                    count=len(tokens),
                    truncated=prompts[i].truncated,
                    values=values,
                )
                finish(i, answer)

        return rows, drafts, told

    def _draft(self, request: Request, prompt: tuple[int, ...]) -> tuple[int, ...]:
        """What the answer may well be: what a fidelity pass has shown of it, else the dense model's.

        A draft is checked token by token, so no earlier request decides an answer.
        """
        known = self.known.get(prompt)
        if known is None and self.reference is not None and not self.reference.write:
            known = self.reference.draft(request)
        return known or ()


def _dense(reference: Reference, request: Request, hidden: Tensor) -> Tensor | None:
    """The dense model's hidden states for the request, None if not known; its own are kept."""
    if reference.write:
        reference.add_hidden(request, hidden)
    return reference.hidden(request)
