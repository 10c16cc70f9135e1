"""Ctrl-C and SIGTERM while a run is going: the step is finished first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rl.processes.failures import processes


@contextmanager
def interruption() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT (Ctrl-C) or SIGTERM into an answer to be asked for; a second one acts as usual.

    Where torchrun has started several processes no signal acts as usual: torchrun passes on to each of them what the
    terminal has sent to all. Only the main thread of a program can listen; elsewhere the answer stays False.
    """
    asked = threading.Event()
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(*_: object) -> None:
        asked.set()
        if processes() == 1:
            restore()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, note)
    try:
        yield asked.is_set
    finally:
        restore()
