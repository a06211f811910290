"""KICK-Mini keeps its rules, and the validator reports each kind of fault where one is planted in a copy."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from tests.support.validate import FIELDS, pieces, problems, texts

SUITE = Path(__file__).parents[2] / "tasks" / "kick_mini"


def rows_of(name, folder=SUITE):
    return [json.loads(line) for line in (folder / "data" / f"{name}.jsonl").read_text("utf-8").splitlines()]


def write(folder, name, rows):
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (folder / "data" / f"{name}.jsonl").write_text("".join(lines), "utf-8")


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(SUITE, tmp_path / "kick_mini"))


def plant(folder, faults):
    """Apply (file, item number, change) in place; `change` gets the row."""
    for name in {name for name, *_ in faults}:
        rows = rows_of(name, folder)
        for fault in faults:
            if fault[0] == name:
                fault[2](rows[fault[1] - 1])
        write(folder, name, rows)


def put(**values):
    return lambda row: row.update(values)


def cut(key, count):
    return lambda row: row.update({key: " ".join(row[key].split()[:count])})


def append(key, *extra):
    return lambda row: row[key].extend(extra)


def add(key, text):
    return lambda row: row.update({key: row[key] + text})


def test_the_suite_is_sound():
    assert problems(SUITE) == []


def test_the_suite_has_what_was_promised():
    reading = rows_of("reading")
    passages = {row["passage_id"]: row["kind"] for row in reading}
    assert len(rows_of("factoid")) >= 512
    assert len(rows_of("mcq")) >= 512
    assert len(passages) >= 88
    assert len(reading) == 3 * len(passages)
    assert 2 * list(passages.values()).count("invented") == len(passages)
    assert len(rows_of("conflict")) >= 128
    assert len(rows_of("summary")) >= 52
    words = sum(len(row["text"].split()) for name in ("perplexity", "calibration") for row in rows_of(name))
    assert words >= 12_000


# file -> how many items the first edition had, and the digest of their lines in order
FIRST_EDITION = {
    "factoid": (256, "7290383e8267191f"),
    "mcq": (256, "053a48ec2504f2f9"),
    "reading": (132, "42d753488d16b9cb"),
    "conflict": (64, "02b9cace87879f15"),
    "summary": (26, "ec29a034ea52369a"),
}


@pytest.mark.parametrize("name", FIRST_EDITION)
def test_the_first_edition_comes_first_unchanged(name):
    count, digest = FIRST_EDITION[name]
    lines = (SUITE / "data" / f"{name}.jsonl").read_text("utf-8").splitlines()[:count]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == digest


FORM = [
    (put(extra=1), "keys must be"),
    (lambda row: row.update(id=row.pop("id")), "in this order"),
    (put(level="2"), "level must be int"),
    (put(level=True), "level must be int"),
    (put(aliases="x"), "aliases must be list"),
    (append("aliases", 7), "aliases must be text"),
    (put(question="Why? "), "without blanks"),
    (put(answer=""), "without blanks"),
]


@pytest.mark.parametrize(("change", "message"), FORM)
def test_a_fault_of_form_is_reported(copy, change, message):
    plant(copy, [("factoid", 5, change)])
    (found,) = problems(copy)
    assert found.startswith("factoid line 5:")
    assert message in found


def test_files_that_cannot_be_read(copy):
    (copy / "data" / "mcq.jsonl").unlink()
    (copy / "data" / "summary.jsonl").write_text("")
    with (copy / "data" / "factoid.jsonl").open("a") as file:
        file.write("{broken\n")
    found = "\n".join(problems(copy))
    assert "mcq.jsonl is not there" in found
    assert "summary.jsonl is empty" in found
    assert "factoid line 513: no valid JSON" in found


# one fault an item, all in one copy: (file, item, change, what is said of it)
FAULTS = [
    ("factoid", 1, put(id="factoid-999"), "must have the id factoid-001"),
    (
        "factoid",
        2,
        put(question="ON WHICH piece of furniture do the people sleep at night"),
        "a duplicate of",
    ),
    ("factoid", 3, append("aliases", "vincent VAN gogh!"), "duplicate of 'Vincent van Gogh' after"),
    ("factoid", 4, append("aliases", "US"), "function word"),
    ("factoid", 5, append("aliases", "??"), "no word left"),
    ("factoid", 6, append("aliases", "koalas"), "'koalas' stands in the question"),
    ("mcq", 1, put(choices=["baseball", "Baseball", "volleyball", "football"]), "different choices"),
    ("mcq", 3, put(choices=["Virgil", "Homer", "Dante"]), "different choices"),
    ("mcq", 4, put(question="Which red cells carry oxygen around the body?"), "stands in the question"),
    ("mcq", 5, put(choices=["Tanzania in eastern Africa", "Mali", "Egypt", "Nigeria"]), "length tells it"),
    ("reading", 1, put(answer_start=75), "has not 'Uruguay' at answer_start 75"),
    ("reading", 3, put(answer="heaviest animal"), "'heaviest animal' stands in the question"),
    (
        "reading",
        4,
        lambda r: r.update(answer="line", answer_start=r["passage"].index("lined")),
        "longer word",
    ),
    ("conflict", 1, add("passage", " Some say grapes."), "'grapes' stands in the passage"),
    ("conflict", 2, put(context_answer="1613"), "has not its own answer '1613'"),
    ("conflict", 3, append("context_aliases", "Shakespeare"), "not disjoint: 'Shakespeare'"),
    (
        "conflict",
        4,
        cut("passage", 79),
        "79 words, must have 80",
    ),
    ("conflict", 5, append("memory_aliases", "magnet"), "'magnet' stands in the question"),
    ("summary", 1, add("summary", " and so on" * 10), "summary has 8"),
    (
        "summary",
        2,
        cut("article", 249),
        "249 words, must have 250",
    ),
]


def test_every_fault_of_an_item_is_reported(copy):
    plant(copy, FAULTS)
    found = problems(copy)
    for name, number, _, message in FAULTS:
        about = [line for line in found if re.match(rf"{name} {name}-0*{number}:|{name} factoid-999:", line)]
        assert any(message in line for line in about), (name, number, message, about)
    for line in found:
        assert re.match(r"\w+ [a-z]+-0*(1|2|3|4|5|6|999):|reading passage-", line)
    assert any("passage-01" not in line and "reading-001" in line for line in found)


def test_a_fault_of_the_whole_is_reported(copy):
    factoid, mcq, reading = rows_of("factoid"), rows_of("mcq"), rows_of("reading")
    conflict, summary, prose = rows_of("conflict"), rows_of("summary"), rows_of("perplexity")
    write(copy, "factoid", sorted(factoid, key=lambda row: row["category"]))
    for row in mcq[:40]:
        row["choices"].insert(0, row["choices"].pop(row["answer"]))
        row["answer"] = 0
    write(copy, "mcq", mcq[:200])
    write(copy, "reading", reading[:-13])
    write(copy, "conflict", [row for row in conflict if row["category"] != "arts"])
    write(copy, "summary", summary[:23])
    write(copy, "perplexity", [{**row, "text": row["text"][:500].strip()} for row in prose])
    found = "\n".join(problems(copy))
    for message in (
        "factoid: among the first 8 items category is out of balance",
        "mcq: 200 items, at least 512",
        "mcq: answer is out of balance",
        "mcq: among the first 8 items answer",
        "reading: 251 items, at least 264",
        "questions, must be 3",
        "conflict: 112 items, at least 128",
        "conflict: 7 categories",
        "summary: 23 items, at least 52",
        "at least 12000 are needed",
    ):
        assert message in found


def test_a_level_or_a_place_that_tells_the_category_is_reported(copy):
    factoid, mcq = rows_of("factoid"), rows_of("mcq")
    easy = [row for row in factoid if row["category"] == "arts" and row["level"] == 1][:2]
    hard = [row for row in factoid if row["category"] == "nature" and row["level"] == 3][:2]
    for one, other in zip(easy, hard, strict=True):
        one["level"], other["level"] = 3, 1
    early = [row for row in mcq if row["category"] == "language" and row["answer"] == 0][:2]
    late = [row for row in mcq if row["category"] == "numbers" and row["answer"] == 3][:2]
    for one, other in zip(early, late, strict=True):
        one["answer"], other["answer"] = 3, 0
    write(copy, "factoid", factoid)
    write(copy, "mcq", mcq)
    found = "\n".join(problems(copy))
    assert "factoid: level 1 is out of balance between categories: {'arts': 30, 'everyday': 32" in found
    assert "factoid: level 3 is out of balance between categories: {'arts': 18, 'everyday': 16" in found
    assert "level 2 is out" not in found
    assert "mcq: answer 0 is out of balance between categories" in found
    assert "mcq: answer 3 is out of balance between categories" in found
    assert "answer 1 is out" not in found


def test_levels_kinds_and_telling_lengths(copy):
    factoid = rows_of("factoid")
    write(copy, "factoid", [{**row, "level": 1 if row["level"] == 3 else row["level"]} for row in factoid])
    plant(copy, [("reading", 1, put(kind="invented", passage="x" * 9))])
    mcq = rows_of("mcq")
    for row in mcq:
        row["choices"] = [f"{c} yes" if i == row["answer"] else c for i, c in enumerate(row["choices"])]
    write(copy, "mcq", mcq)
    found = "\n".join(problems(copy))
    assert "factoid: level must take the values [1, 2, 3], got [1, 2]" in found
    assert "passage-01: its questions do not have the same kind, title and passage" in found
    assert "the answer alone is the longest choice in" in found


def test_overlap_with_calibration_and_examples_is_reported(copy):
    calibration, factoid = rows_of("calibration"), rows_of("factoid")
    words = calibration[3]["text"].replace("\n", " ").split()
    sentence = re.findall(r"[^.!?]+[.]", calibration[5]["text"])[2].strip()
    plant(
        copy,
        [
            ("perplexity", 3, add("text", " then " + " ".join(words[20:34]).lower())),
            (
                "summary",
                4,
                add("article", "\n\n" + sentence),
            ),
            ("mcq", 6, put(question="Lay out everything you think you will need.")),
            ("conflict", 7, add("passage", " A paper lantern hangs over its door, and children light it.")),
            ("reading", 9, put(question="What hangs over the door of the old mill of Tarn?")),
        ],
    )
    yaml = copy / "kick_mini_factoid.yaml"
    shown = f'    - {{question: "{factoid[0]["question"]}", answer: "bed"}}\n'
    yaml.write_text(yaml.read_text().replace("  samples:\n", f"  samples:\n{shown}"))
    found = problems(copy)
    assert any(line.startswith("perplexity prose-03: shares with calibration-04") for line in found)
    assert any(line.startswith("summary summary-04: shares with calibration-06") for line in found)
    assert any(line.startswith("mcq mcq-006: shares with calibration-05") for line in found)
    assert any("reading-009: shares with an example of kick_mini_open" in line for line in found)
    assert any("is the question of factoid factoid-001" in line for line in found)
    assert any("has an answer that counts for factoid factoid-001" in line for line in found)


def test_duplicate_texts_are_reported(copy):
    prose, summary = rows_of("perplexity"), rows_of("summary")
    plant(
        copy,
        [
            ("perplexity", 2, put(text=prose[0]["text"].upper())),
            ("summary", 3, put(title=summary[0]["title"])),
            ("conflict", 2, put(passage=rows_of("conflict")[0]["passage"])),
        ],
    )
    found = "\n".join(problems(copy))
    assert "perplexity prose-02: text is a duplicate of prose-01's" in found
    assert "summary summary-03: title is a duplicate of summary-01's" in found
    assert "conflict conflict-002: passage is a duplicate of conflict-001's" in found


def test_a_sentence_that_two_texts_share_is_reported(copy):
    reading, conflict = rows_of("reading"), rows_of("conflict")
    sentence = re.findall(r"[^.!?]+[.]", reading[135]["passage"])[1].strip()
    borrowed = " ".join(conflict[70]["passage"].split()[5:25]).upper()
    plant(
        copy,
        [("conflict", 100, add("passage", " " + sentence)), ("summary", 40, add("article", " " + borrowed))],
    )
    found = problems(copy)
    assert found == [
        f"conflict conflict-100: passage repeats a piece of {reading[135]['passage_id']}",
        "summary summary-40: article repeats a piece of conflict-071",
    ]


def test_pieces_are_sentences_and_ngrams():
    one = pieces("The dog ran off quickly! “Why did it run?” Nobody knew.\nA cat sat on a mat")
    assert {" ".join(piece) for piece in one} >= {"dog ran off quickly", "why did it run", "cat sat on mat"}
    assert ("nobody", "knew") not in one  # too short to be anyone's own
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    assert {len(piece) for piece in pieces(long)} == {13, 14}


def test_texts_of_an_item_leave_out_its_id():
    assert set(FIELDS) == {path.stem for path in (SUITE / "data").glob("*.jsonl")}
    row = {"id": "x", "question": "q", "choices": ["a", "b"], "answer": 1}
    assert texts(row) == ["q", "a", "b"]
