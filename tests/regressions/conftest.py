"""Each file here is named after a kind of fault: an answer or a score that was wrong without a word."""

from __future__ import annotations

from tests.engine.conftest import _one_thread, models, tokenizer  # noqa: F401  (fixtures)
