"""A user's own data files, each value as it is written there.

The datasets library guesses: text that looks like a date becomes one, 3 becomes 3.0 where another row has
4.5, a CSV's 007 becomes 7. Whatever a file's form, its own text is what is asked and scored, so files are
read here, and kept as Python values where Arrow would change any of them.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from kick.errors import KickError

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)

FORMS = ("json", "csv")
_JSON_OPTIONS, _CSV_OPTIONS = {"field"}, {"sep", "delimiter", "column_names"}

Row = dict[str, Any]


class Written(float):
    """A number that is written otherwise than Python writes it, such as 3.50: its text is the file's."""

    text: str

    def __new__(cls, text: str) -> Self:
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def __format__(self, form: str) -> str:
        return self.text if not form else float(self).__format__(form)

    def __reduce__(self) -> tuple[type[Written], tuple[str]]:
        return Written, (self.text,)


def _number(text: str) -> float:
    return float(text) if repr(float(text)) == text else Written(text)


class Rows(Sequence):
    """Rows that Arrow would change, with what task files use of a `datasets.Dataset`."""

    def __init__(self, rows: Iterable[Row]):
        self.rows = list(rows)
        self.features = dict.fromkeys(name for row in self.rows for name in row)

    @property
    def column_names(self) -> list[str]:
        """The names of all columns."""
        return list(self.features)

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        """A row by its number, a column by its name, a slice as columns: as a Dataset gives them."""
        if isinstance(place, str):
            return [row.get(place) for row in self.rows]
        if isinstance(place, slice):
            return {name: [row.get(name) for row in self.rows[place]] for name in self.features}
        return self.rows[place]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def to_list(self) -> list[Row]:
        """The rows."""
        return list(self.rows)

    def map(self, function: Callable, *, remove_columns: Iterable[str] = (), **_: Any) -> Rows:
        """Each row with what `function` gives of it put in."""
        gone = {remove_columns} if isinstance(remove_columns, str) else set(remove_columns or ())
        kept = [{name: row[name] for name in row if name not in gone} for row in self.rows]
        return Rows({**left, **function(row)} for left, row in zip(kept, self.rows, strict=True))

    def filter(self, function: Callable, **_: Any) -> Rows:
        """The rows of which `function` is true."""
        return Rows(row for row in self.rows if function(row))

    def select(self, places: Iterable[int]) -> Rows:
        """The rows at those places."""
        return Rows(self.rows[place] for place in places)

    def shuffle(self, seed: int | None = None, **_: Any) -> Rows:
        """The rows in the order that a Dataset would have under that seed."""
        return self.select(np.random.default_rng(seed).permutation(len(self.rows)))

    def remove_columns(self, names: str | Sequence[str]) -> Rows:
        """The rows without those columns."""
        gone = {names} if isinstance(names, str) else set(names)
        return Rows({name: row[name] for name in row if name not in gone} for row in self.rows)

    def rename_column(self, old: str, new: str) -> Rows:
        """The rows with a column under another name."""
        return Rows({(new if name == old else name): row[name] for name in row} for row in self.rows)

    def add_column(self, name: str, column: Sequence[Any]) -> Rows:
        """The rows with one more column."""
        return Rows({**row, name: value} for row, value in zip(self.rows, column, strict=True))


def dataset(rows: Sequence[Row]) -> datasets.Dataset | Rows:
    """The rows as a Dataset where it gives them back as they are, else as they are; all with every column."""
    import datasets  # it takes seconds, and names of tasks are read without

    names = dict.fromkeys(name for row in rows for name in row)
    rows = [{name: row.get(name) for name in names} for row in rows]
    try:
        found = datasets.Dataset.from_list(rows)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):  # values of one column of two kinds
        return Rows(rows)
    return found if plain(found.to_list()) == plain(rows) else Rows(rows)


def plain(value: Any) -> str:
    """Rows as text that differs where a value or its type does."""
    return json.dumps(texts(value), sort_keys=True, default=repr)


def texts(value: Any) -> Any:
    """The value with numbers that are written in a way of their own as text: JSON would rewrite them."""
    if isinstance(value, Written):
        return f"number {value.text}"
    if isinstance(value, Mapping):
        return {name: texts(item) for name, item in value.items()}
    return [texts(item) for item in value] if isinstance(value, list | tuple) else value


# ---------------------------------------------------------------------------------------- reading

LOCAL = ("json", "csv", "parquet", "text")  # `dataset_path`s whose data are files


