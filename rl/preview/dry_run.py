"""A look before a run: what it will ask, what it will take, and what its verifier thinks; nothing is written.

Everything that a run refuses at the door is refused here. Memory is counted: weights, gradients and optimizer from the
model, what a backward pass keeps from one that is made. Time is multiplied up from a piece of the first step
(`rl.preview.probe`). Without a start model the weights are random, so lengths and success are not those of the run.
"""

import os
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rl.config import Config
from rl.errors import UsageError
from rl.learning.reference import open_reference
from rl.models.policy import Policy, choose_device, new_policy, save_policy
from rl.models.start import parameters_in, start_folder
from rl.preview.probe import FLOAT32, probe_judging, probe_learning, probe_sampling, probe_updating, prompts_to_draw
from rl.run.checkpoint import open_policy
from rl.run.folder import check_folder
from rl.run.trackers import check_trackers
from rl.samplers.registry import check_backend
from rl.samplers.rollout import Batch, Completion, Group
from rl.samplers.torch_sampler import TorchSampler
from rl.seeds import derive_seed
from rl.step.schedule import TableSchedule
from rl.step.success import Judgement, judge
from rl.tasks.chat import chat_writer, in_chat
from rl.tasks.protocol import Prompt, Task
from rl.tasks.registry import build_task, build_teaching_task, wants_chat
from rl.tasks.split import held_out_prompts, training_prompts
from rl.train import check_alphabet
from rl.verification.pool import open_verifier

SHOWN_PROMPTS = 3

# Columns of the report: of its labels and of its lines; and characters of a text that it shows.
LABEL, WIDTH, SHOWN = 10, 100, 2000


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that a run takes, by what takes them; the process itself and the libraries are not counted."""

    weights: int
    gradients: int
    optimizer: int
    sampler: int
    reference: int
    activations: int
    logits: int

    @property
    def together(self) -> int:
        """All of it."""
        return sum(vars(self).values())


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Seconds of a step by stage, and of an evaluation."""

    sampling: float
    verifying: float
    learning: float
    updating: float
    evaluation: float

    @property
    def step(self) -> float:
        """A whole step, without evaluation."""
        return self.sampling + self.verifying + self.learning + self.updating


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What the estimates were made from.

    Attributes
    ----------
    groups, group_size, new_tokens
        Groups sampled, responses in each, and the limit on their tokens.
    learnt, in_a_step
        Tokens that went forward and back, and those that do in a step.
    finished, correct
        Share of the responses that ended themselves, and that are correct.
    seconds
        That the dry run took.
    load
        Of the machine by other programs, processes that want to run on average, where that slows down a run on a CPU;
        None where it does not.
    """

    groups: int
    group_size: int
    new_tokens: int
    learnt: int
    in_a_step: int
    finished: float
    correct: float
    seconds: float
    load: float | None


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a run would be.

    Attributes
    ----------
    model, device
        What it starts from, and where that is.
    parameters, trained
        How many the model has, and how many of them are trained.
    memory, seconds
        Estimates.
    probe
        What they were made from.
    prompts
        The first prompts of step 1.
    responses
        A response to each of those that were asked.
    verdict
        On the answer that was given; None if none was.
    """

    model: str
    device: str
    parameters: int
    trained: int
    memory: Memory
    seconds: Seconds
    probe: Probe
    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    verdict: str | None


