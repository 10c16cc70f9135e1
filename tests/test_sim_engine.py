"""Engines: exact binomials, the step they claim, agreement of the mean with the mean field, orders in the step."""

import importlib.util
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import solve_ivp
from scipy.special import expit, logit

from sim import kernels
from sim.engine import NO_COUNTS, NOTHING, FiniteSample, LargeGroup, MeanField, sample_groups
from sim.errors import UsageError
from sim.weighting import read
from theory import closed_forms, finite_group
from theory.catalogue import WEIGHTINGS
from theory.dynamics import proximal_step

MODELS = finite_group.STEP_MODELS


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("rho", "size"),
    [(0.03, 16), (0.5, 16), (0.97, 16), (0.25, 2), (0.004, 5), (0.4, 37), (1 / 256, 64), (0.999, 100), (0.6, 300)],
)
def test_groups_are_binomial(rho, size):
    n = 200_000
    successes, tally = sample_groups(np.full(n, logit(rho)), size, generator())
    counts = np.bincount(successes, minlength=size + 1)
    expected = n * stats.binom.pmf(np.arange(size + 1), size, rho)
    # Cells of at least 5 expected, the rest in one: the usual rule for Pearson's statistic.
    rare = expected < 5
    seen = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    keep = wanted > 0
    assert stats.chisquare(seen[keep], wanted[keep] * n / wanted[keep].sum()).pvalue > 1e-3
    assert tally == (n, counts[0], counts[size])


@pytest.mark.parametrize("sign", [-1, 1])
def test_rare_outcomes_are_as_rare_as_they_are(sign):
    # One in 30 000: past the first base-256 digit. The count of 3.2 million responses is Poisson(107): 4 sigma.
    successes, _ = sample_groups(np.full(200_000, sign * logit(1 / 30_000)), 16, generator(1))
    rare = successes.sum() if sign > 0 else (16 - successes).sum()
    assert abs(rare - 3.2e6 / 30_000) < 4 * np.sqrt(3.2e6 / 30_000)


def test_lanes_of_different_prompts_and_steps_are_not_correlated():
    n = 100_000
    rng = generator(2)
    first, second = (sample_groups(np.zeros(n), 16, rng)[0] for _ in range(2))
    for left, right in ((first, second), (first[:-1], first[1:])):
        assert abs(np.corrcoef(left, right)[0, 1]) < 4 / np.sqrt(n)


@pytest.mark.parametrize("step_model", MODELS)
@pytest.mark.parametrize("name", ["grpo", "linear-r", "nsr"])
def test_a_step_is_that_of_theory(name, step_model):
    weights = read(name, 8)
    start = np.concatenate([generator().normal(-1, 3, 2000), [-36.0, 36.0, 0.0]])
    successes, _ = sample_groups(start, 8, generator(7))
    share, rho, failure = successes / 8, expit(start), expit(-start)
    correct, wrong = weights.correct[successes], weights.wrong[successes]
    if step_model == "ratio":
        move = share * correct / rho - (1 - share) * wrong / failure
    else:
        move = np.where(share > 0, correct, 0) - np.where(share < 1, wrong, 0)
    log_odds = start.copy()
    FiniteSample(weights, 0.1, step_model)(log_odds, generator(7))
    # A few roundings, relative to the size of the move.
    np.testing.assert_allclose(log_odds, np.clip(start + 0.1 * move, -36, 36), rtol=1e-12, atol=1e-12)


def test_threads_and_cuts_change_no_bit():
    start = generator().normal(-2, 2, 150_001)  # enough for two threads
    weights = read("sqrt-r", 16)
    results = []
    for threads in (1, 2):
        log_odds = start.copy()
        tally = FiniteSample(weights, 0.1, most_groups=3, threads=threads)(log_odds, generator())
        results.append((log_odds.tobytes(), tally))
    assert results[0] == results[1]
    whole, parts = np.empty(1000, np.int64), np.empty(1000, np.int64)
    key = np.uint64(5)
    kernels.advance(start[:1000], 0, key, 16, 1, True, NOTHING, NOTHING, whole)
    for a, b in ((0, 13), (13, 700), (700, 1000)):
        kernels.advance(start[a:b], a, key, 16, 1, True, NOTHING, NOTHING, parts[a:b])
    assert np.array_equal(whole, parts)
    assert NO_COUNTS.size == 0


@pytest.mark.parametrize("step_model", MODELS)
@pytest.mark.parametrize(("name", "most"), [("grpo", 1), ("linear-r", 1), ("ngrpo", 1), ("linear-r", 4)])
def test_the_mean_of_finite_samples_is_the_mean_field(name, most, step_model):
    weights, start, step = read(name, 8), logit(0.1), 5e-4
    finite, mean = FiniteSample(weights, step, step_model, most), MeanField(weights, step, step_model, most)
    sampled, expected = np.full(20_000, start), np.array([start])
    rng, drawn, counted = generator(3), 0.0, 0.0
    for _ in range(100):
        tally, one = finite(sampled, rng), mean(expected, rng)
        drawn += tally.groups / sampled.size
        counted += one.groups
    error = sampled.std() / np.sqrt(sampled.size)
    # The bias of the mean is of order step · time ≈ 3e-5 here, a tenth of its standard error.
    assert abs(sampled.mean() - expected[0]) < 4 * error
    assert abs(expected[0] - start) > 20 * error
    assert abs(drawn / counted - 1) < 0.01


def at_time_one(engine, steps: int, start: float, rng=None) -> float:
    log_odds = np.array([logit(start)])
    for _ in range(steps):
        engine(log_odds, rng or generator())
    return float(log_odds[0])


