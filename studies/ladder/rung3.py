"""Rung 3: kinds of prompts that share habits: the mean field and a pilot's forecast against replicas."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sim.forecast import Pilot, fit, forecast
from sim.habits import Habits, lost, mean_field, sample
from theory import catalogue
from weightopt import GroupProblem, Problem, solve
from weightopt.catalogue_tables import catalogue_table

Array = NDArray[np.float64]
NAMED = ("grpo", "rloo", "linear-r", "sqrt-r", "maxrl", "uniform-r")
# Limits of crowding: κ, what is limited, and where (None: the default range).
LIMITS: Mapping[str, tuple[float | None, str, tuple[float, float] | None]] = {
    "table": (None, "gradient", None),
    "push-0.5": (0.5, "push", (0.02, 0.7)),
    "push-0.3": (0.3, "push", (0.02, 0.7)),
    "push-0.15": (0.15, "push", (0.02, 0.7)),
    "gradient-0.5": (0.5, "gradient", None),
}
METHODS = (*LIMITS, *NAMED)
REFERENCE = "grpo"
GROUP_SIZE, PROMPTS, STEPS, REPLICAS = 16, 16, 400, 64
PILOT, PILOT_STEPS, PILOT_SEED = "grpo", 40, 77
EARLY = 40
MEASURES = ("success at step 40", "mean over the run", "success at the end", "kinds lost")

_RATES = {"λ .02 η 4": (0.02, 4.0), "λ .01 η 6": (0.01, 6.0)}
_STARTS = {
    "scratch": (0.0, (0.04, 0.03, 0.02, 0.01, 0.9), (0.7, 0.6, 0.5, 0.4)),
    "sft": (1.2, (0.3, 0.25, 0.2, 0.15, 0.1), (0.9, 0.8, 0.8, 0.7)),
}
WORLDS: Mapping[str, Habits] = {
    f"{rates}, {start}": Habits(
        shares=np.full(4, 0.25),
        acts=np.array(acts),
        execution=np.array(execution),
        skill=skill,
        step_size=step_size,
        skill_rate=slow,
        execution_rate=slow,
    )
    for rates, (slow, step_size) in _RATES.items()
    for start, (skill, acts, execution) in _STARTS.items()
}


@functools.cache
def advantages(method: str) -> tuple[Array, Array]:
    """By the number correct."""
    if method in LIMITS:
        kappa, measure, where = LIMITS[method]
        curve = Problem(0.02, 0.9, "regular")
        limited = {} if kappa is None else {"crowding": kappa, "crowding_range": where, "crowding_measure": measure}
        table = solve(GroupProblem(curve, GROUP_SIZE, **limited)).table()
    else:
        table = catalogue_table(catalogue.EVERYTHING[method], GROUP_SIZE)
    return np.array(table.advantage_correct), np.array(table.advantage_wrong)


def measured(path: Array, shares: Array) -> Array:
    """The measures of each replica, shape (R, 4), from success by kind, shape (steps + 1, R, J)."""
    success = path @ shares
    return np.stack([success[EARLY], success.mean(axis=0), success[-1], lost(path).astype(float)], axis=1)


def predicted(world: Habits, method: str) -> Array:
    """The measures by the mean field, shape (4,)."""
    path = mean_field(world, *advantages(method), STEPS)
    return measured(path[:, None], world.shares)[0]


def run(world: Habits, method: str, seed: int) -> Array:
    """The measures of replicas whose responses are drawn, shape (R, 4); the same random numbers for all methods."""
    rng = np.random.default_rng(seed)
    path = sample(world, *advantages(method), STEPS, rng, replicas=REPLICAS, prompts=PROMPTS)
    return measured(path, world.shares)


def pilot(world: Habits) -> Pilot:
    """The first steps of one run with GRPO: how many groups of each kind had K right, drawn at the run's success."""
    rng = np.random.default_rng(PILOT_SEED)
    path = sample(world, *advantages(PILOT), PILOT_STEPS, rng, replicas=1, prompts=PROMPTS)[:-1, 0]
    groups = np.zeros((*path.shape, GROUP_SIZE + 1))
    for step, success in enumerate(path):
        for kind in rng.choice(success.size, PROMPTS, p=world.shares):
            groups[step, kind, rng.binomial(GROUP_SIZE, success[kind])] += 1
    return Pilot(tuple("abcd"), groups, PROMPTS)


def forecasts(world: Habits) -> dict[str, Array]:
    """The measures of each method, shape (R, 4), in worlds that the pilot points to; it knows nothing else."""
    seen = pilot(world)
    fitted = fit(seen, *advantages(PILOT))
    found = {}
    for method in METHODS:
        told = forecast(fitted, *advantages(method), STEPS, replicas=REPLICAS)
        found[method] = measured(told.path, told.shares)
    return found
