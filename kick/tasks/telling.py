"""Errors of task files and of what reads them, told as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from kick.errors import KickError


@contextmanager
def told(name: str, file: Path | str) -> Iterator[None]:
    """Within it errors are reported as those of the task file or its data.

    lm-eval, datasets and Jinja read what is in it, each with errors of its own.
    """
    from datasets.exceptions import DatasetsError
    from jinja2 import TemplateError

    plain = (ValueError, TypeError, LookupError, AttributeError, OSError, ImportError, RuntimeError)
    try:
        yield
    except KickError as error:
        raise (
            error if str(error).startswith(f"task {name}") else KickError(f"task {name} ({file}): {error}")
        ) from error
    except (*plain, StopIteration, AssertionError, yaml.YAMLError, TemplateError, DatasetsError) as error:
        said = [str(one) for one in (error, error.__cause__) if one is not None]
        text = " ".join(": ".join(said).split()) or "no message"
        raise KickError(f"task {name} ({file}): {type(error).__name__}: {text}") from error
