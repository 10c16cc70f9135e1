"""Crowding: the habit against a softmax network whose groups are enumerated; equilibria, elasticities, their bound."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from theory import catalogue, crowding
from theory.finite_group import speed
from theory.weighting import Weighting

SHARE = np.array([0.5, 0.3, 0.2])
EXECUTION = np.array([0.9, 0.4, 0.7])


def enumerated_gradient(logits, share, execution, correct, wrong):
    """Mean over all groups of (1/M) Σ A ∇ log π(act): every kind, every act and success of every response."""
    propensity = np.exp(logits) / np.exp(logits).sum()
    size, acts = len(correct) - 1, range(len(logits))
    scores = np.eye(len(logits)) - propensity
    total = np.zeros(len(logits))
    for kind, q in enumerate(share):
        outcomes = []
        for act in acts:
            rate = execution[kind] if act == kind else 0.0
            outcomes += [(propensity[act] * rate, act, True), (propensity[act] * (1 - rate), act, False)]
        for group in itertools.product(outcomes, repeat=size):
            probability = math.prod(chance for chance, _, _ in group)
            if probability == 0:
                continue
            k = sum(right for _, _, right in group)
            pull = sum((correct[k] if right else wrong[k]) * scores[act] for _, act, right in group)
            total += q * probability * pull / size
    return total


@pytest.mark.parametrize("name", ["rloo", "grpo", "linear-r", "sqrt-r", "uniform-r", "w-reinforce:0.1"])
def test_the_habit_moves_as_a_network_whose_groups_are_enumerated(name):
    # All-wrong rules of -1 and an all-right rule among them, and advantages that are not centred.
    correct, wrong = crowding.member_advantages(catalogue.parse(name), 4)
    logits = np.array([0.3, -0.2, -1.0])
    exact = enumerated_gradient(logits, SHARE, EXECUTION, correct, wrong)
    propensity = np.exp(logits) / np.exp(logits).sum()
    moved = crowding.habit_speed(SHARE, propensity, EXECUTION, lambda rho: crowding.group_phi(rho, correct, wrong))
    np.testing.assert_allclose(moved, exact, atol=1e-15, rtol=1e-12)


def test_growth_is_the_replicator_equation():
    propensity = np.array([0.2, 0.5, 0.3])
    grown = crowding.growth(SHARE, propensity, EXECUTION, np.sqrt)
    assert propensity @ grown == pytest.approx(0, abs=1e-16)  # propensities stay of sum 1
    move = 1e-6 * crowding.habit_speed(SHARE, propensity, EXECUTION, np.sqrt)
    after = propensity * np.exp(move)
    np.testing.assert_allclose(np.log(after / after.sum() / propensity) / 1e-6, grown, rtol=1e-5)  # first order in 1e-6


@pytest.mark.parametrize("m", [0.3, 0.5, 1.0, 1.7])
def test_equilibrium_in_closed_form_by_its_equation_and_by_running_the_habit(m):
    closed = crowding.power_equilibrium(SHARE, EXECUTION, m)
    np.testing.assert_allclose(crowding.equilibrium(SHARE, EXECUTION, lambda rho: rho**-m), closed, rtol=1e-10)
    ran = solve_ivp(
        lambda _, b: crowding.habit_speed(SHARE, softmax(b), EXECUTION, lambda rho: rho ** (1 - m)),
        (0, 3000),
        np.zeros(3),
        method="LSODA",
        rtol=1e-10,
        atol=1e-12,
    )
    np.testing.assert_allclose(softmax(ran.y[:, -1]), closed, rtol=1e-6)


def softmax(b):
    return np.exp(b - b.max()) / np.exp(b - b.max()).sum()


def test_shares_at_rest_follow_need_for_m_1_and_execution_for_small_m():
    np.testing.assert_allclose(crowding.power_equilibrium(SHARE, EXECUTION, 1.0), SHARE)
    assert crowding.power_equilibrium(SHARE, EXECUTION, 0.05)[0] > 1 - 1e-6  # the largest q r


@pytest.mark.parametrize(("power", "kinds"), [(0.4, 2), (0.4, 5), (1.0, 3), (1.6, 4)])
def test_small_differences_shrink_or_grow_at_the_stated_rate(power, kinds):
    def phi(rho):
        return rho**power

    share, execution = np.full(kinds, 1 / kinds), np.full(kinds, 0.8)
    logits = 1e-6 * np.array([1.0, -1.0, *np.zeros(kinds - 2)])
    moved = crowding.habit_speed(share, softmax(logits), execution, phi)
    rate = -(moved[0] - moved[1]) / (logits[0] - logits[1])
    stated = crowding.return_rate(0.8 / kinds, kinds, phi, power)
    assert rate == pytest.approx(stated, abs=2e-9)  # the difference of two numbers of order 0.1 over 2e-6
    assert np.sign(round(stated, 12)) == np.sign(1 - power)


@pytest.mark.parametrize("resident", [0.05, 0.5, 0.9])
def test_a_rare_kind_invades_at_the_stated_rate(resident):
    # A third act solves nothing: share 0, success 0.
    rare = 1e-7
    propensity = np.array([rare, resident, 1 - rare - resident])
    share, execution = np.array([0.4, 0.6, 0.0]), np.array([0.9, 0.5, 1.0])

    def phi(rho):
        return np.asarray(rho, dtype=np.float64) ** 0.3

    grown = crowding.growth(share, propensity, execution, phi)
    stated = crowding.invasion((0.4, 0.6), resident, (rare * 0.9, resident * 0.5), phi)
    assert grown[0] - grown[1] == pytest.approx(stated, abs=2 * rare)


@pytest.mark.parametrize(
    ("name", "elasticity"),
    [
        ("rloo", lambda rho: np.ones_like(rho)),
        ("grpo", lambda rho: 1 / (2 * (1 - rho))),
        ("linear-r", lambda rho: np.zeros_like(rho)),
        ("sqrt-r", lambda rho: rho / (2 * (1 - rho))),
        ("uniform-r", lambda rho: rho / (1 - rho)),
        ("power:0.3,0.8", lambda rho: 0.7 + 0.8 * rho / (1 - rho)),
        ("f-grpo:2.0", lambda rho: 0.5 - 1.5 * rho / (1 - rho)),
    ],
)
def test_elasticity_of_a_curve_in_closed_form(name, elasticity):
    member = catalogue.parse(name)
    assert isinstance(member, Weighting)
    rho = np.array([0.01, 0.1, 0.37, 0.6, 0.9])
    np.testing.assert_allclose(crowding.curve_elasticity(member, rho), elasticity(rho), atol=1e-9)


@pytest.mark.parametrize("name", list(catalogue.EVERYTHING))
@pytest.mark.parametrize("size", [8])
def test_elasticity_of_every_table_against_differences_of_its_speed(name, size):
    member = catalogue.EVERYTHING[name]
    correct, wrong = crowding.member_advantages(member, size)
    rho, step = np.array([0.02, 0.1, 0.25, 0.4, 0.7]), 1e-4
    near, far = (
        np.log(speed(rho * np.exp(by), correct, wrong, "ratio") / speed(rho * np.exp(-by), correct, wrong, "ratio"))
        for by in (step, 2 * step)
    )
    differences = 1 + (8 * near - far) / (12 * step)
    # 1e-16 over the step, and its fourth power.
    np.testing.assert_allclose(crowding.group_elasticity(rho, correct, wrong), differences, atol=1e-8)
    assert np.all(differences >= [crowding.smallest_limit(size, x) - 1e-8 for x in rho])


def test_pushing_all_wrong_groups_alone_has_the_smallest_elasticity():
    for size in (2, 5, 16):
        correct, wrong = np.zeros(size + 1), np.zeros(size + 1)
        wrong[0] = -0.3
        rho = np.array([0.01, 1 / size, 0.6])
        found = crowding.group_elasticity(rho, correct, wrong)
        np.testing.assert_allclose(found, [crowding.smallest_limit(size, x) for x in rho], atol=1e-12)


@pytest.mark.parametrize("name", ["grpo", "sqrt-r", "linear-r"])
def test_the_push_on_wrong_responses_is_phi_plus_the_mean_advantage_lost_in_all_wrong_groups(name):
    size, rho = 6, np.array([0.03, 0.2, 0.5])
    correct, wrong = crowding.member_advantages(catalogue.parse(name), size)
    k = np.arange(size)
    others = np.array([[math.comb(size - 1, j) * x**j * (1 - x) ** (size - 1 - j) for j in k] for x in rho])
    push = others @ -wrong[:-1]
    np.testing.assert_allclose(crowding.group_phi(rho, correct, wrong), push + wrong[0] * (1 - rho) ** size, rtol=1e-13)
    assert crowding.force(correct, wrong, "push") == pytest.approx(-wrong[:-1])


def test_groups_tend_to_the_curve():
    member = catalogue.parse("sqrt-r")
    assert isinstance(member, Weighting)
    rho = np.array([0.1, 0.3, 0.6])
    errors = []
    for size in (64, 256):
        found = crowding.group_elasticity(rho, *crowding.member_advantages(member, size))
        errors.append(np.max(np.abs(found - crowding.curve_elasticity(member, rho))))
    assert errors[1] < 0.3 * errors[0]  # of order 1/M


def test_lists_show_the_elasticities_of_the_catalogue():
    at = np.array(catalogue.ELASTIC_AT)
    grpo = catalogue.parse("grpo")
    np.testing.assert_allclose(catalogue.elasticities(grpo), 1 / (2 * (1 - at)), atol=1e-9)
    np.testing.assert_allclose(catalogue.elasticities(catalogue.parse("grpo-verl")), 1 / (2 * (1 - at)), atol=1e-4)
    # Linear-R with -1 on all-wrong groups: φ = 1-(1-ρ)^M.
    kept = 16 * at * (1 - at) ** 15 / (1 - (1 - at) ** 16)
    np.testing.assert_allclose(catalogue.elasticities(catalogue.parse("linear-r"), 16), kept, atol=1e-12)
    assert catalogue.elasticity_text(catalogue.parse("rloo"), 16) == "1.00 1.00 1.00"
    assert catalogue.elasticity_text(catalogue.parse("power:1.5,0"), 16) == "– – –"  # its rule has to be stated
    for member in catalogue.EVERYTHING.values():
        assert catalogue.describe(member)["elasticity"] == catalogue.elasticity_text(member, catalogue.ELASTIC_GROUP)
