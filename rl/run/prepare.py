"""Everything that a run needs and that can be had, and checked, before it has a folder: task, prompts, tables."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoTokenizer

from rl.config import Config
from rl.errors import UsageError
from rl.models.start import start_folder
from rl.run.trackers import check_trackers
from rl.samplers.registry import check_backend
from rl.step.schedule import TableSchedule
from rl.tasks.chat import chat_writer, in_chat
from rl.tasks.protocol import Prompt, Task, TeachingTask
from rl.tasks.registry import build_task, build_teaching_task, wants_chat
from rl.tasks.split import held_out_prompts


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a run starts with.

    Attributes
    ----------
    task
        Its task, the chat template filled in.
    held_out
        The prompts it is measured on.
    tables
        Its weight tables.
    """

    task: Task[Any]
    held_out: tuple[Prompt[Any], ...]
    tables: TableSchedule


def prepare(config: Config) -> Prepared:
    """Read and check what a run needs, as far as it can be had without reading weights; nothing is written.

    Raises
    ------
    UsageError, weightopt.table.TableError
        If the run could not start.
    """
    check_backend(config)
    check_trackers(config.tracking)
    torch.set_num_threads(config.threads)
    task: Task[Any] = build_task(config.task) if config.start_model else build_teaching_task(config.task)
    tables = TableSchedule.load(config)
    held_out = held_out_prompts(task, count=config.evaluation.prompts, seed=config.evaluation.seed)
    folder = None if config.start_model is None else start_folder(config.start_model)
    if folder is not None and (folder / "config.json").is_file():  # what is no model is refused where it is read
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # transformers raises whatever a missing or garbled file leads to
            reason = " ".join(str(error).split())
            raise UsageError(f"model {str(folder)!r} cannot be read: {reason}") from error
        if isinstance(task, TeachingTask) and not _can_write(tokenizer, task.alphabet):
            raise UsageError(
                f"the tokenizer of the start model cannot write all of {task.alphabet!r}, the task's characters"
            )
        if wants_chat(config.task):
            write = chat_writer(tokenizer)
            task, held_out = in_chat(task, write), tuple(map(write, held_out))
    return Prepared(task=task, held_out=held_out, tables=tables)


def _can_write(tokenizer: Any, text: str) -> bool:
    try:
        tokens = tokenizer.encode(text, add_special_tokens=False)
        return tokenizer.decode(tokens, skip_special_tokens=False) == text
    except Exception:  # tokenizers raises the base class for a character it has no token for
        return False
