"""A judge's endpoint on this machine that behaves as a test wants: honest, slow, broken or hostile."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CRITERIA = ("coherence", "consistency", "fluency", "relevance")


@dataclass
class Answer:
    """What goes over the wire. delay: seconds before anything; drip: seconds between single bytes; cut: the
    connection ends halfway."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drip: float = 0.0
    cut: bool = False


@dataclass
class Asked:
    """A request as it came."""

    body: dict[str, Any]
    headers: dict[str, str]
    time: float
    number: int

    @property
    def system(self) -> str:
        return self.body["messages"][0]["content"]

    @property
    def material(self) -> str:
        return self.body["messages"][1]["content"]

    @property
    def code(self) -> str:
        return re.search(r'"code": "([0-9a-f]*)"', self.system).group(1)

    @property
    def repair(self) -> bool:
        return len(self.body["messages"]) > 2

    def judged(self, name: str = "answer") -> str:
        """The text between the markers of what is to be judged."""
        found = re.search(
            rf"=== {self.code}: {name}[^\n]*===\n(.*?)\n=== {self.code}: end ===", self.material, re.S
        )
        return found.group(1)


def said(text: str | None, tokens: int = 100, status: int = 200, **more: Any) -> Answer:
    """A chat completion with that text."""
    data = {
        "id": "c",
        "object": "chat.completion",
        "model": "judge-1-0613",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": tokens - 10, "completion_tokens": 10, "total_tokens": tokens},
    }
    return Answer(json.dumps({**data, **more}).encode(), status, {"Content-Type": "application/json"})


def refused(
    status: int, message: str = "no", headers: Mapping[str, str] | None = None, **error: Any
) -> Answer:
    """An error as OpenAI's servers give it."""
    body = json.dumps({"error": {"message": message, "type": "t", **error}}).encode()
    return Answer(body, status, {"Content-Type": "application/json", **(headers or {})})


def verdict(asked: Asked, grade: int = 7, better: str = "first") -> str:
    """A verdict in the form asked for."""
    values: dict[str, Any] = {"grade": grade}
    if '"better"' in asked.system:
        values = {"better": better}
    elif '"coherence"' in asked.system:
        values = {name: grade - place for place, name in enumerate(CRITERIA)}
    return f"The answer is fair, for {{reasons}}.\n{json.dumps({'code': asked.code, **values})}"


def honest(asked: Asked) -> Answer:
    """A judge that keeps to the form: 8 for an answer that says "good", else 3; the better one likewise."""
    if '"better"' not in asked.system:
        good = "good" in asked.judged("summary" if '"coherence"' in asked.system else "answer")
        return said(verdict(asked, grade=8 if good else 4))
    noun = "summary" if "first summary" in asked.material else "answer"
    first, second = ("good" in asked.judged(f"{place} {noun}") for place in ("first", "second"))
    return said(verdict(asked, better="tie" if first == second else "first" if first else "second"))


class Server:
    """The endpoint: `behave` gives the answer to each request; what was asked is kept."""

    def __init__(self, behave: Callable[[Asked], Answer]):
        self.behave = behave
        self.asked: list[Asked] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def _handler(outer) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    names = {name.lower(): value for name, value in self.headers.items()}
                    asked = Asked(body, names, time.monotonic(), len(outer.asked))
                    outer.asked.append(asked)
                    outer.at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer.at_once)
                try:
                    self._send(outer.behave(asked))
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True
                finally:
                    with outer.lock:
                        outer.at_once -= 1

            def _send(self, answer: Answer) -> None:
                time.sleep(answer.delay)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                half = len(answer.body) // 2 if answer.cut else len(answer.body)
                if not answer.drip:
                    self.wfile.write(answer.body[:half])
                for place in range(half if answer.drip else 0):
                    self.wfile.write(answer.body[place : place + 1])
                    self.wfile.flush()
                    time.sleep(answer.drip)
                if answer.cut:
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                """Nothing on standard error."""

        return Handler


@contextmanager
def serving(behave: Callable[[Asked], Answer]) -> Iterator[Server]:
    """A server that ends with the context."""
    server = Server(behave)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
