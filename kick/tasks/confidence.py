"""How sure a model is of the choice that it prefers, from the log-likelihoods that were asked for anyway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.task import ConfigurableTask


def scores(task: ConfigurableTask, doc: Any, logs: Sequence[float]) -> dict[str, float]:
    """confidence: the largest of the choices' probabilities, which are the softmax of their log-likelihoods;
    brier: the sum over choices of (probability - 1 if right)^2, 0 to 2 (Brier 1950).

    `logs`: nats, the choices' own first. Nothing for a task that does not name one right choice by its place.
    """
    if task.OUTPUT_TYPE != "multiple_choice" or task.multiple_input:
        return {}
    gold, count = task.doc_to_target(doc), len(task.doc_to_choice(doc))
    if not isinstance(gold, int) or not 0 <= gold < count <= len(logs):
        return {}
    own = np.asarray(logs[:count], dtype=float)
    shares = np.exp(own - own.max())
    shares /= shares.sum()
    right = np.arange(count) == gold
    return {"confidence": float(shares.max()), "brier": float(np.square(shares - right).sum())}
