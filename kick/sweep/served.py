"""A model behind an OpenAI-style server as a backend: log-likelihoods by echo, generation by completions.

Prompts are the token ids that our own engines compute with, made by the tokenizer of the matrix's model; a
server that takes no ids gets texts for generation. Log-likelihoods need a server that echoes a prompt with
its log-probabilities (`echo`, `logprobs`), as vLLM does. A server with chat completions alone (`api: chat`)
gets the text as what a user says. What a server does not answer is missing: NaN, with the reason in the
cell's warnings.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kick.engine.encode import Encoder, Prompt, Scoring, max_length
from kick.errors import CellFailed, KickError
from kick.judge.endpoint import Endpoint, Reply, Stopped, Unanswered
from kick.judge.settings import Settings
from kick.matrix.served import ServedModel
from kick.matrix.servers import CHAT
from kick.model.source import tokenizer_folder, tokenizer_of
from kick.paths import tokens_folder
from kick.records import ModelSpec, Request, Response, Score, Variant
from kick.store import Store
from kick.sweep.cells import Loaded
from kick.sweep.clock import timed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from kick.tasks import Task

MOST_STOPS = 4  # that the API takes; all are looked for again here
MISSING = Response(logprob=math.nan, greedy=False)
SCORED = "log-probabilities of a prompt (echo with logprobs)"
FIDELITY = "the dense model's tokens with all probabilities (fidelity)"


class ServedBackend:
    """Answers requests by asking a server. See `kick.engine.backend.Backend`.

    lacks: what the server does not answer, with its reason.
    """

    def __init__(
        self, served: ServedModel, tokenizer: PreTrainedTokenizerBase, window: int, tokens: Path | None = None
    ):
        """Raises KickError if the client is not installed or a key is needed and not set; asks nothing."""
        self.served = served
        self.encoder = Encoder(tokenizer, served.window or window, tokens)
        self.settings = Settings(
            served.model,
            served.base_url,
            timeout=served.timeout,
            workers=served.workers,
            key_variable=served.key_variable,
            who=f"the endpoint of {served.model}",
        )
        self.lacks: dict[str, str] = {}
        self._texts = False  # whether prompts go as texts: the server refused ids
        self._scores = False  # whether it has given a score: then a refusal is about its prompt alone
        self._models: set[str] = set()
        self._lock = threading.Lock()
        if self._chat:
            self._lacking("chat completions have none (api: chat)")

    @property
    def _chat(self) -> bool:
        return self.served.api == CHAT

    def answer(
        self, requests: Sequence[Request], on_done: Callable[[int, Response], None] | None = None
    ) -> list[Response]:
        """The response to each request; NaN or no values where the server does not offer it.

        Raises:
            CellFailed: requests that got no reply; what was answered has been given to `on_done`.
            KickError: a key or model name that the server refuses.
        """
        answers: list[Response | None] = [None] * len(requests)
        lost: list[str] = []

        def done(index: int, future: Future[Response]) -> None:
            try:
                found = answers[index] = future.result()
            except (Unanswered, Stopped) as error:
                lost.append(str(error))
                return
            except KickError as error:
                endpoint.stop("refused")
                alone = "HTTP 404" in str(error) and not self._chat
                hint = "; if the server has chat completions alone: api: chat" if alone else ""
                raise KickError(f"{error}{hint}") from None
            if on_done:
                on_done(index, found)

        with Endpoint(self.settings) as endpoint, ThreadPoolExecutor(self.settings.workers) as pool:
            kinds = _by_kind(requests)
            work = self._work(requests, kinds, endpoint)
            for first, *_ in kinds.values():
                done(first, pool.submit(work.pop(first)))  # alone: it shows what the server offers
            waiting = {pool.submit(call): i for i, call in work.items()}
            while waiting:
                ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ready:
                    done(waiting.pop(future), future)
        if lost:
            raise CellFailed(
                f"{self.served.host} gave no reply to {len(lost)} of {len(requests)} requests ({lost[-1]}); "
                "what it answered is kept: run again with --retry-failed"
            )
        return [answer or MISSING for answer in answers]

    def _work(
        self, requests: Sequence[Request], kinds: Mapping[str, Sequence[int]], endpoint: Endpoint
    ) -> dict[int, Callable[[], Response]]:
        """What is to be called for each request, by its place."""
        work: dict[int, Callable[[], Response]] = {}
        for kind, places in kinds.items():
            some = [requests[i] for i in places]
            for i, call in zip(places, self._calls(kind, some, endpoint), strict=True):
                work[i] = call
        return work

    def _calls(
        self, kind: str, requests: Sequence[Request], endpoint: Endpoint
    ) -> Iterable[Callable[[], Response]]:
        if kind == "generate":
            pairs = zip(requests, self.encoder.prompts(requests), strict=True)
            return [lambda r=r, p=p: self._generated(endpoint, r, p) for r, p in pairs]  # type: ignore[misc]
        if kind == "fidelity":
            with self._lock:
                self.lacks[kind] = f"{self.served.host} does not give {FIDELITY}"
            return [Response for _ in requests]
        if kind == "loglikelihood":
            parts = self.encoder.pairs(requests)
        elif kind == "rolling":
            parts = [(windows, 0) for windows in self.encoder.rolling(requests)]
        else:
            parts = [([Scoring(r.tokens[:-1], r.tokens[1:])], 0) for r in requests]
        return [lambda w=w, cut=cut: self._scored(endpoint, kind, w, cut) for w, cut in parts]  # type: ignore[misc]

    # ------------------------------------------------------------------------------------ log-likelihoods

    def _scored(self, endpoint: Endpoint, kind: str, windows: Sequence[Scoring], cut: int) -> Response:
        """The log-probability of the windows' targets together; missing if the server does not give it."""
        total, greedy, count = 0.0, True, 0
        for window in windows:
            found = None if "scores" in self.lacks and not self._scores else self._window(endpoint, window)
            if found is None:
                return MISSING if kind == "loglikelihood" else Response(logprob=math.nan, count=0)
            total, greedy, count = total + found[0], greedy and found[1], count + len(window.targets)
        if kind == "loglikelihood":
            return Response(logprob=total, greedy=greedy, count=count, truncated=cut)
        return Response(logprob=total, count=count)

    def _window(self, endpoint: Endpoint, window: Scoring) -> tuple[float, bool] | None:
        """Log-probability of the targets, and whether each was the likeliest; None if it is not given."""
        ids = (*window.ids, window.targets[-1])
        try:
            reply = endpoint.continued(ids, 1, echo=True, logprobs=1, temperature=0.0, seed=0)
        except Unanswered as error:
            if not error.cause.startswith("refused"):
                raise
            self._lacking(error.cause)
            return None
        self._note(reply)
        return self._read(reply.choice.get("logprobs"), len(ids), len(window.targets))

    def _read(self, found: Any, sent: int, targets: int) -> tuple[float, bool] | None:
        """What an echo says of the last `targets` of the `sent` tokens; one more was generated, or none."""
        if not isinstance(found, Mapping):
            self._lacking("no logprobs in its reply")
            return None
        logs, tops = found.get("token_logprobs"), found.get("top_logprobs")
        if not isinstance(logs, list) or not isinstance(tops, list) or len(tops) != len(logs):
            self._lacking("no token_logprobs with top_logprobs in its reply")
            return None
        if len(logs) not in (sent, sent + 1):
            self._lacking(f"log-probabilities of {len(logs)} tokens for a prompt of {sent}")
            return None
        part = slice(sent - targets, sent)
        numbers, best = logs[part], [_largest(top) for top in tops[part]]
        if not all(isinstance(one, int | float) for one in numbers) or None in best:
            self._lacking("a token of the prompt has no log-probability")
            return None
        self._scores = True
        greedy = all(one >= top for one, top in zip(numbers, best, strict=True) if top is not None)
        return float(sum(numbers)), greedy

    def _lacking(self, why: str) -> None:
        given = "did not give every item" if self._scores else "does not give"
        with self._lock:
            self.lacks["scores"] = f"{self.served.host} {given} {SCORED}: {why}"

    # ------------------------------------------------------------------------------------ generation

    def _generated(self, endpoint: Endpoint, request: Request, prompt: Prompt) -> Response:
        if request.guide:
            raise KickError(f"{self.served.host} cannot guide decoding; leave the task out")
        options = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed % 2**31,
            **(
                {"stop": list(request.until[:MOST_STOPS])}
                if request.until and not request.reasoning_end
                else {}
            ),
        }
        if self._chat:
            said = [{"role": "user", "content": request.context}]
            reply, cut = endpoint.chatted(said, request.max_tokens, **options), 0
        else:
            reply, cut = self._continued(endpoint, request, prompt, options), prompt.truncated
        self._note(reply)
        text, thought = _thought(reply.text, request.reasoning_end)
        for stop in request.until:
            text = text.partition(stop)[0] if stop else text
        return Response(text=text, count=reply.written, truncated=cut, reasoning=thought)

    def _continued(
        self, endpoint: Endpoint, request: Request, prompt: Prompt, options: Mapping[str, Any]
    ) -> Reply:
        """The reply to the prompt as ids, or as text once the server has refused ids."""
        if not self._texts:
            try:
                return endpoint.continued(prompt.ids, request.max_tokens, **options)
            except Unanswered as error:
                if not error.cause.startswith("refused"):
                    raise
        reply = endpoint.continued(request.context, request.max_tokens, **options)
        self._texts = True
        return reply

    # ------------------------------------------------------------------------------------ what is told

    def _note(self, reply: Reply) -> None:
        if reply.model:
            with self._lock:
                self._models.add(reply.model)

    def notes(self) -> dict[str, Any]:
        """How requests were answered, as JSON values; no key is among them."""
        return {
            "backend": "endpoint",
            "batch_tokens": 0,
            "base_url": self.served.base_url,
            "model": self.served.model,
            "declared engine": self.served.engine or "",
            "model by its own word": sorted(self._models),
            "prompts": "user turns" if self._chat else "texts" if self._texts else "token ids",
            "window": self.encoder.max_length,
        }


