"""Training runs in processes of their own, a few side by side, with one progress line each."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rl.records.metrics import METRICS_FILE, read_metrics
from weightopt.heartbeat import Heartbeat

POLL_SECONDS = 0.5


class Run(NamedTuple):
    """One training run: which table, which seed, which folder."""

    table: str
    seed: int
    folder: Path


def run_side_by_side(
    runs: Sequence[Run], config: str, tables: Mapping[str, Path], overrides: Sequence[str], at_once: int, steps: int
) -> None:
    """Train every run for `steps` updates, `at_once` at a time; a run that has begun before is resumed.

    Raises
    ------
    SystemExit
        If a run fails, with its exit status, after stopping the others; what it had to say is printed.
    """
    waiting = list(runs)
    going: list[tuple[Run, subprocess.Popen[bytes], IO[bytes]]] = []
    console = Console()

    def still(seconds: float) -> str:
        """How far each run that is going is: what the bars show on a terminal."""
        where = "; ".join(_where(run, steps) for run, *_ in list(going))
        return f"{where or 'starting'} ({len(waiting)} runs waiting, {seconds:.0f} s)"

    beat = Heartbeat(still, lambda line: print(line, flush=True), active=not console.is_terminal)
    with (
        beat,
        Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[success]}"),
            console=console,
            disable=not console.is_terminal,
        ) as progress,
    ):
        tasks = {
            run: progress.add_task(f"{run.table} seed {run.seed}", total=steps, start=False, success="") for run in runs
        }
        try:
            while waiting or going:
                while waiting and len(going) < at_once:
                    run = waiting.pop(0)
                    progress.start_task(tasks[run])
                    going.append((run, *_start(run, config, tables[run.table], overrides)))
                time.sleep(POLL_SECONDS)
                for entry in list(going):
                    run, process, log = entry
                    done, success = _progress(run)
                    progress.update(tasks[run], completed=done, success=success)
                    if process.poll() is None:
                        continue
                    going.remove(entry)
                    _finish(run, process, log, console)
                    beat.heard()
        except KeyboardInterrupt:
            # Ctrl-C reached the runs as well: they finish their step and save before they end.
            for _, process, _ in going:
                process.wait()
            raise
        finally:
            for _, process, _ in going:
                process.terminate()
            for _, process, _ in going:
                process.wait()


def _start(run: Run, config: str, table: Path, overrides: Sequence[str]) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    log = (run.folder.parent / f"seed-{run.seed}.log").open("w+b")
    command = [sys.executable, "-m", "weightopt", "train", "--config", config, "--table", str(table)]
    command += ["--output", str(run.folder), "--set", f"seed={run.seed}", "--quiet", *overrides]
    if run.folder.exists():
        command.append("--resume")
    # One thread a run: two runs on two cores are faster than two threads for each in turn, and repeatable bit for bit.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment), log


def _progress(run: Run) -> tuple[int, str]:
    path = run.folder / METRICS_FILE
    if not path.exists():
        return 0, ""
    metrics = read_metrics(path)
    success = f"held-out {metrics.evaluations[-1].success:.0%}" if metrics.evaluations else ""
    return len(metrics.steps), success


def _where(run: Run, steps: int) -> str:
    done, success = _progress(run)
    return f"{run.table} seed {run.seed}: step {done} of {steps}{f', {success}' if success else ''}"


def _finish(run: Run, process: subprocess.Popen[bytes], log: IO[bytes], console: Console) -> None:
    log.seek(0)
    said = log.read().decode(errors="replace").strip()
    log.close()
    if process.returncode != 0:
        print(f"{run.table} seed {run.seed} failed: {said}", file=sys.stderr)
        raise SystemExit(process.returncode)
    if not console.is_terminal:
        print(f"{run.table} seed {run.seed}: {said}", flush=True)
