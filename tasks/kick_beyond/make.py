"""Makes the embedded sets of kick_beyond, from sentences written for it and a fixed seed.

    python tasks/kick_beyond/make.py          # writes data/form.jsonl and data/reasoning.jsonl

Every prompt, answer and worked solution comes from this file; nothing is taken from another data set. Running
it again gives the same bytes. Every eight items in a row have each kind once, or each number of steps twice.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "data"
SEED = 21
PER_KIND = 32  # 8 kinds of form
PER_STEP = 64  # 1, 2, 3 and 4 steps of reasoning

Row = dict[str, Any]

# ------------------------------------------------------------------------------------------ form

# a subject and words of which one has to occur if an answer is about it
SUBJECTS = {
    "the sea": ["sea", "seas", "wave", "waves", "ocean", "tide"],
    "rain": ["rain", "rains", "raining", "rainy", "drop", "drops"],
    "an old bridge": ["bridge", "bridges"],
    "a sleeping cat": ["cat", "cats"],
    "bread": ["bread", "loaf", "loaves", "baker"],
    "the moon": ["moon", "moonlight"],
    "a train journey": ["train", "trains", "railway"],
    "a garden": ["garden", "gardens", "flower", "flowers"],
    "snow": ["snow", "snowy", "snowflake", "snowflakes"],
    "a market": ["market", "markets", "stall", "stalls"],
    "a violin": ["violin", "violins"],
    "the desert": ["desert", "deserts", "sand", "dune", "dunes"],
    "a lighthouse": ["lighthouse", "light", "lamp"],
    "a busy kitchen": ["kitchen", "cook", "cooks", "pan", "pans"],
    "autumn leaves": ["leaf", "leaves", "autumn"],
    "a football match": ["football", "match", "goal", "ball"],
}
MEMBERS = {
    "animals": "dog cat horse cow pig sheep lion tiger bear wolf fox rabbit mouse elephant monkey bird fish",
    "colours": "red blue green yellow orange purple black white brown pink grey gray violet",
    "fruits": "apple banana orange pear grape cherry lemon mango peach plum strawberry kiwi melon",
    "countries": "france germany italy spain japan china india brazil canada mexico egypt kenya norway",
    "tools": "hammer saw drill screwdriver wrench pliers axe knife shovel rake chisel ladder",
    "months": "january february march april may june july august september october november december",
    "vegetables": "carrot potato onion tomato pea cabbage spinach broccoli lettuce bean pepper cucumber",
    "instruments": "piano guitar violin drum flute trumpet cello harp saxophone clarinet trombone",
}
# questions whose one-word answer can be given in lower case and has no letter e
PLAIN = [
    ("Which animal barks?", ["dog", "dogs"]),
    ("What is the opposite of cold?", ["hot", "warm"]),
    ("What falls from clouds as water?", ["rain"]),
    ("Which star shines by day?", ["sun"]),
    ("What do cows give to drink?", ["milk"]),
    ("What is the capital of Italy?", ["rome"]),
    ("What is the opposite of down?", ["up"]),
    ("Which metal is yellow and costly?", ["gold"]),
    ("What do birds fly with?", ["wings", "wing"]),
    ("What is frozen water called?", ["ice"]),
    ("What is the capital of Japan?", ["tokyo"]),
    ("What is the opposite of short?", ["tall", "long"]),
    ("Which animal purrs?", ["cat", "cats"]),
    ("What do we see at night in the sky, round and bright?", ["moon"]),
    ("What is the capital of Spain?", ["madrid"]),
    ("What do fish swim in?", ["water", "sea"]),
]
NO_E = [
    ("a dog", ["dog", "dogs", "barks", "pup"]),
    ("a cat", ["cat", "cats"]),
    ("rain", ["rain", "raining", "drip", "drips"]),
    ("the sun", ["sun", "sunny", "sunlight"]),
    ("a fish", ["fish"]),
    ("a boat", ["boat", "ship", "sail"]),
    ("milk", ["milk"]),
    ("a book", ["book", "books"]),
    ("a farm", ["farm", "farms", "cow", "cows", "pig", "pigs"]),
    ("music", ["music", "song", "songs"]),
    ("winter", ["cold", "snow", "chill", "chilly"]),
    ("a king", ["king", "kings"]),
    ("a car", ["car", "cars"]),
    ("a road", ["road", "roads"]),
    ("bath time for a child", ["bath", "soap", "child", "kid"]),
    ("a hot day", ["hot", "day", "sun"]),
]
NAMES = ["Ana", "Bilal", "Chen", "Dora", "Emil", "Fatou", "Goran", "Hana", "Igor", "Jana", "Kofi", "Lena"]
PLACES = [
    "Lima",
    "Oslo",
    "Pune",
    "Graz",
    "Cork",
    "Izmir",
    "Accra",
    "Turin",
    "Quito",
    "Lodz",
    "Bergen",
    "Porto",
]
JOBS = ["baker", "nurse", "pilot", "tailor", "farmer", "driver", "painter", "singer", "teacher", "plumber"]


def form_rows(draw: random.Random) -> list[Row]:
    """The prompts of form: 8 kinds, a rule each that says whether the answer has the form asked for."""
    kinds: list[Callable[[random.Random, int], Row]] = [
        *(_lines, _words_per_line, _json, _numbered),
        *(_no_e, _lower_case, _word_count, _comma_list),
    ]
    made = [_distinct(kind, draw, PER_KIND) for kind in kinds]
    return [row for same in zip(*made, strict=True) for row in same]


def _distinct(kind: Callable[[random.Random, int], Row], draw: random.Random, count: int) -> list[Row]:
    rows: dict[str, Row] = {}
    while len(rows) < count:
        row = kind(draw, len(rows))
        rows.setdefault(row["instruction"], row)
    return list(rows.values())


def _row(kind: str, instruction: str, rule: Row, about: list[str], least: int = 1) -> Row:
    text = json.dumps(rule, sort_keys=True)
    return {"kind": kind, "instruction": instruction, "rule": text, "about": about, "least": least}


def _subject(at: int) -> tuple[str, list[str]]:
    return list(SUBJECTS.items())[at % len(SUBJECTS)]


def _lines(draw: random.Random, at: int) -> Row:
    (subject, about), n = _subject(at), draw.randint(2, 5)
    text = f"Write exactly {n} lines about {subject}, with no blank line between them."
    return _row("lines", text, {"lines": n}, about)


def _words_per_line(draw: random.Random, at: int) -> Row:
    (subject, about), n, words = _subject(at), draw.randint(1, 3), draw.randint(3, 6)
    lines = "one line" if n == 1 else f"{n} lines"
    text = f"Write {lines} about {subject}. Every line must have exactly {words} words."
    return _row("words per line", text, {"lines": n, "words_per_line": words}, about)


def _json(draw: random.Random, at: int) -> Row:
    name, job, place = NAMES[at % len(NAMES)], draw.choice(JOBS), draw.choice(PLACES)
    facts = {"name": name, "job": job, "city": place, "age": draw.randint(19, 74)}
    keys = draw.sample(sorted(facts), draw.randint(2, 4))
    named = ", ".join(keys[:-1]) + f" and {keys[-1]}"
    text = (
        f"{name} is {facts['age']} years old, works as a {job} and lives in {place}. "
        f"Write this as one JSON object with the keys {named}, and nothing else."
    )
    return _row("JSON", text, {"json": sorted(keys)}, [str(facts[key]) for key in keys], len(keys))


def _numbered(draw: random.Random, at: int) -> Row:
    what, n = list(MEMBERS)[at % len(MEMBERS)], draw.randint(3, 7)
    text = f"List exactly {n} {what}, one per line, numbered 1. to {n}. and nothing else."
    return _row("numbered list", text, {"numbered": n}, MEMBERS[what].split())


def _no_e(draw: random.Random, at: int) -> Row:
    subject, about = NO_E[at % len(NO_E)]
    ask = [
        "Write a sentence about {} without using the letter e.",
        "Say something about {} and avoid the letter e.",
    ]
    return _row("no letter e", ask[at // len(NO_E)].format(subject), {"without": "e"}, about)


def _lower_case(draw: random.Random, at: int) -> Row:
    question, about = PLAIN[at % len(PLAIN)]
    ask = ["{} Answer in a sentence, in lower case only.", "Use no capital letter in your answer. {}"]
    return _row("lower case", ask[at // len(PLAIN)].format(question), {"lower": True}, about)


def _word_count(draw: random.Random, at: int) -> Row:
    (subject, about), n = _subject(at), draw.randint(3, 9)
    return _row("word count", f"Describe {subject} in exactly {n} words.", {"words": n}, about)


def _comma_list(draw: random.Random, at: int) -> Row:
    what, n = list(MEMBERS)[at % len(MEMBERS)], draw.randint(2, 6)
    text = f"Name {n} {what} on one line, separated by commas."
    return _row("comma list", text, {"items": n}, MEMBERS[what].split())


# ------------------------------------------------------------------------------------------ reasoning

THINGS = ["apples", "stamps", "marbles", "pencils", "shells", "coins", "buttons", "cards", "beads", "books"]

Problem = tuple[str, list[str], int]  # question, worked steps, answer


def reasoning_rows(draw: random.Random) -> list[Row]:
    """Word problems of one to four steps, each with its worked solution; answers from 1 to 999."""
    made = [list(_problems(steps, draw)) for steps in sorted(STEPS)]
    return [row for same in zip(*made, strict=True) for row in same]


def _problems(steps: int, draw: random.Random) -> Iterator[Row]:
    seen: set[str] = set()
    while len(seen) < PER_STEP:
        make = STEPS[steps][len(seen) % len(STEPS[steps])]
        question, worked, answer = make(draw, draw.choice(NAMES), draw.choice(THINGS))
        if question in seen or not 1 <= answer <= 999:
            continue
        seen.add(question)
        solution = f"{' '.join(worked)} The answer is {answer}."
        yield {"steps": steps, "question": question, "solution": solution, "answer": str(answer)}


def _more(draw: random.Random, name: str, thing: str) -> Problem:
    a, b = draw.randint(3, 60), draw.randint(2, 39)
    text = f"{name} has {a} {thing} and finds {b} more. How many {thing} does {name} have now?"
    return text, [f"{a} + {b} = {a + b}."], a + b


def _fewer(draw: random.Random, name: str, thing: str) -> Problem:
    a, b = draw.randint(20, 90), draw.randint(2, 19)
    text = f"{name} has {a} {thing} and gives {b} of them away. How many {thing} are left?"
    return text, [f"{a} - {b} = {a - b}."], a - b


def _boxes(draw: random.Random, name: str, thing: str) -> Problem:
    a, b = draw.randint(2, 12), draw.randint(2, 12)
    text = f"{name} fills {a} boxes with {b} {thing} each. How many {thing} are in the boxes?"
    return text, [f"{a} * {b} = {a * b}."], a * b


def _shared(draw: random.Random, name: str, thing: str) -> Problem:
    each, friends = draw.randint(2, 12), draw.randint(2, 9)
    total = each * friends
    text = f"{name} shares {total} {thing} equally among {friends} friends. How many does each friend get?"
    return text, [f"{total} / {friends} = {each}."], each


def _boxes_and_more(draw: random.Random, name: str, thing: str) -> Problem:
    a, b, c = draw.randint(2, 12), draw.randint(2, 12), draw.randint(2, 20)
    text = f"{name} has {a} bags of {b} {thing} and {c} loose ones. How many {thing} does {name} have?"
    return text, [f"{a} * {b} = {a * b}.", f"{a * b} + {c} = {a * b + c}."], a * b + c


def _two_days(draw: random.Random, name: str, thing: str) -> Problem:
    a, b = draw.randint(5, 40), draw.randint(2, 20)
    text = (
        f"On Monday {name} sold {a} {thing}, and on Tuesday {b} more than on Monday. "
        f"How many {thing} did {name} sell on both days together?"
    )
    return text, [f"{a} + {b} = {a + b}.", f"{a} + {a + b} = {2 * a + b}."], 2 * a + b


def _change(draw: random.Random, name: str, thing: str) -> Problem:
    a, price = draw.randint(2, 9), draw.randint(2, 9)
    paid = a * price + draw.randint(1, 30)
    text = f"{name} buys {a} {thing} at {price} euros each and pays with {paid} euros. What is the change?"
    return (
        text,
        [f"{a} * {price} = {a * price}.", f"{paid} - {a * price} = {paid - a * price}."],
        paid - a * price,
    )


def _left_shared(draw: random.Random, name: str, thing: str) -> Problem:
    each, friends, kept = draw.randint(2, 9), draw.randint(2, 6), draw.randint(1, 15)
    total, rest = each * friends + kept, each * friends
    text = (
        f"{name} has {total} {thing}, keeps {kept} and shares the rest equally among {friends} friends. "
        "How many does each friend get?"
    )
    return text, [f"{total} - {kept} = {rest}.", f"{rest} / {friends} = {each}."], each


def _three(draw: random.Random, name: str, thing: str) -> Problem:
    a, b, c, d = draw.randint(2, 9), draw.randint(2, 9), draw.randint(2, 9), draw.randint(2, 9)
    text = (
        f"A shop has {a} shelves with {b} {thing} each and {c} shelves with {d} {thing} each. "
        f"How many {thing} does it have?"
    )
    first, second = a * b, c * d
    worked = [f"{a} * {b} = {first}.", f"{c} * {d} = {second}.", f"{first} + {second} = {first + second}."]
    return text, worked, first + second


def _earns(draw: random.Random, name: str, thing: str) -> Problem:
    hours, days, wage, spent = (
        draw.randint(2, 6),
        draw.randint(2, 5),
        draw.randint(5, 12),
        draw.randint(5, 30),
    )
    text = (
        f"{name} works {hours} hours a day for {days} days, earns {wage} euros an hour "
        f"and spends {spent} euros. How many euros are left?"
    )
    total = hours * days
    worked = [
        f"{hours} * {days} = {total}.",
        f"{total} * {wage} = {total * wage}.",
        f"{total * wage} - {spent} = {total * wage - spent}.",
    ]
    return text, worked, total * wage - spent


def _twice_then(draw: random.Random, name: str, thing: str) -> Problem:
    other = draw.choice([one for one in NAMES if one != name])
    a, b = draw.randint(4, 30), draw.randint(1, 9)
    text = (
        f"{name} has {a} {thing}. {other} has twice as many, and loses {b} of them. "
        f"How many {thing} do they have together now?"
    )
    worked = [f"{a} * 2 = {2 * a}.", f"{2 * a} - {b} = {2 * a - b}.", f"{a} + {2 * a - b} = {3 * a - b}."]
    return text, worked, 3 * a - b


def _four(draw: random.Random, name: str, thing: str) -> Problem:
    a, b, c, d = draw.randint(2, 9), draw.randint(2, 9), draw.randint(2, 9), draw.randint(2, 9)
    e = draw.randint(1, min(9, a * b + c * d - 1))
    text = (
        f"{name} buys {a} packs of {b} {thing} and {c} packs of {d} {thing}, and {e} of them break. "
        f"How many whole {thing} does {name} have?"
    )
    first, second = a * b, c * d
    both = first + second
    worked = [
        *(f"{a} * {b} = {first}.", f"{c} * {d} = {second}."),
        *(f"{first} + {second} = {both}.", f"{both} - {e} = {both - e}."),
    ]
    return text, worked, both - e


def _trip(draw: random.Random, name: str, thing: str) -> Problem:
    speed, hours, slow, more = (
        draw.randint(4, 9) * 10,
        draw.randint(2, 4),
        draw.randint(2, 6) * 5,
        draw.randint(2, 3),
    )
    rest = draw.randint(5, 60)
    first, second = speed * hours, slow * more
    total = first + second + rest
    text = (
        f"{name} drives {hours} hours at {speed} km an hour, then {more} hours at {slow} km an hour. "
        f"The whole way is {total} km. How many km remain?"
    )
    worked = [
        *(f"{speed} * {hours} = {first}.", f"{slow} * {more} = {second}."),
        *(f"{first} + {second} = {first + second}.", f"{total} - {first + second} = {rest}."),
    ]
    return text, worked, rest


def _party(draw: random.Random, name: str, thing: str) -> Problem:
    guests, each, spare, packs = (
        draw.randint(3, 9),
        draw.randint(2, 5),
        draw.randint(1, 9),
        draw.randint(2, 5),
    )
    need = guests * each + spare
    size = -(-need // packs)
    spare = packs * size - guests * each
    need = packs * size
    text = (
        f"{name} invites {guests} guests. Each gets {each} rolls, and {spare} rolls are kept in reserve. "
        f"The rolls come in {packs} equal packs at 3 euros for each roll. What does one pack cost?"
    )
    rolls = guests * each
    worked = [
        *(f"{guests} * {each} = {rolls}.", f"{rolls} + {spare} = {need}."),
        *(f"{need} / {packs} = {size}.", f"{size} * 3 = {size * 3}."),
    ]
    return text, worked, size * 3


STEPS: dict[int, list[Callable[[random.Random, str, str], Problem]]] = {
    1: [_more, _fewer, _boxes, _shared],
    2: [_boxes_and_more, _two_days, _change, _left_shared],
    3: [_three, _earns, _twice_then],
    4: [_four, _trip, _party],
}


def numbered(stem: str, rows: list[Row]) -> list[Row]:
    """The rows with an id in front."""
    return [{"id": f"{stem}-{at:03}", **row} for at, row in enumerate(rows, 1)]


def sets() -> dict[str, list[Row]]:
    """All sets, by the name of their file."""
    return {
        "form": numbered("form", form_rows(random.Random(SEED))),
        "reasoning": numbered("reasoning", reasoning_rows(random.Random(SEED + 1))),
    }


def text_of(rows: list[Row]) -> str:
    """The rows as the text of a .jsonl file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    for name, rows in sets().items():
        (FOLDER / f"{name}.jsonl").write_text(text_of(rows), encoding="utf-8")
