"""A matrix file, a preset's name, YAML text or a dict -> Matrix.

Every problem of a file is reported at once as `file:line: key: what was got; what is expected`.
Presets are matrix files beside this module, in presets/; `load` takes their name in place of a path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from os import PathLike, fspath
from pathlib import Path as File
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from kick.errors import KickError
from kick.matrix.schema import (
    ENTRY,
    REPLICA,
    CalibrationKeys,
    ChatKeys,
    CheckpointKeys,
    EngineKeys,
    Matrix,
    MethodKeys,
    OrderKeys,
    RecipeKeys,
    RunTimeKeys,
    StepKeys,
)
from kick.matrix.servers import EndpointEntry, EndpointKeys, JudgeKeys
from kick.matrix.values import Refused
from kick.matrix.yaml_marks import Marks, Path, Problem, read, refusal, show, spell
from kick.records import CalibrationSpec
from kick.registry import near, unknown

PRESETS = File(__file__).parent / "presets"
STOPS = ("decided", "off")  # of --stop


def presets() -> list[str]:
    """The names that `load` takes in place of a path."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


Given = str | PathLike[str] | Mapping[str, Any] | Matrix


def load(given: Given) -> Matrix:
    """The matrix of a file, of the preset of that name, of YAML text or of a dict.

    Text with a line break or an opening brace is YAML. Raises KickError with everything wrong in the matrix.
    """
    if isinstance(given, Matrix):
        return given
    if isinstance(given, Mapping):
        return _of_mapping(given)
    if isinstance(given, str) and ("\n" in given or given.lstrip().startswith("{")):
        return parse(given, "matrix")
    return _of_file(fspath(given))


def _of_mapping(given: Mapping[str, Any]) -> Matrix:
    """The matrix of a dict: as its YAML text would be read, with messages that name keys and no lines."""
    text = yaml.safe_dump(_values(given, ()), sort_keys=False, allow_unicode=True)
    return parse(text, "matrix", numbered=False)


