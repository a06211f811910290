"""Reads the samples files of lm-eval: samples_<task>_<time>.jsonl, beside them results_<time>.json.

Its documents are recognised by lm-eval's own hash, which is computed again of ours and of the file's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.utils import handle_non_serializable, hash_string

from kick.errors import KickError
from kick.interop.answers import AnswerFile, TheirAnswer
from kick.records import ModelSpec
from kick.tasks.lm_eval_task import flatten
from kick.tasks.task import Item

NAME = re.compile(r"samples_(?P<task>.+)_(?P<time>\d{4}-[^_]*)\.jsonl")
NEEDED = ("doc_id", "doc", "resps", "filter", "doc_hash")


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
    filters = list(dict.fromkeys(line["filter"] for line in lines))
    first = [line for line in lines if line["filter"] == filters[0]]
    scores: dict[int, dict[str, float]] = {}
    for line in lines:
        scores.setdefault(line["doc_id"], {}).update(_scores(line, len(filters) > 1))
    about = _results(path.with_name(f"results_{named['time']}.json"))
    return AnswerFile(
        path=str(path),
        task=named["task"],
        digest=hashlib.sha256(data).hexdigest(),
        answers=tuple(_answer(line, scores[line["doc_id"]]) for line in first),
        documents=_documents,
        time=named["time"],
        **_origin(about, named["task"]),
    )


def _documents(items: Sequence[Item]) -> list[str]:
    return [doc_hash(item.doc) for item in items]


def _line(path: Path, number: int, text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise KickError(f"{path}:{number}: not JSON: {error}; is the file whole?") from None
    lacking = [name for name in NEEDED if not isinstance(line, dict) or name not in line]
    if lacking:
        raise KickError(f"{path}:{number}: no {', '.join(lacking)}; expected a line of lm-eval's samples")
    if not isinstance(line["doc"], dict) or not isinstance(line["resps"], list):
        raise KickError(f"{path}:{number}: doc must be a mapping and resps a list, as lm-eval writes them")
    if doc_hash(line["doc"]) != line["doc_hash"]:
        raise KickError(
            f"{path}:{number}: its doc_hash is not that of its doc; the document was changed after lm-eval "
            "wrote it"
        )
    return line


def _scores(line: Mapping[str, Any], several: bool) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in line.get("metrics") or ():
        found |= flatten(f"{name}@{line['filter']}" if several else str(name), line.get(name))
    return found


def _answer(line: Mapping[str, Any], scores: Mapping[str, float]) -> TheirAnswer:
    replies = tuple(reply for request in line["resps"] for reply in _listed(request))
    arguments = line.get("arguments") or {}
    if isinstance(arguments, dict):  # gen_args_0, gen_args_1, ..., each arg_0, arg_1
        arguments = [tuple(part.values()) for part in arguments.values() if isinstance(part, dict)]
    repeats = [len(_listed(request)) for request in line["resps"]]
    made = [tuple(part) for part, times in zip(arguments, repeats, strict=False) for _ in range(times)]
    return TheirAnswer(line["doc_hash"], replies, tuple(made), scores, str(line.get("target", "")))


def _listed(request: Any) -> list[Any]:
    return list(request) if isinstance(request, list) else [request]


def _results(path: Path) -> Mapping[str, Any] | None:
    """The results file beside the samples; None if there is none."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise KickError(f"{path}: not JSON: {error}; is the file whole?") from None
    if not isinstance(found, dict):
        raise KickError(f"{path}: expected lm-eval's results, a mapping; got {type(found).__name__}")
    return found


def _origin(about: Mapping[str, Any] | None, task: str) -> dict[str, Any]:
    """Who answered, by the results file."""
    if about is None:
        tool, notes = "lm-eval", ("no results file beside it: model, version and shots are not known",)
        return {"tool": tool, "engine": tool, "model": ModelSpec("unknown", dtype=""), "notes": notes}
    said = about.get("config")
    config: Mapping[str, Any] = said if isinstance(said, dict) else {}
    tool = f"lm-eval {about.get('lm_eval_version') or ''}".strip()
    source = str(config.get("model") or about.get("model_source") or "")
    shots = (about.get("n-shot") or {}).get(task)
    model = ModelSpec(
        str(about.get("model_name") or source or "unknown"),
        str(config.get("model_sha") or config.get("model_revision") or "") or None,
        str(config.get("model_dtype") or ""),
    )
    return {
        "tool": tool,
        "engine": f"{tool} {source}".strip(),
        "model": model,
        "shots": shots if isinstance(shots, int) else None,
    }
