"""Facts of each compression method, without importing any of them (or torch).

    shipped()["wanda"].title     read off the decorators in compress/methods/ and recover/forms/
    known()                      these, and the methods that plugins have registered in this process

One file per method; its facts are the arguments of its `@method(...)` and nowhere else. A result carries
those that tables and figures need (`Facts.record`), so that it draws if the method is not installed.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from kick.records import Step
from kick.registry import Registry

Kind = Literal["prune", "structure", "quantize", "compensate", "recover"]  # in the order of tables
Need = Literal["calibration", "gradients", "structure"]
KINDS: tuple[str, ...] = get_args(Kind)
PACKAGES = ("kick.compress.methods", "kick.recover.forms")  # where methods are, one file each
FOLDERS = tuple(Path(__file__).parents[1].joinpath(*name.split(".")) for name in PACKAGES)
LAST = 99  # the place of a method that names none: after those that do
OTHER_TOKENS = "its tokenizer cuts text into other tokens, and this task counts dense's"


@dataclass(frozen=True)
class Facts:
    """Facts that `@method(...)` gives of a method.

    needs: calibration sequences, gradients, a model whose structure can change. activations: it rounds them
    while the model runs, so that the model is not a plain checkpoint. version: raised when the method's
    numbers change; part of every key. place: among the methods of its kind, in tables and legends. bits: of a
    weight, if that is not an option. chooses: why a pruning method cannot be given a share for each
    matrix, or such reasons by "option: value"; "" for one that ranks weights. trains: it updates weights by
    gradient descent. task_data: it sees data of the tasks that are scored. serves: which architectures, in
    words. look: the colour, marker and line of its points, e.g. "blue s -". feeds_forward: what it does to a
    block depends on sums over the calibration sequences, and later blocks see it: the order of the sequences,
    which rounds a sum otherwise, can show. blockwise: it touches weights in `walk` alone and
    keeps nothing from block to block, so that a model larger than memory can be compressed block by block.
    last: why it must be the last step of a recipe; "" if others may follow. calibrates: the "option: value"
    with which a method looks at calibration data that else needs none. rotates: weights before and after
    it cannot be compared one by one, so that it must come before steps that prune or round them.
    retokenises: its model has a tokenizer of its own.
    """

    name: str
    _: KW_ONLY
    title: str
    paper: str
    kind: str  # a Kind; "" if a stored result does not say it
    needs: tuple[Need, ...] = ()
    activations: bool = False
    version: int = 1
    place: int = LAST
    bits: float | None = None
    chooses: str | Mapping[str, str] = ""
    trains: bool = False
    task_data: bool = False
    blockwise: bool = False
    serves: str = "all but GPT-OSS"
    look: str = ""
    feeds_forward: bool = False
    last: str = ""
    rotates: bool = False
    calibrates: str = ""
    retokenises: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", tuple(self.needs))

    @property
    def calibrated(self) -> bool:
        """Whether the method looks at calibration data, so that seeds and corpora matter to it."""
        return "calibration" in self.needs

    def needed(self, options: Mapping[str, Any]) -> tuple[Need, ...]:
        """What a step with these options needs."""
        looks = self.calibrates in (f"{name}: {value}" for name, value in options.items())
        return ("calibration", *self.needs) if looks else self.needs

    @property
    def structured(self) -> bool:
        """Whether heads, channels or whole blocks are removed."""
        return self.kind == "structure"

    @property
    def order(self) -> int:
        """Place of the method in tables: by kind, then by place."""
        kind = KINDS.index(self.kind) if self.kind in KINDS else len(KINDS)
        return 1000 * kind + min(max(self.place, 0), 999)

    def own_choice(self, options: Mapping[str, Any]) -> str:
        """The reason why a step with these options cannot be given a share for each matrix; "" if it can."""
        if isinstance(self.chooses, str):
            return self.chooses
        for name, value in options.items():
            if why := self.chooses.get(f"{name}: {value}"):
                return f"{name}: {value} {why}"
        return ""

    def pattern(self, options: Mapping[str, Any]) -> str:
        """Pattern of a step's zeros: "unstructured", n:m such as "2:4", "structured", "" for none."""
        level = level_of(options)
        if isinstance(level, str) and ":" in level:
            return level
        if self.structured:
            return "structured"
        return "unstructured" if share(level) else ""

    def width(self, options: Mapping[str, Any]) -> float | None:
        """The bits that a step leaves of a weight; None if it quantizes nothing."""
        return number(options.get("bits")) or self.bits

    def record(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Record that a result keeps of the method of a step, as JSON values; `recorded` reads it."""
        names = ("kind", "title", "paper", "place", "trains", "task_data")
        facts = {name: getattr(self, name) for name in names}
        return facts | {"pattern": self.pattern(options), "bits": self.width(options)}


def recorded(name: str, record: Mapping[str, Any]) -> Facts | None:
    """The facts that a stored step has of its method; None if it was stored without them."""
    kind, place = record.get("kind"), record.get("place")
    if kind not in KINDS:
        return None
    ours = known().get(name)  # of what results of earlier versions do not say
    trains, task_data = (
        bool(record.get(fact, getattr(ours, fact, False))) for fact in ("trains", "task_data")
    )
    return Facts(
        name,
        title=str(record.get("title") or name),
        paper=str(record.get("paper") or ""),
        kind=kind,
        place=place if isinstance(place, int) else LAST,
        bits=number(record.get("bits")),
        trains=trains or kind == "recover",
        task_data=task_data,
    )


def level_of(options: Mapping[str, Any]) -> Any:
    """Level of pruning of a step: the option sparsity, or the share of heads and channels."""
    return options.get("sparsity", options.get("share"))


def share(level: Any) -> float | None:
    """The share that a sparsity asks for: 0.5 of 0.5, of "0.5" and of "2:4"; None if it is none."""
    if isinstance(level, str) and ":" in level:
        pruned, _, of = level.partition(":")
        return int(pruned) / int(of) if pruned.isdigit() and of.isdigit() and int(of) else None
    return number(level)


def number(value: Any) -> float | None:
    """The value as a finite number; None if it is none."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


# ------------------------------------------------------------------------------ sources of facts

registered: Registry[Any] = Registry("method")  # by `@method`, as its files are imported: MethodEntry


def trains_on_text(step: Step) -> bool:
    """Whether a step trains on a corpus of its own."""
    found = known().get(step.method)
    return found is not None and found.trains and "corpus" in step.options


def retokenises(step: Step) -> bool:
    """Whether a model has a tokenizer of its own after a step."""
    found = known().get(step.method)
    return found is not None and found.retokenises


def recovery(recipe: Sequence[Step]) -> int | None:
    """The place of the step of the kind recover, of which a recipe has one at most; None without one."""
    facts = known()
    kinds = [facts[step.method].kind if step.method in facts else "" for step in recipe]
    return kinds.index("recover") if "recover" in kinds else None


def known() -> dict[str, Facts]:
    """The facts of kick's own methods, and of those that were registered in this process."""
    return {**shipped(), **registered}


@cache
def shipped() -> dict[str, Facts]:
    """The facts of kick's own methods by name, in the order of tables. Nothing is imported.

    Raises ValueError if an argument of a decorator is not written out as a plain value.
    """
    found = [facts for folder in FOLDERS for file in sorted(folder.glob("*.py")) for facts in read(file)]
    return {facts.name: facts for facts in sorted(found, key=lambda facts: (facts.order, facts.name))}


def read(file: Path) -> Iterator[Facts]:
    """The facts of the methods that a file defines, of its syntax tree.

    Raises ValueError if an argument of a decorator is not written out as a plain value.
    """
    for node in ast.parse(file.read_text("utf-8"), str(file)).body:
        for call in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "method":
                yield _facts(file, call)


def _facts(file: Path, call: ast.Call) -> Facts:
    try:
        places = [ast.literal_eval(one) for one in call.args]
        return Facts(*places, **{str(one.arg): ast.literal_eval(one.value) for one in call.keywords})
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{file}:{call.lineno}: the arguments of @method must be written out as plain values: {error}"
        ) from error
