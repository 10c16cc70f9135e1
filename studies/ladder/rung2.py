"""Rung 2: the same prompts, started apart, under a budget for every step: tables of `weightopt population`."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

from sim import loops
from studies.ladder.network import Loop, Optimiser
from theory import catalogue
from weightopt import GroupPopulationProblem, Problem, solve
from weightopt.catalogue_tables import catalogue_table
from weightopt.groups.group import GroupProblem
from weightopt.populations.lengths import Lengths
from weightopt.populations.pass_rates import from_preset
from weightopt.table import WeightTable

Array = NDArray[np.float64]
NAMED = ("grpo", "rloo", "linear-r", "sqrt-r", "maxrl", "uniform-r")
SOLVED = ("population", "single")  # for the distribution of starts; for one prompt that starts at their mean
METHODS = (*SOLVED, *NAMED)
REFERENCE = "population"
GROUP_SIZE = 16
RIGHT, WRONG = 200.0, 2000.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A distribution of starts and an optimiser.

    Attributes
    ----------
    name
        For files and tables.
    preset
        Of `weightopt population`.
    prompts
        P, at quantile midpoints.
    target
        Mean success.
    optimiser, choices, mixed, networks
        See `studies.ladder.network`.
    largest
        The larger of the two step sizes.
    steps
        That it takes about so many.
    """

    name: str
    preset: str
    prompts: int
    target: float
    optimiser: Optimiser
    largest: float
    steps: int
    choices: int = 0
    mixed: bool = False
    networks: int = 16

    @functools.cached_property
    def problem(self) -> GroupPopulationProblem:
        """What `weightopt population --group-size 16 --tokens` is asked."""
        start = from_preset(self.preset, self.prompts)
        tokens = Lengths(f"right {RIGHT:g}, wrong {WRONG:g}", (0.5,), (RIGHT,), (WRONG,))
        return GroupPopulationProblem(start.source, start.rates, start.counts, self.target, GROUP_SIZE, lengths=tokens)

    @property
    def loop(self) -> Loop:
        """What is run."""
        return Loop(
            rho=np.repeat(self.problem.rates, self.problem.counts),
            target=self.target,
            lengths=loops.Lengths(RIGHT, WRONG),
            coordinate="angle",
            optimiser=self.optimiser,
            choices=self.choices,
            mixed=self.mixed,
            networks=self.networks,
        )

    def table(self, method: str) -> WeightTable:
        """The table of a method, as the command line writes it."""
        if method == "population":
            return _population_table(self.problem)
        if method == "single":
            return solve(GroupProblem(Problem(self.problem.mean, 0.9, "regular"), GROUP_SIZE)).table()
        return catalogue_table(catalogue.EVERYTHING[method], GROUP_SIZE)

    def advantages(self, method: str) -> tuple[Array, Array]:
        """By the number correct; their scale does not matter to a normalised step."""
        table = self.table(method)
        return np.array(table.advantage_correct), np.array(table.advantage_wrong)

    def step_size(self, halvings: int) -> float:
        """The larger step size, halved so many times: all methods share it."""
        return self.largest / 2**halvings

    def predicted(self, method: str) -> float:
        """Tokens to the target, in the tool's units."""
        correct, wrong = self.advantages(method)
        vector = np.array([-wrong[0], *(correct - wrong)[1:-1], correct[-1]])  # all of these tables are centred
        return self.problem.flow(2).time(vector, self.problem.share, self.target)


@functools.lru_cache(maxsize=8)
def _population_table(problem: GroupPopulationProblem) -> WeightTable:
    return solve(problem).table()


SETTINGS = (
    Setting(
        name="normalised scratch",
        preset="from-scratch",
        prompts=200,
        target=0.5,
        optimiser="normalised",
        largest=0.004,
        steps=400,
        networks=24,
    ),
    Setting(
        name="normalised sft",
        preset="post-sft",
        prompts=200,
        target=0.8,
        optimiser="normalised",
        largest=0.002,
        steps=400,
        networks=24,
    ),
    Setting(
        name="AdamW scratch",
        preset="from-scratch",
        prompts=100,
        target=0.5,
        optimiser="adamw",
        largest=0.002,
        steps=400,
        choices=31,
        mixed=True,
    ),
    Setting(
        name="AdamW sft",
        preset="post-sft",
        prompts=100,
        target=0.8,
        optimiser="adamw",
        largest=0.001,
        steps=400,
        choices=31,
        mixed=True,
    ),
)
