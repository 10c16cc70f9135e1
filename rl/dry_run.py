"""A look before a run: what it will ask, what it will take, and what its verifier thinks; nothing is written.

Memory is counted: weights, gradients and optimizer from the model, what a backward pass keeps from one that is made.
Time is measured on a few groups of the run's own first prompts and scaled up in proportion. Without a start model the
weights are random, so lengths and success are not those of the run.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from rl.checkpoint import open_policy
from rl.config import Config
from rl.errors import UsageError
from rl.loss import Row, micro_batches, rows_of
from rl.models.policy import Policy, choose_device, new_policy
from rl.models.start import start_folder
from rl.rollout import Batch, Completion, Group
from rl.samplers.registry import check_backend
from rl.samplers.torch_sampler import TorchSampler
from rl.schedule import TableSchedule
from rl.seeds import derive_seed
from rl.success import Judgement, judge
from rl.tasks.chat import chat_writer, in_chat
from rl.tasks.protocol import Prompt, Task
from rl.tasks.registry import build_task, build_teaching_task, wants_chat
from rl.tasks.split import held_out_prompts, training_prompts
from rl.train import check_alphabet, new_optimizer
from rl.verification.pool import open_verifier

MEASURED_GROUPS = 4
SHOWN_PROMPTS = 3
FLOAT32 = 4

# Of the logits that are in memory at a time: they, their log-softmax, and the gradients of both.
COPIES_OF_LOGITS = 4


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that a run takes, by what takes them; the process itself and the libraries are not counted."""

    weights: int
    gradients: int
    optimizer: int
    sampler: int
    activations: int
    logits: int

    @property
    def together(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.sampler + self.activations + self.logits


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
    groups, success, finished
        How many groups were sampled for them, the share of correct responses, and of those that ended themselves.
    responses
        First responses to the prompts shown.
    prompts
        The first prompts of step 1.
    verdict
        On the answer that was given; None if none was.
    """

    model: str
    device: str
    parameters: int
    trained: int
    memory: Memory
    seconds: Seconds
    groups: int
    success: float
    finished: float
    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    verdict: str | None


def dry_run(config: Config, answer: str | None = None) -> DryRun:
    """Prepare a run as `rl.train.train` does, and measure one small piece of its first step.

    Parameters
    ----------
    answer
        A response to judge as one to the first prompt.

    Raises
    ------
    UsageError, weightopt.table.TableError
        If the run could not start.
    """
    check_backend(config)
    torch.set_num_threads(config.threads)
    task: Task[Any] = build_task(config.task) if config.start_model else build_teaching_task(config.task)
    TableSchedule.load(config)
    held_out_prompts(task, count=config.evaluation.prompts, seed=config.evaluation.seed)
    policy = _policy(config)
    check_alphabet(policy, task)
    if wants_chat(config.task):
        task = in_chat(task, chat_writer(policy.tokenizer))
    prompts = training_prompts(task, count=config.rollout.prompts_per_step, seed=derive_seed(config.seed, "prompts", 1))
    sampler = TorchSampler(policy, stop=config.rollout.stop)
    batch, sampling = _sample(sampler, prompts[:MEASURED_GROUPS], config)
    with open_verifier(config) as verifier:
        judgement, verifying = _timed(lambda: judge(batch, verifier))
        verdict = None if answer is None else _verdict(judge(_answered(prompts[0], answer), verifier))
    share = len(prompts) / len(batch.groups)
    learning, kept, logits = _learn(policy, batch, config, share=share)
    updating = _update(policy, sampler, config)
    sizes = [parameter.numel() * parameter.element_size() for parameter in policy.model.parameters()]
    trained = sum(parameter.numel() for parameter in policy.trained().values())
    parameters = policy.model.num_parameters()
    responses_of_an_evaluation = config.evaluation.prompts * (config.evaluation.samples + config.evaluation.greedy)
    return DryRun(
        model=_name(config),
        device=str(policy.device),
        parameters=parameters,
        trained=trained,
        memory=Memory(
            weights=sum(sizes),
            gradients=trained * FLOAT32,
            optimizer=2 * trained * FLOAT32,
            sampler=(parameters - (trained if policy.adapter else 0)) * FLOAT32,  # an adapter is merged in
            activations=kept,
            logits=logits,
        ),
        seconds=Seconds(
            sampling=share * sampling,
            verifying=share * verifying,
            learning=learning,
            updating=updating,
            evaluation=(sampling + verifying) * responses_of_an_evaluation / batch.responses,
        ),
        groups=len(batch.groups),
        success=float(judgement.correct.mean()),
        finished=batch.share_finished(),
        prompts=tuple(prompt.text for prompt in prompts[:SHOWN_PROMPTS]),
        responses=tuple(group.completions[0].text for group in batch.groups[:SHOWN_PROMPTS]),
        verdict=verdict,
    )


def report(found: DryRun, config: Config) -> list[str]:
    """The lines to show of a dry run."""
    memory, seconds, steps = found.memory, found.seconds, config.training.steps
    evaluations = 1 + -(-steps // config.training.evaluate_every)
    total = steps * seconds.step + evaluations * seconds.evaluation
    engine = " (measured with the torch sampler, not with vLLM)" if config.sampler.backend == "vllm" else ""
    lines = [
        f"model: {found.model}, {found.parameters:,} parameters, {found.trained:,} trained, "
        f"{config.policy.precision} on {found.device}",
        f"memory: {_gib(memory.together)} = weights {_gib(memory.weights)} + gradients {_gib(memory.gradients)} "
        f"+ AdamW {_gib(memory.optimizer)} + sampler's copy {_gib(memory.sampler)} "
        f"+ activations {_gib(memory.activations)} (micro-batches of {config.optimizer.tokens_per_micro_batch:,} "
        f"tokens) + logits up to {_gib(memory.logits)}; "
        "libraries and the samplers' key/value cache come on top",
        f"time: {seconds.step:.2g} s a step = sampling {seconds.sampling:.2g} + verifying {seconds.verifying:.2g} + "
        f"learning at most {seconds.learning:.2g} + update {seconds.updating:.2g}; "
        f"an evaluation {seconds.evaluation:.2g} s; "
        f"{steps:,} steps and {evaluations:,} evaluations {_duration(total)}{engine}",
        f"measured on {found.groups} of {config.rollout.prompts_per_step} groups of {config.rollout.group_size}, and "
        f"scaled in proportion: {found.success:.1%} of responses correct, {found.finished:.1%} ended themselves",
    ]
    if config.start_model is None:
        lines.append(
            "no start model is given: these are random weights, before the supervised phase; success, lengths and "
            "times will be others"
        )
    for number, text in enumerate(found.prompts):
        lines.append(f"prompt {number + 1}: {text!r}")
        if number < len(found.responses):
            lines.append(f"  a response: {found.responses[number]!r}")
    if found.verdict is not None:
        lines.append(f"the answer given to prompt 1 {found.verdict}")
    return lines


def _policy(config: Config) -> Policy:
    """The policy at step 0, as far as it is there."""
    if config.start_model is not None:
        return open_policy(config, start_folder(config.start_model), None)
    if config.lora.rank:
        raise UsageError("lora.rank above 0 in a dry run needs a start_model")
    task = build_teaching_task(config.task)
    policy = new_policy(config.model, task.alphabet, seed=derive_seed(config.seed, "model"))
    policy.model.to(choose_device(config.device))  # type: ignore[arg-type]
    return replace(policy, settings=config.policy)


def _name(config: Config) -> str:
    return "a new one" if config.start_model is None else str(config.start_model)


def _sample(sampler: TorchSampler, prompts: tuple[Prompt[Any], ...], config: Config) -> tuple[Batch, float]:
    """Responses to a few prompts, and the seconds they took; the first call of anything is slow and not counted."""
    rollout = config.rollout

    def sample(prompts: tuple[Prompt[Any], ...], group_size: int, tokens: int) -> Batch:
        return sampler.sample(
            prompts,
            group_size=group_size,
            temperature=rollout.temperature,
            max_new_tokens=tokens,
            seed=derive_seed(config.seed, "responses", 1),
        )

    sample(prompts[:1], 1, min(2, rollout.max_new_tokens))
    return _timed(lambda: sample(prompts, rollout.group_size, rollout.max_new_tokens))


def _learn(policy: Policy, batch: Batch, config: Config, *, share: float) -> tuple[float, int, int]:
    """Seconds of learning in a step, bytes that a backward pass keeps, and bytes of logits, from one micro-batch.

    All distinct responses are counted; a step leaves out those with advantage 0.
    """
    ones = torch.ones(len(batch.groups), config.rollout.group_size).numpy()
    rows = rows_of(batch, ones)
    bound = config.optimizer.tokens_per_micro_batch
    piece = next(micro_batches(rows, bound))
    tokens = _padded_tokens(piece)
    in_a_step = share * sum(_padded_tokens(each) for each in micro_batches(rows, bound))
    in_a_micro_batch = min(bound, in_a_step)
    vocabulary = policy.model.config.get_text_config().vocab_size
    longest = max(len(row.response) for row in piece)
    answered = in_a_micro_batch * len(piece) * longest / tokens  # without the tokens of prompts, which have no logits
    at_once = policy.settings.logits_at_once
    if answered * vocabulary > at_once and policy.output_layer.separable:
        # The piece must take the road of a full micro-batch, else its logits would be counted with what is kept.
        at_once = max(1, min(at_once, len(piece) * longest * vocabulary // 2))
        logits = min(policy.settings.logits_at_once, answered * vocabulary)
    else:
        logits = answered * vocabulary
    policy = replace(policy, settings=policy.settings.model_copy(update={"logits_at_once": at_once}))
    kept = 0
    known = {parameter.untyped_storage().data_ptr() for parameter in policy.model.parameters()}

    def note(value: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        storage = value.untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            kept += storage.nbytes()
        return value

    def backward() -> None:
        prompts = list(dict.fromkeys(row.prompt for row in piece))
        with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            log_probs = policy.token_log_probs(
                prompts,
                [prompts.index(row.prompt) for row in piece],
                [row.response for row in piece],
                temperature=config.rollout.temperature,
            )
        log_probs.sum().backward()

    _, seconds = _timed(backward)
    return (
        seconds * in_a_step / tokens,
        int(kept * in_a_micro_batch / tokens),
        int(COPIES_OF_LOGITS * FLOAT32 * logits),
    )


def _update(policy: Policy, sampler: TorchSampler, config: Config) -> float:
    """Seconds of an update and of its hand-over; at a learning rate of 0 nothing changes."""
    optimizer = new_optimizer(policy, config.optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 0.0

    def update() -> None:
        optimizer.step()
        sampler.publish(policy.published_weights())

    update()
    return _timed(update)[1]


def _padded_tokens(rows: list[Row]) -> int:
    return len(rows) * (max(len(row.prompt) for row in rows) + max(len(row.response) for row in rows))


def _answered(prompt: Prompt[Any], answer: str) -> Batch:
    """A batch of one response, as if the policy had written it and ended it."""
    completion = Completion(tokens=(0,), log_probs=(0.0,), text=answer, finished=True)
    return Batch(groups=(Group(prompt=prompt, prompt_tokens=(0,), completions=(completion,)),))


def _verdict(judgement: Judgement) -> str:
    if judgement.correct.all():
        return "is right"
    if judgement.failed:
        return f"is wrong: the verifier failed on it ({judgement.reason})"
    if judgement.timed_out:
        return "is wrong: the verifier ran out of time on it"
    return "is wrong" if judgement.parsable.all() else "is wrong: no answer can be read in it"


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - began


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
