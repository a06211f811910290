"""Results as a data set repository of the hub: pushed with a data card, pulled cell by cell.

A push sends the cells of a folder (run.json, samples.parquet) and costs.json, nothing else that lies there. A
pull takes cells whose checksums fit into a folder of results; what is there already stays.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from kick import hub
from kick.analysis import cost, frame
from kick.analysis.headlines import info
from kick.errors import Damaged, KickError
from kick.printable import counted, plain
from kick.records import Result
from kick.store import Store, costs, opened
from kick.store.files import LocalFiles
from kick.store.json_files import RUN
from kick.store.status import SAMPLES

if TYPE_CHECKING:
    from huggingface_hub import HfApi

KIND = "dataset"
CARD = "README.md"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_FILES = (RUN, SAMPLES, costs.FILE)
HINTS = {401: "is HF_TOKEN set?", 403: "may this token write there?", 404: "is it there?"}
LISTED = 40  # variants and tasks that the card names


@dataclass(frozen=True)
class Push:
    """What a push sends: by path in the repository, files of the store and texts, README.md the data card.

    size: bytes of all of them. left: cells that are not sent, each with the reason.
    """

    repository: str
    store: Store
    files: dict[str, str]
    texts: dict[str, str]
    cells: int
    size: int
    left: tuple[str, ...] = ()

    @property
    def card(self) -> str:
        """The data card."""
        return self.texts[CARD]


@dataclass(frozen=True)
class Pulled:
    """What a pull brought: the commit it is of, cells taken, cells that were there, and those left out."""

    commit: str
    folders: tuple[str, ...]
    taken: int
    known: int
    left: tuple[str, ...]


def prepare(results: str, repository: str, *, unshown: bool = False) -> Push:
    """What a push of these results would send. Raises KickError for a wrong name or without cells.

    unshown: send cells too whose answers no page shows.
    """
    _check(repository)
    store = opened(results)
    done = [run for run in store.runs() if store.done(run.key)]
    if not done:
        raise KickError(f"{results} has no finished cell; `kick run` makes some")
    kept_back = {run.key: why for run in done if not unshown and (why := info(run).unshown)}
    runs = [run for run in done if run.key not in kept_back]
    left = [
        f"{run.cell.variant.name}, {run.cell.task.name}: {kept_back[run.key]}"
        for run in done
        if run.key in kept_back
    ]
    if not runs:
        raise KickError(f"{results} has only {'; '.join(left)}: --unshown sends them")
    files = {
        f"{run.matrix}/{run.key}/{name}": f"{store.folder(run.key)}/{name}"
        for run in runs
        for name in (RUN, SAMPLES)
    }
    texts = {**_costs(store, runs), CARD: card(store, runs, repository)}
    size = sum(len(store.files.read(path)) for path in files.values())
    size += sum(len(text.encode()) for text in texts.values())
    return Push(repository, store, files, texts, len(runs), size, tuple(left))


def _costs(store: Store, runs: Sequence[Result]) -> dict[str, str]:
    """A costs.json per matrix that has some: the records of its variants, wherever they lie in the folder."""
    found = {}
    for matrix in dict.fromkeys(run.matrix for run in runs):
        own = {cost.identity(run.cell.variant) for run in runs if run.matrix == matrix}
        records = [one for one in costs.read(store.files) if one.get("identity") in own]
        if records:
            found[f"{matrix}/{costs.FILE}"] = costs.text(records)
    return found


def push(what: Push, *, private: bool = True) -> str:
    """Send it in one commit, into a repository that is made if it is not there; the commit's address.

    Raises KickError if the hub does not answer or refuses.
    """
    from huggingface_hub import CommitOperationAdd

    api = _api()
    with _told(what.repository), tempfile.TemporaryDirectory() as scratch:
        operations = [CommitOperationAdd(path, text.encode()) for path, text in what.texts.items()]
        operations += [CommitOperationAdd(path, str(file)) for path, file in _on_disk(what, Path(scratch))]
        api.create_repo(what.repository, repo_type=KIND, private=private, exist_ok=True)
        made = api.create_commit(
            what.repository,
            operations,
            repo_type=KIND,
            commit_message=f"{counted(what.cells, 'cell')} of kick",
        )
    return str(made.commit_url)


def _on_disk(what: Push, scratch: Path) -> Iterator[tuple[str, Path]]:
    """The store's files as files of this machine; those of an object store are copied one by one."""
    local = isinstance(what.store.files, LocalFiles)
    for path, place in what.files.items():
        file = Path(what.store.root) / place if local else scratch / path
        if not local:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(what.store.files.read(place))
        yield path, file


