"""The judge's pass over stored results: answers are read, judged, and stored again with more columns.

A judge needs no model, only answers, and answers are dear: so it never runs beside a generation, but
afterwards, over whole cells. Each of its verdicts is kept the moment it is there (kick.judge.judge), a cell
is written once all its items have theirs, with its answers and all other scores bit for bit as they were, and
a cell whose columns would not change is not written at all. An outage, a spent budget or Ctrl-C thus costs
nothing but time: the same pass continues, and a finished pass can be repeated for free. A cell is
either judged on all its items, failures counted, or not at all, so that no mean is taken over the items that
a budget happened to reach.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from kick import tasks
from kick.errors import KickError
from kick.judge.columns import Answered, Kind, Slot, agreement, columns, of_judge, questions
from kick.judge.judge import Judge, Verdict
from kick.judge.settings import Settings
from kick.matrix.servers import JudgeKeys
from kick.printable import counted
from kick.records import Result, Sample, TaskSpec
from kick.store import Store
from kick.store.files import open_files
from kick.tasks import evaluate, index
from kick.tasks.protocol import facts_of

FOLDER = ".judge"  # beside the matrices; a name that the store takes for no matrix
KINDS: tuple[Kind, ...] = ("instruction", "summary")


@dataclass(frozen=True)
class Judged:
    """Outcome of a cell. `pending` questions are open still; `note` says why it was left as it was."""

    key: str
    variant: str
    task: str
    items: int
    asked: int = 0
    pending: int = 0
    repaired: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    agreement: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    written: bool = False
    note: str = ""

    def line(self) -> str:
        """The cell in one line."""
        failed = ", ".join(f"{count} {cause}" for cause, count in sorted(self.failures.items()))
        parts = [
            f"{counted(self.items, 'item')}, {counted(self.asked, 'verdict')}",
            f"{sum(self.failures.values())} failed" + (f" ({failed})" if failed else ""),
            f"{self.repaired} repaired" if self.repaired else "",
            f"{self.pending} open: not written yet" if self.pending else "",
            *(_agreed(name, numbers) for name, numbers in self.agreement.items()),
            self.note,
        ]
        return f"{self.variant} {self.task}: {'; '.join(part for part in parts if part)}"


@dataclass(frozen=True)
class JudgePass:
    """Outcome of a pass: its cells, the calls and tokens that it used, replies that were there already.

    stopped: why it ended early; "" if it came to the end.
    """

    cells: tuple[Judged, ...]
    calls: int = 0
    tokens: int = 0
    kept: int = 0
    stopped: str = ""

    @property
    def whole(self) -> bool:
        """Whether every cell has been judged."""
        return all(cell.written or not (cell.asked or cell.pending or cell.note) for cell in self.cells)

    def lines(self) -> list[str]:
        """The pass for people to read: one line per cell, then `str` of it."""
        return [*(cell.line() for cell in self.cells), *str(self).splitlines()]

    def __str__(self) -> str:
        """Calls and tokens that were used, and why the pass ended early."""
        if not self.cells:
            return "no stored cell has answers for a judge: summaries, or answers to open instructions"
        done = sum(cell.written for cell in self.cells)
        used = (
            f"{done} of {counted(len(self.cells), 'cell')} judged; {self.calls} calls, {self.tokens} tokens, "
            f"{self.kept} replies were there already"
        )
        end = f"stopped: {self.stopped}; the same command continues from here"
        return f"{used}\n{end}" if self.stopped else used


def settings(choice: JudgeKeys | Settings, **changes: Any) -> Settings:
    """The settings of a matrix's `judge:`, with changes (calls=..., tokens=...) that are not None."""
    known = {item.name for item in fields(Settings)}
    given = {name: value for name, value in vars(choice).items() if name in known}
    return Settings(**given | {name: value for name, value in changes.items() if value is not None})


