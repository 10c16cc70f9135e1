"""What a run shows while it goes: a bar on a terminal, a line per evaluation elsewhere, nothing when quiet."""

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from rl.metrics import EvaluationRecord, StepRecord


class Progress:
    """Display of one run.

    Parameters
    ----------
    quiet
        Show nothing.
    name
        Of the weight table.
    steps
        Number of steps of the whole run.
    """

    def __init__(self, *, quiet: bool, name: str, steps: int) -> None:
        self._console = Console(quiet=quiet, highlight=False)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[reward]}"),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task(name, total=steps, reward="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def supervised(self, record: EvaluationRecord) -> None:
        """Show a measurement of the supervised phase."""
        self._console.print(f"supervised step {record.step:4d}  {_success(record)}")

    def stepped(self, record: StepRecord) -> None:
        """Show an update."""
        self._bar.update(self._task, completed=record.step, reward=f"reward {record.reward:.2f}")

    def evaluated(self, record: EvaluationRecord) -> None:
        """Show a measurement of the run."""
        self._console.print(f"step {record.step:4d}  {record.responses_so_far:8,d} responses  {_success(record)}")


def _success(record: EvaluationRecord) -> str:
    strata = ", ".join(f"{name} {value:.0%}" for name, value in record.by_difficulty.items())
    interval = f"[{record.success_low:.1%}, {record.success_high:.1%}]"
    return f"held-out success {record.success:5.1%} {interval}  ({strata})"
