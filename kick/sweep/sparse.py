"""The engine of a variant with a run-time method, and what its record says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kick.engine.backend import Backend
from kick.engine.sparse import SparseEngine
from kick.records import Step
from kick.runtime.method import build

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def engine(
    step: Step, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **options: Any
) -> Backend:
    """The engine that runs the model with the step's method."""
    return SparseEngine(build(step), network, tokenizer, **options)


def counted(engine: Backend, report: Mapping[str, Any]) -> Mapping[str, Any]:
    """The report on a variant's compression, with what its run-time method read since the last cell."""
    return {**report, "run_time": engine.counted()} if isinstance(engine, SparseEngine) else report
