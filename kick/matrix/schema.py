"""Keys of a matrix file: structure and types. `load` reads one, `plan` checks names, options, levels."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    StrictBool,
    StrictStr,
    Tag,
)

from kick.engine.backend import DEFAULT, named
from kick.matrix.sizes import in_bytes
from kick.matrix.yaml_marks import Marks, show
from kick.printable import plain
from kick.registry import UnknownName, unknown

DTYPES = ("float32", "bfloat16", "float16")
Replica: TypeAlias = Literal["batch", "dtype"]
REPLICAS: tuple[Replica, ...] = ("batch", "dtype")
Stop: TypeAlias = Literal["decided"]
MOST_ORDERS = 99
GENERATION = ("greedy", "model")
PROPAGATE = ("compressed", "dense")
LARGEST_SEED = 2**64 - 1  # of torch's generators
_SEED = "a whole number from 0 to 2^64 - 1"

LONGEST_LABEL = 100  # characters
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


# ---------------------------------------------------------------------------------------- types


class Refused(ValueError):
    """Error of a value whose text is the whole message."""


def _number(value: Any) -> Any:
    """Text that spells a number ("1e-5") counts as one; true and false do not."""
    if isinstance(value, bool):
        raise ValueError("a number")
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    return value


def _whole(value: Any) -> Any:
    value = _number(value)
    if isinstance(value, float) and not value.is_integer():
        raise ValueError("a whole number")
    return value


def _name(value: Any) -> Any:
    if isinstance(value, str) and not _NAME.fullmatch(value):
        raise ValueError("letters, digits, - and _ only")
    return value


def _label(value: Any) -> Any:
    """A label without blanks around it; it is printed in tables, so nothing in it may act on a terminal."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if not text or len(text) > LONGEST_LABEL or plain(text) != text:
        raise ValueError("a label")
    return text


def _auto(value: Any) -> Any:
    return None if value == "auto" else _whole(value)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _growing(values: tuple[int, ...]) -> tuple[int, ...]:
    if any(later <= earlier for earlier, later in itertools.pairwise(values)):
        raise ValueError("growing numbers")
    return values


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = [value for index, value in enumerate(values) if value in values[:index]]
    if twice:
        raise Refused(f"{show(twice[0])} is given twice; keep one")
    return values


def _one_of(kind: str, names: tuple[str, ...]) -> BeforeValidator:
    def check(value: Any) -> Any:
        if isinstance(value, str) and value not in names:
            raise Refused(unknown(kind, value, names))
        return value

    return BeforeValidator(check)


def _engine(value: Any) -> Any:
    try:
        return named(value).name if isinstance(value, str) else value
    except UnknownName as error:
        raise Refused(str(error)) from None


