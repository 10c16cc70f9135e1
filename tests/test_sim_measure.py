"""Measures of a known record, and intervals with the coverage they state."""

import math

import numpy as np
import pytest

from sim.measure import area, mean_interval, measures, ratio_interval, time_to
from sim.trajectory import Trajectory
from tests.amounts import some_of

# step, responses, groups, success, quantile, never_lifted, all_wrong, all_right
RECORD = Trajectory(
    np.array(
        [
            [0, 0, 0, 0.1, 0.0, 1.0, 0, 0],
            [10, 160, 10, 0.3, 0.1, 0.8, 0.2, 0],
            [20, 640, 40, 0.7, 0.3, 0.5, 0.1, 0.1],
            [30, 800, 50, 0.6, 0.4, 0.25, 0, 0.3],
        ]
    )
)


def test_time_to_a_level_is_interpolated_in_each_cost():
    assert time_to(RECORD, "success", 0.5, "updates") == pytest.approx(15)
    assert time_to(RECORD, "success", 0.5, "responses") == pytest.approx(400)
    assert time_to(RECORD, "success", 0.5, "groups") == pytest.approx(25)
    assert time_to(RECORD, "success", 0.05, "updates") == 0
    assert time_to(RECORD, "success", 0.7, "updates") == 20
    assert time_to(RECORD, "quantile", 0.5, "updates") == math.inf


def test_area_and_the_rest():
    assert area(RECORD, "updates") == pytest.approx((0.2 + 0.5 + 0.65) / 3)
    assert area(RECORD, "responses") == pytest.approx((0.2 * 160 + 0.5 * 480 + 0.65 * 160) / 800)
    found = measures(RECORD, (0.5, 0.8), 0.1, 0.4)
    assert found["updates to mean success 0.8"] == math.inf
    assert found["responses to 0.1-quantile 0.4"] == 800
    assert found["prompts never lifted"] == 0.25
    assert found["success at the end"] == 0.6


DRAWS = 4000
# Of 4000 intervals that each cover with probability 0.95 the share that does has standard deviation 0.0034.
NOISE = 4 * math.sqrt(0.95 * 0.05 / DRAWS)


@some_of("seeds", [2, 3, 5, 20], 1)
def test_the_interval_of_a_mean_covers_what_it_says_however_few_seeds(seeds):
    rng = np.random.default_rng(seeds)
    drawn = rng.normal(3, 1, (DRAWS, seeds))
    found = np.array([mean_interval([values]) for values in drawn])
    covered = np.mean((found[:, 0] <= 3) & (found[:, 1] >= 3))
    assert abs(covered - 0.95) <= NOISE  # exact for a normal mean


@pytest.mark.slow
@some_of("seeds", [3, 5], 1)
def test_the_interval_of_a_ratio_covers_what_it_says_from_resampled_runs(seeds):
    """Runs drawn with replacement from 400 skewed ones that have much in common, so that the true ratio is known."""
    rng = np.random.default_rng(10 + seeds)
    common = rng.gamma(20, 5, 400)
    runs = np.column_stack([0.8 * common * rng.gamma(200, 1 / 200, 400), common * rng.gamma(100, 1 / 100, 400)])
    ratio = float(np.divide(*runs.mean(axis=0)))
    drawn = runs[rng.integers(0, 400, (DRAWS, seeds))]
    found = np.array([ratio_interval([values]) for values in drawn])
    covered = np.mean((found[:, 0] <= ratio) & (ratio <= found[:, 1]))
    # The spread is that of a linearised ratio, which is right to first order in the 10 % by which runs differ.
    assert abs(covered - 0.95) <= NOISE + 0.01
    above, below = (float(np.mean(found[:, side])) for side in (1, 0))
    assert above / below < 2  # paired: unpaired it would be 5 for 3 seeds


@pytest.mark.slow
def test_intervals_cover_the_mean_over_strata():
    rng = np.random.default_rng(0)
    drawn = [(rng.normal(1, 0.1, 5), rng.normal(5, 1, 5)) for _ in range(DRAWS)]
    found = np.array([mean_interval(strata) for strata in drawn])
    covered = np.mean((found[:, 0] <= 3) & (found[:, 1] >= 3))
    assert 0.95 - NOISE <= covered <= 0.97  # Welch and Satterthwaite: a little cautious
    # Pooled without strata the spread between them, 2, would make it 2.9 wide.
    assert np.mean(found[:, 1] - found[:, 0]) < 1.4


def test_a_ratio_is_paired_by_seed():
    base = np.random.default_rng(0).uniform(1, 10, 12)
    low, high = ratio_interval([np.column_stack([2 * base, base])])
    assert low == pytest.approx(2)
    assert high == pytest.approx(2)
    # What both share cancels: the interval is that of the noise alone.
    noise = 1 + 0.01 * np.array([1, -1] * 6)
    low, high = ratio_interval([np.column_stack([2 * base * noise, base])])
    assert 0 < high - low < 0.06
