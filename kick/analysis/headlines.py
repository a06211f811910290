"""Facts in the task files about a task: title, headline metric, its pair with the book open."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

from kick.records import Result
from kick.stats import metrics
from kick.stats.metrics import describe
from kick.tasks import index
from kick.tasks.task import ABOUT

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


# The families of tasks, which the paper's figures and tables ask for, in the order in which tasks are listed:
# knowledge, reading, writing, those of no family, then the distances.
ORDER = (
    "factoid_qa",
    "mcr_qa",
    "icra_qa_closed",
    "icra_qa_open",
    "conflict_qa",
    "summarization",
    "instruction_following",
    "reasoning",
    "form",
    "code",
    "embeddings",
    "prompts",
    "refusals",
    "",
    "perplexity",
    "fidelity",
)
FOREIGN = {"mcr_qa": "mmlu", "perplexity": "wikitext"}  # of lm-eval's tasks, by the start of their names


@dataclass(frozen=True)
class TaskInfo:
    """A task for readers. `primary`: its headline metric; `pair`: the task that asks the same items otherwise
    (the other book, unguided); `unshown`: why no page shows its answers; "" if none."""

    name: str
    title: str
    family: str = ""
    primary: str = ""
    pair: str = ""
    unshown: str = ""


def info(run: Result) -> TaskInfo:
    """Facts in a result about its task; for what it does not say, the installed task file's word."""
    about = run.about if isinstance(run.about, Mapping) else {}  # of a file that anyone may have written
    said = {key: about[key] for key in ABOUT if isinstance(about.get(key), str) and about[key]}
    return replace(task_info(run.cell.task.name), **said)


@cache
def task_info(name: str) -> TaskInfo:
    """Facts in kick's task files; for a task of another origin its name, spelt out."""
    known = index.own()
    options: Mapping[str, object] = {}
    if name in known:
        options = (known[name][1].get("metadata") or {}).get("kick") or {}
    said = {key: str(options[key]) for key in ABOUT if options.get(key)}
    family = next((family for family, start in FOREIGN.items() if name.startswith(start)), "")
    return TaskInfo(**{"name": name, "title": name.replace("_", " "), "family": family} | said)


def place(run: Result) -> tuple[int, list[str | int]]:
    """Place of a result's task among others, to sort by: 512 before 1,024 tokens."""
    family, parts = info(run).family, re.split(r"(\d+)", run.cell.task.name)
    natural = [int(part) if n % 2 else part for n, part in enumerate(parts)]
    return ORDER.index(family if family in ORDER else ""), natural


def headline(run: Result) -> str:
    """The headline metric of a task: its file's, but a judge's grade before a diagnostic."""
    names = [score.metric for score in run.scores]
    primary = info(run).primary
    if primary in names:
        return "judge" if "judge" in names and not describe(primary).compared else primary
    compared = [name for name in names if name not in metrics.known or metrics.known[name].compared]
    return next((name for name in HEADLINES if name in names), (compared or names or [""])[0])


def closed_open(runs: Iterable[Result]) -> Mapping[str, str]:
    """Closed-book tasks of these results, each with its open-book pair."""
    tasks = {run.cell.task.name: info(run) for run in runs}
    closed = [one for one in tasks.values() if "closed" in (one.family or one.name)]
    return {one.name: one.pair for one in closed if one.pair in tasks}
