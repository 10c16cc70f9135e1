"""A chat template is a program that comes with a model: it is tried out where it can be stopped.

Jinja's sandbox keeps a template from what is around it, but not from running for ever or filling the memory. So a child
process fills in the first prompts before the run begins, within limits that the system enforces.
"""

import os
import resource
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from rl.errors import UsageError
from rl.tasks.chat import Write, unusable
from rl.tasks.protocol import Prompt
from rl.verification.sandbox import bound_memory

# What a child may take: seconds of computing, not of waiting, and bytes beyond what this process holds.
SECONDS, ROOM = 5, 512 * 2**20

SUCCESS = b"\0"


def try_template(write: Write, prompts: Sequence[Prompt[Any]]) -> None:
    """Fill in a chat template, by what `rl.tasks.chat.chat_writer` gives, for some prompts in a process of its own.

    Raises
    ------
    UsageError
        If it fails, takes more than `SECONDS` of computing or `ROOM` of memory, or makes the same of all prompts.
    """

    def render() -> None:
        texts = {write(prompt).text for prompt in prompts}
        if len(texts) < len({prompt.text for prompt in prompts}):
            raise unusable("it leaves out what the user says")

    status, said = _in_child(render)
    if os.WIFSIGNALED(status):
        raise unusable(f"it takes more than {SECONDS} seconds of computing, or more memory than there is")
    if said != SUCCESS:
        raise UsageError(said.decode("utf-8", "replace"))


def _in_child(render: Callable[[], None]) -> tuple[int, bytes]:
    """How a child ended that called ``render``, and what it said."""
    readable, writable = os.pipe()
    with warnings.catch_warnings():
        # Python warns of threads; those of torch and tokenizers have no part in a template.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        said = b"it ended without a word"
        try:
            with suppress(OSError, ValueError):  # some systems bound no memory
                bound_memory(ROOM)
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            render()
            said = SUCCESS
        except BaseException as error:
            said = str(error).encode("utf-8", "replace")
        finally:
            with suppress(BaseException):
                os.write(writable, said[:4096])  # a pipe takes so many in one piece
            os._exit(0)
    os.close(writable)
    with open(readable, "rb") as pipe:
        said = pipe.read()
    return os.waitpid(child, 0)[1], said
