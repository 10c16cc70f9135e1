"""Integrals over success probability against antiderivatives and exact arithmetic."""

import decimal
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.quadrature import integrate, log_odds, log_odds_distance, panels

# Integrand, antiderivative written so that the difference does not cancel.
CASES = {
    "logit": (lambda r: 1 / (r * (1 - r)), lambda a, b: math.log(b / a) + math.log1p(-a) - math.log1p(-b)),
    "log": (lambda r: 1 / r, lambda a, b: math.log(b / a)),
    "square": (lambda r: r**2, lambda a, b: (b - a) * (a * a + a * b + b * b) / 3),
    "one over square": (lambda r: r**-2, lambda a, b: (b - a) / (a * b)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("span", [(1e-9, 0.999), (0.01, 0.9), (0.38, 0.7), (1e-12, 1e-9), (0.2, 0.2001)])
def test_quadrature_is_exact_to_rounding(name, span):
    function, primitive = CASES[name]
    # 0.2 → 0.2001 has an antiderivative with 4 digits cancelled in the logarithm, hence 1e-11 rather than 1e-13.
    assert integrate(function, *span) == pytest.approx(primitive(*span), rel=1e-11 if span[1] == 0.2001 else 1e-13)


def test_empty_interval_has_integral_zero():
    assert integrate(np.ones_like, 0.3, 0.3) == 0.0


@given(gap=st.floats(1e-14, 1e-3), start=st.floats(0.001, 0.99))
@settings(derandomize=True, max_examples=50, deadline=None)
def test_length_of_a_short_interval_keeps_its_relative_accuracy(gap, start):
    target = start + gap
    # The rounding of log-odds (at most 7, eps 1e-15) shifts the nodes; a constant does not see it but through ρ(1-ρ).
    assert integrate(np.ones_like, start, target) == pytest.approx(target - start, rel=1e-11)


@given(start=st.floats(1e-12, 0.999), fraction=st.floats(1e-9, 1.0))
@settings(derandomize=True, max_examples=50, deadline=None)
def test_log_odds_and_their_distance_agree_with_exact_arithmetic(start, fraction):
    target = start + (0.9999 - start) * fraction
    with decimal.localcontext() as context:
        context.prec = 60
        a, b = decimal.Decimal(start), decimal.Decimal(target)
        distance = float((b / (1 - b) * (1 - a) / a).ln())
        theta = float((a / (1 - a)).ln())
    # 1 - target rounds once and the logarithm's argument a few times.
    assert log_odds_distance(start, target) == pytest.approx(distance, rel=1e-14)
    assert float(log_odds(start)) == pytest.approx(theta, rel=1e-14, abs=1e-15)


def test_a_kink_given_as_a_break_costs_no_accuracy():
    def kinked(rho):
        return np.abs(rho - 0.3)

    exact = (0.3 - 0.01) ** 2 / 2 + (0.9 - 0.3) ** 2 / 2
    assert integrate(kinked, 0.01, 0.9, breaks=(0.3,)) == pytest.approx(exact, rel=1e-13)
    assert abs(integrate(kinked, 0.01, 0.9) / exact - 1) > 1e-8  # and it does cost without


def test_panels_tile_the_interval_in_order():
    points = panels(0.01, 0.9, breaks=(0.5, 0.2, 0.95, 0.001), width=0.5)
    assert points.edges[0] == 0.01
    assert points.edges[-1] == 0.9
    assert {0.2, 0.5} <= set(points.edges.tolist())
    assert np.all(np.diff(points.edges) > 0)
    assert np.all(np.diff(points.rho.ravel()) > 0)
    assert np.all((points.rho > points.edges[:-1, None]) & (points.rho < points.edges[1:, None]))
    assert np.max(np.diff(log_odds(points.edges))) <= 0.5 * (1 + 1e-12)
    assert np.sum(points.weight, axis=1) == pytest.approx(np.diff(points.edges), rel=1e-13)
