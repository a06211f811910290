"""What the task files say about a task: title, headline metric, its pair with the book open."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from kick.stats import metrics
from kick.stats.metrics import describe
from kick.tasks import index

# The headline of a task that names none: the first of these that it has, else its first compared metric.
HEADLINES = (
    "contains",
    "exact_match",
    "acc",
    "acc_norm",
    "f1",
    "from_context",
    "rougeL",
    "judge",
    "perplexity",
    "word_perplexity",
    "fdt",
)


# The order in which tasks stand: knowledge, reading, writing, then the distances.
ORDER = (
    r"kick_factoid_qa|kick_mini_factoid",
    r"kick_mcr_qa|kick_mini_mcq|mmlu",
    r"kick_icra_qa\w*closed|kick_mini_closed",
    r"kick_icra_qa\w*open|kick_mini_open",
    r"kick_conflict_qa|kick_mini_conflict",
    r"kick_summarization(?!_fidelity)|kick_mini_summary",
    r"kick_instruction_following|kick_mt_bench",
    r"(?!kick_|wikitext)",
    r"kick_perplexity|kick_mini_perplexity|wikitext",
    r"kick_fidelity|kick_mini_fidelity|kick_summarization_fidelity",
)


@dataclass(frozen=True)
class TaskInfo:
    """A task for readers. `primary`: its headline metric; `pair`: the other book's task; "" where none."""

    name: str
    title: str
    primary: str = ""
    pair: str = ""


@cache
def task_info(name: str) -> TaskInfo:
    """What kick's task files say; for a task of another origin its name, spelt out."""
    known = index.own()
    if name not in known:
        return TaskInfo(name, name.replace("_", " "))
    options = (known[name][1].get("metadata") or {}).get("kick") or {}
    title = options.get("title") or name.replace("_", " ")
    return TaskInfo(name, title, options.get("primary") or "", options.get("pair") or "")


def place(task: str) -> tuple[int, str]:
    """Where a task stands among others; to sort by."""
    found = next((number for number, start in enumerate(ORDER) if re.match(start, task)), len(ORDER))
    return found, task


def headline(task: str, names: Iterable[str]) -> str:
    """Which of a task's metrics stands for it: its file's, but a judge's grade before a diagnostic."""
    names = list(names)
    primary = task_info(task).primary
    if primary in names:
        return "judge" if "judge" in names and not describe(primary).compared else primary
    compared = [name for name in names if name not in metrics.known or metrics.known[name].compared]
    return next((name for name in HEADLINES if name in names), (compared or names or [""])[0])


def closed_open(tasks: Iterable[str]) -> Mapping[str, str]:
    """Closed-book tasks of these, each with its open-book pair."""
    tasks = list(tasks)
    pairs = {name: task_info(name).pair for name in tasks if "closed" in name}
    return {name: pair for name, pair in pairs.items() if pair in tasks}
