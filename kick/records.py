"""The nouns of kick: frozen records that every other module passes on. Standard library only.

Matrix --plan--> Cells (a Variant on a TaskSpec) --> Jobs (a Variant with all its Cells)
Request --Engine--> Response --score--> Sample --summarise--> Score --> Result (run.json)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import Any, Literal

from kick.meaning.values import canonical as canonical
from kick.meaning.values import jsonable as jsonable
from kick.meaning.values import key as key

# 2: code counts by its meaning (kick.meaning), not by its text; and answers that were wrong under version 1
# are others now: joined continuations, generation configurations, padding that is seen (docs/decisions.md).
KEY_VERSION = 2
THINKING = "</think>"  # the mark of most models that think before they answer


# ------------------------------------------------------------------------------ what is measured


@dataclass(frozen=True)
class Step:
    """One compression step: a registered method with all its options, defaults written out (JSON values).

    `digest` is of what the method's code means; "" in results of key version 1.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    digest: str = ""


@dataclass(frozen=True)
class ModelSpec:
    """A causal language model: where it is, and which bytes it is made of.

    `digest` is the sha256 of the weights, `tokenizer` that of the tokenizer's files. Where those are another
    model's, `tokenizer_from` and `tokenizer_revision` name it.
    """

    name: str
    revision: str | None = None
    dtype: str = "float32"
    digest: str = ""
    tokenizer: str = ""
    tokenizer_from: str = ""
    tokenizer_revision: str | None = None

    @property
    def title(self) -> str:
        """The name for people: the last part of a path, an alias or hub id as it is."""
        written_as_path = self.name.startswith((".", "~")) or self.name.endswith(".gguf")
        path = PurePath(self.name)
        return path.name if (path.is_absolute() or written_as_path) and path.name else self.name


@dataclass(frozen=True)
class ModelFacts:
    """Facts in a model's files beside its weights.

    template: the chat template, "" for none; refused: what it says to a plain question, "" if it takes
    one; generation: the settings of its generation configuration that change logits, searches: those that no
    backend obeys.
    """

    template: str = ""
    refused: str = ""
    generation: Mapping[str, Any] = field(default_factory=dict)
    searches: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reasoning_end(self) -> str:
        """The mark at which thinking ends, "" if the chat template knows none."""
        return THINKING if THINKING in self.template else ""


SCORES = ("perplexity", "el2n", "memorization", "length")  # that text is ranked by
PARTS = ("low", "middle", "high")  # of a ranking
RANDOM, POOL = "random", 2  # no ranking; windows that are ranked for each that is kept


@dataclass(frozen=True)
class CalibrationSpec:
    """Token sequences that a method sees; the same ones for every method of a matrix.

    `propagate`: "compressed" feeds each block what the compressed blocks before it give (the papers' way);
    "dense" feeds it the dense model's activations, an approximation that one pass serves for all levels.
    `order`: 0 is the order that the seed gives, n the n-th other order of the same sequences. `select`: how
    they are chosen by what a model scores them (`kick.compress.calibrate.ranking.Selection`), "" at random.
    """

    corpus: str
    sequences: int = 16
    length: int = 256
    seed: int = 0
    propagate: Literal["compressed", "dense"] = "compressed"
    digest: str = ""
    order: int = 0
    select: str = ""

    def identity(self) -> dict[str, Any]:
        """What tells calibrations apart, as JSON values; what came later only where it says something."""
        later = {"order", "select"}
        return {name: value for name, value in asdict(self).items() if value or name not in later}


@dataclass(frozen=True)
class Variant:
    """A model with a recipe; the empty recipe is the dense model.

    `name` is unique in a matrix. `label` is what the matrix file calls the variant, "" if it does not.
    Neither is part of a key. `replica`: dense under another batch size or dtype, or a recipe again with its
    calibration sequences in another order. `endpoint`: how the server that answers for the model is reached,
    as JSON text (`kick.matrix.served`), no part of a key either: `model` and the cell's engine name it.
    `runtime`: how it is run if not plainly (`kick.runtime`); a key has it only if there is one.
    """

    name: str
    model: ModelSpec
    recipe: tuple[Step, ...] = ()
    calibration: CalibrationSpec | None = None
    replica: Literal["batch", "dtype", "order"] | None = None
    checkpoint: bool = False  # compressed by someone else: `model` is their checkpoint
    label: str = ""
    endpoint: str = ""
    runtime: Step | None = None

    @property
    def dense(self) -> bool:
        return not self.recipe and self.replica is None and not self.checkpoint and self.runtime is None

    @property
    def reordered(self) -> bool:
        """Whether it is another variant again, with its calibration sequences in another order."""
        return self.replica == "order"


