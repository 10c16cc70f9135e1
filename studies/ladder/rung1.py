"""Rung 1: independent prompts, plain SGD, tokens: what `weightopt compare` certifies, measured."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sim.loops import Lengths
from studies.ladder.network import Coordinate, Loop
from theory import catalogue
from theory.clocks import Tabulated
from theory.dynamics import MOBILITIES
from theory.log_linear import LogLinear
from weightopt import GroupProblem, Problem, solve
from weightopt.catalogue_tables import catalogue_table
from weightopt.groups.group import time_and_budget
from weightopt.table import WeightTable

Array = NDArray[np.float64]
NAMED = ("grpo", "rloo", "linear-r", "sqrt-r", "maxrl", "uniform-r")
SOLVED = ("table", "curve")  # the best table for groups, and the best curve read at K/M
REFERENCE = "table"
PROMPTS, NETWORKS = 256, 24
POINTS = 200  # at which the mean length is tabulated
MOBILITY: Mapping[Coordinate, str] = {"logit": "softmax-gradient", "angle": "natural"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """All prompts start at one success probability.

    Attributes
    ----------
    name
        For files and tables.
    coordinate
        Of the network; its mobility follows.
    group_size, start, target
        M, and success.
    right, wrong
        Mean tokens of a response.
    steps
        What the best table is to take at the larger of the two step sizes.
    """

    name: str
    coordinate: Coordinate
    group_size: int
    start: float
    target: float
    right: float
    wrong: float
    steps: int

    @functools.cached_property
    def problem(self) -> GroupProblem:
        """What `weightopt compare` is asked."""
        rho = np.linspace(self.start, self.target, POINTS)
        rho = np.concatenate([[self.start / 2], rho, [(1 + self.target) / 2]])
        length = rho * self.right + (1 - rho) * self.wrong
        clock = Tabulated("tokens", f"right {self.right:g}, wrong {self.wrong:g}", LogLinear(tuple(rho), tuple(length)))
        curve = Problem(self.start, self.target, clock, mobility=MOBILITIES[MOBILITY[self.coordinate]])
        return GroupProblem(curve, self.group_size)

    @property
    def loop(self) -> Loop:
        """What is run."""
        return Loop(
            rho=np.full(PROMPTS, self.start),
            target=self.target,
            lengths=Lengths(self.right, self.wrong),
            coordinate=self.coordinate,
            optimiser="sgd",
            networks=NETWORKS,
        )

    def table(self, method: str) -> WeightTable:
        """The table of a method, as the command line writes it."""
        if method == "table":
            return solve(self.problem).table()
        if method == "curve":
            return solve(self.problem.curve).table(self.group_size)
        return catalogue_table(catalogue.EVERYTHING[method], self.group_size)

    def advantages(self, method: str) -> tuple[Array, Array]:
        """Advantages scaled so that the way costs the budget 1, the same for all methods."""
        table = self.table(method)
        correct, wrong = np.array(table.advantage_correct), np.array(table.advantage_wrong)
        _, spent = time_and_budget(self.problem, correct, wrong)
        return correct / spent, wrong / spent

    def predicted(self, method: str) -> float:
        """Tokens to the target at budget 1: T·V, which does not hang on the table's scale."""
        time, spent = time_and_budget(self.problem, *self.advantages(method))
        return time * spent

    def step_size(self, halvings: int) -> float:
        """The larger step size, halved so many times: all methods share it."""
        table = self.advantages(REFERENCE)
        regular = dataclasses.replace(self.problem, curve=dataclasses.replace(self.problem.curve, clock="regular"))
        return time_and_budget(regular, *table)[0] / self.steps / 2**halvings


SETTINGS = (
    Setting(name="logits", coordinate="logit", group_size=16, start=0.02, target=0.9, right=200, wrong=2000, steps=400),
    Setting(name="angles", coordinate="angle", group_size=16, start=0.02, target=0.9, right=200, wrong=2000, steps=400),
    Setting(
        name="small groups", coordinate="angle", group_size=8, start=0.05, target=0.9, right=100, wrong=5000, steps=400
    ),
)
METHODS = (*SOLVED, *NAMED)
