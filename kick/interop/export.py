"""Stored cells as lm-eval's own files: results_<time>.json and samples_<task>_<time>.jsonl per variant.

lm-eval itself scores the stored answers and writes them (its `evaluate` and `EvaluationTracker`), with a
model that gives each request the answer that is stored. Prompts are compared with the stored ones by their
hash.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kick import tasks
from kick.errors import KickError
from kick.records import Response, Result, Sample
from kick.tasks.generation import chat_renderer
from kick.tasks.lm_eval_task import FEWSHOT_SEED, HarnessTask, answer_of, item_ids, request_of
from kick.tasks.task import Item

if TYPE_CHECKING:
    from collections.abc import Callable

    from lm_eval.api.instance import Instance

    from kick.store import Store

RESAMPLES = 1000  # of lm-eval's standard error of what is not a mean


@dataclass(frozen=True)
class Exported:
    """The files of one variant, and what was left out of them, a sentence each."""

    variant: str
    folder: Path
    files: tuple[Path, ...]
    left: tuple[str, ...]


@dataclass(frozen=True)
class ExportOptions:
    """Where tasks and their data are, see `kick.tasks.load`."""

    data_root: str | None = None
    task_folders: tuple[str, ...] = ()


def export(store: Store, out: Path, how: ExportOptions = ExportOptions()) -> list[Exported]:
    """Write every variant's cells under `out`, a folder each.

    Raises:
        KickError: no finished cell, a task that asks something else now, prompts that are not those stored.
    """
    runs = list(store.runs())
    if not runs:
        raise KickError(f"{store.root} has no finished cell; `kick run` makes some")
    names = list(dict.fromkeys(run.cell.task.name for run in runs))
    known = tasks.load(names, how.data_root, [Path(folder) for folder in how.task_folders])
    for run in runs:
        if known[run.cell.task.name].digest != run.cell.task.digest:
            raise KickError(
                f"{run.key} {run.cell.variant.name}: the task {run.cell.task.name} asks something else now; "
                "export with the task files and the data of that run"
            )
    groups: dict[tuple[str, str], list[Result]] = {}
    for run in runs:
        groups.setdefault((run.matrix, run.cell.variant.name), []).append(run)
    several = len({matrix for matrix, _ in groups}) > 1
    return [
        _variant(store, found, known, out / matrix if several else out)
        for (matrix, _), found in groups.items()
    ]


def _variant(store: Store, runs: Sequence[Result], known: Mapping[str, tasks.Task], out: Path) -> Exported:
    left: list[str] = []
    parts: list[dict[str, Any]] = []
    taken: list[Result] = []
    for run in runs:
        task = known[run.cell.task.name]
        if type(task) is not HarnessTask or run.cell.imported:
            why = (
                "imported" if run.cell.imported else "asked in a way of kick's own, not in a form of lm-eval"
            )
            left.append(f"{task.name}: {why}")
            continue
        parts.append(_evaluated(task, run, store.samples(run.key), left))
        taken.append(run)
    folder, files = _written(taken[0], _merged(taken, parts), out) if parts else (out, ())
    return Exported(runs[0].cell.variant.name, folder, files, tuple(left))


def _evaluated(task: HarnessTask, run: Result, samples: Sequence[Sample], left: list[str]) -> dict[str, Any]:
    """lm-eval's own results of one cell, samples included."""
    from lm_eval.evaluator import evaluate

    spec = run.cell.task
    known = {sample.item: sample for sample in samples}
    whole = [sample for sample in samples if all(map(_answered, sample.responses))]
    if len(whole) < len(samples):
        left.append(f"{task.name}: {len(samples) - len(whole)} items without a score")
    has = {sample.item for sample in whole}
    ids = item_ids(list(task.task.eval_docs))
    places = [place for place, name in enumerate(ids) if name in has]
    everything = places == list(range(len(places))) and len(places) == (spec.limit or len(ids))
    model = _replay([known[ids[place]] for place in places], run)
    task.task.set_config(key="num_fewshot", value=task.default_shots if spec.shots is None else spec.shots)
    task.task.set_fewshot_seed(seed=FEWSHOT_SEED)
    with _quiet():
        found = evaluate(
            model,
            {"tasks": {task.name: task.task}, "groups": {}},
            limit=spec.limit if everything else None,
            samples=None if everything else {task.name: places},
            bootstrap_iters=RESAMPLES,
            apply_chat_template=spec.chat_template,
            fewshot_as_multiturn=spec.chat_template,
        )
    return _as_written(dict(found), task)


def _as_written(found: dict[str, Any], task: HarnessTask) -> dict[str, Any]:
    """The results with data set and version as the task's file names them, however kick reads its data."""
    if "custom_dataset" in task.written:
        return found
    config = found["configs"][task.name]
    config.pop("custom_dataset", None)
    written = ("dataset_path", "dataset_name", "dataset_kwargs")
    config |= {name: task.written[name] for name in written if name in task.written}
    config["metadata"] = {**(task.written.get("metadata") or {}), **(config.get("metadata") or {})}
    found["versions"][task.name] = config["metadata"].get("version", found["versions"].get(task.name))
    return found


def _answered(response: Response) -> bool:
    numbers = (response.logprob,) if response.text is None else ()
    return not any(number is None or math.isnan(number) for number in numbers)


