"""An advice in words, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kick.analysis.advice import Advice, Candidate, Evidence
from kick.printable import counted, plain
from kick.report import wording

SIMULATED = "quantization is simulated: measured on dequantized weights, no speed is claimed"
LISTED = 3


def lines(said: Advice) -> list[str]:
    """The advice: what to take, why, and what is nearest if it is smaller."""
    return [plain(line) for line in _lines(said)]


def _lines(said: Advice) -> Iterator[str]:
    within = wording.percent(said.tolerance)
    limit = f" of at most {wording.megabytes(said.memory)}" if said.memory is not None else ""
    yield f"{said.matrix}, {said.base}: the smallest variant{limit} shown to match dense within {within}"
    yield f"tasks: {', '.join(said.tasks)}"
    if said.skipped:
        yield f"left out, for their metric has no verdict: {', '.join(said.skipped)}"
    yield ""
    if said.chosen is None:
        yield f"None is shown to match, of {counted(said.looked, 'variant')} looked at."
    else:
        yield f"Take {_named(said.chosen)}"
        yield from _evidence(said.chosen.evidence)
        yield from _no_smaller(said.chosen, said)
    if said.chosen is None and said.memory is not None and said.dense <= said.memory:
        yield f"Dense itself fits: {wording.megabytes(said.dense)}."
    if said.nearest:
        yield ""
        yield "Nearest:" if said.chosen is None else "Smaller, and not shown to match:"
        for one in said.nearest:
            yield f"  {_named(one)}"
            yield from _no_smaller(one, said, "    ")
            yield from _evidence(one.open, "    ")
    yield ""
    yield from _notes(said)


def _no_smaller(one: Candidate, said: Advice, indent: str = "  ") -> Iterator[str]:
    """That nothing is saved by it, if dense is as small."""
    if said.dense <= one.size:
        yield f"{indent}but dense is no larger: {wording.megabytes(said.dense)}"


def _named(one: Candidate) -> str:
    """ "rtn 4-bit, 174 MB (compressed-tensors pack-quantized, 4 bits; quantization is simulated ...)"."""
    remarks = [one.size_of] if one.size_of else []
    remarks += [SIMULATED] if one.simulated else []
    remarks += [_speed(one)] if one.cost_of else []
    remarks += ["every item is scored as dense's"] if all(e.identical for e in one.evidence) else []
    about = f" ({'; '.join(remarks)})" if remarks else ""
    return f"{one.label}, {wording.megabytes(one.size)}{about}"


def _speed(one: Candidate) -> str:
    own, dense = (wording.number(rate, "tokens") for rate in (one.decode, one.dense_decode))
    return f"generates {own} tokens/s against {dense} of dense, {one.cost_of}"


def _evidence(found: Sequence[Evidence], indent: str = "  ") -> Iterator[str]:
    for one in found:
        name = f"{one.title} [{one.metric}]" if one.metric else one.title
        if one.verdict == "not measured":
            yield f"{indent}{name}: not measured"
            continue
        count = f"n = {one.n}" + (f" of {one.of}" if one.of > one.n else "")
        gap = wording.number(one.gap, one.unit, signed=True)
        span = wording.signed_span(one.low, one.high, one.unit)
        unit = wording.UNITS.get(one.unit, wording.UNITS["ratio"])[2]
        yield (
            f"{indent}{name}: {one.verdict}, {count}, gap {gap} {unit}".rstrip() + f" [{span}]{_decide(one)}"
        )


def _decide(one: Evidence) -> str:
    if one.verdict != "undecided":
        return ""
    if one.decide is None:
        return "; how many items would decide cannot be forecast"
    return f"; about {one.decide:,} items would decide"


def _notes(said: Advice) -> Iterator[str]:
    """What a reader must know."""
    if said.too_large:
        yield f"Larger than asked: {_listed(said.too_large)}."
    if said.unsized:
        why = "has no file to ship, or the result is older" if said.by == "shipped" else "has none"
        yield f"Of unknown size, not looked at ({why}): {_listed(said.unsized)}."
    form = "as shipped" if said.by == "shipped" else "in an ideal packed format"
    yield (
        f"Size: weight files {form}, without what a runtime needs beside them. Each verdict errs in at most "
        "5 % of studies; among "
        f"{counted(said.looked, 'variant')} the chance that one of them errs is larger."
    )


def _listed(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - LISTED} more" if len(labels) > LISTED else ""
    return ", ".join(labels[:LISTED]) + more
