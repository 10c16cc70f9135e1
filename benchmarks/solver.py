"""How fast the dedicated solvers are against general-purpose ones: `python benchmarks/solver.py`.

Needs `make .venv/.bench`; a peer that is not installed is named and left out.

What is compared. On N cells of success probability 0.01 → 0.9, even in log-odds, minimise Σ cost/w under
Σ mass·w = 1. The constraints bind on a good part of the interval:

    basic       clock effective, no constraint
    box         clock effective, weights in [0.75, 3]: about a third of the cells at either bound
    monotone    clock regular, decreasing: the right 47 % of the cells is pooled
    lipschitz   clock effective, at most 1.75 per unit of log-odds: the left half is at the bound
    group       clock effective, the best convex table for groups of 16 under the drift budget, step model ratio;
                peers on 400 quadrature points, ours on those it needs to certify its error

Why it is fair. Everybody starts from the same arrays (group: from start, target and size), knows no answer and is
timed cold: modelling, solving and reading the weights, in a process in which every library has run before, BLAS on one
thread (two are slower for everybody). Solvers take turns; in its turn a short solve is repeated for 20 ms and the
median counts, for everybody alike. Ratios are formed within each round. Peers are set up as by somebody who knows them:

    units       weights in units of the unconstrained optimum, objective and budget times N, so that the numbers a
                solver sees are of order one: else Clarabel's answer at N = 20 000 is off by 7e-7 and IPOPT slower
    cvxpy       constants, no parameters; inv_pos, as fast as explicit cones; Clarabel, tolerance 1e-10
    ipopt       through CasADi, matrix expressions, the sparse Hessian given; tolerance 1e-10, Mehrotra's predictor and
                corrector, bounds not relaxed (by default they are, by 1e-8); MUMPS without permutation and with the
                ordering for dense rows, the budget being one: else lipschitz at N = 20 000 takes 40 s instead of 1
    lbfgsb      basic: w = softmax/mass. monotone, group: minimise time + budget, which is scale-free, over increments
                or hinges ≥ 0 (in softmax form it ends 4e-6 off, and later). Bounds have no natural form
    slsqp       dense, so N = 200 only; all gradients and Jacobians given

Also timed: `weightopt --help`, and a sweep of 10 000 solves with two workers, all of them certified.

Starts: the constant weight; for lbfgsb equal shares of the budget.

Error: the largest of the relative errors of time and budget, and of the violation of a constraint relative to the mean
weight. The exact answers are computed here, not by our solver: the formula; water-filling by Brent's method; isotonic
regression; for lipschitz the best weights with one run at the bound, by Brent's method; for group L-BFGS-B's table on
800 points. Each has a dual bound of its own, which would show if it were wrong; what that leaves open is printed.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import gc
import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cvxpy as cp
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, brentq, isotonic_regression, minimize
from scipy.special import expit, logit
from scipy.stats import binom

from theory.finite_group import weight_speeds
from weightopt.cells import CellProgram, solve_cells
from weightopt.finite_group import GroupProblem, solve_group
from weightopt.problem import Problem

ca: Any = importlib.import_module("casadi") if importlib.util.find_spec("casadi") else None

Array = NDArray[np.float64]
START, TARGET, GROUP_SIZE, POINTS = 0.01, 0.9, 16, 400
TOLERANCE = 1e-10  # asked of every peer
ACCURATE = 1e-6  # error from which a peer does not count
CERTIFIED = 1e-9  # gap and violation allowed to ours
TURN = 0.02  # seconds for which a short solve is repeated
AIM_SIZE = 2000
OURS = "weightopt"
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


# Problems and their exact answers


class Exact(NamedTuple):
    """The least time, and by how much (relatively) it may be wrong."""

    time: float
    uncertainty: float


@dataclasses.dataclass(frozen=True)
class Cells:
    """Minimise Σ cost/w under Σ mass·w = 1, lower ≤ w ≤ upper, |change of w| ≤ rise; w decreasing if so wished."""

    cost: Array
    mass: Array
    lower: float = 0.0
    upper: float = math.inf
    decreasing: bool = False
    rise: float = math.inf

    @property
    def root(self) -> Array:
        return np.sqrt(self.cost / self.mass)

    @property
    def mean(self) -> float:
        return 1 / float(np.sum(self.mass))

    def scaled(self) -> tuple[Array, Array]:
        """Units of weight, and share with objective share·(1/z) and budget share·z = n, for z = w/unit."""
        unit = self.root / float(self.mass @ self.root)
        return unit, self.mass * unit * self.mass.size

    def time(self, weight: Array) -> float:
        return float(np.sum(self.cost / weight))

    def error(self, weight: Array, exact: Exact) -> float:
        """The largest relative error of time, budget and constraints."""
        if not (np.all(np.isfinite(weight)) and np.all(weight > 0)):
            return math.inf
        change = np.diff(weight)
        above = np.max(change) if self.decreasing else np.max(np.abs(change)) - self.rise
        violation = max(0.0, *map(float, (self.lower - np.min(weight), np.max(weight) - self.upper, above))) / self.mean
        return max(abs(self.time(weight) / exact.time - 1), abs(float(self.mass @ weight) - 1), violation)

    def exact(self) -> Exact:
        if math.isfinite(self.rise):
            return _exact_lipschitz(self)
        level = self.cost / self.mass
        if self.decreasing:
            level = isotonic_regression(level, weights=self.mass, increasing=False).x
        root = np.sqrt(level)
        mu = 1 / float(self.mass @ root)
        if self.lower > 0:
            mu = _root(lambda mu: float(self.mass @ np.clip(mu * root, self.lower, self.upper)) - 1, 1e-9, 1e9)
            # Which cells are free is now known, and the multiplier follows from a linear equation.
            weight = np.clip(mu * root, self.lower, self.upper)
            free = weight == mu * root
            mu = (1 - float(self.mass[~free] @ weight[~free])) / float(self.mass[free] @ root[free])
        return self.proved(np.clip(mu * root, self.lower, self.upper), mu**-2)

    def proved(self, weight: Array, price: float, run: int = 0) -> Exact:
        """The time of feasible weights, and what duality leaves open; a rise binds in the first `run` differences.

        For any λ ≥ 0 and any ζ on the differences, ζ ≥ 0 where w must decrease:
        Σ cost/w ≥ Σ_i min over v of (cost_i/v + pull_i v) - λ - rise Σ|ζ|, pull_i = λ mass_i + ζ_{i-1} - ζ_i > 0.
        Without bounds on v the best multiple of λ and ζ is known.
        """
        change, spent = np.cumsum(price * self.mass - self.cost / weight**2)[:-1], price
        if self.decreasing:
            change = np.maximum(change, 0)
        else:
            change[run:] = 0
            spent += self.rise * float(np.sum(np.abs(change))) if run else 0.0
        pull = price * self.mass
        pull[1:] += change
        pull[:-1] -= change
        if self.lower > 0:
            best = np.clip(np.sqrt(self.cost / pull), self.lower, self.upper)
            bound = float(np.sum(self.cost / best + pull * best)) - spent
        else:
            bound = float(np.sum(np.sqrt(self.cost * pull))) ** 2 / spent
        time = self.time(weight)
        gap = abs(time / bound - 1) if np.all(pull > 0) else math.inf
        return Exact(time, max(float(gap), self.error(weight, Exact(time, 0.0)), 1e-15))


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return float(brentq(function, low, high, xtol=1e-300, rtol=1e-15))  # pyright: ignore[reportArgumentType]


def _exact_lipschitz(cells: Cells) -> Exact:
    """The best weights of which cells 0..k fall as fast as they may and the others are free."""
    cost, mass, root, rise = cells.cost, cells.mass, cells.root, cells.rise
    below, after = np.cumsum(mass), np.append(np.cumsum((mass * root)[::-1])[::-1][1:], 0.0)

    def price(k: int, last: float) -> float:  # of the budget, from stationarity of the line that ends at `last`
        return float(np.sum(cost[: k + 1] / (last + rise * np.arange(k, -1, -1.0)) ** 2)) / below[k]

    def line(k: int) -> float:  # where the line ends, from the budget; nan if it alone spends more
        def excess(last: float) -> float:
            spent = float(mass[: k + 1] @ (last + rise * np.arange(k, -1, -1.0)))
            return spent + after[k] / math.sqrt(price(k, last)) - 1

        return _root(excess, 1e-9, 1e3) if excess(1e-9) < 0 else math.nan

    left, right = 0, mass.size - 2
    while left < right:  # the shortest line that the next cell can follow
        k = (left + right) // 2
        last = line(k)
        follows = not last - root[k + 1] / math.sqrt(price(k, last)) > rise
        left, right = (left, k) if follows else (k + 1, right)
    last = line(left)
    level = price(left, last)
    weight = root / math.sqrt(level)
    weight[: left + 1] = last + rise * np.arange(left, -1, -1.0)
    return cells.proved(weight, level, left)


def cells_of(problem: str, size: int) -> Cells:
    theta = np.linspace(logit(START), logit(TARGET), size + 1)
    rho = expit(theta)
    mass, odds = np.diff(rho), np.diff(theta)
    effective = odds - np.diff(1 / rho)  # ∫ 1/(ρ²(1-ρ)) dρ = logit ρ - 1/ρ
    if problem == "box":
        return Cells(effective, mass, lower=0.75, upper=3.0)
    if problem == "monotone":
        return Cells(odds, mass, decreasing=True)
    if problem == "lipschitz":
        return Cells(effective, mass, rise=1.75 * odds[0])
    return Cells(effective, mass)


@dataclasses.dataclass(frozen=True)
class Group:
    """Minimise T = Σ share/u under Σ share·u = 1 over convex tables w ≥ 0, u = speeds @ w in units of the curve's."""

    share: Array
    speeds: Array
    unit: float
    scale: float

    @classmethod
    def of(cls, points: int = POINTS, speeds: Callable[[Array], Array] | None = None) -> Group:
        nodes, weights = np.polynomial.legendre.leggauss(16)
        panels, start = points // 16, logit(START)
        width = (logit(TARGET) - start) / panels
        rho = expit(start + width * (np.arange(panels)[:, None] + (nodes + 1) / 2)).ravel()
        root = 1 / (rho * np.sqrt(1 - rho))
        measure = np.tile(weights * width / 2, panels) * rho * (1 - rho)
        total = float(measure @ root)
        table = weight_speeds(rho, GROUP_SIZE, "ratio") if speeds is None else speeds(rho)
        return cls(measure * root / total, table / root[:, None], 1 / total, total**2)

    @staticmethod
    def exact() -> Exact:
        group = Group.fine()
        table, _ = _minimise_hinges(group, math.inf, ftol=1e-16, gtol=1e-12)
        found = group.time(table)
        return Exact(found, max(abs(found / group.bound(table) - 1), 1e-15))

    @staticmethod
    def fine() -> Group:
        """On 800 points, speeds from the definition of the step."""
        k = np.arange(1, GROUP_SIZE)
        spread = k / GROUP_SIZE * (1 - k / GROUP_SIZE)
        return Group.of(800, lambda rho: binom.pmf(k, GROUP_SIZE, rho[:, None]) * spread / (rho * (1 - rho))[:, None])

    def time(self, weight: Array) -> float:
        """T at the budget: T and budget have degrees -1 and 1."""
        u = self.speeds @ (weight / self.unit)
        return float(np.sum(self.share / u) * (self.share @ u)) * self.scale

    def bound(self, weight: Array) -> float:
        """Least time of any convex table, proved from one."""
        u = self.speeds @ (weight / self.unit)
        speeds = self.speeds @ self.hinges()
        worst = np.max(((self.share / u**2) @ speeds) / (self.share @ speeds))
        return float(np.sum(self.share / u)) ** 2 / float(worst) * self.scale  # T(y') V(y') ≥ T(y)²/max of -T'/V'

    def hinges(self) -> Array:
        """Columns of which the convex tables are the sums with factors ≥ 0, each with budget 1."""
        k = np.arange(GROUP_SIZE - 1)
        rays = np.hstack([np.maximum(k[1:] - k[:, None], 0), np.maximum(k[:, None] - k[:-1], 0)])
        return rays / (self.share @ self.speeds @ rays)

    def error(self, weight: Array, exact: Exact) -> float:
        """As for cells, with the shape for a constraint, on other points than anybody solved on."""
        if not np.all(np.isfinite(weight)) or np.max(weight) <= 0:
            return math.inf
        fine = Group.fine()
        bent = max(0.0, -float(np.min(np.diff(weight, 2))), -float(np.min(weight))) / float(np.mean(weight))
        spent = float(fine.share @ fine.speeds @ weight) / fine.unit
        return max(abs(fine.time(weight) / exact.time - 1), abs(spent - 1), bent)


