"""Checks that KICK-Mini keeps its own rules: form, counts, balance, answers that can and cannot match.

`problems(folder)` reads the task files and data of a folder laid out as tasks/kick_mini and says in one line
each what breaks a rule; an empty list is a sound suite. Nothing here knows facts: that is for readers.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kick.tasks.index import read_yaml
from kick.tasks.text import contains, ngrams, words

Row = dict[str, Any]
Rows = list[Row]

# file -> its keys in order; [] marks a list of texts, # a whole number, the others are texts
FIELDS = {
    "factoid": "id question answer aliases[] category level#",
    "mcq": "id question choices[] answer# category",
    "reading": "id passage_id kind title passage question answer aliases[] answer_start#",
    "conflict": "id category passage question context_answer context_aliases[] memory_answer "
    "memory_aliases[]",
    "summary": "id category title article summary",
    "perplexity": "id genre title text",
    "calibration": "id genre title text",
}
PROSE = ("perplexity", "calibration")
LEAST = {"factoid": 512, "mcq": 512, "reading": 264, "conflict": 128, "summary": 52}
BALANCED = {
    "factoid": ("category", "level"),
    "mcq": ("category", "answer"),
    "reading": ("kind",),
    "conflict": ("category",),
    "summary": ("category",),
    "perplexity": ("genre",),
}
CROSSED = {"factoid": "level", "mcq": "answer"}  # its values have the same counts in every category
VALUES = {
    ("factoid", "level"): {1, 2, 3},
    ("mcq", "answer"): {0, 1, 2, 3},
    ("reading", "kind"): {"real", "invented"},
}
UNEVEN = {"level"}  # its values have shares of their own; the others differ by one item at most
CATEGORIES = 8
PREFIX = 8  # every prefix of a multiple of this many items is balanced
LENGTHS = {  # (file, key) -> least and most words
    ("reading", "passage"): (80, 150),
    ("conflict", "passage"): (80, 150),
    ("summary", "article"): (250, 400),
    ("summary", "summary"): (40, 70),
}
LONG = (*LENGTHS, ("perplexity", "text"), ("calibration", "text"))  # (file, key) of what is read
UNIQUE = {  # keys whose value stands once in a file, after normalisation
    "factoid": ("question",),
    "mcq": ("question",),
    "reading": ("question",),
    "conflict": ("question", "passage"),
    "summary": ("title", "article", "summary"),
    "perplexity": ("title", "text"),
    "calibration": ("title", "text"),
}
PASSAGES, QUESTIONS_EACH, PROSE_WORDS = 88, 3, 12_000
CHOICES, LENGTH_RATIO, TELLING = 4, 2.0, 0.4
NGRAM, LEAST_SENTENCE = 13, 4  # words
# Words that stand in many answers for other reasons: as a gold answer they would match by chance.
_FUNCTION_WORDS = """
i me my we us our you your he him his she her it its they them their this that these those is are was were be
been am do does did has have had will would can could may might shall should must and or but if so as at by
for from in into of on to with not no yes who what which when where how why there here
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())

Data = Mapping[str, Rows]


def problems(folder: Path) -> list[str]:
    """What is wrong with the suite in `folder`, one line each; empty where nothing is.

    Raises KickError where a task file is not valid YAML.
    """
    data, found = _read(folder / "data")
    if found:
        return found  # rows of another form cannot be checked further
    for name, rows in data.items():
        for check in (_ids, _counts, _lengths, _duplicates, _balance):
            found += check(name, rows)
    found += [*_answers(data), *_mcq(data["mcq"]), *_reading(data["reading"]), *_conflict(data["conflict"])]
    shown = list(_examples(folder))
    found += [*_prose(data), *_apart(data, shown), *_copies(data)]
    asked = {
        tuple(words(row["question"])): f"{name} {row['id']}"
        for name, rows in data.items()
        for row in rows
        if "question" in row
    }
    for config, example in shown:
        found += _example(config, example, data, asked)
    return found


# ------------------------------------------------------------------------------ form


