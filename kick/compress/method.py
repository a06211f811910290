"""The table of methods, their options, and a step's canonical form.

A method is a frozen dataclass: its fields, made by `option`, are its options, and calling it with a model and
calibration compresses the model in place. Registering is one decorator; no other file is touched.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from torch import Tensor, nn

from kick import catalog, meaning
from kick.catalog import KINDS, Facts
from kick.compress import scope
from kick.compress.sparsity import Sparsity
from kick.errors import WrongOption
from kick.plugins import PREFIX
from kick.records import Step
from kick.registry import Registry, unknown


class Method(Protocol):
    """What is registered: a frozen dataclass whose fields are its options."""

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        """Compress the model in place."""


@dataclass(frozen=True)
class MethodEntry(Facts):
    """A method's row in the table: its facts and its class."""

    cls: type

    @cached_property
    def digest(self) -> str:
        """16 hex digits of what the method's code means, see `kick.meaning`; part of every key."""
        return meaning.digest(self.cls)


methods: Registry[MethodEntry] = catalog.registered


class method(Facts):
    """Enters a frozen dataclass into the table of methods: `@method("wanda", title=..., paper=..., ...)`.

    The arguments are the method's facts, written out as plain values, and the only place where they are.
    """

    def __call__(self, cls: type) -> type:
        """Enter the class. Raises TypeError for one that is not a method, ValueError for a name taken."""
        who = f"the method {self.name!r}"
        parameters = getattr(cls, "__dataclass_params__", None)
        if parameters is None or not parameters.frozen:
            raise TypeError(f"{who} must be a frozen dataclass: its fields are its options")
        for field in dataclasses.fields(cls):
            if "range" not in field.metadata:
                raise TypeError(f"{who}: the field {field.name!r} must be made by option(...)")
        if self.kind not in KINDS:
            raise TypeError(f"{who}: kind {self.kind!r}; expected one of {KINDS}")
        facts = {field.name: getattr(self, field.name) for field in dataclasses.fields(Facts)}
        entry = MethodEntry(**facts, cls=cls)
        methods.add(self.name, entry, cls.__module__)
        if cls.__module__.startswith(PREFIX):
            _ = entry.digest  # of the code that is imported, whatever the user's file says later
        return cls


@dataclass(frozen=True)
class Range:
    """What an option may be: numbers from `low` to `high`, or one of `choices`."""

    help: str
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None


def option(
    help: str,
    default: Any = dataclasses.MISSING,
    *,
    choices: Sequence[Any] = (),
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """A field of a method that can be set in a matrix file."""
    return dataclasses.field(default=default, metadata={"range": Range(help, tuple(choices), low, high)})


def canonical(name: str, options: Mapping[str, Any]) -> Step:
    """The step with every option written out as a JSON value; `only` and `sparsities` where they are given.

    Raises:
        UnknownName: no such method.
        WrongOption: an option that the method does not have, or whose value is not allowed; the message names
            the option, the value and what would be right.
        ValueError: the method needs an option that is not given.
    """
    entry = methods[name]
    if hasattr(entry.cls, "complete"):  # what the options name outside the matrix has to count in keys
        options = entry.cls.complete(options)
    beside = scope.OPTIONS if entry.kind == "prune" else ()
    written = options_of(name, entry.cls, options, beside)
    _instance(entry, written)
    return Step(name, written | scope.written(entry, options), entry.version, entry.digest)


def options_of(
    name: str, cls: type, options: Mapping[str, Any], beside: Sequence[str] = ()
) -> dict[str, Any]:
    """Every option of a class whose fields `option` made, written out as JSON values, defaults included.

    `beside` may be given too, and is left out. Raises WrongOption and ValueError as `canonical` does.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in options:
        if key not in fields and key not in beside:
            raise WrongOption(f"{name}: {unknown('option', str(key), fields)}", key)
    hints = typing.get_type_hints(cls)
    written = {}
    for key, field in fields.items():
        if key in options:
            written[key] = _json(_value(name, key, options[key], hints[key], field.metadata["range"]))
        elif field.default is not dataclasses.MISSING:
            written[key] = _json(field.default)
        else:
            raise ValueError(f"{name} needs the option {key!r}: {field.metadata['range'].help}")
    return written


def build(step: Step) -> Any:
    """The method of a canonical step, ready to be called."""
    own = {key: value for key, value in step.options.items() if key not in scope.OPTIONS}
    return _instance(methods[step.method], own)


def describe(name: str) -> dict[str, Any]:
    """A method's row as JSON values: its facts, doc, and its options."""
    entry = methods[name]
    options = shown_options(entry.cls, typing.get_type_hints(entry.cls))
    head = {field.name: getattr(entry, field.name) for field in dataclasses.fields(Facts)}
    doc = (inspect.getdoc(entry.cls) or "").partition("\n")[0]
    return head | {"needs": list(entry.needs), "doc": doc, "options": options}


def shown_options(cls: type, hints: Mapping[str, type]) -> list[dict[str, Any]]:
    """The options of a class whose fields `option` made, for people: name, type, default, choices, help."""
    options = []
    for field in dataclasses.fields(cls):
        allowed: Range = field.metadata["range"]
        required = field.default is dataclasses.MISSING
        options.append(
            {
                "name": field.name,
                "type": _type_name(hints[field.name]),
                "required": required,
                "default": None if required else _json(field.default),
                "choices": list(allowed.choices),
                "help": allowed.help,
            }
        )
    return options


def describe_all() -> list[dict[str, Any]]:
    """The rows of all methods, in the order of tables."""
    return [describe(name) for name in sorted(methods, key=lambda name: (methods[name].order, name))]


def _instance(entry: MethodEntry, written: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(entry.cls)
    values = {
        key: Sparsity.parse(value) if hints[key] is Sparsity else value for key, value in written.items()
    }
    return entry.cls(**values)


def _value(name: str, key: str, value: Any, hint: type, allowed: Range) -> Any:
    """`value` as the option's type. Raises WrongOption."""
    where = f"{name}: option {key!r}"
    try:
        if hint is not Sparsity:
            return _allowed(where, _typed(where, value, hint), allowed)
        return Sparsity.parse(value)
    except ValueError as error:
        raise WrongOption(f"{where}: {error}" if hint is Sparsity else str(error), key) from None


def _allowed(where: str, value: Any, allowed: Range) -> Any:
    if allowed.choices and value not in allowed.choices:
        raise ValueError(f"{where} is {value!r}; it must be one of {', '.join(map(str, allowed.choices))}")
    if allowed.low is not None and value < allowed.low:
        raise ValueError(f"{where} is {value!r}; it must be at least {allowed.low:g}")
    if allowed.high is not None and value > allowed.high:
        raise ValueError(f"{where} is {value!r}; it must be at most {allowed.high:g}")
    return value


def _typed(where: str, value: Any, hint: type) -> Any:
    wrong = ValueError(f"{where} is {value!r}; it must be {_type_name(hint)}")
    if hint is bool:
        if isinstance(value, bool):
            return value
        if value in ("true", "false"):  # from a command line
            return value == "true"
        raise wrong
    if isinstance(value, bool):
        raise wrong
    if hint is str:
        if isinstance(value, str):
            return value
        raise wrong
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise wrong from None
    if not math.isfinite(number) or (hint is int and number != int(number)):
        raise wrong
    return hint(number)


def _json(value: Any) -> Any:
    return value.value if isinstance(value, Sparsity) else value


def _type_name(hint: type) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return names.get(hint, 'a share such as 0.5, or "n:m" such as "2:4"')
