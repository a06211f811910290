"""The backend without tricks: every request by whole forwards and transformers' own `generate`.

It is what the packed backend is tested against, and a check of it on a model of one's own.
"""

from __future__ import annotations

from kick.engine.backend import backend
from kick.engine.engine import Engine
from kick.engine.reader import Reader


@backend("plain", title="whole forwards and transformers' own generate, as a check", equal=True)
class Plain(Engine):
    """Answers requests as `Engine` does, with nothing packed."""

    reads = Reader
