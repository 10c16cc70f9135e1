"""A look before a run: what it will ask, what it will take, and what its verifier thinks; nothing is written.

Everything that a run refuses at the door is refused here. Memory is planned (`rl.models.memory`), also for a run that
this machine cannot make. Time is measured on a piece of the first step that grows until its next size would take longer
than `SECONDS`, for sampling, judging and learning each, and is multiplied up. A step takes less where it is larger than
its piece: more responses at once take less each, and what prompts begin with alike counts once for all. Without a start
model the weights are random, so lengths and success are not those of the run.
"""

import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl.config import Config
from rl.errors import UsageError
from rl.hub import is_hub_name
from rl.learning.loss import Row, micro_batches, rows_of, texts_of, token_log_probs
from rl.learning.reference import open_reference
from rl.learning.update import new_optimizer
from rl.models.memory import CARDS, GIB, MemoryPlan, plan_memory, shape_of
from rl.models.packing import Packed
from rl.models.policy import Policy, choose_device, new_policy, save_policy
from rl.models.start import start_folder
from rl.processes.failures import processes
from rl.run.checkpoint import open_policy
from rl.run.display.lines import duration, entry, quoted, sum_of, table
from rl.run.folder import check_folder
from rl.run.prepare import plan_here, plan_of, prepare, questions
from rl.samplers.rollout import Batch, Completion
from rl.samplers.torch_sampler import TorchSampler
from rl.seeds import derive_seed
from rl.step.success import judge
from rl.tasks.protocol import Prompt, Verifier
from rl.tasks.registry import build_teaching_task
from rl.tasks.split import training_prompts
from rl.verification.pool import VerifierPool, open_verifier

# Seconds that each stage may take, and how a size grows; prompts at first and at most, and responses to each; tokens
# that go forward and back at first.
SECONDS, GROWTH, GROUPS, MOST_GROUPS, RESPONSES, FIRST_TOKENS, SHOWN_PROMPTS = 6.0, 4, 4, 64, 16, 64, 3

