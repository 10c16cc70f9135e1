"""Integrals over success probability: composite Gauss-Legendre in log-odds.

Every integrand of this project is smooth in log-odds θ = ln(ρ/(1-ρ)) up to kinks at known places, with its nearest
complex singularity at least π/2 away; panels of width at most 1 with 16 nodes are then exact to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.special import expit

Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]

NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(16)
PANEL_WIDTH = 1.0


class Panels(NamedTuple):
    """Quadrature points between two success probabilities.

    ``rho`` and ``weight`` have shape (panels, 16): Σ weight·g(rho) over a row is the integral of g dρ over that panel;
    ``edges``, shape (panels + 1,), are the success probabilities between which the panels lie.
    """

    edges: NDArray[np.float64]
    rho: NDArray[np.float64]
    weight: NDArray[np.float64]


def log_odds(rho: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """θ = ln(ρ/(1-ρ)), accurate for ρ near 0 (any shape, ρ in (0, 1))."""
    return np.log(rho) - np.log1p(-np.asarray(rho))


def log_odds_distance(start: float, target: float) -> float:
    """θ(target) - θ(start) without cancellation, however close the two are."""
    return float(np.log1p((target - start) / (start * (1 - target))))


def panels(start: float, target: float, breaks: Iterable[float] = (), width: float = PANEL_WIDTH) -> Panels:
    """Gauss-Legendre panels from `start` to `target`, none wider than `width` in log-odds.

    Parameters
    ----------
    start, target : float
        0 < start ≤ target < 1.
    breaks : iterable of float
        Success probabilities where an integrand has a kink; those inside become panel edges.
    width : float
        Largest panel width in log-odds, > 0.
    """
    ends = np.array([start, *sorted({float(b) for b in breaks if start < b < target}), target])
    left, right = ends[:-1], ends[1:]
    distance = np.log1p((right - left) / (left * (1 - right)))
    count = np.maximum(1, np.ceil(distance / width)).astype(int)
    first = np.concatenate([[0], np.cumsum(count)])
    inside = np.arange(int(first[-1])) - np.repeat(first[:-1], count)  # the panel's place within its interval
    step, base = np.repeat(distance / count, count), np.repeat(log_odds(left), count)
    # Offsets from the left end: a short interval keeps its full relative accuracy.
    rho = expit(base[:, None] + (inside[:, None] + (NODES + 1) / 2) * step[:, None])
    edges = np.append(expit(base + inside * step), target)
    edges[first] = ends
    # dρ = ρ(1-ρ) dθ with the rounded ρ, so that 1/(ρ(1-ρ)) in an integrand cancels exactly near ρ = 1.
    return Panels(edges, rho, NODE_WEIGHTS * (step[:, None] / 2) * rho * (1 - rho))


def integrate(function: Function, start: float, target: float, breaks: Iterable[float] = ()) -> float:
    """∫ function(ρ) dρ from `start` to `target` (0 < start ≤ target < 1), split at `breaks`."""
    points = panels(start, target, breaks)
    return float(np.sum(points.weight * function(points.rho)))
