"""A primal-dual interior-point method for weights in a row whose neighbours constrain each other.

Minimise φ(w) = Σ cost/u over positive w with u linear in w, subject to

    mass·w = 1,   low ≤ w[i+1] - w[i] ≤ high,   lower ≤ w ≤ upper,   max w ≤ ratio · min w.

Every constraint couples neighbours only, so a Newton step is one tridiagonal factorisation with a border of two (the
budget, and the smallest weight where there is a ratio): O(n). Predictor and corrector after Mehrotra 1992.

The prices it ends with are a hint to a certificate that needs no trust in them (`weightopt.curves.cell_program`,
`weightopt.curves.certificate`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

Array = NDArray[np.float64]
# Cholesky factor and solution of a symmetric tridiagonal system; scipy's stubs do not know these two of LAPACK.
_factor, _solve = lapack.dpttrf, lapack.dpttrs  # pyright: ignore[reportAttributeAccessIssue]
STEP_BACK = 0.995  # share of the way to the boundary that a step may go
ROOM = 0.3  # first slack of a constraint that the first weights do not meet, relative to its scale
ITERATIONS = 300
NEAR = 1e-5  # relative complementarity from where an answer is worth judging


class Terms(NamedTuple):
    """φ at w: value, gradient (n,), and the Hessian's diagonal (n,) and first off-diagonal (n-1,)."""

    value: float
    gradient: Array
    diagonal: Array
    beside: Array


class Limits(NamedTuple):
    """What w must satisfy besides the budget; in units in which the mean weight is 1.

    ``low`` and ``high``, shape (n-1,), bound the differences (None: no bound on that side, else finite); ``lower`` ≥ 0
    and ``upper`` ≤ ∞ bound the weights; ``ratio`` ≤ ∞ bounds the largest weight over the smallest.
    """

    low: Array | None
    high: Array | None
    lower: float = 0.0
    upper: float = math.inf
    ratio: float = math.inf


class Prices(NamedTuple):
    """Multipliers: λ of the budget, of the differences (n-1,), of both sides of the bounds and of the ratio (n,).

    None stands for zeros: constraints that are absent cost nothing, not even the time to add them up. Stationarity
    reads -∇φ = λ mass + (difference[i-1] - difference[i]) + box + ratio_high - ratio_low.
    """

    budget: float
    difference: Array | None = None
    box: Array | None = None
    ratio_low: Array | None = None
    ratio_high: Array | None = None

    def pull(self, mass: Array) -> Array:
        """What all but the bounds ask of each weight: λ mass + ζ[i-1] - ζ[i] + β - α; shape (n,)."""
        pull = self.budget * mass
        if self.difference is not None:
            pull += _to_ends(self.difference)
        if self.ratio_low is not None and self.ratio_high is not None:
            pull += self.ratio_high - self.ratio_low
        return pull

    def scaled(self, budget: float, others: float) -> Prices:
        """λ times `budget`, and all others times `others`."""
        rest = (None if price is None else price * others for price in self[1:])
        return Prices(self.budget * budget, *rest)


@np.errstate(all="ignore")  # an iterate that overflows is not judged
def interior_point(
    terms: Callable[[Array], Terms],
    mass: Array,
    limits: Limits,
    judge: Callable[[Array, Prices], bool],
) -> None:
    """Run the method from the constant weights 1 until `judge` is content with an iterate, or 300 steps are done.

    Parameters
    ----------
    terms
        Objective and derivatives at the weights, shape (n,).
    mass
        Shape (n,), positive, sum 1.
    limits
        The constant weight 1 must satisfy them, strictly so for the bounds and for ``ratio`` > 1.
    judge
        Called with weights and prices of every iterate near the solution; keeps the best itself, and returns whether to
        stop.
    """
    rows = _Rows(mass.size, limits)
    w, smallest = np.ones(mass.size), 0.5 * (1 + 1 / limits.ratio)
    slack = np.maximum(rows.limit - rows.apply(w, smallest), ROOM * rows.scale)
    level = terms(w).value
    at = _Point(w, smallest, slack, level, level / slack.size / slack)
    for _ in range(ITERATIONS):
        now = terms(at.w)
        gap = float(at.slack @ at.price)
        if not math.isfinite(gap):
            return
        if gap < NEAR * now.value and judge(at.w, rows.prices(at.multiplier, at.price)):
            return
        newton = _Newton(now, mass, rows, at)
        if newton.broken:
            return
        straight = newton.step()
        primal, dual = at.reach(straight)
        left = float((at.slack + primal * straight.slack) @ (at.price + dual * straight.price))
        centre = min(1.0, (left / gap) ** 3) * gap / slack.size
        at = at.moved(newton.step((centre - straight.slack * straight.price) / at.slack))


