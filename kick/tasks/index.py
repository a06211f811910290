"""Finds task files, lists their names without lm-eval, and loads them as Tasks.

Our own files are parsed first and strictly: lm-eval skips a broken YAML without a word. lm-eval's own tasks
are indexed only when a name is not ours, since that takes it 15 seconds. Names of mteb's tasks begin with
`mteb_`; those are not listed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml

from kick import hub
from kick.errors import KickError
from kick.registry import near, unknown
from kick.tasks import data, lm_eval_names, mteb_data
from kick.tasks import files as written
from kick.tasks.protocol import facts_of, protocols
from kick.tasks.task import FunctionName, Task
from kick.tasks.telling import told

log = logging.getLogger(__name__)

# The keys of `metadata.kick` that every task may have; a protocol has more of its own
_OWN = (
    "protocol",
    "title",
    "family",
    "primary",
    "group",
    "judge",
    "pair",
    "sample",
    "standard_error",
    "unshown",
    "document",
)
# where lm-eval takes worked examples from: the first of these that a task names
EXAMPLES = ("fewshot_split", "training_split", "validation_split", "test_split")


if yaml.__with_libyaml__:  # seven times as fast, and what lm-eval itself reads task files with
    from yaml import CSafeLoader as SafeLoader
else:
    from yaml import SafeLoader  # type: ignore[assignment]


class _SafeLoader(SafeLoader):
    """PyYAML's safe loader, which makes no objects; `!function module.name` stays text, a FunctionName."""


