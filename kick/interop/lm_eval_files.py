"""Reads the samples files of lm-eval: samples_<task>_<time>.jsonl, beside them results_<time>.json.

Its documents are recognised by lm-eval's own hash, which is computed again of ours and of the file's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from lm_eval.utils import handle_non_serializable, hash_string
from pydantic import AfterValidator, BeforeValidator, Field

from kick.errors import KickError
from kick.interop.answers import AnswerFile, TheirAnswer
from kick.interop.checked import Form, checked, parsed
from kick.records import ModelSpec
from kick.tasks.lm_eval_task import flatten
from kick.tasks.task import Item

NAME = re.compile(r"samples_(?P<task>.+)_(?P<time>\d{4}-[^_]*)\.jsonl")


def _parts(given: Any) -> Any:
    """What each request was made of: gen_args_0, gen_args_1, ..., each arg_0, arg_1; or lists of lists."""
    if not isinstance(given, dict):
        return given or []
    return [list(part.values()) if isinstance(part, dict) else part for part in given.values()]


def _part(given: list[Any]) -> list[Any]:
    """A context with its continuation or generation options."""
    options = given[1] if len(given) > 1 else None
    until = options.get("until") if isinstance(options, dict) else None
    texts = until if isinstance(until, list) else [until or ""]
    if not all(isinstance(one, str) for one in texts):
        raise ValueError("expected a text or a list of texts as until")
    return given


Part = Annotated[list[Any], Field(min_length=1), AfterValidator(_part)]


class SamplesLine(Form):
    """A line of a samples file."""

    doc_id: int
    doc: dict[str, Any]
    resps: list[Any]
    filter: str
    doc_hash: str
    metrics: list[str] = []
    arguments: Annotated[list[Part], BeforeValidator(_parts)] = []
    target: Any = ""


class Config(Form):
    """Of a results file, how lm-eval was called."""

    model: str | None = None
    model_sha: str | None = None
    model_revision: str | None = None
    model_dtype: str | None = None


class ResultsFile(Form):
    """A results file."""

    config: Config = Config()
    lm_eval_version: str | None = None
    model_source: str | None = None
    model_name: str | None = None
    shots: dict[str, Any] = Field({}, alias="n-shot")


def doc_hash(doc: Mapping[str, Any]) -> str:
    """lm-eval's hash of a document."""
    return hash_string(json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False))


def read(path: Path) -> AnswerFile:
    """The answers in a samples file. Raises KickError for one that is not whole or not of lm-eval."""
    named = NAME.fullmatch(path.name)
    if named is None:
        raise KickError(
            f"{path}: lm-eval names its answers samples_<task>_<time>.jsonl; Inspect's logs end in .json"
        )
    data = path.read_bytes()
    lines = [_line(path, number, text) for number, text in enumerate(data.split(b"\n"), 1) if text.strip()]
    if not lines:
        raise KickError(f"{path} has no answer in it")
    filters = list(dict.fromkeys(line.filter for line in lines))
    first = [line for line in lines if line.filter == filters[0]]
    scores: dict[int, dict[str, float]] = {}
    for line in lines:
        scores.setdefault(line.doc_id, {}).update(_scores(path, line, len(filters) > 1))
    return AnswerFile(
        path=str(path),
        task=named["task"],
        digest=hashlib.sha256(data).hexdigest(),
        answers=tuple(_answer(line, scores[line.doc_id]) for line in first),
        documents=_documents,
        time=named["time"],
        **_origin(_results(path.with_name(f"results_{named['time']}.json")), named["task"]),
    )


def _documents(items: Sequence[Item]) -> list[str]:
    return [doc_hash(item.doc) for item in items]


def _line(path: Path, number: int, text: bytes) -> SamplesLine:
    place = f"{path}:{number}"
    line = checked(place, parsed(place, text), SamplesLine, "a line of lm-eval's samples")
    if doc_hash(line.doc) != line.doc_hash:
        raise KickError(
            f"{place}: its doc_hash is not that of its doc; the document was changed after lm-eval wrote it"
        )
    return line


def _scores(path: Path, line: SamplesLine, several: bool) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in line.metrics:
        value = (line.model_extra or {}).get(name)
        try:
            found |= flatten(f"{name}@{line.filter}" if several else name, value)
        except (TypeError, LookupError, OverflowError, RecursionError):
            raise KickError(
                f"{path}: the {name} of the document {line.doc_id} is {str(value)[:60]}; expected a number, "
                "or the numbers that lm-eval keeps of it"
            ) from None
    return found


def _answer(line: SamplesLine, scores: Mapping[str, float]) -> TheirAnswer:
    replies = tuple(reply for request in line.resps for reply in _listed(request))
    repeats = [len(_listed(request)) for request in line.resps]
    made = [tuple(part) for part, times in zip(line.arguments, repeats, strict=False) for _ in range(times)]
    return TheirAnswer(line.doc_hash, replies, tuple(made), scores, str(line.target))


def _listed(request: Any) -> list[Any]:
    return list(request) if isinstance(request, list) else [request]


def _results(path: Path) -> ResultsFile | None:
    """The results file beside the samples; None if there is none."""
    if not path.is_file():
        return None
    return checked(str(path), parsed(str(path), path.read_bytes()), ResultsFile, "lm-eval's results")


def _origin(about: ResultsFile | None, task: str) -> dict[str, Any]:
    """Who answered, by the results file."""
    if about is None:
        tool, notes = "lm-eval", ("no results file beside it: model, version and shots are not known",)
        return {"tool": tool, "engine": tool, "model": ModelSpec("unknown", dtype=""), "notes": notes}
    config = about.config
    tool = f"lm-eval {about.lm_eval_version or ''}".strip()
    source = config.model or about.model_source or ""
    shots = about.shots.get(task)
    model = ModelSpec(
        about.model_name or source or "unknown",
        config.model_sha or config.model_revision or None,
        config.model_dtype or "",
    )
    return {
        "tool": tool,
        "engine": f"{tool} {source}".strip(),
        "model": model,
        "shots": shots if isinstance(shots, int) else None,
    }
