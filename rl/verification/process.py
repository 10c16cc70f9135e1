"""The other end of `rl.verification.pool`: a process that judges answer after answer, each in a child of its own.

The process builds the verifier once and then forks for every answer. So each answer meets the verifier as it was built,
whatever came before; a child that runs out of time, memory or stack takes nothing with it, and the next is there in
milliseconds. The kernel's own timers end a child, also in the middle of a product of huge numbers and also when the
process that asked is gone.

A message is a length (8 bytes, little-endian) and a pickle; it comes from our own process. What goes back may have been
touched by the text of a model and is never unpickled: a byte, the value of a `Verdict`, and text.
"""

import contextlib
import gc
import os
import pickle
import random
import resource
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

from rl.config import parse_config
from rl.errors import UsageError
from rl.tasks.protocol import Prompt, Verifier
from rl.tasks.registry import build_verifier
from rl.verification.config import VerifierConfig
from rl.verification.sandbox import seal
from rl.verification.verdict import Judged, Verdict

# At most so many bytes go back at once: a pipe takes and gives up to 4096 in one piece.
LONGEST_REPLY = 1024

# The time that an answer may take by the clock, for each second of computing that it may take: a verifier that waits
# is stopped, and one on a busy machine is not.
PATIENCE = 10


def main() -> None:
    """Serve until there is nothing more to read."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)  # what a verifier prints is not a reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    task, limits = _receive(requests)
    settings = VerifierConfig.model_validate(limits)
    try:
        verifier = build_verifier(parse_config({"task": task}).task)
    except UsageError as error:
        _reply(replies, Verdict.FAILED, str(error))
        return
    except Exception as error:
        _reply(replies, Verdict.FAILED, _reason(error))
        return
    gc.collect()
    gc.freeze()  # else the first collection in a child copies all that is shared with it
    _reply(replies, Verdict.RIGHT, "")
    while (message := _receive(requests)) is not None:
        prompt, response = message
        verdict, reason = _judge_in_child(verifier, prompt, response, settings)
        _reply(replies, verdict, reason)


def _receive(requests: BinaryIO) -> Any:
    """The next message, None at the end."""
    length = requests.read(8)
    if len(length) < 8:
        return None
    message = requests.read(int.from_bytes(length, "little"))
    return pickle.loads(message)


def _reply(replies: int, verdict: Verdict, reason: str) -> None:
    os.write(replies, (verdict.value + reason.encode("utf-8", "backslashreplace"))[:LONGEST_REPLY])


def _judge_in_child(
    verifier: Verifier[Any], prompt: Prompt[Any], response: str, settings: VerifierConfig
) -> tuple[Verdict, str]:
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _settle_generators()
            _limit(settings)
            if settings.sealed:
                seal()
            judged = Judged.of(verifier.verify(prompt, response))
            _reply(writable, judged.verdict, " ".join(judged.reason.split()))
        except BaseException as error:  # nothing may leave this process but by the next line
            with contextlib.suppress(BaseException):
                _reply(writable, Verdict.FAILED, _reason(error))
        finally:
            os._exit(0)
    os.close(writable)
    _, status = os.waitpid(child, 0)
    os.set_blocking(readable, False)
    try:
        said = os.read(readable, 4096)
    except BlockingIOError:  # something that the verifier has started still holds the pipe
        said = b""
    os.close(readable)
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    if ended_by in (signal.SIGPROF, signal.SIGALRM):
        return Verdict.TIMED_OUT, ""
    if ended_by is not None:
        return Verdict.FAILED, f"the verifier was ended by {signal.Signals(ended_by).name}"
    if status or said[:1] not in {verdict.value for verdict in Verdict}:
        return Verdict.FAILED, "the verifier ended without a verdict"
    return Verdict(said[:1]), said[1:].decode("utf-8", "replace")


def _limit(settings: VerifierConfig) -> None:
    """Bound time and memory of this process; the default action of both timers ends it, whatever it is doing."""
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, settings.seconds_per_answer)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE * settings.seconds_per_answer)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    room = _address_space() + settings.memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (room, room))


def _address_space() -> int:
    """Bytes of address space in use, 0 where the system does not say (then the limit is on the whole)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _settle_generators() -> None:
    """Start the generators that a verifier may use where they always start: sympy tests equality at random points.

    In the child, since Python gives the one of `random` a new seed at each fork.
    """
    random.seed(0)
    if "sympy" in sys.modules:
        from sympy.core.random import seed

        seed(0)
    if "numpy" in sys.modules:
        import numpy as np

        np.random.seed(0)  # noqa: NPY002 - the global generator is what is to be settled


def _reason(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
