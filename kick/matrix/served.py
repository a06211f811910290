"""Variants that a server answers for: what names them in a key, and how the server is reached.

The key of a cell has the server's host, the model's name there, the revision and the engine that the matrix
declares, and the tokenizer of the matrix's `model`, which makes the prompts. Nothing of a served model's
weights is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from urllib.parse import urlsplit

from kick.matrix.costs import SAMPLE, Estimate
from kick.matrix.memory import LIBRARIES
from kick.matrix.schema import Matrix
from kick.matrix.servers import CHAT, EndpointEntry, EndpointKeys
from kick.matrix.yaml_marks import Path, Problem
from kick.records import ModelFacts, ModelSpec, Variant, canonical

ITEM = 1.0  # seconds per item, before a server was ever asked


@dataclass(frozen=True)
class ServedModel:
    """How a server is reached. window: tokens that it takes, None for the window of the matrix's model. api:
    which of its two APIs is asked, see `kick.matrix.servers.APIS`."""

    base_url: str
    model: str
    revision: str | None
    engine: str | None
    key_variable: str
    timeout: float
    workers: int
    api: str
    window: int | None

    @classmethod
    def of(cls, keys: EndpointKeys) -> ServedModel:
        """The keys of a matrix file."""
        return cls(**keys.model_dump())

    @classmethod
    def read(cls, text: str) -> ServedModel:
        """What `text` gave; a key that is not in it has its default."""
        return cls.of(EndpointKeys.model_validate_json(text))

    @property
    def text(self) -> str:
        """JSON text, for `Variant.endpoint`."""
        return canonical(asdict(self))

    @property
    def host(self) -> str:
        """Host and port, and the path if it is not the usual one."""
        parts = urlsplit(self.base_url)
        path = parts.path.rstrip("/").removesuffix("/v1")
        return f"{parts.netloc}{path}"

    @property
    def identity(self) -> str:
        """What a cell's key has for an engine; without a declared one, each host is an engine of its own."""
        by = f" by {CHAT}" if self.api == CHAT else ""
        return f"endpoint {self.engine}{by}" if self.engine else f"endpoint at {self.host}{by}"

    def spec(self) -> ModelSpec:
        """The model as keys name it; its tokenizer is still to be filled in."""
        return ModelSpec(f"{self.model} at {self.host}", self.revision, dtype="")


def variant(entry: EndpointEntry, taken: Mapping[str, object]) -> Variant:
    """The variant of an entry; named by the model, and by its host if that name is taken."""
    served = ServedModel.of(entry.endpoint)
    name = entry.name or ("dense" if entry.dense else served.model)
    name = served.spec().name if name in taken and not entry.name else name
    return Variant(
        name, served.spec(), checkpoint=not entry.dense, label=entry.name or "", endpoint=served.text
    )


def problems(matrix: Matrix) -> list[Problem]:
    """What is wrong with a matrix whose dense model is served: two of them, or what runs here beside it."""
    entries: list[tuple[Path, object]] = [
        (("variants", place), entry) for place, entry in enumerate(matrix.variants)
    ]
    dense = [
        path
        for path, entry in entries
        if entry == "dense" or (isinstance(entry, EndpointEntry) and entry.dense)
    ]
    if not any(isinstance(entry, EndpointEntry) and entry.dense for _, entry in entries):
        return []
    found = [Problem(path, "a second dense model; a matrix has one") for path in dense[1:]]
    found += [
        Problem(path, "the dense model is served: only endpoints can be compared with it")
        for path, entry in entries
        if not isinstance(entry, EndpointEntry) and entry != "dense"
    ]
    if "replicas" in matrix.model_fields_set and matrix.replicas:
        found.append(
            Problem(("replicas",), "the dense model is served: it has no replicas here; expected: []")
        )
    return found


@cache
def base_of(name: str, revision: str | None) -> tuple[str, ModelFacts]:
    """The digest of the tokenizer that makes the prompts, and what its files say; no weights are needed.

    Raises KickError for a model without a tokenizer.
    """
    from kick.model.facts import facts
    from kick.model.source import tokenizer_digest, tokenizer_folder

    folder = tokenizer_folder(name, revision)
    digest = tokenizer_digest(folder)
    spec = ModelSpec(name, revision, tokenizer=digest, tokenizer_from=name, tokenizer_revision=revision)
    found = facts(spec, folder)
    return digest, ModelFacts(found.template, found.refused)  # a server's generation settings are its own


def estimate(items: Mapping[str, int]) -> Estimate:
    """The cost of a served variant's job: nothing is loaded here."""
    asked = sum(items.values())
    return Estimate({"load": 0.0, "compress": 0.0, "answer": asked * ITEM}, LIBRARIES, asked * SAMPLE)
