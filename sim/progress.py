"""What a sweep shows while it goes: a bar on a terminal, a line per finished cell elsewhere, nothing when quiet."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sim.sweep import Cell, Reporter
from sim.trajectory import Trajectory


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

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, cells: int, done: int, steps: int) -> None:
        """As `Reporter`."""
        self._cells, self._done, self._steps = cells, done, steps
        self._bar.update(self._task, total=cells * steps, completed=done * steps)

    def at(self, cell: Cell, step: int, success: float) -> None:
        """As `Reporter`."""
        self._bar.update(
            self._task,
            completed=self._done * self._steps + step,
            description=f"run {self._done + 1} of {self._cells}",
            note=f"{cell.weighting} seed {cell.seed}: mean success {success:.3f}",
        )

    def finished(self, cell: Cell, trajectory: Trajectory) -> None:
        """As `Reporter`."""
        self._done += 1
        self._bar.update(self._task, completed=self._done * self._steps)
        if not self._console.is_terminal:
            self._console.print(
                f"{self._done:4d}/{self._cells}  {cell.population}  {cell.weighting}  step size {cell.step_size:g}  "
                f"seed {cell.seed}: mean success {trajectory['success'][-1]:.3f}",
                soft_wrap=True,
            )