# Solvers: cells (or group) and a limit in seconds → answer


class Answer(NamedTuple):
    weight: Array
    gap: float | None = None
    stopped: bool = False


def _ours(cells: Cells, _: float) -> Answer:
    monotone = "decreasing" if cells.decreasing else None
    solution = solve_cells(
        CellProgram(cells.cost, cells.mass, 1.0, cells.lower, cells.upper, monotone=monotone, rise=cells.rise)
    )
    return Answer(solution.weight, solution.gap)


def _cvxpy(cells: Cells, limit: float) -> Answer:
    unit, share = cells.scaled()
    n = unit.size
    z = cp.Variable(n)
    constraints: list[Any] = [share @ z == n]
    if cells.lower > 0:
        constraints += [z >= cells.lower / unit, z <= cells.upper / unit]
    if cells.decreasing:
        # Small violations add up along the row: rows times √n keep them below the tolerance, and are the fastest.
        constraints += [math.sqrt(n) * z[:-1] - cp.multiply(math.sqrt(n) * unit[1:] / unit[:-1], z[1:]) >= 0]
    if math.isfinite(cells.rise):
        change = cp.multiply(unit[1:] / cells.rise, z[1:]) - cp.multiply(unit[:-1] / cells.rise, z[:-1])
        constraints += [change <= 1, change >= -1]
    return Answer(*_clarabel(cp.Minimize(share @ cp.inv_pos(z)), constraints, z, unit, limit))


