"""Lower bounds over all weights: closed forms, brute force, an independent optimiser, and what duality must satisfy."""

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.special import expit

from tests.amounts import examples, some_of
from theory.quadrature import log_odds
from theory.step_budgets import BUDGETS
from weightopt.populations.lower_bounds import Crowd, _frontier, nearest, shortest_time

BUDGET = st.sampled_from(list(BUDGETS.values()))
NAMES = [pytest.param(budget, id=budget.name) for budget in BUDGETS.values()]


def crowd_of(budget, rates, share=None):
    rates = np.array(rates)
    share = np.full(rates.size, 1 / rates.size) if share is None else np.array(share)
    return Crowd(budget, budget.coordinate(log_odds(rates)), share)


def bound_of(budget, rates, target, clock="regular", share=None, *, scheduled=True):
    crowd = crowd_of(budget, rates, share)
    return shortest_time(budget, log_odds(np.array(rates)), crowd.share, target, clock, scheduled=scheduled)


@pytest.mark.parametrize("budget", NAMES)
@some_of("clock", ["regular", "effective"], 1)
def test_one_easy_prompt_takes_the_way_in_the_coordinate(budget, clock):
    # From ½ upwards ρ is concave in log-odds, so that splitting the prompt does not pay.
    start, target = 0.6, 0.9
    expected = budget.coordinate(log_odds(target)) - budget.coordinate(log_odds(start))
    if clock == "effective":
        expected, _ = quad(lambda x: budget.slope(x) * (1 + np.exp(-x)), log_odds(start), log_odds(target))
    bound = bound_of(budget, [start], target, clock)
    # Tangents on 160 pieces of a convex function: the sum is low by about (1/160)²/8 of its curvature.
    assert bound.lower == pytest.approx(expected, rel=1e-12 if clock == "regular" else 1e-4)
    assert bound.lower <= expected * (1 + 1e-12)
    assert bound.schedule >= expected * (1 - 1e-9)


@pytest.mark.parametrize("budget", NAMES)
def test_two_prompts_against_a_grid(budget):
    crowd, target = crowd_of(budget, [0.05, 0.3]), 0.6
    lower, end = nearest(crowd, target)
    assert crowd.mean(end) >= target - 1e-12
    grid = np.linspace(0.3, 1 - 1e-6, 200_001)  # success of the second prompt
    first = 2 * target - grid
    fine = (first > 0.05) & (first < 1)
    ends = np.stack([budget.coordinate(log_odds(np.where(fine, first, 0.5))), budget.coordinate(log_odds(grid))], -1)
    lengths = np.where(fine, crowd.length(ends - crowd.start), np.inf)
    assert lower <= float(np.min(lengths)) * (1 + 1e-9)
    if budget.name == "kl":  # one minimiser for every price: no duality gap
        assert lower == pytest.approx(float(np.min(lengths)), rel=1e-6)
    assert crowd.length(end - crowd.start) >= float(np.min(lengths)) * (1 - 1e-6)


@pytest.mark.parametrize("budget", NAMES)
@pytest.mark.parametrize("target", [0.5, 0.85])
def test_no_local_search_is_nearer(budget, target):
    rng = np.random.default_rng(0)
    crowd = crowd_of(budget, np.sort(rng.beta(0.5, 2, 8)) * 0.9 + 0.01)
    lower, end = nearest(crowd, target)
    best = float(crowd.length(end - crowd.start))
    for _ in range(4):
        rise = minimize(
            lambda d: crowd.length(d) ** budget.exponent,
            rng.uniform(0.5, 2.5, 8) * (1 if budget.name != "kl" else 0.5),
            bounds=[(0, None if budget.name != "kl" else np.pi)] * 8,
            constraints={"type": "ineq", "fun": lambda d: crowd.mean(crowd.start + d) - target},
            method="SLSQP",
        )
        if crowd.mean(crowd.start + rise.x) >= target - 1e-7:
            found = float(crowd.length(rise.x))
            assert found >= lower * (1 - 1e-5)  # SLSQP meets its constraint to 1e-7
            best = min(best, found)
    # Eight prompts: the gap of duality is at most one prompt's share.
    assert best <= lower * (1 + 1 / 8)


