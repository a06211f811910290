"""Long contexts, made of KICK-Mini's own sentences: each place in them is known, so answers are exact.

    custom_dataset: !function kick.tasks.long.documents
    dataset_kwargs: {kind: needle, length: 1024}

Each kind makes DOCUMENTS texts of about `length` tokens and asks each at five depths, the place of what is
asked as a share of the text: 0 is its beginning, 1 its end. The same kind and length give the same items on
every machine. Questions come last, so that those on one text share its reading.

needle      one sentence with a number among prose; the text is the same at every depth but for its place
needles     five such sentences at the five depths, one of them asked
variables   boxes that hold the number of the box before; from the first box, at the depth, to the last
count       how often one sentence occurs, all of them about the depth
qa          a passage on an invented person or place among others, and a question on it
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from kick.errors import KickError
from kick.registry import unknown
from kick.tasks.data import read_rows, tasks_folder

if TYPE_CHECKING:
    import datasets

VERSION = 1
DOCUMENTS = 8
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
CHARACTERS = 4.35  # of prose per token of SmolLM2's tokenizer
PASSAGES = 4.1  # the same of passages, whose invented names are several tokens each
# tokens of the worked examples, the question and what is placed in the text, by kind
AROUND = {"needle": 175, "needles": 245, "variables": 245, "count": 170, "qa": 145}

NAMES = (
    "Mara Tolvin",
    "Edric Sollow",
    "Pell Harrowby",
    "Ines Corvath",
    "Tobin Askeld",
    "Wenna Brisk",
    "Oskar Limmer",
    "Dalia Fenrick",
    "Hugo Tarrant",
    "Sanna Yewdale",
    "Bram Ostler",
    "Lotte Vane",
    "Casper Nolde",
    "Rhea Quillan",
    "Anselm Pike",
)
COLOURS = ("red", "blue", "green", "white", "black", "yellow", "brown", "grey", "pink", "golden")
COUNTED = "A bell rang twice."

Document = dict[str, Any]


def documents(kind: str, length: int, **_: Any) -> datasets.DatasetDict:
    """The test split of a kind at a length in tokens. Raises KickError for an unknown kind."""
    import datasets

    if kind not in KINDS:
        raise KickError(unknown("kind of long context", kind, KINDS))
    rows = [row for number in range(DOCUMENTS) for row in KINDS[kind](_random(kind, number), int(length))]
    return datasets.DatasetDict(test=datasets.Dataset.from_list(rows))


def _random(kind: str, number: int) -> random.Random:
    return random.Random(f"kick_long {kind} {number}")


def _rows(file: str) -> list[Document]:
    return list(read_rows(tasks_folder() / "kick_mini" / "data" / f"{file}.jsonl"))


def _prose(chance: random.Random, tokens: int) -> list[str]:
    """Sentences of shuffled paragraphs of the suite's prose, about `tokens` of them."""
    paragraphs = [part for row in _rows("perplexity") for part in row["text"].split("\n\n")]
    chance.shuffle(paragraphs)
    found: list[str] = []
    left = tokens * CHARACTERS
    for paragraph in paragraphs:
        for sentence in re.split(r"(?<=[.!?])\s+", paragraph.strip()):
            left -= len(sentence) + 1
            if left < 0:
                return found
            found.append(sentence)
    raise KickError(f"the suite's prose is too short for a text of {tokens} tokens")


def _at(parts: Sequence[str], depth: float) -> int:
    """The place between parts that is nearest to a depth, by characters."""
    ends = [0, *accumulate(len(part) for part in parts)]
    return min(range(len(ends)), key=lambda place: abs(ends[place] - depth * ends[-1]))


def _with(sentences: Sequence[str], placed: Sequence[tuple[float, str]]) -> str:
    """The text with each sentence of `placed` at its depth; equal depths keep their order."""
    parts = list(sentences)
    for depth, sentence in sorted(placed, key=lambda one: one[0], reverse=True):
        before = [text for at, text in placed if at == depth]
        if sentence == before[0]:
            parts[_at(sentences, depth) : _at(sentences, depth)] = before
    return " ".join(parts)


def _row(text: str, question: str, answer: str, depth: float, aliases: Sequence[str] = ()) -> Document:
    place = f"depth {round(100 * depth)} %"
    return {"text": text, "question": question, "answer": answer, "aliases": list(aliases), "depth": place}


def _number(chance: random.Random) -> str:
    return str(chance.randrange(10000, 100000))


def _fact(name: str, number: str) -> str:
    return f"The number of {name} is {number}."


