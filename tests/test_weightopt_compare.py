"""Reference numbers: cost of the named weightings relative to the optimum at equal budget."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import closed_forms, weightings
from theory.quadrature import integrate
from weightopt.compare import NAMES, compare
from weightopt.problem import Problem

COLUMNS = ("rloo", "grpo", "linear-r", "sqrt-r", "uniform-r")
# The theory's table "Cost relative to the optimum at equal budget"; three decimals are exact.
REFERENCE = [
    (0.01, 0.9, "regular", (1.145, 1.000, 1.954, 1.371, 1.145)),
    (0.01, 0.9, "effective", (3.309, 1.555, 1.075, 1.000, 1.075)),
    (0.05, 0.9, "effective", (1.491, 1.203, 1.085, 1.000, 1.085)),
    (0.38, 0.70, "regular", (1.001, 1.000, 1.037, 1.008, 1.001)),
    (0.38, 0.70, "effective", (1.006, 1.008, 1.011, 1.000, 1.011)),
]
# Clock 1/(1-(1-ρ)^16), groups drawn per group with a success, from 0.01 to 0.9; two decimals.
GROUP_CLOCK = {"grpo": 1.06, "uniform-r": 1.05, "sqrt-r": 1.21, "linear-r": 1.67}


def ratios(problem):
    return {row.weighting: row.ratio for row in compare(problem)[1]}


@pytest.mark.parametrize(("start", "target", "clock", "expected"), REFERENCE)
def test_relative_costs_are_those_of_the_theory(start, target, clock, expected):
    found = ratios(Problem(start, target, clock))
    assert tuple(f"{found[name]:.3f}" for name in COLUMNS) == tuple(f"{value:.3f}" for value in expected)


def test_relative_costs_on_the_clock_of_groups_with_a_success_are_those_of_the_theory():
    def density(rho):
        return 1 / (1 - (1 - rho) ** 16) / (rho * (1 - rho))

    least = integrate(lambda rho: np.sqrt(density(rho)), 0.01, 0.9) ** 2
    for name, expected in GROUP_CLOCK.items():
        weighting = weightings.REGISTRY[name]
        time = integrate(lambda rho, w=weighting: density(rho) / w(rho), 0.01, 0.9)
        assert f"{time * integrate(weighting, 0.01, 0.9) / least:.2f}" == f"{expected:.2f}", name


@pytest.mark.parametrize(("clock", "best"), [("regular", "grpo"), ("effective", "sqrt-r"), ("failures", "linear-r")])
@given(low=st.floats(-14, 3), width=st.floats(0.05, 6), budget=st.floats(0.01, 100))
@settings(derandomize=True, max_examples=12, deadline=None)
def test_optimal_time_is_the_closed_form_and_the_best_weighting_attains_it(clock, best, low, width, budget):
    start, target = 1 / (1 + math.exp(-low)), 1 / (1 + math.exp(-(low + width)))
    solution, rows = compare(Problem(start, target, clock, budget=budget))
    # The closed form is a difference of antiderivatives, hence 1e-9 and not rounding.
    assert solution.time == pytest.approx(closed_forms.optimal_time(clock, start, target, budget), rel=1e-9)
    assert {row.weighting: row.ratio for row in rows}[best] == pytest.approx(1, abs=1e-12)


@given(low=st.floats(-16, 4), width=st.floats(1e-3, 8))
@settings(derandomize=True, max_examples=30, deadline=None)
def test_exact_ties_hold_for_every_start_and_target(low, width):
    start, target = 1 / (1 + math.exp(-low)), 1 / (1 + math.exp(-(low + width)))
    regular, effective = ratios(Problem(start, target, "regular")), ratios(Problem(start, target, "effective"))
    assert regular["rloo"] == pytest.approx(regular["uniform-r"], rel=1e-12)  # rounding of two quadratures
    assert effective["linear-r"] == pytest.approx(effective["uniform-r"], rel=1e-12)


@given(low=st.floats(-14, 3), width=st.floats(0.01, 6), clock=st.sampled_from(["regular", "mixed:4", "affine:1,2.0"]))
@settings(derandomize=True, max_examples=20, deadline=None)
def test_no_named_weighting_beats_the_optimum(low, width, clock):
    start, target = 1 / (1 + math.exp(-low)), 1 / (1 + math.exp(-(low + width)))
    found = ratios(Problem(start, target, clock))
    assert min(found.values()) >= 1 - 1e-12
    assert found["optimal"] == 1.0


@pytest.mark.parametrize("budget", [0.001, 1.0, 250.0])
def test_times_scale_with_the_inverse_budget_and_ratios_do_not_change(budget):
    _, one = compare(Problem(0.01, 0.9, "effective"))
    _, other = compare(Problem(0.01, 0.9, "effective", budget=budget))
    for a, b in zip(one, other, strict=True):
        assert b.time * budget == pytest.approx(a.time, rel=1e-13)
        assert b.ratio == pytest.approx(a.ratio, rel=1e-13)


def test_rows_are_every_named_weighting_in_order_and_then_the_optimum():
    _, rows = compare(Problem(0.01, 0.9, "effective"))
    assert [row.weighting for row in rows] == [*NAMES, "optimal"]
    assert NAMES == ("rloo", "grpo", "linear-r", "sqrt-r", "uniform-r", "plateau-r")


def test_plateau_is_measured_with_its_kink():
    # Plateau-R equals Uniform-R below 1/2 and 2·Linear-R above: the pieces in closed form, on the effective clock.
    def logit(x):
        return math.log(x / (1 - x))

    a, t, b = 0.01, 0.5, 0.9
    time = math.log(t / a) + (logit(b) - logit(t)) / 2
    spent = (logit(t) - logit(a)) + 2 * math.log(b / t)
    found = ratios(Problem(a, b, "effective"))["plateau-r"]
    assert found == pytest.approx(time * spent / closed_forms.optimal_time("effective", a, b), rel=1e-12)
