"""The other end of `rl.verification.pool`: a process that judges answer after answer, each in a child of its own.

The process builds the verifier once and then forks for every answer. So each answer meets the verifier as it was built,
whatever came before; a child that runs out of time, memory or stack takes nothing with it, and the next is there in
milliseconds. The kernel's own timer ends a child, also in the middle of a product of huge numbers; one that ignores
it, waits or is stopped is killed by the clock. A child has no descriptor but that of its own reply. What it has started
ends with it, and all of them end when the process that asked is gone, also what has left session and parent. One escape
is open to a verifier that is not sealed and means harm: what it has started stays if it kills this process first.

A message is a length (8 bytes, little-endian) and a pickle; it comes from our own process. What goes back may have been
touched by the text of a model and is never unpickled; it names the request, so that other bytes are no reply.
"""

import contextlib
import gc
import os
import pickle
import random
import select
import signal
import sys
from dataclasses import replace
from typing import Any, NoReturn

from rl.config import parse_config
from rl.errors import UsageError
from rl.tasks.protocol import Prompt, Verifier
from rl.tasks.registry import build_verifier
from rl.verification.config import VerifierConfig
from rl.verification.descendants import adopt_orphans, children, end_descendants, signal_on_end_of_parent
from rl.verification.sandbox import bound_memory, seal
from rl.verification.verdict import Judged, Verdict

# Standard input of this process, where requests come from, and of a child where its reply goes.
REQUESTS, REPLY = 0, 3

# The time that an answer may take by the clock, for each second of computing that it may take: a verifier that waits
# is stopped, and one on a busy machine is not.
PATIENCE = 10


def main() -> None:
    """Serve until there is nothing more to read, or the process that asks, number ``sys.argv[2]``, is gone."""
    replies = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)  # what a verifier prints is not a reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: _end_all())
    os.register_at_fork(after_in_child=_forget_signals)  # a helper of the verifier must not end what is not its own
    adopt_orphans()
    parent = int(sys.argv[2])
    # Of all signals the one that also reaches a process that has been stopped. It comes when a thread of the parent
    # ends as well, hence the question.
    signal.signal(signal.SIGCONT, lambda *_: None if os.getppid() == parent else _end_all())
    signal_on_end_of_parent(signal.SIGCONT)
    if os.getppid() != parent:
        _end_all()
    number, task, limits = _receive()
    settings = VerifierConfig.model_validate(limits)
    try:
        verifier = build_verifier(parse_config({"task": task}).task)
    except Exception as error:
        reason = str(error) if isinstance(error, UsageError) else _reason(error)
        os.write(replies, Judged(verdict=Verdict.FAILED, reason=reason).reply(number))
        _end_all()
    own = children()  # which the verifier needs from answer to answer
    gc.collect()
    gc.freeze()  # else the first collection in a child copies all that is shared with it
    os.write(replies, Judged(verdict=Verdict.RIGHT).reply(number))
    while (message := _receive()) is not None:
        number, prompt, response = message
        os.write(replies, _judge_in_child(verifier, prompt, response, settings).reply(number))
        end_descendants(own)
    _end_all()


def _receive() -> Any:
    """The next message, None at the end."""
    length = _read(8)
    return pickle.loads(_read(int.from_bytes(length, "little"))) if length else None


def _read(count: int) -> bytes:
    """So many bytes of the requests, or none if they end before."""
    read = bytearray()
    while len(read) < count:
        if not (piece := os.read(REQUESTS, count - len(read))):
            return b""
        read += piece
    return bytes(read)


def _forget_signals() -> None:
    for number in (signal.SIGCONT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _end_all() -> NoReturn:
    """End this process and what it and its children have started."""
    end_descendants()
    os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _judge_in_child(verifier: Verifier[Any], prompt: Prompt[Any], response: str, settings: VerifierConfig) -> Judged:
    readable, writable = os.pipe()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        try:
            signal_on_end_of_parent(signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            os.dup2(writable, REPLY, inheritable=False)
            os.dup2(1, REQUESTS)
            for number in map(int, os.listdir("/dev/fd")):
                if number > REPLY:
                    with contextlib.suppress(OSError):  # that of the listing is gone
                        os.close(number)
            _settle_generators()
            _limit(settings)
            if settings.sealed:
                seal()
            judged = Judged.of(verifier.verify(prompt, response))
            os.write(REPLY, replace(judged, reason=" ".join(judged.reason.split())).reply(0))
        except BaseException as error:  # nothing may leave this process but by the next line
            with contextlib.suppress(BaseException):
                os.write(REPLY, Judged(verdict=Verdict.FAILED, reason=_reason(error)).reply(0))
        finally:
            os._exit(0)
    os.close(writable)
    # Nothing is asked before there is a reply: requests that can be read have come to their end.
    ready, _, _ = select.select([readable, REQUESTS], [], [], PATIENCE * settings.seconds_per_answer)
    if REQUESTS in ready:
        _end_all()
    said = os.read(readable, 4096) if ready else b""
    os.close(readable)
    os.kill(child, signal.SIGKILL)  # one that has come to its end has its status already
    _, status = os.waitpid(child, 0)
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    if not ready or (not said and ended_by == signal.SIGPROF):
        return Judged(verdict=Verdict.TIMED_OUT)
    if not said and ended_by is not None:
        return Judged(verdict=Verdict.FAILED, reason=f"the verifier was ended by {signal.Signals(ended_by).name}")
    return Judged.read(said, 0) or Judged(verdict=Verdict.FAILED, reason="the verifier ended without a verdict")


def _limit(settings: VerifierConfig) -> None:
    """Bound time and memory of this process; the default action of the timer ends it, whatever it is doing."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, settings.seconds_per_answer)
    bound_memory(settings.memory_mib * 2**20)


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
