"""The evaluation engine: lm-eval's numbers from a fraction of the forwards.

    engine = Engine(model, tokenizer)
    responses = engine.answer(requests)           # in the order asked

The dense job of a matrix writes a `Reference` (reference.py) and every other job reads it: it gives the
fidelity numbers that need the dense model, and drafts of generated answers.
"""

from __future__ import annotations

from kick.engine.engine import Engine
from kick.engine.reference import Reference

__all__ = ["Engine", "Reference"]
