"""Keys of a matrix file: structure and types. `load` reads one, `plan` checks names, options, levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    model_validator,
)

from kick.engine.backend import AUTO, LAYERED, VLLM, named
from kick.matrix.servers import EndpointEntry, JudgeKeys
from kick.matrix.sizes import in_bytes
from kick.matrix.values import (
    LABEL,
    LARGEST_SEED,
    SEED,
    Keys,
    Label,
    Number,
    Refused,
    Text,
    Whole,
    auto,
    distinct,
    growing,
    listed,
    one_of,
)
from kick.matrix.values import name as _name
from kick.matrix.yaml_marks import Marks
from kick.records import PARTS, POOL, RANDOM, SCORES, CalibrationSpec
from kick.registry import UnknownName

DTYPES = ("float32", "bfloat16", "float16")
Replica: TypeAlias = Literal["batch", "dtype"]
REPLICAS: tuple[Replica, ...] = ("batch", "dtype")
Stop: TypeAlias = Literal["decided"]
MOST_ORDERS = 99
GENERATION = ("greedy", "model")
PROPAGATE = ("compressed", "dense")


def _engine(value: Any) -> Any:
    try:
        return named(value).name if isinstance(value, str) and value != AUTO else value
    except UnknownName as error:
        raise Refused(str(error)) from None


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
    AfterValidator(distinct),
]
Looks: TypeAlias = Annotated[
    tuple[Annotated[Whole, Field(ge=2)], ...], Field(min_length=1), AfterValidator(growing)
]


# ---------------------------------------------------------------------------------------- the matrix


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


_Scores: TypeAlias = Annotated[
    tuple[Annotated[Text, one_of("way to select text", (RANDOM, *SCORES))], ...],
    BeforeValidator(listed),
    Field(min_length=1),
    AfterValidator(distinct),
]
_Parts: TypeAlias = Annotated[
    tuple[Annotated[Text, one_of("part of a ranking", PARTS)], ...],
    BeforeValidator(listed),
    Field(min_length=1),
    AfterValidator(distinct),
]


class CalibrationKeys(Keys):
    """Calibration data of every method of the matrix."""

    corpus: Text = Field("kick_mini_calibration", description="the name of a corpus, e.g. wikitext2")
    sequences: Whole = Field(16, ge=1, description="a whole number of at least 1")
    length: Whole = Field(256, ge=2, description="a whole number of tokens, at least 2")
    seed: Whole = Field(0, ge=0, le=LARGEST_SEED, description=SEED)
    propagate: Annotated[Text, one_of("way to propagate", PROPAGATE)] = Field(
        "compressed", description="compressed or dense"
    )
    select: _Scores = Field((RANDOM,), description=f"one of {', '.join((RANDOM, *SCORES))}, or a list")
    keep: _Parts = Field((PARTS[1],), description=f"one of {', '.join(PARTS)}, or a list")
    pool: Whole = Field(POOL, ge=2, description="a whole number of at least 2")

    def model_post_init(self, _: Any) -> None:
        """Refuse what is of ranked text if none is ranked."""
        given = self.model_fields_set & {"keep", "pool"}
        if given and self.select == (RANDOM,):
            raise Refused(f"calibration: {min(given)} is of ranked text: give select, or leave it out")

    def specs(self, seeds: Sequence[int] | None = None) -> list[CalibrationSpec]:
        """The calibrations: one per way to select and part to keep, and per seed."""
        ranked = [f"{one} {part} {self.pool}" for one in self.select for part in self.keep if one != RANDOM]
        plain = self.model_dump(exclude={"seed", "select", "keep", "pool"})
        return [
            CalibrationSpec(**plain, seed=seed, select=select)
            for select in [""] * (RANDOM in self.select) + ranked
            for seed in seeds or (self.seed,)
        ]


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
    return distinct(values)


REPLICA = "batch, dtype or {order: 3}"
_Replica: TypeAlias = Annotated[
    Annotated[Replica, one_of("replica", REPLICAS), BeforeValidator(_counted), Tag("<replica>")]
    | Annotated[OrderKeys, Tag("<order>")],
    Discriminator(_replica),
]
Replicas: TypeAlias = Annotated[tuple[_Replica, ...], AfterValidator(_once)]


class EngineKeys(Keys):
    """Backend that answers. Its name is in a cell's key only if its scores are not shown to be equal to
    those of `packed`; the size of the batch never is."""

    name: Annotated[Text, BeforeValidator(_engine)] = Field(AUTO, description="e.g. packed, vllm or layered")
    batch_tokens: Annotated[int | None, BeforeValidator(auto)] = Field(
        None, ge=1, description="auto, or a whole number of tokens, at least 1"
    )
    memory: Annotated[int | None, BeforeValidator(in_bytes)] = Field(None, description="e.g. 4GB")
    generate: StrictBool = Field(False, description="of layered: true or false")

    def model_post_init(self, _: Any) -> None:
        """Refuse what the engine does not obey; 'auto' may choose the layered one."""
        if self.name not in (AUTO, LAYERED) and (self.generate or (self.memory and self.name != VLLM)):
            raise Refused("engine: memory and generate are of the engine named layered, memory of vllm too")


RECOVER = "recover-"  # how the names of methods start that train


def _recovering(value: Any) -> Any:
    """`{recover: masklora, ...}` as `{method: recover-masklora, ...}`."""
    if not isinstance(value, Mapping) or "recover" not in value:
        return value
    if "method" in value:
        raise Refused("got both method and recover; expected one of them in a step")
    forms = value["recover"]
    names = [RECOVER + one if isinstance(one, str) else one for one in listed(forms)]
    return {"method": names} | {name: one for name, one in value.items() if name != "recover"}


class StepKeys(BaseModel):
    """`{method: wanda, sparsity: 0.5}`: the other keys are the method's options; lists multiply.

    `{recover: masklora}` is a step that trains."""

    model_config = ConfigDict(extra="allow", frozen=True)

    method: Annotated[tuple[Text, ...], BeforeValidator(listed), Field(min_length=1)] = Field(
        description="a method's name, or a list of names"
    )

    @model_validator(mode="before")
    @classmethod
    def _form(cls, value: Any) -> Any:
        return _recovering(value)

    @property
    def options(self) -> Mapping[str, Any]:
        """The options as they were written, lists not yet multiplied."""
        return self.model_extra or {}


RUNTIME = "{method: ..., option: ...} of a run-time method"
_RunTime: TypeAlias = StepKeys | None


class MethodKeys(StepKeys):
    """A variant of one step."""

    runtime: _RunTime = Field(None, description=RUNTIME)
    name: Label | None = Field(None, description=LABEL)


class RecipeKeys(Keys):
    """`{recipe: [step, ...]}`: steps in order; lists inside multiply."""

    recipe: tuple[StepKeys, ...] = Field(
        min_length=1, description="a list of {method: ..., option: ...} steps"
    )
    runtime: _RunTime = Field(None, description=RUNTIME)
    name: Label | None = Field(None, description=LABEL)


class CheckpointKeys(Keys):
    """`{checkpoint: someone/model-GPTQ}`: compressed elsewhere; `reference` is the matrix's model."""

    checkpoint: Text = Field(description="a hub id, a folder or a .gguf file")
    revision: Text | None = Field(None, description="a hub revision")
    reference: Text | None = Field(None, description="the matrix's model, or nothing")
    runtime: _RunTime = Field(None, description=RUNTIME)
    name: Label | None = Field(None, description=LABEL)