def _read(folder: Path) -> tuple[dict[str, Rows], list[str]]:
    data, found = {}, []
    for name, text in FIELDS.items():
        fields = {field.rstrip("[]#"): field for field in text.split()}
        file = folder / f"{name}.jsonl"
        if not file.is_file():
            found.append(f"{name}: {file} is not there")
            continue
        data[name] = []
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                found.append(f"{name} line {number}: no valid JSON: {error}")
                continue
            found += [f"{name} line {number}: {fault}" for fault in _form(row, fields)]
            data[name].append(row)
        if not data[name]:
            found.append(f"{name}: {file} is empty")
    return data, found


def _form(row: Any, fields: Mapping[str, str]) -> Iterator[str]:
    if not isinstance(row, dict) or list(row) != list(fields):
        got = list(row) if isinstance(row, dict) else type(row).__name__
        yield f"keys must be {list(fields)}, in this order; got {got}"
        return
    for key, field in fields.items():
        kind = list if field.endswith("[]") else int if field.endswith("#") else str
        value = row[key]
        if type(value) is not kind:
            yield f"{key} must be {kind.__name__}, got {value!r}"
            continue
        for text in {int: [], str: [value], list: value}[kind]:
            if not isinstance(text, str) or not text.strip() or text != text.strip():
                yield f"{key} must be text without blanks around it, got {text!r}"


def _ids(name: str, rows: Rows) -> Iterator[str]:
    stem = "prose" if name == "perplexity" else name
    for number, row in enumerate(rows, 1):
        if not re.fullmatch(rf"{stem}-0*{number}", row["id"]):
            yield f"{name} {row['id']}: item {number} must have the id {stem}-{number:0{len(str(len(rows)))}}"


def _counts(name: str, rows: Rows) -> Iterator[str]:
    if len(rows) < LEAST.get(name, 1):
        yield f"{name}: {len(rows)} items, at least {LEAST.get(name, 1)} are needed"
    if name in ("factoid", "mcq", "conflict"):
        categories = {row["category"] for row in rows}
        if len(categories) != CATEGORIES:
            yield f"{name}: {len(categories)} categories, there must be {CATEGORIES}: {sorted(categories)}"


def _lengths(name: str, rows: Rows) -> Iterator[str]:
    for (file, key), (least, most) in LENGTHS.items():
        for row in rows if file == name else []:
            count = len(row[key].split())
            if not least <= count <= most:
                yield f"{name} {row['id']}: {key} has {count} words, must have {least} to {most}"


def _duplicates(name: str, rows: Rows) -> Iterator[str]:
    for key in UNIQUE[name]:
        seen: dict[tuple[str, ...], str] = {}
        for row in rows:
            first = seen.setdefault(tuple(words(row[key])), row["id"])
            if first != row["id"]:
                yield f"{name} {row['id']}: {key} is a duplicate of {first}'s"


def _balance(name: str, rows: Rows) -> Iterator[str]:
    for key in BALANCED.get(name, ()):
        total = Counter(row[key] for row in rows)
        allowed = VALUES.get((name, key))
        if allowed and set(total) != allowed:
            yield f"{name}: {key} must take the values {sorted(allowed)}, got {sorted(total)}"
        if key not in UNEVEN and max(total.values()) - min(total.values()) > 1:
            yield f"{name}: {key} is out of balance: {dict(total)}"
        yield from _prefixes(name, key, [row[key] for row in rows], total)
    if key := CROSSED.get(name):
        counts = Counter((row["category"], row[key]) for row in rows)
        for value in sorted({row[key] for row in rows}):
            here = {
                category: counts[category, value] for category in sorted({row["category"] for row in rows})
            }
            if max(here.values()) - min(here.values()) > 1:
                yield f"{name}: {key} {value} is out of balance between categories: {here}"


def _prefixes(name: str, key: str, values: list, total: Counter) -> Iterator[str]:
    """Each value's count in a prefix is within one of its share of the whole."""
    for size in range(PREFIX, len(values) + 1, PREFIX):
        here = Counter(values[:size])
        off = [value for value in total if abs(here[value] - size * total[value] / len(values)) >= 1]
        if off:
            yield f"{name}: among the first {size} items {key} is out of balance: {dict(here)}"
            return


