"""The part of the hub's HTTP API that a push and a pull of small files need, on this machine.

After huggingface_hub 1.x: repos/create, validate-yaml, preupload, commit (NDJSON), revision, tree, resolve.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_a_token_of_nobody"


class Hub:
    """Repositories by name: each a list of commits, a commit a mapping of paths to bytes."""

    def __init__(self) -> None:
        self.repositories: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.private: dict[str, bool] = {}
        self.seen: list[str] = []
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """A commit on top of what is there; its id."""
        before = self.repositories[name][-1][1] if self.repositories[name] else {}
        whole = {**before, **files}
        text = json.dumps([sorted(whole), len(self.repositories[name])])
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.repositories[name].append((sha, whole))
        return sha

    def at(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        commits = self.repositories[name]
        return commits[-1] if revision == "main" else next(one for one in commits if one[0] == revision)

    def answer(
        self, method: str, path: str, body: bytes, token: str | None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON value or bytes, and headers."""
        self.seen.append(f"{method} {path}")
        if method == "POST" and token != f"Bearer {TOKEN}":
            return 401, {"error": f"who are you, {token}?"}, {}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = (
                asked.get("name")
                if "/" in asked.get("name", "")
                else f"{asked.get('organization')}/{asked['name']}"
            )
            self.repositories.setdefault(name, [])
            self.private[name] = bool(asked.get("private")) or asked.get("visibility") == "private"
            return 200, {"url": f"{self.url}/datasets/{name}"}, {}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        found = re.match(r"/api/datasets/([^/]+/[^/]+)/(preupload|commit|revision|tree)/([^/?]+)", path)
        if found:
            return self._api(*found.groups(), body)
        found = re.match(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if found:
            return self._file(*found.groups())
        return 404, {"error": path}, {}

    def _api(self, name: str, verb: str, revision: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        if name not in self.repositories:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        if verb == "preupload":
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return 200, {"files": files}, {}
        if verb == "commit":
            lines = [json.loads(line) for line in body.splitlines() if line.strip()]
            values = [line["value"] for line in lines if line["key"] == "file"]
            sha = self.commit(name, {one["path"]: base64.b64decode(one["content"]) for one in values})
            return (
                200,
                {"success": True, "commitOid": sha, "commitUrl": f"{self.url}/datasets/{name}/commit/{sha}"},
                {},
            )
        sha, files = self.at(name, revision)
        if verb == "tree":
            return (
                200,
                [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in files.items()
                ],
                {},
            )
        return 200, {"id": name, "sha": sha, "siblings": [{"rfilename": path} for path in files]}, {}

    def _file(self, name: str, revision: str, path: str) -> tuple[int, Any, dict[str, str]]:
        sha, files = self.at(name, revision)
        if path not in files:
            return 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"}
        etag = hashlib.sha1(files[path]).hexdigest()
        return 200, files[path], {"ETag": f'"{etag}"', "X-Repo-Commit": sha}

    def _handler(outer) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def reply(self, method: str) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else b""
                path = unquote(urlsplit(self.path).path)
                status, value, headers = outer.answer(method, path, body, self.headers.get("Authorization"))
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                for name, text in headers.items():
                    self.send_header(name, text)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if method != "HEAD":
                    self.wfile.write(data)

            def do_GET(self) -> None:
                self.reply("GET")

            def do_HEAD(self) -> None:
                self.reply("HEAD")

            def do_POST(self) -> None:
                self.reply("POST")

            def log_message(self, *_: Any) -> None:
                """Nothing on standard error."""

        return Handler


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that ends with the context."""
    hub = Hub()
    thread = threading.Thread(target=hub.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.http.shutdown()
        hub.http.server_close()
        thread.join()