@contextlib.contextmanager
def _quiet() -> Any:
    """lm-eval's progress bars and warnings stay out of the way; its bootstrap stays in this process."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
            _alone(),
        ):
            yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _alone() -> Any:
    import os

    name = "DISABLE_MULTIPROC"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _replay(samples: Sequence[Sample], run: Result) -> Any:
    """A model of lm-eval that answers with what is stored; `samples` in the order of the documents."""
    from lm_eval.api.model import LM

    class Replay(LM):
        """Stored answers."""

        def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Any]:
            return _answers(samples, requests, run)

        loglikelihood_rolling = generate_until = loglikelihood

        @property
        def tokenizer_name(self) -> str:
            return run.cell.variant.model.name

        def apply_chat_template(
            self, history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            return _renderer(run)(history, add_generation_prompt)

    return Replay()


def _renderer(run: Result) -> Callable[..., str]:
    from kick.model import source

    spec = run.cell.task
    tokenizer = source.tokenizer_of(run.cell.variant.model)
    return chat_renderer(tokenizer, f"task {spec.name}: ", json.loads(spec.template or "{}"))


def _answers(samples: Sequence[Sample], requests: Sequence[Instance], run: Result) -> list[Any]:
    """The stored answer to each request. Raises KickError if it was asked with another prompt."""
    groups: dict[int, list[Instance]] = {}
    for request in requests:
        groups.setdefault(request.doc_id, []).append(request)
    waiting: dict[int, Iterable[Any]] = {}
    for place, group in groups.items():
        sample, repeats = samples[place], []
        seen: dict[int, int] = {}
        for instance in group:  # an instance comes once per repeat
            seen[id(instance)] = seen.get(id(instance), -1) + 1
            repeats.append(request_of(instance, seen[id(instance)]))
        if Item(sample.item, tuple(repeats)).prompt != sample.prompt:
            raise KickError(
                f"{run.key} {run.cell.variant.name}, {run.cell.task.name}: its prompts cannot be made again: "
                f"that of item {sample.item} is another one now"
            )
        waiting[place] = iter([answer_of(response) for response in sample.responses])
    return [next(waiting[request.doc_id]) for request in requests]  # type: ignore[call-overload]


# ------------------------------------------------------------------------------------ the files


def _merged(runs: Sequence[Result], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One results record of the cells that these parts are of, with what lm-eval's `simple_evaluate` adds."""
    whole: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            whole.setdefault(name, {}).update(value)
    first = runs[0]
    variant, origin = first.cell.variant, first.provenance
    limits = {run.cell.task.limit for run in runs}
    versions = origin.get("versions") or {}
    whole["config"] = {
        "model": "kick",
        "model_args": {
            "pretrained": variant.model.name,
            "dtype": variant.model.dtype,
            "variant": variant.name,
            "recipe": [{"method": step.method, **step.options} for step in variant.recipe],
            **({"runtime": {"method": run.method, **run.options}} if (run := variant.runtime) else {}),
        },
        "model_dtype": variant.model.dtype,
        "model_revision": variant.model.revision or "",
        "model_sha": variant.model.digest,
        "batch_size": None,
        "batch_sizes": [],
        "device": None,
        "use_cache": None,
        "limit": limits.pop() if len(limits) == 1 else None,
        "bootstrap_iters": RESAMPLES,
        "gen_kwargs": None,
        "random_seed": 0,
        "numpy_seed": FEWSHOT_SEED,
        "torch_seed": FEWSHOT_SEED,
        "fewshot_seed": FEWSHOT_SEED,
    }
    whole["git_hash"] = origin.get("commit")
    whole["date"] = _seconds(str(origin.get("time", "")))
    whole["pretty_env_info"] = json.dumps(origin.get("machine") or {})
    whole["transformers_version"] = versions.get("transformers", "")
    whole["lm_eval_version"] = version("lm-eval")
    whole["upper_git_hash"] = None
    whole["kick"] = {run.cell.task.name: run.key for run in runs}
    return whole


def _seconds(time: str) -> float | None:
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return None


def _written(run: Result, whole: dict[str, Any], out: Path) -> tuple[Path, tuple[Path, ...]]:
    """Have lm-eval write its files. Raises KickError if it did not."""
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.utils import sanitize_model_name

    samples = whole.pop("samples")
    count = {task: len(found) for task, found in samples.items()}
    tracker = EvaluationTracker(output_path=str(out))
    about = tracker.general_config_tracker
    about.model_source, about.fewshot_as_multiturn = "kick", run.cell.task.chat_template
    about.model_name = f"{run.cell.variant.model.title}/{run.cell.variant.name}"
    about.model_name_sanitized = sanitize_model_name(about.model_name)
    with _quiet():
        tracker.save_results_aggregated(whole, samples)
        for task, found in samples.items():
            tracker.save_results_samples(task, found)
    folder = out / about.model_name_sanitized
    files = [folder / f"results_{tracker.date_id}.json"] if hasattr(tracker, "date_id") else []
    files += [folder / f"samples_{task}_{tracker.date_id}.jsonl" for task in count if files]
    if not files or not all(file.is_file() for file in files):  # lm-eval only logs what goes wrong
        raise KickError(f"{folder}: lm-eval could not write its files there; is the folder writable?")
    return folder, tuple(files)