# ------------------------------------------------------------------------------ answers


def _golds(row: Row, answer: str = "answer", aliases: str = "aliases") -> list[str]:
    return [row[answer], *row[aliases]]


def _accepted(name: str, row: Row) -> list[list[str]]:
    """The sets of answers that an item counts; they must not mix."""
    if name == "conflict":
        return [_golds(row, f"{side}_answer", f"{side}_aliases") for side in ("context", "memory")]
    return [_golds(row)]


def _answers(data: Data) -> Iterator[str]:
    for name in ("factoid", "reading", "conflict"):
        for row in data[name]:
            for golds in _accepted(name, row):
                for fault in _golds_faults(row["question"], golds):
                    yield f"{name} {row['id']}: {fault}"


def _golds_faults(question: str, golds: list[str]) -> Iterator[str]:
    seen: dict[tuple[str, ...], str] = {}
    for gold in golds:
        normal = tuple(words(gold))
        if not normal:
            yield f"the answer {gold!r} has no word left after normalisation and can never match"
        elif all(word in FUNCTION_WORDS for word in normal):
            yield f"the answer {gold!r} is a function word and would match by chance"
        if normal in seen:
            yield f"the alias {gold!r} is a duplicate of {seen[normal]!r} after normalisation"
        seen[normal] = gold
        if contains(question, [gold]):
            yield f"the answer {gold!r} stands in the question {question!r}"


def _mcq(rows: Rows) -> Iterator[str]:
    longest = shortest = 0
    for row in rows:
        choices, at = row["choices"], row["answer"]
        if len({tuple(words(c)) for c in choices}) != CHOICES or not 0 <= at < len(choices) == CHOICES:
            yield f"mcq {row['id']}: not {CHOICES} different choices with one answer: {choices}, {at}"
            continue
        gold, others = len(choices[at]), [len(c) for i, c in enumerate(choices) if i != at]
        if contains(row["question"], [choices[at]]):
            yield f"mcq {row['id']}: the answer {choices[at]!r} stands in the question"
        if gold > LENGTH_RATIO * max(others) or min(others) > LENGTH_RATIO * gold:
            yield f"mcq {row['id']}: the answer's length tells it from the others: {choices}"
        longest += gold > max(others)
        shortest += gold < min(others)
    for what, count in (("longest", longest), ("shortest", shortest)):
        if count > TELLING * len(rows):
            yield f"mcq: the answer alone is the {what} choice in {count} of {len(rows)} items"


def _reading(rows: Rows) -> Iterator[str]:
    passages: dict[str, Rows] = defaultdict(list)
    for row in rows:
        passages[row["passage_id"]].append(row)
        passage, answer, start = row["passage"], row["answer"], row["answer_start"]
        end = start + len(answer)
        if passage[start:end] != answer:
            yield f"reading {row['id']}: the passage has not {answer!r} at answer_start {start}"
        elif any(map(str.isalnum, passage[max(0, start - 1) : start] + passage[end : end + 1])):
            yield f"reading {row['id']}: {answer!r} is part of a longer word in the passage"
    if len(passages) < PASSAGES:
        yield f"reading: {len(passages)} passages, at least {PASSAGES} are needed"
    for name, group in passages.items():
        if len(group) != QUESTIONS_EACH:
            yield f"reading {name}: {len(group)} questions, must be {QUESTIONS_EACH}"
        if len({(row["kind"], row["title"], row["passage"]) for row in group}) != 1:
            yield f"reading {name}: its questions do not have the same kind, title and passage"
    kinds = Counter(group[0]["kind"] for group in passages.values())
    if len(set(kinds.values())) != 1:
        yield f"reading: real and invented passages are out of balance: {dict(kinds)}"


