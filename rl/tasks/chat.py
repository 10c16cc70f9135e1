"""Prompts in the chat template of a model."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from rl.errors import UsageError
from rl.tasks.protocol import ListedTask, Prompt, Task
from rl.tasks.split import ProblemList

LONGEST = 2**20  # characters of a prompt in its template

Write = Callable[[Prompt[Any]], Prompt[Any]]


def asks_for_date(tokenizer: Any) -> bool:
    """Whether the chat template writes the date into a prompt."""
    return "strftime_now" in str(tokenizer.chat_template)


def chat_writer(tokenizer: Any, *, date: datetime | None = None) -> Write:
    """A function that makes the text of a prompt a user's message, followed by the start of the answer.

    Parameters
    ----------
    tokenizer
        Of transformers.
    date
        Present time that the template is told if it asks for it. A run that goes on on another day gives that of its
        first, so that prompts stay the same. None: now.

    Raises
    ------
    UsageError
        If the tokenizer has no chat template; the function raises it if the template fails.
    """
    if not tokenizer.chat_template:
        raise UsageError(
            "task.chat is true, but the tokenizer of the start model has no chat template: "
            "set task.chat = false or name an instruction model"
        )
    now = {} if date is None else {"strftime_now": date.strftime}

    def write(prompt: Prompt[Any]) -> Prompt[Any]:
        conversation = [{"role": "user", "content": prompt.text}]
        try:
            text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True, **now)
        except MemoryError as error:
            raise unusable("it takes more memory than it may") from error
        except Exception as error:  # a template is a program of other people's
            raise unusable(" ".join(f"{type(error).__name__}: {error}".split())) from error
        if not text or len(text) > LONGEST:
            raise unusable(f"it makes {len(text):,} characters of a prompt of {len(prompt.text):,}")
        return replace(prompt, text=text)

    return write


def unusable(reason: str) -> UsageError:
    """What to raise where a chat template fails."""
    return UsageError(
        f"the chat template of the start model cannot be used ({reason:.300}): mend it, or set task.chat = false"
    )


def in_chat(task: Task[Any], write: Write) -> Task[Any]:
    """The task with every prompt rewritten by ``write``."""
    if isinstance(task, ListedTask):
        return ProblemList(training=tuple(map(write, task.training)), held_out=tuple(map(write, task.held_out)))
    generated: Any = SimpleNamespace(propose=lambda rng: write(task.propose(rng)))
    return generated