class _Point(NamedTuple):
    """An iterate, or a step of one."""

    w: Array
    smallest: float
    slack: Array
    multiplier: float
    price: Array

    def reach(self, step: _Point) -> tuple[float, float]:
        """How far to go along a step so that weights and slacks stay positive, and so that prices do."""
        return min(reach(self.slack, step.slack), reach(self.w, step.w)), reach(self.price, step.price)

    def moved(self, step: _Point) -> _Point:
        """This point moved along a step, as far as it may go."""
        primal, dual = self.reach(step)
        return _Point(
            self.w + primal * step.w,
            self.smallest + primal * step.smallest,
            self.slack + primal * step.slack,
            self.multiplier + dual * step.multiplier,
            self.price + dual * step.price,
        )


def reach(x: Array, dx: Array, share: float = STEP_BACK) -> float:
    """How far to go along dx, at most 1, so that x stays positive: a share of the way to where it would not."""
    steepest = -float((dx / x).min())
    return 1.0 if steepest <= share else share / steepest


class _Rows:
    """All inequalities as G (w, smallest) ≤ limit, one block of rows for each kind that is present."""

    def __init__(self, n: int, limits: Limits) -> None:
        self.n, self.ratio = n, limits.ratio
        low, high, lower, upper, ratio = limits
        bounded = math.isfinite(ratio)
        # A difference that is free on one side or hardly free at all starts with room: weights that change by 1 in all.
        width = np.full(n - 1, 1 / n) if low is None or high is None else np.maximum(high - low, 1 / n)
        ones = np.ones(n)
        candidates: tuple[tuple[str, Array | None, Array], ...] = (
            ("high", high, width),
            ("low", None if low is None else -low, width),
            ("lower", -lower * ones if lower > 0 else None, (1 - lower) * ones),
            ("upper", upper * ones if math.isfinite(upper) else None, (min(upper, 2.0) - 1) * ones),
            ("ratio_low", 0 * ones if bounded else None, ones),
            ("ratio_high", 0 * ones if bounded else None, ones),
        )
        present = [(name, limit, scale) for name, limit, scale in candidates if limit is not None]
        ends = np.cumsum([limit.size for _, limit, _ in present])
        self.slices = {name: slice(end - limit.size, end) for (name, limit, _), end in zip(present, ends, strict=True)}
        self.limit = np.concatenate([limit for _, limit, _ in present])
        self.scale = np.concatenate([scale for _, _, scale in present])

    def apply(self, w: Array, smallest: float) -> Array:
        """G (w, smallest)."""
        out = np.empty(self.limit.size)
        change = w[1:] - w[:-1]
        for name, rows in self.slices.items():
            if name == "high":
                out[rows] = change
            elif name == "low":
                np.negative(change, out=out[rows])
            elif name == "ratio_low":
                np.subtract(smallest, w, out=out[rows])
            elif name == "ratio_high":
                np.subtract(w, self.ratio * smallest, out=out[rows])
            elif name == "upper":
                out[rows] = w
            else:
                np.negative(w, out=out[rows])
        return out

    def net(self, y: Array, above: str, below: str) -> Array | None:
        """What y says of one quantity that is bounded on two sides: its part above minus that below."""
        high, low = self.slices.get(above), self.slices.get(below)
        if high is None:
            return None if low is None else -y[low]
        return y[high] if low is None else y[high] - y[low]

    def transpose(self, y: Array) -> tuple[Array, float]:
        """Gᵀ y: the part along w, and along the smallest weight."""
        change = self.net(y, "high", "low")
        along = np.zeros(self.n) if change is None else _to_ends(change)
        for above, below in (("upper", "lower"), ("ratio_high", "ratio_low")):
            part = self.net(y, above, below)
            if part is not None:
                along += part
        if math.isinf(self.ratio):
            return along, 0.0
        low, high = y[self.slices["ratio_low"]], y[self.slices["ratio_high"]]
        return along, float(np.sum(low)) - self.ratio * float(np.sum(high))

    def squared(self, y: Array) -> tuple[Array, Array | None, Array, float]:
        """Gᵀ diag(y) G: diagonal (n,), first off-diagonal (n-1,) or None for zeros, border (n,), and its corner."""
        diagonal, beside, border, corner = np.zeros(self.n), None, np.zeros(self.n), 0.0
        for name, rows in self.slices.items():
            part = y[rows]
            if name in ("high", "low"):
                beside = part if beside is None else beside + part
                continue
            diagonal += part
            if name in ("ratio_low", "ratio_high"):
                factor = 1.0 if name == "ratio_low" else self.ratio
                border -= factor * part
                corner += factor**2 * float(np.sum(part))
        if beside is not None:
            diagonal[1:] += beside
            diagonal[:-1] += beside
        return diagonal, beside, border, corner

    def prices(self, multiplier: float, price: Array) -> Prices:
        """The multipliers under their names."""
        part = {name: price[rows] for name, rows in self.slices.items()}
        difference, box = self.net(price, "high", "low"), self.net(price, "upper", "lower")
        return Prices(multiplier, difference, box, part.get("ratio_low"), part.get("ratio_high"))


