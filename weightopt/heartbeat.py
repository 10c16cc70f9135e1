"""A line from time to time from what takes long: a log, or a pipe, shows that it is alive and how far it is.

The environment variable ``WEIGHTOPT_HEARTBEAT`` sets other seconds between two lines than 30.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Self

try:
    SECONDS = max(0.1, float(os.environ.get("WEIGHTOPT_HEARTBEAT", "30")))  # at most this long is nothing heard
except ValueError:
    SECONDS = 30.0


class Heartbeat:
    """Say a line whenever nothing else has been said for `SECONDS`, for the length of a ``with`` block.

    Parameters
    ----------
    line
        What to say, given the seconds since the start of the block; called in a thread of its own.
    say
        Where to; by default a line on standard error.
    active
        Whether to say anything at all: not where a bar shows it already, nor where somebody asked for quiet.
    """

    def __init__(
        self, line: Callable[[float], str], say: Callable[[str], None] | None = None, *, active: bool = True
    ) -> None:
        self._line, self._say = line, say or _on_standard_error
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True) if active else None
        self._began = self._last = time.monotonic()

    def __enter__(self) -> Self:
        self._began = self._last = time.monotonic()
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join()

    def heard(self) -> None:
        """Something else has been said: the next line can wait."""
        self._last = time.monotonic()

    def _beat(self) -> None:
        while not self._over.wait(max(0.0, self._last + SECONDS - time.monotonic())):
            now = time.monotonic()
            if now < self._last + SECONDS:
                continue
            self._last = now
            with contextlib.suppress(OSError, ValueError):  # nobody listens any more: the work itself will notice
                self._say(self._line(now - self._began))


def _on_standard_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
