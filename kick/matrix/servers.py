"""Keys of a matrix file that name a server: the judge's, and those of models that are served."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StrictBool

from kick.matrix.values import (
    LABEL,
    LARGEST_SEED,
    SEED,
    Address,
    Keys,
    Label,
    Number,
    Text,
    Whole,
    one_of,
    variable,
)

CHAT = "chat"  # the API of a server that makes the prompt of a conversation itself
APIS = ("completions", CHAT)


class JudgeKeys(Keys):
    """An OpenAI-style endpoint that judges answers afterwards; its key comes from the environment only."""

    model: Text = Field(description="the judge's name at its endpoint, pinned to a version")
    base_url: Address = Field("https://api.openai.com/v1", description="the endpoint's address")
    temperature: Number = Field(0.0, ge=0, description="a number of at least 0")
    top_p: Number = Field(1.0, gt=0, le=1, description="a number above 0, at most 1")
    max_tokens: Whole = Field(512, ge=1, description="a whole number of at least 1")
    seed: Whole = Field(0, ge=0, le=LARGEST_SEED, description=SEED)
    runs: Whole = Field(1, ge=1, description="how often each question is asked, at least 1")
    mode: Literal["grade", "pair", "both"] = Field("grade", description="grade, pair or both")
    key_variable: Annotated[Text, BeforeValidator(variable)] = Field("OPENAI_API_KEY", description="a name")
    timeout: Number = Field(60.0, gt=0, description="seconds, above 0")
    workers: Whole = Field(4, ge=1, description="how many requests at a time, at least 1")


class EndpointKeys(Keys):
    """A model behind an OpenAI-style server; the key comes from the environment only."""

    base_url: Address = Field(description="the server's address, e.g. http://localhost:8000/v1")
    model: Text = Field(description="the model's name at its server")
    revision: Text | None = Field(None, description="what tells this model from another of that name")
    engine: Label | None = Field(None, description="what answers there with its version, e.g. vllm 0.9.1")
    key_variable: Annotated[Text, BeforeValidator(variable)] = Field("OPENAI_API_KEY", description="a name")
    timeout: Number = Field(120.0, gt=0, description="seconds, above 0")
    workers: Whole = Field(4, ge=1, description="how many requests at a time, at least 1")
    api: Annotated[Literal["completions", "chat"], one_of("API", APIS)] = Field(
        "completions", description="completions, or chat for a server that has chat completions alone"
    )
    window: Whole | None = Field(None, ge=2, description="tokens that the server takes, at least 2")


class EndpointEntry(Keys):
    """`{endpoint: {base_url: ..., model: ...}}`: a variant that a server answers for."""

    endpoint: EndpointKeys = Field(description="a mapping, e.g. {base_url: ..., model: ...}")
    dense: StrictBool = Field(False, description="true if others are compared with it, else false")
    name: Label | None = Field(None, description=LABEL)