@pytest.mark.parametrize("budget", [BUDGETS["weight"], BUDGETS["square"]], ids=lambda budget: budget.name)
def test_the_least_cost_within_a_length_against_a_convex_program(budget):
    crowd = crowd_of(budget, [0.01, 0.03, 0.2, 0.6], [0.4, 0.3, 0.2, 0.1])
    frontier = _frontier(crowd, 2.0)
    for rank in (20, 80, 150):
        rise = cp.Variable(4, nonneg=True)
        cost = crowd.share @ (1 + cp.exp(-crowd.start - rise))
        length = crowd.share @ rise if budget.exponent == 1 else cp.norm(cp.multiply(np.sqrt(crowd.share), rise))
        problem = cp.Problem(cp.Minimize(cost), [length <= frontier.length[rank]])
        problem.solve(solver="CLARABEL")
        assert frontier.cost[rank] == pytest.approx(problem.value, rel=1e-6)
    # The slopes are those of the frontier: between chords to the left and to the right.
    chords = np.diff(frontier.cost) / np.diff(frontier.length)
    assert np.all(frontier.slope[:-1] <= chords + 1e-9)
    assert np.all(chords <= frontier.slope[1:] + 1e-9)


def test_the_least_cost_on_the_angle_against_a_local_search():
    budget = BUDGETS["kl"]
    crowd = crowd_of(budget, [0.01, 0.03, 0.2, 0.6])
    frontier = _frontier(crowd, 0.5)
    for rank in (40, 120, 158):
        found = minimize(
            lambda d: float(crowd.cost(crowd.start + d)) / 30,
            np.full(4, 0.05),
            bounds=[(0, 2)] * 4,
            constraints={"type": "ineq", "fun": lambda d, rank=rank: frontier.length[rank] - crowd.length(d)},
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        )
        assert frontier.cost[rank] == pytest.approx(30 * found.fun, rel=1e-5)


@pytest.mark.slow
@examples(
    3,
    12,
    budget=BUDGET,
    theta=st.lists(st.floats(-9, 2), min_size=1, max_size=6),
    gain=st.floats(0.05, 0.95),
    clock=st.sampled_from(["regular", "effective"]),
    seed=st.integers(0, 1000),
)
def test_no_path_beats_the_bound_and_the_schedule_is_a_path(budget, theta, gain, clock, seed):
    theta = np.sort(theta)
    share = np.full(theta.size, 1 / theta.size)
    mean = float(expit(theta) @ share)
    target = mean + gain * (0.98 - mean)
    bound = shortest_time(budget, theta, share, target, clock)
    assert 0 < bound.lower <= bound.schedule * (1 + 1e-12)
    # Random monotone paths: straight in log-odds with different speeds, ended where the target is met.
    speeds = np.random.default_rng(seed).exponential(size=theta.size)
    step = np.linspace(0, 40, 20_001)[:, None] ** 2 / 40 * speeds / np.mean(speeds) + theta
    last = int(np.argmax(expit(step) @ share >= target))
    if expit(step[-1]) @ share < target:
        return
    path = step[: last + 1]
    pieces = budget.norm(np.diff(budget.coordinate(path), axis=0), share)
    cost = np.ones(last + 1) if clock == "regular" else (1 + np.exp(-path)) @ share
    time = float(np.sum(pieces * (cost[1:] + cost[:-1]) / 2))
    assert time >= bound.lower * (1 - 1e-6)


@given(budget=BUDGET, seed=st.integers(0, 1000), clock=st.sampled_from(["regular", "effective"]))
@settings(derandomize=True, max_examples=8, deadline=None)
def test_counting_prompts_twice_changes_nothing(budget, seed, clock):
    rates = np.sort(np.random.default_rng(seed).uniform(0.01, 0.6, 4))
    one = bound_of(budget, rates, 0.8, clock, [0.5, 0.25, 0.125, 0.125], scheduled=False)
    other = bound_of(budget, np.repeat(rates, [4, 2, 1, 1]), 0.8, clock, np.full(8, 1 / 8), scheduled=False)
    assert other.lower == pytest.approx(one.lower, rel=1e-8)


@pytest.mark.slow
def test_a_later_target_takes_longer_and_a_better_start_less():
    rates = np.array([0.01, 0.05, 0.2, 0.5])
    for budget in BUDGETS.values():
        for clock in ("regular", "effective"):
            times = [bound_of(budget, rates, target, clock, scheduled=False).lower for target in (0.3, 0.7, 0.95)]
            assert np.all(np.diff(times) > 0)
            assert bound_of(budget, rates * 1.2, 0.7, clock, scheduled=False).lower < times[1]


def test_the_regular_bound_is_attained_when_prompts_may_be_split():
    for budget in BUDGETS.values():
        bound = bound_of(budget, [0.02, 0.3], 0.6)
        assert bound.exact
        # The schedule has 200 equal parts: within one of them.
        assert bound.schedule <= bound.lower * (1 + 1 / 100)
