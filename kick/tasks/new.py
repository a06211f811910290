"""A task of one's own from a table: a task file of lm-eval's form beside a copy of the rows.

    write(Path("questions.csv"), Path("my_tasks"))      # my_tasks/questions.yaml and questions.jsonl

The table is CSV, TSV, JSON lines or Parquet, with a column of questions, one of answers, and for multiple
choice one of choices (a list) or several (a, b, c, d). Columns are found by their names, or named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kick.errors import KickError
from kick.registry import unknown
from kick.tasks import files, index, lm_eval_names
from kick.tasks.text import words

QUESTION = ("question", "prompt", "query", "input", "problem", "instruction", "text", "q")
ANSWER = ("answer", "target", "label", "gold", "solution", "output", "completion", "answers", "correct")
CHOICES = ("choices", "options", "endings", "candidates")
_CHOICE = re.compile(r"(?:(?:choice|option|answer)[ _]?)?([a-j]|\d)", re.IGNORECASE)
LETTERS = "ABCDEFGHIJ"
_SIGNED = re.compile(r"(?<![\w.])[-+.]\d")  # scoring by words would take -5 for 5

OPEN = """\
# Each question is continued up to the end of its line.
output_type: generate_until
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: answer
generation_kwargs: {until: ["\\n"], max_gen_toks: 32, do_sample: false}
"""
BY_WORDS = """\
# Compared by words: case, punctuation, blanks and the articles a, an, the do not count.
process_results: !function kick.tasks.scoring.short_answer
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
  - {metric: f1, aggregation: mean, higher_is_better: true}
  - {metric: contains, aggregation: mean, higher_is_better: true}
  - {metric: empty, aggregation: mean, higher_is_better: false}
"""
BY_TEXT = """\
# Compared as text, since signs or articles tell these answers apart; blanks around an answer are taken off.
filter_list:
  - name: stripped
    filter:
      - {function: regex, regex_pattern: "(?s)(.*)"}
      - {function: take_first}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
"""
CHOSEN = """\
# The choice with the highest log-probability is the answer; acc_norm divides that by the choice's length.
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""


@dataclass(frozen=True)
class Columns:
    """Which columns of the table are meant; None: found by name. `choices`: one column, or several."""

    question: str | None = None
    answer: str | None = None
    choices: Sequence[str] | None = None


