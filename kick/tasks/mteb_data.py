"""Any task of the package mteb by its name: `mteb_SciFact`, `mteb_STS22:de` for one of several subsets.

mteb says which data set a task has, at which revision, and brings it into its form; here it becomes
documents. The data set is read from the mirror where <root>/<hub id> is a copy of its repository, else from
the hub. mteb takes many seconds to import, which happens only if one of its tasks is asked; nothing of a data
set is run as code.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from kick import hub
from kick.errors import KickError
from kick.registry import near
from kick.tasks import data

VERSION = 1
PACKAGE = "mteb"
START = "mteb_"
SERVED = ("Retrieval", "Reranking", "STS")  # types of mteb
DEFAULT_SPLIT = "test"  # of several that mteb evaluates
CORRELATION = "cosine_spearman"  # mteb's name of the score that tasks of type STS have
SHOWN = 8  # subsets that a refusal names


@dataclass(frozen=True)
class EmbeddingSet:
    """A task's data, as documents.

    docs: of STS {"text", "other", "grade"}; else {"id", "text", "relevant": grades by corpus id}, and of
    reranking "candidates", corpus ids, which some tasks of retrieval have too. corpus: texts by id, in the
    order of ids; empty for STS.
    ignores_itself: whether a text of the corpus with the query's own id does not count. identity: what of it
    is in a key beside the texts. licence: as mteb has it, "" if it has none. place: where it was read.
    """

    name: str
    type: str
    docs: Sequence[Mapping[str, Any]]
    corpus: Mapping[str, str]
    ignores_itself: bool
    identity: Mapping[str, Any]
    licence: str
    place: str


def named(name: str) -> bool:
    """Whether a task's name is that of a task of mteb."""
    return name.startswith(START)


def check_installed(name: str) -> None:
    """Raises KickError without the package."""
    if find_spec(PACKAGE) is None:
        raise KickError(
            f"task {name!r} is of the package {PACKAGE}, which is not installed; pip install 'kick[beyond]'"
        )


def read(name: str, root: str | None) -> EmbeddingSet:
    """The data of a task of mteb. Raises KickError for one that cannot be asked, or has its data nowhere."""
    check_installed(name)
    root = root or os.environ.get(data.ROOT_VARIABLE)
    task, subset = _found(name)
    path = str(task.metadata.dataset["path"])
    folder = Path(root) / path if root else None
    if root and not Path(root).is_dir():
        raise KickError(f"the data root {root!r} is not a folder; {data.ROOT_VARIABLE} or data_root names it")
    here = folder is not None and folder.is_dir()
    if not here and not hub.kept("datasets", path) and not hub.online():
        raise KickError(
            f"data set {path} was not found; searched: {data.mirror_text(root)}, the hub's files on this "
            "machine, and the hub cannot be asked (--offline, or no network)"
        )
    split = _split(task)
    _load(task, subset, split, folder if here else None)
    facts = task.metadata
    identity = {
        "task": facts.name,
        "type": facts.type,
        "subset": subset,
        "split": split,
        "revision": str(facts.dataset["revision"]),
    }
    content = _pairs(task, subset, split) if facts.type == "STS" else _queries(task, subset, split)
    licence = "" if facts.license in (None, "not specified") else str(facts.license)
    ignores = bool(getattr(task, "ignore_identical_ids", False))
    place = f"{folder}" if here else f"the hub's {path}"
    return EmbeddingSet(name, facts.type, *content, ignores, identity, licence, place)


