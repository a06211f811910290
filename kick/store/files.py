"""Files under one root, on a disk or behind an fsspec URL: a write is there whole or not at all.

Everything the store keeps goes through `Files`: a write lands beside its name and is renamed (a disk) or is
one PUT (an object store), `create` is put-if-absent, and what the system refuses comes back as a StoreError
that says what to do.
"""

from __future__ import annotations

import errno
import importlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from kick.errors import KickError
from kick.store.processes import mark

TEMPORARY = ".tmp"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CELL = {"run.json", "failed.json", "claim.json", "partial"}  # a folder with one of these is a cell's
REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}


class StoreError(KickError):
    """The store itself cannot be read or written (full, read-only, unreachable): no cell is to blame."""


class Files(Protocol):
    """File system operations of a store. Paths are relative to the root, with `/`, and come checked."""

    root: str

    def read(self, path: str) -> bytes:
        """The whole content. Raises FileNotFoundError."""

    def write(self, path: str, data: bytes, durable: bool = True) -> None:
        """Set the content: a reader sees the old or the new whole. Raises StoreError.

        `durable` waits until it would survive a power cut; without, it survives the end of this process.
        """

    def create(self, path: str, data: bytes) -> bool:
        """Set the content if there is none; False if the path is taken. One of several callers wins.

        Not durable: it is for claims.
        """

    def move(self, path: str, to: str) -> None:
        """Give the content of `path` to `to`, replacing it."""

    def delete(self, path: str) -> None:
        """Remove a file; nothing if it is missing."""

    def delete_folder(self, path: str) -> None:
        """Remove a folder with all in it; nothing if it is missing."""

    def names(self, path: str = "") -> list[str]:
        """The sorted names of files and folders in a folder, empty if there is none."""

    def stamps(self, folder: str, name: str) -> dict[str, str]:
        """`folder/*/name` and `folder/*/*/name`: path -> a text that changes when the file changes."""

    def tree(self, folder: str) -> dict[str, list[str]]:
        """Every folder one or two levels down -> the names in it."""


def open_files(root: str | Path) -> Files:
    """The files under a folder or an fsspec URL (s3://, gs://, memory://, file://)."""
    text = str(root)
    if text.startswith("file://"):
        return LocalFiles(text.removeprefix("file://"))
    return UrlFiles(text) if "://" in text else LocalFiles(text)