def _clarabel(
    objective: Any, constraints: list[Any], z: cp.Variable, unit: Array | float, limit: float
) -> tuple[Array, None, bool]:
    program = cp.Problem(objective, constraints)
    tolerances = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), TOLERANCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "may be inaccurate": the error will tell
        program.solve(solver=cp.CLARABEL, max_iter=500, time_limit=limit, **tolerances)
    if z.value is None:
        raise RuntimeError(f"ended with status {program.status}")
    return z.value * unit, None, program.status == cp.USER_LIMIT


IPOPT = {
    "print_time": False,
    "ipopt.print_level": 0,
    "ipopt.sb": "yes",
    "ipopt.tol": TOLERANCE,
    "ipopt.jac_c_constant": "yes",
    "ipopt.jac_d_constant": "yes",
    "ipopt.nlp_scaling_method": "none",
    "ipopt.mehrotra_algorithm": "yes",
    "ipopt.bound_relax_factor": 0.0,
    "ipopt.mumps_permuting_scaling": 0,
    "ipopt.mumps_scaling": 0,
    "ipopt.mumps_pivot_order": 2,
}


def _ipopt(cells: Cells, limit: float) -> Answer:
    unit, share = cells.scaled()
    n = unit.size
    z = ca.MX.sym("z", n)
    rows, low, high = [ca.dot(ca.DM(share), z)], [np.array([n])], [np.array([n])]
    if cells.decreasing:
        rows.append(z[:-1] - ca.DM(unit[1:] / unit[:-1]) * z[1:])
        low.append(np.zeros(n - 1))
        high.append(np.full(n - 1, math.inf))
    if math.isfinite(cells.rise):
        rows.append(ca.DM(unit[1:] / cells.rise) * z[1:] - ca.DM(unit[:-1] / cells.rise) * z[:-1])
        low.append(-np.ones(n - 1))
        high.append(np.ones(n - 1))
    factor = ca.MX.sym("factor")
    return _nlp(
        z,
        ca.dot(ca.DM(share), 1 / z),
        ca.vertcat(*rows),
        (factor, ca.diag(2 * factor * ca.DM(share) / z**3)),
        {
            "x0": cells.mean / unit,
            "lbx": cells.lower / unit,
            "ubx": cells.upper / unit,
            "lbg": np.concatenate(low),
            "ubg": np.concatenate(high),
        },
        unit,
        limit,
    )


