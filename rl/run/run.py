"""A run: its folder, what it keeps there and shows while it goes, and how it ends, well or badly."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from safetensors import SafetensorError

from rl.config import Config
from rl.errors import DivergenceError, LostRankError, OtherRankError, StorageError, SyncError, UsageError, one_line
from rl.learning.reference import open_reference
from rl.learning.update import new_optimizer
from rl.models.start import start_folder
from rl.processes.ranks import Ranks, open_ranks
from rl.processes.sharded import shard, whole
from rl.records.layout import BEST, CHECKPOINTS, MODEL, START, latest_checkpoint, safe
from rl.records.metrics import METRICS_FILE, EvaluationRecord, TimingRecord, read_metrics
from rl.run.checkpoint import (
    RunState,
    check_files,
    kept_steps,
    load_optimizer_state,
    open_policy,
    prune,
    read_drawn,
    read_state,
    save_checkpoint,
    save_model,
    save_whole,
)
from rl.run.config import TrackingConfig
from rl.run.display.progress import Progress
from rl.run.folder import began, run_folder
from rl.run.followed import followed, restored
from rl.run.prepare import Prepared, check_memory, prepare
from rl.run.records import Records
from rl.run.rollouts import rollouts, written
from rl.run.signals import interruption
from rl.run.trackers import Trackers
from rl.samplers.registry import open_sampler
from rl.seeds import derive_seed
from rl.step.evaluate import evaluate
from rl.step.loop import Loop
from rl.step.step import Step
from rl.supervised import make_start_model
from rl.tasks.protocol import Verifier
from rl.verification.pool import VerifierPool, open_verifier


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended, with the last measurement on held-out prompts.

    One that has not finished, which is to make all steps, was interrupted and can be resumed; it has saved a checkpoint
    if it has made a step.
    """

    step: int
    finished: bool
    evaluation: EvaluationRecord


