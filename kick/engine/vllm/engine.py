"""The backend vllm: kick's requests, token ids and stops, with vLLM's log-probabilities and tokens.

What is asked and where an answer ends is decided by the code of the other backends: token ids go to vLLM and
come back, and no text. Its numbers are not shown to be theirs to the last bit, so its cells have keys of
their own.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kick import paths
from kick.engine import budget, fidelity
from kick.engine.backend import backend
from kick.engine.engine import Asked, Engine, OnDone
from kick.engine.reference import Reference
from kick.engine.stopping import Decoding
from kick.engine.vllm.dialogue import Dialogue, Message
from kick.engine.vllm.served import Served
from kick.errors import CellFailed, KickError
from kick.model import decoding
from kick.records import Request, Response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_LAST = 128  # token ids of which vLLM gives log-probabilities after one prompt


class ServedReader:
    """The served model's two services: score token sequences, and continue them."""

    def __init__(self, served: Served, batch_tokens: int | None):
        self.served = served
        self.batch_tokens = batch_tokens or budget.batch_tokens(torch.device(paths.device()))
        self.window = 0

    def replies(self, messages: Sequence[Message], length: int) -> Dialogue:
        """The dialogue of these messages, the longest of which has so many tokens."""
        return self.served.ask(messages, length, self.window, self.batch_tokens)

    def decode(self, rows: Sequence[Decoding], drafts: Mapping[int, tuple[int, ...]]) -> Iterator[int]:
        """Finish every row; their indices as they are done. `drafts` are not looked at.

        Raises CellFailed for logits that are not numbers.
        """
        yield from (i for i, row in enumerate(rows) if row.done)
        going = [i for i, row in enumerate(rows) if not row.done]
        if not going:
            return
        dialogue = self.replies([_generate(rows[i]) for i in going], max(_length(rows[i]) for i in going))
        for place, reply in dialogue:
            row = rows[going[place]]
            if reply["lost"]:
                raise CellFailed("the model's logits are NaN or infinite: it generates no text")
            for token in reply["tokens"]:
                if not row.done:
                    row.accept(token)
            if row.done:
                dialogue.stop(place)
                yield going[place]
            elif reply["done"]:
                raise CellFailed(f"vLLM ended an answer after {len(row.tokens)} of {row.limit} tokens")


def _length(row: Decoding) -> int:
    return len(row.prompt) + row.limit


def _generate(row: Decoding) -> Message:
    return {
        "generate": row.prompt,
        "limit": row.limit,
        "ends": sorted(row.stops.ends),
        "temperature": row.temperature,
        "top_p": row.top_p,
        "seed": row.seed % 2**63,
    }


