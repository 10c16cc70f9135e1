"""Folders that are whole or absent: filled under another name, flushed to disk, renamed; and checksums of files.

A folder with checksums holds a file ``SHA256SUMS`` in the form of the program ``sha256sum``, which can check it too.
"""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path

from safetensors import SafetensorError

from rl.errors import StorageError, UsageError, one_line, refusing


def sha256_of(path: Path) -> str:
    """The checksum of a file, in hexadecimal; raises `OSError` if it cannot be read."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


SUMS = "SHA256SUMS"


def write_checksums(folder: Path) -> None:
    """Write down the checksum of every file in ``folder``."""
    lines = [f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in _files(folder)]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def damage_in(folder: Path, *, but: Collection[str] = ()) -> str | None:
    """What differs from the checksums that `write_checksums` has left.

    Parameters
    ----------
    but
        Names of files that had not been there then.

    Returns
    -------
    str or None
        The first difference, e.g. ``"its state.json is missing"``; None if there is none.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
        known = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    except (OSError, UnicodeDecodeError):
        return f"its {SUMS} cannot be read"
    found = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    for name in sorted((known.keys() | found.keys()) - {*but}):
        if name not in found:
            return f"its {name} is missing"
        if name not in known:
            return f"its {name} was not written by the run"
        try:
            digest = sha256_of(found[name])
        except OSError as error:
            return f"its {name} cannot be read ({error.strerror})"
        if digest != known[name]:
            return f"its {name} is damaged (its SHA-256 is {digest[:16]}… and was {known[name]:.16}…)"
    return None


def _files(folder: Path) -> list[Path]:
    """All that are no notes of a file browser or a file system."""
    paths = (path for path in folder.rglob("*") if path.name != SUMS and not path.name.startswith("."))
    return sorted(path for path in paths if path.is_file())


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


def check_new(folder: Path, what: str) -> None:
    """Refuse, by a `UsageError`, a folder for ``what`` that exists or that `whole_folder` could not begin to fill."""
    with refusing(f"output {str(folder)!r} cannot be written", OSError):
        if folder.exists():
            raise UsageError(f"output {str(folder)!r} exists: name another folder for the {what}")
        partial = _partial(folder)  # tried now, and not when all the work is done
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        partial.rmdir()


@contextmanager
def new_folder(folder: Path, what: str) -> Iterator[Path]:
    """`whole_folder` for ``what``, which raises a `StorageError` if it cannot be written."""
    try:
        with whole_folder(folder) as partial:
            yield partial
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"the {what} {str(folder)!r} could not be written ({one_line(error)}); none was left"
        ) from error


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