@dataclass(eq=False)
class Run:
    """An open run; see `open_run`. Of several processes all must make the same calls.

    Attributes
    ----------
    go_on
        To be called with the name of the engine when all that the run goes on from has been read; see `run_folder`.
    stack
        What is closed at the end of the run.
    loop
        What the next step works with, once there is something: see `restore`.
    """

    config: Config
    output: Path
    ready: Prepared
    ranks: Ranks
    verifier: Verifier[Any] | VerifierPool
    progress: Progress
    go_on: Callable[[str | None], None]
    stack: ExitStack
    state: RunState = field(default_factory=RunState)
    loop: Loop = field(init=False)

    def __post_init__(self) -> None:
        self._records = Records(self.output, every=self.config.training.evaluate_every)
        self._trackers: Trackers
        self._seconds: dict[str, float] = {}  # of the last step, until they are written down
        self._in_step = False
        self._interrupted: Callable[[], bool] | None = None

    @property
    def next_step(self) -> int:
        """Number of the step to be made."""
        return self.state.step + 1

    @property
    def going(self) -> bool:
        """Whether there is a step to be made: not at the end, and not after Ctrl-C."""
        if self._interrupted is None:
            # From now on there are steps to be saved; before, a signal acts as usual.
            self._interrupted = self.stack.enter_context(interruption())
        self._in_step = not self._ended and not self.ranks.any(self._interrupted())
        return self._in_step

    @property
    def evaluation_due(self) -> bool:
        """Whether the model is to be measured as it is now."""
        return (self._regular or self._ended) and self.state.evaluated != self.state.step

    @property
    def checkpoint_due(self) -> bool:
        """Whether a checkpoint is to be saved now."""
        return self._ended or self.state.step % self.config.training.checkpoint_every == 0

    @property
    def _ended(self) -> bool:
        return self.state.step == self.config.training.steps

    @property
    def _regular(self) -> bool:
        """Whether the model is measured now, wherever the run ends."""
        return self.state.step % self.config.training.evaluate_every == 0

    def restore(self) -> None:
        """What the run begins or goes on with: the start model, which is made if need be, or the last checkpoint."""
        config, output, ranks = self.config, self.output, self.ranks
        if config.start_model is None and ranks.leading and not (output / START).exists():
            make_start_model(config, output / START, report=self.progress.supervised)
        ranks.wait()
        start = output / START if config.start_model is None else start_folder(config.start_model)
        checkpoint, known = latest_checkpoint(output / CHECKPOINTS), {}
        held_out, before = self.ready.held_out, (0, 0)
        if checkpoint:
            self.state, known = read_state(checkpoint)
        if ranks.leading:
            for folder in filter(None, (checkpoint, None if config.start_model else start)):
                check_files(folder)
        self._records.check(known, step=self.state.step, ended=self._ended)
        if config.rollout.dynamic_sampling and self.state.step:
            (last,) = (each for each in read_metrics(output / METRICS_FILE).steps if each.step == self.state.step)
            before = sum(last.success_histogram[1:-1]), sum(last.success_histogram)
        drawn = read_drawn(checkpoint) if config.sampler.ahead is not None and checkpoint else None
        check_memory(config, start, self.ready, ranks=ranks.size)
        policy = shard(
            lambda: open_policy(start, checkpoint, config.policy, config.lora, device=config.device, seed=config.seed),
            ranks,
        )
        if policy.settings.attention != config.policy.attention:  # the plain kind, which takes more
            told = config.model_copy(update={"policy": policy.settings})
            check_memory(told, start, self.ready, ranks=ranks.size)
        optimizer = new_optimizer(policy, config.optimizer)
        if checkpoint:
            load_optimizer_state(checkpoint, policy, optimizer)
        loop = Loop(
            config=config,
            task=self.ready.task,
            held_out=held_out,
            verifier=self.verifier,
            tables=restored(self.ready.tables, config, output, step=self.state.step),
            policy=policy,
            optimizer=optimizer,
            reference=open_reference(config.kl, config.lora, policy, start),
            sampler=self.stack.enter_context(
                open_sampler(config, policy, policy.published_weights(), start=start, probe=held_out, ranks=ranks)
            ),
            ranks=ranks,
            before=before,
            drawn=drawn,
        )
        # All that the run goes on from has been read, by all: from here on its files change.
        ranks.wait()
        if ranks.leading:
            self.go_on(loop.sampler.engine)
            self._records.cut()
            self._tidy()
        self.progress.catch_up(output)
        for note in (*self.ready.notes, *policy.notes):
            self.progress.warn(note)
        shown = config.tracking if ranks.leading else TrackingConfig()
        self._trackers = self.stack.enter_context(
            Trackers(shown, output, tell=self.progress.tell, warn=self.progress.warn)
        )
        self._trackers.catch_up(output)
        self.loop = loop

    def follow(self) -> None:
        """Take up the table that holds from the next step on."""
        step = self.next_step
        with self._storing(step):
            tables, warning = followed(self.loop.tables, self.config, self.output, step=step, ranks=self.ranks)
        if warning is not None:
            self.progress.warn(warning)
        self.loop = replace(self.loop, tables=tables)

    def record(self, step: Step) -> None:
        """Write down a step that has been made."""
        spent = step.spent(self.state.spent)
        record = step.record(spent)
        share, seed = self.config.training.rollout_share, self.config.seed
        with self._storing(step.number):
            if self.ranks.leading:
                lines = rollouts(step.collected, step.advantages, step=step.number, share=share, seed=seed)
                self._records.add_rollouts(lines)
                self._records.add(record)
            self._trackers.log(record)
            self.progress.stepped(record)
            before = step.collected.mixed, len(step.collected.drawn.groups)
            self.loop = replace(self.loop, before=before, drawn=step.drawn)
            self.state, self._in_step = replace(self.state, step=step.number, spent=spent), False
            self._seconds = dict(step.seconds)
            if not self.evaluation_due:
                self._record_seconds()

    def measure(self) -> None:
        """Measure the model on the held-out prompts, and keep it if it is the best so far."""
        began, state, loop = perf_counter(), self.state, self.loop
        record = evaluate(
            loop.sampler,
            loop.verifier,
            loop.held_out,
            self.config.evaluation,
            max_new_tokens=self.config.rollout.max_new_tokens,
            step=state.step,
            spent=state.spent,
            seed=derive_seed(self.config.seed, "evaluation", state.step),
            ranks=loop.ranks,
        )
        with self._storing(state.step):
            if loop.ranks.leading:
                self._records.add(record)
            self._trackers.log(record)
            self.progress.evaluated(record)
            best = self._regular and (state.best_success is None or record.success > state.best_success)
            if best and self.config.evaluation.keep_best:
                save_model(self.output / BEST, loop.policy, step=state.step)  # the one before goes with `_tidy`
            state = replace(state, evaluated=state.step)
            self.state = replace(state, best_step=state.step, best_success=record.success) if best else state
            if self._seconds:  # else they have been written: a failure came between the step and this measurement
                self._record_seconds(evaluating=perf_counter() - began)

    def checkpoint(self) -> None:
        """Save a checkpoint, then remove what it makes superfluous."""
        folder, loop = self.output / CHECKPOINTS, self.loop
        with self._storing(self.state.step):
            save_checkpoint(folder, loop.policy, loop.optimizer, self.state, self._records.checksums(), loop.drawn)
            if self.ranks.leading:
                self._tidy()

    def finish(self) -> Outcome:
        """Save the model of the end, or the checkpoint of an interruption."""
        model = self.output / MODEL
        with self._storing(self.state.step):
            if self._ended and self.ranks.any(not model.exists()) and (plain := whole(self.loop.policy)) is not None:
                save_whole(plain, model)
        if not self._ended and self.state.step:
            self.checkpoint()
        self.ranks.wait()
        evaluations = read_metrics(self.output / METRICS_FILE).evaluations
        return Outcome(step=self.state.step, finished=self._ended, evaluation=evaluations[-1])

    def _record_seconds(self, **more: float) -> None:
        timing = TimingRecord.from_seconds(self.state.step, {**self._seconds, **more})
        if self.ranks.leading:
            self._records.add(timing)
        self._trackers.log(timing)
        self.progress.timed(timing)
        self._seconds = {}

    def _tidy(self) -> None:
        """Remove the checkpoints and best models that are not to be kept beside the last checkpoint."""
        training, folder = self.config.training, self.output / CHECKPOINTS
        count, every = training.keep_checkpoints, training.checkpoint_every
        prune(folder, kept_steps(folder, count=count, every=every, last=self.state.step).__contains__)
        prune(self.output / BEST, lambda step: step == self.state.best_step)

    @contextmanager
    def _storing(self, step: int) -> Iterator[None]:
        """Say what could not be written, and that nothing is lost but what came after the last checkpoint."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise StorageError(
                f"step {step} could not be written ({one_line(error)}); {safe(self.output)}: make room and go on with "
                "--resume"
            ) from error

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Name the step in which a ``with`` block fails, and save what has been made before it.

        A step that fails before its first update leaves weights to go on from: they are saved as after Ctrl-C. Where
        several processes train nothing is saved, since the others are in the middle of something.
        """
        try:
            yield
        except (DivergenceError, SyncError, LostRankError) as error:
            if isinstance(error, LostRankError):
                self._rescue()
            step = self.state.step + self._in_step
            when, where = f"step {step}", ""
            if isinstance(error, DivergenceError):
                if error.responses and self.ranks.leading:
                    where = written(error.responses, self.output, step=step)
            elif not hasattr(self, "loop"):
                when = "the engine that samples could not be opened"
            raise type(error)(f"{when}: {error}{where}; {safe(self.output)}") from error
        except UsageError as error:
            if not self._rescue():
                raise
            made = self.state.step
            raise UsageError(
                f"step {made + self._in_step}: {error}; step {made} is saved: mend that and go on with --resume"
            ) from error
        except (StorageError, OtherRankError):
            raise
        except Exception:
            self._rescue()
            raise

    def _rescue(self) -> bool:
        """Save a checkpoint after a failure, if the weights are those of the last step; whether there is one."""
        if self._interrupted is None or not self.state.step or self.ranks.size > 1:
            return False
        made = {int(each["step"]) for each in self.loop.optimizer.state.values()}
        if made != {self.state.spent.updates}:
            return False
        with suppress(StorageError):
            if self._seconds:
                self._record_seconds()
            self.checkpoint()
            return True
        return False


@contextmanager
def open_run(config: Config, output: Path, *, resume: bool = False, quiet: bool = False) -> Iterator[Run]:
    """Open a run for the length of a ``with`` block: its folder with a lock, verifier, display, signals, processes.

    Raises
    ------
    UsageError, weightopt.table.TableError
        If the run cannot start as asked; nothing has been written or changed.
    """
    ready = prepare(config, date=began(output) if resume else None)
    with ExitStack() as stack:
        ranks = stack.enter_context(open_ranks(config.device))
        if ready.date != (now := ranks.gather(ready.date)[0]):
            ready = prepare(config, date=now)  # all processes tell a chat template the same
        verifier = stack.enter_context(open_verifier(config))
        folder = run_folder(output, config, ready, ranks, resume=resume)
        go_on = stack.enter_context(folder) if ranks.leading else (lambda _: None)
        quiet, steps = quiet or not ranks.leading, config.training.steps
        progress = stack.enter_context(Progress(quiet=quiet, name=ready.tables.name, steps=steps))
        run = Run(config, output, ready, ranks, verifier, progress, go_on, stack)
        with run.explaining():
            yield run
