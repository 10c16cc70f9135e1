"""Several processes that train one model, started by `torchrun -m weightopt train`: what they share and agree on.

Each process samples and judges its part of a step's groups, and then tells all the others: every process knows the
whole batch. So whatever is weighed, counted and decided comes out the same everywhere, and none is in charge; only what
leaves the run, files and lines on a terminal, is left to the first. The weights are shared out in
`rl.processes.sharded`.

One process is the same program with nobody to talk to: `Ranks` as it is by default does nothing, and needs no torch.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from rl.errors import UsageError
from rl.processes.failures import processes

T = TypeVar("T")

# How long a process may wait for the others, who may be at a supervised phase or at a slow verifier. One that has died
# is noticed at once.
PATIENCE = timedelta(hours=12)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those of the run.

    Attributes
    ----------
    rank
        In 0..size-1.
    group
        What they talk through; None if there is only one.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @property
    def leading(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def first(self, count: int) -> int:
        """Place at which this process's part of ``count`` things begins."""
        return self.rank * count // self.size

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part: consecutive, in the order of the processes, sizes differ by at most one."""
        return items[self.first(len(items)) : (self.rank + 1) * len(items) // self.size]

    def gather(self, value: T) -> list[T]:
        """The value that each process gives, in their order; all must call, all get the same list."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def any(self, answer: bool) -> bool:
        """Whether any process says yes; all must ask."""
        return any(self.gather(answer))

    def wait(self) -> None:
        """Wait until all have come here."""
        self.gather(None)


ALONE = Ranks()


@contextmanager
def open_ranks(device: str) -> Iterator[Ranks]:
    """Meet the other processes, if torchrun has started this one with others.

    Each process gets a GPU of its own, the only one that it sees from then on: an engine takes the first GPU there is.

    Raises
    ------
    UsageError
        If the processes are on several nodes, or there is no GPU for each of them.
    """
    if processes() == 1:
        yield ALONE
        return
    import torch.distributed as dist

    size, local = processes(), int(os.environ["LOCAL_RANK"])
    if int(os.environ.get("LOCAL_WORLD_SIZE", size)) != size:
        raise UsageError(
            f"torchrun started {size} processes on several nodes, and this loop knows one: see 'Several GPUs' in "
            "docs/training.md for more"
        )
    dist.init_process_group("cpu:gloo,cuda:nccl" if _take_device(device, local, size) == "cuda" else "gloo")
    yield Ranks(rank=dist.get_rank(), size=size, group=dist.new_group(backend="gloo", timeout=PATIENCE))
    # Not after a failure: others may be in the middle of something, and the end of the process tells them. And vLLM
    # has done it when its engine was closed.
    if dist.is_initialized():
        dist.destroy_process_group()


def _take_device(device: str, local: int, size: int) -> str:
    """Let process ``local`` of ``size`` see one GPU, its own; "cpu" or "cuda"."""
    if ":" in device:
        raise UsageError(
            f"config key 'device' is {device!r}, and torchrun started {size} processes: use 'auto', 'cuda' or 'cpu'"
        )
    import torch

    count = torch.cuda.device_count() if device != "cpu" else 0
    if device == "cpu" or (device == "auto" and not count):
        return "cpu"
    if size > count:
        raise UsageError(f"torchrun started {size} processes, and torch finds {count} GPUs here: start one for each")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible_gpus()[local]
    if torch.cuda.device_count() != 1:
        raise UsageError("torch has looked for GPUs before the run was opened: several processes need torchrun")
    return "cuda"


def visible_gpus() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` calls each GPU that this process may see, in the order of torch."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