def dry_run(config: Config, answer: str | None = None, *, output: Path | None = None, resume: bool = False) -> DryRun:
    """Prepare a run as `rl.train.train` does, and measure a small piece of its first step.

    Parameters
    ----------
    answer
        A response to judge as one to the first prompt.
    output, resume
        The folder that the run would have: whether it could be written, or could be resumed, is checked.

    Raises
    ------
    UsageError, weightopt.table.TableError
        If the run could not start, or if the model does not fit into the memory there is.
    """
    began, load = time.perf_counter(), os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    check_backend(config)
    check_trackers(config.tracking)
    torch.set_num_threads(config.threads)
    task: Task[Any] = build_task(config.task) if config.start_model else build_teaching_task(config.task)
    tables = TableSchedule.load(config)
    held_out_prompts(task, count=config.evaluation.prompts, seed=config.evaluation.seed)
    with open_verifier(config) as verifier, _start(config) as start:
        if output is not None:
            check_folder(output, config, tables.describe(), resume=resume)
        check_memory(config, start)
        policy = open_policy(config, start, None)
        check_alphabet(policy, task)
        if wants_chat(config.task):
            task = in_chat(task, chat_writer(policy.tokenizer))
        prompts = training_prompts(task, count=prompts_to_draw(config), seed=derive_seed(config.seed, "prompts", 1))
        reference = open_reference(config, policy, start)
        sampler = TorchSampler(policy, stop=config.rollout.stop)
        sampled = probe_sampling(sampler, prompts, config)
        judged = probe_judging(sampled.batch, verifier)
        verdict = None if answer is None else _verdict(judge(_answered(prompts[0], answer), verifier))
        learnt = probe_learning(policy, prompts, sampled, config)
        updating = probe_updating(policy, sampler, config)
    groups, evaluation = sampled.batch.groups, config.evaluation
    responses = config.rollout.prompts_per_step * config.rollout.group_size
    evaluated = evaluation.prompts * (evaluation.samples + evaluation.greedy)
    parameters = policy.model.num_parameters()
    trained = sum(parameter.numel() for parameter in policy.trained().values())
    return DryRun(
        model="a new one" if config.start_model is None else str(config.start_model),
        device=str(policy.device),
        parameters=parameters,
        trained=trained,
        memory=Memory(
            weights=_bytes(policy),
            gradients=trained * FLOAT32,
            optimizer=2 * trained * FLOAT32,
            sampler=(parameters - (trained if policy.adapter else 0)) * FLOAT32,  # an adapter is merged in
            reference=0 if reference is None or reference.policy is policy else _bytes(reference.policy),
            activations=learnt.activations,
            logits=learnt.logits,
        ),
        seconds=Seconds(
            sampling=sampled.per_response * responses,
            verifying=judged.per_response * responses,
            learning=learnt.seconds,
            updating=updating,
            evaluation=(sampled.per_response + judged.per_response) * evaluated,
        ),
        probe=Probe(
            groups=len(groups),
            group_size=len(groups[0].completions),
            new_tokens=sampled.new_tokens,
            learnt=learnt.tokens,
            in_a_step=learnt.in_a_step,
            finished=sampled.batch.share_finished(),
            correct=judged.correct,
            seconds=time.perf_counter() - began,
            load=load if policy.device.type == "cpu" and load > 0.5 else None,
        ),
        prompts=tuple(prompt.text for prompt in prompts[:SHOWN_PROMPTS]),
        responses=tuple(group.completions[0].text for group in groups[:SHOWN_PROMPTS]),
        verdict=verdict,
    )


@contextmanager
def _start(config: Config) -> Iterator[Path]:
    """The folder of the model at step 0, as far as it is there: a new one has not had its supervised phase."""
    if config.start_model is not None:
        yield start_folder(config.start_model)
        return
    task = build_teaching_task(config.task)
    policy = new_policy(config.model, task.alphabet, seed=derive_seed(config.seed, "model"))
    with tempfile.TemporaryDirectory() as folder:
        save_policy(policy, Path(folder))
        yield Path(folder)


def _bytes(policy: Policy) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in policy.model.parameters())


def check_memory(config: Config, start: Path) -> None:
    """Refuse a model that would take this machine down before anything could be measured.

    Raises
    ------
    UsageError
        If its weights with the sampler's copy, gradients and AdamW are more than what is free.
    """
    device = choose_device(config.device)
    parameters = parameters_in(start)
    if config.lora.rank:
        each, what = FLOAT32 + (2 if config.policy.precision == "bf16" else FLOAT32), "the sampler's copy"
    else:
        each, what = 5 * FLOAT32, "gradients, AdamW and the sampler's copy"
    taken, free = parameters * each, free_memory(device)
    if config.kl.reference is not None:
        reference = start_folder(config.kl.reference, key="kl.reference")
        taken, what = taken + FLOAT32 * parameters_in(reference, key="kl.reference"), f"the reference, {what}"
    elif config.kl.coefficient and not config.lora.rank:
        taken, what = taken + FLOAT32 * parameters, f"the reference, {what}"
    if free is not None and taken > free:
        name = "the model of [model]" if config.start_model is None else f"start_model {str(config.start_model)!r}"
        raise UsageError(
            f"{name} does not fit: its {parameters:,} parameters take {taken / 2**30:.1f} GiB with {what}, and "
            f"{free / 2**30:.1f} GiB are free on {device}"
        )


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be had on a device; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    kibibytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return kibibytes["MemAvailable"] * 2**10 if "MemAvailable" in kibibytes else None


def _answered(prompt: Prompt[Any], answer: str) -> Batch:
    """A batch of one response, as if the policy had written it and ended it."""
    completion = Completion(tokens=(0,), log_probs=(0.0,), text=answer, finished=True)
    return Batch(groups=(Group(prompt=prompt, prompt_tokens=(0,), completions=(completion,)),))


def _verdict(judgement: Judgement) -> str:
    if judgement.correct.all():
        return "right"
    if judgement.failed:
        return f"wrong: the verifier failed on it ({judgement.reason})"
    if judgement.timed_out:
        return "wrong: the verifier ran out of time on it"
    return "wrong" if judgement.parsable.all() else "wrong: no answer can be read in it"


