"""Files: read within bounds, written whole or not at all; the standard library and nothing else."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path


def read_file(path: str | os.PathLike[str], most: int) -> bytes:
    """The first ``most`` + 1 bytes of a file, so that one byte too many tells a file that is too large.

    Raises
    ------
    OSError
        If it cannot be read, or is a pipe or a device: those would be waited for, or never end.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read(most + 1)


def replace_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all: a temporary file in the same folder, flushed to disk, then renamed.

    Parameters
    ----------
    path
        The folder must exist. A file already there is replaced only once the new one is safe on disk.
    data
        The whole content.

    Raises
    ------
    OSError
        If the folder is missing, not writable or full, or something that is no file stands there; nothing is left
        behind and an older file is untouched.
    """
    path = Path(path).resolve()  # a link stays a link: what it points to is replaced
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a finished table has the permissions any new file would have.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
