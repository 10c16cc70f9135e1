"""The flow of a log-linear weighting, against its differential equation and quadrature."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp

from theory.log_linear import LogLinearFlow

KNOTS = np.linspace(-6.0, 4.0, 9)
SLOPES = st.lists(st.floats(-2, 2), min_size=8, max_size=8)


def log_weights(slopes):
    return np.concatenate([[0.3], 0.3 + np.cumsum(np.array(slopes) * np.diff(KNOTS))])


@given(slopes=SLOPES, start=st.floats(-5.9, 3.5), share=st.floats(0.01, 0.99))
@settings(derandomize=True, max_examples=25, deadline=None)
def test_the_flow_is_that_of_its_differential_equation(slopes, start, share):
    log_weight = log_weights(slopes)
    flow = LogLinearFlow(KNOTS, log_weight, np.array([start]))
    tau = share * float(flow.stop[0])
    found, weight = (values[0, 0] for values in flow.position(np.array([tau])))
    solved = solve_ivp(
        lambda _, theta: np.exp(np.interp(theta, KNOTS, log_weight)),
        (0, tau),
        [start],
        rtol=1e-10,
        atol=1e-11,
        method="LSODA",
    )
    # The ODE solver controls its error per step; a steep weighting multiplies it on the way.
    assert found == pytest.approx(solved.y[0, -1], abs=2e-6)
    assert weight == pytest.approx(np.exp(np.interp(found, KNOTS, log_weight)), rel=1e-9)


@given(slopes=SLOPES, theta=st.floats(-6, 4))
@settings(derandomize=True, max_examples=25, deadline=None)
def test_the_time_to_the_end_is_the_integral_of_the_inverse_weight(slopes, theta):
    log_weight = log_weights(slopes)
    inside = [knot for knot in KNOTS[1:-1] if knot > theta] or None
    expected, _ = quad(
        lambda x: np.exp(-np.interp(x, KNOTS, log_weight)), theta, KNOTS[-1], points=inside, epsrel=1e-11
    )
    flow = LogLinearFlow(KNOTS, log_weight, np.array([theta]))
    assert flow.stop[0] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_fast_prompt_is_followed_beside_one_that_is_1e20_times_slower():
    # In a common clock of 1e20 the fast one's times, of order 1, would have no digit.
    knots = np.array([-10.0, 0.0, 4.0])
    flow = LogLinearFlow(knots, np.array([-46.0, 0.0, 0.0]), np.array([-10.0, 1.0]))
    theta, weight = flow.position(np.array([0.0, 0.5, 2.0]))
    np.testing.assert_allclose(theta[:, 1], [1.0, 1.5, 3.0], rtol=1e-15)
    np.testing.assert_allclose(theta[:, 0], -10.0, atol=1e-15)
    np.testing.assert_allclose(weight[:, 1], 1.0, rtol=1e-15)


def test_the_flow_stands_still_at_its_last_knot():
    flow = LogLinearFlow(KNOTS, log_weights([0.0] * 8), np.array([-6.0, 4.0]))
    theta, weight = flow.position(flow.stop[0] * np.array([0.5, 1.0, 1e9]))
    assert theta[1:].tolist() == [[4.0, 4.0]] * 2
    assert weight[1:].tolist() == [[0.0, 0.0]] * 2
    assert weight[0, 0] > 0
    assert flow.stop[1] == 0


@given(slopes=SLOPES, value=st.lists(st.floats(-2, 2), min_size=5, max_size=5))
@settings(derandomize=True, max_examples=25, deadline=None)
def test_pulling_back_is_the_derivative_of_the_times_from_the_first_knot(slopes, value):
    log_weight, theta = log_weights(slopes), np.array([-6.0, -5.2, -1.0, 0.7, 4.0])
    value = np.array(value)

    def times(log_weight):
        stop = LogLinearFlow(KNOTS, log_weight, theta).stop
        return stop[0] - stop

    gradient = LogLinearFlow(KNOTS, log_weight, theta).pull_back(theta, value)
    scale = float(np.sum(np.abs(value)) * times(log_weight)[-1])
    for k in range(KNOTS.size):
        bump = np.zeros_like(KNOTS)
        bump[k] = 1e-5
        up, down = (float(value @ times(log_weight + sign * bump)) for sign in (1, -1))
        # Central differences of step 1e-5: 1e-10 of the third derivative and 1e-16/1e-5 of rounding.
        assert gradient[k] == pytest.approx((up - down) / 2e-5, abs=1e-8 * scale + 1e-12)


def test_a_constant_weight_shifts_log_odds():
    flow = LogLinearFlow(KNOTS, np.zeros_like(KNOTS), np.array([-3.0, 0.5]))
    np.testing.assert_allclose(flow.position(np.array([1.25]))[0], [[-1.75, 1.75]], atol=1e-14)
