"""Whether the records of a run that is to go on are whole, and reach its checkpoint."""

from pathlib import Path

from rl.errors import UsageError
from rl.records.metrics import (
    METRICS_FILE,
    ROLLOUTS_FILE,
    TIMING_FILE,
    Metrics,
    documents,
    read_metrics,
    read_timing,
)

ADVICE = "put a whole copy of the file there, or start again in a new folder"


def check_records(output: Path, *, step: int, evaluate_every: int, last: int) -> None:
    """Refuse records that cannot be read, or that lack what the run had written before it saved its checkpoint.

    Records are written before the checkpoint of their step. So they may be ahead of it, after a kill, but never behind.

    Parameters
    ----------
    output
        Folder of the run.
    step
        Of the checkpoint; 0: there is none, and nothing needs to be there.
    evaluate_every, last
        Steps of the regular evaluations are the multiples of the first; the run's last step has one too.

    Raises
    ------
    UsageError
        Naming the file, and the line or the step.
    """
    try:
        metrics = Metrics(steps=(), evaluations=())
        if (output / METRICS_FILE).exists():
            metrics = read_metrics(output / METRICS_FILE)
        if (output / TIMING_FILE).exists():
            read_timing(output / TIMING_FILE)
        if (output / ROLLOUTS_FILE).exists():
            for _ in documents(output / ROLLOUTS_FILE):
                pass
    except ValueError as error:
        raise UsageError(f"cannot resume: {error}; {ADVICE}") from error
    if not step:
        return
    steps = [record.step for record in metrics.steps if record.step <= step]
    evaluations = {record.step for record in metrics.evaluations}
    called_for = [*range(0, step + 1, evaluate_every), *([step] if step == last else [])]
    if lacking := sorted(set(range(1, step + 1)) - set(steps)):
        what = f"lacks step {lacking[0]}"
    elif lacking := [each for each in called_for if each not in evaluations]:
        what = f"lacks the evaluation of step {lacking[0]}"
    elif steps != list(range(1, step + 1)):
        what = "has its steps twice, or not in their order"
    else:
        return
    raise UsageError(f"cannot resume: {output / METRICS_FILE} {what}, and the checkpoint is of step {step}; {ADVICE}")
