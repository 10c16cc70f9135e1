"""Who judges responses: the task itself where its verifier is ours and bounded, else processes that can be killed.

Addition and Countdown are judged in this process: their verifiers read a bounded text once, by our own parser, and
tests hold them to that; a process would cost a hundred times what they do. A verifier that is not ours (math-verify,
reasoning-gym, a task by import path) may loop, exhaust memory or crash on the text of a model, and `VerifierPool` keeps
that away from the run.
"""

import json
import os
import pickle
import secrets
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self

from rl.config import Config
from rl.errors import UsageError
from rl.tasks.protocol import Prompt, Verifier
from rl.tasks.registry import build_verifier
from rl.verification.config import VerifierConfig
from rl.verification.nonsense import refuse_nonsense
from rl.verification.process import PATIENCE
from rl.verification.verdict import Judged, Verdict
from weightopt.settings import Section

# Seconds for a process to import its libraries and build the verifier, on a machine that is busy.
START_LIMIT = 300

# Seconds that a process may be late, by the clock, with the reply to an answer that the kernel has ended.
GRACE = 5

STARTER = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from rl.verification.process import main; main()"


@contextmanager
def open_verifier(config: Config) -> "Iterator[Verifier[Any] | VerifierPool]":
    """What judges the responses of a run, in this process or in a pool of them that is closed afterwards.

    Raises
    ------
    UsageError
        If the processes cannot build the verifier, or if it rewards nonsense.
    """
    if config.task.in_process:
        yield build_verifier(config.task)
        return
    with VerifierPool(config.task, config.verifier) as pool:
        refuse_nonsense(config.task, pool.judge)
        yield pool


class VerifierPool:
    """Processes that judge responses, each answer within a limit of time and memory.

    Verdicts depend neither on the number of processes nor on the order of the answers: each answer is judged in a
    process of its own that is forked from one and the same state, and its limit is computing time, which other work on
    the machine does not use up. An answer that exceeds it is wrong. Whatever a verifier writes where it should not, it
    spoils its own verdict at most. The processes end when this one does, in whatever state they are.
    """

    def __init__(self, task: Section, settings: VerifierConfig) -> None:
        self._start = task.model_dump(mode="json"), settings.model_dump(mode="json")
        self._limit = PATIENCE * settings.seconds_per_answer + GRACE
        self._workers: list[_Worker] = []
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._count = settings.workers or min(8, cores)

    def __enter__(self) -> Self:
        try:
            for _ in range(self._count):
                self._workers.append(_Worker(*self._start))
            for worker in self._workers:
                worker.wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def judge(self, answers: Sequence[tuple[Prompt[Any], str]]) -> list[Judged]:
        """Judge responses, any strings, in their order; equal responses to a prompt are judged once."""
        keys = [(id(prompt), response) for prompt, response in answers]
        verdicts: dict[tuple[int, str], Judged] = {}
        waiting = deque(dict(zip(keys, answers, strict=True)).items())
        busy: dict[int, tuple[_Worker, tuple[int, str]]] = {}
        idle = list(self._workers)
        while waiting or busy:
            while waiting and idle:
                worker = idle.pop()
                if select.select([worker.replies], [], [], 0)[0]:  # it has ended, or something else has written there
                    worker = self._replace(worker)
                key, answer = waiting.popleft()
                worker.send(*answer, limit=self._limit)
                busy[worker.replies] = worker, key
            patience = max(0.0, min(worker.deadline for worker, _ in busy.values()) - time.monotonic())
            ready, _, _ = select.select(list(busy), [], [], patience)
            now = time.monotonic()
            for replies, (worker, key) in list(busy.items()):
                if replies in ready:
                    judged = worker.receive()
                elif now >= worker.deadline:
                    judged = Judged(verdict=Verdict.TIMED_OUT)
                else:
                    continue
                del busy[replies]
                verdicts[key] = judged or Judged(verdict=Verdict.FAILED, reason="the verifier process gave no reply")
                idle.append(worker if judged and replies in ready else self._replace(worker))
        return [verdicts[key] for key in keys]

    def _replace(self, worker: "_Worker") -> "_Worker":
        """Another process in the place of one that hangs or has ended."""
        worker.kill()
        self._workers.remove(worker)
        successor = _Worker(*self._start)
        self._workers.append(successor)
        successor.wait_until_ready()
        return successor


class _Worker:
    """One process of the pool, in a session of its own: Ctrl-C lets the step be finished, and `kill` reaches all of it.

    ``replies`` is the file descriptor to wait for; ``deadline``, on the monotonic clock, is when the reply to what was
    sent last must be there.
    """

    def __init__(self, *start: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", STARTER, json.dumps(sys.path), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
            # One thread, so that forking is safe; equal hashes, so that sets are walked in the same order everywhere.
            env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = self._process.stdin.fileno()
        self.replies = self._process.stdout.fileno()
        os.set_blocking(self._requests, False)
        self.send(*start, limit=START_LIMIT)

    def send(self, *content: Any, limit: float) -> None:
        """Send a message whose reply is due within ``limit`` seconds; a process that does not read it will be late."""
        self.deadline = time.monotonic() + limit
        self._number = secrets.randbits(64)  # which nobody can know beforehand
        pickled = pickle.dumps((self._number, *content))
        rest = memoryview(len(pickled).to_bytes(8, "little") + pickled)
        while rest and (patience := self.deadline - time.monotonic()) > 0:
            _, ready, _ = select.select([], [self._requests], [], patience)
            if ready:
                try:
                    rest = rest[os.write(self._requests, rest) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    return  # it has ended, as the attempt to receive will show

    def receive(self) -> Judged | None:
        """The reply, once there is something; None if the process has ended, or if it is no reply to the request."""
        return Judged.read(os.read(self.replies, 4096), self._number)

    def wait_until_ready(self) -> None:
        """Wait until the verifier has been built, or raise `UsageError` with the reason why it could not be.

        The process is left for `kill`.
        """
        ready, _, _ = select.select([self.replies], [], [], max(0.0, self.deadline - time.monotonic()))
        judged = self.receive() if ready else None
        if judged is None or judged.verdict is not Verdict.RIGHT:
            reason = judged.reason if judged else "it ended, or took too long"
            raise UsageError(f"the verifier of the task cannot be started: {reason}")

    def kill(self) -> None:
        """End the process and all that it has started; no more than its number stays behind."""
        for number in (signal.SIGTERM, signal.SIGCONT):  # it alone can reach what has left its session
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)
        deadline = time.monotonic() + GRACE
        while select.select([self.replies], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if not os.read(self.replies, 4096):
                break
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