# Numbers of GPUs of which a report says what a run would leave free.
PROCESSES = (1, 2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a run would be.

    Attributes
    ----------
    parameters, trained
        How many the model has, and how many of them are trained.
    memory
        What is planned (`rl.models.memory`): the ``device``; ``phases``, bytes by what takes them in each; ``cards``,
        bytes that each card would have left, by the number of GPUs; ``prompt_tokens`` of the longest prompt; and
        ``cache_tokens``, how many have room in the engine's cache, None without one.
    seconds, evaluation
        Of a step by stage, and of one evaluation.
    probe
        What was measured: ``responses`` to the first prompts, of at most ``new_tokens``; the shares of them that are
        ``correct`` and that ``finished``; ``learnt`` tokens, of those ``in_a_step`` that go forward and back; and the
        ``seconds`` that it took.
    prompts, responses, verdict
        The first prompts of step 1, a response to each, and what is said of the answer that was given.
    """

    model: str
    device: str
    precision: str
    parameters: int
    trained: int
    memory: Mapping[str, Any]
    seconds: Mapping[str, float]
    evaluation: float
    probe: Mapping[str, int | float]
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
    began, rollout, evaluation = time.perf_counter(), config.rollout, config.evaluation
    ready = prepare(config)
    with open_verifier(config) as verifier, _start(config) as start:
        if output is not None:
            check_folder(output, config, ready, resume=resume)
        device = choose_device(config.device)
        memory = on_cards(plan_here(config, start, ready, device=device, ranks=processes()), device.type)
        policy = open_policy(start, None, config.policy, config.lora, device=config.device, seed=config.seed)
        count, seed = min(MOST_GROUPS, rollout.prompts_per_step), derive_seed(config.seed, "prompts", 1)
        prompts = training_prompts(ready.task, count=count, seed=seed)
        open_reference(config.kl, config.lora, policy, start)  # or be refused
        sampler = TorchSampler(policy, stop=rollout.stop, include_stop=rollout.include_stop)
        batch, sampling, sampled = probe_sampling(sampler, prompts, config)
        correct, verifying = probe_judging(batch, verifier)
        verdict = None if answer is None else _verdict(prompts[0], answer, verifier)
        learning, learnt = probe_learning(policy, batch, config)
        updating = probe_updating(policy, sampler, config)
    parameters, trained = policy.model.num_parameters(), sum(map(torch.numel, policy.trained().values()))
    responses = rollout.prompts_per_step * rollout.group_size
    stages = {"sampling": sampling * responses, "verifying": verifying * responses}
    return DryRun(
        model="a new one" if config.start_model is None else str(config.start_model),
        device=str(policy.device),
        precision=policy.settings.precision,
        parameters=parameters,
        trained=trained,
        memory=memory,
        seconds=stages | {"learning": learning, "update and hand-over": updating},
        evaluation=(sampling + verifying) * evaluation.prompts * (evaluation.samples + evaluation.greedy),
        probe=sampled | learnt | {"correct": correct, "seconds": time.perf_counter() - began},
        prompts=tuple(prompt.text for prompt in prompts[:SHOWN_PROMPTS]),
        responses=tuple(group.completions[0].text for group in batch.groups[:SHOWN_PROMPTS]),
        verdict=verdict,
    )


@contextmanager
def _start(config: Config) -> Iterator[Path]:
    """The folder of the model at step 0, as far as it is there: a new one has not had its supervised phase."""
    if config.start_model is not None:
        yield start_folder(config.start_model)
        return
    alphabet = build_teaching_task(config.task).alphabet
    with tempfile.TemporaryDirectory() as folder:
        save_policy(new_policy(config.model, alphabet, seed=derive_seed(config.seed, "model")), Path(folder))
        yield Path(folder)


def on_cards(planned: Callable[..., MemoryPlan], device: str) -> dict[str, Any]:
    """What a report says of memory: of a process of the run as it would be started now, and on other machines."""
    here = planned(ranks=processes(), device=device)
    peaks = {ranks: planned(ranks=ranks).peak for ranks in PROCESSES}
    cards = {
        f"{card} GB": {f"{ranks} GPU{'s' * (ranks > 1)}": int(size * GIB) - peak for ranks, peak in peaks.items()}
        for card, size in CARDS.items()
    }
    said = {"prompt_tokens": here.prompt_tokens, "cache_tokens": here.cache_tokens}
    return {"device": device, "phases": here.phases, "cards": cards, **said}


def planned_lines(config: Config) -> list[str]:
    """The lines of a report on memory, which a run that is refused has, too.

    For them nothing is fetched: a model of the hub may be known by its shape alone, and its prompts then are as long as
    there is room for, or `rl.models.memory.PROMPT` tokens.
    """
    engine = config.sampler.backend == "vllm"
    on_cpu = config.device == "cpu" or (config.device == "auto" and not engine and not torch.cuda.is_available())
    device = "cpu" if on_cpu else "cuda"
    if not (is_hub_name(config.start_model) or is_hub_name(config.kl.reference)):
        with suppress(UsageError), _start(config) as start:
            task, held_out, *_ = questions(config)
            return _memory(on_cards(plan_of(config, start, task, held_out), device), config)
    try:
        alphabet = build_teaching_task(config.task).alphabet if config.start_model is None else ""
        other = shape_of(config, key="kl.reference") if config.kl.reference else None
        planned = partial(plan_memory, config, shape_of(config, alphabet=alphabet), reference=other)
    except UsageError as error:
        return entry("memory", str(error))
    return _memory(on_cards(planned, device), config)


def probe_sampling(
    sampler: TorchSampler, prompts: Sequence[Prompt[Any]], config: Config
) -> tuple[Batch, float, dict[str, Any]]:
    """Sample responses that grow longer, then to more prompts, and the seconds one takes in a run, up to the limit."""
    rollout, size, limit = config.rollout, min(RESPONSES, config.rollout.group_size), config.rollout.max_new_tokens
    options = {"group_size": size, "temperature": rollout.temperature, "seed": derive_seed(config.seed, "responses", 1)}
    count, tokens = GROUPS, 1

    def sample() -> tuple[Batch, float]:
        return _timed(lambda: sampler.sample(prompts[:count], max_new_tokens=tokens, **options))

    sample()  # the first call of anything is slow
    batch, seconds = sample()
    each = seconds / batch.tokens
    while GROWTH * seconds < SECONDS:
        if tokens < limit and batch.share_finished() < 1:
            before, took, tokens = batch, seconds, min(GROWTH * tokens, limit)
            batch, seconds = sample()
            each = max(0.0, seconds - took) / max(1, batch.tokens - before.tokens)
        elif count < len(prompts):
            count *= GROWTH
            batch, seconds = sample()
        else:
            break
    cut = round(batch.responses * (1 - batch.share_finished()))
    found = {"responses": batch.responses, "new_tokens": tokens, "finished": batch.share_finished()}
    return batch, (seconds + cut * (limit - tokens) * each) / batch.responses, found


def probe_judging(batch: Batch, verifier: Verifier[Any] | VerifierPool) -> tuple[float, float]:
    """Share of the responses that are correct, and seconds to judge one; one that was cut is judged as if it ended."""
    seconds, judged, correct = 0.0, 0, 0
    for group in batch.groups:
        ended = Batch(groups=(replace(group, completions=tuple(replace(c, finished=True) for c in group.completions)),))
        judgement, took = _timed(lambda ended=ended: judge(ended, verifier))
        finished = np.array([completion.finished for completion in group.completions])
        seconds, judged = seconds + took, judged + len(finished)
        correct += int((judgement.correct[0] & finished).sum())
        if seconds > SECONDS:
            break
    return correct / judged, seconds / judged


def probe_learning(policy: Policy, batch: Batch, config: Config) -> tuple[float, dict[str, int]]:
    """Go forward and back with some responses to the first prompts; the policy is left with a gradient.

    Returns seconds of all passes of a step, if no response had advantage 0, and tokens, padding included. A response
    that was cut is as long as it may become.
    """
    rollout, optimizer = config.rollout, config.optimizer
    vocabulary = policy.output_layer.vocabulary
    cut = {each.tokens for group in batch.groups for each in group.completions if not each.finished}
    rows = []
    for row in rows_of(batch, np.ones((len(batch.groups), len(batch.groups[0].completions)))):
        rest = rollout.max_new_tokens - len(row.response)
        longer = [
            replace(row, response=row.response + (each % vocabulary,) * rest) for each in range(len(row.occurrences))
        ]
        rows += longer if row.response in cut else [row]

    def computed(piece: Sequence[Row]) -> int:
        """Tokens that go through the model: what begins alike once, or all with padding."""
        if policy.packed:
            return Packed(*texts_of(piece), device=torch.device("cpu"), layout=policy.layout).tokens.numel()
        return len(piece) * (max(len(row.prompt) + len(row.response) for row in piece) - 1)

    pieces = micro_batches(rows, optimizer.tokens_per_micro_batch, layout=policy.layout)
    here = sum(map(computed, pieces))
    in_a_step = round(here * rollout.prompts_per_step * rollout.group_size / batch.responses)
    tried = sorted(max(pieces, key=computed), key=lambda row: row.prompt)

    def back(tokens: int) -> tuple[int, float]:
        """Tokens that went forward and back, at most about ``tokens``, and seconds."""
        fits = bisect_right(range(1, len(tried) + 1), tokens, key=lambda count: computed(tried[:count]))
        piece = tried[:fits]
        if not piece:
            half = max(1, tokens // 2)
            piece = [replace(tried[0], prompt=tried[0].prompt[-half:], response=tried[0].response[:half])]
        return computed(piece), _timed(lambda: token_log_probs(policy, piece, rollout.temperature).sum().backward())[1]

    back(1)  # the first call of anything is slow
    size, (tokens, seconds) = FIRST_TOKENS, back(FIRST_TOKENS)
    while size < computed(tried) and GROWTH * seconds < SECONDS:
        size *= GROWTH
        tokens, seconds = back(size)
    # Where there are several updates, what comes after the first is told once more before it.
    told_before = 1.0 if optimizer.epochs > 1 else 1 - 1 / optimizer.mini_batches
    passes = optimizer.epochs + (told_before + (config.kl.coefficient > 0)) / 3  # a forward pass is a third of both
    return passes * in_a_step * seconds / tokens, {"learnt": tokens, "in_a_step": in_a_step}


def probe_updating(policy: Policy, sampler: TorchSampler, config: Config) -> float:
    """Seconds of the updates of a step and of the hand-over to the torch sampler; nothing changes at a rate of 0."""
    optimizer = new_optimizer(policy, config.optimizer.model_copy(update={"learning_rate": 0.0}))
    optimizer.step()  # the first call makes the optimizer's memory
    hand_over = _timed(lambda: sampler.publish(policy.published_weights()))[1]
    return config.optimizer.updates * _timed(optimizer.step)[1] + hand_over


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - began


def _verdict(prompt: Prompt[Any], answer: str, verifier: Verifier[Any] | VerifierPool) -> str:
    completion = Completion(tokens=(0,), log_probs=(0.0,), text=answer, finished=True)
    judgement = judge(Batch.of([prompt], [(0,)], [completion]), verifier)
    if judgement.parsable.all():
        return "right" if judgement.correct.all() else "wrong"
    if judgement.timed_out:
        return "wrong: the verifier ran out of time on it"
    failed = f"the verifier failed on it ({judgement.reason})" if judgement.failed else "no answer can be read in it"
    return f"wrong: {failed}"


def _memory(about: Mapping[str, Any], config: Config) -> list[str]:
    """The lines of a report on memory: a table of parts and phases, and what cards would have left."""
    phases, cards, room = about["phases"], about["cards"], about["cache_tokens"]
    large = max(sum(parts.values()) for parts in phases.values()) >= GIB // 2
    scale, unit = (GIB, "GiB") if large else (2**20, "MiB")
    parts = dict.fromkeys(name for each in phases.values() for name in each)

    def row(name: str, sizes: Sequence[int]) -> list[str]:
        return [name, *(f"{size / scale:.2f}" if size else "" for size in sizes)]

    rows = [row(part, [each.get(part, 0) for each in phases.values()]) for part in parts]
    rows.append(row("sum", [sum(each.values()) for each in phases.values()]))
    lines = table("memory", [f"{unit} a process, {about['device']}", *phases], rows)
    if config.device != "cpu":
        counts = next(iter(cards.values()))
        left = [
            [card, *(f"{size / GIB:.1f}" if size >= 0 else f"lacks {-size / GIB:.1f}" for size in sizes.values())]
            for card, sizes in cards.items()
        ]
        lines += table("cards", ["GiB to spare", *counts], left)
    lines += entry("", f"Planned for prompts of up to {about['prompt_tokens']:,} tokens.")
    if room is not None:
        each = config.sampler.context or "the model's context"
        lines += entry("", f"The engine's cache holds {room:,} tokens; a prompt with its response has up to {each}.")
    return lines


def report(found: DryRun, config: Config, answer: str | None = None) -> list[str]:
    """The lines to show of a dry run."""
    steps, probe = config.training.steps, found.probe
    evaluations, step = 1 + -(-steps // config.training.evaluate_every), sum(found.seconds.values())
    if config.sampler.ahead is not None:
        step = max(step - found.seconds["sampling"], found.seconds["sampling"])
    trained = "all trained" if found.trained == found.parameters else f"{found.trained:,} trained"
    model = f"{found.parameters:,} parameters, {trained} in {found.precision} on {found.device}"
    run = duration(steps * step + evaluations * found.evaluation)
    notes = [
        f"Measured in {duration(probe['seconds'])} on {probe['responses']} responses of up to {probe['new_tokens']:,} "
        f"tokens, and on {probe['learnt']:,} of {probe['in_a_step']:,} tokens forward and back; the rest is in "
        "proportion, so a step takes at most about that long: more prompts at once cost less each. Learning counts all "
        "responses, also those with advantage 0; one that was cut counts up to the limit."
    ]
    if config.rollout.dynamic_sampling:
        notes.append(f"Dynamic sampling may draw {config.rollout.over_generation_limit} times as many groups.")
    if config.sampler.backend == "vllm":
        notes.append("The seconds of sampling are those of the torch sampler: vLLM is faster.")
    if config.sampler.ahead is not None:
        notes.append(
            f"From step 2 on responses come from {config.sampler.ahead} with a lag of 1: while a step learns the next "
            "one is drawn, and the longer of both counts. Sampling was measured as if it were done here."
        )
    if config.start_model is None:
        notes.append(
            "These are random weights, before the supervised phase: success will be another, and responses shorter and "
            "more alike, so that a step takes less."
        )
    lines = [
        *entry("model", f"{found.model}: {model}"),
        *_memory(found.memory, config),
        *sum_of("step", found.seconds, *((1, "s") if step >= 1 else (1e-3, "ms"))),
        *entry("run", f"{run}: {steps:,} steps, {evaluations:,} evaluations of {duration(found.evaluation)}"),
        *entry("estimate", *notes),
        *entry("seen", f"{probe['correct']:.1%} of responses are correct, {probe['finished']:.1%} came to an end"),
    ]
    for number, (prompt, response) in enumerate(zip(found.prompts, found.responses, strict=True), start=1):
        lines += [*quoted(f"prompt {number}", prompt), *quoted("response", response)]
    if answer is not None:
        lines += [*quoted("answer", answer), *entry("", f"to prompt 1 is {found.verdict}")]
    return lines