def report(found: DryRun, config: Config, answer: str | None = None) -> list[str]:
    """The lines to show of a dry run."""
    memory, seconds, probe = found.memory, found.seconds, found.probe
    rollout, steps = config.rollout, config.training.steps
    evaluations = 1 + -(-steps // config.training.evaluate_every)
    total = steps * seconds.step + evaluations * seconds.evaluation
    trained = "all trained" if found.trained == found.parameters else f"{found.trained:,} trained"
    cut = "at most, " if probe.finished < 1 and probe.new_tokens < rollout.max_new_tokens else ""
    notes = [
        f"Measured in {_duration(probe.seconds)} on {probe.groups} of {_many(rollout.prompts_per_step, 'group')}, "
        f"{probe.group_size} of {rollout.group_size} responses each, up to {probe.new_tokens:,} of "
        f"{_many(rollout.max_new_tokens, 'token')} long, and on {probe.learnt:,} of {probe.in_a_step:,} tokens forward "
        "and back; the rest is in proportion. On busy cores stages of a run took from a quarter to 2.3 times as long.",
        "Learning is counted as if no response had advantage 0. Libraries, and keys and values while sampling, take "
        "memory on top.",
    ]
    if probe.load is not None:
        notes.append(f"Other programs are running (load {probe.load:.1f}): expect less on a free machine.")
    if cut:
        notes.append("Responses that were cut are counted as if they went on to the limit.")
    if rollout.dynamic_sampling:
        notes.append(
            f"Dynamic sampling draws up to {rollout.over_generation_limit} times as many groups, which is not counted."
        )
    if config.sampler.backend == "vllm":
        notes.append("Sampling is that of the torch sampler: vLLM is faster, and takes memory of its own.")
    if config.start_model is None:
        notes.append("These are random weights, before the supervised phase: success and lengths will be others.")
    return [
        *_entry(
            "model",
            f"{found.model}: {found.parameters:,} parameters, {trained} in {config.policy.precision} on {found.device}",
        ),
        *_sum(
            "memory",
            *((memory.together / 2**30, "GiB") if memory.together >= 2**29 else (memory.together / 2**20, "MiB")),
            {
                "weights": memory.weights,
                "gradients": memory.gradients,
                "AdamW": memory.optimizer,
                "the sampler's copy": memory.sampler,
                **({"the reference": memory.reference} if memory.reference else {}),
                f"activations ({config.optimizer.tokens_per_micro_batch:,} tokens at a time)": memory.activations,
                "logits, at most": memory.logits,
            },
        ),
        *_sum(
            "step",
            *((seconds.step, "s") if seconds.step >= 1 else (seconds.step * 1000, "ms")),
            {
                f"{cut}sampling": seconds.sampling,
                "verifying": seconds.verifying,
                "at most, learning": seconds.learning,
                "update and hand-over": seconds.updating,
            },
        ),
        *_entry(
            "run",
            f"{_duration(total)}: {_many(steps, 'step')}, {_many(evaluations, 'evaluation')} of "
            f"{_duration(seconds.evaluation)}",
        ),
        *_entry("estimate", *notes),
        *_entry(
            "seen",
            f"{probe.correct:.1%} of {probe.groups * probe.group_size} responses are correct, "
            f"{probe.finished:.1%} ended themselves",
        ),
        *(
            line
            for number, prompt in enumerate(found.prompts)
            for line in (
                *_quoted(f"prompt {number + 1}", prompt),
                *(_quoted("response", found.responses[number]) if number < len(found.responses) else ()),
            )
        ),
        *([] if answer is None else [*_quoted("answer", answer), *_entry("", f"to prompt 1 is {found.verdict}")]),
    ]


def _entry(label: str, *paragraphs: str) -> list[str]:
    """A label and text beside it, in lines of bounded width."""
    lines = [line for text in paragraphs for line in textwrap.wrap(text, WIDTH - LABEL)]
    return [f"{label if number == 0 else '':<{LABEL}}{line}" for number, line in enumerate(lines)]


def _sum(label: str, total: float, unit: str, parts: dict[str, int | float]) -> list[str]:
    """A sum and what it is made of, in one unit, point below point."""
    scale = total / sum(parts.values())
    digits = 1 if total >= 10 else 2
    width = len(f"{total:.{digits}f}")
    lines = [f"{label:<{LABEL}}{total:.{digits}f} {unit}"]
    return lines + [f"{'':<{LABEL}}{value * scale:>{width}.{digits}f}   {name}" for name, value in parts.items()]


def _quoted(label: str, text: str) -> list[str]:
    """A text behind a bar, line by line: blanks at the end of a line as dots, what does not print as its escape."""
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
    lines = []
    for line in shown.split("\n"):
        plain = "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)
        lines.append(plain.rstrip(" ") + "·" * (len(plain) - len(plain.rstrip(" "))))
    return [f"{label if number == 0 else '':<{LABEL}}│ {line}".rstrip() for number, line in enumerate(lines)]


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
