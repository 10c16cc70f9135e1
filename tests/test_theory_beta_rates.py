"""Beta-distributed success probabilities, against scipy."""

import numpy as np
import pytest
from scipy import stats

from theory.beta_rates import beta_binomial_log_likelihood, beta_binomial_masses, beta_masses, beta_midpoints


@pytest.mark.parametrize(("a", "b"), [(0.3, 3.0), (2.0, 2.0), (40.0, 5.0)])
def test_beta_midpoints_are_quantiles(a, b):
    rates = beta_midpoints(a, b, 50)
    np.testing.assert_allclose(stats.beta.cdf(rates, a, b), (np.arange(50) + 0.5) / 50, rtol=1e-9)
    # Midpoints of 2000 equal parts: the mean to the square of a part, where the density is smooth.
    assert np.mean(beta_midpoints(a, b, 2000)) == pytest.approx(a / (a + b), rel=1e-3)


def test_beta_binomial_likelihood_is_that_of_scipy():
    counts = np.array([7, 3, 0, 2, 1])
    np.testing.assert_allclose(beta_binomial_masses(0.7, 2.2, 4), stats.betabinom.pmf(np.arange(5), 4, 0.7, 2.2))
    expected = counts @ stats.betabinom.logpmf(np.arange(5), 4, 0.7, 2.2)
    assert beta_binomial_log_likelihood(0.7, 2.2, np.arange(5), np.full(5, 4), counts) == pytest.approx(
        expected, rel=1e-12
    )


def test_masses_between_edges_are_differences_of_the_distribution_function():
    edges = np.array([0.01, 0.2, 0.7])
    masses = beta_masses(0.4, 2.5, edges)
    np.testing.assert_allclose(np.cumsum(masses)[:-1], stats.beta.cdf(edges, 0.4, 2.5), rtol=1e-12)
    assert np.sum(masses) == pytest.approx(1, rel=1e-12)