def located(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A task file's content with its data files relative to `folder`, where the task file is."""
    options = config.get("dataset_kwargs")
    if config.get("dataset_path", "json") not in LOCAL or not isinstance(options, Mapping):
        return dict(config)
    named = options.get("data_files")

    def place(entry: Any) -> Any:
        if isinstance(entry, Mapping):
            return {split: place(one) for split, one in entry.items()}
        if isinstance(entry, list | tuple):
            return [place(one) for one in entry]
        return str(folder / entry) if isinstance(entry, str) and "://" not in entry else entry

    return {**config, "dataset_kwargs": {**options, "data_files": place(named)}} if named else dict(config)


def rows_of(file: Path) -> list[Row]:
    """The rows of a .csv, .tsv, .jsonl, .json or .parquet file, each value as it is written there.

    Raises KickError for another kind of file, and one that is not there or cannot be read.
    """
    if not file.is_file():
        raise KickError(f"there is no file {str(file)!r}")
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        try:
            return pq.read_table(file).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise KickError(f"{file} cannot be read as Parquet: {error}") from error
    if file.suffix in (".csv", ".tsv"):
        return _csv(file, sep="\t" if file.suffix == ".tsv" else ",")
    if file.suffix in (".jsonl", ".json"):
        return _json(file)
    raise KickError(f"{file}: expected: a table, as .csv, .tsv, .jsonl, .json or .parquet")


def ours(form: str | None, options: Mapping[str, Any]) -> bool:
    """Whether a task's data set is local files of a form that is read here.

    Says so where files are left to the datasets library, which guesses what their text means.
    """
    if form not in FORMS or not options.get("data_files"):
        return False
    known = {"data_files"} | (_JSON_OPTIONS if form == "json" else _CSV_OPTIONS)
    entries = [entry for files in _splits(options["data_files"]).values() for entry in files]
    foreign = sorted(set(options) - known) + [entry for entry in entries if "://" in entry]
    if foreign:
        log.warning(
            "%s files are left to the datasets library for %s: it may change what is written in them "
            "(dates, numbers)", form, ", ".join(foreign)
        )  # fmt: skip
    return not foreign


def load(form: str, options: Mapping[str, Any], **_: Any) -> dict[str, datasets.Dataset | Rows]:
    """The splits of local files, as `datasets.load_dataset(form, **options)` names them.

    Raises KickError for a file that is not there or is not of that form.
    """
    read = _json if form == "json" else _csv
    how = {name: value for name, value in options.items() if name != "data_files"}
    return {
        split: dataset([row for entry in entries for file in _found(entry) for row in read(file, **how)])
        for split, entries in _splits(options["data_files"]).items()
    }


def _splits(data_files: Any) -> dict[str, list[str]]:
    named = data_files if isinstance(data_files, Mapping) else {"train": data_files}
    return {str(split): [str(e) for e in _listed(entries)] for split, entries in named.items()}


def _listed(entries: Any) -> list[Any]:
    return list(entries) if isinstance(entries, list | tuple) else [entries]


def _found(entry: str) -> list[Path]:
    paths = [Path(entry)] if Path(entry).is_file() else [Path(name) for name in sorted(glob(entry))]
    if not paths:
        raise KickError(f"there is no file {entry!r}; data_files are relative to the folder of the task file")
    return paths


def _text(file: Path) -> str:
    data = file.read_bytes()
    try:
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        return data.decode("utf-8-sig")
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise KickError(f"{file} cannot be read as UTF-8 text: {error}") from error


def _json(file: Path, field: str | None = None) -> list[Row]:
    """The rows of JSON lines, a list of objects, an object of columns, or one of these in `field`."""
    text = _text(file)
    try:
        rows = [json.loads(line, parse_float=_number) for line in text.split("\n") if line.strip()]
        whole = rows[0] if len(rows) == 1 and (field or isinstance(rows[0], list)) else rows
    except json.JSONDecodeError as wrong:
        try:
            whole = json.loads(text, parse_float=_number)
        except json.JSONDecodeError as error:
            line = text[: error.pos].count("\n") + 1 if text.lstrip()[:1] == "[" else _line_of(text)
            raise KickError(
                f"{file}:{line}: not JSON ({wrong.msg}); expected: one object per line"
            ) from error
    if field is not None:
        if not isinstance(whole, dict) or field not in whole:
            raise KickError(f"{file} has no field {field!r}; expected: a JSON object with it")
        whole = whole[field]
    if isinstance(whole, dict):
        columns = {name: _listed(column) for name, column in whole.items()}
        whole = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for number, row in enumerate(whole, 1):
        if not isinstance(row, dict):
            raise KickError(f"{file}: row {number} is {str(row)[:80]!r}; expected: a JSON object")
    return whole


def _line_of(text: str) -> int:
    """The number of the first line that is not JSON."""
    for number, line in enumerate(text.split("\n"), 1):
        try:
            if line.strip():
                json.loads(line)
        except json.JSONDecodeError:
            return number
    return 1


def _csv(
    file: Path, sep: str = ",", delimiter: str | None = None, column_names: Sequence[str] | None = None
) -> list[Row]:
    """The rows of a CSV: text, or numbers where a whole column is written as Python writes them."""
    lines = list(csv.reader(io.StringIO(_text(file), newline=""), delimiter=delimiter or sep, strict=True))
    lines = [line for line in lines if line]
    names = list(column_names) if column_names else (lines.pop(0) if lines else [])
    for number, line in enumerate(lines, 1):
        if len(line) != len(names):
            raise KickError(f"{file}: row {number} has {len(line)} values; expected: {len(names)}")
    columns = [_typed([line[place] for line in lines]) for place in range(len(names))]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _typed(column: list[str]) -> list[Any]:
    """A column of numbers as such, so that it can be the place of an answer; else the text."""
    for kind in (int, float):
        try:
            numbers = [kind(text) for text in column]
        except ValueError:
            continue
        if [str(number) for number in numbers] == column and all(map(math.isfinite, numbers)):
            return numbers
    return column
