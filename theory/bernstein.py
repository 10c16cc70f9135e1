"""Polynomials in Bernstein form, p(ρ) = Σ c_k Bin(k; n, ρ), k = 0..n, and what their coefficients prove on a range.

Coefficients are the last axis, of length n+1. On [0, 1] and, after `restrict`, on any part of it, a polynomial lies
between its smallest and its largest coefficient, and halving the part makes that enclosure four times as tight (Farouki
2012). Everything here is a convex combination of coefficients or a difference of neighbours, so it is stable.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def scaled_slope(coefficients: Array) -> Array:
    """ρ p'(ρ) in the same form: its coefficients are k(c_k - c_(k-1)).

    From p' = n Σ (c_(k+1) - c_k) Bin(k; n-1, ρ) and ρ Bin(k; n-1, ρ) = ((k+1)/n) Bin(k+1; n, ρ).
    """
    slope = np.zeros_like(coefficients)
    slope[..., 1:] = np.arange(1, coefficients.shape[-1]) * np.diff(coefficients, axis=-1)
    return slope


def restrict(coefficients: Array, low: float, high: float) -> Array:
    """The same polynomial on [low, high], 0 ≤ low < high ≤ 1: two cuts by de Casteljau's algorithm."""
    right = split(coefficients, low)[1] if low > 0 else coefficients
    return split(right, (high - low) / (1 - low))[0] if high < 1 else right


def split(coefficients: Array, at: float = 0.5) -> tuple[Array, Array]:
    """The polynomial on the two parts of its interval, cut at a share of its length."""
    row = np.array(coefficients, dtype=np.float64)
    left, right = np.empty_like(row), np.empty_like(row)
    for k in range(row.shape[-1]):
        left[..., k], right[..., -1 - k] = row[..., 0], row[..., -1]
        row = (1 - at) * row[..., :-1] + at * row[..., 1:]
    return left, right


def least_ratio(above: Array, below: Array, low: float, high: float, within: float = 1e-13) -> tuple[float, float]:
    """The smallest ratio of two polynomials on a range, as a proven bound from below and the place where it is near.

    With positive coefficients of the denominator on a part of the range, Σ a_k Bin/Σ b_k Bin is a mean of a_k/b_k and
    so at least the smallest of them; at the part's ends it is the ratio of the first and of the last. Parts are
    halved, the worst first, until the bound is within `within` of a value that is attained, or rounding leaves
    nothing to halve.

    Parameters
    ----------
    above, below
        Shape (n+1,), on [0, 1]; the denominator with non-negative coefficients, some positive.
    low, high
        The range, 0 < low < high < 1.

    Returns
    -------
    bound, place : float
        No ratio on [low, high] is smaller than the bound.
    """
    both = restrict(np.stack([above, below]), low, high)
    best, place = np.inf, low
    parts: list[tuple[float, int, float, float, Array]] = []
    count = 0

    def add(part: Array, left: float, right: float) -> None:
        nonlocal best, place, count
        ratio = part[0] / part[1]
        for value, end in ((ratio[0], left), (ratio[-1], right)):
            if value < best:
                best, place = float(value), end
        count += 1
        heapq.heappush(parts, (float(np.min(ratio)), count, left, right, part))

    add(both, low, high)
    while parts[0][0] < best - within and count < 4096:
        _, _, left, right, part = heapq.heappop(parts)
        middle = (left + right) / 2
        if not left < middle < right:
            heapq.heappush(parts, (float(np.min(part[0] / part[1])), count, left, right, part))
            break
        one, other = split(part)
        add(one, left, middle)
        add(other, middle, right)
    return min(best, parts[0][0]), place
