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
SHARES = (NODES + 1) / 2  # of the way through a panel
PANEL_WIDTH = 1.0
EPS = float(np.finfo(np.float64).eps)
# A node is rounded to a float, which moves it in log-odds. Moves below this are charged, larger ones are undone.
MOVED = 3e-14
DEGREES = (15, 7, 3)  # of polynomials that a rule on moved nodes integrates exactly: the first that has such a rule
FLOATS = 8  # between the ends of a panel at least, when an interval is cut into several
TINY = float(np.finfo(np.float64).tiny)
EXACT = 1e-12  # error of a moment at which a rule counts as exact for it


class Panels(NamedTuple):
    """Quadrature points between two success probabilities.

    ``rho`` and ``weight`` have shape (panels, 16): Σ weight·g(rho) over a row is the integral of g dρ over that panel;
    ``edges``, shape (panels + 1,), are the success probabilities between which the panels lie.

    ``place``, shape (panels, 16), is where the floats in ``rho`` lie in their panel, from -1 to 1 in log-odds.
    ``degree``, shape (panels,), is that of the polynomials in log-odds which the rule is exact for, 31 for Gauss's own;
    the fewer floats there are between two edges the lower it is. ``moved`` is what is left of the error that the
    rounding of ``rho`` makes, relative to the integral.
    """

    edges: NDArray[np.float64]
    rho: NDArray[np.float64]
    weight: NDArray[np.float64]
    place: NDArray[np.float64]
    degree: NDArray[np.intp]
    moved: float


def log_odds(rho: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """θ = ln(ρ/(1-ρ)), accurate for ρ near 0 (any shape, ρ in (0, 1))."""
    return np.log(rho) - np.log1p(-np.asarray(rho))


def log_odds_distance(start: float, target: float) -> float:
    """θ(target) - θ(start) without cancellation, however close the two are."""
    return float(np.log1p((target - start) / (start * (1 - target))))


def panels(
    start: float,
    target: float,
    breaks: Iterable[float] = (),
    width: float = PANEL_WIDTH,
    pieces: int = 1,
    steepness: float = 1.0,
) -> Panels:
    """Gauss-Legendre panels from `start` to `target`, none wider than `width` in log-odds.

    Close to 1 floats are few: there the nodes are the nearest floats and the weights are those that belong to them, so
    that 1-ρ, which is exact for a float, keeps all of its digits.

    Parameters
    ----------
    start, target
        0 < start ≤ target < 1.
    breaks
        Success probabilities where an integrand has a kink; those inside become panel edges.
    width
        Largest panel width in log-odds, > 0.
    pieces
        Every panel is cut into this many, however narrow it is: 2 shows what the quadrature error was. Only where there
        are hardly any floats it is not.
    steepness
        Largest |d ln g/dθ| of the integrands g; it decides which rounding of nodes matters.
    """
    ends = np.array([start, *sorted({float(b) for b in breaks if start < b < target}), target])
    left, right = ends[:-1], ends[1:]
    room = right - left
    distance = np.log1p(room / (left * (1 - right)))
    count = pieces * np.maximum(1, np.ceil(distance / width))
    # Fewer floats than that do not carry a rule of their own.
    count = np.minimum(count, np.maximum(1, room // (FLOATS * np.spacing(right)))).astype(int)
    end = count.cumsum()
    first = end - count  # panel of each interval
    inside = np.arange(int(end[-1])) - first.repeat(count)  # the panel's place within its interval
    step, base = (distance / count).repeat(count), log_odds(left).repeat(count)
    # Offsets from the left end: a short interval keeps its full relative accuracy.
    rho = expit(base[:, None] + (inside[:, None] + SHARES) * step[:, None])
    edges = np.empty(step.size + 1)
    edges[:-1] = expit(base + inside * step)
    edges[first], edges[-1] = left, target
    rounding = EPS * (np.abs(base) + (1 / (1 - right)).repeat(count)) * max(1.0, steepness)
    most = float(rounding.max())
    degree = np.full(step.size, 2 * NODES.size - 1)
    if most <= MOVED:
        # dρ = ρ(1-ρ) dθ with the rounded ρ, so that 1/(ρ(1-ρ)) in an integrand cancels exactly.
        weight = NODE_WEIGHTS * (step / 2)[:, None] * rho
        weight *= 1 - rho
        return Panels(edges, rho, weight, NODES[None, :].repeat(step.size, axis=0), degree, most)
    bent = np.flatnonzero(rounding > MOVED)
    # A node on an edge would belong to the next panel, where the integrand may be another.
    lowest = np.repeat(np.minimum(np.nextafter(left, 1), np.nextafter(right, 0)), count)[bent]
    highest = np.repeat(np.nextafter(right, 0), count)[bent]
    at = rho[bent] = np.clip(rho[bent], lowest[:, None], highest[:, None])
    from_left = np.repeat(left, count)[bent, None]
    offset = np.log1p((at - from_left) / (from_left * (1 - at)))
    place = np.tile(NODES, (step.size, 1))
    place[bent] = 2 * (offset / np.maximum(step[bent, None], TINY) - inside[bent, None]) - 1
    rule = np.tile(NODE_WEIGHTS, (step.size, 1))
    rule[bent], degree[bent] = _rules(place[bent])
    edges[:-1] = np.clip(edges[:-1], np.repeat(left, count), np.repeat(np.nextafter(right, 0), count))
    rest = float(np.max(np.delete(rounding, bent), initial=EPS))
    return Panels(edges, rho, rule * (step[:, None] / 2) * rho * (1 - rho), place, degree, rest)


def _rules(place: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Positive weights on the nodes `place`, shape (panels, 16), near Gauss's, and the degrees they are exact for.

    Of all weights that integrate polynomials of a degree exactly those nearest to Gauss's; where nodes coincide only a
    lower degree has any, and 0 means Gauss's own weights.
    """
    weight, degree = np.tile(NODE_WEIGHTS, (len(place), 1)), np.zeros(len(place), dtype=np.intp)
    for highest in DEGREES:
        left = np.flatnonzero(degree == 0)
        if not left.size:
            break
        basis = np.polynomial.legendre.legvander(place[left], highest) * np.sqrt(np.arange(highest + 1) + 0.5)
        wanted = np.zeros(highest + 1)
        wanted[0] = np.sqrt(2)
        missing = wanted - np.einsum("pjk,j->pk", basis, NODE_WEIGHTS)
        gram = np.einsum("pjk,j,pjl->pkl", basis, NODE_WEIGHTS, basis)  # the identity but for what the nodes moved
        inverse = np.asarray(np.linalg.pinv(gram, hermitian=True), dtype=np.float64)  # pyright: ignore[reportUnknownMemberType]
        change = np.einsum("pjk,pkl,pl->pj", basis, inverse, missing)
        found = NODE_WEIGHTS * (1 + change)
        error = np.max(np.abs(np.einsum("pjk,pj->pk", basis, found) - wanted), axis=1)
        good = (error <= EXACT) & np.all(found > 0, axis=1)
        weight[left[good]], degree[left[good]] = found[good], highest
    return weight, degree


def integrate(function: Function, start: float, target: float, breaks: Iterable[float] = ()) -> float:
    """∫ function(ρ) dρ from `start` to `target` (0 < start ≤ target < 1), split at `breaks`."""
    points = panels(start, target, breaks)
    return float(np.sum(points.weight * function(points.rho)))
