"""A matrix file -> Matrix.

Every problem of a file is found in one go and told as `file:line: key: what was got; what would be right`.
Presets are matrix files beside this module, in presets/; `load` takes their name in place of a path.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as File
from typing import Any

from pydantic import BaseModel, ValidationError

from kick.errors import KickError
from kick.matrix.schema import (
    ENTRY,
    CalibrationKeys,
    ChatKeys,
    CheckpointKeys,
    EngineKeys,
    JudgeKeys,
    Matrix,
    MethodKeys,
    RecipeKeys,
    Refused,
    StepKeys,
)
from kick.matrix.yaml_marks import Marks, Path, Problem, read, refusal, show
from kick.registry import near, unknown

PRESETS = File(__file__).parent / "presets"


def presets() -> list[str]:
    """The names that `load` takes in place of a path."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load(name: str | File) -> Matrix:
    """The matrix of a file, or of the preset of that name. Raises KickError with everything wrong in it."""
    path = File(name)
    preset = PRESETS / f"{name}.yaml"
    if path.name == str(name) and not path.suffix and preset.is_file():
        path = preset
    if path.is_dir():
        raise KickError(
            f"{name} is a folder; a matrix is a .yaml file or one of the presets {', '.join(presets())}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise KickError(_absent(path, str(name))) from None
    except UnicodeDecodeError as error:
        raise KickError(
            f"{name}: not UTF-8 text at byte {error.start}; a matrix is a YAML text file"
        ) from None
    except OSError as error:
        raise KickError(f"{name}: cannot be read: {error.strerror}") from None
    return parse(text, str(name) if path is not preset else f"kick/matrix/presets/{path.name}")


def _absent(path: File, name: str) -> str:
    if path.name == name and not path.suffix:
        beside = [other.name for other in File().glob("*.y*ml")]
        return f"no file and {unknown('preset', name, [*presets(), *beside])}"
    beside = [str(other) for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    close = near(name, [*beside, *presets()]) or near(path.stem, presets())
    hint = f"did you mean {' or '.join(close)}?" if close else f"presets are {', '.join(presets())}"
    return f"no such matrix file: {name}; {hint}"


def parse(text: str, source: str) -> Matrix:
    """The matrix that `text` spells. Raises KickError with everything wrong in it, a line each."""
    value, marks, problems = read(text, source)
    if not isinstance(value, dict):
        raise refusal(marks, [Problem((), "a matrix is a mapping with name, model, tasks and variants")])
    try:
        matrix = Matrix.model_validate(value)
    except ValidationError as error:
        known = {problem.path for problem in problems}
        found = [_problem(item, marks) for item in error.errors() if not _echo(item)]
        problems += [problem for problem in found if problem.path not in known]
        raise refusal(marks, problems) from None
    if problems:
        raise refusal(marks, problems)
    matrix._marks, matrix._text = marks, text
    return matrix


def _echo(error: Mapping[str, Any]) -> bool:
    """Whether pydantic finds a list too short only because its items are wrong, which it says too."""
    return error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]


def _problem(error: Mapping[str, Any], marks: Marks) -> Problem:
    """What pydantic found, in our words and at its place in the file."""
    path = marks.clean(error["loc"])
    kind = error["type"]
    model, wanted = _place(error["loc"])
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
    return Problem(path, f"got {got}; wanted: {wanted}{quotes}")


def _missing(path: Path, name: str, given: Any, model: type[BaseModel]) -> Problem:
    strangers = [key for key in given if key not in model.model_fields] if isinstance(given, Mapping) else []
    close = near(name, strangers, most=1)
    if close:
        return Problem((*path, close[0]), unknown("key", close[0], model.model_fields))
    return Problem(path, f"the key {name!r} is missing; wanted: {model.model_fields[name].description}")


def _place(location: tuple[str | int, ...]) -> tuple[type[BaseModel], str]:
    """The part of the matrix that a pydantic location leads to, and what is wanted there."""
    model: type[BaseModel] = Matrix
    wanted, item = "a mapping", ""
    for element in location:
        if element in _INSIDE:
            model, wanted = _INSIDE[element], "a mapping" if element == "<chat>" else ENTRY
        elif isinstance(element, int):
            wanted = item or wanted
        elif element in model.model_fields:
            wanted = model.model_fields[element].description or wanted
            item = _ITEMS.get(element, wanted)
            model = _INSIDE.get(f"<{element}> inside", model)
    return model, wanted


_ITEMS = {
    "tasks": "the name of a task or group",
    "seeds": "a whole number from 0 to 2^64 - 1",
    "replicas": "batch or dtype",
    "variants": ENTRY,
    "recipe": "{method: ..., option: ...}",
    "method": "a method's name",
}
_INSIDE = {
    "<method>": MethodKeys,
    "<recipe>": RecipeKeys,
    "<checkpoint>": CheckpointKeys,
    "<recipe> inside": StepKeys,
    "<chat>": ChatKeys,
    "<calibration> inside": CalibrationKeys,
    "<engine> inside": EngineKeys,
    "<judge> inside": JudgeKeys,
}