def _nlp(
    z: Any, time: Any, rows: Any, hessian: tuple[Any, Any], start: dict[str, Any], unit: Array | float, limit: float
) -> Answer:
    factor, curvature = hessian  # of the objective: the constraints are linear
    arguments = [z, ca.MX.sym("p", 0), factor, ca.MX.sym("multipliers", rows.shape[0])]
    given = {"hess_lag": ca.Function("hessian", arguments, [ca.triu(curvature)])}
    options = {**IPOPT, "ipopt.max_wall_time": limit, **given}
    solver = ca.nlpsol("solver", "ipopt", {"x": z, "f": time, "g": rows}, options)
    found = solver(**start)
    status = solver.stats()["return_status"]
    if status not in ("Solve_Succeeded", "Solved_To_Acceptable_Level", "Maximum_WallTime_Exceeded"):
        raise RuntimeError(f"ended with {status}")
    return Answer(np.asarray(found["x"]).ravel() * unit, None, status == "Maximum_WallTime_Exceeded")


def _lbfgsb(cells: Cells, limit: float) -> Answer:
    cost, mass = cells.cost, cells.mass
    n = cost.size
    if cells.decreasing:
        # w_i = Σ_{j ≥ i} q_j/below_j: q_j is what the drop after cell j spends. In units in which q is of order one.
        below = np.cumsum(mass)
        scale = n / float(np.sum(cost) * below[-1])

        def weigh(q: Array) -> Array:
            return np.cumsum((q / below)[::-1])[::-1] / n

        def cone(q: Array) -> tuple[float, Array]:
            w = weigh(q)
            share = scale * cost / w
            return float(np.sum(share) + np.sum(q)), 1 - np.cumsum(share / w) / below / n

        q, stopped = _scipy("L-BFGS-B", cone, np.ones(n), limit, bounds=Bounds(0, np.inf), ftol=1e-13, gtol=1e-8)
        weight = weigh(q)
        return Answer(weight / float(mass @ weight), None, stopped)
    product = cost * mass
    product = product / float(np.sum(product))

    def softmax(u: Array) -> tuple[float, Array]:
        e = np.exp(u)
        total = e.sum()
        inverse = product / e * (total / n)
        time = inverse.sum()
        return time, e * (time / total) - inverse

    u, stopped = _scipy("L-BFGS-B", softmax, np.zeros(n), limit, ftol=TOLERANCE, gtol=1e-8)
    e = np.exp(u)
    return Answer(e / (e.sum() * mass), None, stopped)


