"""Populations: norms and coordinates, the closed-form flow against an ODE solver, its gradient against differences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad, solve_ivp
from scipy.special import expit

from theory.population import BUDGETS, LogLinearFlow, beta_binomial_log_likelihood, beta_midpoints

KNOTS = np.linspace(-6.0, 4.0, 9)
SLOPES = st.lists(st.floats(-2, 2), min_size=8, max_size=8)


def log_weights(slopes):
    return np.concatenate([[0.3], 0.3 + np.cumsum(np.array(slopes) * np.diff(KNOTS))])


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=lambda budget: budget.name)
def test_the_coordinate_flattens_the_norm(budget):
    theta = np.linspace(-9, 9, 37)
    step = 1e-5
    numeric = (budget.coordinate(theta + step) - budget.coordinate(theta - step)) / (2 * step)
    # Central differences: 1e-16/1e-5 of rounding in x, which is up to 9.
    np.testing.assert_allclose(budget.slope(theta), numeric, atol=1e-9)
    np.testing.assert_allclose(budget.success(budget.coordinate(theta)), expit(theta), rtol=1e-12)
    density = {"weight": 1.0, "square": 1.0, "kl": expit(theta) * expit(-theta)}[budget.name]
    np.testing.assert_allclose(budget.slope(theta) ** 2, np.broadcast_to(density, theta.shape), rtol=1e-12)


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=lambda budget: budget.name)
def test_the_norm_is_that_of_the_whole_list_of_prompts(budget):
    change, counts = np.array([0.3, -1.2, 2.0]), np.array([2, 1, 5])
    every = np.repeat(change, counts)
    expected = np.mean(np.abs(every) ** budget.exponent) ** (1 / budget.exponent)
    assert budget.norm(change, counts / 8) == pytest.approx(expected, rel=1e-14)
    assert budget.norm(-3 * change, counts / 8) == pytest.approx(3 * expected, rel=1e-14)


def test_the_angle_is_the_fisher_rao_length_and_a_step_costs_its_kl():
    # KL(π⁺|π) of two outcomes under a step η in log-odds is η²ρ(1-ρ)/2 to leading order.
    rho, eta = 0.2, 1e-3
    after = expit(np.log(rho / (1 - rho)) + eta)
    kl = after * np.log(after / rho) + (1 - after) * np.log((1 - after) / (1 - rho))
    assert kl == pytest.approx(eta**2 * rho * (1 - rho) / 2, rel=eta)
    assert BUDGETS["kl"].coordinate(0.0) == pytest.approx(np.pi / 2, rel=1e-15)


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


@pytest.mark.parametrize(("a", "b"), [(0.3, 3.0), (2.0, 2.0), (40.0, 5.0)])
def test_beta_midpoints_are_quantiles(a, b):
    rates = beta_midpoints(a, b, 50)
    np.testing.assert_allclose(stats.beta.cdf(rates, a, b), (np.arange(50) + 0.5) / 50, rtol=1e-9)
    # Midpoints of 2000 equal parts: the mean to the square of a part, where the density is smooth.
    assert np.mean(beta_midpoints(a, b, 2000)) == pytest.approx(a / (a + b), rel=1e-3)


def test_beta_binomial_likelihood_is_that_of_scipy():
    counts = np.array([7, 3, 0, 2, 1])
    expected = counts @ stats.betabinom.logpmf(np.arange(5), 4, 0.7, 2.2)
    assert beta_binomial_log_likelihood(0.7, 2.2, counts) == pytest.approx(expected, rel=1e-12)
