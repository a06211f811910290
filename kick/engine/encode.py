"""Text to token ids exactly as lm-eval's HFLM does with its defaults, each text tokenised once per matrix.

Two rules of HFLM differ and both are kept: what is scored (log-likelihood, rolling) gets no special tokens
when the text starts with the prefix token's own text; what is continued (generate) when it starts with the
BOS text. So a chat template that writes its own BOS is never given a second one.

Over-long inputs are cut on the left, by tokens: a context so that context and continuation fit the window,
a prompt so that the tokens to be generated fit behind it. A continuation that is longer than the window
(lm-eval refuses it) keeps one token of its context and is scored in consecutive windows, each token once.

A continuation whose first letters the tokenizer joins with the end of its context is scored from the first
token in which the whole differs from the context alone. lm-eval counts the context's tokens instead, and so
leaves out what was joined, at times all of it. A continuation that has no token at all has no windows.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kick.errors import KickError
from kick.paths import spare
from kick.records import Request

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

log = logging.getLogger("kick.engine")

DEFAULT_MAX_LENGTH = 2048


@dataclass(frozen=True)
class Scoring:
    """A window to score: `ids` go in, `targets` are what the last len(targets) positions should predict."""

    ids: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Prompt:
    """Token ids to continue; `truncated` tokens were cut from their left."""

    ids: tuple[int, ...]
    truncated: int = 0


def max_length(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """The model's window in tokens: where lm-eval looks for it, in the same order."""
    config = getattr(config, "text_config", None) or config
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        value = getattr(config, name, None)
        if value is not None:
            return int(value)
    value = getattr(tokenizer, "model_max_length", None)
    return int(value) if value is not None and value < 10**12 else DEFAULT_MAX_LENGTH


def digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hex digits that change with what changes token ids: vocabulary, merges, added tokens, BOS."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    text += repr(tokenizer("a b")["input_ids"]) + type(tokenizer).__name__
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class TokenCache:
    """Token ids by text hash: in memory, and in an SQLite file that several processes may share.

    If the file cannot be used (read-only or full disk, damage), they are kept in memory alone.
    """

    def __init__(self, name: str, folder: Path | str | None = None):
        self.memory: dict[bytes, tuple[int, ...]] = {}
        self.path = None if folder is None else Path(folder) / f"tokens-{name}.sqlite"
        with self._file() as file:
            if file is not None:
                file.execute("create table if not exists tokens (text blob primary key, ids blob)")

    @contextmanager
    def _file(self) -> Iterator[sqlite3.Connection | None]:
        """The open file; None if there is none. After an error of it there is none."""
        file = None
        path, self.path = self.path, None
        if path is not None:
            with spare(path, sqlite3.Error):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = sqlite3.connect(path, timeout=120)
        if path is None or file is None:
            yield None
            return
        with spare(path, sqlite3.Error):
            with file:  # commits
                yield file
            self.path = path

    def get(self, keys: Sequence[bytes]) -> list[tuple[int, ...] | None]:
        """The ids of each key, None if they are not known."""
        wanted = [key for key in dict.fromkeys(keys) if key not in self.memory]
        with self._file() as file:
            for start in range(0, len(wanted), 500):
                if file is None:
                    break
                part = wanted[start : start + 500]
                marks = ",".join("?" * len(part))
                for key, ids in file.execute(f"select text, ids from tokens where text in ({marks})", part):
                    self.memory[key] = tuple(np.frombuffer(ids, np.int32).tolist())
        return [self.memory.get(key) for key in keys]

    def put(self, found: Iterable[tuple[bytes, tuple[int, ...]]]) -> None:
        """Remember the ids; another process that stored the same ones meanwhile does no harm."""
        found = list(found)
        self.memory.update(found)
        with self._file() as file:
            if file is not None:
                rows = [(key, np.asarray(ids, np.int32).tobytes()) for key, ids in found]
                file.executemany("insert or ignore into tokens values (?, ?)", rows)