def _slsqp(cells: Cells, limit: float) -> Answer:
    unit, share = cells.scaled()
    n = unit.size
    rows: list[Any] = [{"type": "eq", "fun": lambda z: share @ z - n, "jac": lambda _: share}]
    change = np.diff(np.diag(unit), axis=0)
    if cells.decreasing:
        down = -change / unit[:-1, None]
        rows.append({"type": "ineq", "fun": lambda z: down @ z, "jac": lambda _: down})
    if math.isfinite(cells.rise):
        both = np.vstack([change, -change]) / cells.rise
        rows.append({"type": "ineq", "fun": lambda z: 1 - both @ z, "jac": lambda _: -both})
    least = np.maximum(cells.lower / unit, 1e-2)  # it steps across 0 otherwise
    bounds = Bounds(least, cells.upper / unit)  # pyright: ignore[reportArgumentType]
    z, stopped = _scipy(
        "SLSQP",
        lambda z: (share @ (1 / z), -share / z**2),
        cells.mean / unit,
        limit,
        bounds=bounds,
        constraints=rows,
        ftol=TOLERANCE,
    )
    return Answer(z * unit, None, stopped)


def _scipy(
    method: str, function: Callable[[Array], tuple[Any, Array]], start: Array, limit: float, **settings: Any
) -> tuple[Array, bool]:
    """Minimise a function that returns its gradient too; the point, and whether time ran out."""
    end = time.perf_counter() + limit
    problem = {name: settings.pop(name) for name in ("bounds", "constraints") if name in settings}
    options = {"maxiter": 10**7, **({"maxfun": 10**7} if method == "L-BFGS-B" else {}), **settings}

    def watch(_: Array) -> None:
        if time.perf_counter() > end:
            raise StopIteration

    result = minimize(function, start, jac=True, method=method, callback=watch, options=options, **problem)
    if not (result.success or time.perf_counter() > end):
        raise RuntimeError(f"ended with {result.message!r}")
    return result.x, time.perf_counter() > end


def _group_ours(_: Group, __: float) -> Answer:
    solution = solve_group(GroupProblem(Problem(START, TARGET, "effective"), GROUP_SIZE))
    return Answer(np.array(solution.weight), solution.gap)


def _group_cvxpy(_: Group, limit: float) -> Answer:
    group = Group.of()
    w, u = cp.Variable(GROUP_SIZE - 1, nonneg=True), cp.Variable(group.share.size)
    constraints: list[Any] = [u == group.speeds @ w, group.share @ u == 1, cp.diff(w, 2) >= 0]
    return Answer(*_clarabel(cp.Minimize(group.share @ cp.inv_pos(u)), constraints, w, group.unit, limit))


def _group_ipopt(_: Group, limit: float) -> Answer:
    group = Group.of()
    n = GROUP_SIZE - 1
    w, speeds, factor = ca.MX.sym("w", n), ca.DM(group.speeds), ca.MX.sym("factor")
    u = speeds @ w
    spent = group.share @ group.speeds
    return _nlp(
        w,
        ca.dot(ca.DM(group.share), 1 / u),
        ca.DM(np.vstack([spent, np.diff(np.eye(n), 2, axis=0)])) @ w,
        (factor, speeds.T @ (ca.repmat(2 * factor * ca.DM(group.share) / u**3, 1, n) * speeds)),
        {
            "x0": np.full(n, 1 / spent.sum()),
            "lbx": 0.0,
            "lbg": np.append(1.0, np.zeros(n - 2)),
            "ubg": np.append(1.0, np.full(n - 2, math.inf)),
        },
        group.unit,
        limit,
    )


def _group_lbfgsb(_: Group, limit: float) -> Answer:
    table, stopped = _minimise_hinges(Group.of(), limit, ftol=1e-13, gtol=1e-8)
    return Answer(table, None, stopped)


def _minimise_hinges(group: Group, limit: float, **settings: float) -> tuple[Array, bool]:
    hinges = group.hinges()
    speeds, count = group.speeds @ hinges, hinges.shape[1]

    def cone(v: Array) -> tuple[float, Array]:
        slowness = 1 / (speeds @ v)
        return float(group.share @ slowness + np.sum(v)), 1 - (group.share * slowness**2) @ speeds

    v, stopped = _scipy("L-BFGS-B", cone, np.full(count, 1 / count), limit, bounds=Bounds(0, np.inf), **settings)
    return hinges @ v * (group.unit / np.sum(v)), stopped


def _group_slsqp(_: Group, limit: float) -> Answer:
    group = Group.of()
    spent, bend = group.share @ group.speeds, np.diff(np.eye(GROUP_SIZE - 1), 2, axis=0)

    def function(w: Array) -> tuple[float, Array]:
        u = group.speeds @ w
        return float(np.sum(group.share / u)), -(group.share / u**2) @ group.speeds

    rows = [
        {"type": "eq", "fun": lambda w: spent @ w - 1, "jac": lambda _: spent},
        {"type": "ineq", "fun": lambda w: bend @ w, "jac": lambda _: bend},
    ]
    start = np.full(spent.size, 1 / spent.sum())
    w, stopped = _scipy("SLSQP", function, start, limit, bounds=Bounds(0, np.inf), constraints=rows, ftol=TOLERANCE)
    return Answer(w * group.unit, None, stopped)


Solver = Callable[[Any, float], Answer]
OF_CELLS: dict[str, Solver] = {OURS: _ours, "cvxpy": _cvxpy, "ipopt": _ipopt, "lbfgsb": _lbfgsb, "slsqp": _slsqp}
OF_GROUPS: dict[str, Solver] = {
    OURS: _group_ours,
    "cvxpy": _group_cvxpy,
    "ipopt": _group_ipopt,
    "lbfgsb": _group_lbfgsb,
    "slsqp": _group_slsqp,
}
LABELS = {
    OURS: OURS,
    "cvxpy": "cvxpy + Clarabel",
    "ipopt": "CasADi + IPOPT",
    "lbfgsb": "scipy L-BFGS-B",
    "slsqp": "scipy SLSQP",
}
# How many times as fast as the fastest peer (None) or the one that is named.
AIMS = {
    "basic": (20, None),
    "box": (150, None),
    "monotone": (300, None),
    "lipschitz": (5, None),
    "group": (10, "cvxpy"),
}
# Command lines and the seconds in which they should end; 125 starts × 4 clocks × 20 pairs of bounds are 10 000 solves.
SWEEP = ["sweep", "--start=0.001:0.5:125", "--target=0.9", "--min-weight=0,0.5", "--max-weight=3:60:10", "--workers=2"]
SWEEP += [f"--clock={clock}" for clock in ("regular", "effective", "failures", "mixed:16")]
COMMANDS = {"help": (["--help"], 0.4), "sweep": (SWEEP, 20.0)}


def absent(problem: str, size: int, name: str) -> str:
    """Why a solver does not take part; empty if it does."""
    if name == "ipopt" and ca is None:
        return "not installed"
    if name == "lbfgsb" and problem in ("box", "lipschitz"):
        return "n/a: bounds have no natural form"
    return "n/a: dense" if name == "slsqp" and size > 200 else ""


# Measuring


