"""A headless Chromium that a test drives: its DevTools messages over two pipes, no driver and no port."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TOLD = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled", "Network.requestWillBeSent")


class Tab:
    """A tab: `visit` an address, `run` script in its page, and what the page complained of or asked for."""

    def __init__(self, commands: int, answers: int):
        self._commands, self._answers = os.fdopen(commands, "wb"), os.fdopen(answers, "rb")
        self._count, self._events, self._session = 0, [], None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for name in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{name}.enable")
        self.send("Performance.enable", timeDomain="threadTicks")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a DevTools command."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while True:
            got = self._read()
            if got.get("id") == self._count:
                assert "error" not in got, f"{method}: {got['error']}"
                return got["result"]

    def _read(self) -> dict[str, Any]:
        text = bytearray()
        while (mark := self._answers.read(1)) != b"\0":
            assert mark, "the browser has gone"
            text += mark
        got = json.loads(text)
        if "method" in got:
            self._events.append(got)
        return got

    def visit(self, address: str) -> None:
        """Load a page, forgetting what the one before said."""
        for url in ("about:blank", address):  # a link into the page that is open would load nothing
            self._events.clear()
            self.send("Page.navigate", url=url)
            while not any(event["method"] == "Page.loadEventFired" for event in self._events):
                self._read()

    def run(self, script: str) -> Any:
        """The JSON value of an expression in the page. Raises AssertionError if it throws."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press and release a key, such as ("Enter", 13)."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            told = text if kind == "keyDown" else {}
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **told
            )

    def cpu(self) -> float:
        """CPU seconds of the page's main thread so far."""
        found = self.send("Performance.getMetrics")["metrics"]
        return next(one["value"] for one in found if one["name"] == "TaskDuration")

    def complaints(self) -> list[str]:
        """What the page said on the console, threw, or asked of the network beside itself."""
        self.run("0")
        found = [event for event in self._events if event["method"] in TOLD]
        asked = [event for event in found if event["method"] == TOLD[-1]]
        return [json.dumps(event["params"]) for event in found if event not in asked[:1]]

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Make the window this large, light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=theme)


@contextmanager
def opened(profile: Path) -> Iterator[Tab]:
    """A tab of a browser of its own, which ends with the block."""
    theirs_in, commands = os.pipe()
    answers, theirs_out = os.pipe()
    arguments = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    arguments += [f"--user-data-dir={profile}", "--remote-debugging-pipe"]
    line = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    browser = subprocess.Popen(
        ["bash", "-c", line, "bash", *map(str, arguments)],
        pass_fds=(theirs_in, theirs_out),
        stderr=subprocess.DEVNULL,
    )
    for theirs in (theirs_in, theirs_out):
        os.close(theirs)
    try:
        yield Tab(commands, answers)
    finally:
        browser.terminate()
        browser.wait(timeout=30)
