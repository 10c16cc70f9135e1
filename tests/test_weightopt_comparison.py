"""Reference numbers: cost of the named weightings relative to the optimum at equal budget."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import catalogue, closed_forms, finite_group
from weightopt import GroupProblem, Problem, compare, solve
from weightopt.comparison import FACTORS, GROUP_NAMES, NAMES

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
    found = ratios(Problem(0.01, 0.9, "success:16"))
    assert {name: f"{found[name]:.2f}" for name in GROUP_CLOCK} == {k: f"{v:.2f}" for k, v in GROUP_CLOCK.items()}


@pytest.mark.parametrize(("clock", "best"), [("both", "uniform-r"), ("variance", "rloo")])
def test_each_plain_clock_makes_its_weighting_optimal(clock, best):
    assert ratios(Problem(0.02, 0.7, clock))[best] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("clock", "best"), [("regular", "grpo"), ("effective", "sqrt-r"), ("failures", "linear-r")])
@given(low=st.floats(-14, 3), width=st.floats(0.05, 6), budget=st.floats(0.01, 100))
@settings(derandomize=True, max_examples=12, deadline=None)
def test_optimal_time_is_the_closed_form_and_the_best_weighting_attains_it(clock, best, low, width, budget):
    start, target = 1 / (1 + math.exp(-low)), 1 / (1 + math.exp(-(low + width)))
    solution, rows = compare(Problem(start, target, clock, budget=budget))
    # The closed form is a difference of antiderivatives, hence 1e-9 and not rounding.
    assert solution.time == pytest.approx(closed_forms.optimal_time(clock, start, target, budget), rel=1e-9)
    assert {row.weighting: row.ratio for row in rows}[best] == pytest.approx(1, abs=1e-12)


@pytest.mark.slow
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


# Plug-in at K/M with 0 on all-wrong groups, over the best free table, from the notes; three decimals.
PLUG_IN = [("sqrt-r", "effective", 8, 1.547), ("maxrl", "effective", 8, 1.361), ("grpo", "regular", 8, 1.070)]


@pytest.mark.parametrize(("name", "clock", "size", "expected"), PLUG_IN)
def test_plug_in_tables_are_as_slow_as_the_notes_say(name, clock, size, expected):
    problem = GroupProblem(Problem(0.01, 0.9, clock), size, budget_kind="drift", shape="free")
    rho = np.arange(1, size) / size
    weight = catalogue.WEIGHTINGS[name](rho)
    points = problem.curve.panels(width=0.25)
    u = finite_group.weight_speeds(points.rho.ravel(), size, "ratio") @ weight
    measure = points.weight.ravel()
    time = float(np.sum(measure * problem.curve.cost_density(points.rho.ravel()) / u)) * float(measure @ u)
    assert time / solve(problem).time == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize("budget_kind", ["drift", "advantage-variance"])
@pytest.mark.parametrize("step_model", finite_group.STEP_MODELS)
def test_group_rows_against_sums_over_all_outcomes(step_model, budget_kind):
    problem = GroupProblem(Problem(0.05, 0.8, "effective", budget=2.0), 4, step_model, budget_kind)
    solution, rows = compare(problem)
    found = {row.weighting: row for row in rows}
    assert set(found) == {*GROUP_NAMES, "plug-in", "optimal"}
    assert found["optimal"].time == pytest.approx(solution.time, rel=1e-9)
    # Linear-R with -1 on all-wrong groups, written out: A of a wrong response is -1 everywhere, of a right one M/K - 1.
    correct, wrong = np.array([0, 3, 1, 1 / 3, 0]), np.array([-1, -1, -1, -1, 0])
    theta = np.linspace(math.log(0.05 / 0.95), math.log(4), 40_001)
    rho = 1 / (1 + np.exp(-theta))
    speed, moment = np.zeros_like(rho), np.zeros_like(rho)
    for k in range(5):
        p = math.comb(4, k) * rho**k * (1 - rho) ** (4 - k)
        up, down = correct[k], wrong[k]
        if step_model == "ratio":
            speed += p * (k / 4 * up / rho - (1 - k / 4) * down / (1 - rho))
        else:
            speed += p * ((up if k else 0) - (down if k < 4 else 0))
        moment += p * (k / 4 * up**2 + (1 - k / 4) * down**2)
    time = np.trapezoid(1 / (rho * speed), theta)
    spent = np.trapezoid(rho * (1 - rho) * speed if budget_kind == "drift" else moment / speed, theta)
    assert found["linear-r"].time == pytest.approx(time * spent / 2.0, rel=1e-7)  # trapezoids of step 1e-4


def test_robustness_is_the_comparison_from_the_true_start():
    problem = GroupProblem(Problem(0.02, 0.9, "effective"), 6)
    _, rows = compare(problem)
    _, elsewhere = compare(GroupProblem(Problem(0.06, 0.9, "effective"), 6))
    truth = {row.weighting: row.ratio for row in elsewhere}
    for row in rows:
        assert set(row.robustness) == set(FACTORS)
        if row.weighting not in ("optimal", "plug-in"):
            assert row.robustness[3.0] == pytest.approx(truth[row.weighting], rel=1e-8)
        assert all(
            ratio is None or ratio >= 1 - 1e-8 or row.all_wrong_advantage != 0 for ratio in row.robustness.values()
        )


def test_a_start_beyond_the_target_has_no_column_and_a_table_without_drift_never_arrives():
    _, rows = compare(GroupProblem(Problem(0.2, 0.9, "regular"), 4), tuple(catalogue.EVERYTHING))
    assert {row.robustness[10.0] for row in rows} == {None}
    assert math.isinf(next(row for row in rows if row.weighting == "pass-at-k-groups:4").ratio)