def _by_kind(requests: Sequence[Request]) -> dict[str, list[int]]:
    """The places of the requests of each kind."""
    kinds: dict[str, list[int]] = {}
    for i, request in enumerate(requests):
        kinds.setdefault(request.kind, []).append(i)
    return kinds


def _largest(top: Any) -> float | None:
    """The largest log-probability among the likeliest tokens; None if there is none."""
    numbers = (
        [one for one in top.values() if isinstance(one, int | float)] if isinstance(top, Mapping) else []
    )
    return max(numbers, default=None)


def _thought(text: str, mark: str) -> tuple[str, str | None]:
    """The answer, and the thinking before it: up to its mark, all of a text that begins one and ends none."""
    if not mark:
        return text, None
    before, found, after = text.partition(mark)
    if found:
        return after.lstrip(), before
    opens = mark.replace("/", "", 1)
    return ("", text) if text.lstrip().startswith(opens) else (text, None)


def lacking(scores: Sequence[Score], task: Task, lacks: Mapping[str, str]) -> tuple[str, ...]:
    """Why a cell has items without a score, by what the server lacks."""
    why = lacks.get("fidelity" if task.needs_reference else "scores")
    return (why,) if why and any(score.missing for score in scores) else ()


def loaded(variant: Variant, store: Store) -> Loaded:
    """A served variant ready to be asked: its backend, and the tokenizer of its prompts. Raises KickError."""
    seconds: dict[str, float] = {}
    with timed(seconds, "load"):
        tokenizer = tokenizer_of(variant.model)
        model, window = ServedModel.read(variant.endpoint), _window(variant.model, tokenizer)
        engine = ServedBackend(model, tokenizer, window, tokens_folder(variant.model.tokenizer))
    return Loaded(engine, tokenizer, store, seconds, {}, engine.lacks)


def _window(spec: ModelSpec, tokenizer: PreTrainedTokenizerBase) -> int:
    from transformers import AutoConfig

    folder = tokenizer_folder(spec.tokenizer_from, spec.tokenizer_revision)
    return max_length(AutoConfig.from_pretrained(folder, trust_remote_code=False), tokenizer)