def test_one_large_group_step_is_the_proximal_step():
    rho = np.array([0.01, 0.4, 0.9])
    log_odds = logit(rho)
    LargeGroup(read("grpo", 16), 0.3)(log_odds, generator())
    np.testing.assert_allclose(expit(log_odds), proximal_step(rho, WEIGHTINGS["grpo"](rho), 0.3), rtol=1e-13)


def test_the_large_group_flow_converges_at_first_order():
    # Linear-R in regular time: ρ(t) = 1-(1-ρ0)e^-t.
    exact = logit(float(closed_forms.trajectory("linear-r", "regular", 0.1, np.array([1.0]))[0]))
    errors = [at_time_one(LargeGroup(read("linear-r", 16), 1 / n), n, 0.1) - exact for n in (50, 100, 200)]
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2, abs=0.1)  # 2 + O(step)


@pytest.mark.parametrize("step_model", MODELS)
def test_the_mean_field_converges_at_first_order(step_model):
    weights = read("sqrt-r", 8)

    def velocity(_, theta):
        return finite_group.speed(expit(theta), weights.correct, weights.wrong, step_model)

    exact = solve_ivp(velocity, (0, 1), [logit(0.1)], rtol=1e-10, atol=1e-12).y[0, -1]
    errors = [at_time_one(MeanField(weights, 1 / n, step_model), n, 0.1) - exact for n in (50, 100, 200)]
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("step_model", MODELS)
def test_the_mean_of_finite_samples_converges_at_first_order(step_model):
    # Weak order: the mean log-odds at time 1 against the flow that all of them share as the step goes to 0.
    weights, n = read("linear-r", 4), 400_000
    exact = at_time_one(MeanField(weights, 1 / 2000, step_model), 2000, 0.3)
    errors = []
    for steps in (8, 16):
        log_odds, rng = np.full(n, logit(0.3)), generator(steps)
        engine = FiniteSample(weights, 1 / steps, step_model)
        for _ in range(steps):
            engine(log_odds, rng)
        errors.append(log_odds.mean() - exact)
        assert abs(errors[-1]) > 50 * log_odds.std() / np.sqrt(n)
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.2)  # 2 + O(step), known to a twentieth


def test_rloo_gains_log_odds_at_constant_mean_speed_whatever_the_step():
    # A law: the Bernstein operator of a constant is that constant, so E[Δθ] = η exactly; no bias to average out.
    log_odds, rng, engine = np.full(200_000, logit(0.1)), generator(5), FiniteSample(read("rloo", 4), 0.5)
    for _ in range(8):
        engine(log_odds, rng)
    assert abs(log_odds.mean() - logit(0.1) - 4) < 4 * log_odds.std() / np.sqrt(log_odds.size)


def test_dynamic_sampling_draws_until_mixed_and_counts():
    size, rho, most, n = 4, 0.1, 5, 200_000
    successes, tally = sample_groups(np.full(n, logit(rho)), size, generator(4), most_groups=most)
    uniform = (1 - rho) ** size + rho**size
    expected = n * (1 - uniform**most) / (1 - uniform)
    assert abs(tally.groups / expected - 1) < 0.01  # its relative standard error is 2e-3
    left = n * uniform**most
    assert abs(tally.all_wrong + tally.all_right - left) < 4 * np.sqrt(left)
    mixed = np.bincount(successes, minlength=size + 1)[1:-1]
    pmf = stats.binom.pmf([1, 2, 3], size, rho)
    assert stats.chisquare(mixed, mixed.sum() * pmf / pmf.sum()).pvalue > 1e-3


@pytest.mark.parametrize("step_model", MODELS)
def test_log_odds_stay_within_their_limit(step_model):
    log_odds = np.array([-36.0, -30.0, 0.0, 30.0, 36.0])
    for engine in (
        FiniteSample(read("uniform-r", 16), 50.0, step_model),
        MeanField(read("uniform-r", 16), 50.0, step_model),
        LargeGroup(read("uniform-r", 16), 50.0),
    ):
        moved = log_odds.copy()
        for seed in range(20):
            engine(moved, generator(seed))
        assert np.all(np.abs(moved) <= 36)


def test_what_exists_for_groups_only_has_no_large_group_limit():
    with pytest.raises(UsageError, match=r"'ngrpo' is a rule for groups, not a curve: choose engine 'mean-field'"):
        LargeGroup(read("ngrpo", 16), 0.1)


def test_the_benchmark_s_plain_numpy_has_the_same_distribution():
    path = Path(__file__).parent.parent / "benchmarks" / "sim.py"
    spec = importlib.util.spec_from_file_location("benchmarks.sim", path)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules["benchmarks.sim"] = benchmark
    spec.loader.exec_module(benchmark)
    weights, n = read("linear-r", 16), 100_000
    plain, ours = np.full(n, logit(0.1)), np.full(n, logit(0.1))
    for seed in range(2):
        benchmark.plain_numpy(plain, generator(seed), weights.correct, weights.wrong, 0.5)
        FiniteSample(weights, 0.5)(ours, generator(seed))
    # Two steps have at most 17² values: Pearson's test on the common ones, the rest in one cell.
    values, where = np.unique(np.round(np.concatenate([plain, ours]), 9), return_inverse=True)
    counts = np.stack([np.bincount(part, minlength=values.size) for part in (where[:n], where[n:])])
    common = counts.sum(axis=0) >= 20
    table = np.column_stack([counts[:, common], counts[:, ~common].sum(axis=1)])
    result: Any = stats.chi2_contingency(table)
    assert result.pvalue > 1e-3