def _conflict(rows: Rows) -> Iterator[str]:
    for row in rows:
        context, memory = _accepted("conflict", row)
        if not contains(row["passage"], [row["context_answer"]]):
            yield f"conflict {row['id']}: the passage has not its own answer {row['context_answer']!r}"
        for gold in memory:
            if contains(row["passage"], [gold]):
                yield f"conflict {row['id']}: the memory answer {gold!r} stands in the passage"
            if contains(gold, context) or any(contains(other, [gold]) for other in context):
                yield f"conflict {row['id']}: context and memory answers are not disjoint: {gold!r}"


# ------------------------------------------------------------------------------ prose


def _prose(data: Data) -> Iterator[str]:
    count = sum(len(row["text"].split()) for name in PROSE for row in data[name])
    if count < PROSE_WORDS:
        yield f"prose: {count} words, at least {PROSE_WORDS} are needed"


def texts(row: Row) -> list[str]:
    """All that an item shows or expects, one text a field; without its id."""
    fields = [value for key, value in row.items() if key not in ("id", "passage_id")]
    flat = [part for value in fields for part in (value if isinstance(value, list) else [value])]
    return [part for part in flat if isinstance(part, str)]


def pieces(text: str) -> set[tuple[str, ...]]:
    """The normalised sentences of a text of at least four words, and its word n-grams of NGRAM words."""
    parts = re.split(r"(?<=[.!?])[\"”’')]*\s+|\n+", text)
    found = {sentence for part in parts if len(sentence := tuple(words(part))) >= LEAST_SENTENCE}
    return found | set(ngrams(words(text), NGRAM))


def _apart(data: Data, shown: Sequence[tuple[Row, Row]]) -> Iterator[str]:
    """What is evaluated shares no sentence and no n-gram with the calibration text or a worked example."""
    taken = {piece: row["id"] for row in data["calibration"] for text in texts(row) for piece in pieces(text)}
    for config, example in shown:
        where = f"an example of {config['task']}"
        taken |= {piece: where for text in texts(example) for piece in pieces(text)}
    for name, rows in data.items():
        for row in rows if name != "calibration" else []:
            both = {piece for text in texts(row) for piece in pieces(text) if piece in taken}
            for piece in sorted(both)[:3]:
                yield f"{name} {row['id']}: shares with {taken[piece]}: {' '.join(piece)!r}"


def _copies(data: Data) -> Iterator[str]:
    """No two passages, articles or pieces of prose of any file share a sentence or an n-gram."""
    first: dict[tuple[str, ...], str] = {}
    for name, key in LONG:
        for row in data[name]:
            own = row.get("passage_id", row["id"])  # the questions of a passage repeat it
            shared = {first.setdefault(piece, own) for piece in pieces(row[key])} - {own}
            for other in sorted(shared):
                yield f"{name} {row['id']}: {key} repeats a piece of {other}"


# ------------------------------------------------------------------------------ worked examples


def _examples(folder: Path) -> Iterator[tuple[Row, Row]]:
    """Each task file with each of its worked examples."""
    for file in sorted(folder.glob("kick_mini_*.yaml")):
        config = read_yaml(file)
        for example in (config.get("fewshot_config") or {}).get("samples") or []:
            yield config, example


def _example(config: Row, example: Row, data: Data, asked: Mapping[tuple, str]) -> Iterator[str]:
    """A worked example's question is none of `asked`, and its answer counts for no item of its own task."""
    text = example.get("question", "")
    where = f"{config['task']}: the example {text[:60]!r}"
    if tuple(words(text)) in asked:
        yield f"{where} is the question of {asked[tuple(words(text))]}"
    name = config["dataset_kwargs"]["file"]
    for row in data[name] if name in ("factoid", "reading", "conflict") else []:
        if contains(example["answer"], [gold for golds in _accepted(name, row) for gold in golds]):
            yield f"{where} has an answer that counts for {name} {row['id']}"
    for row in data[name] if name == "mcq" else []:
        if words(row["choices"][row["answer"]]) == words(example["choices"][example["answer"]]):
            yield f"{where} has the answer of mcq {row['id']}"