def needle(chance: random.Random, length: int) -> Iterator[Document]:
    """One sentence with a number, at each depth of the same text."""
    name, number, prose = chance.choice(NAMES), _number(chance), _prose(chance, length - AROUND["needle"])
    for depth in DEPTHS:
        text = _with(prose, [(depth, _fact(name, number))])
        yield _row(text, f"What is the number of {name}?", number, depth)


def needles(chance: random.Random, length: int) -> Iterator[Document]:
    """Five sentences with numbers, one at each depth; each is asked."""
    names, prose = chance.sample(NAMES, len(DEPTHS)), _prose(chance, length - AROUND["needles"])
    facts = [(depth, name, _number(chance)) for depth, name in zip(DEPTHS, names, strict=True)]
    text = _with(prose, [(depth, _fact(name, number)) for depth, name, number in facts])
    for depth, name, number in facts:
        yield _row(text, f"What is the number of {name}?", number, depth)


def variables(chance: random.Random, length: int) -> Iterator[Document]:
    """A chain of three boxes from the depth to the end of the text, and a second chain beside it."""
    prose = _prose(chance, length - AROUND["variables"])
    colours = chance.sample(COLOURS, 6)
    one, two = colours[:3], colours[3:]
    numbers = _number(chance), _number(chance)
    for depth in DEPTHS:
        placed = []
        for boxes, number in ((two, numbers[1]), (one, numbers[0])):
            said = [f"The {boxes[0]} box holds the number {number}."]
            said += [f"The {b} box holds the same number as the {a} box." for a, b in pairwise(boxes)]
            step = (1 - depth) / len(said)
            placed += [(depth + place * step, sentence) for place, sentence in enumerate(said)]
        question = f"Which number does the {one[-1]} box hold?"
        yield _row(_with(prose, placed), question, numbers[0], depth)


def count(chance: random.Random, length: int) -> Iterator[Document]:
    """One sentence several times, each a few sentences after the one before, about the depth."""
    prose, times = _prose(chance, length - AROUND["count"]), chance.randint(2, 9)
    for depth in DEPTHS:
        step = 2 if len(prose) >= 4 * times else 1
        first = round(depth * (len(prose) - step * times))
        parts = list(prose)
        for place in reversed(range(times)):
            parts.insert(first + step * place, COUNTED)
        question = f'How often does the sentence "{COUNTED}" occur in the text?'
        words = ("two", "three", "four", "five", "six", "seven", "eight", "nine")[times - 2]
        yield _row(" ".join(parts), question, str(times), depth, [words, f"{times} times", f"{words} times"])


def qa(chance: random.Random, length: int) -> Iterator[Document]:
    """Passages one after another; the questions are on those at the five depths.

    A text too short for five passages is prose with one of them, at each depth in turn.
    """
    asked: dict[str, list[Document]] = {}
    for row in _rows("reading"):
        asked.setdefault(row["passage_id"], []).append(row)
    invented = [rows for rows in asked.values() if rows[0]["kind"] == "invented"]
    others = [rows for rows in asked.values() if rows[0]["kind"] != "invented"]
    chance.shuffle(invented)
    chance.shuffle(others)
    golds = invented[: len(DEPTHS)]
    rest = [rows[0]["passage"] for rows in (*invented[len(DEPTHS) :], *others)]
    left = (length - AROUND["qa"]) * PASSAGES - sum(len(rows[0]["passage"]) + 2 for rows in golds)
    if left < 0:
        row = chance.choice(golds[0])
        around = _prose(chance, length - AROUND["qa"] - round(len(row["passage"]) / PASSAGES))
        for depth in DEPTHS:
            text = _with(around, [(depth, row["passage"])])
            yield _row(text, row["question"], row["answer"], depth, row["aliases"])
        return
    passages: list[str] = []
    for passage in rest:
        left -= len(passage) + 2
        if left < 0:
            break
        passages.append(passage)
    places = [_at(passages, depth) for depth in DEPTHS]
    for place, rows in reversed(list(zip(places, golds, strict=True))):
        passages.insert(place, rows[0]["passage"])
    for depth, rows in zip(DEPTHS, golds, strict=True):
        row = chance.choice(rows)
        yield _row("\n\n".join(passages), row["question"], row["answer"], depth, row["aliases"])


KINDS: dict[str, Callable[[random.Random, int], Iterator[Document]]] = {
    "needle": needle,
    "needles": needles,
    "variables": variables,
    "count": count,
    "qa": qa,
}
