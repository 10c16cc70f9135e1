"""Bernstein forms against ordinary polynomials, and the proven least ratio against a fine grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import bernstein
from theory.finite_group import binomial


@given(
    st.lists(st.floats(-1, 1), min_size=2, max_size=12),
    st.floats(0, 0.9),
    st.floats(0.02, 1),
)
@settings(derandomize=True, max_examples=60, deadline=None)
def test_restriction_and_slope_against_power_series(values, low, width):
    coefficients, high = np.array(values), min(1.0, low + width)
    degree = coefficients.size - 1
    rho = np.linspace(low, high, 7)[1:-1]
    inside = (rho - low) / (high - low)
    value = binomial(rho, degree) @ coefficients
    np.testing.assert_allclose(
        binomial(inside, degree) @ bernstein.restrict(coefficients, low, high), value, atol=1e-13
    )
    # ρ p' by a complex step, of the sum written out.
    step = 1e-20
    powers = np.arange(degree + 1)
    counts = binomial(np.array([0.5]), degree)[0] * 2.0**degree
    z = (rho + 1j * step)[:, None]
    exact = rho * np.imag((counts * z**powers * (1 - z) ** (degree - powers)) @ coefficients) / step
    np.testing.assert_allclose(binomial(rho, degree) @ bernstein.scaled_slope(coefficients), exact, atol=1e-11)


@pytest.mark.parametrize("seed", range(6))
def test_least_ratio_is_below_every_value_and_attained(seed):
    rng = np.random.default_rng(seed)
    above, below = rng.normal(size=12), rng.uniform(0.1, 1, size=12)
    bound, place = bernstein.least_ratio(above, below, 0.1, 0.8)
    rho = np.linspace(0.1, 0.8, 20001)
    basis = binomial(rho, 11)
    ratio = (basis @ above) / (basis @ below)
    at = binomial(np.array([place]), 11)[0]
    assert bound <= np.min(ratio) + 1e-14
    assert bound == pytest.approx(float(at @ above) / float(at @ below), abs=1e-12)
    assert np.min(ratio) - bound < 1e-6  # the grid's spacing, squared


def test_a_double_root_is_proved_not_to_be_crossed():
    # (ρ - 1/3)² touches 0: its coefficients on [0, 1] are 1/9, -2/9, 4/9.
    bound, place = bernstein.least_ratio(np.array([1 / 9, -2 / 9, 4 / 9]), np.ones(3), 0.1, 0.9)
    assert -2e-13 <= bound <= 1e-15
    assert place == pytest.approx(1 / 3, abs=1e-6)