@dataclasses.dataclass
class Row:
    """What one solver did on one problem; a note says why it did not take part, or not to the end."""

    solver: str
    note: str
    seconds: list[float] = dataclasses.field(default_factory=list)
    error: float = 0.0
    gap: float | None = None

    @property
    def counts(self) -> bool:
        return bool(self.seconds) and not self.note and self.error <= ACCURATE

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def turn(solve: Solver, problem: Any, limit: float) -> tuple[float, Answer]:
    """Median seconds of the solves that fit into a turn, at least one."""
    gc.collect()
    seconds: list[float] = []
    while True:
        begin = time.perf_counter()
        answer = solve(problem, limit)
        seconds.append(time.perf_counter() - begin)
        if sum(seconds) >= TURN:
            return statistics.median(seconds), answer


def measure(problem: str, size: int, names: list[str], repeats: int, limit: float) -> tuple[list[Row], Exact]:
    """Let the solvers take turns; one that fails or runs out of time takes no further turn."""
    solvers = OF_GROUPS if problem == "group" else OF_CELLS
    small, full = (Group.of(), Group.of()) if problem == "group" else (cells_of(problem, 50), cells_of(problem, size))
    exact = full.exact()
    rows = [Row(name, absent(problem, size, name)) for name in names]
    for round_ in range(-1, repeats):
        for row in rows:
            if row.note:
                continue
            try:
                seconds, answer = turn(solvers[row.solver], small if round_ < 0 else full, limit)
            except Exception as failure:  # whatever a library raises is its result here
                row.note = f"failed: {str(failure)[:60]}".splitlines()[0]
                continue
            if round_ < 0:  # to warm up
                continue
            row.seconds.append(seconds)
            row.error = max(row.error, full.error(answer.weight, exact))
            row.gap = answer.gap
            row.note = f"stopped after {limit:g} s" if answer.stopped else ""
    return rows, exact


def judge(problem: str, size: int, rows: list[Row]) -> dict[str, Any]:
    """The ratio to the fastest peer, and whether the aim is reached; rows[0] is ours."""
    ours, *peers = rows
    aim, against = AIMS[problem]
    rivals = [peer for peer in peers if peer.counts and against in (None, peer.solver)]
    sound = ours.counts and ours.gap is not None and ours.gap <= CERTIFIED and ours.error <= CERTIFIED
    ratio = math.nan
    if rivals and ours.counts:
        rounds = zip(ours.seconds, *(rival.seconds for rival in rivals), strict=True)
        ratio = statistics.median(min(theirs) / own for own, *theirs in rounds)
    judged = math.isfinite(ratio) and (problem == "group" or size == AIM_SIZE)
    return {
        "problem": problem,
        "size": size,
        "fastest": min(rivals, key=lambda row: row.median).solver if rivals else None,
        "ratio": ratio if math.isfinite(ratio) else None,
        "sound": sound,
        "aim": aim if judged else None,
        "reached": ratio >= aim and sound if judged else None,
    }


def time_command(name: str, repeats: int) -> dict[str, Any]:
    """Wall time of a command line as a user would run it; what it writes must all be certified."""
    arguments, aim = COMMANDS[name]
    environment = {key: value for key, value in os.environ.items() if key not in THREADS}
    seconds, sound = [], True
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(repeats if name == "help" else 1):
            file = Path(folder) / f"{round_}.csv"
            output = [] if name == "help" else ["--output", str(file)]
            begin = time.perf_counter()
            command = [sys.executable, "-m", "weightopt", *arguments, *output]
            subprocess.run(command, check=True, capture_output=True, env=environment)
            seconds.append(time.perf_counter() - begin)
            if output:
                rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
                sound = len(rows) == 10_000 and all(float(row["gap"] or "inf") <= CERTIFIED for row in rows)
    reached = sound and statistics.median(seconds) < aim
    return {"problem": name, "seconds": seconds, "sound": sound, "aim": aim, "reached": reached}


# Reporting


