"""The records of a run on disk: lines are added, checksums are kept of them, and what a checkpoint knows is checked.

A checkpoint holds, for each file, the number and the SHA-256 of the lines that it had then. Lines are written before
the checkpoint of their step: after a kill there may be more of them than the checkpoint knows, but never fewer. When
the run goes on, the lines beyond the checkpoint are cut off, and written again.

The evaluation that only the end of the run calls for is counted apart. It is the last line of all, and it is cut off
when the run is prolonged: a run in two parts leaves what a run in one part leaves.
"""

import os
from collections.abc import Iterable, Mapping
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import IO, Any

from rl.errors import UsageError
from rl.records.metrics import (
    METRICS_FILE,
    RECORD_FILES,
    ROLLOUTS_FILE,
    TIMING_FILE,
    EvaluationRecord,
    StepRecord,
    TimingRecord,
    append_lines,
    line_of,
)

END = "evaluation of the end"
ADVICE = "put a whole copy of the file there, or start again in a new folder"


class Records:
    """The record files of a run, none of which need exist yet; ``every`` counts the steps between two evaluations."""

    def __init__(self, output: Path, *, every: int) -> None:
        self._output = output
        self._every = every
        self._lines: dict[str, int] = dict.fromkeys((*RECORD_FILES, END), 0)
        self._sums = {name: sha256() for name in self._lines}
        self._bytes: dict[str, int] = dict.fromkeys(RECORD_FILES, 0)

    def add(self, record: StepRecord | EvaluationRecord | TimingRecord) -> None:
        """Write a record down."""
        name = TIMING_FILE if isinstance(record, TimingRecord) else METRICS_FILE
        of_the_end = isinstance(record, EvaluationRecord) and record.step % self._every > 0
        self._append(name, [line_of(record)], counted=END if of_the_end else name)

    def add_rollouts(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write responses down; without any no file is made."""
        if chosen := list(lines):
            self._append(ROLLOUTS_FILE, chosen, counted=ROLLOUTS_FILE)

    def checksums(self) -> dict[str, dict[str, Any]]:
        """Number and SHA-256 of the lines of each file, as JSON."""
        return {name: {"lines": self._lines[name], "sha256": self._sums[name].hexdigest()} for name in self._lines}

    def check(self, known: Mapping[str, Any], *, step: int, ended: bool) -> None:
        """Take up the lines that a checkpoint knows; nothing is changed on disk.

        Parameters
        ----------
        known
            What `checksums` gave when the checkpoint was written; empty without one.
        step
            Of the checkpoint.
        ended
            Whether the run ends at this step: then the evaluation of the end is one of the lines.

        Raises
        ------
        UsageError
            If lines are missing or are not those that the run had written; it names the file.
        """
        for name in RECORD_FILES if known else ():
            path = self._output / name
            try:
                with path.open("rb") as file:
                    whole = self._take(file, name, known[name])
                    if whole is None and name == METRICS_FILE and ended:
                        whole = self._take(file, name, known[END], counted=END)
            except FileNotFoundError:
                whole = "is missing" if known[name]["lines"] else None
            except OSError as error:
                whole = f"cannot be read ({error.strerror})"
            except (KeyError, TypeError, ValueError) as error:
                raise UsageError(f"cannot resume: the checkpoint of step {step} lacks checksums of records") from error
            if whole is not None:
                raise UsageError(f"cannot resume: {path} {whole}, and the checkpoint is of step {step}; {ADVICE}")

    def cut(self) -> None:
        """Cut off the lines that `check` has not taken up."""
        for name, length in self._bytes.items():
            path = self._output / name
            if path.exists() and path.stat().st_size != length:
                os.truncate(path, length)

    def _take(self, file: IO[bytes], name: str, known: Mapping[str, Any], *, counted: str = "") -> str | None:
        """Read as many lines as are known; what is wrong with them, or None."""
        counted = counted or name
        for line in islice(file, int(known["lines"])):
            if line.endswith(b"\n"):
                self._count(name, counted, line)
        if self._lines[counted] < known["lines"]:
            return f"has {self._lines[counted]} of the {known['lines']} lines that the run had written"
        if self._sums[counted].hexdigest() != known["sha256"]:
            return f"is not what the run had written: the SHA-256 of its first {known['lines']} lines differs"
        return None

    def _append(self, name: str, documents: Iterable[Mapping[str, Any]], *, counted: str) -> None:
        for line in append_lines(self._output / name, documents):
            self._count(name, counted, line)

    def _count(self, name: str, counted: str, line: bytes) -> None:
        self._lines[counted] += 1
        self._sums[counted].update(line)
        self._bytes[name] += len(line)
