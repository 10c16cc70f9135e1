"""Worlds: two answers are the engine, private skills are the engine, and what more answers and common skills change."""

from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit

from sim.binary import Binary
from sim.engine import FiniteSample
from sim.errors import UsageError
from sim.skills import Skills, features
from sim.tabular import Tabular
from sim.weighting import read
from theory.finite_group import STEP_MODELS


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tabular(rho, weights, step, **changes) -> Tabular:
    settings = {"answers": 2, "right": 1, "spread": 0.0, "rng": generator(), **changes}
    world = Tabular(np.asarray(rho), weights.group_size, step, **settings)
    world.use(weights)
    return world


@pytest.mark.slow
@pytest.mark.parametrize("step_model", STEP_MODELS)
@pytest.mark.parametrize("name", ["linear-r", "ngrpo"])
def test_two_answers_are_the_engine_in_distribution(name, step_model):
    weights, n = read(name, 8), 30_000
    world = tabular(np.full(n, 0.2), weights, 0.2, step_model=step_model)
    log_odds, engine = np.full(n, logit(0.2)), FiniteSample(weights, 0.2, step_model)
    for seed in range(4):
        world.advance(generator(seed))
        engine(log_odds, generator(100 + seed))
    # Rounded: values that differ by the order of additions are one. Kolmogorov's test is conservative with ties.
    both = np.round(logit(world.success()), 8), np.round(log_odds, 8)
    tests: list[Any] = [stats.ks_2samp(*both), stats.ttest_ind(*both)]
    assert all(test.pvalue > 1e-3 for test in tests)


def test_a_vanilla_step_is_the_gradient():
    # Two answers, centred advantages: Δ(z1-z0) = 2 η ω_K (K/M)(1-K/M), whatever ρ; mean over K against enumeration.
    weights, n, rho = read("grpo", 8), 50_000, 0.3
    world = tabular(np.full(n, rho), weights, 0.1, gradient="vanilla")
    world.advance(generator())
    moves = logit(world.success()) - logit(rho)
    share = np.arange(9) / 8
    values = 0.2 * share * weights.correct
    expected = float(stats.binom.pmf(np.arange(9), 8, rho) @ values)
    assert abs(moves.mean() - expected) < 4 * moves.std() / np.sqrt(n)
    assert np.min(np.abs(moves[:50, None] - values), axis=1).max() < 1e-12


def test_a_natural_step_is_the_vanilla_step_in_the_fisher_metric():
    # Same key, same responses: F Δ_natural = Δ_vanilla with F = diag π - ππᵀ, up to the common shift of the logits.
    weights, rho = read("linear-r", 8), np.full(20, 0.3)
    moved, start = {}, None
    for gradient in ("natural", "vanilla"):
        world = tabular(rho, weights, 1e-3, answers=6, right=2, spread=1.0, rng=generator(1), gradient=gradient)
        start = world.state()["logits"].copy()
        world.advance(generator(2))
        moved[gradient] = world.state()["logits"] - start
    assert start is not None
    policy = np.exp(start) / np.exp(start).sum(axis=1, keepdims=True)
    natural = moved["natural"]
    pulled = policy * (natural - (policy * natural).sum(axis=1, keepdims=True))
    vanilla = moved["vanilla"]
    # Any shift of the logits is the same policy: both sides are compared with their means removed.
    np.testing.assert_allclose(
        pulled - pulled.mean(axis=1, keepdims=True), vanilla - vanilla.mean(axis=1, keepdims=True), atol=1e-12
    )


def test_the_start_is_what_was_asked_for():
    rho = np.array([0.001, 0.3, 0.9])
    world = tabular(rho, read("grpo", 4), 0.1, answers=50, right=3, spread=1.5)
    np.testing.assert_allclose(world.success(), rho, rtol=1e-12)
    assert world.prompts == 3


