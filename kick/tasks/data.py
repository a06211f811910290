"""Where a data set comes from: the embedded suite, then a local mirror, then the hub.

The task files name hub data sets. A mirror is a folder laid out as <root>/<set>/<split>.parquet or .jsonl;
the table below says which set stands for which hub id and configuration, and what has to be done to its
rows. A mirror that has a set but not the split asked for is an error: it is never answered with a wider
set.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kick import hub
from kick.errors import KickError
from kick.tasks import files
from kick.tasks.order import Order

if TYPE_CHECKING:
    import datasets  # imported in the functions that need it: it takes seconds, and names are read without

log = logging.getLogger(__name__)

ROOT_VARIABLE = "KICK_DATA_ROOT"

SUFFIXES = (".parquet", ".jsonl")

Rows = list[dict[str, Any]]


def tasks_folder() -> Path:
    """The folder of the packaged task files: kick/_tasks in a wheel, tasks/ in a checkout."""
    packaged = Path(__file__).parents[1] / "_tasks"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "tasks"


def _documents(rows: Rows) -> Rows:
    """WikiText rows joined into pages: a page starts at a line ` = Title = `.

    A row of no text stands for the file's blank line, " \\n"; those before the first title belong to no page.
    """
    pages: list[str] = []
    for row in rows:
        line = row["text"].strip()
        if line.startswith("= ") and line.endswith(" =") and not line.startswith("= ="):
            pages.append("")
        if pages:
            pages[-1] += row["text"] or " \n"
    return [{"page": page} for page in pages]


@dataclass(frozen=True)
class DataSource:
    """A set of a mirror that stands for a hub data set. `subset`: its scores are not the full set's."""

    set: str
    adapt: Callable[[Rows], Rows] | None = None
    filter_column: str | None = None  # keep the rows whose column equals the hub configuration
    subset: bool = False


# hub id -> configuration ("*": any other) -> set of the mirror
MIRROR: dict[str, dict[str, DataSource]] = {
    "cais/mmlu": {"all": DataSource("mmlu"), "*": DataSource("mmlu", filter_column="subject")},
    "Salesforce/wikitext": {
        "wikitext-2-raw-v1": DataSource("wikitext2_raw"),
        "wikitext-2-v1": DataSource("wikitext2"),
    },
    "EleutherAI/wikitext_document_level": {
        "wikitext-2-raw-v1": DataSource("wikitext2_raw", adapt=_documents)
    },
    "google-research-datasets/nq_open": {"": DataSource("nq_open"), "nq_open": DataSource("nq_open")},
    "google/xquad": {
        f"xquad.{language}": DataSource(f"xquad_{language}")
        for language in ("en", "de", "es", "ru", "zh", "tr", "hi")
    },
    "abisee/cnn_dailymail": {"3.0.0": DataSource("cnn_dailymail", subset=True)},
    "google/IFEval": {"": DataSource("ifeval")},
    "openai/gsm8k": {"main": DataSource("gsm8k")},
    "mandarjoshi/trivia_qa": {
        "rc.nocontext": DataSource("triviaqa_subset", subset=True),
        "rc": DataSource("triviaqa_rc"),
    },
    "freebase_qa": {"": DataSource("freebase_qa")},
    "lm-sys/mt_bench": {"": DataSource("mt_bench")},
    "lm-sys/mt_bench_reference": {"": DataSource("mt_bench_reference")},
    "lm-sys/vicuna_bench": {"": DataSource("vicuna_bench")},
    "lm-sys/vicuna_bench_reference": {"": DataSource("vicuna_bench_reference")},
}
NOT_ON_THE_HUB = frozenset(name for name in MIRROR if name.startswith("lm-sys/"))


def embedded(file: str, suite: str = "kick_mini", **_: Any) -> datasets.DatasetDict:
    """The test split of a file of KICK-Mini, or of another suite: tasks/<suite>/data/<file>.jsonl."""
    import datasets

    rows = read_rows(tasks_folder() / suite / "data" / f"{file}.jsonl")
    return datasets.DatasetDict(test=files.dataset(rows))


