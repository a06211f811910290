"""The report on a paper's claims as Markdown, and as JSON values: the verdict, then the numbers behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from kick.analysis.claims import VERDICTS, ClaimEvidence, Tested
from kick.analysis.papers_file import Paper
from kick.printable import counted
from kick.records import jsonable
from kick.report import tables, wording

MOST = 24  # comparisons of a claim that are listed; the shown ones come first
HEADS = ("compared", "task", "score", "reference", "difference", "95 % interval", "n", "says")


def markdown(
    found: Sequence[tuple[Paper, Sequence[Tested]]], models: Sequence[str], notes: Sequence[str]
) -> str:
    """The whole report: what was measured, a table of all verdicts, then every claim with its numbers."""
    measured = ", ".join(models)
    parts = [
        "# Claims of papers, and what was measured",
        f"{_counts(found)} Measured on {tables.markdown_text(measured)}. A verdict is of this model and "
        "these items; another may do otherwise. Supported: what the claim speaks of is shown, and nothing "
        "shown speaks against it. Contradicted: the opposite is shown. Undecided: neither, or both, with "
        "this many items.",
        "\n".join(f"- {tables.markdown_text(note)}" for note in notes),
        _summary(found),
        *(part for paper, tested in found for part in _paper(paper, tested)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _counts(found: Sequence[tuple[Paper, Sequence[Tested]]]) -> str:
    words = Counter(one.verdict for _, tested in found for one in tested)
    claims = f"{counted(words.total(), 'claim')} of {counted(len(found), 'paper')}"
    said = ", ".join(f"{words[word]} {word}" for word in VERDICTS if words[word])
    return f"{claims}: {said}."


def _summary(found: Sequence[tuple[Paper, Sequence[Tested]]]) -> str:
    lines = ["| paper | claim | verdict |", "|---|---|---|"]
    for paper, tested in found:
        for one in tested:
            reason = f": {one.reason}" if one.reason else ""
            cells = (paper.name, one.claim.sentence, f"**{one.verdict}**{reason}")
            lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines)


def _paper(paper: Paper, tested: Sequence[Tested]) -> Iterable[str]:
    yield f"## {tables.markdown_text(paper.title)}, {tables.markdown_text(paper.source)}"
    for one in tested:
        where = f" ({one.claim.where})" if one.claim.where else ""
        yield f"### {tables.markdown_text(one.claim.sentence + where)}"
        yield " ".join(filter(None, (f"**{one.verdict.capitalize()}.**", _why(one))))
        if one.evidence:
            yield _table(one.evidence)


def _why(one: Tested) -> str:
    note = f"{one.claim.note[:1].upper()}{one.claim.note[1:]}" if one.claim.note else ""
    if one.reason:
        return tables.markdown_text(f"{one.reason[:1].upper()}{one.reason[1:]}. {note}".strip())
    words = Counter(evidence.says for evidence in one.evidence)
    text = (
        f"{counted(len(one.evidence), 'comparison')}: {words['for']} for it, {words['against']} against, "
        f"{words['']} undecided."
    )
    return tables.markdown_text(f"{text} {note}".strip())


def _table(evidence: Sequence[ClaimEvidence]) -> str:
    shown = sorted(evidence, key=lambda one: one.says == "")[:MOST]
    lines = [f"| {' | '.join(HEADS)} |", "|---|---|---|---|---|---|---|---|"]
    lines += [f"| {' | '.join(map(_cell, _row(one)))} |" for one in shown]
    left = len(evidence) - len(shown)
    return "\n".join(lines) + (f"\n\nand {left} more, in report.json." if left else "")


def _row(one: ClaimEvidence) -> tuple[str, ...]:
    mark = {"for": "for: ", "against": "against: ", "": ""}[one.says]
    return (
        one.what,
        one.task,
        wording.number(one.value, one.unit),
        wording.number(one.reference, one.unit),
        wording.number(one.gap, one.unit, signed=True),
        wording.signed_span(one.low, one.high, one.unit),
        f"{one.n} of {one.of}" if one.of > one.n else str(one.n),
        f"{mark}{one.word}",
    )


def _cell(text: str) -> str:
    """Text in a cell of a Markdown table; the verdicts' own stars stay."""
    if text.startswith("**"):
        verdict, _, rest = text[2:].partition("**")
        return f"**{verdict}**{tables.markdown_text(rest)}"
    return tables.markdown_text(text).replace("\n", " ")


def values(found: Sequence[tuple[Paper, Sequence[Tested]]]) -> list[dict[str, Any]]:
    """Everything as JSON values, with null for what could not be computed."""
    return [
        {
            "paper": paper.name,
            "title": paper.title,
            "source": paper.source,
            "claims": [jsonable(asdict(one)) for one in tested],
        }
        for paper, tested in found
    ]
