"""docs/architectures.md from the rows that architectures.py has measured."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping

WIDTH = 100
BACKENDS = ("packed", "plain")
PARTS = ("log-probabilities", "generation", "fidelity")
INTRO = """\
# Architectures

What kick answers on tiny random models, compared with plain transformers: {compared} of the
{types} model types for which transformers {transformers} has a causal class. Written by
`make architectures` on {date}, with kick {kick}, torch {torch}, on one CPU thread in float32. Edit
benchmarks/architectures.py, not this page.

Each model has 2 to 4 layers of width 32, a window of 128 and a sliding window of 24 if the type has
one. Its weights are random, so a table row says that the computation is right and nothing of how
good a real model is. It is saved, loaded by kick, and asked the same by both backends, `packed` and
`plain`: five continuations, four greedy answers of {tokens} tokens, eight teacher-forced texts. The
expected values come from `AutoModelForCausalLM` with eager attention, one row at a time, without a
cache. Each token's logits are those of a forward over what precedes it alone, so no mask is taken
on trust.

- **used**: how the default backend, `packed`, runs the type. *packs*: shared beginnings and several
  rows in one forward; beyond the sliding window such a model is run in rows. *rows*: whole forwards
  of rows padded on the right, and transformers' own `generate`. `plain` always runs rows.
- **log-probs, text, fidelity**: *yes* if both backends agree with the expected values. Log-likelihoods
  and log-perplexities must be within 1e-4 nats per token. Answers must have the same tokens; FDT and
  SDT must be the same numbers; the divergence of the model from itself must be within 1e-4 of 0. *part*:
  what is there agrees, and the divergence is missing.
- **difference**: the largest that was found, in nats per token.
"""
NOT_RUN = """\
## Not compared

These types could not be built tiny, transformers itself did not run the tiny model, or the
comparison took too long.
"""


def page(kept: Mapping, left_out: Mapping[str, str], noted: Mapping[str, str]) -> str:
    """The page, lines within WIDTH columns.

    left_out: types that were not tried, with the reason. noted: more remarks, by type.
    """
    rows = dict(sorted(kept["rows"].items()))
    compared = {
        name: {**row, "noted": noted.get(name)} for name, row in rows.items() if row["state"] == "compared"
    }
    facts = {**kept["versions"], "date": kept["date"], "compared": len(compared)}
    intro = INTRO.format(**facts, types=len(rows) + len(left_out), tokens=kept["tokens"])
    parts = [*map(_wrapped, intro.split("\n\n")), _summary(compared)]
    remarks: list[str] = []
    lines = [
        "| class | model type | used | log-probs | text | fidelity | difference | remark |",
        "|---|---|---|---|---|---|---:|---|",
    ]
    lines += [_line(name, row, remarks) for name, row in compared.items()]
    parts.append("## Compared\n\n" + "\n".join(lines))
    if remarks:
        items = [_item(f"{i}. ", text) for i, text in enumerate(remarks, 1)]
        parts.append("## Remarks\n\n" + "\n".join(items))
    missing = {name: row["reason"] for name, row in rows.items() if row["state"] != "compared"}
    reasons: dict[str, list[str]] = {}
    for name, reason in sorted({**missing, **left_out}.items()):
        reasons.setdefault(reason, []).append(name)
    items = [_item("- ", f"{_names(names)}: {_plain(reason)}") for reason, names in reasons.items()]
    return "\n\n".join([*parts, NOT_RUN + "\n" + "\n".join(items)]) + "\n"


def _summary(compared: Mapping[str, Mapping]) -> str:
    states = [state(row) for row in compared.values()]
    packs = sum(_used(row) == "packs" for row in compared.values())
    counts = {name: states.count(name) for name in ("equal", "refused", "wrong")}
    return _wrapped(
        f"{counts['equal']} of {len(states)} are equal in everything that both have, {packs} of them in "
        f"packs. {counts['refused']} are refused by name. Not equal or failed: {counts['wrong']}."
    )


def state(row: Mapping) -> str:
    """equal, refused or wrong."""
    ways = [row["backends"][name] for name in BACKENDS]
    if all(way["used"] == "refused" for way in ways):
        return "refused"
    return "equal" if all(way.get(part) for way in ways for part in PARTS) else "wrong"


def _used(row: Mapping) -> str:
    return row["backends"][BACKENDS[0]]["used"].replace("rows padded on the right", "rows")


def _line(name: str, row: Mapping, remarks: list[str]) -> str:
    """A row of the table; its remarks are added to the list, equal ones once."""
    ways = {backend: row["backends"][backend] for backend in BACKENDS}
    answered = [way for way in ways.values() if "largest" in way]
    marks = []
    for part in PARTS:
        values = [way.get(part) for way in answered]
        marks.append("" if not values else "yes" if all(values) else "no")
    if marks[2] == "yes" and any(way.get("missing") for way in answered):
        marks[2] = "part"
    largest = f"{max(way['largest'] for way in answered):.0e}" if answered else ""
    used, *manner = _used(row).split(", ")
    numbers = []
    for text in [*_remarks(ways), *_noted(row), *([f"rows are run {', '.join(manner)}"] if manner else [])]:
        if text not in remarks:
            remarks.append(text)
        numbers.append(str(remarks.index(text) + 1))
    return f"| {row['class']} | {name} | {used} | {' | '.join(marks)} | {largest} | {', '.join(numbers)} |"


def _remarks(ways: Mapping[str, Mapping]) -> Iterable[str]:
    texts = {backend: _said(way) for backend, way in ways.items()}
    if len(set(texts.values())) == 1:
        return filter(None, set(texts.values()))
    return [f"{backend}: {text}" for backend, text in texts.items() if text]


def _said(way: Mapping) -> str:
    first = way["remarks"][:3]
    more = len(way["remarks"]) - len(first)
    text = "; ".join([*first, *([f"and {more} more"] if more else [])])
    return f"{way['used']}: {_plain(text)}" if way["used"] in ("refused", "fails") else text


def _noted(row: Mapping) -> Iterable[str]:
    """What transformers does that a reader should know."""
    if row["gap"] > 1e-3:
        yield "transformers' own forward is not causal: a token changes what is computed before it"
    if row["noted"]:
        yield row["noted"]
    if row["saved"] > 1e-3:
        yield "the model that transformers saved and loaded again is another one"


def _plain(text: str) -> str:
    """Text of an error on one line, safe in markdown."""
    text = re.sub(r"\s+", " ", text)
    return re.sub(r"([|<>*_`\[\]])", r"\\\1", text)


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _item(mark: str, text: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark), break_long_words=True
    )


def _wrapped(text: str) -> str:
    """A paragraph or a list, wrapped again."""
    if text.startswith("#"):
        return text
    if text.startswith("- "):
        return "\n".join(_item("- ", " ".join(part.split())) for part in text[2:].split("\n- "))
    return textwrap.fill(" ".join(text.split()), WIDTH)
