"""How requests are answered: the contract of a backend, and the table of backends. No torch is imported.

    @backend("packed", title="...", also=("transformers",))
    class Engine: ...

A backend is a class in one file of this room. `engine: {name: packed}` in a matrix picks it by name, and the
names are read off the decorators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kick.engine.vllm.where import installed
from kick.records import Request, Response
from kick.registry import FileRegistry, UnknownName, unknown

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kick.engine.reference import Reference

DEFAULT = "packed"
LAYERED = "layered"  # the one for models larger than memory
VLLM = "vllm"
AUTO = "auto"  # the default's name in a matrix: DEFAULT where the model fits, else LAYERED


class Backend(Protocol):
    """Answers requests with one model.

    Args of the class, by keyword but for the first two:
        model: a causal language model of transformers, in eval mode, on its device; compressed already. A
            backend of another runtime makes its own of it.
        tokenizer: its tokenizer.
        batch_tokens: tokens computed at once; None leaves it to the backend.
        reference: the dense model's answers, to be written (dense job) or read.
        token_cache: a folder for the token ids of every text, shared by the jobs of a matrix.
        window: the model's window in tokens; None reads it from the configuration as lm-eval does.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int | None = None,
        reference: Reference | None = None,
        token_cache: Path | str | None = None,
        window: int | None = None,
    ) -> None: ...

    def answer(
        self, requests: Sequence[Request], on_done: Callable[[int, Response], None] | None = None
    ) -> list[Response]:
        """The response to each request, in the order asked; `on_done(index, response)` as each is finished.

        Raises KickError for a request that the model's window cannot hold, or of a kind it cannot answer.
        """

    def notes(self) -> dict[str, Any]:
        """How requests are answered, as JSON values for run.json; `batch_tokens` is one of them."""


@dataclass(frozen=True)
class BackendFacts:
    """What `@backend(...)` says of a backend.

    title: in words. also: earlier names of it. equal: whether tests show that its scores are those of
    `packed`; its cells are then the same cells, and no part of a key names it. A backend of which that is not
    shown enters the key of its cells by name and version. version: raised when its numbers change.
    apart: whether a package from elsewhere computes, whose version the key names as well.
    """

    name: str
    _: KW_ONLY
    title: str
    also: tuple[str, ...] = ()
    equal: bool = False
    version: int = 1
    apart: bool = False

    @property
    def identity(self) -> str:
        """What the key of a cell has of it: "" if equal, else name and version."""
        return "" if self.equal else f"{self.name} {self.version}"


backends: FileRegistry[type[Backend]] = FileRegistry("backend", "kick.engine", BackendFacts)


class backend(BackendFacts):
    """Enters a class into the table of backends.

    The arguments are the backend's facts, written out as plain values, and the only place where they are.
    """

    def __call__(self, cls: type) -> type:
        """Enter the class. Raises ValueError if the name is taken."""
        facts = {field.name: getattr(self, field.name) for field in fields(BackendFacts)}
        backends.enter(BackendFacts(**facts), cls, cls.__module__)
        return cls


def names() -> list[str]:
    """The names that a matrix may give, earlier ones included."""
    return sorted([AUTO, *(name for one in backends.facts().values() for name in (one.name, *one.also))])


def named(name: str) -> BackendFacts:
    """The facts of the backend of that name, or of that earlier name; of the default for AUTO, which chooses
    among equal ones. Raises UnknownName with near names."""
    name = DEFAULT if name == AUTO else name
    for one in backends.facts().values():
        if name == one.name or name in one.also:
            return one
    raise UnknownName(unknown("engine", name, names()))


def identity(name: str) -> str:
    """What the key of a cell says of a backend: "", its name and version, or "vllm 1 0.32.0".

    The dtype is in the key with the variant's model.

    Raises KickError for a backend of a package that is not installed.
    """
    facts = named(name)
    if not facts.apart:
        return facts.identity
    return f"{facts.identity} {installed().version}"


def of_cell(identity: str) -> str:
    """The name of the backend that a cell's key names; the default's if it names none."""
    return identity.partition(" ")[0] or DEFAULT
