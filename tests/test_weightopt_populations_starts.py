"""Starts estimated from counts: against known distributions, an independent likelihood, and the width of intervals."""

import numpy as np
import pytest
from scipy import stats

from weightopt.errors import ProblemError
from weightopt.populations.starts import Counts, estimate, read_counts


def counts_of(rho, responses, seed=0):
    correct = np.random.default_rng(seed).binomial(responses, rho)
    pairs, prompts = np.unique(np.stack([correct, responses], axis=1), axis=0, return_counts=True)
    return Counts("drawn", pairs[:, 0], pairs[:, 1], prompts)


def log_likelihood(counts, rates, share):
    chance = stats.binom.pmf(counts.correct[:, None], counts.responses[:, None], rates) @ share
    return float(counts.prompts @ np.log(chance))


def test_two_kinds_of_prompt_are_told_apart_through_the_binomial_noise():
    rho = np.where(np.arange(3000) < 1000, 0.1, 0.6)
    starts = estimate(counts_of(rho, np.full(3000, 16)))
    spread = np.sqrt(starts.share @ (starts.rates - starts.mean()[0]) ** 2)
    # The true spread is 0.236; that of the pass rates K/M is 0.257.
    assert spread == pytest.approx(0.236, abs=0.006)
    assert starts.share[(starts.rates > 0.2) & (starts.rates < 0.4)].sum() < 0.05
    mean, low, high = starts.mean()
    assert low < mean < high
    assert mean == pytest.approx(starts.counts.mean, abs=2e-3)


def test_nothing_on_the_grid_is_much_more_likely():
    counts = counts_of(np.random.default_rng(1).beta(0.5, 2.0, 300), np.random.default_rng(2).choice([4, 8, 16], 300))
    starts = estimate(counts, resamples=20)
    reached = log_likelihood(counts, starts.rates, starts.share)
    rng = np.random.default_rng(3)
    for _ in range(50):
        other = rng.dirichlet(np.full(starts.rates.size, 0.1))
        assert log_likelihood(counts, starts.rates, other) < reached
    # Kiefer and Wolfowitz: no other distribution is more likely than by what the best single point promises.
    chance = stats.binom.pmf(counts.correct[:, None], counts.responses[:, None], starts.rates)
    promise = np.max((counts.prompts / (chance @ starts.share)) @ chance) - counts.total
    # EM ends when a step gains less than 1e-3 nats; what is left is below 2 nats, which a bootstrap does not see.
    assert promise < 2.0


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(4)
    held = 0
    for seed in range(40):
        starts = estimate(counts_of(rng.beta(0.6, 2.0, 64), np.full(64, 8), seed), resamples=100, seed=seed)
        _, low, high = starts.mean()
        held += low <= 0.6 / 2.6 <= high
    # A percentile interval of 64 prompts holds a mean in about 93 % of cases; 40 of them at least 32 (1 in 10^4).
    assert held >= 32


def test_more_prompts_narrow_the_interval():
    widths = []
    for prompts in (50, 5000):
        starts = estimate(counts_of(np.random.default_rng(5).beta(0.6, 2.0, prompts), np.full(prompts, 8)))
        _, low, high = starts.mean()
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(10, rel=0.3)


@pytest.mark.parametrize(("correct", "responses", "prompts"), [(9, 1000, 300), (20, 64, 500), (3, 4, 20)])
def test_prompts_with_equal_counts_keep_their_mean_and_their_binomial_noise(correct, responses, prompts):
    starts = estimate(Counts("alike", np.array([correct]), np.array([responses]), np.array([prompts])))
    mean, low, high = starts.mean()
    counted = correct / responses
    noise = np.sqrt(counted * (1 - counted) / (responses * prompts))
    # EM ends a little before everybody is at one point; a quantile of 200 samples is off by a fifth of the noise.
    assert mean == pytest.approx(counted, abs=0.1 * noise)
    assert low == pytest.approx(counted - 1.96 * noise, abs=0.7 * noise)
    assert high == pytest.approx(counted + 1.96 * noise, abs=0.7 * noise)


def test_one_success_probability_is_found_between_any_two_points_of_the_grid():
    starts = estimate(counts_of(np.full(400, 0.52), np.full(400, 1000)))
    mean, low, high = starts.mean()
    noise = np.sqrt(0.52 * 0.48 / 400_000)
    assert mean == pytest.approx(starts.counts.mean, abs=noise)
    assert high - low > 2 * 1.96 * noise / 2


def test_the_same_seed_gives_the_same_estimate():
    counts = counts_of(np.random.default_rng(6).beta(1.0, 2.0, 40), np.full(40, 8))
    one, two = estimate(counts, seed=3), estimate(counts, seed=3)
    assert np.array_equal(one.resampled, two.resampled)
    assert not np.array_equal(one.resampled, estimate(counts, seed=4).resampled)


def test_counts_are_read(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("correct,responses\n0,8\n3,8\n0,8\n2,4\n")
    counts = read_counts(str(path))
    assert (counts.total, counts.mean) == (4, pytest.approx((0 + 3 / 8 + 0 + 0.5) / 4))
    assert "4 prompts" in counts.source
    path.write_text("correct,responses,prompts\n0,8,2\n3,8,1\n2,4,1\n")
    again = read_counts(str(path))
    assert all(np.array_equal(one, two) for one, two in zip(counts[1:4], again[1:4], strict=True))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1 must be the header"),
        ("rho\n0.5\n", "does not say how far to trust it"),
        ("correct,responses\n", "from 1 to"),
        ("correct,responses\n9,8\n", "9 of 8"),
        ("correct,responses\n0,0\n", "0 of 0"),
        ("correct,responses,prompts\n1,8,0\n", "1 of 8 responses to 0 prompts"),
        ("correct,responses\n1\n", "line 2 has 1 columns"),
        ("correct,responses\n1.5,8\n", "line 2, column correct"),
        ("correct,responses\n1,999999\n", "line 2, column responses"),
    ],
)
def test_bad_counts_are_refused_by_line_and_column(tmp_path, text, says):
    path = tmp_path / "c.csv"
    path.write_text(text)
    with pytest.raises(ProblemError, match=says) as caught:
        read_counts(str(path))
    assert caught.value.field == "pass_rates"


def test_counts_that_say_nothing_are_refused():
    for correct, says in ((0, "all wrong"), (8, "all right")):
        with pytest.raises(ProblemError, match=says):
            estimate(Counts("x", np.array([correct]), np.array([8]), np.array([20])))
    with pytest.raises(ProblemError, match="8 prompts at least"):
        estimate(Counts("x", np.array([1, 2]), np.array([8, 8]), np.array([3, 3])))
    with pytest.raises(ProblemError, match="20 to 10000"):
        estimate(Counts("x", np.array([1, 2]), np.array([8, 8]), np.array([3, 9])), resamples=2)