def _address(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not re.match(r"https?://", value):
        raise Refused(f"got {value!r}; expected: an address that starts with http:// or https://")
    if "@" in value.split("//", 1)[1].split("/", 1)[0]:
        raise Refused("a name or key in the address; the key is read from the environment only")
    return value


def _variable(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z_]\w{0,99}", value):
        raise Refused("not a valid name of an environment variable; expected: its name, never the key itself")
    return value


Text: TypeAlias = Annotated[StrictStr, Field(min_length=1)]
Label: TypeAlias = Annotated[StrictStr, BeforeValidator(_label)]
Address: TypeAlias = Annotated[Text, BeforeValidator(_address)]
Whole: TypeAlias = Annotated[int, BeforeValidator(_whole)]
Number: TypeAlias = Annotated[float, BeforeValidator(_number)]


def _per_task(value: Any) -> str:
    """Tell "one value for all tasks" from "{task: value}"."""
    return "<by task>" if isinstance(value, Mapping) else "<all>"


_Limit: TypeAlias = Annotated[Whole, Field(ge=1)] | None
_Shots: TypeAlias = Annotated[Whole, Field(ge=0)] | None
Limit: TypeAlias = Annotated[
    Annotated[_Limit, Tag("<all>")] | Annotated[dict[str, _Limit], Field(min_length=1), Tag("<by task>")],
    Discriminator(_per_task),
]
Shots: TypeAlias = Annotated[
    Annotated[_Shots, Tag("<all>")] | Annotated[dict[str, _Shots], Field(min_length=1), Tag("<by task>")],
    Discriminator(_per_task),
]
Seeds: TypeAlias = Annotated[
    tuple[Annotated[Whole, Field(ge=0, le=LARGEST_SEED)], ...],
    Field(min_length=1),
    AfterValidator(_distinct),
]
Looks: TypeAlias = Annotated[
    tuple[Annotated[Whole, Field(ge=2)], ...], Field(min_length=1), AfterValidator(_growing)
]


# ---------------------------------------------------------------------------------------- the matrix


_LABEL = f"a label for people: one line of text, at most {LONGEST_LABEL} characters"


class Keys(BaseModel):
    """A mapping of a matrix file: its keys are known, its values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ChatKeys(Keys):
    """A chat template with arguments of its own, such as `{arguments: {enable_thinking: false}}`."""

    arguments: dict[str, StrictBool | int | float | StrictStr] = Field(
        {}, description="a mapping of the template's own arguments, e.g. {enable_thinking: false}"
    )
    reasoning_end: StrictStr | None = Field(
        None, description='the mark at which thinking ends, e.g. "</think>"; "" for none'
    )


def _chat(value: Any) -> str:
    if isinstance(value, ChatKeys) or (
        isinstance(value, Mapping) and set(value) & set(ChatKeys.model_fields)
    ):
        return "<chat>"
    return "<by task>" if isinstance(value, Mapping) else "<all>"


_Chat: TypeAlias = Annotated[
    Annotated[StrictBool, Tag("<all>")] | Annotated[ChatKeys, Tag("<chat>")], Discriminator(_chat)
]
ChatTemplate: TypeAlias = Annotated[
    Annotated[StrictBool, Tag("<all>")]
    | Annotated[ChatKeys, Tag("<chat>")]
    | Annotated[dict[str, _Chat], Field(min_length=1), Tag("<by task>")],
    Discriminator(_chat),
]


class CalibrationKeys(Keys):
    """Calibration data of every method of the matrix."""

    corpus: Text = Field("kick_mini_calibration", description="the name of a corpus, e.g. wikitext2")
    sequences: Whole = Field(16, ge=1, description="a whole number of at least 1")
    length: Whole = Field(256, ge=2, description="a whole number of tokens, at least 2")
    seed: Whole = Field(0, ge=0, le=LARGEST_SEED, description=_SEED)
    propagate: Annotated[Text, _one_of("way to propagate", PROPAGATE)] = Field(
        "compressed", description="compressed or dense"
    )


class OrderKeys(Keys):
    """`{order: 3}`: variants again with their calibration sequences in three other orders."""

    order: Whole = Field(
        ge=1, le=MOST_ORDERS, description=f"how many other orders, a whole number from 1 to {MOST_ORDERS}"
    )


def _replica(value: Any) -> str:
    return "<order>" if isinstance(value, Mapping | OrderKeys) else "<replica>"


def _counted(value: Any) -> Any:
    if value == "order":
        raise Refused("order needs a number of orders; expected: {order: 3}")
    return value


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if sum(isinstance(value, OrderKeys) for value in values) > 1:
        raise Refused("order is given twice; keep one")
    return _distinct(values)


REPLICA = "batch, dtype or {order: 3}"
_Replica: TypeAlias = Annotated[
    Annotated[Replica, _one_of("replica", REPLICAS), BeforeValidator(_counted), Tag("<replica>")]
    | Annotated[OrderKeys, Tag("<order>")],
    Discriminator(_replica),
]
Replicas: TypeAlias = Annotated[tuple[_Replica, ...], AfterValidator(_once)]


class EngineKeys(Keys):
    """Backend that answers. Its name is in a cell's key only if its scores are not shown to be equal to
    those of `packed`; the size of the batch never is."""

    name: Annotated[Text, BeforeValidator(_engine)] = Field(DEFAULT, description="e.g. packed or vllm")
    batch_tokens: Annotated[int | None, BeforeValidator(_auto)] = Field(
        None, ge=1, description="auto, or a whole number of tokens, at least 1"
    )
    memory: Annotated[int | None, BeforeValidator(in_bytes)] = Field(None, description="e.g. 4GB")
    generate: StrictBool = Field(False, description="of layered: true or false")

    def model_post_init(self, _: Any) -> None:
        """Refuse what the engine does not obey."""
        if self.name != "layered" and (self.generate or (self.memory and self.name != "vllm")):
            raise Refused("engine: memory and generate are of the engine named layered, memory of vllm too")


class JudgeKeys(Keys):
    """An OpenAI-style endpoint that judges answers afterwards; its key comes from the environment only."""

    model: Text = Field(description="the judge's name at its endpoint, pinned to a version")
    base_url: Address = Field("https://api.openai.com/v1", description="the endpoint's address")
    temperature: Number = Field(0.0, ge=0, description="a number of at least 0")
    top_p: Number = Field(1.0, gt=0, le=1, description="a number above 0, at most 1")
    max_tokens: Whole = Field(512, ge=1, description="a whole number of at least 1")
    seed: Whole = Field(0, ge=0, le=LARGEST_SEED, description=_SEED)
    runs: Whole = Field(1, ge=1, description="how often each question is asked, at least 1")
    mode: Literal["grade", "pair", "both"] = Field("grade", description="grade, pair or both")
    key_variable: Annotated[Text, BeforeValidator(_variable)] = Field("OPENAI_API_KEY", description="a name")
    timeout: Number = Field(60.0, gt=0, description="seconds, above 0")
    workers: Whole = Field(4, ge=1, description="how many requests at a time, at least 1")


class StepKeys(BaseModel):
    """`{method: wanda, sparsity: 0.5}`: the other keys are the method's options; lists multiply."""

    model_config = ConfigDict(extra="allow", frozen=True)

    method: Annotated[tuple[Text, ...], BeforeValidator(_listed), Field(min_length=1)] = Field(
        description="a method's name, or a list of names"
    )

    @property
    def options(self) -> Mapping[str, Any]:
        """The options as they were written, lists not yet multiplied."""
        return self.model_extra or {}


class MethodKeys(StepKeys):
    """A variant of one step."""

    name: Label | None = Field(None, description=_LABEL)


class RecipeKeys(Keys):
    """`{recipe: [step, ...]}`: steps in order; lists inside multiply."""

    recipe: tuple[StepKeys, ...] = Field(
        min_length=1, description="a list of {method: ..., option: ...} steps"
    )
    name: Label | None = Field(None, description=_LABEL)


class CheckpointKeys(Keys):
    """`{checkpoint: someone/model-GPTQ}`: compressed elsewhere; `reference` is the matrix's model."""

    checkpoint: Text = Field(description="a hub id or a folder")
    revision: Text | None = Field(None, description="a hub revision")
    reference: Text | None = Field(None, description="the matrix's model, or nothing")
    name: Label | None = Field(None, description=_LABEL)


def _entry_kind(value: Any) -> str:
    if isinstance(value, str):
        return "<dense>"
    if isinstance(value, Mapping | Keys):
        for key in ("recipe", "checkpoint"):
            if key in (value if isinstance(value, Mapping) else type(value).model_fields):
                return f"<{key}>"
    return "<method>"


VariantKeys: TypeAlias = Annotated[
    Annotated[StrictStr, _one_of("variant", ("dense",)), Tag("<dense>")]
    | Annotated[MethodKeys, Tag("<method>")]
    | Annotated[RecipeKeys, Tag("<recipe>")]
    | Annotated[CheckpointKeys, Tag("<checkpoint>")],
    Discriminator(_entry_kind),
]

ENTRY = "dense, {method: ..., option: ...}, {recipe: [...]} or {checkpoint: ...}"
_EACH = "{task: number}"


class Matrix(Keys):
    """A matrix file as it was written, defaults filled in; `marks` knows the lines, for later errors."""

    name: Annotated[Text, BeforeValidator(_name)] = Field(description="letters, digits, - and _ only")
    model: Text = Field(description="an alias, a hub id, a folder or a .gguf file")
    revision: Text | None = Field(None, description="a hub revision")
    dtype: Annotated[Text, _one_of("dtype", DTYPES)] = Field("float32", description=", ".join(DTYPES))
    tasks: Annotated[tuple[Text, ...], AfterValidator(_distinct)] = Field(
        min_length=1, description="a list of at least one task or group"
    )
    limit: Limit = Field(None, description=f"a whole number of at least 1, {_EACH}, or null for all items")
    shots: Shots = Field(None, description=f"a whole number of at least 0, {_EACH}, or null")
    chat_template: ChatTemplate = Field(
        False, description="true or false, {arguments: {...}}, or {task: true}"
    )
    generation_config: Annotated[Text, _one_of("generation_config", GENERATION)] = Field(
        GENERATION[0], description="greedy, or model: follow the model's own generation_config for logits"
    )
    calibration: CalibrationKeys = Field(
        CalibrationKeys(), description="a mapping, e.g. {corpus: wikitext2, sequences: 16}"
    )
    seeds: Seeds | None = Field(None, description=f"a list, each {_SEED}, e.g. [0, 1]")
    variants: tuple[VariantKeys, ...] = Field(min_length=1, description=f"a list of variants, each {ENTRY}")
    replicas: Replicas = Field(REPLICAS, description="a list of batch, dtype and {order: 3} at most")
    stop: Stop | None = Field(None, description="decided, or no such key: ask all items")
    margin: Number = Field(0.05, gt=0, lt=1, description="a share above 0 and below 1, e.g. 0.05")
    precision: Number | None = Field(None, gt=0, description="a number of points above 0, e.g. 2")
    looks: Looks | None = Field(
        None, description="a growing list of whole numbers of at least 2, e.g. [24, 96, 384]"
    )
    data_root: Text | None = Field(None, description="a folder")
    engine: EngineKeys = Field(EngineKeys(), description="a mapping, e.g. {name: plain}")
    judge: JudgeKeys | None = Field(None, description="a mapping, e.g. {model: ..., base_url: ...}")
    time_limit: Number | None = Field(None, gt=0, description="seconds per cell, above 0")

    _marks: Marks = PrivateAttr(default=Marks("matrix", {}, {}))
    _text: str = PrivateAttr(default="")

    @property
    def orders(self) -> int:
        """In how many other orders of its calibration sequences a variant is compressed again."""
        return sum(one.order for one in self.replicas if isinstance(one, OrderKeys))

    @property
    def marks(self) -> Marks:
        """The lines of the file that this matrix was read from."""
        return self._marks

    @property
    def text(self) -> str:
        """The file as it was."""
        return self._text
