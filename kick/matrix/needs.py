"""Needs of a matrix from elsewhere, looked for before anything slow: data sets, models, an engine's parts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path as File
from typing import Any

from kick import hub
from kick.engine.backend import VLLM, identity, named
from kick.errors import KickError
from kick.matrix.schema import CheckpointKeys, Matrix
from kick.matrix.yaml_marks import Path, Problem, refusal


def check(matrix: Matrix, folders: Sequence[File] = (), data_root: str | None = None) -> None:
    """Refuse data sets and models that are not on this machine if the hub cannot be asked, and an engine
    whose package is not here.

    Args:
        folders: of the user's own task files.
        data_root: the local mirror of data sets, in place of the matrix's own.
    """
    problems = [
        *_engine(matrix),
        *_data(matrix, folders, data_root or matrix.data_root),
        *_models(matrix),
    ]
    if problems:
        raise refusal(matrix.marks, problems)


def _engine(matrix: Matrix) -> list[Problem]:
    """What the engine lacks: the package that answers, or a way to obey the matrix."""
    name = matrix.engine.name
    if not named(name).apart:
        return []
    problems = []
    try:
        identity(name)
    except KickError as error:
        problems.append(Problem(("engine", "name"), str(error)))
    if matrix.generation_config == "model":
        message = f"the engine {name!r} obeys nothing of a model's generation configuration; leave it out"
        problems.append(Problem(("generation_config",), message))
    if name == VLLM and matrix.dtype == "float32":
        problems += _packed(matrix)
    return problems


def _packed(matrix: Matrix) -> list[Problem]:
    """Models of packed weights, which vLLM multiplies in half precision alone: a float32 matrix has none."""
    return [
        Problem(
            path,
            f"{name} has weights packed by {form}, which vLLM multiplies in half precision alone, and the "
            "matrix has dtype: float32; expected: dtype: bfloat16 or float16",
        )
        for path, name in _named(matrix)
        if (form := _packing(File(name).expanduser()))
    ]


def _packing(folder: File) -> str:
    """The format of a folder's packed weights, "" if they are not packed or it is not a folder."""
    config = folder / "config.json"
    if not config.is_file():
        return ""
    try:
        found = json.loads(config.read_text("utf-8"))
    except ValueError:
        return ""  # the plan says what is wrong with it
    said = (found.get("quantization_config") if isinstance(found, dict) else None) or {}
    method = str(said.get("quant_method", ""))
    packed = method in ("gptq", "awq") or said.get("format") == "pack-quantized"
    return method if packed else ""


def _data(matrix: Matrix, folders: Sequence[File], data_root: str | None) -> list[Problem]:
    from kick.tasks import data, index

    root = data_root or os.environ.get(data.ROOT_VARIABLE)
    if root and not File(root).is_dir():
        return []  # the plan says what is wrong with it
    files, problems = index.own(folders), []
    for place, name in enumerate(matrix.tasks):
        lacking = [
            path
            for leaf in index.expand([name], folders)
            for path, part in (_sets(files[leaf][1]) if leaf in files else ())
            if not (root and data.has_set(path, part, root)) and not _hub_has(path)
        ]
        if lacking:
            several = "data sets" if len(set(lacking)) > 1 else "data set"
            message = (
                f"{name} needs the {several} {', '.join(dict.fromkeys(lacking))}; searched: "
                f"{data.mirror_text(root)}, the hub's files on this machine, {_hub_text(lacking)}"
            )
            problems.append(Problem(("tasks", place), message))
    return problems


def _hub_has(path: str) -> bool:
    """Whether a data set may be read from the hub, or from what its libraries keep here."""
    from kick.tasks import data

    return path not in data.NOT_ON_THE_HUB and (hub.kept("datasets", path) or hub.online())


def _hub_text(lacking: Sequence[str]) -> str:
    from kick.tasks import data

    apart = data.NOT_ON_THE_HUB.issuperset(lacking)
    return (
        "and they are not on the hub" if apart else "and the hub cannot be asked (--offline, or no network)"
    )


def _sets(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The hub's data sets that a task file names, each with its configuration."""
    from kick.tasks import data, files

    path, options = config.get("dataset_path"), config.get("dataset_kwargs") or {}
    custom = config.get("custom_dataset")
    if not custom:
        given = isinstance(path, str) and path not in files.LOCAL and not File(path).exists()
        return [(str(path), str(config.get("dataset_name") or ""))] if given else []
    if not str(custom).startswith("kick.tasks."):
        return []
    named = [options.get(key) for key in ("path", "references")]
    return [(one, str(options.get("name") or "")) for one in named if one in data.MIRROR]


def _models(matrix: Matrix) -> list[Problem]:
    """The models that are named as the hub names them, and neither here nor to be fetched."""
    return [
        Problem(path, f"the model {name!r} is not on this machine and the hub cannot be asked")
        for path, name in _named(matrix)
        if _of_hub(name) and not hub.kept("models", name) and not hub.online()
    ]


def _named(matrix: Matrix) -> list[tuple[Path, str]]:
    """The names of the matrix's model and checkpoints, with their places."""
    return [
        (("model",), matrix.model),
        *(
            (("variants", place, "checkpoint"), entry.checkpoint)
            for place, entry in enumerate(matrix.variants)
            if isinstance(entry, CheckpointKeys)
        ),
    ]


def _of_hub(name: str) -> bool:
    """Whether a model's name is that of the hub: owner/name, and not of a file or folder."""
    owner, _, rest = name.partition("/")
    plain = bool(owner and rest) and "/" not in rest and not name.startswith(("~", ".", "/"))
    return plain and not name.endswith(".gguf") and not File(name).exists()
