"""A real browser for tests: Chromium without a window, driven through its DevTools protocol over a pipe.

Nothing but the standard library is needed, and no port is opened. Where there is no Chromium, tests skip and say how to
get one.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Until a test gives up on the browser: no measure of anything, a busy machine needs minutes.
PATIENCE = 600
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
    "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-features=Translate,OptimizationHints,MediaRouter", "--metrics-recording-only", "--mute-audio",
    "--force-color-profile=srgb", "--remote-debugging-pipe",
)  # fmt: skip

# The first element that a selector finds, also inside of shadow roots, in which Panel puts its widgets; after ``>>>``
# inside of what was found before.
FIND = """((wanted) => {
  const look = (root, one) => root.querySelector(one)
    ?? [...root.querySelectorAll("*")].reduce((hit, e) => hit ?? (e.shadowRoot && look(e.shadowRoot, one)), null);
  return wanted.split(" >>> ").reduce((root, one) => root && look(root.shadowRoot ?? root, one), document);
})"""


def found(selector: str) -> str:
    """An expression for the element, or null."""
    return f"{FIND}({json.dumps(selector)})"


def program() -> str:
    """The browser; without one the test is skipped."""
    found = os.environ.get("CHROMIUM") or next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium is installed: `make browser` installs one, or the variable CHROMIUM names it")
    return found


class Page:
    """One page: what it says to its console, what it asks of the network, and what a user does with it."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")

    def size(self, width: int, height: int) -> None:
        """Set the size of the window, in CSS pixels."""
        mobile = width < 700
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self._call("Emulation.setDeviceMetricsOverride", **metrics)

    def open(self, address: str) -> None:
        """Go to an address, and wait until it is loaded."""
        self.errors.clear()
        self.requests.clear()
        self._call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, code: str) -> Any:
        """The value of an expression in the page."""
        found = self._call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"].get("exception", found["exceptionDetails"]))
        return found["result"].get("value")

    def wait(self, code: str) -> None:
        """Wait until an expression is true."""
        until = time.monotonic() + PATIENCE
        while not self.run(f"Boolean({code})"):
            assert not self.errors, self.errors  # what has failed does not come any more
            assert time.monotonic() < until, f"never true: {code}; the console says {self.errors}"
            time.sleep(0.05)

    def move(self, x: float, y: float) -> None:
        """Move the mouse, in pixels of the window."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        """Click on the middle of an element."""
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def middle(self, selector: str) -> tuple[float, float]:
        """Bring an element into view; where its middle is."""
        code = (
            f"(() => {{ const e = {found(selector)};"
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        x, y = self.run(code)
        return x, y

    def write(self, selector: str, text: str) -> None:
        """Type into a field."""
        self.click(selector)
        self._call("Input.insertText", text=text)

    def fill(self, selector: str, text: str) -> None:
        """Type over what stands in a field, and leave it."""
        self.click(selector)
        self.run(f"{found(selector)}.select()")
        if text:
            self._call("Input.insertText", text=text)
        else:
            self.press("Backspace", 8)
        self.press("Enter", 13)

    def press(self, key: str, code: int) -> None:
        """Press a key, by its name and its Windows code, where the focus is."""
        for kind in ("rawKeyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def keep_downloads(self, folder: Path) -> None:
        """Put what is downloaded into a folder."""
        self._call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def choose(self, selector: str, value: str) -> None:
        """Choose from a list, as a user does who knows the keyboard."""
        self.run(
            f"(() => {{ const e = {found(selector)}; e.value = {json.dumps(value)};"
            "if (e.value !== " + json.dumps(value) + ") throw new Error('no such choice');"
            "e.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write what is seen, or the whole page, into a PNG file."""
        data = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]
            self._hear(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], PATIENCE)
            assert ready, "the browser does not answer"
            more = os.read(self._read, 2**16)
            assert more, "the browser has ended"
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def _hear(self, event: dict[str, Any]) -> None:
        what = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(what["request"]["url"])
            case "Network.webSocketCreated":
                self.requests.append(what["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(str(what["exceptionDetails"].get("exception", what["exceptionDetails"])))
            case "Runtime.consoleAPICalled" if what["type"] in ("error", "warning", "assert"):
                self.errors.append(" ".join(str(each.get("value", each)) for each in what["args"]))
            case "Log.entryAdded" if what["entry"]["level"] in ("error", "warning"):
                self.errors.append(what["entry"]["text"])
            case _:
                pass


@contextmanager
def browser() -> Iterator[Page]:
    """A page of a browser of its own, which ends with the ``with`` block."""
    path = program()
    to_browser, from_test = os.pipe()
    to_test, from_browser = os.pipe()

    def as_three_and_four() -> None:
        """Where the browser looks for its pipe; through high numbers, so that neither is overwritten."""
        read, write = (fcntl.fcntl(each, fcntl.F_DUPFD, 64) for each in (to_browser, from_browser))
        os.dup2(read, 3)
        os.dup2(write, 4)

    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [path, *ARGUMENTS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=as_three_and_four,
        )
        os.close(to_browser)
        os.close(from_browser)
        try:
            page = Page(from_test, to_test)
            yield page
            with suppress(AssertionError, OSError):
                page._session = None
                page._call("Browser.close")
        finally:
            os.close(from_test)
            os.close(to_test)
            process.terminate()
            process.wait()
