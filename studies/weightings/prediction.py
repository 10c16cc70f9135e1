"""What theory predicts for a setting, from how success is spread over prompts when training starts.

The population is the Beta distribution fitted to the measured starts. The log-odds θ of a prompt follow
dθ/dt = s u(ρ), u the expected speed of the table in groups of M (`theory.finite_group.speed`) and s the one number by
which all weights of a table are scaled at a time: such that the mean squared advantage is 1, or the mean of ρ(1-ρ)u².
An update draws as many responses for every table, so time is responses up to a factor that ratios do not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.special import expit, logit

from theory.beta_rates import beta_midpoints
from theory.finite_group import second_moment, speed
from weightopt.populations.pass_rates import fit_beta
from weightopt.table import WeightTable

Array = NDArray[np.float64]
PROMPTS = 400
LONGEST = 1e5  # in units of the clock; a level that is not reached by then never is


def _advantages_of(table: WeightTable) -> tuple[Sequence[float], Sequence[float]]:
    if table.advantage_correct is None or table.advantage_wrong is None:
        raise ValueError(f"table {table.name!r} is a curve, not one for groups")
    return table.advantage_correct, table.advantage_wrong


def _advantages(rho: Array, _: Array, table: WeightTable) -> float:
    return float(second_moment(rho, *_advantages_of(table)).mean())


def _divergence(rho: Array, velocity: Array, _: WeightTable) -> float:
    return float(np.mean(rho * (1 - rho) * velocity**2))


SCALINGS: Mapping[str, Callable[[Array, Array, WeightTable], float]] = {
    "advantage": _advantages,
    "kl": _divergence,
}


def population(histogram: Array) -> Array:
    """Success probabilities of `PROMPTS` prompts, rising, from a histogram of right responses, shape (samples+1,)."""
    a, b = fit_beta(histogram)
    return np.clip(beta_midpoints(a, b, PROMPTS), 1e-12, 1 - 1e-12)


def time_to_levels(rho: Array, table: WeightTable, levels: Sequence[float], scaling: str) -> list[float]:
    """Time until the mean success of the population reaches each level; NaN if it never does.

    Parameters
    ----------
    rho : ndarray, shape (n,)
        Success probabilities at the start.
    table : WeightTable
        For groups.
    levels : sequence of float
    scaling : {"advantage", "kl"}
    """
    size = SCALINGS[scaling]

    def slope(_: float, theta: Array) -> Array:
        now = expit(theta)
        velocity = speed(now, *_advantages_of(table), "ratio")
        return velocity / np.sqrt(size(now, velocity, table))

    def passing(level: float) -> Callable[[float, Array], float]:
        def event(_: float, theta: Array) -> float:
            return float(expit(theta).mean()) - level

        return event

    events = [passing(level) for level in levels]
    events[int(np.argmax(levels))].terminal = True  # type: ignore[attr-defined]
    solution = solve_ivp(slope, (0, LONGEST), logit(rho), method="LSODA", events=events, rtol=1e-8, atol=1e-8)
    return [float(times[0]) if times.size else float("nan") for times in solution.t_events]
