"""XQuAD's questions in one language (Artetxe et al. 2020, arXiv 1910.11856), the same items in each.

Its languages are translations of each other, row by row. The order depends on the row's id alone, so that a
limit asks the same questions in every language.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import datasets


def xquad(docs: Iterable[Mapping[str, Any]]) -> datasets.Dataset:
    """The rows by the hash of their id: id, context, question, answer, aliases, start (of the answer)."""
    rows = docs.to_list() if isinstance(docs, datasets.Dataset) else list(docs)
    return datasets.Dataset.from_list([_row(doc) for doc in sorted(rows, key=_place)])


def _place(doc: Mapping[str, Any]) -> str:
    return hashlib.sha256(doc["id"].encode()).hexdigest()


def _row(doc: Mapping[str, Any]) -> dict[str, Any]:
    first, *others = dict.fromkeys(doc["answers"]["text"])
    return {
        "id": doc["id"],
        "context": doc["context"],
        "question": doc["question"].strip(),
        "answer": first,
        "aliases": others,
        "start": doc["answers"]["answer_start"][0],
    }