def test_with_many_wrong_answers_the_push_on_all_wrong_groups_hardly_helps():
    # The -1 rule alone, every group all wrong. Two outcomes: θ gains η. V answers, outcome model: each of at most M
    # answers seen loses η of its log weight, so that θ gains about η M/V.
    only = read("reinforce", 8, all_wrong=-1.0)
    gains = {}
    for answers in (2, 256):
        world = tabular(np.full(2000, 1e-6), only, 0.1, answers=answers, step_model="outcome")
        world.advance(generator())
        gains[answers] = float(np.mean(logit(world.success()) - logit(1e-6)))
    assert gains[2] == pytest.approx(0.1, rel=1e-6)
    assert 0.7 * 0.1 * 8 / 256 < gains[256] < 0.1 * 8 / 255


def test_threads_change_no_bit_of_a_tabular_world():
    results = []
    for threads in (1, 2):
        world = tabular(np.full(40_000, 0.1), read("grpo", 32), 0.1, answers=32, threads=threads)
        tally = world.advance(generator())
        results.append((world.success().tobytes(), tally))
    assert results[0] == results[1]


@pytest.mark.parametrize("step_model", STEP_MODELS)
def test_private_skills_are_the_engine(step_model):
    rho, weights = generator().uniform(0.05, 0.9, 60), read("linear-r", 8)
    shared = Skills(rho, np.eye(60), 8, 0.1, step_model=step_model, damping=0.0)
    binary = Binary(rho, 8, lambda weights: FiniteSample(weights, 0.1, step_model))
    for world in (shared, binary):
        world.use(weights)
        rng = generator(1)
        for _ in range(10):
            world.advance(rng)
    # The same groups; a linear solve between them, whose condition is that of ρ(1-ρ).
    np.testing.assert_allclose(shared.success(), binary.success(), rtol=1e-9)


@pytest.mark.parametrize("gradient", ["natural", "vanilla"])
def test_prompts_that_share_a_skill_help_or_hurt_each_other(gradient):
    # The first prompt can learn; the others hardly ever succeed and have the same skill, its opposite, another one.
    rho = np.array([0.5, 1e-9, 1e-9, 1e-9])
    world = Skills(rho, np.array([[1.0, 0], [1, 0], [-1, 0], [0, 1]]), 16, 0.2, gradient=gradient)
    world.use(read("grpo", 16))
    rng = generator()
    for _ in range(20):
        world.advance(rng)
    change = logit(world.success()) - logit(rho)
    assert change[0] > 0.3
    np.testing.assert_allclose(change, [change[0], change[0], -change[0], 0], atol=1e-6)


def test_supervised_fine_tuning_raises_success_where_it_taught():
    phi = features(400, 32, 4, 0.0, generator())
    assert np.all((phi != 0).sum(axis=1) == 4)
    np.testing.assert_allclose((phi**2).sum(axis=1), 1)
    world = Skills(np.full(400, 0.01), phi, 16, 0.1)
    world.supervise(0.4, 0.25)
    success = world.success()
    assert success.mean() == pytest.approx(0.4, abs=0.02)  # one supervised step moves it by about 0.01
    assert success[:100].mean() > success[100:].mean()
    assert success.std() > 0.02


def test_conflict_and_reach_of_supervised_fine_tuning():
    phi = features(400, 32, 4, 0.5, generator())
    assert np.mean(phi[phi != 0] < 0) == pytest.approx(0.5, abs=0.05)
    with pytest.raises(
        UsageError, match=r"shared.sft_success 0.99 was not reached: mean success stands at 0\.\d+ after"
    ):
        Skills(np.full(400, 0.01), phi, 16, 0.1).supervise(0.99, 0.1)
    with pytest.raises(UsageError, match="below mean success at the start"):
        Skills(np.full(400, 0.6), phi, 16, 0.1).supervise(0.5, 0.1)


def test_binary_world_is_its_engine():
    rho, weights = np.array([0.1, 0.5]), read("grpo", 4)
    world = Binary(rho, 4, lambda weights: FiniteSample(weights, 0.3))
    world.use(weights)
    world.advance(generator())
    log_odds = logit(rho)
    FiniteSample(weights, 0.3)(log_odds, generator())
    np.testing.assert_allclose(world.success(), expit(log_odds), rtol=1e-12)
    assert world.prompts == 2
