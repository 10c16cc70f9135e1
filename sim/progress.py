"""What a sweep shows while it goes: a bar on a terminal, a line per finished cell elsewhere, nothing when quiet."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sim.sweep import Cell, Reporter
from sim.trajectory import Trajectory
from weightopt.heartbeat import Heartbeat


class Display(Reporter):
    """Display of one sweep.

    Parameters
    ----------
    quiet
        Show nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(quiet=quiet, highlight=False, stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, note="")
        self._steps, self._cells, self._done = 1, 0, 0
        self._note = ""
        self._beat = Heartbeat(self._line, self._print, active=not (quiet or self._console.is_terminal))

    def __enter__(self) -> Self:
        self._bar.start()
        self._beat.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._beat.__exit__()
        self._bar.stop()

    def start(self, cells: int, done: int, steps: int) -> None:
        """As `Reporter`."""
        self._cells, self._done, self._steps = cells, done, steps
        self._bar.update(self._task, total=cells * steps, completed=done * steps)

    def at(self, cell: Cell, step: int, success: float) -> None:
        """As `Reporter`."""
        run = f"run {self._done + 1} of {self._cells}"
        note = f"{cell.weighting} seed {cell.seed}: mean success {success:.3f}"
        self._note = f"{run}, update {step:,} of {self._steps:,}, {note}"
        self._bar.update(self._task, completed=self._done * self._steps + step, description=run, note=note)

    def finished(self, cell: Cell, trajectory: Trajectory) -> None:
        """As `Reporter`."""
        self._done += 1
        self._bar.update(self._task, completed=self._done * self._steps)
        if not self._console.is_terminal:
            self._print(
                f"{self._done:4d}/{self._cells}  {cell.population}  {cell.weighting}  step size {cell.step_size:g}  "
                f"seed {cell.seed}: mean success {trajectory['success'][-1]:.3f}"
            )
            self._beat.heard()

    def _line(self, seconds: float) -> str:
        return f"{self._note or 'the first run has begun'}, after {seconds:.0f} s"

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, markup=False)
