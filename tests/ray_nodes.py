"""Nodes of a local Ray cluster; one that Ray gives up on, after 30 s on a busy machine, is started again."""

from collections.abc import Callable
from typing import Any

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
TRIES = 10


def patiently(start: Callable[[], Any]) -> Any:
    """What `start` returns, once the machine is fast enough for Ray."""
    for left in reversed(range(TRIES)):
        try:
            return start()
        except Exception as error:
            if not left or not (isinstance(error, TimeoutError) or "timed out during startup" in str(error)):
                raise
    raise AssertionError
