"""Who says why a run has failed, where torchrun has started several processes: one of them.

Most mistakes are found by all processes at once, and then the first speaks for all. What only one has met, it says, and
the others, who notice that it is gone, do not.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rl.errors import LostRankError, OtherRankError, one_line

# What torchrun says to each process that it starts.
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

# Seconds that another process gives the first one to come and speak for it.
GRACE = 5

# How the end of a process looks to those who were talking with it.
LOST = re.compile(r"gloo|NCCL|connection (was )?(closed|reset)|broken pipe", re.IGNORECASE)


def processes() -> int:
    """How many processes torchrun has started; 1 if it has not started this one."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in LAUNCHED) else 1


def leading() -> bool:
    """Whether this is the first of the processes, or the only one."""
    return processes() == 1 or os.environ["RANK"] == "0"


@contextmanager
def one_voice() -> Iterator[None]:
    """When several processes fail, let one of them say why.

    Raises
    ------
    OtherRankError
        In place of any other error, if another process says why.
    LostRankError
        If another process is gone and has not said why.
    """
    try:
        yield
    except BaseException as error:
        if processes() == 1:
            raise
        if not _speaks():
            raise OtherRankError("another process of the run has failed, and says why") from error
        if isinstance(error, RuntimeError) and LOST.search(str(error)):
            raise LostRankError(
                "another process of the run has ended and not said why; if it was killed, perhaps for want of memory "
                f"({one_line(error)}); go on with --resume"
            ) from error
        raise


def _speaks() -> bool:
    """Whether it is this process that says why the run has failed; also if there is nobody left to ask."""
    from torch.distributed.rendezvous import rendezvous

    key = f"weightopt/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    try:
        store, *_ = next(rendezvous("env://", timeout=timedelta(seconds=GRACE)))
        if leading():
            store.set(f"{key}/leading", "")
        else:
            until = time.monotonic() + GRACE
            while time.monotonic() < until and not store.check([f"{key}/leading"]):
                time.sleep(0.05)
        return (leading() or not store.check([f"{key}/leading"])) and store.add(key, 1) == 1
    except (RuntimeError, ValueError, OSError):
        return True
