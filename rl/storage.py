"""Folders that are whole or not there: filled under another name, flushed to disk, renamed; and checksums of files."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path


def sha256_of(path: Path) -> str:
    """The checksum of a file, in hexadecimal; raises `OSError` if it cannot be read."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder that appears under its name only when it is complete and on disk.

    Yields a folder of another name beside it. If filling it fails, it is removed and nothing has changed.

    Raises
    ------
    FileExistsError
        If ``folder`` exists.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists")
    partial = _partial(folder)
    shutil.rmtree(partial, ignore_errors=True)  # left behind by a run that was killed
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in [*partial.rglob("*"), partial]:
            _flush(path)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _flush(folder.parent)


def try_to_write(folder: Path) -> None:
    """Raise `OSError` if `whole_folder` could not begin to fill ``folder``; nothing is left behind."""
    partial = _partial(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    partial.rmdir()


def withdraw(folder: Path) -> None:
    """Remove what `whole_folder` has made, if it is there: in one step, so that the name never stands for a part."""
    partial = _partial(folder)
    shutil.rmtree(partial, ignore_errors=True)
    if folder.exists():
        folder.rename(partial)
        shutil.rmtree(partial)


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
