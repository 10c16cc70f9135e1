"""Expectations over a group, against enumeration of every group and against simulation."""

import itertools

import numpy as np
import pytest

from theory import finite_group

RHO = np.array([0.003, 0.2, 0.5, 0.93])


def enumerated(rho: float, correct, wrong, step_model: str) -> tuple[float, float]:
    """E[Δθ]/η and E[A²] by summing over all 2^M sequences of rewards, from the definitions of the step models."""
    size = len(correct) - 1
    speed = moment = 0.0
    for rewards in itertools.product((0, 1), repeat=size):
        k = sum(rewards)
        probability = rho**k * (1 - rho) ** (size - k)
        share = k / size
        if step_model == "ratio":
            move = share * correct[k] / rho - (1 - share) * wrong[k] / (1 - rho)
        else:
            move = (correct[k] if k > 0 else 0.0) - (wrong[k] if k < size else 0.0)
        speed += probability * move
        moment += probability * sum((correct[k] if r else wrong[k]) ** 2 for r in rewards) / size
    return speed, moment


@pytest.mark.parametrize("step_model", finite_group.STEP_MODELS)
@pytest.mark.parametrize("size", [2, 3, 6])
def test_speed_and_second_moment_are_those_of_all_groups(size, step_model):
    rng = np.random.default_rng(size)
    correct, wrong = np.append(0, rng.uniform(0, 2, size)), -np.append(rng.uniform(0, 2, size), 0)
    expected = np.array([enumerated(rho, correct, wrong, step_model) for rho in RHO])
    # Both are sums of at most 64 terms of order one: rounding only.
    np.testing.assert_allclose(finite_group.speed(RHO, correct, wrong, step_model), expected[:, 0], rtol=1e-12)
    np.testing.assert_allclose(finite_group.second_moment(RHO, correct, wrong), expected[:, 1], rtol=1e-12)


@pytest.mark.parametrize("step_model", finite_group.STEP_MODELS)
@pytest.mark.parametrize("size", [2, 5, 16, 200])
def test_weights_and_their_centred_advantages_have_the_same_speed(size, step_model):
    weight = np.random.default_rng(size).uniform(0, 3, size - 1)
    k = np.arange(1, size) / size
    correct, wrong = np.r_[0, weight * (1 - k), 0], np.r_[0, -weight * k, 0]
    # The Bernstein identity against the definition; log-binomials of 200 lose three digits.
    np.testing.assert_allclose(
        finite_group.weight_speeds(RHO, size, step_model) @ weight,
        finite_group.speed(RHO, correct, wrong, step_model),
        rtol=1e-11,
    )


def test_a_simulated_group_moves_as_expected():
    size, rho = 8, 0.15
    weight = 1 / (np.arange(1, size) / size)
    k = np.arange(1, size) / size
    correct, wrong = np.r_[0, weight * (1 - k), 0], np.r_[-1.0, -weight * k, 0]
    successes = np.random.default_rng(0).binomial(size, rho, 400_000)
    share = successes / size
    moves = share * correct[successes] / rho - (1 - share) * wrong[successes] / (1 - rho)
    error = moves.std() / np.sqrt(moves.size)
    assert abs(moves.mean() - finite_group.speed([rho], correct, wrong, "ratio")[0]) < 4 * error


def test_a_large_group_moves_like_the_curve():
    # u → ω as M → ∞, at first order in 1/M: doubling M halves the error.
    errors = []
    for size in (64, 128, 256):
        k = np.arange(1, size) / size
        u = finite_group.weight_speeds(RHO[1:], size, "ratio") @ (1 / np.sqrt(k * (1 - k)))
        errors.append(np.max(np.abs(u * np.sqrt(RHO[1:] * (1 - RHO[1:])) - 1)))
    assert 1.7 < errors[0] / errors[1] < 2.4
    assert 1.7 < errors[1] / errors[2] < 2.4
