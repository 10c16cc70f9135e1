"""What a process has started, and what that has started: how it ends with it, whatever it does to get away.

A program can leave its session and process group with ``setsid``, and its parent by forking twice. Linux then hands it
to the nearest ancestor that has asked for orphans, and to no other. Elsewhere only those who stay in the process group
are reached.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def signal_on_end_of_parent(number: int) -> None:
    """Have the kernel send a signal to this process when its parent ends, where it can."""
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(number))


def adopt_orphans() -> None:
    """Become the parent of all descendants of this process whose parents end, where the system can."""
    if _prctl is not None:
        _prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))


def end_descendants(spared: Collection[int] = ()) -> None:
    """Kill the children of this process but for some, and their children as they become orphans, until none is left.

    One that the system does not let this process kill, since it runs as another user, is left.
    """
    while numbers := children().difference(spared):
        for number in numbers:
            try:
                os.kill(number, signal.SIGKILL)
            except PermissionError:
                spared = {*spared, number}
                continue
            os.waitpid(number, 0)


def children() -> set[int]:
    """Process numbers of the children of this process, where the system is Linux."""
    if _prctl is None:
        return set()
    with suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return {number for stat in Path("/proc").glob("[0-9]*/stat") if (number := _child(stat)) is not None}
    return set()


def _child(stat: Path) -> int | None:
    """The number of a process, if it is a child of this one."""
    with suppress(OSError):  # it has ended meanwhile
        if int(stat.read_bytes().rpartition(b")")[2].split()[1]) == os.getpid():
            return int(stat.parent.name)
    return None
