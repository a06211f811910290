"""A tokenizer with fewer tokens: byte pair encoding without the merges that lead to those that are gone.

A kept token needs its chain: the tokens that merges make on the way to it. Let K hold the chain of each of
its tokens. A text that was cut into tokens of K is cut so again if all merges within K stay, in their order:
each merge that was the first one possible is there, and is the first of fewer. Any other text is cut into
tokens of K as far as merges lead. Pieces of which every text is made (bytes, or characters) are always kept.
Ids are numbered anew, in their old order.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from kick.catalog import retokenises
from kick.errors import CellFailed, KickError
from kick.model.source import tokenizer_in
from kick.records import Step

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_PAIRED = ("BertProcessing", "RobertaProcessing")  # post-processors that have [token, id] of `sep` and `cls`


def check_tokenizer(recipe: Sequence[Step], tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Raises KickError if a step of the recipe rewrites the tokenizer and cannot rewrite this one."""
    if any(map(retokenises, recipe)):
        BytePairs.of(tokenizer)


@dataclass(frozen=True, eq=False)
class BytePairs:
    """A tokenizer of byte pair encoding, taken apart; `whole` is its tokenizer.json."""

    tokenizer: PreTrainedTokenizerBase
    whole: dict[str, Any]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase | None) -> BytePairs:
        """Raises KickError for a tokenizer of another kind, or with parts that are not known here."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        whole = {} if backend is None else json.loads(backend.to_str())
        model = whole.get("model") or {}
        kind = model.get("type", type(tokenizer).__name__)
        refused = "" if kind == "BPE" else f"it is of the kind {kind}"
        for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            refused = refused or (f"it has {name} {model[name]!r}" if model.get(name) else "")
        for one in _processors(whole.get("post_processor")):
            known = ("TemplateProcessing", "ByteLevel", *_PAIRED)
            refused = refused or ("" if one["type"] in known else f"it has a {one['type']}")
        if tokenizer is None or refused:
            raise KickError(
                f"the tokenizer cannot be rewritten: {refused}; expected a fast tokenizer of byte "
                "pair encoding"
            )
        return cls(tokenizer, whole)

    @property
    def vocabulary(self) -> dict[str, int]:
        """Ids by token, added tokens that the encoding does not know aside."""
        found: dict[str, int] = self.whole["model"]["vocab"]
        return found

    @property
    def added(self) -> set[int]:
        """The ids of added tokens, special or not."""
        return {int(one["id"]) for one in self.whole["added_tokens"]}

    def pieces(self) -> set[int]:
        """The ids of what every text can be made of: bytes, else characters; and the unknown token's."""
        model = self.whole["model"]
        if any(
            one["type"] == "ByteLevel" for one in _parts(self.whole.get("pre_tokenizer"), "pretokenizers")
        ):
            alphabet = set(ByteLevel.alphabet())
            found = {place for token, place in self.vocabulary.items() if token in alphabet}
        elif model.get("byte_fallback"):
            found = {place for token, place in self.vocabulary.items() if _BYTE.fullmatch(token)}
        else:
            found = {place for token, place in self.vocabulary.items() if len(token) == 1}
        unknown = model.get("unk_token")
        return found | ({self.vocabulary[unknown]} if unknown in self.vocabulary else set())

    def closed(self, ids: Iterable[int]) -> set[int]:
        """The ids, and those of the tokens that merges make on the way to them."""
        tokens = {place: token for token, place in self.vocabulary.items()}
        ranks = {(a, b): rank for rank, (a, b) in enumerate(self.whole["model"]["merges"])}
        kept = set(ids)
        for place in list(kept):
            if place in tokens:
                kept |= {
                    self.vocabulary[one] for one in chain(tokens[place], ranks) if one in self.vocabulary
                }
        return kept

    def narrowed(self, places: Mapping[int, int]) -> PreTrainedTokenizerBase:
        """The tokenizer with the ids that `places` has, numbered as it says, as it is loaded from its files.

        Raises CellFailed if transformers makes another one of these files.
        """
        whole = json.loads(json.dumps(self.whole))
        model = whole["model"]
        model["vocab"] = {token: places[old] for token, old in self.vocabulary.items() if old in places}
        kept = model["vocab"]
        model["merges"] = [
            pair for pair in model["merges"] if pair[0] in kept and pair[1] in kept and "".join(pair) in kept
        ]
        for one in whole["added_tokens"]:
            one["id"] = places[one["id"]]
        if whole.get("padding"):
            whole["padding"]["pad_id"] = places[whole["padding"]["pad_id"]]
        for one in _processors(whole.get("post_processor")):
            for special in (one.get("special_tokens") or {}).values():
                special["ids"] = [places[old] for old in special["ids"]]
            for name in ("sep", "cls") if one["type"] in _PAIRED else ():
                one[name] = [one[name][0], places[one[name][1]]]
        return self._loaded(Tokenizer.from_str(json.dumps(whole)))

    def _loaded(self, backend: Tokenizer) -> PreTrainedTokenizerBase:
        """The tokenizer with another backend, saved and loaded again."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            self.tokenizer.save_pretrained(folder)
            backend.save(str(folder / "tokenizer.json"))
            made = tokenizer_in(folder)
        made.name_or_path = self.tokenizer.name_or_path
        if made.get_vocab() != backend.get_vocab():
            raise CellFailed(
                f"transformers makes another vocabulary of the files of a {type(made).__name__} with fewer "
                f"tokens: {len(made.get_vocab())} of them, not {backend.get_vocab_size()}"
            )
        return made


def chain(token: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """The symbols of a token, and all that merges make of them; what it is cut into last comes last."""
    symbols = list(token)
    found = list(symbols)
    while len(symbols) > 1:
        pairs = [ranks.get(pair, len(ranks)) for pair in pairwise(symbols)]
        best = min(range(len(pairs)), key=pairs.__getitem__)  # of equal ranks the left one
        if pairs[best] == len(ranks):
            break
        symbols[best : best + 2] = [symbols[best] + symbols[best + 1]]
        found.append(symbols[best])
    return found


def _parts(node: Any, inner: str) -> Iterator[dict[str, Any]]:
    """A part of tokenizer.json, or those that a sequence of them is made of."""
    if not node:
        return
    if node["type"] != "Sequence":
        yield node
        return
    for one in node[inner]:
        yield from _parts(one, inner)


def _processors(node: Any) -> Iterator[dict[str, Any]]:
    return _parts(node, "processors")
