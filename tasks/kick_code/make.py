"""Makes the mutants of kick_humaneval_repair: one wrong operator in each reference solution of HumanEval.

    KICK_ALLOW_CODE=confined python tasks/kick_code/make.py      # writes data/mutants.json, in some minutes

Of each problem the operators that have a counterpart in SWAPS are tried in a seeded order, and the first
mutant that fails the problem's tests is taken, if it fails within its time. Written are positions and
replacements, and the digest of the package's data that they are positions in; no text of the package.
"""

from __future__ import annotations

import io
import json
import random
import tokenize
from collections.abc import Iterator, Mapping
from keyword import iskeyword
from pathlib import Path
from typing import Any

from kick.tasks import sandbox
from kick.tasks.code import humaneval, tests_of
from kick.tasks.repair import Mutant, data_digest, mutated

FILE = Path(__file__).parent / "data" / "mutants.json"
SEED = 21
SWAPS = {
    "+": ("-",),
    "-": ("+",),
    "*": ("+",),
    "/": ("*",),
    "//": ("%",),
    "%": ("//",),
    "**": ("*",),
    "+=": ("-=",),
    "-=": ("+=",),
    "*=": ("+=",),
    "//=": ("%=",),
    "%=": ("//=",),
    "==": ("!=",),
    "!=": ("==",),
    "<": ("<=", ">"),
    "<=": ("<", ">="),
    ">": (">=", "<"),
    ">=": (">", "<="),
    "and": ("or",),
    "or": ("and",),
}


def candidates(doc: Mapping[str, Any]) -> Iterator[Mutant]:
    """The mutants of a problem, in the order of its text. Signs of numbers and stars of arguments stay."""
    prompt, solution = doc["prompt"], doc["canonical_solution"]
    starts = [0]
    for line in (prompt + solution).splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    operand = False  # whether the token before ends one, so that an operator after it has two
    for token in tokenize.generate_tokens(io.StringIO(prompt + solution).readline):
        start = starts[token.start[0] - 1] + token.start[1] - len(prompt)
        if operand and start >= 0:
            for other in SWAPS.get(token.string, ()):
                yield Mutant(doc["task_id"], start, start + len(token.string), other)
        operand = token.string in (")", "]", "}") or (
            token.type in (tokenize.NAME, tokenize.NUMBER, tokenize.STRING) and not iskeyword(token.string)
        )


def ordered(doc: Mapping[str, Any]) -> list[Mutant]:
    """The mutants of a problem, in the order in which they are tried."""
    found = list(candidates(doc))
    random.Random(f"{SEED} {doc['task_id']}").shuffle(found)
    return found


def fails(doc: Mapping[str, Any], mutant: Mutant) -> bool:
    """Whether a mutant's definitions run and its tests fail, within its time."""
    ended = sandbox.run([doc["prompt"] + mutated(doc, mutant), tests_of(doc)])
    return ended.done == 1 and not ended.overtime


def text_of(mutants: list[Mutant]) -> str:
    """The file: a mutant per line."""
    rows = ",\n".join(
        f"  {json.dumps([one.task_id, one.start, one.end, one.replacement])}" for one in mutants
    )
    return f'{{"data": "{data_digest()}", "seed": {SEED}, "mutants": [\n{rows}\n]}}\n'


def main() -> None:
    """Write the file."""
    made = []
    for doc in humaneval()["test"]:
        found = next((one for one in ordered(doc) if fails(doc, one)), None)
        if found is not None:
            made.append(found)
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text_of(made), "utf-8")
    print(f"{len(made)} mutants")


if __name__ == "__main__":
    main()
