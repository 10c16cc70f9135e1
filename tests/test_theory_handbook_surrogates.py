"""A surrogate is what its weighting is the derivative of."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import dynamics
from theory.handbook import paper
from theory.handbook.notation import incomplete_beta
from theory.quadrature import integrate, log_odds
from theory.weighting import Formula, Weighting


def surrogate_of(weighting: Weighting) -> Formula:
    """A surrogate that is known."""
    assert weighting.surrogate is not None
    return weighting.surrogate


PAPER = {weighting.name: weighting for weighting in paper.PLAIN}
NAMES = list(PAPER)


def power_gain(a, b, start, target):
    """The budget that ρ^-a (1-ρ)^-b spends, by quadrature."""
    return integrate(paper.power(a, b), start, target)


@pytest.mark.parametrize("name", NAMES)
def test_derivative_of_the_surrogate_is_the_weighting(name):
    weighting = PAPER[name]
    h = surrogate_of(weighting)
    rho = np.concatenate([np.geomspace(1e-6, 0.3, 30), 1 - np.geomspace(1e-3, 0.6, 30)])
    for kink in weighting.kinks:
        rho = rho[np.abs(rho - kink) > 1e-3]
    step = 1e-5 * rho * (1 - rho)
    above, below = rho + step, rho - step
    slope = (h(above) - h(below)) / (above - below)
    # Truncation is (1e-5)² times a factor of order one; h, at most 14, rounds at 1e-16·14/1e-5 relative to the
    # difference, and 30 times that for the angle near ρ = 1 - 1e-3, where the difference itself is small.
    assert slope == pytest.approx(weighting(rho), rel=2e-8)


@pytest.mark.parametrize("name", ["grpo", "linear-r", "uniform-r"])
def test_derivative_by_complex_step_is_exact(name):
    weighting = PAPER[name]
    h = surrogate_of(weighting)
    rho = np.array([1e-8, 1e-3, 0.2, 0.5, 0.8, 0.999])
    slope = np.imag(h.function(rho + 1e-30j)) / 1e-30  # pyright: ignore[reportArgumentType]
    assert slope == pytest.approx(weighting(rho), rel=1e-12)  # complex asin near 1 loses a few digits


@given(low=st.floats(-16, 5), width=st.floats(0.01, 8), name=st.sampled_from(NAMES))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_gain_of_the_surrogate_is_the_budget_spent(low, width, name):
    start, target = 1 / (1 + np.exp(-low)), 1 / (1 + np.exp(-(low + width)))
    weighting = PAPER[name]
    h = surrogate_of(weighting)
    gain = float(h(np.asarray(target)) - h(np.asarray(start)))
    spent = dynamics.update_budget(weighting, start, target, weighting.kinks)
    # The difference of two surrogates of size up to 16 rounds at 4e-15; 1 - ρ near the upper end at 1e-16/3e-6.
    assert spent == pytest.approx(gain, rel=1e-9, abs=4e-14)


@given(a=st.floats(-1, 2), b=st.floats(-1, 2), split=st.floats(0.02, 0.89))
@settings(derandomize=True, max_examples=30, deadline=None)
def test_gain_of_a_family_member_adds_up_over_a_split(a, b, split):
    parts = power_gain(a, b, 0.01, split) + power_gain(a, b, split, 0.9)
    assert parts == pytest.approx(power_gain(a, b, 0.01, 0.9), rel=1e-13)  # quadrature is exact to rounding


def test_gain_of_the_family_is_the_surrogate_of_its_named_members():
    for name, (a, b) in {"rloo": (0, 0), "grpo": (0.5, 0.5), "linear-r": (1, 0), "sqrt-r": (1, 0.5)}.items():
        h = surrogate_of(PAPER[name])
        expected = float(h(np.asarray(0.9)) - h(np.asarray(0.01)))
        assert power_gain(a, b, 0.01, 0.9) == pytest.approx(expected, rel=1e-13)


def test_sqrt_surrogate_is_minus_twice_artanh():
    rho = np.array([0.01, 0.3, 0.7, 0.99])
    assert surrogate_of(paper.SQRT_R)(rho) == pytest.approx(-2 * np.arctanh(np.sqrt(1 - rho)), rel=1e-13)


def test_plateau_surrogate_is_continuous_at_its_threshold_and_the_logit_below():
    tau = paper.PLATEAU_THRESHOLD
    below, above = surrogate_of(paper.PLATEAU_R)(np.array([tau - 1e-12, tau + 1e-12]))
    assert above - below == pytest.approx(0, abs=1e-11)
    assert surrogate_of(paper.PLATEAU_R)(np.array([0.2])) == pytest.approx(log_odds(0.2), rel=1e-15)


@given(a=st.floats(-1, 0.95), b=st.floats(-1, 0.95), low=st.floats(-8, 3), width=st.floats(0.05, 4))
@settings(derandomize=True, max_examples=40, deadline=None)
def test_incomplete_beta_function_is_the_gain_of_the_family(a, b, low, width):
    start, target = 1 / (1 + np.exp(-low)), 1 / (1 + np.exp(-(low + width)))
    below, above = incomplete_beta(np.array([start, target]), a, b)
    # The difference of two values rounds at a few units in the last place of the larger.
    expected = power_gain(a, b, start, target)
    assert above - below == pytest.approx(expected, rel=1e-9, abs=2e-14 * above)
