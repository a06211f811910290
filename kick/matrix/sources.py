"""Tables in which a plan looks names up: models, tasks, methods, corpora."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path as File
from typing import TYPE_CHECKING

from kick import __version__
from kick.catalog import retokenises
from kick.errors import KickError
from kick.matrix import costs, served
from kick.matrix.shapes import Shape
from kick.matrix.variants import MethodTable
from kick.records import CalibrationSpec, ModelFacts, ModelSpec, Step, key

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kick.tasks import Task


@dataclass(frozen=True)
class Sources:
    """Tables in which names are looked up: kick's own by default, small ones in tests."""

    # a name, revision and dtype; then, of a checkpoint, the dense model, whose tokenizer it may use
    resolve: Callable[..., ModelSpec]
    tasks: Callable[[Sequence[str], str | None], Mapping[str, Task]]
    methods: MethodTable
    corpus: Callable[[str, str | None], str]  # a corpus' digest
    shape: Callable[[ModelSpec], Shape]
    fits: Callable[[ModelSpec, Sequence[Step]], None]  # raises KickError if a recipe cannot serve a model
    kinds: Callable[[], Mapping[str, str]]  # how each of our tasks asks
    # raises KickError if a corpus of calibration is too short
    enough: Callable[[ModelSpec, CalibrationSpec, str | None], None] = lambda model, spec, root: None
    # what a model's files say; raises KickError if it is not a causal language model
    facts: Callable[[ModelSpec], ModelFacts] = lambda model: ModelFacts(template="{{ messages }}")
    # raises KickError for a checkpoint of another vocabulary than the dense model's
    related: Callable[[ModelSpec, ModelSpec], None] = lambda model, dense: None
    # the tokenizer of a served model's prompts, by name and revision of the matrix's model, and its facts
    base: Callable[[str, str | None], tuple[str, ModelFacts]] = served.base_of


def own_sources(extra: Sequence[File] = ()) -> Sources:
    """kick's tables; `extra` are folders of the user's own task files."""
    from kick import compress, tasks
    from kick.compress import method
    from kick.compress.calibrate.corpus import digest
    from kick.model import related, resolve
    from kick.model.facts import facts
    from kick.model.source import locate

    return Sources(
        resolve,
        lambda names, root: tasks.load(names, root, extra),
        MethodTable(
            compress.canonical,
            lambda step: method.methods[step.method].needed(step.options),
            lambda name: method.methods[name].feeds_forward,
        ),
        digest,
        lambda spec: costs.shape(locate(spec.name, spec.revision)),
        lambda spec, recipe: _fits(spec, recipe, locate(spec.name, spec.revision)),
        lambda: {one["name"]: one["kind"] for one in tasks.describe(extra)},
        _enough,
        lambda spec: facts(spec, locate(spec.name, spec.revision)),
        related.check,
    )


def _fits(spec: ModelSpec, recipe: Sequence[Step], folder: File) -> None:
    """`compress.check` on the model without its weights. What fitted once is remembered: importing the
    model's code takes seconds, and the job checks again anyway."""
    from kick import compress
    from kick.compress.vocabulary import check_tokenizer
    from kick.model.source import tokenizer_of
    from kick.paths import cache_root, spare

    memory = cache_root() / "fits" / key([spec.digest, [asdict(step) for step in recipe], __version__])
    if memory.exists():
        return
    compress.check(_skeleton(folder), recipe)
    if any(map(retokenises, recipe)):
        check_tokenizer(recipe, tokenizer_of(spec))
    with spare(memory):
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.touch()


def _enough(model: ModelSpec, spec: CalibrationSpec, root: str | None) -> None:
    from transformers import AutoConfig

    from kick.compress.calibrate.corpus import check_length, check_positions
    from kick.model.source import locate, tokenizer_of

    folder = locate(model.name, model.revision)

    def tokenizer() -> PreTrainedTokenizerBase:
        return tokenizer_of(model)

    check_length(spec, tokenizer, root)
    check_positions(AutoConfig.from_pretrained(folder, trust_remote_code=False), spec.length)


@cache
def _skeleton(folder: File) -> PreTrainedModel:
    """The model of a folder without its weights: shapes on torch's meta device."""
    from transformers import AutoConfig

    from kick.model import skeleton
    from kick.model.textual import text_config

    try:
        return skeleton(text_config(AutoConfig.from_pretrained(folder, trust_remote_code=False)))
    except (ValueError, OSError) as error:
        raise KickError(f"transformers cannot make a causal language model of {folder}: {error}") from error
