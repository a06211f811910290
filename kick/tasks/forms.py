"""Forms of lm-eval's task files that it takes without a word and scores otherwise than they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.task import ConfigurableTask

from kick.errors import KickError

CORPUS = ("bleu", "chrf", "ter")  # lm-eval's aggregations of all texts at once


def check(name: str, task: ConfigurableTask, docs: Sequence[Mapping[str, Any]]) -> None:
    """Raises KickError for metrics of a whole corpus, and for choices named by digits, the gold as text."""
    _check_metrics(name, task)
    _check_digits(name, task, docs)


def _check_metrics(name: str, task: ConfigurableTask) -> None:
    found = [metric for metric, fn in task.aggregation().items() if fn.__name__ in CORPUS]
    if found:
        raise KickError(
            f"task {name}: metric {', '.join(found)} is one number of a whole corpus of texts, with none for "
            "an item, and kick compares variants item by item; expected: metrics of each answer, such as "
            "exact_match, or numbers by a function (process_results: !function kick.tasks.scoring.summary "
            "gives ROUGE)"
        )


def _check_digits(name: str, task: ConfigurableTask, docs: Sequence[Mapping[str, Any]]) -> None:
    """A template that gives digits is taken as a place counted from 0 (lm-eval 0.4.13), so "2" of the choices
    1, 2, 3, 4 is 3. Where the file means that, some gold names no choice, and it is left alone."""
    target = task.config.doc_to_target
    if task.OUTPUT_TYPE != "multiple_choice" or task.config.doc_to_choice is None or task.multiple_input:
        return
    if not isinstance(target, str) or target in task.features:
        return
    moved = ""
    for doc in docs:
        choices = [str(choice).strip() for choice in task.doc_to_choice(doc)]
        gold = task.doc_to_target(doc)
        if not all(choice.isdigit() for choice in choices) or not isinstance(gold, int):
            return
        if str(gold) not in choices:
            if gold < len(choices):
                return  # a place, and nothing else
            moved = moved or f"{gold} has no place among {len(choices)}"
        elif gold >= len(choices) or choices[gold] != str(gold):
            as_place = repr(choices[gold]) if gold < len(choices) else "none"
            moved = moved or f"the gold {gold} is taken as the choice {as_place}"
    if moved:
        raise KickError(
            f"task {name}: its choices are named by digits ({', '.join(choices)}), and doc_to_target "
            f"{target!r} gives digits, which lm-eval takes as a place counted from 0: {moved}; "
            "expected: the name of a field, such as doc_to_target: answer, looked up among the choices"
        )
