"""One process at a time in the folder of a run.

The lock is the operating system's, on an open file, and ends with the process however that ends: a file that a killed
process has left locks nothing. On a network file system it holds as far as that has locks: on NFS between machines
unless it is mounted with ``nolock`` or ``local_lock``; where there are none at all, nothing is held and nobody refused.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rl.errors import UsageError
from rl.records.layout import LOCK

# What a file system without locks answers.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, which exists, for the length of a ``with`` block; leaves no file behind.

    Raises
    ------
    UsageError
        If another process is in it.
    OSError
        If no file can be made in it.
    """
    path = folder / LOCK
    file = _hold(path)
    try:
        yield
    finally:
        with suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):  # else it is another's: ours has been removed
                path.unlink()
        file.close()


def check_unlocked(folder: Path) -> None:
    """Refuse a folder that `locked` would find another process in, and change nothing."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _in_use(folder) from error
    except OSError:
        return  # there is no such file, or there are no locks


def _hold(path: Path) -> IO[bytes]:
    """The locked file at ``path``, open for writing: NFS gives no exclusive lock otherwise."""
    while True:
        file = path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise _in_use(path.parent) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                file.close()
                raise
        # Between opening and locking the process before may have removed it: then it keeps nobody out.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _in_use(folder: Path) -> UsageError:
    return UsageError(f"output {str(folder)!r} is in use: another process trains there")
