"""IFEval: instructions that code can check, by lm-eval's own checker.

Jeffrey Zhou and others: Instruction-Following Evaluation for Large Language Models. 2023, arXiv 2311.07911.
The checker needs packages, and data of NLTK that it would download while it is imported; they are looked for
first, and what is missing is told in a line. It tells languages by langdetect, whose draws are seeded here,
so that the same answer has the same score.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from kick.errors import KickError
from kick.records import TaskSpec
from kick.tasks.lm_eval_task import HarnessTask
from kick.tasks.protocol import protocol
from kick.tasks.text import words

VERSION = 1
PACKAGES = ("langdetect", "immutabledict", "nltk")
DATA = "tokenizers/punkt_tab"


@protocol("ifeval", title="instructions checked by lm-eval's code", tokens=4000)
class Ifeval(HarnessTask):
    """A task whose documents have IFEval's key, prompt, instruction_id_list and kwargs."""

    def check(self, spec: TaskSpec) -> None:
        """Raises KickError if the checker's packages or data are not on this machine."""
        super().check(spec)
        try:
            check_needs()
        except KickError as error:
            raise KickError(f"task {self.name}: {error}") from error


def check_needs() -> None:
    """Raises KickError if a package or the tokenizer's data that lm-eval's checker needs is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise KickError(
            f"lm-eval's checker needs {', '.join(missing)}, not installed; pip install 'lm-eval[ifeval]'"
        )
    import nltk

    try:
        nltk.data.find(DATA)
    except LookupError as error:
        raise KickError(
            f"lm-eval's checker needs NLTK's data {DATA}, which are not on this machine; "
            "python -m nltk.downloader punkt_tab, or name a folder that has them in NLTK_DATA"
        ) from error


def followed(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """strict, loose: all instructions are followed, loosely also without the first or last line or asterisks;
    strict_share, loose_share: the share of the instructions that are; empty.

    Raises KickError if the checker's packages or data are missing.
    """
    check_needs()
    import langdetect
    from lm_eval.tasks.ifeval import utils

    langdetect.DetectorFactory.seed = 0
    found = utils.process_results(doc, [results[0]])
    shares = {name: found[f"inst_level_{name}_acc"] for name in ("strict", "loose")}
    return {
        **{name: float(found[f"prompt_level_{name}_acc"]) for name in shares},
        **{f"{name}_share": sum(own) / len(own) for name, own in shares.items()},
        "empty": float(not words(results[0])),
    }