class Encoder:
    """Turns Requests into windows and prompts. `counts`: texts that were tokenised, and known.

    rows: of the model's embedding, None for any; a text with a token beyond them is refused.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        folder: Path | str | None = None,
        rows: int | None = None,
    ):
        self.rows = rows
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.cache = TokenCache(digest(tokenizer), folder)
        bos = tokenizer.bos_token_id
        self.prefix = bos if bos is not None else tokenizer.eos_token_id
        if self.prefix is None:
            raise KickError("the tokenizer has neither a BOS nor an EOS token; one of them is needed")
        self.prefix_text = tokenizer.decode(self.prefix)
        self.adds_bos = bos is not None and self._raw([""], True)[0][:1] == (bos,)
        self.counts = {"tokenised": 0, "known": 0}
        self.warned = False

    def notes(self) -> dict[str, Any]:
        """How texts become token ids, as JSON values for run.json."""
        return {
            "bos": "added by the tokenizer" if self.adds_bos else "only where the text has it",
            "window": self.max_length,
            "cut": "left, by tokens",
            "texts": dict(self.counts),
        }

    # ------------------------------------------------------------------------------------ texts

    def _raw(self, texts: list[str], special: bool) -> list[tuple[int, ...]]:
        found = self.tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"]
        return [tuple(ids) for ids in found]

    def encode(self, texts: Sequence[str], special: Sequence[bool]) -> list[tuple[int, ...]]:
        """The token ids of each text, with the tokenizer's special tokens where `special` says so."""
        keys = [
            hashlib.sha256(bytes([add]) + text.encode("utf-8", "surrogatepass")).digest()[:16]
            for text, add in zip(texts, special, strict=True)
        ]
        known = self.cache.get(keys)
        for add in (True, False):
            missing = {
                key: text
                for key, text, got, one in zip(keys, texts, known, special, strict=True)
                if got is None and one is add
            }
            if missing:
                self.cache.put(zip(missing, self._raw(list(missing.values()), add), strict=True))
                self.counts["tokenised"] += len(missing)
        self.counts["known"] += sum(ids is not None for ids in known)
        return [self.within(self.cache.memory[key]) for key in keys]

    def within(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """The ids. Raises KickError for one that the model's embedding has no row for."""
        if self.rows is not None and ids and max(ids) >= self.rows:
            raise KickError(
                f"a text has the token {max(ids)} ({self.tokenizer.decode([max(ids)])!r}), but the model's "
                f"embedding has {self.rows} rows; expected: a tokenizer that fits the model"
            )
        return ids

    def scored(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of texts to be scored: special tokens unless the text brings the prefix token itself."""
        return self.encode(texts, [not text.startswith(self.prefix_text) for text in texts])

    def continued(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of texts to be continued: special tokens unless the text brings the BOS itself."""
        bos = self.tokenizer.bos_token
        found = self.encode(texts, [not (bos and text.startswith(bos)) for text in texts])
        wants = getattr(self.tokenizer, "add_bos_token", False) and self.tokenizer.bos_token_id is not None
        if wants and not self.warned and any(ids[:1] != (self.tokenizer.bos_token_id,) for ids in found):
            self.warned = True
            log.warning("the tokenizer is set to begin with %r, but a prompt does not", bos)
        return found

    # ------------------------------------------------------------------------------------ requests

    def pairs(self, requests: Sequence[Request]) -> list[tuple[list[Scoring], int]]:
        """For each log-likelihood request its windows (one; more for an over-long continuation), the cut."""
        split = [_move_spaces(request.context, request.continuation) for request in requests]
        alone = [text for context, text in split if not context]
        wholes = iter(self.scored([context + text for context, text in split if context]))
        contexts = iter(self.scored([context for context, _ in split if context]))
        bare = iter(self.encode(alone, [False] * len(alone)))
        found = []
        for context, _ in split:
            if context:
                head, whole = next(contexts), next(wholes)
                border = shared(head, whole)
                found.append(self._windows(whole[:border] or (self.prefix,), whole[border:]))
            else:
                ids = next(bare)
                own = ids[:1] == (self.prefix,)
                found.append(self._windows(ids[:1], ids[1:]) if own else self._windows((self.prefix,), ids))
        return found

    def _windows(self, context: tuple[int, ...], targets: tuple[int, ...]) -> tuple[list[Scoring], int]:
        if not targets:
            return [], 0
        if len(targets) > self.max_length:
            return self._roll(targets, context[-1]), len(context) - 1
        whole = context + targets
        cut = max(0, len(whole) - self.max_length - 1)
        return [Scoring(whole[cut:-1], targets)], cut

    def _roll(self, ids: tuple[int, ...], first: int) -> list[Scoring]:
        """Windows over `ids`, each token predicted once; the last one keeps as much context as fits."""
        size, whole = self.max_length, (first, *ids)
        windows = []
        for start in range(0, len(ids), size):
            end = min(start + size, len(ids))
            windows.append(Scoring(whole[max(0, end - size) : end], ids[start:end]))
        return windows

    def rolling(self, requests: Sequence[Request]) -> list[list[Scoring]]:
        """For each rolling request the disjoint windows of the model's length that cover its text."""
        return [self._roll(ids, self.prefix) for ids in self.scored([r.context for r in requests])]

    def prompts(self, requests: Sequence[Request]) -> list[Prompt]:
        """The prompt of each generate or fidelity request, cut so that what follows it fits the window.

        Raises KickError if nothing of the prompt would be left.
        """
        found = []
        for request, ids in zip(requests, self.continued([r.context for r in requests]), strict=True):
            after = len(request.tokens) if request.kind == "fidelity" else request.max_tokens
            room = self.max_length - after
            if room <= 0:
                raise KickError(
                    f"max_tokens must be less than the model's window; got {after} "
                    f"for a window of {self.max_length}"
                )
            ids = ids or (self.prefix,)
            cut = max(0, len(ids) - room)
            found.append(Prompt(ids[cut:], cut))
        return found


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their start."""
    differ = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    """lm-eval's rule: blanks at the end of the context belong to the continuation."""
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation
