"""From a pilot to a forecast: the world of `sim.habits` fitted to a run's first steps, and other weightings run in it.

A pilot is what a training run has recorded by kind: how many groups of each kind had K of M responses right, step by
step (the task reports the kind as difficulty). The fit sees the pilot's first steps and its table, nothing else; what
it leaves undecided is in the forecast's interval. Parameters: the start's acts (one for each kind, the rest useless),
execution and skill, the step size, and the rates of skill and execution. Least squares on arcsine roots of success,
whose variance is 1 over four times the number of responses, with weak normal priors on the logarithms; derivatives by a
complex step through the mean field, exact to rounding. The posterior is taken as normal, widened where the fit is worse
than binomial noise.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize

from sim.errors import UsageError
from sim.habits import Habits, lost, mean_field, sample
from weightopt.files import read_file
from weightopt.table import SEARCHED, WeightTable

MAX_BYTES = 64 * 2**20
MOST_KINDS, MOST_SIZE = 64, 1024
IMAGINARY = 1e-30
METRICS, STEP = "metrics.jsonl", "step"
Real = NDArray[np.float64]

# Mean and standard deviation of the normal priors: what the world's prototype used, give or take a factor of four.
PRIORS: Mapping[str, tuple[float, float]] = {
    "log-odds of execution": (1.0, 1.5),
    "skill": (0.0, 1.0),
    "log step size": (float(np.log(4.0)), 1.5),
    "log skill rate": (float(np.log(0.03)), 1.5),
    "log execution rate": (float(np.log(0.03)), 1.5),
}
ACT_PRIOR = (-2.0, 3.0)  # of the log-odds of each act against all useless ones
STARTS = ((4.0, 0.01), (4.0, 0.1), (1.0, 0.03), (16.0, 0.03))  # step size and skill rate the search begins from


@dataclasses.dataclass(frozen=True)
class Pilot:
    """What a run recorded by kind.

    Parameters
    ----------
    kinds
        Names.
    groups
        Shape (steps, J, M+1). Groups of a kind with K responses right, K = 0..M.
    prompts
        Groups a step, the mean.
    source
        What it is called.
    """

    kinds: tuple[str, ...]
    groups: Real
    prompts: int
    source: str = "a pilot"

    @property
    def group_size(self) -> int:
        """M."""
        return self.groups.shape[-1] - 1

    @property
    def shares(self) -> Real:
        """Share of each kind among the groups, shape (J,)."""
        drawn = self.groups.sum(axis=(0, 2))
        return drawn / drawn.sum()

    def first(self, steps: int) -> Pilot:
        """Its first steps."""
        return dataclasses.replace(self, groups=self.groups[:steps])

    def success(self) -> Real:
        """Share of right responses by step and kind, shape (steps, J); not-a-number where a kind was not drawn."""
        drawn = self.groups.sum(axis=2) * self.group_size
        right = self.groups @ np.arange(self.group_size + 1)
        return np.divide(right, drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)


def read_pilot(path: Path) -> Pilot:
    """The pilot in the folder of a run, or in its ``metrics.jsonl``.

    A last line without its end is still being written, and is left out.

    Raises
    ------
    UsageError
        If there is no such file, or its steps do not report at least two kinds.
    """
    name = Path(os.path.abspath(path)).name  # of "." too
    if path.is_dir():
        path = path / METRICS
        if not path.exists():
            raise UsageError(f"{str(path.parent)!r} holds no {METRICS}; give the folder of a run")
    try:
        data = read_file(path, MAX_BYTES)
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{str(path)!r} is not UTF-8 text; give the {METRICS} of a run") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{str(path)!r} cannot be read ({reason}); give the {METRICS} of a run") from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"{str(path)!r} is larger than {MAX_BYTES >> 20} MiB; give the {METRICS} of a run")
    steps: list[Mapping[str, Sequence[int]]] = []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            document = json.loads(line)
            if document["kind"] == STEP:
                steps.append({str(kind): _counts(row) for kind, row in document["histogram_by_difficulty"].items()})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UsageError(f"{str(path)!r}: line {number} is no record of a step by kind") from None
    kinds = tuple(sorted({kind for step in steps for kind in step}))
    sizes = {len(row) for step in steps for row in step.values()}
    if not 2 <= len(kinds) <= MOST_KINDS:
        raise UsageError(
            f"{str(path)!r} reports {len(kinds)} kinds; a forecast needs 2 to {MOST_KINDS}, which the task reports as "
            'difficulty (Countdown: task.strata = "operators")'
        )
    if len(sizes) != 1:
        raise UsageError(f"{str(path)!r}: all groups must have one size")
    (width,) = sizes
    groups = np.array([[step.get(kind, [0] * width) for kind in kinds] for step in steps], dtype=np.float64)
    if not groups.sum(axis=(0, 2)).all():
        raise UsageError(f"{str(path)!r}: every kind must have been drawn")
    source = "".join(c for c in name if c.isprintable())[:80]
    return Pilot(kinds, groups, round(float(groups.sum() / len(steps))), source)


def _counts(row: Any) -> list[int]:
    if not isinstance(row, list) or not 3 <= len(row) <= MOST_SIZE + 1:
        raise ValueError
    if any(type(value) is not int or not 0 <= value <= 10**9 for value in row):
        raise ValueError
    return row


@dataclasses.dataclass(frozen=True)
class Fit:
    """The world that a pilot's steps point to, and how surely.

    Parameters
    ----------
    pilot
        The steps that were fitted.
    mean
        Shape (P,). Parameters on the scale of the fit, see `names`.
    covariance
        Shape (P, P).
    dispersion
        Squared residuals over their expectation for binomial noise; above 1 where the world is too simple for the run,
        or prompts of a kind differ.
    """

    pilot: Pilot
    mean: Real
    covariance: Real
    dispersion: float

    @property
    def names(self) -> tuple[str, ...]:
        """What each parameter is."""
        return (*(f"log-odds of the act of {kind}" for kind in self.pilot.kinds), *PRIORS)

    def world(self, parameters: Real | None = None) -> Habits:
        """The world at the mean, or at parameters of shape (..., P)."""
        return _world(self.pilot.shares, self.mean if parameters is None else parameters)

    def draws(self, count: int, rng: np.random.Generator) -> Real:
        """Parameters drawn from the posterior, shape (count, P)."""
        return rng.multivariate_normal(self.mean, self.covariance, size=count, method="eigh")


def _world(shares: Real, parameters: Any) -> Habits:
    """The world of parameters on the scale of the fit, real or complex, shape (..., P)."""
    kinds = shares.size
    acts = np.exp(parameters[..., :kinds])
    acts = np.concatenate([acts, np.ones_like(acts[..., :1])], axis=-1) / (1 + acts.sum(axis=-1, keepdims=True))
    execution, skill, step, rate, practice = (parameters[..., kinds + at, None] for at in range(len(PRIORS)))
    return Habits(
        shares=shares,
        acts=acts,
        execution=1 / (1 + np.exp(-execution)),
        skill=skill,
        step_size=np.exp(step),
        skill_rate=np.exp(rate),
        execution_rate=np.exp(practice),
    )


def fit(pilot: Pilot, correct: Real, wrong: Real) -> Fit:
    """Fit the world to all steps of a pilot.

    Parameters
    ----------
    pilot
        What was recorded, best of the first 20 to 60 steps of a run.
    correct, wrong
        Shape (M+1,). Advantages that the pilot was trained with.
    """
    kinds, steps = len(pilot.kinds), len(pilot.groups)
    responses = pilot.groups.sum(axis=2) * pilot.group_size
    observed = np.arcsin(np.sqrt(np.nan_to_num(pilot.success())))
    scale = 2 * np.sqrt(responses)
    centre = np.array([*(ACT_PRIOR[0],) * kinds, *(mean for mean, _ in PRIORS.values())])
    spread = np.array([*(ACT_PRIOR[1],) * kinds, *(deviation for _, deviation in PRIORS.values())])

    def model(parameters: Any) -> Any:
        path = mean_field(_world(pilot.shares, parameters), correct, wrong, steps - 1)
        return np.arcsin(np.sqrt(path))

    def residuals(parameters: Real) -> Real:
        return np.append((scale * (model(parameters) - observed)).ravel(), (parameters - centre) / spread)

    def jacobian(parameters: Real) -> Real:
        rows = parameters + 1j * IMAGINARY * np.eye(parameters.size)
        slopes = model(rows).imag / IMAGINARY  # (steps, P, J)
        data = (scale[..., None] * np.moveaxis(slopes, 1, 2)).reshape(-1, parameters.size)
        return np.vstack([data, np.diag(1 / spread)])

    begin = centre.copy()
    early = np.clip(np.nansum(pilot.success()[:5] * responses[:5], axis=0) / responses[:5].sum(axis=0), 1e-3, 0.95)
    begin[:kinds] = np.log(early / 0.7 / max(1e-2, 1 - early.sum() / 0.7))
    found = []
    search: Any = least_squares  # its types know of no function that computes the derivative
    for step_size, rate in STARTS:
        begin[kinds + 2 : kinds + 4] = np.log([step_size, rate])
        found.append(search(residuals, begin, jacobian, method="trf", x_scale=spread, max_nfev=200))
    best: Any = min(found, key=lambda result: result.cost)
    told = int(np.count_nonzero(responses))
    dispersion = float((residuals(best.x)[: -centre.size] ** 2).sum() / max(1, told - centre.size))
    data = jacobian(best.x)[: -centre.size]
    information = data.T @ data / max(1.0, dispersion) + np.diag(1 / spread**2)
    covariance: Any = np.linalg.inv(information)
    return Fit(pilot, best.x, covariance, dispersion)


@dataclasses.dataclass(frozen=True)
class Forecast:
    """A weighting in the fitted world: replicas that differ in parameters and in the responses they drew.

    Parameters
    ----------
    path
        Shape (steps + 1, R, J). Success by kind before each update and after the last.
    shares
        Shape (J,). Of the kinds.
    """

    path: Real
    shares: Real

    @property
    def success(self) -> Real:
        """Mean success, shape (steps + 1, R)."""
        return self.path @ self.shares

    def at_the_end(self) -> Real:
        """Mean success at the end, shape (R,)."""
        return self.success[-1]

    def over_the_run(self) -> Real:
        """Mean success averaged over the run, shape (R,)."""
        return self.success.mean(axis=0)

    def lost(self) -> Real:
        """Kinds lost at the end, shape (R,)."""
        return lost(self.path)

    def steps_to(self, level: float) -> Real:
        """The first step with at least that mean success, shape (R,); inf where there is none."""
        reached = self.success >= level
        return np.where(reached.any(axis=0), reached.argmax(axis=0), np.inf)


def forecast(fitted: Fit, correct: Real, wrong: Real, steps: int, *, seed: int = 0, replicas: int = 64) -> Forecast:
    """Run a table in the worlds that a pilot points to; equal seeds give equal worlds and equal random numbers."""
    rng = np.random.default_rng(seed)
    world = fitted.world(fitted.draws(replicas, rng))
    prompts = fitted.pilot.prompts
    return Forecast(sample(world, correct, wrong, steps, rng, replicas=replicas, prompts=prompts), fitted.pilot.shares)


def best_table(
    fitted: Fit, steps: int, begin: Sequence[tuple[Real, Real]], *, draws: int = 8, seed: int = 0
) -> tuple[WeightTable, float]:
    """The centred table, all-wrong advantage included, with the highest mean success over a run in the fitted worlds.

    A local optimum of the mean field, averaged over draws of the posterior: the problem is not convex, and nothing is
    certified. Weights and the push on all-wrong groups are searched by their logarithms, with exact derivatives.

    Parameters
    ----------
    fitted
        The worlds.
    steps
        Length of the run.
    begin
        Tables, as pairs of advantages (correct, wrong) of shape (M+1,), that the search starts from.
    draws
        Worlds averaged over.

    Returns
    -------
    WeightTable, float
        The table, with mean weight 1, and the mean success over the run that the mean field gives it.
    """
    rng = np.random.default_rng(seed)
    world = fitted.world(fitted.draws(draws, rng))
    size, shares = fitted.pilot.group_size, fitted.pilot.shares
    k = np.arange(size + 1)

    def advantages(logs: Any) -> tuple[Any, Any]:
        weight = np.exp(logs)
        zero = np.zeros_like(weight[..., :1])
        inner = weight[..., :-1]
        correct = np.concatenate([zero, inner * (1 - k[1:-1] / size), zero], axis=-1)
        wrong = np.concatenate([-weight[..., -1:], -inner * (k[1:-1] / size), zero], axis=-1)
        return correct, wrong

    def loss(logs: Real) -> tuple[float, Real]:
        rows = np.vstack([logs, logs + 1j * IMAGINARY * np.eye(logs.size)])
        correct, wrong = advantages(rows[:, None, :])
        value = -(mean_field(world, correct, wrong, steps) @ shares).mean(axis=(0, 2))
        return float(value[0].real), value[1:].imag / IMAGINARY

    found = []
    for correct, wrong in begin:
        weight = np.append((correct - wrong)[1:-1], -wrong[0])
        logs = np.log(np.clip(weight / weight[:-1].mean(), 1e-3, 1e3))
        found.append(minimize(loss, logs, jac=True, method="L-BFGS-B", bounds=[(-7, 7)] * logs.size))
    best: Any = min(found, key=lambda result: result.fun)
    logs = best.x - np.log(np.exp(best.x[:-1]).mean())
    correct, wrong = advantages(logs)
    table = WeightTable(
        name="habits",
        label="best found in a fitted world of habits",
        group_size=size,
        rho=tuple((k[1:-1] / size).tolist()),
        weight=tuple(np.exp(logs[:-1]).tolist()),
        all_wrong_advantage=float(wrong[0]),
        all_right_advantage=0.0,
        advantage_correct=tuple(correct.tolist()),
        advantage_wrong=tuple(wrong.tolist()),
        provenance={
            "method": SEARCHED,
            "end_rules": ["solved", "solved"],
            "loops": ["fixed-batch"],
            "made_for": f"a fixed batch, in steps; {steps} of them in the world fitted to {len(fitted.pilot.groups)} "
            f"steps of {fitted.pilot.source}",
            "versions": {package: importlib.metadata.version(package) for package in ("weightopt", "numpy", "scipy")},
        },
    )
    return table, -float(best.fun)
