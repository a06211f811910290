"""The claims of papers, one YAML file each in papers/, checked as they are read.

    name: wanda
    title: Wanda (Sun et al., ICLR 2024)
    source: arXiv 2306.11695
    matrices: {tiny: PRESET}                # which preset measures it at which scale; may be left out
    claims:
      - name: beats-magnitude
        sentence: At equal sparsity Wanda beats magnitude pruning by far.
        where: abstract
        test: order                         # see `kick.analysis.claims.TESTS`
        measure: {better: {method: wanda}, than: {method: magnitude}, tasks: [perplexity]}
      - name: larger-models
        sentence: ...
        cannot: one model size is here      # in place of test and measure

A method is one of `kick methods`, or a recipe's steps as they follow: "wanda + eora". A file anywhere else is
read the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kick.errors import KickError
from kick.matrix.yaml_marks import read, refusal
from kick.registry import unknown

FOLDER = Path(__file__).parent / "papers"
SCALES = ("tiny", "small", "full")
_MEASURES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # test -> (must be there, may be there)
    "verdict": (("variants", "tasks", "expect"), ()),
    "order": (("better", "than", "tasks"), ("equal",)),
    "kept": (("variants", "tasks", "least"), ()),
    "hidden": (("tasks",), ("variants",)),
    "flips": (("variants", "tasks", "least"), ()),
    "parts": (("tasks", "metric"), ("variants",)),
}
TESTS = tuple(_MEASURES)
EXPECTS = ("worse", "matching")
CHOICE = ("method", "sparsity", "pattern", "bits", "sequences")
EQUAL = (*CHOICE, "level", "first")  # to the nearest tenth of sparsity; the first method of a recipe


@dataclass(frozen=True)
class PaperClaim:
    """A sentence of a paper in our words, where it is, and how it is tested: or why it cannot be."""

    name: str
    sentence: str
    where: str = ""
    test: str = ""
    measure: Mapping[str, Any] = field(default_factory=dict)
    cannot: str = ""
    note: str = ""


@dataclass(frozen=True)
class Paper:
    """A paper with its claims. `matrices`: the preset that measures it, by scale."""

    name: str
    title: str
    source: str
    claims: tuple[PaperClaim, ...]
    matrices: Mapping[str, str] = field(default_factory=dict)

    def matrix(self, scale: str) -> str:
        """The preset of a scale. Raises KickError if there is none."""
        if scale not in SCALES:
            raise KickError(f"--scale: {unknown('scale', scale, SCALES)}")
        if scale not in self.matrices:
            there = ", ".join(self.matrices) or "none"
            raise KickError(
                f"{self.name} has no matrix of scale {scale} (it has: {there}); --results DIR tests its "
                "claims on results that exist"
            )
        return self.matrices[scale]


def names() -> list[str]:
    """The papers whose claims come with kick."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def paper(name: str) -> Paper:
    """A paper by its name, or by the path of a claims file. Raises KickError if it is not valid."""
    file = FOLDER / f"{name}.yaml" if name in names() else Path(name)
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise KickError(f"no claims file and {unknown('paper', name, names())}") from None
    values, marks, problems = read(text, str(file))
    if problems:
        raise refusal(marks, problems)
    return _paper(values, file.name)


def _paper(values: Any, file: str) -> Paper:
    _keys(values, ("name", "title", "source", "claims"), ("matrices",), file)
    if not isinstance(values["claims"], list) or not values["claims"]:
        raise KickError(f"{file}: claims must be a list with at least one claim")
    claims = tuple(_claim(one, f"{file}, claim {place + 1}") for place, one in enumerate(values["claims"]))
    known = [claim.name for claim in claims]
    if len(set(known)) < len(known):
        raise KickError(f"{file}: two claims have one name")
    said = {name: str(values[name]) for name in ("name", "title", "source")}
    return Paper(**said, claims=claims, matrices=values.get("matrices") or {})


def _claim(values: Any, at: str) -> PaperClaim:
    _keys(values, ("name", "sentence"), ("where", "test", "measure", "cannot", "note"), at)
    if ("cannot" in values) == ("test" in values):
        raise KickError(f"{at}: expected either test and measure, or cannot with the reason")
    if "cannot" in values:
        said = {name: str(values.get(name, "")) for name in ("name", "sentence", "where", "note", "cannot")}
        return PaperClaim(**said, test="", measure={})
    if values["test"] not in TESTS:
        raise KickError(f"{at}: {unknown('test', str(values['test']), TESTS)}")
    needed, more = _MEASURES[values["test"]]
    _keys(values.get("measure"), needed, more, f"{at}, measure")
    _measure(values["measure"], at)
    return PaperClaim(**values)


def _measure(measure: Mapping[str, Any], at: str) -> None:
    """Refuse values that no test can read: a list is a set of methods or patterns, of numbers a range."""
    if not isinstance(measure["tasks"], list):
        raise KickError(f"{at}: tasks: got {measure['tasks']!r}; expected a list")
    if measure.get("expect", EXPECTS[0]) not in EXPECTS:
        raise KickError(f"{at}: expect: {unknown('verdict', str(measure['expect']), EXPECTS)}")
    for name in measure.get("equal", ()):
        if name not in EQUAL:
            raise KickError(f"{at}: equal: {unknown('column', str(name), EQUAL)}")
    for part in ("variants", "better", "than"):
        if part in measure:
            _keys(measure[part], (), CHOICE, f"{at}, {part}")
            for name, value in measure[part].items():
                if name not in ("method", "pattern") and isinstance(value, list) and len(value) != 2:
                    raise KickError(f"{at}, {part}: {name}: got {value}; expected a number or [low, high]")


def _keys(values: Any, needed: Sequence[str], more: Sequence[str], at: str) -> None:
    if not isinstance(values, Mapping):
        raise KickError(f"{at}: expected a mapping with {', '.join([*needed, *more])}")
    missing = [name for name in needed if name not in values]
    if missing:
        raise KickError(f"{at}: {missing[0]} is missing")
    for name in values:
        if name not in (*needed, *more):
            raise KickError(f"{at}: {unknown('key', str(name), [*needed, *more])}")
