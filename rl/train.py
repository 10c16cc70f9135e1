"""The training loop, in the order it happens: sample and score, weigh, learn, publish weights, write down.

One step samples M responses to each prompt, counts the K correct ones of each group, looks up the advantages of correct
and wrong responses in the weight table at K, and makes one update. The table is the only thing that differs between a
baseline and a solved weighting.

Options that change the weighting are off by default, and docs/training.md says what each of them changes: rules for
all-wrong groups, dynamic sampling, schedules of tables, a table file that is followed, several updates a step with the
clip of PPO, a penalty on the distance to a reference.

Where torchrun has started several processes, each goes through all of this with the same numbers. They share the work
of sampling, judging and computing gradients, and they share the weights (rl/processes/ranks.py); the first alone writes
and shows.

Left out of the usual recipe, because each would change the weighting that is being compared, or is not needed here:

* an entropy bonus: it adds a gradient that is not the weighting's;
* division by the standard deviation of a group or a batch: that is another weighting; ask for its table;
* division by the length of responses: it multiplies the weight of a prompt by something else;
* shaped rewards and length penalties: a response is correct or it is not.
"""

from pathlib import Path

from rl.config import Config
from rl.errors import DivergenceError
from rl.learning.loss import denominator
from rl.learning.update import learn
from rl.run.rollouts import responses
from rl.run.run import Outcome, open_run
from rl.samplers.ahead import AheadSampler
from rl.step.advantage import weigh
from rl.step.draw_groups import draw_groups
from rl.step.loop import Loop, Stopwatch
from rl.step.schedule import all_wrong_factor
from rl.step.step import Step


def train(config: Config, output: Path, *, resume: bool = False, quiet: bool = False) -> Outcome:
    """Run, or go on with, a training run.

    Parameters
    ----------
    output
        A folder, new or empty, or with ``resume`` one that a run with the same configuration has left. It gets
        ``run.json``, ``metrics.jsonl``, ``timing.jsonl``, ``checkpoints/``, ``best/`` and at the end ``model/``.
    resume
        Go on after the last checkpoint. The files come out as if the run had never stopped, bit for bit on a CPU
        (but for the seconds in ``timing.jsonl`` and their checksum). With more ``training.steps`` than before a run is
        prolonged, and comes out as if it had been so long from the start.

    Raises
    ------
    UsageError, weightopt.table.TableError, OSError
        If the run cannot start as asked, and then nothing has been written; or if a step cannot be made, and then the
        steps before it are saved.
    DivergenceError
        If a loss, a gradient or a weight is not finite; a saved checkpoint is intact.
    SyncError, LostRankError
        If the sampler does not compute with the weights that are trained, or its process has ended; a saved checkpoint
        is intact.
    StorageError
        If something cannot be written once the run is going; a saved checkpoint is intact.
    """
    with open_run(config, output, resume=resume, quiet=quiet) as run:
        run.restore()
        if run.evaluation_due:
            run.measure()
        while run.going:
            run.follow()
            step = take_step(run.loop, run.next_step)
            run.record(step)
            if run.evaluation_due:
                run.measure()
            if run.checkpoint_due:
                run.checkpoint()
        return run.finish()


def take_step(loop: Loop, number: int) -> Step:
    """Make step ``number``, from 1: a batch, and the updates of the weights that are made from it.

    Raises
    ------
    DivergenceError
        If a loss, a gradient or a weight is not finite; it holds the batch.
    """
    config, stopwatch = loop.config, Stopwatch()
    # Sample and judge, with dynamic sampling until the batch is full. With `sampler.ahead` this batch has been drawn
    # while the last one was learnt, and the next one begins here, with the weights as they are now.
    collected = draw_groups(loop, number, stopwatch)
    # Weigh.
    table, factor = loop.tables.at(number), all_wrong_factor(config.weighting, number)
    with stopwatch.stage("verifying"):
        advantages = weigh(table, collected.correct[collected.kept], all_wrong_factor=factor)
    # Learn.
    with stopwatch.stage("learning"):
        loop.sampler.rest()
        try:
            update = learn(
                loop.policy,
                loop.optimizer,
                collected.batch,
                advantages,
                config.optimizer,
                config.rollout,
                step=number,
                seed=config.seed,
                cap=config.sampler.cap,
                reference=loop.reference,
                ranks=loop.ranks,
            )
        except DivergenceError as error:
            error.responses = tuple(responses(collected, advantages, step=number, tokens=True))
            raise
    # Publish the weights, when what draws with the old ones is done.
    with stopwatch.stage("sampling"):
        drawn = loop.sampler.drawn() if isinstance(loop.sampler, AheadSampler) else None
    with stopwatch.stage("hand_over"):
        loop.sampler.publish(loop.policy.published_weights())
    return Step(
        number=number,
        collected=collected,
        table=table,
        all_wrong_factor=factor,
        advantages=advantages,
        responses=denominator(config.rollout),
        update=update,
        lag=int(loop.drawn is not None),
        drawn=drawn,
        seconds=stopwatch.seconds,
    )
