"""Everything that a run needs and that can be had, and checked, before it has a folder: task, prompts, tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import AutoConfig

from rl.config import Config
from rl.errors import UsageError
from rl.models.memory import MemoryPlan, plan_memory, shape_in
from rl.models.policy import choose_device, free_memory
from rl.models.start import check_model, reading, start_folder
from rl.models.tokenizer import can_write, encode_prompt, load_tokenizer
from rl.run.config import TrackingConfig
from rl.run.template import try_template
from rl.samplers.registry import check_backend
from rl.seeds import derive_seed
from rl.step.schedule import TableSchedule
from rl.tasks.chat import asks_for_date, chat_writer, in_chat
from rl.tasks.protocol import GeneratedTask, ListedTask, Prompt, Task, TeachingTask
from rl.tasks.registry import build_task, build_teaching_task, wants_chat
from rl.tasks.split import ProblemList, held_out_prompts, training_prompts

# Prompts that are looked at before a run begins, where a task makes them without end.
LOOKED_AT = 64

# Proposals in a row that are too long before a task counts as one that has no others.
TOO_LONG_IN_A_ROW = 1000


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a run starts with.

    Attributes
    ----------
    task
        The chat template is filled in, and prompts that do not fit into the model's context are left out.
    date
        The present time as the chat template is told it; None if it does not ask.
    notes
        What the user should know, a sentence each.
    """

    task: Task[Any]
    held_out: tuple[Prompt[Any], ...]
    tables: TableSchedule
    date: datetime | None = None
    notes: tuple[str, ...] = ()


def prepare(config: Config, *, date: datetime | None = None) -> Prepared:
    """Read and check what a run needs, as far as it can be had without reading weights; nothing is written.

    Parameters
    ----------
    date
        The present time of a run that goes on, from `rl.run.folder.began`; by default it is now.

    Raises
    ------
    UsageError, weightopt.table.TableError
        If the run could not start.
    """
    check_backend(config)
    check_trackers(config.tracking)
    torch.set_num_threads(config.threads)
    tables = TableSchedule.load(config.table, config.later_tables, group_size=config.rollout.group_size)
    task, held_out, date, notes = questions(config, date=date)
    doubts = tables.doubts(dynamic_sampling=config.rollout.dynamic_sampling)
    return Prepared(task=task, held_out=held_out, tables=tables, date=date, notes=(*doubts, *notes))


def questions(
    config: Config, *, date: datetime | None = None
) -> tuple[Task[Any], tuple[Prompt[Any], ...], datetime | None, tuple[str, ...]]:
    """What of `Prepared` needs no table: task, held-out prompts, date and notes; refused as by `prepare`."""
    task: Task[Any] = build_task(config.task) if config.start_model else build_teaching_task(config.task)
    notes: tuple[str, ...] = getattr(task, "notes", ())  # of a listed task: rows that were left out
    if config.start_model is None:
        date = None
        _refuse_long(task, config)
    else:
        folder = start_folder(config.start_model)
        check_model(folder)
        tokenizer, context = load_tokenizer(folder), _context(folder, config)
        if isinstance(task, TeachingTask) and not can_write(tokenizer, task.alphabet):
            raise UsageError(
                f"the tokenizer of the start model cannot write all of {task.alphabet!r}, the task's characters"
            )
        chat = wants_chat(config.task)
        date = (date or datetime.now().replace(microsecond=0)) if chat and asks_for_date(tokenizer) else None
        if chat:
            write = chat_writer(tokenizer, date=date)
            try_template(write, _first_prompts(task, config))
            task = in_chat(task, write)
        if context is not None:
            room = context - config.rollout.max_new_tokens
            task, left_out = _fitting(task, lambda text: len(encode_prompt(tokenizer, text)), room, config)
            notes += left_out
    held_out = held_out_prompts(task, count=config.evaluation.prompts, seed=config.evaluation.seed)
    return task, held_out, date, notes


def _context(folder: Path, config: Config) -> int | None:
    """Most tokens of a prompt with its response; None without a limit."""
    with reading(folder):
        about = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).get_text_config()
    limits = (config.sampler.context, getattr(about, "max_position_embeddings", None))
    return min((limit for limit in limits if limit is not None), default=None)


def _first_prompts(task: Task[Any], config: Config) -> tuple[Prompt[Any], ...]:
    """The first prompts of step 1."""
    count = min(config.rollout.prompts_per_step, LOOKED_AT)
    return training_prompts(task, count=count, seed=derive_seed(config.seed, "prompts", 1))


def _refuse_long(task: Task[Any], config: Config) -> None:
    """Refuse a new model that is too small for its task; each character of a prompt is a token."""
    held_out = held_out_prompts(task, count=config.evaluation.prompts, seed=config.evaluation.seed)
    longest = max(len(prompt.text) for prompt in (*_first_prompts(task, config), *held_out))
    room = config.model.context - config.rollout.max_new_tokens
    if longest > room:
        raise _too_long(longest, room, config)


def _too_long(tokens: int, room: int, config: Config) -> UsageError:
    new = config.rollout.max_new_tokens
    return UsageError(
        f"a prompt of {tokens} tokens and {new} new ones do not fit into the model's context of {room + new}: lower "
        "rollout.max_new_tokens, shorten the prompts or take a model with a larger context"
    )


def _fitting(
    task: Task[Any], tokens_in: Callable[[str], int], room: int, config: Config
) -> tuple[Task[Any], tuple[str, ...]]:
    """The task without the prompts that have no room for a response, and what to say of those."""

    def fits(prompt: Prompt[Any]) -> bool:
        # A token stands for a byte at least, and one more may stand before the text: most need not be counted.
        return len(prompt.text.encode()) < room or tokens_in(prompt.text) <= room

    if isinstance(task, ListedTask):
        training, held_out = (tuple(filter(fits, side)) for side in (task.training, task.held_out))
        left_out = len(task.training) - len(training), len(task.held_out) - len(held_out)
        if not any(left_out):
            return task, ()
        if not training:
            raise _too_long(min(tokens_in(prompt.text) for prompt in task.training), room, config)
        note = (
            f"{left_out[0]} of {len(task.training)} training problems and {left_out[1]} of {len(task.held_out)} "
            f"held-out ones are left out: with {config.rollout.max_new_tokens} new tokens their prompts do not fit "
            f"into the model's context of {room + config.rollout.max_new_tokens}"
        )
        return ProblemList(training=training, held_out=held_out), (note,)

    return _Fitting(task=task, fits=fits, refuse=lambda prompt: _too_long(tokens_in(prompt.text), room, config)), ()


@dataclass(kw_only=True)
class _Fitting:
    """A generated task without the prompts that do not fit; ``left_out`` counts them."""

    task: GeneratedTask[Any]
    fits: Callable[[Prompt[Any]], bool]
    refuse: Callable[[Prompt[Any]], UsageError]
    left_out: int = 0

    def propose(self, rng: Random) -> Prompt[Any]:
        prompt = self.task.propose(rng)
        for _ in range(TOO_LONG_IN_A_ROW):
            if self.fits(prompt):
                return prompt
            self.left_out += 1
            prompt = self.task.propose(rng)
        raise self.refuse(prompt)


def check_memory(config: Config, folder: Path, ready: Prepared, *, ranks: int = 1) -> None:
    """Refuse a run that its GPU has no room for, before its model, which is in ``folder``, is read.

    The longest prompt counts; of a generated task those held out stand for all. Raises `UsageError`.
    """
    device = choose_device(config.device)
    if device.type != "cpu":
        plan_here(config, folder, ready, device=device, ranks=ranks)


def plan_here(
    config: Config, folder: Path, ready: Prepared, *, device: torch.device, ranks: int = 1
) -> Callable[..., MemoryPlan]:
    """As `check_memory`, on any device; returns `plan_memory` of this run, to be told ``ranks`` and ``device``."""
    planned, free = plan_of(config, folder, ready.task, ready.held_out), free_memory(device)
    if free is not None:
        planned(ranks=ranks, device=device.type).check(free, what=f"{device} has {{}} free")
    return planned


def plan_of(
    config: Config, folder: Path, task: Task[Any], held_out: Sequence[Prompt[Any]]
) -> Callable[..., MemoryPlan]:
    """`plan_memory` for the longest of the prompts that are known, to be told ``ranks`` and ``device``."""
    tokenizer, other = load_tokenizer(folder), config.kl.reference
    prompts = [*held_out, *(task.training if isinstance(task, ListedTask) else ())]
    longest = sorted(prompts, key=lambda prompt: len(prompt.text))[-LOOKED_AT:]  # in tokens nearly so
    return partial(
        plan_memory,
        config,
        shape_in(folder),
        prompt_tokens=max(len(encode_prompt(tokenizer, prompt.text)) for prompt in longest),
        reference=shape_in(start_folder(other, key="kl.reference")) if other else None,
    )


def check_trackers(config: TrackingConfig) -> None:
    """Refuse a tracker that is not installed, before a run has begun; raises `UsageError`."""
    for name in config.trackers:
        if find_spec(name) is None:
            raise UsageError(f"tracker {name!r} is not installed: pip install 'weightopt[{name}]'")