def judge_results(
    store: Store,
    choice: JudgeKeys | Settings,
    *,
    data_root: str | None = None,
    task_folders: Sequence[str | Path] = (),
    say: Callable[[str], None] = lambda line: None,
) -> JudgePass:
    """Judge every stored cell whose task has something to judge, and store it with the judge's columns.

    Stops cleanly if the budget is used up or the endpoint is down; the same call then continues. Raises
    KickError if the key is not set or refused, the endpoint has no such model, or data are missing.
    """
    how = settings(choice)
    folders = [Path(folder) for folder in task_folders]
    results = list(store.runs())
    kinds = _kinds({result.cell.task.name for result in results}, folders)
    results = [result for result in results if result.cell.task.name in kinds]
    if not results:
        return JudgePass(())
    known = tasks.load(sorted(kinds), data_root, folders)
    done = []
    with Judge(how, open_files(f"{store.root}/{FOLDER}")) as judge:
        for result in results:
            name = result.cell.task.name
            dense = None if how.mode == "grade" else _dense(result, results)
            cell = _Cell(_home(store, result), result, known[name], kinds[name], dense)
            done.append(_judge_cell(cell, judge))
            say(done[-1].line())
    budget = judge.endpoint.budget
    return JudgePass(tuple(done), budget.used_calls, budget.used_tokens, judge.from_cache, judge.stopped)


def _kinds(names: set[str], folders: Sequence[Path]) -> dict[str, Kind]:
    """Those of the tasks with something to judge; a user's task says so in metadata: kick: {judge: ...}."""
    found: dict[str, Kind] = {}
    for name, (file, config) in index.own(folders).items():
        options = (config.get("metadata") or {}).get("kick") or {}
        kind = options.get("judge") or _implied(options, config.get("process_results"))
        if not kind or name not in names:
            continue
        if kind not in KINDS:
            raise KickError(f"task file {file}: judge: got {kind!r}; expected: one of {', '.join(KINDS)}")
        found[name] = kind
    return found


def _implied(options: Mapping[str, Any], scoring: str | None) -> str:
    facts = facts_of(options)
    if facts is not None:
        return facts.judged
    return "summary" if scoring == "kick.tasks.scoring.summary" else ""


def _home(store: Store, result: Result) -> Store:
    """The store of the result's own matrix, as a key may lie in several; the store itself if it is that."""
    inside = store.matrix is None and store.files.names(f"{result.matrix}/{result.key}")
    return Store(store.root, result.matrix) if inside else store


def _dense(result: Result, results: Sequence[Result]) -> Result | None:
    """The dense model's cell of the same matrix and task; None for that cell, and if there is none."""
    for other in results:
        if other.cell.variant.dense and other.matrix == result.matrix and _asks(other) == _asks(result):
            return None if other.key == result.key else other
    return None


def _asks(result: Result) -> TaskSpec:
    return replace(result.cell.task, scoring="")


@dataclass(frozen=True)
class _Cell:
    """A stored cell that is to be judged, and the dense one it is compared with."""

    store: Store
    result: Result
    task: tasks.Task
    kind: Kind
    dense: Result | None

    def told(self, items: int, **more: Any) -> Judged:
        cell = self.result.cell
        return Judged(self.result.key, cell.variant.name, cell.task.name, items, **more)

    def answered(self, samples: Sequence[Sample]) -> dict[str, Answered]:
        """Documents and answers by item, as stored. Raises KickError if a document is not there."""
        docs = {item.id: item.doc for item in self.task.answered(self.result.cell.task, samples)}
        lost = [sample.item for sample in samples if sample.item not in docs]
        if lost:
            raise KickError(
                f"task {self.task.name} no longer contains the documents behind {len(lost)} stored answers "
                f"of cell {self.result.key}; has the data set changed since the run?"
            )
        compared = {} if self.dense is None else _texts(self.store.samples(self.dense.key))
        mine = _texts(samples)
        return {item: Answered(docs[item], mine[item], compared.get(item)) for item in mine}


def _texts(samples: Sequence[Sample]) -> dict[str, tuple[str, ...]]:
    return {s.item: tuple(r.text for r in s.responses if r.text is not None) for s in samples}