class RunTimeKeys(Keys):
    """`{runtime: {method: twilight, p: 0.85}}`: the dense weights, run otherwise; lists multiply."""

    runtime: StepKeys = Field(description=RUNTIME)
    name: Label | None = Field(None, description=LABEL)


def _entry_kind(value: Any) -> str:
    if isinstance(value, str):
        return "<dense>"
    if isinstance(value, Mapping | Keys):
        given = value if isinstance(value, Mapping) else type(value).model_fields
        for key in ("recipe", "checkpoint", "endpoint"):
            if key in given:
                return f"<{key}>"
        if "runtime" in given and "method" not in given:
            return "<runtime>"
    return "<method>"


VariantKeys: TypeAlias = Annotated[
    Annotated[StrictStr, one_of("variant", ("dense",)), Tag("<dense>")]
    | Annotated[MethodKeys, Tag("<method>")]
    | Annotated[RecipeKeys, Tag("<recipe>")]
    | Annotated[CheckpointKeys, Tag("<checkpoint>")]
    | Annotated[RunTimeKeys, Tag("<runtime>")]
    | Annotated[EndpointEntry, Tag("<endpoint>")],
    Discriminator(_entry_kind),
]

ENTRY = (
    "dense, {method: ..., option: ...}, {recover: ...}, {recipe: [...]}, {checkpoint: ...}, "
    "{runtime: {...}} or {endpoint: {...}}"
)
_EACH = "{task: number}"


class Matrix(Keys):
    """A matrix file as it was written, defaults filled in; `marks` knows the lines, for later errors."""

    name: Annotated[Text, BeforeValidator(_name)] = Field(description="letters, digits, - and _ only")
    model: Text = Field(description="an alias, a hub id, a folder or a .gguf file")
    revision: Text | None = Field(None, description="a hub revision")
    dtype: Annotated[Text, one_of("dtype", DTYPES)] = Field("float32", description=", ".join(DTYPES))
    tasks: Annotated[tuple[Text, ...], AfterValidator(distinct)] = Field(
        min_length=1, description="a list of at least one task or group"
    )
    limit: Limit = Field(None, description=f"a whole number of at least 1, {_EACH}, or null for all items")
    shots: Shots = Field(None, description=f"a whole number of at least 0, {_EACH}, or null")
    chat_template: ChatTemplate = Field(
        False, description="true or false, {arguments: {...}}, or {task: true}"
    )
    generation_config: Annotated[Text, one_of("generation_config", GENERATION)] = Field(
        GENERATION[0], description="greedy, or model: follow the model's own generation_config for logits"
    )
    calibration: CalibrationKeys = Field(
        CalibrationKeys(), description="a mapping, e.g. {corpus: wikitext2, sequences: 16}"
    )
    seeds: Seeds | None = Field(None, description=f"a list, each {SEED}, e.g. [0, 1]")
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
