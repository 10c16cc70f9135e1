"""The training loop, in the order it happens: sample and score, weigh, learn, publish weights, log.

One step samples M responses to each prompt, counts the K correct ones of each group, looks up the advantages of correct
and wrong responses in the weight table at K, and makes one update. The table is the only thing that differs between a
baseline and a solved weighting.

Options that change the weighting are off by default, and docs/training.md says what each does to it: other success
estimates, rules for all-wrong groups, dynamic sampling, normalisers, schedules of tables and of the learning rate,
several updates a step with PPO's clip, a penalty on the distance to a reference.

Where torchrun has started several processes, each goes through all of it with the same numbers; what they share out is
sampling, judging, and the gradient with the weights (rl/processes/ranks.py), and the first alone writes and shows.

Left out of the usual recipe, because each would change the weighting that is being compared, or is not needed here:

* an entropy bonus: it adds a gradient that is not the weighting's;
* division by group or by batch standard deviation: that is another weighting; ask for its table;
* shaped rewards and length penalties: a response is correct or it is not.
"""

if __name__ == "__main__":
    # Before the imports below: the command says in one sentence what is missing when they would fail.
    from rl import command

    command.run_alone(command.train)

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError

from rl.config import Config
from rl.errors import DivergenceError, StorageError, SyncError, UsageError
from rl.learning.loss import denominator
from rl.learning.reference import open_reference
from rl.learning.update import learn, new_optimizer
from rl.models.policy import Policy, save_policy
from rl.models.start import start_folder
from rl.processes.failures import processes
from rl.processes.ranks import Ranks, open_ranks
from rl.processes.sharded import shard, whole
from rl.records.layout import BEST, CHECKPOINTS, MODEL, START, latest_checkpoint, safe
from rl.records.metrics import (
    METRICS_FILE,
    RECORD_FILES,
    ROLLOUTS_FILE,
    TIMING_FILE,
    EvaluationRecord,
    StepRecord,
    TimingRecord,
    append_record,
    read_metrics,
    truncate_records,
)
from rl.run.checkpoint import (
    RunState,
    kept_steps,
    load_optimizer_state,
    open_policy,
    prune,
    read_state,
    save_checkpoint,
    save_model,
)
from rl.run.complete import check_records
from rl.run.config import TrackingConfig
from rl.run.display.progress import Progress
from rl.run.folder import run_folder
from rl.run.rollouts import append_rollouts, dumping
from rl.run.trackers.registry import check_trackers, open_trackers
from rl.samplers.registry import check_backend, open_sampler
from rl.seeds import derive_seed
from rl.step.advantage import weigh
from rl.step.draw_groups import collect
from rl.step.evaluate import evaluate
from rl.step.schedule import TableSchedule, all_wrong_factor
from rl.step.stopwatch import Stopwatch
from rl.step.success import Visits, count_successes, histogram_by_difficulty, success_histogram
from rl.storage import whole_folder
from rl.supervised import make_start_model
from rl.tasks.chat import chat_writer, in_chat
from rl.tasks.protocol import Task, TeachingTask
from rl.tasks.registry import build_task, build_teaching_task, wants_chat
from rl.tasks.split import held_out_prompts
from rl.verification.pool import open_verifier

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    step
        Steps made.
    finished
        Whether that is all of them; if not, the run was interrupted, has saved a checkpoint if it has made a step, and
        can be resumed.
    evaluation
        The last measurement on held-out prompts.
    """

    step: int
    finished: bool
    evaluation: EvaluationRecord


def train(config: Config, output: Path, *, resume: bool = False, quiet: bool = False) -> Outcome:
    """Run, or go on with, a training run.

    Parameters
    ----------
    config
        The run.
    output
        Its folder: new or empty, or with ``resume`` one that a run with the same configuration has left. It gets
        ``run.json``, ``metrics.jsonl``, ``timing.jsonl``, ``checkpoints/``, ``best/`` and at the end ``model/``.
    resume
        Go on after the last checkpoint. The files come out as if the run had never stopped, bit for bit on a CPU
        (but for ``timing.jsonl``). With more ``training.steps`` than before a run is prolonged, and comes out as if
        it had been so long from the start.
    quiet
        Show nothing.

    Raises
    ------
    UsageError, weightopt.table.TableError, OSError
        If the run cannot start as asked; nothing has been overwritten.
    DivergenceError
        If a loss, a gradient or a weight is not finite; a saved checkpoint is intact.
    SyncError
        If the sampler does not compute with the weights that are trained; a saved checkpoint is intact.
    StorageError
        If something cannot be written once the run is going; a saved checkpoint is intact.
    """
    check_backend(config)
    check_trackers(config.tracking)
    torch.set_num_threads(config.threads)
    task = build_task(config.task) if config.start_model else build_teaching_task(config.task)
    tables = TableSchedule.load(config)
    held_out = held_out_prompts(task, count=config.evaluation.prompts, seed=config.evaluation.seed)
    with (
        open_ranks(config.device) as ranks,
        open_verifier(config) as verifier,
        _leading(ranks, run_folder(output, config, _describe(tables, ranks), resume=resume)) as go_on,
        Progress(quiet=quiet or not ranks.leading, name=tables.name, steps=config.training.steps) as progress,
        ExitStack() as stack,
    ):
        # The start model, unless one is given or an interrupted run has made it.
        if config.start_model is None and ranks.leading and not (output / START).exists():
            make_start_model(config, output / START, report=progress.supervised)
        ranks.wait()
        policy, optimizer, state = _restore(output, config, ranks)
        reference = open_reference(config, policy, _start(output, config))
        check_alphabet(policy, task)
        if wants_chat(config.task):
            write = chat_writer(policy.tokenizer)
            task, held_out = in_chat(task, write), tuple(map(write, held_out))
        visits = Visits(config.weighting, state.visits)
        with _naming(output, state.step):
            sampler = stack.enter_context(
                open_sampler(config, policy, policy.published_weights(), probe=held_out, ranks=ranks)
            )
        # All that the run goes on from has been read, by all: from here on its files change.
        ranks.wait()
        if go_on:
            go_on()
            _drop_the_rest(output, config, state)
        progress.catch_up(output)
        trackers = stack.enter_context(
            open_trackers(_seen_once(config, ranks), output, tell=progress.tell, warn=progress.warn)
        )
        trackers.catch_up(output)

        def measure() -> EvaluationRecord:
            with _naming(output, state.step):
                record = evaluate(
                    sampler,
                    verifier,
                    held_out,
                    config.evaluation,
                    max_new_tokens=config.rollout.max_new_tokens,
                    step=state.step,
                    spent=state.spent,
                    seed=derive_seed(config.seed, "evaluation", state.step),
                    ranks=ranks,
                )
            if ranks.leading:
                append_record(output / METRICS_FILE, record)
            trackers.log(record)
            progress.evaluated(record)
            return record

        with _storing(output, state.step):
            if state.step == 0:
                state = _keep_best(output, config, policy, state, measure())
        with _interruption() as interrupted:
            while state.step < config.training.steps and not ranks.any(interrupted()):
                step = state.step + 1
                stopwatch = Stopwatch()
                table = tables.at(step)
                with _naming(output, step):
                    # Sample and score, with dynamic sampling until the batch is full.
                    collected = collect(sampler, task, verifier, config, step=step, stopwatch=stopwatch, ranks=ranks)
                    drawn, batch = collected.drawn, collected.batch
                    # Weigh.
                    with stopwatch.stage("verifying"):
                        factor = all_wrong_factor(config.weighting, step)
                        advantages = weigh(
                            config.weighting,
                            table.group,
                            table.weight,
                            batch,
                            collected.batch_correct,
                            visits,
                            all_wrong_factor=factor,
                        )
                    # Learn, publish weights.
                    dump = _leading(ranks, dumping(output, collected, advantages, step=step))
                    with stopwatch.stage("learning"), dump:
                        update = learn(policy, optimizer, batch, advantages, config, step, reference, ranks)
                    with stopwatch.stage("hand_over"):
                        sampler.publish(policy.published_weights())
                # Log.
                successes = count_successes(collected.correct)
                if config.weighting.estimate == "beta":
                    visits.add(drawn, successes)
                spent = state.spent.plus(
                    groups=len(drawn.groups),
                    responses=drawn.responses,
                    tokens=drawn.tokens,
                    updates=len(update.gradient_norms),
                )
                state = replace(state, step=step, spent=spent)
                record = StepRecord(
                    step=step,
                    responses_so_far=state.spent.responses,
                    groups_so_far=state.spent.groups,
                    tokens_so_far=state.spent.tokens,
                    updates_so_far=state.spent.updates,
                    tokens=drawn.tokens,
                    groups_drawn=len(drawn.groups),
                    groups_trained=len(batch.groups),
                    reward=float(collected.correct.mean()),
                    success_histogram=success_histogram(successes, config.rollout.group_size),
                    histogram_by_difficulty=histogram_by_difficulty(drawn, successes, config.rollout.group_size),
                    all_wrong=float((successes == 0).mean()),
                    all_right=float((successes == config.rollout.group_size).mean()),
                    table=table.group.name,
                    all_wrong_factor=factor,
                    mean_abs_advantage=float(np.abs(advantages).sum() / denominator(config.rollout)),
                    distinct_responses=update.rows,
                    learning_rate=update.learning_rate,
                    gradient_norm=update.gradient_norm,
                    clipped=update.clipped > 0,
                    clip_factor=update.clip_factor,
                    updates_clipped=update.clipped,
                    ratio_clipped=update.seen.clipped.share,
                    log_ratio_mean=update.seen.mismatch.mean,
                    log_ratio_max=update.seen.mismatch.max_abs,
                    sampler_kl=update.seen.mismatch.kl,
                    importance_truncated=update.seen.mismatch.share_truncated,
                    kl_per_token=update.seen.divergence.per_token,
                    kl_per_response=update.seen.divergence.per_response,
                    entropy=drawn.mean_negative_log_prob(),
                    finished=drawn.share_finished(),
                    parsable=float(collected.judgement.parsable.mean()),
                    timed_out=collected.judgement.timed_out,
                    failed=collected.judgement.failed,
                )
                with _storing(output, step):
                    if ranks.leading:
                        append_rollouts(
                            output / ROLLOUTS_FILE,
                            collected,
                            advantages,
                            step=step,
                            share=config.training.rollout_share,
                            seed=config.seed,
                        )
                        append_record(output / METRICS_FILE, record)
                    trackers.log(record)
                    progress.stepped(record)
                    with stopwatch.stage("evaluating"):
                        if step % config.training.evaluate_every == 0:
                            state = _keep_best(output, config, policy, state, measure())
                        elif step == config.training.steps:
                            measure()  # of the model that is kept as model/ anyway
                    timing = TimingRecord.from_seconds(step, stopwatch.seconds)
                    if ranks.leading:
                        append_record(output / TIMING_FILE, timing)
                    trackers.log(timing)
                    progress.timed(timing)
                    if step == config.training.steps or step % config.training.checkpoint_every == 0:
                        _checkpoint(output, config, policy, optimizer, replace(state, visits=visits.to_json()), ranks)
            finished = state.step == config.training.steps
            with _storing(output, state.step):
                if finished and ranks.any(not (output / MODEL).exists()) and (plain := whole(policy)) is not None:
                    with whole_folder(output / MODEL) as unfinished:
                        save_policy(plain, unfinished)
                if not finished and state.step:
                    _checkpoint(output, config, policy, optimizer, replace(state, visits=visits.to_json()), ranks)
        ranks.wait()
        evaluations = read_metrics(output / METRICS_FILE).evaluations
    return Outcome(step=state.step, finished=finished, evaluation=evaluations[-1])


def _start(output: Path, config: Config) -> Path:
    """The folder of the start model."""
    return output / START if config.start_model is None else start_folder(config.start_model)


def _restore(output: Path, config: Config, ranks: Ranks) -> tuple[Policy, torch.optim.Optimizer, RunState]:
    """Policy, optimizer and state: of the last checkpoint, or of the start model; nothing is changed."""
    checkpoint = latest_checkpoint(output / CHECKPOINTS)
    state = read_state(checkpoint) if checkpoint else RunState()
    check_records(output, step=state.step, evaluate_every=config.training.evaluate_every, last=config.training.steps)
    policy = shard(open_policy(config, _start(output, config), checkpoint), ranks)
    optimizer = new_optimizer(policy, config.optimizer)
    if checkpoint:
        load_optimizer_state(checkpoint, policy, optimizer)
    return policy, optimizer, state


def _drop_the_rest(output: Path, config: Config, state: RunState) -> None:
    """Drop what was recorded after ``state``, and will be again.

    So is a measurement that only the end of a shorter run called for.
    """

    def keep(record: Any) -> bool:
        regular = record["step"] % config.training.evaluate_every == 0 or record["step"] == config.training.steps
        return 0 < state.step >= record["step"] and (regular or record.get("kind") != "evaluation")

    for name in RECORD_FILES:
        truncate_records(output / name, keep=keep)
    _tidy(output, config, state)


def _keep_best(output: Path, config: Config, policy: Policy, state: RunState, record: EvaluationRecord) -> RunState:
    """Keep the model just measured if it is better than all before it; the one before goes with the next checkpoint."""
    if state.best_success is not None and record.success <= state.best_success:
        return state
    if config.evaluation.keep_best:
        save_model(output / BEST, policy, step=record.step)
    return replace(state, best_step=record.step, best_success=record.success)


def _checkpoint(
    output: Path, config: Config, policy: Policy, optimizer: torch.optim.Optimizer, state: RunState, ranks: Ranks
) -> None:
    """Save a checkpoint, then remove what it makes superfluous."""
    save_checkpoint(output / CHECKPOINTS, policy, optimizer, state)
    if ranks.leading:
        _tidy(output, config, state)


def _tidy(output: Path, config: Config, state: RunState) -> None:
    """Remove the checkpoints and best models that are not to be kept beside the checkpoint of ``state``."""
    kept = kept_steps(
        output / CHECKPOINTS,
        count=config.training.keep_checkpoints,
        every=config.training.checkpoint_every,
        last=state.step,
    )
    prune(output / CHECKPOINTS, kept.__contains__)
    prune(output / BEST, lambda step: step == state.best_step)


def check_alphabet(policy: Policy, task: Task[Any]) -> None:
    """Refuse a start model whose tokenizer cannot write the characters of a task that is written in few."""
    if isinstance(task, TeachingTask) and not policy.can_write(task.alphabet):
        raise UsageError(
            f"the tokenizer of the start model cannot write all of {task.alphabet!r}, the task's characters"
        )


def _leading(ranks: Ranks, block: AbstractContextManager[T]) -> AbstractContextManager[T | None]:
    """A ``with`` block that writes, and so is for the leading process alone."""
    return block if ranks.leading else nullcontext()


def _seen_once(config: Config, ranks: Ranks) -> Config:
    """The configuration with trackers for the leading process alone."""
    return config if ranks.leading else config.model_copy(update={"tracking": TrackingConfig()})


def _describe(tables: TableSchedule, ranks: Ranks) -> dict[str, Any]:
    """What ``run.json`` says beside the configuration."""
    return {**tables.describe(), **({"processes": ranks.size} if ranks.size > 1 else {})}


@contextmanager
def _naming(output: Path, step: int) -> Iterator[None]:
    """Name the step in which training diverged, or lost its sampler."""
    try:
        yield
    except (DivergenceError, SyncError) as error:
        raise type(error)(f"step {step}: {error}; {safe(output)}") from error


@contextmanager
def _storing(output: Path, step: int) -> Iterator[None]:
    """Say what could not be written, and that nothing is lost but what came after the last checkpoint."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise StorageError(
            f"step {step} could not be written ({reason}); {safe(output)}: make room and go on with --resume"
        ) from error


@contextmanager
def _interruption() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT (Ctrl-C) or SIGTERM into an answer to be asked for; a second one acts as usual.

    Not where torchrun has started several processes: it passes on to each what the terminal has sent to all. Only the
    main thread of a program can do that; elsewhere the answer stays False.
    """
    asked = threading.Event()
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(*_: object) -> None:
        asked.set()
        if processes() == 1:
            restore()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, note)
    try:
        yield asked.is_set
    finally:
        restore()