def _judge_cell(cell: _Cell, judge: Judge) -> Judged:
    samples = cell.store.samples(cell.result.key)
    if cell.task.digest != cell.result.cell.task.digest:
        return cell.told(len(samples), note="the task has changed since it was asked: left as it was")
    items = cell.answered(samples)
    asked = {
        (item, slot): question
        for item, answered in items.items()
        for slot, question in questions(cell.kind, answered, judge.settings).items()
    }
    found = dict(zip(asked, judge.verdicts(list(asked.values())), strict=True))
    pending = sum(verdict is None for verdict in found.values())
    verdicts = [verdict for verdict in found.values() if verdict is not None]
    by_item: dict[str, dict[Slot, Verdict]] = {item: {} for item in items}
    for (item, slot), verdict in found.items():
        if verdict is not None:
            by_item[item][slot] = verdict
    told = cell.told(
        len(items),
        asked=len(verdicts),
        pending=pending,
        repaired=sum(verdict.repaired and not verdict.failure for verdict in verdicts),
        failures=dict(sorted(Counter(v.failure for v in verdicts if v.failure).items())),
        agreement=agreement(by_item),
    )
    if cell.dense is None and judge.settings.mode != "grade" and not cell.result.cell.variant.dense:
        told = replace(told, note="no answers of the dense model to compare with")
    if pending or not asked:
        return told
    scores = {item: columns(cell.kind, items[item], judge.settings, slots) for item, slots in by_item.items()}
    return _store(cell, samples, scores, told, _origin(judge, told, verdicts))


def _origin(judge: Judge, told: Judged, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Record of the judge in run.json: who it was, how it was asked, what failed. The same for each pass."""
    how = judge.settings
    return {
        **how.identity(),
        "runs": how.runs,
        "mode": how.mode,
        "answered_as": sorted({verdict.model for verdict in verdicts if verdict.model}),
        "verdicts": told.asked,
        "repaired": told.repaired,
        "failures": dict(told.failures),
        "tokens": sum(verdict.tokens for verdict in verdicts),
        "agreement": dict(told.agreement),
    }


def _store(
    cell: _Cell,
    judged: Sequence[Sample],
    scores: Mapping[str, Mapping[str, float]],
    told: Judged,
    origin: Mapping[str, Any],
) -> Judged:
    """Put the cell as it is stored now with the judge's columns, unless that is how it is stored."""
    store, key = cell.store, cell.result.key
    claim = store.claim(key)
    if claim is None:
        return replace(told, note="another process works on this cell: left as it was")
    try:
        result, before = store.result(key), store.samples(key)
        if _texts(before) != _texts(judged):
            return replace(told, note="its answers changed meanwhile: left as it was")
        after = [replace(s, scores={**dict(_rest(s.scores)), **scores[s.item]}) for s in before]
        only = [replace(sample, scores=scores[sample.item]) for sample in before]
        rest = tuple(score for score in result.scores if not of_judge(score.metric))
        new = replace(
            result,
            scores=(*rest, *evaluate.summarise(cell.task, only)),
            provenance={**result.provenance, "judge": dict(origin)},
        )
        if _print(new, after) != _print(result, before):
            store.put(new, after)
        return replace(told, written=True)
    finally:
        store.release(claim)


def _rest(scores: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    return ((name, value) for name, value in scores.items() if not of_judge(name))


def _print(result: Result, samples: Sequence[Sample]) -> tuple[str, ...]:
    """State of a cell's judgement, to compare with another; NaN equals NaN here."""
    judged = [{name: repr(v) for name, v in sorted(s.scores.items()) if of_judge(name)} for s in samples]
    scores = [score for score in result.scores if of_judge(score.metric)]
    return repr(judged), repr(scores), repr(result.provenance.get("judge"))


def _agreed(name: str, numbers: Mapping[str, float | None]) -> str:
    if not numbers.get("pairs"):
        return f"runs compared by {name}: none whole"
    kappa = "none" if numbers["kappa"] is None else f"{numbers['kappa']:.2f}"
    return f"runs agree on {numbers['equal']:.0%} of {numbers['pairs']} {name}s, kappa {kappa}"
