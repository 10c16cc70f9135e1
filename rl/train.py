"""The training loop, in the order it happens: sample, verify, count, weigh, learn, publish weights, log.

One step samples M responses to each prompt, counts the K correct ones of each group, looks up the advantages of correct
and wrong responses in the weight table at K, and makes one update. The table is the only thing that differs between a
baseline and a solved weighting.

Left out of the usual recipe, because each would change the weighting that is being compared, or is not needed here:

* ratio clipping and several updates a batch: the step is on-policy, so the ratio is 1 and its clip never acts;
* a penalty on the distance to the start model, and an entropy bonus: both add a gradient that is not the weighting's;
* division by response length, by group or by batch standard deviation: that is another weighting; ask for its table;
* resampling of groups without signal, as in DAPO: it changes which prompts are trained on;
* shaped rewards and length penalties: a response is correct or it is not;
* learning-rate schedules: the time to a target is what is measured, and a schedule would be part of the answer.
"""

if __name__ == "__main__":
    # Before the imports below: the command says in one sentence what is missing when they would fail.
    from rl import command

    command.run_alone(command.train)

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl.advantage import look_up_advantages
from rl.checkpoint import (
    checkpoint_step,
    latest_checkpoint,
    load_optimizer_state,
    save_checkpoint,
    whole_folder,
)
from rl.config import Config, OptimizerConfig, differences
from rl.errors import DivergenceError, UsageError
from rl.evaluate import evaluate
from rl.loss import accumulate_gradient, denominator, rows_of
from rl.metrics import (
    METRICS_FILE,
    TIMING_FILE,
    EvaluationRecord,
    StepRecord,
    TimingRecord,
    append_record,
    read_metrics,
    truncate_records,
)
from rl.model import Policy, load_policy, save_policy
from rl.progress import Progress
from rl.rollout import Batch
from rl.samplers.torch_sampler import TorchSampler
from rl.seeds import derive_seed
from rl.success import count_successes, success_histogram, verify
from rl.supervised import make_start_model
from rl.tasks.protocol import Task
from rl.tasks.registry import build_task
from rl.tasks.split import held_out_prompts, training_prompts
from rl.versions import versions
from weightopt.table import WeightTable, replace_file


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    step
        Updates made.
    finished
        Whether that is all of them; if not, the run was interrupted, has saved a checkpoint and can be resumed.
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
        ``run.json``, ``metrics.jsonl``, ``timing.jsonl``, ``checkpoints/`` and at the end ``model/``.
    resume
        Go on after the last checkpoint. The files come out as if the run had never stopped, bit for bit on a CPU
        (but for ``timing.jsonl``).
    quiet
        Show nothing.

    Raises
    ------
    UsageError, weightopt.table.TableError, OSError
        If the run cannot start as asked; nothing has been overwritten.
    DivergenceError
        If a loss, a gradient or a weight is not finite; the last checkpoint is intact.
    """
    torch.set_num_threads(config.threads)
    task = build_task(config.task)
    table = load_table(config)
    held_out = held_out_prompts(task, count=config.evaluation.prompts, seed=config.evaluation.seed)
    _open_folder(output, config, table, resume=resume)
    with Progress(quiet=quiet, name=table.name, steps=config.training.steps) as progress:
        if config.start_model is None and not (output / "start").exists():
            make_start_model(config, output / "start", report=progress.supervised)
        policy, optimizer, step = _restore(output, config)
        _check_alphabet(policy, task)
        sampler = TorchSampler(policy)

        def measure(step: int) -> None:
            record = evaluate(
                sampler,
                task,
                held_out,
                config.evaluation,
                max_new_tokens=config.rollout.max_new_tokens,
                step=step,
                responses=step * config.rollout.prompts_per_step * config.rollout.group_size,
                seed=derive_seed(config.seed, "evaluation", step),
            )
            append_record(output / METRICS_FILE, record)
            progress.evaluated(record)

        if step == 0:
            measure(step)
        with _interruption() as interrupted:
            while step < config.training.steps and not interrupted():
                step += 1
                clock = [time.perf_counter()]
                with _naming(step):
                    # Sample.
                    prompts = training_prompts(
                        task, count=config.rollout.prompts_per_step, seed=derive_seed(config.seed, "prompts", step)
                    )
                    batch = sampler.sample(
                        prompts,
                        group_size=config.rollout.group_size,
                        temperature=config.rollout.temperature,
                        max_new_tokens=config.rollout.max_new_tokens,
                        seed=derive_seed(config.seed, "responses", step),
                    )
                    clock.append(time.perf_counter())
                    # Verify, count, weigh.
                    correct = verify(batch, task)
                    successes = count_successes(correct)
                    advantages = look_up_advantages(table, successes, correct)
                    clock.append(time.perf_counter())
                    # Learn, publish weights.
                    update = learn(policy, optimizer, batch, advantages, config)
                    sampler.publish(policy.model.state_dict())
                    clock.append(time.perf_counter())
                # Log.
                record = StepRecord(
                    step=step,
                    responses_so_far=step * batch.responses,
                    tokens=batch.tokens,
                    reward=float(correct.mean()),
                    success_histogram=success_histogram(successes, config.rollout.group_size),
                    all_wrong=float((successes == 0).mean()),
                    all_right=float((successes == config.rollout.group_size).mean()),
                    mean_abs_advantage=float(np.abs(advantages).mean()),
                    distinct_responses=update.rows,
                    gradient_norm=update.gradient_norm,
                    clipped=update.clipped,
                    entropy=batch.mean_negative_log_prob(),
                    finished=batch.share_finished(),
                )
                append_record(output / METRICS_FILE, record)
                progress.stepped(record)
                if step == config.training.steps or step % config.training.evaluate_every == 0:
                    measure(step)
                clock.append(time.perf_counter())
                append_record(output / TIMING_FILE, TimingRecord.from_clock(step, clock))
                if step == config.training.steps or step % config.training.checkpoint_every == 0:
                    save_checkpoint(output / "checkpoints", policy, optimizer, step=step)
            finished = step == config.training.steps
            if finished and not (output / "model").exists():
                with whole_folder(output / "model") as partial:
                    save_policy(policy, partial)
            if not finished and step % config.training.checkpoint_every:
                save_checkpoint(output / "checkpoints", policy, optimizer, step=step)
    evaluations = read_metrics(output / METRICS_FILE).evaluations
    return Outcome(step=step, finished=finished, evaluation=evaluations[-1])


def _restore(output: Path, config: Config) -> tuple[Policy, torch.optim.Optimizer, int]:
    """Policy, optimizer and steps done: of the last checkpoint, or of the start model.

    Records of later steps, which the run will make again, are dropped from the files.
    """
    checkpoint = latest_checkpoint(output / "checkpoints")
    step = checkpoint_step(checkpoint) if checkpoint else 0
    for name in (METRICS_FILE, TIMING_FILE):
        truncate_records(output / name, keep=lambda recorded: step > 0 and recorded <= step)
    policy = load_policy(checkpoint / "model" if checkpoint else config.start_model or output / "start")
    optimizer = new_optimizer(policy, config.optimizer)
    if checkpoint:
        load_optimizer_state(checkpoint, policy, optimizer)
    return policy, optimizer, step


def _check_alphabet(policy: Policy, task: Task[Any]) -> None:
    """Refuse a start model whose tokenizer cannot write the characters of the task."""
    if not policy.can_write(task.alphabet):
        raise UsageError(
            f"the tokenizer of the start model cannot write all of {task.alphabet!r}, the task's characters"
        )


def load_table(config: Config) -> WeightTable:
    """The group table of the run; raises `UsageError` if none is named, `weightopt.table.TableError` if it is bad."""
    if config.table is None:
        raise UsageError("no weight table is given: add --set table=FILE, with a file written by weightopt table")
    return WeightTable.load(config.table).for_group(config.rollout.group_size)


def new_optimizer(policy: Policy, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW over all parameters of the policy."""
    return torch.optim.AdamW(
        policy.model.parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
    )


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one update did: rows computed, gradient norm before clipping, and whether it was clipped."""

    rows: int
    gradient_norm: float
    clipped: bool


def learn(
    policy: Policy, optimizer: torch.optim.Optimizer, batch: Batch, advantages: np.ndarray, config: Config
) -> Update:
    """Make one update of the policy from one on-policy batch.

    Parameters
    ----------
    advantages
        Shape (P, M).

    Raises
    ------
    DivergenceError
        If the gradient is not finite, and then nothing is updated, or if a weight is not finite after the update.
    """
    parameters = list(policy.model.parameters())
    for parameter in parameters:
        # Not None: a step without any signal has a gradient of zero, and the optimizer's memory fades over it.
        parameter.grad = torch.zeros_like(parameter)
    rows = rows_of(batch, advantages)
    accumulate_gradient(
        policy,
        rows,
        responses=denominator(batch),
        temperature=config.rollout.temperature,
        tokens_per_micro_batch=config.optimizer.tokens_per_micro_batch,
    )
    bound = config.optimizer.max_grad_norm or math.inf
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, bound))
    if not math.isfinite(norm):
        raise DivergenceError(f"the gradient is not finite (norm {norm})")
    optimizer.step()
    if not all(bool(torch.isfinite(parameter).all()) for parameter in parameters):
        raise DivergenceError("a weight is not finite after the update")
    return Update(rows=len(rows), gradient_norm=norm, clipped=norm > bound)


def _open_folder(output: Path, config: Config, table: WeightTable, *, resume: bool) -> None:
    """Check that the run may write here, and write ``run.json`` unless it is already there.

    A folder without ``run.json`` holds nothing of a run: it is written before anything else.
    """
    about = output / "run.json"
    run = {
        "schema": "rl.run/1",
        "config": config.to_json(),
        "table": {"name": table.name, "checksum": table.checksum},
        "start_model": None if config.start_model is None else _start_model_checksum(config.start_model),
        "versions": versions(),
    }
    if output.is_dir() and any(output.iterdir()) and not (resume and about.is_file()):
        hint = "it holds no run.json to resume" if resume else "add --resume to go on, or name another folder"
        raise UsageError(f"output {str(output)!r} is not empty: {hint}")
    if about.is_file():
        before = json.loads(about.read_text(encoding="utf-8"))
        for key, was, now in differences(before, run):
            name = key.removeprefix("config.")
            raise UsageError(f"cannot resume {str(output)!r}: {name!r} was {was!r} and is now {now!r}")
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        replace_file(about, (json.dumps(run, indent=2) + "\n").encode())
    except OSError as error:
        raise UsageError(f"output {str(output)!r} cannot be written: {error.strerror}") from error


def _start_model_checksum(folder: Path) -> str:
    """sha256 of the weights of a start model, as ``"sha256:<hex>"``; raises `UsageError` if there are none."""
    try:
        return f"sha256:{sha256((folder / 'model.safetensors').read_bytes()).hexdigest()}"
    except OSError as error:
        raise UsageError(f"start_model {str(folder)!r} has no readable model.safetensors: {error.strerror}") from error


@contextmanager
def _naming(step: int) -> Iterator[None]:
    """Name the step in which training diverged."""
    try:
        yield
    except DivergenceError as error:
        raise DivergenceError(f"step {step}: {error}; the last checkpoint is intact") from error


@contextmanager
def _interruption() -> Iterator[Callable[[], bool]]:
    """Turn the first interrupt (Ctrl-C) into an answer to be asked for; the second one interrupts as usual.

    Only the main thread of a program can do that; elsewhere the answer stays False.
    """
    asked = threading.Event()

    def note(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
