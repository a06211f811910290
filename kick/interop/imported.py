"""Another program's answers as cells: paired with our documents, scored as ours are.

Nothing is written before every file is read and paired. An imported cell has the file's digest and the
program in its key; beside a dense cell that another engine answered it has no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kick import tasks
from kick.analysis.headlines import headline
from kick.errors import KickError
from kick.interop import inspect_logs, lm_eval_files
from kick.interop.answers import AnswerFile, TheirAnswer, asked, differing, paired, responses
from kick.printable import plain
from kick.provenance import provenance
from kick.records import Cell, Result, Sample, TaskSpec, Variant
from kick.stats.paired import MARGIN
from kick.store import Store, one_matrix
from kick.tasks import evaluate
from kick.tasks.lm_eval_task import HarnessTask
from kick.tasks.task import Item

DENSE = "dense"


@dataclass(frozen=True)
class ImportOptions:
    """How files are taken.

    variant: the name of what they become; "dense" for the model that others are compared with. task: in place
    of the name in the file. scorer: which of an Inspect log's scores counts.
    """

    variant: str
    task: str | None = None
    scorer: str | None = None
    data_root: str | None = None
    task_folders: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Imported:
    """A cell that was made: its result and items, and the warnings that it carries."""

    result: Result
    samples: tuple[Sample, ...]
    path: str

    def row(self) -> list[str]:
        """For a table under `HEADS`."""
        said = self.result.warnings or ("",)
        task = self.result.cell.task.name
        return [self.result.key, task, str(len(self.samples)), self.path, "; ".join(said)]


HEADS = ["cell", "task", "items", "file", "note"]


def import_files(files: Sequence[str], folder: str, how: ImportOptions) -> list[Imported]:
    """Store the answers of these files as cells of one variant in a folder of results.

    Raises:
        KickError: a file that is not read, whose documents are not those of our task, a variant that is
            there already, answers that are there as another variant, two files of one task. Nothing is
            written then.
    """
    if not how.variant.strip() or plain(how.variant) != how.variant:
        raise KickError(f"--variant: got {how.variant!r}; expected a name that can be printed")
    read = [_read(Path(name), how) for name in files]
    store, matrix, runs = _opened(folder)
    _check_names(read, runs, how)
    known = tasks.load(
        list(dict.fromkeys(file.task for file in read)),
        how.data_root,
        [Path(one) for one in how.task_folders],
    )
    made = [_cell(file, known[file.task], matrix, runs, how) for file in read]
    _check_keys(made, runs)
    return [replace(one, result=store.put(one.result, one.samples)) for one in made]


def _read(path: Path, how: ImportOptions) -> AnswerFile:
    if not path.is_file():
        raise KickError(f"no such file: {path}; expected lm-eval's samples_*.jsonl or a JSON log of Inspect")
    if path.suffix in (".json", ".eval"):
        file = inspect_logs.read(path, how.scorer)
    elif how.scorer is not None:
        raise KickError(
            f"--scorer: got {how.scorer!r}; it chooses a score of Inspect's logs, and {path} is not one"
        )
    else:
        file = lm_eval_files.read(path)
    return replace(file, task=how.task) if how.task else file


def _opened(folder: str) -> tuple[Store, str, list[Result]]:
    """The store, the matrix that its cells are of, and these."""
    path = Path(folder)
    if not ("://" in folder or path.is_dir()) or next(Store(folder).runs(), None) is None:
        return Store(path.parent, path.name), path.name, []
    store, matrix = one_matrix(folder)
    return store, matrix, list(store.runs())


def _check_names(read: Sequence[AnswerFile], runs: Sequence[Result], how: ImportOptions) -> None:
    named = [file.task for file in read]
    twice = next((task for task in named if named.count(task) > 1), None)
    if twice:
        paths = ", ".join(file.path for file in read if file.task == twice)
        raise KickError(f"two files of the task {twice}: {paths}; name one")
    for run in runs:
        same = run.cell.variant.name == how.variant and run.cell.task.name in named
        if same and not run.cell.imported:
            raise KickError(
                f"--variant: {how.variant!r} was measured on {run.cell.task.name} here; choose another name"
            )


def _check_keys(made: Sequence[Imported], runs: Sequence[Result]) -> None:
    """Raise KickError for answers that are here under another name, which is not in a cell's key."""
    names = {run.key: run.cell.variant.name for run in runs}
    for one in made:
        name, new = names.get(one.result.key), one.result.cell.variant.name
        if name not in (None, new):
            raise KickError(f"--variant: got {new!r}; the answers of {one.path} are here as {name!r} already")


def _cell(
    file: AnswerFile, task: tasks.Task, matrix: str, runs: Sequence[Result], how: ImportOptions
) -> Imported:
    if type(task) is not HarnessTask:
        raise KickError(f"{file.path}: {file.task} asks in a way of kick's own; only lm-eval's forms import")
    dense = _dense(runs, task)
    spec = dense.cell.task if dense else _spec(file, task)
    items = task.answered(spec, ())
    answers = paired(file, items, whole=spec.limit is None)
    found, samples = _scored(file, task, items, answers)
    variant = Variant(
        how.variant,
        file.model,
        checkpoint=how.variant != DENSE,
        label="" if how.variant == DENSE else f"{how.variant} (imported)",
    )
    cell = Cell(variant, spec, engine=file.engine, imported=file.digest)
    origin = {"tool": file.tool, "file": Path(file.path).name, "model": file.model.name, "made": file.time}
    result = Result(
        key=cell.key,
        matrix=matrix,
        cell=cell,
        scores=found.scores,
        counts=found.counts,
        about=task.about,
        margin=dense.margin if dense else MARGIN,
        provenance={**provenance(list(how.command)), "imported": origin},
    )
    said = (*file.notes, *found.warnings, *_doubts(file, items, answers, samples, headline(result)))
    return Imported(replace(result, warnings=said), samples, file.path)


