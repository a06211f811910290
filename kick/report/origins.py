"""Where the results of a page come from: commits, machines, versions, models, calibration, times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from kick.analysis.frame import Results
from kick.printable import plain
from kick.report import wording


def provenance(report: Results) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(what, its distinct values) over all runs: commit, machine, versions, models, calibration, times."""
    found: dict[str, dict[str, None]] = {}
    seen: set[tuple[str, str]] = set()  # ten thousand runs have few provenances
    for cell in report.cells:
        run = cell.run
        for part in run.provenance.items():
            if (part[0], repr(part[1])) not in seen:
                seen.add((part[0], repr(part[1])))
                for name, value in _flat(dict([part])):
                    found.setdefault(name, {})[value] = None
        model = run.cell.variant.model
        text = f"{model.title}, {model.dtype}, weights {model.digest[:16] or 'unknown'}"
        found.setdefault("model", {})[text] = None
        spec = run.cell.variant.calibration
        if spec:
            text = (
                f"{spec.corpus}, {spec.sequences} x {spec.length} tokens, seed {spec.seed}, {spec.propagate}"
            ) + (f", chosen: {spec.select}" if spec.select else "")
            found.setdefault("calibration", {})[f"{text}, digest {spec.digest or 'unknown'}"] = None
    times = sorted(found.pop("time", {}))
    if times:
        found["measured"] = {times[0]: None, times[-1]: None}
    return tuple((name, _few(list(values))) for name, values in found.items())


def _flat(value: Any, name: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{name} {key}".strip())
    elif isinstance(value, list | tuple):
        yield plain(name), wording.visible(" ".join(map(_without_folders, map(str, value))))
    elif value is not None and value != "":
        yield plain(name), wording.visible(str(value))


def _without_folders(word: str) -> str:
    """A word of a command; of an absolute path the last part alone: folders of a machine tell nothing."""
    option, equals, value = word.rpartition("=")
    path = value.removeprefix("file://")
    return f"{option}{equals}\u2026/{PurePath(path).name}" if path.startswith(("/", "~")) else word


def _few(values: Sequence[str], most: int = 4) -> tuple[str, ...]:
    rest = len(values) - most
    return (*values[:most], *((f"and {rest} more",) if rest > 0 else ()))
