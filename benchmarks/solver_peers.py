"""Ours and its peers on the problems of `benchmarks.solver`: cells (or a group) and a limit in seconds → an answer."""

from __future__ import annotations

import importlib
import importlib.util
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import cvxpy as cp
import numpy as np
from scipy.optimize import Bounds

from benchmarks.solver_problems import GROUP_SIZE, START, TARGET, Array, Cells, Group, best_table, minimised
from weightopt import GroupProblem, Problem, solve
from weightopt.curves.cell_program import CellProgram, solve_cells

ca: Any = importlib.import_module("casadi") if importlib.util.find_spec("casadi") else None

OURS = "weightopt"
TOLERANCE = 1e-10  # asked of every peer


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

        q, stopped = minimised("L-BFGS-B", cone, np.ones(n), limit, bounds=Bounds(0, np.inf), ftol=1e-13, gtol=1e-8)
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

    u, stopped = minimised("L-BFGS-B", softmax, np.zeros(n), limit, ftol=TOLERANCE, gtol=1e-8)
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
    z, stopped = minimised(
        "SLSQP",
        lambda z: (share @ (1 / z), -share / z**2),
        cells.mean / unit,
        limit,
        bounds=bounds,
        constraints=rows,
        ftol=TOLERANCE,
    )
    return Answer(z * unit, None, stopped)


def _group_ours(_: Group, __: float) -> Answer:
    solution = solve(GroupProblem(Problem(START, TARGET, "effective"), GROUP_SIZE, budget_kind="drift"))
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
    table, stopped = best_table(Group.of(), limit, ftol=1e-13, gtol=1e-8)
    return Answer(table, None, stopped)


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
    w, stopped = minimised("SLSQP", function, start, limit, bounds=Bounds(0, np.inf), constraints=rows, ftol=TOLERANCE)
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


def absent(problem: str, size: int, name: str) -> str:
    """Why a solver does not take part; empty if it does."""
    if name == "ipopt" and ca is None:
        return "not installed"
    if name == "lbfgsb" and problem in ("box", "lipschitz"):
        return "n/a: bounds have no natural form"
    return "n/a: dense" if name == "slsqp" and size > 200 else ""