class _Rows:
    """Log-probabilities (N, V) in place of a network with hidden states, for `fidelity.measure`."""

    @staticmethod
    def chunks(rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
        yield slice(0, len(rows)), rows


@backend("vllm", title="vLLM, in an environment of its own", apart=True)
class VllmEngine(Engine):
    """Answers requests as `Engine` does, of a checkpoint that vLLM serves.

    Args:
        model: the served checkpoint.
        reference: the dense model's log-probabilities on the same engine, in place of its hidden states.
    """

    def __init__(
        self,
        model: Served,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int | None = None,
        reference: Reference | None = None,
        token_cache: Path | str | None = None,
        window: int | None = None,
    ):
        self.served, self.services = model, ServedReader(model, batch_tokens)
        super().__init__(
            model,
            tokenizer,
            batch_tokens=batch_tokens,
            reference=reference,
            token_cache=token_cache,
            window=window,
        )
        self.services.window = self.encoder.max_length

    def _reader(self, model: Any, batch_tokens: int | None) -> Any:
        return self.services

    def _rows(self, model: Any) -> int:
        return model.vocabulary

    def _running(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def notes(self) -> dict[str, Any]:
        """How requests are answered, as JSON values for run.json: what vLLM says of itself, its memory.

        starts, start_seconds: processes that were started for the variant, and how long they took.
        """
        served = self.served
        return {
            **self.encoder.notes(),
            "batch_tokens": self.services.batch_tokens,
            **served.ready,
            "starts": served.starts,
            "start_seconds": round(served.seconds, 3),
            "process_memory": served.memory_used(),
            "divergence": "over the whole vocabulary, no mass missing",
            "generation_config": decoding.searches(self.config),
        }

    def _generate(self, requests: Sequence[Request], finish: OnDone) -> None:
        if any(request.configured for request in requests) and decoding.obeyed(self.config):
            names = ", ".join(sorted(decoding.obeyed(self.config)))
            raise KickError(f"the engine 'vllm' does not obey {names}; leave `generation_config` out")
        if any(request.guide for request in requests):
            raise KickError("the engine 'vllm' does not guide decoding; choose the engine 'packed'")
        super()._generate(requests, finish)

    def _scored(self, asked: Sequence[Asked]) -> Iterator[tuple[int, list[tuple[float, bool]]]]:
        messages: list[Message] = []
        owners: list[int] = []
        for index, (ids, targets) in enumerate(asked):
            ends = sorted({one[-1] for one in targets})
            count = max(map(len, targets)) - 1
            for start in range(0, len(ends), MOST_LAST):
                part = ends[start : start + MOST_LAST]
                messages.append({"score": ids, "count": count, "last": part})
                owners.append(index)
        left, found = Counter(owners), defaultdict[int, dict[int, float]](dict)
        for place, reply in self.services.replies(
            messages, max((len(ids) for ids, _ in asked), default=0) + 1
        ):
            index = owners[place]
            found[index].update(zip(messages[place]["last"], reply["last"], strict=True))
            left[index] -= 1
            if not left[index]:
                last = found.pop(index)
                yield index, [_score(target, reply, last) for target in asked[index][1]]

    # ------------------------------------------------------------------------------------ fidelity

    def _fidelity(self, requests: Sequence[Request], finish: OnDone) -> None:
        prompts = self.encoder.prompts(requests)
        asked = [i for i, request in enumerate(requests) if request.tokens]
        for i in sorted(set(range(len(requests))) - set(asked)):
            values, _ = fidelity.measure(_Rows(), None, (), None, None)  # type: ignore[arg-type]
            finish(i, Response(values=values, truncated=prompts[i].truncated))
        longest = max((len(prompts[i].ids) + len(requests[i].tokens) for i in asked), default=0)
        for i in asked:
            values = self._values(requests[i], self._rows_of(prompts[i].ids, requests[i].tokens, longest))
            finish(i, Response(values=values, truncated=prompts[i].truncated))

    def _rows_of(self, prompt: tuple[int, ...], tokens: tuple[int, ...], longest: int) -> Tensor:
        """Log-probabilities (N, V) that predict the tokens of a continuation.

        One request per token: of a prompt vLLM gives them at every token or at none, as Python's numbers, and
        a vocabulary at each of several hundred tokens takes gigabytes. It keeps what a prefix computed.
        """
        folder = self.served.scratch
        messages = [
            {"row": prompt + tokens[:place], "file": str(folder / f"{place}.npy")}
            for place in range(len(tokens))
        ]
        rows: dict[int, Tensor] = {}
        for place, reply in self.services.replies(messages, longest):
            rows[place] = _read(Path(reply["file"]))
        return torch.stack([rows[place] for place in range(len(tokens))])

    def _values(self, request: Request, rows: Tensor) -> dict[str, float]:
        """The numbers of a continuation from the log-probabilities (N, V) that predict its tokens."""
        reference = self.reference
        if reference is not None and reference.write:
            reference.add_hidden(request, rows)
        dense = None if reference is None else reference.hidden(request)
        if dense is not None and dense.shape != rows.shape:
            raise CellFailed(
                f"the dense model has log-probabilities {tuple(dense.shape)} of a continuation, "
                f"this one {tuple(rows.shape)}: not the same vocabulary"
            )
        values, _ = fidelity.measure(_Rows(), rows, request.tokens, dense, fidelity.Said.of)  # type: ignore[arg-type]
        return values


def _score(target: tuple[int, ...], reply: Message, last: Mapping[int, float]) -> tuple[float, bool]:
    """Log-probability of a sequence of targets, and whether each would have been chosen."""
    before = reply["before"][len(reply["before"]) - len(target) + 1 :]
    logprob = math.fsum([*(one for one, _ in before), last[target[-1]]])
    chosen = [*(token for _, token in before), reply["chosen"]]
    return logprob, chosen == list(target)


def _read(file: Path) -> Tensor:
    """Row that the process wrote; the file is removed."""
    row = np.load(file, allow_pickle=False)
    file.unlink()
    return torch.from_numpy(row)