def _found(name: str) -> tuple[Any, str]:
    """mteb's task and the subset that is asked. Raises KickError if there is none, or it cannot be asked."""
    from mteb.get_tasks import TASK_LIST

    plain, _, subset = name.removeprefix(START).partition(":")
    known = {str(one.metadata.name): one for one in TASK_LIST}
    if plain not in known:
        close = near(plain, known)
        like = f"did you mean {' or '.join(repr(START + one) for one in close)}?" if close else ""
        found = f"unknown task {name!r}: {PACKAGE} {version(PACKAGE)} has no task {plain!r}"
        raise KickError(f"{found}; {like}" if like else found)
    facts = known[plain].metadata
    if facts.type not in SERVED or list(facts.modalities) != ["text"]:
        kinds = " and ".join(facts.modalities)
        raise KickError(f"{name} is of mteb's type {facts.type}, of {kinds}; served: {_served()} of text")
    if hasattr(facts, "tasks"):
        members = ", ".join(START + one.metadata.name for one in facts.tasks)
        raise KickError(f"{name} is the mean of other tasks of mteb; name those: {members}")
    special = getattr(known[plain], "skip_first_result", False)
    special |= facts.type == "STS" and facts.main_score != CORRELATION
    if facts.dataset.get("trust_remote_code") or special:
        raise KickError(f"{name} is loaded or scored in a way that is not served")
    subsets = list(facts.hf_subsets)
    if not subset and len(subsets) == 1:
        subset = subsets[0]
    if subset not in subsets:
        some = ", ".join(subsets[:SHOWN]) + (f" and {len(subsets) - SHOWN} more" if subsets[SHOWN:] else "")
        asked = f"no subset {subset!r}" if subset else "several subsets"
        raise KickError(f"{name}: it has {asked}; expected: {START}{plain}:SUBSET, of {some}")
    return known[plain](), subset


def _served() -> str:
    return f"{', '.join(SERVED[:-1])} and {SERVED[-1]}"


def _split(task: Any) -> str:
    splits = list(task.metadata.eval_splits)
    return DEFAULT_SPLIT if DEFAULT_SPLIT in splits else str(splits[0])


def _load(task: Any, subset: str, split: str, folder: Path | None) -> None:
    """Have mteb read one subset and split, from a copy of the repository if there is one.

    Raises KickError for data of another form, as far as polars finds out, whose errors are of no usual kind.
    """
    from polars.exceptions import PolarsError

    if folder is not None:
        dataset = {**task.metadata.dataset, "path": str(folder)}
        task.metadata = task.metadata.model_copy(update={"dataset": dataset})
    task.hf_subsets = [subset]
    task.filter_eval_splits([split])
    try:
        with redirect_stderr(StringIO()):  # progress bars
            task.load_data()
            if task.metadata.type != "STS":
                task.convert_v1_dataset_format_to_v2(num_proc=None)
    except PolarsError as error:
        why = next(iter(str(error).splitlines()), "")
        raise KickError(f"its data have not the form that mteb expects: {why}") from error


def _pairs(task: Any, subset: str, split: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The pairs of a task of similarity."""
    one, other = (
        str(column) if isinstance(column, str) else next(iter(column)) for column in task.column_names
    )
    whole = task.dataset[subset] if task.metadata.is_multilingual else task.dataset
    rows = whole[split].to_list()
    docs = [{"text": row[one], "other": row[other], "grade": float(row["score"])} for row in rows]
    return docs, {}


def _queries(task: Any, subset: str, split: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The queries that have a judgment, in the data's order, and the corpus by id."""
    found = task.dataset[subset][split]
    judged, ranked = found["relevant_docs"], found.get("top_ranked")
    corpus = dict(sorted((str(row["id"]), _document(row)) for row in found["corpus"].to_list()))
    docs = []
    for row in found["queries"].to_list():
        name = str(row["id"])
        if not judged.get(name):
            continue
        grades = {str(other): int(grade) for other, grade in sorted(judged[name].items())}
        doc = {"id": name, "text": _query(task, row), "relevant": grades}
        if ranked or task.metadata.type == "Reranking":
            candidates = sorted(set(map(str, (ranked or {}).get(name) or ())) & set(corpus))
            if not candidates:
                continue  # nothing to rank: mteb's mean leaves it out as well
            doc["candidates"] = candidates
        docs.append(doc)
    return docs, corpus


def _document(row: Mapping[str, Any]) -> str:
    """A text of the corpus as mteb's encoders get it: its title before it."""
    title, text = row.get("title") or "", row["text"]
    return str(f"{title} {text}" if title else text).strip()


def _query(task: Any, row: Mapping[str, Any]) -> str:
    """A query as mteb's encoders get it: its instruction behind it. Raises KickError for a conversation."""
    if not isinstance(row["text"], str):
        raise KickError(f"{START}{task.metadata.name}: its queries are conversations, which are not served")
    told = row.get("instruction")
    return f"{row['text']} {told}" if told is not None else row["text"]
