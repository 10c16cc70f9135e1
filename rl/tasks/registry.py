"""From the ``[task]`` section of a configuration to the task, and to who judges its responses.

Tasks that need a library are imported when they are asked for.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from rl.errors import UsageError
from rl.tasks.addition import Addition, AdditionConfig
from rl.tasks.config import TaskConfig, TextTaskConfig
from rl.tasks.countdown import Countdown, CountdownConfig
from rl.tasks.countdown_text import CountdownText, CountdownTextConfig
from rl.tasks.imported import ImportedConfig, load_task
from rl.tasks.math_file import MathConfig
from rl.tasks.protocol import ListedTask, Prompt, Task, TeachingTask, Verifier
from rl.tasks.puzzles import ReasoningGymConfig

INSTALL = "pip install 'weightopt[tasks]'"


def build_task(config: TaskConfig) -> Task[Any]:
    """The task that a configuration describes.

    Raises
    ------
    UsageError
        If it needs data or a library that is not there.
    """
    match config:
        case AdditionConfig() | CountdownConfig() | CountdownTextConfig():
            return _build_own(config)
        case MathConfig():
            from rl.tasks.math_file import load_problems

            return load_problems(config)
        case ReasoningGymConfig():
            from rl.tasks.puzzles import load_puzzles

            return _needing_extra(lambda: load_puzzles(config), config)
        case ImportedConfig():
            return load_task(config)
        case _:
            raise ValueError(f"no task is made from {config!r}")


def judges_in_this_process(config: TaskConfig) -> bool:
    """Whether the verifier is ours and proven to be bounded; any other runs in `rl.verification.pool.VerifierPool`."""
    return isinstance(config, AdditionConfig | CountdownConfig | CountdownTextConfig)


def build_verifier(config: TaskConfig) -> Verifier[Any]:
    """What judges the responses to the task's prompts; raises like `build_task`."""
    match config:
        case AdditionConfig() | CountdownConfig() | CountdownTextConfig():
            return _build_own(config)
        case MathConfig():
            from rl.tasks.math_verifier import MathVerifier

            return _needing_extra(lambda: MathVerifier(config.answer), config)
        case ReasoningGymConfig():
            from rl.tasks.puzzles import PuzzleVerifier

            return _needing_extra(lambda: PuzzleVerifier(config), config)
        case ImportedConfig():
            return load_task(config)
        case _:
            raise ValueError(f"no verifier is made from {config!r}")


def foreign_prompts(config: TaskConfig, count: int) -> tuple[Prompt[Any], ...]:
    """Prompts to try the scorer of a task with, if it is somebody else's; at most so many, the same in every run."""
    rng = Random(0)
    match config:
        case ReasoningGymConfig(allow_nonsense=False):
            from rl.tasks.puzzles import Puzzles

            source: Any = _needing_extra(lambda: Puzzles(config), config)
        case ImportedConfig(allow_nonsense=False):
            source = load_task(config)
        case _:
            return ()
    if isinstance(source, ListedTask):
        return tuple(source.training[:count])
    return tuple(source.propose(rng) for _ in range(count))


def data_files(config: TaskConfig) -> dict[str, Path]:
    """The files that the problems of a task are read from, by the key that names them."""
    if not isinstance(config, MathConfig):
        return {}
    from rl.tasks import math_file

    return math_file.data_files(config)


def libraries(config: TaskConfig) -> tuple[str, ...]:
    """Packages, by their names on PyPI, on whose version problems and verdicts of a task depend."""
    match config:
        case MathConfig():
            from rl.tasks import math_file

            return ("math-verify", "latex2sympy2_extended", "sympy", *math_file.readers(config))
        case ReasoningGymConfig():
            return ("reasoning-gym", "sympy")
        case _:
            return ()


def wants_chat(config: TaskConfig) -> bool:
    """Whether prompts go into the chat template of the model."""
    return isinstance(config, TextTaskConfig) and config.chat


def build_teaching_task(config: TaskConfig) -> TeachingTask[Any]:
    """The task that is to teach a new model its format.

    Raises
    ------
    UsageError
        If it cannot, or like `build_task`.
    """
    task = build_task(config)
    if not isinstance(task, TeachingTask):
        raise UsageError(f"task {config.name!r} cannot teach a new model its format: name a model with start_model")
    return task


def _build_own(config: AdditionConfig | CountdownConfig | CountdownTextConfig) -> Addition | Countdown | CountdownText:
    match config:
        case AdditionConfig():
            return Addition(digits=config.digits)
        case CountdownConfig():
            return Countdown(
                numbers=config.numbers,
                largest_number=config.largest_number,
                largest_target=config.largest_target,
                operators={**config.operators},
                habits={**config.habits},
            )
        case CountdownTextConfig():
            return CountdownText(
                problems=Countdown(
                    numbers=config.numbers,
                    largest_number=config.largest_number,
                    largest_target=config.largest_target,
                    operators={**config.operators},
                ),
                examples=config.examples,
                chat=config.chat,
            )


def _needing_extra(build: Callable[[], Any], config: TaskConfig) -> Any:
    try:
        return build()
    except ModuleNotFoundError as error:
        raise UsageError(f"task {config.name!r} needs {error.name}, which is not installed: {INSTALL}") from error
