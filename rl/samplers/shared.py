"""One sampler for each process: every one samples its part of the prompts, and all get all responses."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from rl.processes.ranks import Ranks
from rl.samplers.rollout import Batch, Group, Sampler
from rl.tasks.protocol import Prompt


class SharedSampler:
    """A `rl.samplers.rollout.Sampler` of which every process has a part.

    Parameters
    ----------
    own
        The sampler of this process.
    ranks
        The processes.
    """

    def __init__(self, own: Sampler, ranks: Ranks) -> None:
        self._own = own
        self._ranks = ranks

    def publish(self, weights: Mapping[str, Tensor]) -> None:
        """Hand the weights to the samplers of all processes."""
        self._own.publish(weights)

    def sample(
        self,
        prompts: Sequence[Prompt[Any]],
        *,
        group_size: int,
        temperature: float,
        max_new_tokens: int,
        seed: int,
        first: int = 0,
    ) -> Batch:
        """Sample ``group_size`` responses to each prompt; see `rl.samplers.rollout.Sampler.sample`."""
        share = self._ranks.share(prompts)
        own: list[Any] = []
        if share:
            batch = self._own.sample(
                share,
                group_size=group_size,
                temperature=temperature,
                max_new_tokens=max_new_tokens,
                seed=seed,
                first=first + self._ranks.first(len(prompts)),
            )
            own = [(group.prompt_tokens, group.completions) for group in batch.groups]
        # Not the prompts: those of a task of the user's own may be anything, and each process has them.
        everything = [group for part in self._ranks.gather(own) for group in part]
        return Batch(
            groups=tuple(
                Group(prompt=prompt, prompt_tokens=tokens, completions=completions)
                for prompt, (tokens, completions) in zip(prompts, everything, strict=True)
            )
        )