def _mapping(loader: _SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    """A mapping whose keys are all different; plain YAML keeps the last of equal ones without a word."""
    seen: set[str] = set()
    for key, _ in node.value:
        name = str(key.value)
        if name in seen:
            raise yaml.MarkedYAMLError(problem=f"the key {name!r} appears twice", problem_mark=key.start_mark)
        seen.add(name)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


def _function(loader: _SafeLoader, node: yaml.ScalarNode) -> FunctionName:
    return FunctionName(loader.construct_scalar(node))


_SafeLoader.add_constructor("!function", _function)
_SafeLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(file: Path, including: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A task file with its includes merged in, functions as text. Raises KickError if it is broken.

    `including`: the files that led here by their includes.
    """
    if file in including:
        raise KickError(f"task file {file} includes itself, through {including[-1]}")
    try:
        config = yaml.load(file.read_text("utf-8"), Loader=_SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KickError(f"task file {file} is not valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise KickError(f"task file {file} must be a mapping of keys, got {type(config).__name__}")
    config = written.located(config, file.parent)
    includes = config.pop("include", [])
    merged: dict[str, Any] = {}
    for include in [includes] if isinstance(includes, str) else includes:
        if not (file.parent / include).is_file():
            raise KickError(f"task file {file} includes {include!r}, which is not there")
        merged |= read_yaml(file.parent / include, (*including, file))
    return merged | config


@cache
def _files(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Task and group names of a folder, each with its file and content."""
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for file in sorted(folder.rglob("*.yaml")):
        if file.name.startswith("_"):
            continue
        config = read_yaml(file)
        name = config.get("group") or config.get("task")
        if not isinstance(name, str):
            raise KickError(f"task file {file} names no task or group; the key `task` is missing")
        if not name.isprintable():
            raise KickError(f"task file {file}: task: {name!r} has characters in it that cannot be printed")
        if name in found:
            raise KickError(f"task {name!r} is defined twice: {found[name][0]} and {file}")
        _check_form(file, config)
        found[name] = (file, config)
    return found


def _check_form(file: Path, config: Mapping[str, Any]) -> None:
    """Raises KickError for keys that are read here and have another form."""
    metadata = config.get("metadata")
    own = metadata.get("kick") if isinstance(metadata, dict) else None
    for key, value in (("metadata", metadata), ("metadata.kick", own)):
        if value is not None and not isinstance(value, dict):
            raise KickError(f"task file {file}: {key}: got {value!r}; expected: a mapping of keys")
    _check_own(file, own or {})
    metrics = config.get("metric_list")
    if metrics is not None and not (isinstance(metrics, list) and all(isinstance(m, dict) for m in metrics)):
        raise KickError(
            f"task file {file}: metric_list: got {metrics!r}; expected: a list as [{{metric: exact_match}}]"
        )


def _check_own(file: Path, own: Mapping[str, Any]) -> None:
    """Raises KickError for a protocol that is not known, and for keys that it does not have."""
    where, name = f"task file {file}: metadata.kick", own.get("protocol")
    facts = protocols.facts()
    if name is not None and name not in facts:
        raise KickError(f"{where}: {unknown('protocol', str(name), facts)}")
    keys = (*_OWN, *(facts[name].keys if name else ()))
    for key in sorted(set(own) - set(keys)):
        if others := [one.name for one in facts.values() if key in one.keys]:
            has = f"the protocol is {name}" if name else "there is no protocol"
            raise KickError(f"{where}: the key {key!r} belongs to protocol: {others[0]}; here {has}")
        raise KickError(f"{where}: {unknown('key', key, keys)}")
    if not isinstance(own.get("family", ""), str):
        raise KickError(f"{where}: family: got {own['family']!r}; expected: text, such as factoid_qa")


def own(extra: Sequence[Path] = ()) -> dict[str, tuple[Path, dict[str, Any]]]:
    """All of kick's task files, and those of the folders that the user named."""
    found = dict(_files(data.tasks_folder()))
    for folder in extra:
        for name, (file, config) in _files(Path(folder).resolve()).items():
            if name in found and found[name][0].resolve() != file:
                raise KickError(f"task {name!r} is defined twice: {found[name][0]} and {file}")
            found[name] = (file, config)
    return found


def names(extra: Sequence[Path] = ()) -> list[str]:
    """Names of kick's tasks and groups, sorted. lm-eval's own are not among them."""
    return sorted(own(extra))


def describe(extra: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """One record a task or group, for `kick tasks`: name, kind, title, members, metrics, file."""
    return [_description(name, file, config) for name, (file, config) in sorted(own(extra).items())]


def _description(name: str, file: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    options = (config.get("metadata") or {}).get("kick") or {}
    group = "group" in config
    return {
        "name": name,
        "kind": "group" if group else options.get("protocol", config.get("output_type")),
        "title": options.get("title", config.get("task_alias", "")),
        "members": _members(name, config) if group else [],
        "primary": options.get("primary"),
        "metrics": _metrics(config, options),
        "file": str(file),
    }


def _metrics(config: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """What kick reports of a task; under some protocols that is not what lm-eval reports."""
    facts = facts_of(options)
    if facts and facts.metrics:
        return list(facts.metrics)
    return [m["metric"] for m in config.get("metric_list", []) if isinstance(m.get("metric"), str)]


def expand(wanted: Iterable[str], extra: Sequence[Path] = ()) -> list[str]:
    """The leaf tasks of tasks and groups, each once, in the order given. Unknown names stay as they are."""
    files = own(extra)
    leaves: dict[str, None] = {}
    for name in wanted:
        config = files[name][1] if name in files else {}
        if "group" in config:
            leaves |= dict.fromkeys(expand(_members(name, config), extra))
        else:
            leaves[name] = None
    return list(leaves)


# keys of a group's member that change no number of its tasks
_NAMING = {"task", "task_alias", "group", "group_alias", "aggregate_metric_list", "metadata"}


def _members(group: str, config: Mapping[str, Any]) -> list[str]:
    """The names in a group and the groups written inside it.

    Raises KickError for a member with options of its own, which would be lost.
    """
    found = []
    for member in config.get("task") or []:
        if isinstance(member, str):
            found.append(member)
        elif not isinstance(member, dict) or not set(member) <= _NAMING or not member.get("task"):
            raise KickError(
                f"group {group}: a member must be the name of a task, got {member!r}; "
                "options need a task file of their own that includes the other one"
            )
        else:
            inner = member["task"]
            found += [inner] if isinstance(inner, str) else _members(member.get("group", group), member)
    return found


def load(wanted: Iterable[str], data_root: str | None = None, extra: Sequence[Path] = ()) -> dict[str, Task]:
    """The tasks of these names, groups expanded, with their data read.

    Raises KickError for an unknown name, a broken file or a data set that is in no place searched.
    """
    leaves = expand(wanted, extra)
    files = own(extra)
    foreign = [name for name in leaves if name not in files and not mteb_data.named(name)]
    root = data_root or os.environ.get(data.ROOT_VARIABLE)
    check_names(leaves, extra)
    manager = _manager(tuple(map(str, extra)), bool(foreign), root)
    tasks: dict[str, Task] = {}
    for name in leaves:
        if name in files:
            file, config = files[name]
            with told(name, file):
                tasks[name] = _own_task(name, manager, config, root)
        elif mteb_data.named(name):
            with told(name, mteb_data.PACKAGE):
                tasks[name] = _of_mteb(name, root)
        else:
            tasks |= _foreign(name, manager, root, files)
    return tasks


def check_names(wanted: Iterable[str], extra: Sequence[Path] = ()) -> None:
    """Raises KickError for a name that neither kick nor lm-eval has, a group's member too, and for a task of
    mteb without that package. Reads no data, and not mteb's names, which takes long."""
    files = own(extra)
    foreign = [name for name in expand(wanted, extra) if name not in files]
    for name in filter(mteb_data.named, foreign):
        mteb_data.check_installed(name)
    foreign = [name for name in foreign if not mteb_data.named(name)]
    theirs = lm_eval_names.names() if foreign else frozenset()
    for name in foreign:
        if name not in theirs:
            close = near(name, [*files, *theirs])
            like = (
                f"did you mean {' or '.join(map(repr, close))}?"
                if close
                else f"available: {', '.join(files)}"
            )
            raise KickError(f"unknown task {name!r}, of kick and of lm-eval; {like}")


def _own_task(name: str, manager: Any, config: Mapping[str, Any], root: str | None) -> Task:
    from kick.tasks.lm_eval_task import HarnessTask

    protocol = ((config.get("metadata") or {}).get("kick") or {}).get("protocol")
    kind = protocols[protocol] if protocol else HarnessTask
    return kind(name, _built(manager, name, config, root, _from_files(config)), config)


def _of_mteb(name: str, root: str | None) -> Task:
    from kick.tasks import mteb_task

    return mteb_task.load(name, root)


def _from_files(config: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a task read its user's files, as they are written where that can be."""
    form, options = config.get("dataset_path"), config.get("dataset_kwargs") or {}
    if config.get("custom_dataset") or form not in written.LOCAL or not options.get("data_files"):
        return {}
    if not written.ours(form, options):
        return {"dataset_kwargs": options}
    return {"custom_dataset": partial(written.load, form, options), "dataset_kwargs": {}, "metadata": {}}


def _foreign(name: str, manager: Any, root: str | None, files: Mapping[str, Any]) -> dict[str, Task]:
    """lm-eval's own task or group of that name, its data from the mirror where there is one."""
    from lm_eval.tasks._yaml_loader import load_yaml

    from kick.tasks.lm_eval_task import HarnessTask

    if name not in manager.task_index:
        raise KickError(unknown("task", name, [*files, *manager.all_tasks]))
    loaded: dict[str, Task] = {}
    for leaf in _leaves(manager, name):
        entry = manager.task_index[leaf]
        config = load_yaml(entry.yaml_path, resolve_func=False) if entry.yaml_path else {}
        config = {key: _portable(value) for key, value in config.items()}
        override = _from_mirror(config, root)
        task = HarnessTask(leaf, _built(manager, leaf, config, root, override), config)
        source = next((key for key in EXAMPLES if config.get(key)), "")
        if source in override:
            task.no_examples = f"the mirror has no split {config[source]!r} to take worked examples from"
        loaded[leaf] = task
    return loaded


def _leaves(manager: Any, name: str) -> list[str]:
    entry = manager.task_index[name]
    if entry.kind.name == "TAG":
        return [leaf for tag in sorted(entry.tags) for leaf in _leaves(manager, tag)]
    if entry.kind.name != "GROUP":
        return [name]
    return [leaf for member in _members(name, entry.cfg) for leaf in _leaves(manager, member)]


def _portable(value: Any) -> Any:
    """A config value without the folder of this machine that lm-eval writes before a function's name."""
    if isinstance(value, str) and value.startswith("/") and "/tasks/" in value:
        return FunctionName(value.rsplit("/tasks/", 1)[1])
    if isinstance(value, list):
        return [_portable(v) for v in value]
    return {k: _portable(v) for k, v in value.items()} if isinstance(value, dict) else value


def _from_mirror(config: Mapping[str, Any], root: str | None) -> dict[str, Any]:
    """What makes a task of lm-eval read the mirror, which may lack splits that only examples need."""
    path = config.get("dataset_path")
    if not root or path not in data.MIRROR:
        return {}
    name = config.get("dataset_name") or ""
    asked = "test_split" if config.get("test_split") else "validation_split"
    named = [key for key in EXAMPLES if config.get(key)]
    lacking = [key for key in named if not data.has_split(path, name, config[key], root)]
    absent = {key: None for key in lacking if key != asked}  # what is asked must be there: `load` says so
    splits = sorted({config[key] for key in named if key not in absent})
    return {
        **absent,
        "custom_dataset": partial(data.load, path=path, splits=splits, name=name, root=root),
        "dataset_kwargs": {},
        "metadata": {},
    }


def _built(
    manager: Any,
    name: str,
    config: Mapping[str, Any],
    root: str | None,
    override: Mapping[str, Any] | None = None,
) -> Any:
    """lm-eval's Task object of that name. A task can be overridden only inside a group."""
    spec = {"group": "kick", "task": [{"task": name, **override}]} if override else name
    if not override and config.get("dataset_path") and not config.get("custom_dataset"):
        hub.online()  # else its libraries would try for long
    try:
        return manager.load([spec])["tasks"][name]
    except OSError as error:  # where lm-eval reads the data itself
        path, split = config.get("dataset_path") or name, config.get("test_split") or "validation"
        found = data.not_found(path, config.get("dataset_name") or "", split, root, error)
        raise KickError(f"task {name}: {found}") from error
    except IndexError as error:
        raise KickError(
            f"task {name}: doc_to_target gives no place among the choices; a template that gives digits "
            "is a place counted from 0; expected: the name of a field, such as doc_to_target: answer"
        ) from error
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise KickError(f"task {name} cannot be loaded: {type(error).__name__}: {error}") from error


@cache
def _manager(extra: tuple[str, ...], defaults: bool, data_root: str | None) -> Any:
    """lm-eval's TaskManager over our folder and the user's."""
    if defaults:
        log.info("a task is not one of kick's: indexing lm-eval's own, which takes about 15 seconds")
    for noisy in ("lm_eval", "lm_eval.api.task", "lm_eval.config.task", "lm_eval.tasks"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    from lm_eval.tasks import TaskManager

    folders = [str(data.tasks_folder()), *extra]
    metadata = {"root": data_root} if data_root else None
    return TaskManager(include_path=folders, include_defaults=defaults, metadata=metadata)