def pull(repository: str, out: str, revision: str | None = None) -> Pulled:
    """Take the cells of a repository into the folder of results `out`, each checked against its checksums.

    Raises KickError if the hub does not answer, or there is no such repository, revision or cell.
    """
    _check(repository)
    with _told(repository):
        folder = Path(
            _api().snapshot_download(
                repository,
                repo_type=KIND,
                revision=revision,
                allow_patterns=[f"*/{name}" for name in _FILES],
            )
        )
    theirs = Store(folder)
    taken, known = 0, 0
    left: list[str] = []
    matrices: dict[str, None] = {}
    for run in theirs.runs():
        ours = Store(out, run.matrix)
        matrices[run.matrix] = None
        if ours.done(run.key):
            known += 1
            continue
        try:
            ours.put(run, theirs.samples(run.key))
        except Damaged as error:
            left.append(plain(f"{run.matrix}/{run.key}: {error}"))
            continue
        taken += 1
    if not matrices:
        raise KickError(f"{repository} has no cell of kick in it (commit {folder.name})")
    for matrix in matrices:
        records = costs.read(theirs.files, matrix)
        if records:
            costs.add(Store(out).files, matrix, records)
    folders = tuple(str(Path(out) / matrix) for matrix in matrices)
    return Pulled(folder.name, folders, taken, known, tuple(left))


def card(store: Store, runs: Sequence[Result], repository: str) -> str:
    """The data card: front matter that the hub reads, what was measured, the scores, how to read it."""
    from kick.report import tables

    models = sorted({run.cell.variant.model.title for run in runs if run.cell.variant.dense})
    head = {
        "pretty_name": f"kick results: {', '.join(models) or 'compressed models'}",
        "tags": ["kick", "model-compression", "evaluation"],
        "configs": [{"config_name": "samples", "data_files": "*/*/samples.parquet"}],
    }
    scores = tables.known["scores"].make(frame.read([store]).frame)
    variants = _listed(run.cell.variant.name for run in runs)
    tasks = _listed(run.cell.task.name for run in runs)
    versions = _listed(str(run.provenance.get("kick", "")) for run in runs)
    lines = [
        f"# What compression does to {', '.join(models) or 'these models'}",
        f"{counted(len(runs), 'cell')} measured by kick {versions}: variants {variants}; tasks {tasks}.",
        "Each folder `<matrix>/<key>/` is a variant on a task: `run.json` has its scores with intervals, the "
        "recipe, versions, machine and command; `samples.parquet` has every answer and item score.",
        scores.markdown(),
        f"## Reading it\n\n```\nkick pull {repository} --out results\nkick leaderboard "
        f"results/{runs[0].matrix} --out page\n```",
    ]
    front = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n\n".join(lines) + "\n"


def _listed(names: Iterable[str]) -> str:
    found = list(dict.fromkeys(plain(name) for name in names if name))
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return ", ".join(found[:LISTED]) + more


def _check(repository: str) -> None:
    if not _NAME.fullmatch(repository):
        raise KickError(f"{repository!r} is not the name of a repository; expected owner/name")


def _api() -> HfApi:
    """The hub's client. Raises KickError if the hub is not to be asked or does not answer."""
    if not hub.online():
        raise KickError("the hub cannot be asked (HF_HUB_OFFLINE, or no network); nothing was sent or taken")
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"))


@contextmanager
def _told(repository: str) -> Iterator[None]:
    """Within it the hub's errors are KickErrors, without the token that requests carry."""
    from httpx import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, LocalTokenNotFoundError

    try:
        yield
    except LocalTokenNotFoundError:
        raise KickError("the hub needs a token: `hf auth login`, or set HF_TOKEN") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, HTTPError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        why = f"HTTP {status}" if status else type(error).__name__
        hint = HINTS.get(status or 0, "try again later")
        raise KickError(f"the hub refused {repository}: {why}; {hint}") from None
