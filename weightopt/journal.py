"""A file of results that only grows: what is in it stays, and what was done to it by others is noticed.

One JSON document a line. Each line carries a SHA-256 that covers its entry and the line before it, and the first one
states what the results are results of; so a line that was changed, removed, doubled or moved is found, and so is a file
that belongs to another problem. A line without its end was being written when a process was killed or a disk ran full:
it is dropped, and nothing before it is touched. Standard library only.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

HEAD, MIDDLE, END = b'{"sha256": "', b'", "entry": ', b"}\n"
DIGITS = 64


class JournalError(ValueError):
    """The file cannot be gone on with; the message is one sentence."""


class OtherResultsError(JournalError):
    """The file holds results of something else."""


class Journal:
    """A file that this process alone writes; see `open_journal`.

    Attributes
    ----------
    entries
        What the file held when it was opened, in order.
    """

    def __init__(self, path: Path, descriptor: int, about: str) -> None:
        self._path, self._file, self._last = path, descriptor, ""
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.splitlines(keepends=True)
        found = [self._read(line, number) for number, line in enumerate(lines, 1)]
        if found and found[0] != about:
            raise OtherResultsError(f"{str(path)!r} holds results of something else")
        os.ftruncate(descriptor, len(whole))
        if not found:
            self.append(about)
        self.entries: list[Any] = found[1:]

    def append(self, entry: Any) -> None:
        """Add a JSON value; it is on disk when this returns.

        Raises
        ------
        OSError
            If it cannot be written; the file is as it was.
        """
        payload = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode()
        mark = self._mark(payload)
        line = HEAD + mark.encode() + MIDDLE + payload + END
        size = os.lseek(self._file, 0, os.SEEK_END)
        try:
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(self._file, size)
            raise
        self._last = mark

    def _read(self, line: bytes, number: int) -> Any:
        mark = line[len(HEAD) : len(HEAD) + DIGITS]
        payload = line[len(HEAD) + DIGITS + len(MIDDLE) : -len(END)]
        if line != HEAD + mark + MIDDLE + payload + END or self._mark(payload).encode() != mark:
            raise JournalError(
                f"{str(self._path)!r} is damaged: line {number} was changed, or lines before it were removed or moved"
            )
        self._last = mark.decode()
        return json.loads(payload)

    def _mark(self, payload: bytes) -> str:
        return sha256(self._last.encode() + payload).hexdigest()


@contextmanager
def open_journal(path: Path, about: str) -> Iterator[Journal]:
    """Open a journal, or begin one, for this process alone.

    Parameters
    ----------
    path
        The folder must exist.
    about
        What the results are results of, e.g. the checksum of a problem.

    Raises
    ------
    OtherResultsError
        If it belongs to something else.
    JournalError
        If another process has it open, or if somebody has changed it.
    OSError
        If it cannot be read or written.
    """
    if path.exists() and not path.is_file():
        raise JournalError(f"{str(path)!r} is not a regular file")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JournalError(f"{str(path)!r} is being written by another process") from None
        yield Journal(path, descriptor, about)
    finally:
        os.close(descriptor)
