"""`Engine`: takes all requests at once, answers them in the order that is cheapest, returns them as asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from kick.engine import fidelity, plain
from kick.engine.encode import Encoder, Scoring, max_length
from kick.engine.network import Network
from kick.engine.reference import Reference, same_device
from kick.engine.stopping import Decoding, Stops
from kick.records import KickError, Request, Response

OnDone = Callable[[int, Response], None]
Scored = Callable[[int, float, bool, int], None]  # item, log-probability, greedy, scored tokens
DEFAULT_BATCH_TOKENS = 2048


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

    def __init__(
        self,
        model,
        tokenizer,
        *,
        batch_tokens: int | None = None,
        reference: Reference | None = None,
        token_cache: Path | str | None = None,
        window: int | None = None,
    ):
        self.tokenizer = tokenizer
        self.network = Network(model)
        self.encoder = Encoder(tokenizer, window or max_length(model.config, tokenizer), token_cache)
        self.batch_tokens = batch_tokens or DEFAULT_BATCH_TOKENS
        self.reference = reference
        ends = model.generation_config.eos_token_id
        self.ends = frozenset([ends] if isinstance(ends, int) else ends or ())

    @torch.inference_mode()
    def answer(self, requests: Sequence[Request], on_done: OnDone | None = None) -> list[Response]:
        """The response to each request, in the order asked; `on_done(index, response)` as each is finished.

        Raises KickError for a request that does not fit the model's window.
        """
        responses: list[Response | None] = [None] * len(requests)

        def finish(index: int, response: Response) -> None:
            responses[index] = response
            if on_done is not None:
                on_done(index, response)

        kinds: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            kinds.setdefault(request.kind, []).append(index)
        for kind in ("fidelity", "loglikelihood", "rolling", "tokens", "generate"):
            if kind in kinds:
                indices = kinds[kind]
                getattr(self, f"_{kind}")(
                    [requests[i] for i in indices], lambda i, r, at=indices: finish(at[i], r)
                )
        return responses

    # ------------------------------------------------------------------------------------ scoring

    def _loglikelihood(self, requests: Sequence[Request], finish: OnDone) -> None:
        pairs = self.encoder.pairs(requests)
        cut = [truncated for _, truncated in pairs]

        def done(i: int, logprob: float, greedy: bool, count: int) -> None:
            finish(i, Response(logprob=logprob, greedy=greedy, count=count, truncated=cut[i]))

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
        self._score(
            [[Scoring(request.tokens[:-1], request.tokens[1:])] for request in requests],
            lambda i, logprob, _, count: finish(i, Response(logprob=logprob, count=count)),
        )

    def _score(self, windows: Sequence[Sequence[Scoring]], done: Scored) -> None:
        """Sum the log-probabilities of each item's windows; `done` once for each."""
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
        readings = [(ids, max(len(w.targets) for _, w in owners[ids])) for ids in inputs]
        for batch in self._read(readings):
            for index, hidden in batch:
                asked = owners[inputs[index]]
                found = score_targets(self.network, hidden, [w.targets for _, w in asked])
                for (item, _), (logprob, best) in zip(asked, found, strict=True):
                    sums[item] += logprob
                    greedy[item] &= best
                    left[item] -= 1
                    if not left[item]:
                        done(item, sums[item], greedy[item], counts[item])

    def _read(self, readings):
        return plain.read(self.network, readings, self.batch_tokens)

    # ------------------------------------------------------------------------------------ fidelity

    def _fidelity(self, requests: Sequence[Request], finish: OnDone) -> None:
        prompts = self.encoder.prompts(requests)
        reference = self.reference
        if reference is not None and reference.write:
            reference.add_head(self.network.head if self.network.plain_head else None)
        head = None if reference is None else same_device(reference.head(), self.network.device)
        asked = [i for i, request in enumerate(requests) if request.tokens]
        for i in sorted(set(range(len(requests))) - set(asked)):
            finish(i, Response(values=self._measure(requests[i], None, None), truncated=prompts[i].truncated))
        readings = [(prompts[i].ids + requests[i].tokens[:-1], len(requests[i].tokens)) for i in asked]
        for batch in self._read(readings):
            for index, hidden in batch:
                i = asked[index]
                values = self._measure(requests[i], hidden, head)
                finish(i, Response(values=values, truncated=prompts[i].truncated))

    def _measure(self, request: Request, hidden: Tensor | None, head) -> dict[str, float]:
        reference = self.reference
        if not request.tokens:
            return fidelity.measure(self.network, hidden, (), None, None)
        if reference is not None and reference.write:
            reference.add_hidden(request, hidden)
        dense = None if reference is None else reference.hidden(request)
        return fidelity.measure(self.network, hidden, request.tokens, dense, head)

    # ------------------------------------------------------------------------------------ generation

    def _generate(self, requests: Sequence[Request], finish: OnDone) -> None:
        prompts = self.encoder.prompts(requests)
        stops = {until: Stops.of(self.tokenizer, until, self.ends) for until in {r.until for r in requests}}
        rows = [
            Decoding(prompt.ids, r.max_tokens, stops[r.until], r.temperature, r.top_p, r.seed)
            for prompt, r in zip(prompts, requests, strict=True)
        ]
        for i, row in plain.generate(self.network, rows, self.batch_tokens):
            if self.reference is not None and self.reference.write and requests[i].temperature == 0.0:
                self.reference.add_draft(requests[i], row.tokens)
            text, tokens = row.stops.text(row.tokens), tuple(row.tokens)
            finish(i, Response(text=text, tokens=tokens, count=len(tokens), truncated=prompts[i].truncated))


def score_targets(
    network: Network, hidden: Tensor, targets: Sequence[tuple[int, ...]]
) -> list[tuple[float, bool]]:
    """(log-probability, greedy) of each sequence of targets; the last of the hidden states (N, H) predict it."""
    wanted = torch.zeros(len(hidden), len(targets), dtype=torch.long, device=hidden.device)
    for column, ids in enumerate(targets):
        wanted[len(hidden) - len(ids) :, column] = torch.tensor(ids, device=hidden.device)
    logs, best = [], []
    for part, logits in network.chunks(hidden):
        logs.append(logits.gather(1, wanted[part]) - logits.logsumexp(-1, keepdim=True))
        best.append(logits.argmax(-1))
    logs, best = torch.cat(logs).double(), torch.cat(best)
    found = []
    for column, ids in enumerate(targets):
        part = slice(len(hidden) - len(ids), None)
        logprob = math.fsum(logs[part, column].tolist())
        found.append((logprob, bool((best[part] == wanted[part, column]).all())))
    return found