def _values(value: Any, path: Path) -> Any:
    """`value` with plain values alone, as YAML has them. Raises KickError for others."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral | Real):
        return int(value) if isinstance(value, Integral) else float(value)
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str(key): _values(inner, (*path, key)) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_values(inner, (*path, number)) for number, inner in enumerate(value)]
    raise KickError(
        f"matrix: {spell(path) or 'the whole'}: got {type(value).__name__}; expected text, a number, true, "
        "false, None, a list, or a dict with text for keys"
    )


def _of_file(name: str) -> Matrix:
    path = File(name)
    preset = PRESETS / f"{name}.yaml"
    if path.name == name and not path.suffix and preset.is_file():
        path = preset
    if path.is_dir():
        raise KickError(
            f"{name} is a folder; a matrix is a .yaml file or one of the presets {', '.join(presets())}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise KickError(_absent(path, name)) from None
    except UnicodeDecodeError as error:
        raise KickError(
            f"{name}: not UTF-8 text at byte {error.start}; a matrix is a YAML text file"
        ) from None
    except OSError as error:
        raise KickError(f"{name}: cannot be read: {error.strerror}") from None
    return parse(text, name if path is not preset else f"kick/matrix/presets/{path.name}")


def _absent(path: File, name: str) -> str:
    if path.name == name and not path.suffix:
        beside = [other.name for other in File().glob("*.y*ml")]
        return f"no file and {unknown('preset', name, [*presets(), *beside])}"
    beside = [str(other) for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    close = near(name, [*beside, *presets()]) or near(path.stem, presets())
    hint = f"did you mean {' or '.join(close)}?" if close else f"presets are {', '.join(presets())}"
    return f"no such matrix file: {name}; {hint}"


def parse(text: str, source: str, *, numbered: bool = True) -> Matrix:
    """The matrix that `text` spells. Raises KickError with everything wrong in it, a line each.

    `numbered` False leaves line numbers out of messages.
    """
    value, marks, problems = read(text, source)
    marks = replace(marks, numbered=numbered)
    if not isinstance(value, dict):
        raise refusal(marks, [Problem((), "a matrix must be a mapping with name, model, tasks and variants")])
    try:
        matrix = Matrix.model_validate(value)
    except ValidationError as error:
        known = {problem.path for problem in problems}
        found = [_problem(item, marks) for item in error.errors() if not _echo(item)]
        problems += [problem for problem in found if problem.path not in known]
        raise refusal(marks, problems) from None
    problems += [
        Problem((name,), f"only with stop: decided, which this matrix does not have; got {show(value[name])}")
        for name in ("precision", "looks")
        if matrix.stop is None and getattr(matrix, name) is not None
    ]
    if problems:
        raise refusal(marks, problems)
    matrix._marks, matrix._text = marks, text
    return matrix


def with_stop(matrix: Matrix, stop: str | None) -> Matrix:
    """The matrix with `stop` decided or off in place of its own; None leaves it. Raises KickError for others.

    Off leaves out what only stopping reads.
    """
    if stop is None:
        return matrix
    if stop not in STOPS:
        raise KickError(f"--stop: {unknown('value', stop, STOPS)}")
    if stop == "off":
        return matrix.model_copy(update={"stop": None, "precision": None, "looks": None})
    return matrix.model_copy(update={"stop": stop})


def calibration(given: Mapping[str, Any]) -> CalibrationSpec:
    """The calibration of the keys of `calibration:`. Raises KickError with everything wrong in them, and for
    several."""
    whole = {"name": "calibration", "model": "smoke", "tasks": ["-"], "variants": ["dense"]}
    specs = _of_mapping({**whole, "calibration": given}).calibration.specs()
    if len(specs) > 1:
        raise KickError(f"calibration: got {len(specs)} ways to select text; expected one")
    return specs[0]


def _echo(error: Mapping[str, Any]) -> bool:
    """Whether pydantic finds a list too short only because its items are wrong, which it says too."""
    return bool(error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"])


def _problem(error: Mapping[str, Any], marks: Marks) -> Problem:
    """Problem that pydantic found, in our words and at its place in the file."""
    path = marks.clean(error["loc"])
    kind = error["type"]
    model, expected = _place(error["loc"])
    if kind == "extra_forbidden":
        return Problem(path, unknown("key", str(error["loc"][-1]), model.model_fields))
    if kind == "missing":
        return _missing(path, str(error["loc"][-1]), error["input"], model)
    reason = error.get("ctx", {}).get("error")
    if isinstance(reason, Refused):
        return Problem(path, str(reason))
    written = marks.texts.get(path)
    got = show(error["input"]) if not isinstance(error["input"], float) or written is None else written
    quotes = ", as text in quotes" if kind == "string_type" and written else ""
    return Problem(path, f"got {got}; expected: {expected}{quotes}")


def _missing(path: Path, name: str, given: Any, model: type[BaseModel]) -> Problem:
    strangers = [key for key in given if key not in model.model_fields] if isinstance(given, Mapping) else []
    close = near(name, strangers, most=1)
    if close:
        return Problem((*path, close[0]), unknown("key", close[0], model.model_fields))
    return Problem(path, f"the key {name!r} is missing; expected: {model.model_fields[name].description}")


def _place(location: tuple[str | int, ...]) -> tuple[type[BaseModel], str]:
    """The part of the matrix that a pydantic location leads to, and what is expected there."""
    model: type[BaseModel] = Matrix
    expected, item = "a mapping", ""
    for element in location:
        if isinstance(element, int):
            expected = item or expected
        elif element in _INSIDE:
            model, expected = _INSIDE[element], "a mapping" if element in ("<chat>", "<order>") else ENTRY
        elif element in model.model_fields:
            expected = model.model_fields[element].description or expected
            item = _ITEMS.get(element, expected)
            model = _INSIDE.get(f"<{element}> inside", model)
    return model, expected


_ITEMS = {
    "tasks": "the name of a task or group",
    "seeds": "a whole number from 0 to 2^64 - 1",
    "replicas": REPLICA,
    "looks": "a whole number of at least 2",
    "variants": ENTRY,
    "recipe": "{method: ..., option: ...}",
    "method": "a method's name",
}
_INSIDE: dict[str, type[BaseModel]] = {
    "<method>": MethodKeys,
    "<recipe>": RecipeKeys,
    "<checkpoint>": CheckpointKeys,
    "<endpoint>": EndpointEntry,
    "<endpoint> inside": EndpointKeys,
    "<recipe> inside": StepKeys,
    "<runtime>": RunTimeKeys,
    "<runtime> inside": StepKeys,
    "<chat>": ChatKeys,
    "<order>": OrderKeys,
    "<calibration> inside": CalibrationKeys,
    "<engine> inside": EngineKeys,
    "<judge> inside": JudgeKeys,
}
