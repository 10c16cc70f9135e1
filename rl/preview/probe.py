"""What a step takes, from a piece of it that takes a few seconds.

Sampling, judging and learning are done with the step's own prompts, in sizes that grow until the next one would take
longer than `SECONDS`, and what they took is multiplied up, token by token. How many tokens a step reads and writes is
not guessed but counted, micro-batch by micro-batch, with responses as long as those that were seen.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from rl.config import Config
from rl.learning.loss import Row, micro_batches, rows_of
from rl.learning.update import new_optimizer
from rl.models.policy import Policy
from rl.samplers.rollout import Batch
from rl.samplers.torch_sampler import TorchSampler
from rl.seeds import derive_seed
from rl.step.success import judge
from rl.tasks.protocol import Prompt, Verifier
from rl.verification.pool import VerifierPool

# Each of sampling, judging and learning stops growing when its next size would take it beyond so many.
SECONDS = 6.0

# And sampling at so many groups, learning at this part of the tokens of a step, but not below so many: with few tokens
# what a pass does to every weight, whatever it reads, would count as if there were as much for every token.
MEASURED_GROUPS, ENOUGH, ENOUGH_TOKENS = 4, 16, 512

# The first sizes: so many responses to one prompt, of one token each; so many tokens forward and back. The second size
# is always measured: what a call takes whatever its size would count as often as there are tokens otherwise.
FIRST_RESPONSES, FIRST_LEARNT = 16, 64
GROWTH = 4

FLOAT32 = 4

# Of the logits that are in memory at a time: they, their log-softmax, and the gradients of both. On a CPU an output
# layer computed apart works on a few rows and writes the gradient over the logits, if these are not transformed.
COPIES_OF_LOGITS, COPIES_APART = 4, 1

# Responses of a step whose tokens are counted, at most about so many.
COUNTED = 2**16

# A forward pass alone, as a share of one with its backward pass, which is about twice a forward pass.
FORWARD = 1 / 3


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Responses to a few prompts.

    Attributes
    ----------
    batch
        The responses.
    new_tokens
        The limit on their tokens, which may be below that of a run.
    per_response
        Seconds that a response of a run takes, one that was cut here counted as if it went on to the run's limit.
    """

    batch: Batch
    new_tokens: int
    per_response: float


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Seconds to judge a response, also one that was cut, and the share of responses that are correct."""

    per_response: float
    correct: float


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """What learning from a step takes.

    Attributes
    ----------
    seconds
        Of all its passes, epochs, reference and all, if no response had advantage 0.
    activations
        Bytes that the backward pass of the largest micro-batch keeps.
    logits
        Bytes of the logits that exist at a time.
    tokens, in_a_step
        Tokens that went forward and back here, and that do in a step: each prompt of a micro-batch, each response, and
        padding.
    """

    seconds: float
    activations: int
    logits: int
    tokens: int
    in_a_step: int


def prompts_to_draw(config: Config) -> int:
    """How many prompts of a step are looked at: all of a usual one."""
    rollout = config.rollout
    return min(rollout.prompts_per_step, max(MEASURED_GROUPS, COUNTED // rollout.group_size))


def probe_sampling(sampler: TorchSampler, prompts: Sequence[Prompt[Any]], config: Config) -> Sampled:
    """Sample responses to a few prompts: first they grow longer, then there are more of them."""
    rollout = config.rollout
    limit, most = rollout.max_new_tokens, min(MEASURED_GROUPS, len(prompts))

    def sample(groups: int, size: int, tokens: int) -> tuple[Batch, float]:
        return _timed(
            lambda: sampler.sample(
                prompts[:groups],
                group_size=size,
                temperature=rollout.temperature,
                max_new_tokens=tokens,
                seed=derive_seed(config.seed, "responses", 1),
            )
        )

    sample(1, 1, 1)  # the first call of anything is slow
    groups, size, tokens = 1, min(FIRST_RESPONSES, rollout.group_size), 1
    batch, seconds = sample(groups, size, tokens)
    spent = per_token = 0.0
    while spent == 0 or spent + GROWTH * seconds < SECONDS:
        before, took = batch, seconds
        if tokens < limit and batch.share_finished() < 1:
            tokens = min(GROWTH * tokens, limit)
        elif size < rollout.group_size:
            size = min(GROWTH * size, rollout.group_size)
        elif groups < most:
            groups = min(GROWTH * groups, most)
        else:
            break
        batch, seconds = sample(groups, size, tokens)
        spent += seconds
        if batch.responses == before.responses and batch.tokens > before.tokens:
            per_token = max(0.0, seconds - took) / (batch.tokens - before.tokens)
    cut = sum(not completion.finished for group in batch.groups for completion in group.completions)
    return Sampled(
        batch=batch,
        new_tokens=tokens,
        per_response=(seconds + cut * (limit - tokens) * per_token) / batch.responses,
    )


def probe_judging(batch: Batch, verifier: Verifier[Any] | VerifierPool) -> Judged:
    """Judge the responses of a batch, those that were cut as if they had ended there."""
    seconds, judged, correct = 0.0, 0, 0
    for group in batch.groups:
        ended = Batch(
            groups=(replace(group, completions=tuple(replace(each, finished=True) for each in group.completions)),)
        )
        judgement, took = _timed(lambda ended=ended: judge(ended, verifier))
        finished = np.array([each.finished for each in group.completions])
        seconds, judged = seconds + took, judged + len(finished)
        correct += int((judgement.correct[0] & finished).sum())
        if seconds > SECONDS:
            break
    return Judged(per_response=seconds / judged, correct=correct / judged)


def probe_learning(policy: Policy, prompts: Sequence[Prompt[Any]], sampled: Sampled, config: Config) -> Learnt:
    """Go forward and back with as many tokens as a part of a micro-batch; the policy is left with a gradient.

    Parameters
    ----------
    prompts
        The first prompts of the step, or all; those that are missing are taken to be like these.
    """
    times = config.rollout.prompts_per_step / len(prompts)

    def computed(piece: Sequence[Row]) -> int:
        """Tokens that go through the model, padding included; without checkpointing a prompt does once."""
        read = len(piece) if config.policy.gradient_checkpointing else len({row.prompt for row in piece})
        longest_response = max(len(row.response) for row in piece)
        return read * max(len(row.prompt) for row in piece) + len(piece) * longest_response

    rows = _rows_of_a_step(policy, prompts, sampled, config)
    pieces = list(micro_batches(rows, config.optimizer.tokens_per_micro_batch))
    sizes = [computed(piece) for piece in pieces]
    largest = max(sizes)
    tried = sorted(pieces[sizes.index(largest)], key=lambda row: row.prompt)
    answered = max(len(piece) * max(len(row.response) for row in piece) for piece in pieces)
    vocabulary = policy.model.config.get_text_config().vocab_size
    at_once = policy.logits_at_once
    apart = policy.output_layer.separable
    piecewise = apart and answered * vocabulary > at_once
    over = apart and not policy.output_layer.transforms and policy.device.type == "cpu"
    copies = COPIES_APART if over else COPIES_OF_LOGITS

    def back(tokens: int) -> tuple[int, float, int]:
        """Tokens that went forward and back, at most about ``tokens``; seconds; bytes kept in between."""
        piece = _first_rows(tried, tokens, computed)
        settings = policy.settings
        if piecewise:
            # A small piece must take the road of a full micro-batch, else its logits would count as what is kept.
            logits = len(piece) * max(len(row.response) for row in piece) * vocabulary
            settings = settings.model_copy(update={"logits_at_once": max(1, min(at_once, logits // 2))})
        kept, seconds = _forward_and_back(replace(policy, settings=settings), piece, config.rollout.temperature)
        return computed(piece), seconds, kept

    few, _, kept_by_few = back(1)  # the first call of anything is slow
    tokens, seconds, kept = back(FIRST_LEARNT)
    spent, each = 0.0, seconds / tokens
    enough, size = min(largest, max(int(times * sum(sizes)) // ENOUGH, ENOUGH_TOKENS)), FIRST_LEARNT
    while size < enough and (spent == 0 or spent + GROWTH * seconds < SECONDS):
        size = min(GROWTH * size, enough)
        before, took = tokens, seconds
        tokens, seconds, kept = back(size)
        spent += seconds
        if tokens > before:
            # A pass takes something whatever its size; how much is not taken on trust from so small a difference.
            each = min(max((seconds - took) / (tokens - before), seconds / tokens / 4), seconds / tokens)
    # Where there are several updates, what comes after the first is told once more before it.
    optimizer = config.optimizer
    told_before = 1.0 if optimizer.epochs > 1 else 1 - 1 / optimizer.mini_batches
    passes = optimizer.epochs + FORWARD * (told_before + (config.kl.coefficient > 0))
    # What is kept whatever the size, such as weights in another precision, is kept once.
    kept_by_each = (kept - kept_by_few) / (tokens - few) if tokens > few else kept / tokens
    return Learnt(
        seconds=passes * times * sum(seconds + each * (size - tokens) for size in sizes),
        activations=int(kept + max(0.0, kept_by_each) * max(0, largest - tokens)),
        logits=copies * FLOAT32 * (at_once if piecewise else answered * vocabulary),
        tokens=tokens,
        in_a_step=round(times * sum(sizes)),
    )


def probe_updating(policy: Policy, sampler: TorchSampler, config: Config) -> float:
    """Seconds of the updates of a step and of the hand-over to the torch sampler.

    At a learning rate of 0 nothing changes.
    """
    optimizer = new_optimizer(policy, config.optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 0.0

    optimizer.step()  # the first call makes the optimizer's memory
    _, update = _timed(optimizer.step)
    _, hand_over = _timed(lambda: sampler.publish(policy.published_weights()))
    return config.optimizer.updates * update + hand_over


def _rows_of_a_step(policy: Policy, prompts: Sequence[Prompt[Any]], sampled: Sampled, config: Config) -> list[Row]:
    """As many distinct responses as a step may have, to its own prompts and as long as those that were sampled.

    Those that were cut count as long as they may become. The tokens have no meaning: how long a pass takes and what it
    keeps does not depend on them.
    """
    limit, groups = config.rollout.max_new_tokens, sampled.batch.groups
    rows = rows_of(sampled.batch, np.ones((len(groups), len(groups[0].completions))))
    finished = {
        (group.prompt_tokens, completion.tokens): completion.finished
        for group in groups
        for completion in group.completions
    }
    lengths = [
        [
            len(row.response) if finished[row.prompt, row.response] else limit
            for row in rows
            if row.prompt == group.prompt_tokens
        ]
        for group in groups
    ]
    times = config.rollout.group_size / len(groups[0].completions)
    written = {length: (0,) * length for lengths_of_a_group in lengths for length in lengths_of_a_group}
    expected = []
    for number, prompt in enumerate(prompts):
        tokens, of_a_group = policy.encode_prompt(prompt.text), lengths[number % len(lengths)]
        for index in range(max(1, round(len(of_a_group) * times))):
            response = written[of_a_group[index % len(of_a_group)]]
            expected.append(Row(prompt=tokens, response=response, coefficient=1.0, occurrences=()))
    return expected


def _first_rows(rows: Sequence[Row], tokens: int, computed: Callable[[Sequence[Row]], int]) -> list[Row]:
    """As many rows as stay within ``tokens``; if the first alone does not, a part of it."""
    piece = [rows[0]]
    if computed(piece) > tokens:
        half = max(1, tokens // 2)
        return [replace(rows[0], prompt=rows[0].prompt[-half:], response=rows[0].response[:half])]
    for row in rows[1:]:
        if computed([*piece, row]) > tokens:
            break
        piece.append(row)
    return piece


def _forward_and_back(policy: Policy, rows: Sequence[Row], temperature: float) -> tuple[int, float]:
    """Bytes kept for the backward pass, and seconds of both."""
    kept = 0
    known = {parameter.untyped_storage().data_ptr() for parameter in policy.model.parameters()}

    def note(value: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        storage = value.untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            kept += storage.nbytes()
        return value

    def there_and_back() -> None:
        prompts = list(dict.fromkeys(row.prompt for row in rows))
        with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            log_probs = policy.token_log_probs(
                prompts,
                [prompts.index(row.prompt) for row in rows],
                [row.response for row in rows],
                temperature=temperature,
            )
        log_probs.sum().backward()

    _, seconds = _timed(there_and_back)
    return kept, seconds


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - began
