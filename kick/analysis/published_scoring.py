"""LLM-KICK's published scores from the same stored answers, and how much each of their defects adds.

The published code counts an answer as right if (facts) the expected answer, all spaces removed, occurs in the
prompt and the completion together, all spaces removed; or (reading) if either of answer and expected answer
contains the other. Here each defect is counted alone, beside the containment of the expected answer on word
borders. Stored answers hold the first of the accepted answers alone, so that this is what all columns use.
The rules are those that docs/protocol.md and the paper describe; no code is the authors'.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kick.analysis.cells import StoredCell
from kick.analysis.headlines import info
from kick.records import Sample
from kick.tasks.text import contains

FACTS, READING = ("factoid_qa",), ("icra_qa_closed", "icra_qa_open")
DEFECTS = {
    "empty": "an empty answer is right",
    "question": "the expected answer occurs in the prompt",
    "part": "the answer is a part of the expected one",
    "spaces": "a match across word borders",
}


@dataclass(frozen=True)
class PublishedScore:
    """A cell's score on word borders and as published, and what each defect adds to the former, as shares.

    n: items; defects: by name, those that the published rule of the task has.
    """

    label: str
    title: str
    n: int
    ours: float
    published: float
    defects: Mapping[str, float]


def scores(cells: Sequence[StoredCell]) -> Iterator[PublishedScore]:
    """The scores of the cells whose tasks have a published rule. Raises Damaged of damaged items."""
    for cell in cells:
        family = info(cell.run).family
        if not cell.variant.replica and family in (*FACTS, *READING):
            yield _answered(cell, cell.store.samples(cell.run.key), family in FACTS)


def _answered(cell: StoredCell, samples: Sequence[Sample], facts: bool) -> PublishedScore:
    rows = [_item(sample, facts) for sample in samples]
    names = [name for name in DEFECTS if rows and name in rows[0]]
    ours = _share([row["ours"] for row in rows])
    added = {name: _share([row["ours"] or row[name] for row in rows]) - ours for name in names}
    published = _share([row["published"] for row in rows])
    return PublishedScore(cell.label, info(cell.run).title, len(rows), ours, published, added)


def _item(sample: Sample, facts: bool) -> dict[str, bool]:
    """Whether an answer is right on word borders, as published, and by each defect alone."""
    text = next((one.text for one in sample.responses if one.text is not None), "")
    gold, answer = sample.target.strip(), text.strip()
    if not gold:  # the empty text is contained in everything
        names = ("ours", "published", *(("spaces", "question") if facts else ("empty", "part", "spaces")))
        return dict.fromkeys(names, False)
    found = {"ours": bool(contains(answer, [gold])), "spaces": _squeezed(gold) in _squeezed(answer)}
    if facts:
        found["question"] = bool(contains(sample.preview, [gold]))
        return found | {"published": _squeezed(gold) in _squeezed(sample.preview + text)}
    line = answer.partition("\n")[0].lower()
    found["empty"] = not line
    found["part"] = bool(line) and line in gold.lower()
    found["spaces"] = gold.lower() in line
    return found | {"published": line in gold.lower() or gold.lower() in line}


def _squeezed(text: str) -> str:
    return "".join(text.split()).lower()


def _share(right: Sequence[bool]) -> float:
    return sum(right) / len(right) if right else math.nan