def load(
    path: str,
    splits: Iterable[str],
    name: str = "",
    root: str | None = None,
    order: Mapping[str, Any] | None = None,
    examples: str | None = None,
    **_: Any,
) -> datasets.DatasetDict:
    """The splits of a hub data set, from the mirror where there is one, else from the hub.

    Args:
        path: the hub id. name: its configuration.
        root: the mirror; KICK_DATA_ROOT by default.
        order: {split, by, distinct, take, shuffle}: how one split is arranged, see `kick.tasks.order`.
        examples: a split whose rows are put behind those of the arranged split, for worked examples that
            depend on the question; the column `example` tells them apart.

    Raises KickError if it is in neither place, naming the set and the places that were searched.
    """
    import datasets

    root = root or os.environ.get(ROOT_VARIABLE)
    found = {split: split_of(path, name, split, root) for split in splits}
    if order:
        order = dict(order)
        split = order.pop("split")
        rows = Order(**order)(found[split].to_list())
        if examples:
            rows = [{**row, "example": False} for row in rows]
            rows += [{**row, "example": True} for row in found[examples].to_list()]
        found[split] = files.dataset(rows)
    return datasets.DatasetDict(found)


def split_of(path: str, name: str, split: str, root: str | None) -> datasets.Dataset:
    """One split of a hub data set, from the mirror `root` where that has the set, else from the hub."""
    rows = mirror_rows(path, name, split, root) if root else None
    return files.dataset(rows) if rows is not None else _hub(path, name, split, root)


def has_split(path: str, name: str, split: str, root: str) -> bool:
    """Whether a split can be asked for: False only where the mirror `root` has the set without that split."""
    source = _source(path, name)
    folder = Path(root) / source.set if source else None
    if folder is None or not folder.is_dir():
        return True
    return any((folder / f"{split}{suffix}").is_file() for suffix in SUFFIXES)


def has_set(path: str, name: str, root: str) -> bool:
    """Whether the mirror `root` has a hub data set."""
    source = _source(path, name)
    return source is not None and (Path(root) / source.set).is_dir()


def _source(path: str, name: str) -> DataSource | None:
    configurations = MIRROR.get(path, {})
    return configurations.get(name or "") or configurations.get("*")


def mirror_rows(path: str, name: str, split: str, root: str) -> Rows | None:
    """The rows of a split in the mirror `root`; None if the mirror does not have the set at all.

    Raises KickError if it has the set, but not this configuration or split.
    """
    if not Path(root).is_dir():
        raise KickError(f"the data root {root!r} is not a folder; {ROOT_VARIABLE} or data_root names it")
    configurations = MIRROR.get(path)
    if configurations is None:
        return None
    source = _source(path, name)
    if source is None:
        known = ", ".join(sorted(configurations))
        raise KickError(f"the mirror's table has {path} only as {known}; got {name or 'no configuration'!r}")
    folder = Path(root) / source.set
    if not folder.is_dir():
        return None
    for file in (folder / f"{split}{suffix}" for suffix in SUFFIXES):
        if file.is_file():
            if source.subset:
                log.warning(
                    "%s is read from %s, a subset of it: not comparable with the full set", path, folder
                )
            return _adapted(read_rows(file), source, name, file)
    there = ", ".join(sorted(f.stem for f in folder.iterdir())) or "nothing"
    raise KickError(f"{folder} mirrors {path}, but has no split {split!r}; it has {there}")


def _adapted(rows: Rows, source: DataSource, name: str, file: Path) -> Rows:
    if source.filter_column:
        kept = [row for row in rows if row[source.filter_column] == name]
        if not kept:
            raise KickError(f"{file} has no row with {source.filter_column} {name!r}")
        rows = kept
    return source.adapt(rows) if source.adapt else rows


def _hub(path: str, name: str, split: str, root: str | None) -> datasets.Dataset:
    import datasets

    if path in NOT_ON_THE_HUB:
        where = mirror_text(root)
        raise KickError(f"data set {path} is on no hub and must be in a local mirror; searched: {where}")
    hub.online()  # else its libraries would try for long
    try:
        return datasets.load_dataset(path, name or None, split=split)
    except (ValueError, OSError) as error:
        raise not_found(path, name, split, root, error) from error


def not_found(path: str, name: str, split: str, root: str | None, error: Exception) -> KickError:
    """The error that names a data set and the three places where it is not."""
    reason = next(iter(str(error).splitlines()), "")[:200]
    return KickError(
        f"data set {path} ({name or 'default'}, {split}) was not found; searched: the embedded suite, "
        f"{mirror_text(root)}, the hub ({type(error).__name__}: {reason})"
    )


def mirror_text(root: str | None) -> str:
    """Which mirror was searched, in words."""
    return f"the mirror {root}" if root else f"no local mirror (set {ROOT_VARIABLE} or data_root)"


def read_rows(file: Path) -> Rows:
    """The rows of a .jsonl or .parquet file."""
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(file).to_pylist()
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]