class LocalFiles:
    """A folder on a local or shared disk. Raises StoreError if the path is a file's."""

    def __init__(self, root: str):
        self.root = os.path.abspath(os.path.expanduser(root))
        if os.path.exists(self.root) and not os.path.isdir(self.root):
            raise StoreError(f"{root} is a file; results are kept in a folder, results/ by default")

    def _full(self, path: str) -> str:
        return os.path.join(self.root, path) if path else self.root

    def read(self, path: str) -> bytes:
        """The whole content. Raises FileNotFoundError."""
        try:
            with open(self._full(path), "rb") as file:
                return file.read()
        except NotADirectoryError as error:
            raise FileNotFoundError(error.errno, error.strerror, path) from error

    def write(self, path: str, data: bytes, durable: bool = True) -> None:
        """Write beside, sync, rename, sync the folder. Raises StoreError; leaves no rest behind then."""
        with self._beside(path, data, durable) as temporary:
            os.replace(temporary, self._full(path))
            if durable:
                _sync_folder(os.path.dirname(self._full(path)))

    def create(self, path: str, data: bytes) -> bool:
        """Write beside and link: the link fails if the name is taken."""
        with self._beside(path, data, durable=False) as temporary:
            try:
                os.link(temporary, self._full(path))
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:
                    raise
                return self._create_without_links(path, data)
        return True

    def _create_without_links(self, path: str, data: bytes) -> bool:
        """For file systems without hard links: a reader may for a moment see an empty file."""
        try:
            with open(self._full(path), "xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        return True

    @contextmanager
    def _beside(self, path: str, data: bytes, durable: bool) -> Iterator[str]:
        """A temporary file in the same folder, gone afterwards whatever happens."""
        full = self._full(path)
        folder, name = os.path.split(full)
        temporary = os.path.join(folder, f".{name}.{mark(os.getpid())}.{secrets.token_hex(4)}{TEMPORARY}")
        try:
            os.makedirs(folder, exist_ok=True)
            try:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.flush()
                    if durable:
                        os.fsync(file.fileno())
                yield temporary
            finally:
                if os.path.exists(temporary):
                    os.unlink(temporary)
        except OSError as error:
            raise refusal(error, self.root, path, len(data)) from error

    def move(self, path: str, to: str) -> None:
        """Rename, replacing."""
        try:
            os.replace(self._full(path), self._full(to))
            _sync_folder(os.path.dirname(self._full(to)))
        except OSError as error:
            raise refusal(error, self.root, to) from error

    def delete(self, path: str) -> None:
        """Remove a file; nothing if it is missing."""
        self._remove(os.unlink, path)

    def delete_folder(self, path: str) -> None:
        """Remove a folder with all in it; nothing if it is missing."""
        self._remove(shutil.rmtree, path)

    def _remove(self, remove: Callable[[str], None], path: str) -> None:
        try:
            remove(self._full(path))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise refusal(error, self.root, path) from error

    def names(self, path: str = "") -> list[str]:
        """The sorted names in a folder, empty if there is none."""
        try:
            return sorted(os.listdir(self._full(path)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def stamps(self, folder: str, name: str) -> dict[str, str]:
        """One or two levels down: path -> modification time (ns), size and inode."""
        found: dict[str, str] = {}
        for one in self._folders(folder):
            hit = _stat(self._full(f"{one}/{name}"))
            if hit is not None:
                found[f"{one}/{name}"] = hit
                continue
            for two in self._folders(one):
                hit = _stat(self._full(f"{two}/{name}"))
                if hit is not None:
                    found[f"{two}/{name}"] = hit
        return found

    def tree(self, folder: str) -> dict[str, list[str]]:
        """Every folder one or two levels down -> the names in it."""
        ones = self._folders(folder)
        found = {one: self.names(one) for one in ones}
        inner = [two for one in ones if not _CELL & set(found[one]) for two in self._folders(one)]
        return found | {two: self.names(two) for two in inner}

    def _folders(self, folder: str) -> list[str]:
        try:
            with os.scandir(self._full(folder)) as entries:
                names = sorted(entry.name for entry in entries if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [f"{folder}/{name}" if folder else name for name in names if not name.startswith(".")]


def _stat(full: str) -> str | None:
    try:
        status = os.stat(full)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return f"{status.st_mtime_ns}:{status.st_size}:{status.st_ino}"


def _sync_folder(full: str) -> None:
    """Make a rename last through a power cut."""
    number = os.open(full, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


class UrlFiles:
    """The files behind an fsspec URL. A PUT is whole or absent on S3, GCS and in memory.

    Listings are never cached: other writers' cells are to be seen.
    """

    def __init__(self, url: str):
        import fsspec

        try:
            options = {"max_concurrency": 1} if url.startswith(("s3:", "s3a:")) else {}  # else a HEAD a read
            self._fs, self._base = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
        except (ImportError, ValueError) as error:
            raise KickError(f"the store {url!r} cannot be opened: {error}") from error
        self.root = url.rstrip("/")
        self._base = self._base.rstrip("/")
        self._errors = _client_errors(self._fs.protocol)

    def _full(self, path: str) -> str:
        return f"{self._base}/{path}" if path else self._base

    @contextmanager
    def _refusals(self, path: str, size: int | None = None) -> Iterator[None]:
        """Raise the client's errors as StoreError, but a missing file when reading (no `size`) as it is."""
        try:
            yield
        except self._errors as error:
            if isinstance(error, FileNotFoundError) and size is None:
                raise
            raise refusal(error, self.root, path, size or 0) from error

    def read(self, path: str) -> bytes:
        """The whole content. Raises FileNotFoundError."""
        with self._refusals(path):
            try:
                return bytes(self._fs.cat_file(self._full(path)))
            except IsADirectoryError as error:
                raise FileNotFoundError(errno.ENOENT, "a folder", path) from error

    def write(self, path: str, data: bytes, durable: bool = True) -> None:
        """One PUT, which is durable on an object store."""
        with self._refusals(path, len(data)):
            self._fs.pipe_file(self._full(path), data)

    def create(self, path: str, data: bytes) -> bool:
        """A conditional PUT (If-None-Match on S3, generation 0 on GCS); False if the name is taken."""
        with self._refusals(path, len(data)):
            try:
                self._fs.pipe_file(self._full(path), data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if "PreconditionFailed" in str(error) or "pre-conditions" in str(error):
                    return False
                raise
        return True

    def move(self, path: str, to: str) -> None:
        """Copy, then delete: the new name is whole before the old one is removed."""
        with self._refusals(to):
            self._fs.cp_file(self._full(path), self._full(to))
            self._fs.rm_file(self._full(path))

    def delete(self, path: str) -> None:
        """Remove an object; nothing if it is missing."""
        with self._refusals(path):
            try:
                self._fs.rm_file(self._full(path))
            except FileNotFoundError:
                return

    def delete_folder(self, path: str) -> None:
        """Remove all under a prefix; nothing if it is missing."""
        with self._refusals(path):
            try:
                self._fs.rm(self._full(path), recursive=True)
            except FileNotFoundError:
                return

    def names(self, path: str = "") -> list[str]:
        """The sorted names under a prefix, empty if there is none."""
        with self._refusals(path):
            try:
                listed = self._fs.ls(self._full(path), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted({entry.rstrip("/").rsplit("/", 1)[-1] for entry in listed} - {""})

    def stamps(self, folder: str, name: str) -> dict[str, str]:
        """One recursive listing: path -> ETag, or time and size."""
        with self._refusals(folder):
            listed = self._fs.find(self._full(folder), detail=True)
        prefix = len(self._base.strip("/")) + 1
        found = {}
        for full, entry in listed.items():
            path = full.strip("/")[prefix:]
            if path.rsplit("/", 1)[-1] == name:
                tag = entry.get("ETag") or entry.get("created") or entry.get("mtime")
                found[path] = f"{tag}:{entry.get('size')}"
        return dict(sorted(found.items()))

    def tree(self, folder: str) -> dict[str, list[str]]:
        """One recursive listing, two levels down."""
        with self._refusals(folder):
            listed = self._fs.find(self._full(folder))
        prefix, top = len(self._base.strip("/")) + 1, folder.split("/") if folder else []
        found: dict[str, set[str]] = {}
        for full in listed:
            parts = full.strip("/")[prefix:].split("/")
            for depth in (len(top) + 1, len(top) + 2):
                if len(parts) > depth:
                    found.setdefault("/".join(parts[:depth]), set()).add(parts[depth])
        return {path: sorted(names) for path, names in sorted(found.items())}


def _client_errors(protocol: str | tuple[str, ...]) -> tuple[type[BaseException], ...]:
    """Errors of a file system besides OSError: botocore has a family of its own."""
    names = {protocol} if isinstance(protocol, str) else set(protocol)
    if names & {"s3", "s3a"}:
        return (OSError, importlib.import_module("botocore.exceptions").BotoCoreError)
    return (OSError,)


def refusal(error: Any, root: str, path: str, size: int = 0) -> StoreError:
    """The StoreError for what the system refused: what was wrong, and what would help."""
    number = getattr(error, "errno", None)
    if number in FULL:
        return StoreError(
            f"the disk under {root} is full: {path} ({size:,} bytes) could not be written; "
            f"nothing stored is lost, free some space and run the same command again"
        )
    if number in REFUSED or isinstance(error, PermissionError):
        return StoreError(
            f"{root} cannot be written: {path} was refused ({error}); "
            f"what is stored stays readable, make it writable or give another folder with --out"
        )
    return StoreError(
        f"{root} cannot be reached or written: {path}: {type(error).__name__}: {error}; "
        f"nothing stored is lost, run the same command again when it is back"
    )
