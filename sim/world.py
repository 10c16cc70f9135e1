"""What a world is to a trajectory: prompts that an update moves, and a state that can be kept and taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sim.engine import Tally
from sim.weighting import PromptWeights

Gradient = Literal["natural", "vanilla"]


class World(Protocol):
    """A population of prompts under a policy."""

    @property
    def group_size(self) -> int:
        """M, responses in a group."""
        ...

    @property
    def prompts(self) -> int:
        """How many there are."""
        ...

    def use(self, weights: PromptWeights) -> None:
        """Take the weights of the updates from now on."""
        ...

    def advance(self, rng: np.random.Generator) -> Tally:
        """Make one update of the policy on a group of responses to each prompt."""
        ...

    def success(self) -> NDArray[np.float64]:
        """Success probability of each prompt, shape (n,)."""
        ...

    def state(self) -> Mapping[str, NDArray[np.float64]]:
        """Everything an update changes, by name: the arrays themselves, no copies."""
        ...