def write(table: Path, folder: Path, columns: Columns | None = None, name: str | None = None) -> list[Path]:
    """Write the task file and its rows into `folder`; both paths, the task file first.

    Raises KickError for a table that cannot be read, columns that are not found, rows without question or
    answer, a name that is taken, and files that exist already.
    """
    name = name or re.sub(r"\W+", "_", table.stem).strip("_")
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
        raise KickError(f"name: got {name!r}; expected: letters, digits, - and _")
    if name in index.own() or name in lm_eval_names.names():
        raise KickError(f"a task named {name!r} exists already; give another with --name")
    rows = files.rows_of(table)
    if not rows:
        raise KickError(f"{table} has no rows")
    found = _found(table, list(rows[0]), columns or Columns())
    documents = _documents(table, rows, found)
    task, data = folder / f"{name}.yaml", folder / f"{name}.jsonl"
    copied = not (data.exists() and data.resolve() == table.resolve() and rows == documents)
    for file in (task, data) if copied else (task,):
        if file.exists():
            raise KickError(f"{file} exists already; give another --out or --name, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    if copied:
        lines = (json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
        data.write_text("".join(lines), "utf-8")
    task.write_text(_task(name, documents), "utf-8")
    return [task, data]


def _found(table: Path, names: Sequence[str], given: Columns) -> Columns:
    """The columns by name, each of them in the table."""
    for column in (given.question, given.answer, *(given.choices or ())):
        if column is not None and column not in names:
            raise KickError(f"{table}: {unknown('column', column, names)}")
    by_name = {name.strip().lower(): name for name in reversed(names)}
    question = given.question or next((by_name[one] for one in QUESTION if one in by_name), None)
    answer = given.answer or next((by_name[one] for one in ANSWER if one in by_name), None)
    for kind, column in (("question", question), ("answer", answer)):
        if column is None:
            raise KickError(
                f"{table}: no column of {kind}s was found among {', '.join(names)}; name it with --{kind}"
            )
    choices = given.choices
    if choices is None:
        choices = [by_name[one] for one in CHOICES if one in by_name][:1]
        apart = [one for one in names if _CHOICE.fullmatch(one.strip()) and one not in (question, answer)]
        choices = choices or (apart if len(apart) > 1 else None)
    return Columns(question, answer, choices)


def _documents(table: Path, rows: Sequence[Mapping[str, Any]], columns: Columns) -> list[dict[str, Any]]:
    """The rows as {question, answer, aliases} or {question, choices, answer: place of the right one}."""
    documents = []
    for number, row in enumerate(rows, 1):
        where = f"{table}: row {number}"
        question = _text(where, str(columns.question), row.get(str(columns.question)))
        answer = row.get(str(columns.answer))
        if columns.choices:
            documents.append(
                {"question": question, "choices": _choices(where, row, columns), "answer": answer}
            )
            continue
        golds = answer if isinstance(answer, list) else [answer]
        first, *more = [_text(where, str(columns.answer), gold) for gold in golds or [None]]
        documents.append({"question": question, "answer": first} | ({"aliases": more} if more else {}))
    return _placed(table, documents) if columns.choices else documents


def _text(where: str, column: str, value: Any) -> str:
    text = "" if value is None else str(value).strip()
    if not text or isinstance(value, list | dict | bool):
        raise KickError(f"{where}, column {column}: got {value!r}; expected: text")
    return text


def _choices(where: str, row: Mapping[str, Any], columns: Columns) -> list[str]:
    names = list(columns.choices or ())
    values: Any = [row.get(name) for name in names]
    if len(names) == 1:
        (values,) = values
        if isinstance(values, str):
            listed = values.strip().startswith("[")
            values = json.loads(values) if listed else [part.strip() for part in values.split("|")]
    if not isinstance(values, list):
        raise KickError(f"{where}, column {names[0]}: got {values!r}; expected: a list, or text as a | b | c")
    choices = ["" if value is None else str(value).strip() for value in values]
    while choices and not choices[-1]:
        choices.pop()
    if len(choices) < 2 or not all(choices) or len(set(choices)) < len(choices):
        raise KickError(f"{where}: got the choices {choices}; expected: at least two, all different")
    return choices


def _placed(table: Path, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The documents with each answer as the place of the right choice, from 0.

    An answer is a choice's text, its letter, or its number; whether numbers count from 0 or 1 has to be seen
    in the table.
    """
    numbers = [(_number(one["answer"]), len(one["choices"])) for one in documents if not _named(one)]
    numbers = [(number, of) for number, of in numbers if number is not None]
    zero, last = any(n == 0 for n, _ in numbers), any(n == of for n, of in numbers)
    if numbers and zero == last:
        seen = (
            "0 and the number of choices both appear"
            if zero
            else "neither 0 nor the number of choices appears"
        )
        raise KickError(
            f"{table}: answers are numbers, and {seen}: do they count from 0 or from 1? "
            "Write letters or the choices' texts instead"
        )
    placed = []
    for number, one in enumerate(documents, 1):
        place = _place(one, 0 if zero else 1)
        if place is None:
            raise KickError(
                f"{table}: row {number}: the answer {one['answer']!r} is none of the choices {one['choices']}"
            )
        placed.append(one | {"answer": place})
    return placed


def _named(document: Mapping[str, Any]) -> bool:
    return str(document["answer"]).strip() in document["choices"]


def _number(answer: Any) -> int | None:
    text = str(answer).strip()
    return int(text) if text.isdecimal() else None


def _place(document: Mapping[str, Any], first: int) -> int | None:
    text, choices = str(document["answer"]).strip(), document["choices"]
    if text in choices:
        return choices.index(text)
    number = _number(text)
    place = LETTERS.find(text.upper()) if len(text) == 1 and number is None else (number or 0) - first
    known = number is not None or (len(text) == 1 and text.upper() in LETTERS)
    return place if known and 0 <= place < len(choices) else None


def _task(name: str, documents: Sequence[Mapping[str, Any]]) -> str:
    """The task file's text. Its data file is named relative to it."""
    chosen = "choices" in documents[0]
    golds = [gold for one in documents for gold in (one["answer"], *one.get("aliases", ())) if not chosen]
    worded = all(words(gold) and not _SIGNED.search(gold) for gold in golds)
    body = CHOSEN if chosen else OPEN + (BY_WORDS if worded else BY_TEXT)
    primary = "acc" if chosen else "exact_match"
    return (
        f"# {len(documents)} questions; written by `kick new task`, to be edited freely.\n"
        f"task: {name}\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {name}.jsonl}}}}  # relative to this file\n"
        "test_split: test\nfewshot_split: test  # of `shots` in a matrix; the item asked is left out\n"
        f"{body}metadata:\n  version: 1\n  kick: {{title: {json.dumps(name)}, primary: {primary}}}\n"
    )
