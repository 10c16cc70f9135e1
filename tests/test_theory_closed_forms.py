"""Closed forms of times and trajectories against quadrature, an ODE solver and each other."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import catalogue, clocks, closed_forms, dynamics
from theory.quadrature import integrate
from theory.weighting import Formula, Weighting
from weightopt import ode


def surrogate_of(weighting: Weighting) -> Formula:
    """A surrogate that is known."""
    assert weighting.surrogate is not None
    return weighting.surrogate


PAIRS = sorted(closed_forms.ANTIDERIVATIVES)
OPTIMA = {"regular": "grpo", "effective": "sqrt-r", "failures": "linear-r"}
SPANS = st.tuples(st.floats(-14, 3), st.floats(0.05, 6)).map(
    lambda pair: tuple(float(1 / (1 + np.exp(-theta))) for theta in (pair[0], pair[0] + pair[1]))
)


def test_five_weightings_on_two_clocks_have_closed_forms():
    assert set(closed_forms.TRAJECTORIES) == set(closed_forms.ANTIDERIVATIVES)
    assert {clock for _, clock in PAIRS} == {"regular", "effective"}
    assert len(PAIRS) == 10


@pytest.mark.slow
@pytest.mark.parametrize(("name", "clock"), PAIRS)
@given(span=SPANS)
@settings(derandomize=True, max_examples=15, deadline=None)
def test_crossing_time_agrees_with_quadrature(name, clock, span):
    start, target = span
    closed = closed_forms.crossing_time(name, clock, start, target)
    by_quadrature = dynamics.crossing_time(
        catalogue.WEIGHTINGS[name], clocks.parse(clock), dynamics.NATURAL, start, target
    )
    assert by_quadrature == pytest.approx(closed, rel=1e-9, abs=1e-14)  # the closed form is a difference


@pytest.mark.slow
@pytest.mark.parametrize(("name", "clock"), PAIRS)
@pytest.mark.parametrize("span", [(1e-6, 0.99), (0.01, 0.9), (0.38, 0.7)])
def test_crossing_time_agrees_with_the_ode_solver(name, clock, span):
    closed = closed_forms.crossing_time(name, clock, *span)
    by_ode = ode.hitting_time(catalogue.WEIGHTINGS[name], clocks.parse(clock), *span)
    assert by_ode == pytest.approx(closed, rel=1e-9)  # the accuracy asked of this road


@pytest.mark.slow
@pytest.mark.parametrize(("name", "clock"), PAIRS)
@pytest.mark.parametrize("start", [1e-4, 0.05, 0.5])
def test_trajectory_agrees_with_the_ode_solver(name, clock, start):
    times = np.linspace(0, closed_forms.crossing_time(name, clock, start, 0.995), 12)
    closed = closed_forms.trajectory(name, clock, start, times)
    by_ode = ode.trajectory(catalogue.WEIGHTINGS[name], clocks.parse(clock), start, times)
    assert by_ode == pytest.approx(closed, rel=1e-9, abs=0)
    assert closed[0] == pytest.approx(start, rel=1e-12)


@pytest.mark.parametrize(("name", "clock"), PAIRS)
@given(span=SPANS)
@settings(derandomize=True, max_examples=15, deadline=None)
def test_trajectory_is_at_the_target_after_the_crossing_time(name, clock, span):
    start, target = span
    reached = closed_forms.trajectory(name, clock, start, closed_forms.crossing_time(name, clock, start, target))
    # Times near ρ0 = 1e-6 are differences of numbers up to 1e6 (1/ρ0), and 1 - ρ1 is down to 1e-4.
    assert float(reached) == pytest.approx(target, rel=1e-8)


@pytest.mark.parametrize(("name", "clock"), PAIRS)
def test_trajectories_rise_and_never_leave_the_unit_interval(name, clock):
    rho = closed_forms.trajectory(name, clock, 0.01, np.linspace(0, 300, 4001))
    assert np.all((rho > 0) & (rho <= 1))
    assert np.all(np.diff(rho) >= 0)


@pytest.mark.slow
@pytest.mark.parametrize("clock", ["regular", "effective"])
@pytest.mark.parametrize("name", ["grpo", "sqrt-r", "uniform-r"])
def test_finite_arrival_is_followed_by_staying_at_one(name, clock):
    closed = closed_forms.trajectory(name, clock, 0.2, [20.0, 50.0, 1e6])
    assert closed.tolist() == [1.0, 1.0, 1.0]
    by_ode = ode.trajectory(catalogue.WEIGHTINGS[name], clocks.parse(clock), 0.2, [20.0, 50.0])
    assert by_ode.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("clock", "name"), OPTIMA.items())
@given(span=SPANS, budget=st.floats(0.01, 100))
@settings(derandomize=True, max_examples=20, deadline=None)
def test_optimal_time_is_the_squared_integral_over_the_budget(clock, name, span, budget):
    start, target = span
    total = integrate(lambda r: np.sqrt(dynamics.cost_density(r, clocks.parse(clock), dynamics.NATURAL)), start, target)
    closed = closed_forms.optimal_time(clock, start, target, budget)
    assert closed == pytest.approx(total**2 / budget, rel=1e-9)
    # The optimal weighting spends what it takes: h(ρ1) - h(ρ0) is the same integral.
    h = surrogate_of(catalogue.WEIGHTINGS[name])
    assert float(h(np.asarray(target)) - h(np.asarray(start))) == pytest.approx(total, rel=1e-9)


def test_optimal_times_at_budget_one_by_hand():
    # T*B as written in the theory, for 0.01 → 0.9, evaluated with math alone.
    a, b = 0.01, 0.9
    regular = 4 * (math.asin(math.sqrt(b)) - math.asin(math.sqrt(a))) ** 2
    effective = 4 * (math.atanh(math.sqrt(1 - a)) - math.atanh(math.sqrt(1 - b))) ** 2
    failures = math.log(b / a) ** 2
    for clock, value in (("regular", regular), ("effective", effective), ("failures", failures)):
        assert closed_forms.optimal_time(clock, a, b) == pytest.approx(value, rel=1e-13)


@given(span=SPANS)
@settings(derandomize=True, max_examples=30, deadline=None)
def test_exact_ties_of_time_times_budget(span):
    """RLOO = Uniform-R on the regular clock, Linear-R = Uniform-R on the effective one, for every start and target."""
    start, target = span

    def cost(name, clock):
        h = surrogate_of(catalogue.WEIGHTINGS[name])
        gain = float(h(np.asarray(target)) - h(np.asarray(start)))
        return closed_forms.crossing_time(name, clock, start, target) * gain

    assert cost("rloo", "regular") == pytest.approx(cost("uniform-r", "regular"), rel=1e-12)
    assert cost("linear-r", "effective") == pytest.approx(cost("uniform-r", "effective"), rel=1e-12)


def test_a_pair_without_a_closed_form_is_a_key_error():
    with pytest.raises(KeyError):
        closed_forms.crossing_time("plateau-r", "regular", 0.1, 0.9)


@pytest.mark.parametrize(
    ("update", "response"), [(1.0, 0.1), (1.0, 1.0), (1.0, 1e-6), (1e-6, 1.0), (0.0, 1.0), (2.0, 0.0), (1e3, 1e-3)]
)
@pytest.mark.parametrize("span", [(1e-9, 1 - 1e-9), (1e-9, 1e-3), (0.01, 0.9), (0.5, 1 - 1e-9)])
def test_the_affine_antiderivative_is_the_integral(update, response, span):
    clock = clocks.Affine(update, response)
    total = integrate(lambda r: np.sqrt(dynamics.cost_density(r, clock, dynamics.NATURAL)), *span)
    start, target = closed_forms.affine_optimal(np.array(span), update, response)
    # Quadrature and antiderivative are both good to rounding; the digits lost in the difference are one or two.
    assert target - start == pytest.approx(total, rel=1e-12)
    assert closed_forms.optimal_time(clock.name, *span) == pytest.approx(total**2, rel=1e-11)


def test_the_affine_antiderivative_holds_grpo_and_sqrt_r():
    rho = np.array([1e-8, 0.3, 1 - 1e-8])  # at the last asin √ρ has lost three digits
    np.testing.assert_allclose(
        closed_forms.affine_optimal(rho, 1.0, 0.0), closed_forms.OPTIMAL["regular"](rho), rtol=1e-12
    )
    np.testing.assert_allclose(
        closed_forms.affine_optimal(rho, 0.0, 1.0), closed_forms.OPTIMAL["effective"](rho), rtol=1e-12
    )


def test_a_clock_without_a_closed_form_says_so():
    assert closed_forms.optimal_antiderivative(clocks.parse("mixed:4")) is None
    with pytest.raises(ValueError, match="no closed form"):
        closed_forms.optimal_time("mixed:4", 0.1, 0.9)
