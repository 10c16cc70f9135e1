"""Dynamics: the proximal step against a policy table, invariances of time and budget, the Cauchy-Schwarz bound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import clocks, closed_forms, dynamics
from theory.handbook import paper
from theory.quadrature import integrate

CLOCKS = [clocks.parse(name) for name in ("regular", "effective", "failures", "mixed:8", "affine:1,0.5")]
SPANS = st.tuples(st.floats(-12, 3), st.floats(0.05, 6)).map(
    lambda pair: tuple(float(1 / (1 + np.exp(-theta))) for theta in (pair[0], pair[0] + pair[1]))
)
SHAPES = st.sampled_from(paper.PLAIN)


@given(
    logits=st.lists(st.floats(-6, 6), min_size=2, max_size=9),
    correct=st.data(),
    weight=st.floats(0, 8),
    step=st.floats(0, 2),
)
@settings(derandomize=True, max_examples=80, deadline=None)
def test_proximal_step_is_the_reweighting_of_every_answer_by_its_advantage(logits, correct, weight, step):
    """π⁺ ∝ π exp(ηA) over several right and several wrong answers, A = ω(r - ρ)."""
    count = correct.draw(st.integers(1, len(logits) - 1))
    reward = np.arange(len(logits)) < count
    policy = np.exp(logits) / np.sum(np.exp(logits))
    rho = float(np.sum(policy[reward]))
    moved = policy * np.exp(step * weight * (reward - rho))
    right, wrong = float(np.sum(moved[reward])), float(np.sum(moved[~reward]))
    after = dynamics.proximal_step(np.asarray(rho), np.asarray(weight), step)
    # 1 - ρ carries the rounding of ρ, 1e-16, relative to at least e^-12/9 of wrong mass; so does 1 less what comes out.
    assert float(after) == pytest.approx(right / (right + wrong), rel=1e-9)
    assert float(1 - after) == pytest.approx(wrong / (right + wrong), rel=1e-9, abs=2e-16)


def test_small_proximal_steps_follow_the_natural_mobility_at_first_order():
    rho = np.array([0.02, 0.3, 0.8])
    weight = np.array([3.0, 1.0, 2.0])
    rate = dynamics.NATURAL(rho) * weight
    errors = [np.max(np.abs((dynamics.proximal_step(rho, weight, s) - rho) / s - rate)) for s in (1e-3, 5e-4, 2.5e-4)]
    ratios = np.divide(errors[:-1], errors[1:])
    assert ratios == pytest.approx([2, 2], abs=0.01)  # halving the step halves the error, up to the next order


def test_plain_gradient_flow_of_one_logit_moves_by_the_squared_variance():
    # θ' = ω dρ/dθ = ω ρ(1-ρ), hence ρ' = ω ρ²(1-ρ)².
    rho = np.array([0.1, 0.5, 0.9])
    assert dynamics.SOFTMAX_GRADIENT(rho) == pytest.approx((rho * (1 - rho)) ** 2, rel=1e-15 * 4)
    assert dynamics.NATURAL(rho) == pytest.approx(rho * (1 - rho), rel=1e-15 * 4)


@pytest.mark.slow
@given(span=SPANS, shape=SHAPES, clock=st.sampled_from(CLOCKS), factor=st.floats(1e-3, 1e3))
@settings(derandomize=True, max_examples=40, deadline=None)
def test_a_common_factor_only_rescales_time_and_budget(span, shape, clock, factor):
    start, target = span
    time = dynamics.crossing_time(shape, clock, dynamics.NATURAL, start, target, shape.kinks)
    scaled = dynamics.crossing_time(lambda r: factor * shape(r), clock, dynamics.NATURAL, start, target, shape.kinks)
    spent = dynamics.update_budget(shape, start, target, shape.kinks)
    assert scaled * factor == pytest.approx(time, rel=1e-13)  # the same sum, each term rounded a few times
    assert dynamics.update_budget(lambda r: factor * shape(r), start, target, shape.kinks) == pytest.approx(
        factor * spent, rel=1e-13
    )


@given(
    span=SPANS, shape=SHAPES, clock=st.sampled_from(CLOCKS), mobility=st.sampled_from([*dynamics.MOBILITIES.values()])
)
@settings(derandomize=True, max_examples=40, deadline=None)
def test_a_weighting_and_its_reflection_about_the_optimum_cost_the_same(span, shape, clock, mobility):
    """T[ω]·B[ω] = T[f/ω]·B[f/ω], f = c/κ: time and budget change places."""
    start, target = span

    def reflected(rho):
        return dynamics.cost_density(rho, clock, mobility) / shape(rho)

    products = [
        dynamics.crossing_time(w, clock, mobility, start, target, shape.kinks)
        * dynamics.update_budget(w, start, target, shape.kinks)
        for w in (shape, reflected)
    ]
    assert products[0] == pytest.approx(products[1], rel=1e-13)


@given(
    span=SPANS, shape=SHAPES, clock=st.sampled_from(CLOCKS), mobility=st.sampled_from([*dynamics.MOBILITIES.values()])
)
@settings(derandomize=True, max_examples=60, deadline=None)
def test_no_named_weighting_is_faster_than_the_cauchy_schwarz_bound(span, shape, clock, mobility):
    start, target = span
    cost = dynamics.crossing_time(shape, clock, mobility, start, target, shape.kinks) * dynamics.update_budget(
        shape, start, target, shape.kinks
    )
    bound = integrate(lambda r: np.sqrt(dynamics.cost_density(r, clock, mobility)), start, target) ** 2
    assert cost >= bound * (1 - 1e-12)  # rounding only: the optimal weighting itself attains it


@given(span=SPANS)
@settings(derandomize=True, max_examples=30, deadline=None)
def test_grpo_moves_at_constant_speed_along_the_fisher_rao_angle(span):
    start, target = span
    times = np.linspace(0, 0.999 * closed_forms.crossing_time("grpo", "regular", start, target), 9)
    angle = np.arcsin(np.sqrt(closed_forms.trajectory("grpo", "regular", start, times)))
    assert np.diff(angle) == pytest.approx(np.diff(times) / 2, rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("weighting", paper.PLAIN, ids=lambda weighting: weighting.name)
def test_budget_is_the_accumulated_variance_of_the_advantage(weighting):
    """∫ω dρ = ∫ω²ρ(1-ρ) dt with dt = dρ/(ρ(1-ρ)ω), and it is the surrogate's gain."""
    h = weighting.surrogate

    def variance_per_unit_of_success(rho):
        return weighting(rho) ** 2 * rho * (1 - rho) / (dynamics.NATURAL(rho) * weighting(rho))

    accumulated = integrate(variance_per_unit_of_success, 0.01, 0.9, weighting.kinks)
    assert accumulated == pytest.approx(float(h(np.asarray(0.9)) - h(np.asarray(0.01))), rel=1e-12)