def _to_ends(change: Array) -> Array:
    """What pulls at the n-1 differences, as what pulls at the n weights: up on the right, down on the left."""
    out = np.zeros(change.size + 1)
    out[1:] = change
    out[:-1] -= change
    return out


class _Newton:
    """Newton's equations at a point: ∇²φ + Gᵀ diag(price/slack) G, bordered by the budget and the smallest weight.

    The prices of the point cancel in its residual and are left out of both sides.
    """

    def __init__(self, terms: Terms, mass: Array, rows: _Rows, at: _Point) -> None:
        self.rows, self.at = rows, at
        self.stiffness = at.price / at.slack
        self.open_by = rows.apply(at.w, at.smallest)
        self.open_by += at.slack
        self.open_by -= rows.limit
        pull, self.pull_smallest = rows.transpose(self.stiffness * self.open_by)
        pull += terms.gradient
        pull += at.multiplier * mass
        self.pull = pull
        self.short = float(mass @ at.w) - 1
        diagonal, beside, column, corner = rows.squared(self.stiffness)
        diagonal += terms.diagonal
        beside = terms.beside.copy() if beside is None else terms.beside - beside
        *self.factor, info = _factor(diagonal, beside, overwrite_d=True, overwrite_e=True)
        self.broken = info != 0
        if self.broken:
            return
        self.borders = np.vstack([mass, column]) if corner > 0 else mass[None, :]
        self.solved = _solve(*self.factor, self.borders.T)[0].T
        self.schur = self.borders @ self.solved.T
        if corner > 0:
            self.schur[1, 1] -= corner

    def step(self, push: Array | None = None) -> _Point:
        """The step to where all holds to first order with slack·price = slack·push, or 0 without a push."""
        rows, at = self.rows, self.at
        pull, pull_smallest = self.pull, self.pull_smallest
        if push is not None:
            along, smallest = rows.transpose(push)
            pull, pull_smallest = pull + along, pull_smallest + smallest
        direct = _solve(*self.factor, -pull, overwrite_b=True)[0]
        right = self.borders @ direct
        right[0] += self.short
        if right.size > 1:
            right[1] += pull_smallest
            outer = np.linalg.solve(self.schur, right)
        else:
            outer = right / self.schur[0]
        dw, smallest = direct - outer @ self.solved, float(outer[1]) if right.size > 1 else 0.0
        dslack = rows.apply(dw, smallest)
        dslack += self.open_by
        np.negative(dslack, out=dslack)
        dprice = self.stiffness * dslack
        dprice += at.price
        dprice = -dprice if push is None else push - dprice
        return _Point(dw, smallest, dslack, float(outer[0]), dprice)
