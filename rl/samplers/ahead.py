"""Sampling in a process of its own, which draws the next step's responses while this step's are learnt from.

The process (`rl.samplers.process`) has a device or CPU threads to itself, and a sampler of either kind. Requests and
replies are lines of JSON; weights lie in memory that both processes see. It ends when this process does.
"""

import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from torch import Tensor

from rl.config import Config
from rl.errors import DivergenceError, LostRankError, SyncError, UsageError
from rl.processes.ranks import visible_gpus
from rl.samplers.rollout import Batch
from rl.tasks.protocol import Prompt

STARTER = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from rl.samplers.process import main; main()"

# What the process says in its own words; anything else is its failure.
SAID = {kind.__name__: kind for kind in (DivergenceError, SyncError, UsageError)}

# Bytes, at a multiple of which each tensor begins.
ALIGNED = 64


class AheadSampler:
    """A `rl.samplers.rollout.Sampler` in another process, which can also be asked now and listened to later.

    Parameters
    ----------
    weights
        Those of the policy, as they will be published.
    start
        Folder of the start model, of which the process takes the shape.
    probe
        Prompts on which an engine with weights of its own is checked.

    Raises
    ------
    UsageError, SyncError, LostRankError
        If the process cannot sample; the last also from any method, once the process has ended.
    """

    def __init__(
        self, config: Config, weights: Mapping[str, Tensor], *, start: Path, probe: Sequence[Prompt[Any]]
    ) -> None:
        assert config.sampler.ahead is not None
        layout = [(name, str(each.dtype).partition(".")[2], list(each.shape)) for name, each in weights.items()]
        # In memory, where the system can; else in a file without a name.
        shared = open(os.memfd_create("weights"), "r+b") if hasattr(os, "memfd_create") else TemporaryFile()  # noqa: SIM115
        number = config.sampler.ahead.partition(":")[2]
        self._process = subprocess.Popen(
            [sys.executable, "-c", STARTER, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            pass_fds=[shared.fileno()],
            start_new_session=True,  # Ctrl-C lets the step be finished
            env={**os.environ, "CUDA_VISIBLE_DEVICES": visible_gpus()[int(number)] if number else ""},
        )
        try:
            with shared:
                self._weights = shared_tensors(shared.fileno(), layout)
                self._fill(weights)
                texts = [prompt.text for prompt in probe]
                self._ask(config=config.to_json(), start=str(start), file=shared.fileno(), layout=layout, probe=texts)
                self.ends, self.engine = json.loads(self._reply())
        except BaseException:
            self.close()
            raise

    def begin(self, prompts: Sequence[Prompt[Any]], **options: Any) -> None:
        """Ask for what `sample` would give, with the weights published last, and do not wait for it."""
        self._ask(prompts=[prompt.text for prompt in prompts], options=options)

    def drawn(self) -> str:
        """Wait for what `begin` has asked for: `rl.samplers.rollout.Batch.to_json`, as a line."""
        return self._reply()

    def sample(self, prompts: Sequence[Prompt[Any]], **options: Any) -> Batch:
        """Draw now, and wait; see `rl.samplers.rollout.Sampler.sample`."""
        self.begin(prompts, **options)
        return Batch.from_json(prompts, json.loads(self.drawn()))

    def publish(self, weights: Mapping[str, Tensor]) -> None:
        """Hand the weights of the trained model over; what has been begun must have been drawn."""
        self._fill(weights)
        self._ask()
        self._reply()

    def rest(self) -> None:
        """It draws while others learn."""

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError), self._process as process:
            process.kill()

    def _fill(self, weights: Mapping[str, Tensor]) -> None:
        for name, own in self._weights.items():
            own.copy_(weights[name])

    def _ask(self, **request: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._reply()  # says why it has ended

    def _reply(self) -> str:
        assert self._process.stdout is not None
        reply = self._process.stdout.readline()
        if not reply.endswith("\n"):
            status = self._process.wait()
            how = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
            raise LostRankError(f"the process that draws ahead has ended {how}")
        if reply.startswith("{"):
            kind, reason = json.loads(reply).values()
            if kind in SAID:
                raise SAID[kind](reason)
            raise LostRankError(f"the process that draws ahead has failed ({kind}: {reason})")
        return reply


def shared_tensors(file: int, layout: Sequence[tuple[str, str, Sequence[int]]]) -> dict[str, Tensor]:
    """Tensors that lie one after the other in a file, which several processes may look at so.

    ``file`` is a descriptor; ``layout`` has name, type and shape of each.
    """
    bytes_of = [prod(shape) * getattr(torch, dtype).itemsize for _, dtype, shape in layout]
    *begins, end = accumulate((-(-size // ALIGNED) * ALIGNED for size in bytes_of), initial=0)
    os.truncate(file, end)
    memory = mmap.mmap(file, end)
    return {
        name: torch.frombuffer(memory, dtype=getattr(torch, dtype), count=prod(shape), offset=begin).view(shape)
        for (name, dtype, shape), begin in zip(layout, begins, strict=True)
    }
