"""Prompts in the chat template of a model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Protocol

from rl.errors import UsageError
from rl.tasks.protocol import GeneratedTask, ListedTask, Prompt, Task


class ChatTokenizer(Protocol):
    """What is needed of a tokenizer of transformers."""

    chat_template: Any

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:
        """The conversation as the model reads it."""
        ...


def chat_writer(tokenizer: ChatTokenizer) -> Callable[[Prompt[Any]], Prompt[Any]]:
    """What turns the text of a prompt into the message of a user, followed by the start of the answer.

    Raises
    ------
    UsageError
        If the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise UsageError(
            "task.chat is true, but the tokenizer of the start model has no chat template: "
            "set task.chat = false or name an instruction model"
        )

    def write(prompt: Prompt[Any]) -> Prompt[Any]:
        conversation = [{"role": "user", "content": prompt.text}]
        return replace(
            prompt, text=tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        )

    return write


def in_chat(task: Task[Any], write: Callable[[Prompt[Any]], Prompt[Any]]) -> Task[Any]:
    """The task with every prompt rewritten by ``write``."""
    if isinstance(task, ListedTask):
        return _Listed(training=tuple(map(write, task.training)), held_out=tuple(map(write, task.held_out)))
    return _Generated(task=task, write=write)


@dataclass(frozen=True, kw_only=True)
class _Listed:
    training: Sequence[Prompt[Any]]
    held_out: Sequence[Prompt[Any]]


@dataclass(frozen=True, kw_only=True)
class _Generated:
    task: GeneratedTask[Any]
    write: Callable[[Prompt[Any]], Prompt[Any]]

    def propose(self, rng: Random) -> Prompt[Any]:
        return self.write(self.task.propose(rng))
