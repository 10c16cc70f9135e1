"""A task of the user's own, by import path."""

import sys
from importlib import import_module
from typing import Any

from rl.config import ImportedConfig
from rl.errors import UsageError
from rl.tasks.protocol import GeneratedTask, ListedTask


def load_task(config: ImportedConfig) -> Any:
    """The object at ``config.path``, or what it makes of ``config.parameters`` if it can be called.

    It must be a `rl.tasks.protocol.GeneratedTask` or `rl.tasks.protocol.ListedTask` and a
    `rl.tasks.protocol.Verifier` in one. The folder that the program was started in is searched too.

    Raises
    ------
    UsageError
        If there is no such object, if it cannot be made, or if it is no such task.
    """
    module_name, _, attribute = config.path.partition(":")
    if "" not in sys.path:
        sys.path.append("")
    try:
        thing = getattr(import_module(module_name), attribute)
        task = thing(**config.parameters) if callable(thing) else thing
    except Exception as error:  # whatever the user's module does
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"task.path {config.path!r} cannot be made into a task: {reason}") from error
    if not callable(thing) and config.parameters:
        raise UsageError(
            f"task.path {config.path!r} is an object that cannot be called, so task.parameters have no use"
        )
    if not isinstance(task, GeneratedTask | ListedTask) or not callable(getattr(task, "verify", None)):
        raise UsageError(
            f"task.path {config.path!r} gives no task: it needs verify(prompt, response), and propose(rng) or the "
            "lists training and held_out"
        )
    return task