def machine() -> dict[str, str]:
    """Where and with what this runs."""
    model, info = platform.processor(), Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    about = {"CPU": model, "cores": str(os.cpu_count()), "load": f"{os.getloadavg()[0]:.1f}"}
    about |= {"BLAS threads": os.environ.get(THREADS[0], "default"), "python": platform.python_version()}
    for package in ("weightopt", "numpy", "scipy", "cvxpy", "clarabel", "casadi"):
        try:
            about[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            about[package] = "not installed"
    return about


def duration(seconds: float) -> str:
    """Three digits in a fitting unit."""
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 999.5:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def table(rows: list[Row]) -> str:
    """One line for each solver; rows[0] is ours."""
    lines = [f"  {'':<18}{'median':>9}   {'min to max':<21}{'times ours':>11}   {'error':<8}{'gap':<8}".rstrip()]
    for row in rows:
        line = f"  {LABELS[row.solver]:<18}"
        if row.seconds:
            span = f"{duration(min(row.seconds))} to {duration(max(row.seconds))}"
            each = [theirs / own for theirs, own in zip(row.seconds, rows[0].seconds, strict=False)]
            ratio = f"{statistics.median(each):.3g}" if each and row is not rows[0] else ""
            gap = "" if row.gap is None else f"{row.gap:.0e}"
            line += f"{duration(row.median):>9}   {span:<21}{ratio:>11}   {row.error:<8.0e}{gap:<8}"
        counted = not row.seconds or row.note or row.counts
        lines.append((line + (row.note if counted else f"does not count, error above {ACCURATE:g}")).rstrip())
    return "\n".join(lines)


def sentence(found: dict[str, Any]) -> str:
    """What `judge` found, in words."""
    text = "no peer to compare with"
    if found["ratio"] is not None:
        against = AIMS[found["problem"]][1]
        text = f"{found['ratio']:.3g} times as fast as {LABELS[found['fastest']]}"
        text += "" if against else ", the fastest peer"
    if found["aim"] is not None:
        text += f", aim {found['aim']}: {'reached' if found['reached'] else 'MISSED'}"
    return text + ("" if found["sound"] else f"; NOT certified to {CERTIFIED:g}")


CAPTION = f"""
Ratios are formed within each round; their median is shown. A peer whose error (of time, budget or a constraint) exceeds
{ACCURATE:g}, that failed or that ran out of time is shown but cannot be the fastest. gap: certified, relative.
Aims: N = {AIM_SIZE} against the fastest peer, group against cvxpy; gap and error must be at most {CERTIFIED:g}."""


def main(arguments: list[str] | None = None) -> int:
    """Run and print; 1 where an aim is missed, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    problems, peers = [*AIMS, *COMMANDS], [name for name in LABELS if name != OURS]
    parser.add_argument("--sizes", type=int, nargs="+", default=[200, 2000, 20000], help="numbers of cells")
    parser.add_argument("--problems", nargs="+", choices=problems, default=problems)
    parser.add_argument("--repeats", type=int, default=7, help="rounds")
    parser.add_argument("--only", nargs="+", choices=peers, default=peers, help="peers")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds that one solve of a peer may take")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    options = parser.parse_args(arguments)
    if min(options.sizes) < 10 or options.repeats < 1 or not options.limit > 0:
        parser.error("--sizes must be at least 10, --repeats at least 1, --limit positive")

    about = machine()
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    if ca is None and "ipopt" in options.only:
        print("CasADi is not installed, IPOPT is left out: make .venv/.bench")
    results: list[dict[str, Any]] = []
    for problem in options.problems:
        if problem in COMMANDS:
            found = time_command(problem, options.repeats)
            word = "reached" if found["reached"] else "MISSED"
            text = "weightopt --help" if problem == "help" else "weightopt sweep, 10 000 solves, 2 workers"
            print(
                f"\n{text}: {duration(statistics.median(found['seconds']))}, aim {found['aim']} s: {word}", flush=True
            )
            results.append(found)
            continue
        for size in [GROUP_SIZE] if problem == "group" else options.sizes:
            rows, exact = measure(problem, size, [OURS, *options.only], options.repeats, options.limit)
            found = judge(problem, size, rows)
            where = f"M = {size}" if problem == "group" else f"N = {size}"
            print(f"\n{problem}, {where}: exact time {exact.time:.12g}, known to {exact.uncertainty:.0e}")
            print(f"{table(rows)}\n  {sentence(found)}", flush=True)
            results.append({**found, "exact": exact._asdict(), "rows": [dataclasses.asdict(row) for row in rows]})
    judged = [found for found in results if found["reached"] is not None]
    missed = [found["problem"] for found in judged if not found["reached"]]
    text = f"; missed: {', '.join(missed)}" if missed else ""
    print(f"{CAPTION}\naims reached: {len(judged) - len(missed)} of {len(judged)}{text}")
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "results": results}, indent=1, default=float) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    if THREADS[0] not in os.environ:  # read when numpy is loaded, so start again
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **dict.fromkeys(THREADS, "1")})
    sys.exit(main())