@dataclass(frozen=True)
class TaskSpec:
    """A task as it is asked and scored.

    `digest` covers what is asked (YAML, included files, the meaning of `!function`s, data), `scoring` how
    answers are scored: if only the latter changed, stored answers are scored again without a model.
    `limit` counts items (windows for perplexity), None for all; `shots` None leaves the task's own number.
    `template` holds the chat template's own arguments and `generation` what is obeyed of the model's
    generation configuration, both as JSON text, "" for none; what is generated up to `reasoning_end` is not
    scored. `stop` is the rule (`kick.stats.sequential.Rule.text`) by which the cell ends before all items are
    asked, "" if it asks them all.
    """

    name: str
    digest: str = ""
    scoring: str = ""
    shots: int | None = None
    limit: int | None = None
    chat_template: bool = False
    template: str = ""
    generation: str = ""
    reasoning_end: str = ""
    stop: str = ""


@dataclass(frozen=True)
class Cell:
    """A variant on a task. `reference` is the dense cell's key if the task compares with dense answers.

    `engine`: name and version of the backend that answers, if its scores are not shown to be those of all
    others; "" for one of which that is shown. `imported`: sha256 of the file of another program's answers.
    """

    variant: Variant
    task: TaskSpec
    reference: str | None = None
    engine: str = ""
    imported: str = ""

    @cached_property
    def key(self) -> str:
        """16 hex digits that change with everything that changes the numbers, and with nothing else."""
        return key(self.identity())

    def identity(self) -> dict[str, Any]:
        """Everything that is part of the key, as JSON values.

        No label, device, batch size or executor, and no backend that is shown to give equal scores.
        """
        variant = asdict(self.variant)
        if self.variant.calibration:
            variant["calibration"] = self.variant.calibration.identity()
        del variant["name"], variant["label"], variant["endpoint"]
        if self.variant.runtime is None:
            del variant["runtime"]
        del variant["model"]["tokenizer_from"], variant["model"]["tokenizer_revision"]  # `tokenizer` tells
        if variant["model"]["digest"]:
            del variant["model"]["name"], variant["model"]["revision"]
        task = asdict(self.task)
        for name in ("template", "generation", "reasoning_end", "stop"):  # came later: "" is as if absent
            if not task[name]:
                del task[name]
        whole = {"version": KEY_VERSION, "variant": variant, "task": task, "reference": self.reference}
        told = {"engine": self.engine, "imported": self.imported}
        return whole | {name: text for name, text in told.items() if text}


