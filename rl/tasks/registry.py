"""From the ``[task]`` section of a configuration to the task, and to who judges its responses."""

from collections.abc import Callable
from random import Random
from typing import Any

from rl.errors import UsageError
from rl.tasks.config import ForeignTaskConfig, TaskConfig, TextTaskConfig
from rl.tasks.protocol import ListedTask, Prompt, Task, TeachingTask, Verifier

INSTALL = "pip install 'weightopt[tasks]'"


def build_task(config: TaskConfig) -> Task[Any]:
    """The task that a configuration describes.

    Raises
    ------
    UsageError
        If it needs data or a library that is not there.
    """
    return _needing_extra(config.build, config)


def build_verifier(config: TaskConfig) -> Verifier[Any]:
    """What judges the responses to the task's prompts; raises like `build_task`."""
    return _needing_extra(config.verifier, config)


def foreign_prompts(config: TaskConfig, count: int) -> tuple[Prompt[Any], ...]:
    """Prompts to try the scorer of a task with, if it is somebody else's; at most so many, the same in every run."""
    if not isinstance(config, ForeignTaskConfig) or config.allow_nonsense:
        return ()
    source, rng = build_task(config), Random(0)
    if isinstance(source, ListedTask):
        return tuple(source.training[:count])
    return tuple(source.propose(rng) for _ in range(count))


def wants_chat(config: TaskConfig) -> bool:
    """Whether prompts go into the chat template of the model."""
    return isinstance(config, TextTaskConfig) and config.chat


def build_teaching_task(config: TaskConfig) -> TeachingTask[Any]:
    """The task that is to teach a new model its format; raises like `build_task`, and if it cannot."""
    task = build_task(config)
    if not isinstance(task, TeachingTask):
        raise UsageError(f"task {config.name!r} cannot teach a new model its format: name a model with start_model")
    return task


def _needing_extra(build: Callable[[], Any], config: TaskConfig) -> Any:
    try:
        return build()
    except ModuleNotFoundError as error:
        raise UsageError(f"task {config.name!r} needs {error.name}, which is not installed: {INSTALL}") from error