def _dense(runs: Sequence[Result], task: tasks.Task) -> Result | None:
    """The newest dense cell of the task; None without one. Raises KickError if it was asked otherwise."""
    found = [run for run in runs if run.cell.variant.dense and run.cell.task.name == task.name]
    found.sort(key=lambda run: str(run.provenance.get("time", "")))
    if not found:
        return None
    dense = found[-1]
    if dense.cell.task.digest != task.digest:
        raise KickError(
            f"task {task.name} asks something else now than when the dense cell {dense.key} was measured; "
            "import with the task files and the data of that run"
        )
    return dense


def _spec(file: AnswerFile, task: tasks.Task) -> TaskSpec:
    """How the task was asked, by the file alone: there is no dense cell."""
    shots = None if file.shots in (None, task.default_shots) else file.shots
    limit = len(file.answers) if task.size is not None and len(file.answers) < task.size else None
    return TaskSpec(task.name, task.digest, task.scoring, shots, limit)


def _scored(
    file: AnswerFile, task: HarnessTask, items: Sequence[Item], answers: Sequence[TheirAnswer]
) -> tuple[evaluate.Evaluation, tuple[Sample, ...]]:
    """The items with their answers and scores; an item without an answer is missing in every metric."""
    theirs = [asked(item, answer) for item, answer in zip(items, answers, strict=True)]
    if _graded_there(file, items):  # letters were generated: no log-probability of a choice is known
        samples = tuple(map(lambda item, answer: _graded(file, item, answer), theirs, answers))
        return _summary(task, samples, ()), samples
    places = [place for place, answer in enumerate(answers) if answer.replies]
    if not places:
        raise KickError(f"{file.path}: every question ended in an error; there is no answer to score")
    given = [responses(file, items[place], answers[place]) for place in places]
    there = evaluate.score(task, [theirs[place] for place in places], given)
    nothing = dict.fromkeys(there[0].scores, math.nan)
    scored = dict(zip(places, there, strict=True))
    whole = tuple(scored.get(place, item.sample((), nothing)) for place, item in enumerate(theirs))
    summary = evaluate.summarised(task, [theirs[place] for place in places], there)
    return _summary(task, whole, summary.warnings), whole


def _graded_there(file: AnswerFile, items: Sequence[Item]) -> bool:
    """Whether the file's grades count, because its answers are not of the form that our task scores."""
    return bool(file.scored) and any(one.kind != "generate" for item in items for one in item.requests)


def _summary(
    task: HarnessTask, samples: tuple[Sample, ...], warnings: tuple[str, ...]
) -> evaluate.Evaluation:
    """The evaluation of samples of which some have no answer."""
    return evaluate.Evaluation(samples, evaluate.summarise(task, samples), evaluate.counts(samples), warnings)


def _graded(file: AnswerFile, item: Item, answer: TheirAnswer) -> Sample:
    """A multiple-choice item with the grade that the file gives."""
    if answer.target and " ".join(item.target.split()) != " ".join(answer.target.split()):
        raise KickError(
            f"{file.path}: the right answer to {answer.document[:80]!r} is {answer.target!r} there and "
            f"{item.target!r} in {file.task}"
        )
    value = (answer.scores or {}).get(file.scored, math.nan)
    return item.sample((), {"acc": value if answer.replies else math.nan})


def _doubts(
    file: AnswerFile,
    items: Sequence[Item],
    answers: Sequence[TheirAnswer],
    samples: Sequence[Sample],
    primary: str,
) -> list[str]:
    """What a reader must know of a file's prompts and scores; `primary`: our headline metric."""
    said = []
    graded = _graded_there(file, items)
    if graded:
        said.append(f"graded by Inspect's scorer {file.scored}, not by log-likelihood")
    others = sum(
        bool(answer.arguments) and asked(item, answer).prompt != item.prompt
        for item, answer in zip(items, answers, strict=True)
    )
    if others:
        said.append(f"{others} of {len(items)} prompts are not those of the task as it is asked here")
    scores: list[Any] = [sample.scores for sample in samples]
    if not file.scored:
        for name, number in differing(scores, answers).items():
            said.append(f"{number} items have another {name} in the file than their answers have here")
    elif not graded and all(_right_or_wrong(one.get(primary)) for one in scores):
        theirs = [_as(answer, file.scored, primary) for answer in answers]
        for number in differing(scores, theirs).values():
            said.append(f"{number} items have another {file.scored} in the file than {primary} here")
    return said


def _right_or_wrong(score: float | None) -> bool:
    return score is not None and (score in (0, 1) or math.isnan(score))


def _as(answer: TheirAnswer, name: str, ours: str) -> TheirAnswer:
    """The answer with the score of this name alone, by our name."""
    scores = answer.scores or {}
    return replace(answer, scores={ours: scores[name]} if name in scores else {})
