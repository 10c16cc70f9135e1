"""Measures of a known record, and intervals with the coverage they state."""

import math

import numpy as np
import pytest

from sim.measure import area, bootstrap_interval, measures, time_to
from sim.trajectory import COLUMNS, Trajectory

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


def test_a_record_survives_its_file():
    text = RECORD.to_csv()
    assert text.splitlines()[0] == ",".join(COLUMNS)
    assert text.splitlines()[2] == "10,160,10,0.3,0.1,0.8,0.2,0"
    np.testing.assert_array_equal(Trajectory.from_csv(text).rows, RECORD.rows)
    for damaged in ("", text.replace("step", "steps"), text.replace("0.3,", "x,"), text.rsplit(",", 1)[0]):
        with pytest.raises((ValueError, IndexError)):
            Trajectory.from_csv(damaged)


def test_intervals_cover_the_mean_over_strata():
    # Two strata of different level and spread, 20 seeds each; 400 repetitions, percentile intervals are a bit narrow.
    rng, hits, low, high = np.random.default_rng(0), 0, 0.0, 0.0
    for _ in range(400):
        strata = [rng.normal(1, 0.1, (20, 1)), rng.normal(5, 1, (20, 1))]
        low, high = bootstrap_interval(strata, lambda means: means[:, 0], rng)
        hits += low <= 3 <= high
    assert 0.89 < hits / 400 < 0.98
    assert high - low < 0.8  # pooled without strata the spread between them would make it 1.3


def test_a_ratio_is_paired_by_seed():
    rng = np.random.default_rng(0)
    base = rng.uniform(1, 10, (12, 1))
    low, high = bootstrap_interval([np.hstack([2 * base, base])], lambda means: means[:, 0] / means[:, 1], rng)
    assert low == pytest.approx(2)
    assert high == pytest.approx(2)
