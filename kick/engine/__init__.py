"""The evaluation engine: lm-eval's numbers from a fraction of the forwards.

    engine = Engine(model, tokenizer)
    responses = engine.answer(requests)           # in the order asked

The dense job of a matrix writes a `Reference` (reference.py) and every other job reads it: it gives the
fidelity numbers that need the dense model, and drafts of generated answers. backend.py has the contract and
the table of backends; it can be imported without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kick.engine.engine import Engine
    from kick.engine.reference import Reference

__all__ = ["Engine", "Reference"]


def __getattr__(name: str) -> Any:
    """The two classes, imported when one is asked for: they need torch, and names of backends do not."""
    if name == "Engine":
        from kick.engine.engine import Engine

        return Engine
    if name == "Reference":
        from kick.engine.reference import Reference

        return Reference
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