@dataclass(frozen=True)
class Job:
    """A variant with its pending cells: compressed once, measured on all. `cost` in seconds, an estimate.
    A group has cells of several variants that go through the model together; `variant` is the first."""

    variant: Variant
    cells: tuple[Cell, ...]
    cost: float = 0.0

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The variants of its cells, each once."""
        return tuple({cell.variant.name: cell.variant for cell in self.cells}.values()) or (self.variant,)


# ------------------------------------------------------------------------------ what is asked and answered


@dataclass(frozen=True)
class Request:
    """One question to a model, of one of six kinds.

    loglikelihood   log p(continuation | context)                                  lm-eval's own, text in
    rolling         log p(context), in windows of the model's length, as lm-eval   lm-eval's own, text in
    generate        text after context, until a stop string or max_tokens          lm-eval's own, text in
    tokens          log p of tokens[1:] given the ones before, one window          token ids in
    fidelity        teacher-forced over `tokens`, the dense model's continuation of `context`
    similarity      cosines of `context` with each of `others`, as `pooled` says       texts in;
                    with `top` only of so many that are nearest
    """

    kind: Literal["loglikelihood", "rolling", "generate", "tokens", "fidelity", "similarity"]
    context: str = ""
    continuation: str = ""
    tokens: tuple[int, ...] = ()
    until: tuple[str, ...] = ()
    max_tokens: int = 0
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0
    seed: int = 0  # of this item, when sampling
    configured: bool = False  # under what the model's generation configuration says of logits
    reasoning_end: str = ""  # the mark at which thinking ends, for models that think first
    guide: str = ""  # "python": of the likeliest tokens the first after which the text can become a program
    others: tuple[str, ...] = ()
    pooled: tuple[str, ...] = ()  # "mean-50": the mean of the states after half of the blocks
    top: int = 0  # of `others` so many are answered that are nearest; 0: all


@dataclass(frozen=True)
class Response:
    """The answer to one Request; fields that its kind does not have stay None.

    loglikelihood: logprob (nats), greedy; rolling, tokens: logprob, count (scored tokens);
    generate: text, tokens (generated ids, stop included), count, reasoning (what came before the mark that
    ends it, None without one), if guided values, replaced, strayed; fidelity: values, fdt, sdt, agreement,
    kl_mean, kl_median, kl_p99, kl_max, dppl, margin, length; similarity: values, "mean-50 7" is other 7's.
    `truncated` counts the context tokens that were cut, on the left (of similarity's texts, on the right).
    """

    logprob: float | None = None
    greedy: bool | None = None
    text: str | None = None
    tokens: tuple[int, ...] | None = None
    count: int | None = None
    values: Mapping[str, float] | None = None
    truncated: int = 0
    reasoning: str | None = None


# ------------------------------------------------------------------------------ what comes out


@dataclass(frozen=True)
class Sample:
    """One item's answer and scores. `item` is the hash of the document: it pairs items between variants.

    A score that could not be computed is NaN, never 0. `preview` is the end of the prompt, for people.
    """

    item: str
    prompt: str  # hash of the prompts
    preview: str
    target: str
    responses: tuple[Response, ...]
    scores: Mapping[str, float]
    group: str = ""  # the subject, category or kind that the item belongs to


@dataclass(frozen=True)
class Score:
    """One metric over the items of a cell, with its 95 % interval; None if it could not be computed.

    `units`: how many of the n items are independent (documents of windows); None: all of them.
    """

    metric: str
    value: float | None
    n: int
    stderr: float | None
    low: float | None
    high: float | None
    higher_is_better: bool = True
    missing: int = 0
    units: int | None = None

    def __post_init__(self) -> None:
        for name in ("value", "stderr", "low", "high"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                object.__setattr__(self, name, None)


@dataclass(frozen=True)
class Result:
    """The content of run.json: what was measured, what came out, and how to do it again.

    counts: items, requests, truncated, ...; seconds: load, compress, answer, score; compression: the
    achieved sparsity, footprint and notes; provenance: versions, git commit, machine, command, time;
    samples: file, sha256, rows; about: what the task's file says for readers, as its title and family. No
    part of these facts is in the key. warnings: signs that the scores may tell nothing of the model.
    margin: the share of dense's score within which the matrix calls a variant matching; it decides nothing of
    the scores, only how they are read. stopping: how a cell that did not ask all of its items ended
    (`kick.stats.sequential.Decision.record`); empty for one that did.
    """

    key: str
    matrix: str
    cell: Cell
    scores: tuple[Score, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory: int = 0  # bytes
    compression: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    samples: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    key_version: int = KEY_VERSION
    warnings: tuple[str, ...] = ()
    margin: float = 0.05
    stopping: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values; `from_json` gives the equal record back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        """The record of a run.json; keys that this version does not know are left out."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        known["cell"] = cell_from_json(data["cell"])
        known["scores"] = tuple(Score(**score) for score in data["scores"])
        known["warnings"] = tuple(data.get("warnings", ()))
        return cls(**known)


def variant_from_json(data: Mapping[str, Any]) -> Variant:
    """The Variant that `dataclasses.asdict` was taken of."""
    calibration = data.get("calibration")
    return Variant(
        name=data["name"],
        model=ModelSpec(**data["model"]),
        recipe=tuple(Step(**step) for step in data["recipe"]),
        calibration=CalibrationSpec(**calibration) if calibration else None,
        replica=data.get("replica"),
        checkpoint=data.get("checkpoint", False),
        label=data.get("label", ""),
        endpoint=data.get("endpoint", ""),
        runtime=Step(**data["runtime"]) if data.get("runtime") else None,
    )


def cell_from_json(data: Mapping[str, Any]) -> Cell:
    """The Cell that `dataclasses.asdict` was taken of."""
    return Cell(
        variant_from_json(data["variant"]),
        TaskSpec(**data["task"]),
        data.get("reference"),
        data.get("engine", ""),
        data.get("imported", ""),
    )
