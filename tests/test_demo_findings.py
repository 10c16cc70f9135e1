"""The demonstration's report: its statistics, and that its sentence follows from the numbers."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from demo import findings, runs
from theory.catalogue import WEIGHTINGS
from weightopt import Problem, solve
from weightopt.catalogue_tables import named_table


def run(successes, seed="seed-0", table="grpo"):
    return pd.DataFrame(
        {
            "table": table,
            "seed": seed,
            "responses": np.arange(len(successes)) * 100,
            "success": successes,
        }
    )


@pytest.mark.parametrize(
    ("successes", "expected"),
    [([0.1, 0.3, 0.7], 150.0), ([0.1, 0.5, 0.2], 100.0), ([0.6, 0.7], 0.0), ([0.1, 0.2], math.nan)],
)
def test_responses_to_reach_half(successes, expected):
    assert findings.responses_to_reach(run(successes), 0.5) == pytest.approx(expected, nan_ok=True)


def test_the_interval_is_scipys():
    values = [3.0, 5.0, 10.0]
    mean, low, high = findings.interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx((6.0, expected.low, expected.high))


def frame(advised, grpo, sqrt_r=None):
    tables = {"advised": advised, "grpo": grpo, "sqrt-r": advised if sqrt_r is None else sqrt_r}
    return pd.concat(
        run([0.05, 0.05 + rate, 0.05 + 2 * rate, 0.05 + 3 * rate], f"seed-{seed}", table)
        for table, rates in tables.items()
        for seed, rate in enumerate(rates)
    )


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    paths = {"advised": folder / "table.json", "grpo": folder / "grpo.json", "sqrt-r": folder / "sqrt-r.json"}
    solve(Problem(0.01, 0.9, "effective")).table(group_size=16).save(paths["advised"])
    for name in ("grpo", "sqrt-r"):
        named_table(WEIGHTINGS[name], 16).save(paths[name])
    return paths


@pytest.mark.parametrize(
    ("advised", "grpo", "says"),
    [
        ([0.30, 0.31, 0.29], [0.20, 0.205, 0.195], "ends higher than GRPO"),
        ([0.20, 0.205, 0.195], [0.30, 0.31, 0.29], "ends lower than GRPO"),
        ([0.20, 0.30, 0.25], [0.25, 0.21, 0.29], "ends level with GRPO"),
        ([0.30, 0.31, 0.29], [0.01, 0.01, 0.01], "Not every run of both reached"),
    ],
)
def test_the_verdict_follows_from_the_numbers(advised, grpo, says, tables, tmp_path):
    printed = findings.write_report(tmp_path, frame(advised, grpo), tables, {"training": 1.0})
    text = (tmp_path / "report.md").read_text()
    assert says in text
    assert says in printed
    assert "ends level with Sqrt-R" in printed
    assert "[table.json](table.json)" in text
    assert "training.png" in text


def test_levels_lie_between_the_start_and_the_highest_end():
    ends = frame([0.28, 0.28], [0.10, 0.10])  # from 5 % to 89 % and 35 %
    grouped = ends.sort_values("responses").groupby(["table", "seed"])["success"]
    assert findings.levels(grouped.first(), grouped.last()) == pytest.approx([0.26, 0.47, 0.68])


def test_levels_of_runs_that_learn_nothing_are_just_above_the_start():
    still = pd.concat(run([0.05, 0.04], table=table) for table in ("advised", "grpo", "sqrt-r"))
    grouped = still.sort_values("responses").groupby(["table", "seed"])["success"]
    assert findings.levels(grouped.first(), grouped.last()) == [0.06]


def test_the_ratio_of_responses_is_that_of_pairs(tables, tmp_path):
    # From 0.05 by 0.28 a hundred responses, and by 0.2: 0.68 is reached by the first only, 0.47 after 150 and 210.
    printed = findings.write_report(tmp_path, frame([0.28] * 3, [0.2] * 3), tables, {})
    assert "It needs 0.71 [0.71, 0.71] times the responses to reach 47%." in printed


def test_a_seed_that_never_arrives_is_counted_not_averaged(tables, tmp_path):
    printed = findings.write_report(tmp_path, frame([0.3, 0.3, 0.3], [0.3, 0.02, 0.3]), tables, {})
    assert "reached by 2 of 3 seeds" in printed


def test_one_seed_shows_no_winner(tables, tmp_path):
    printed = findings.write_report(tmp_path, frame([0.28], [0.10]), tables, {})
    assert "not which table is better" in printed
    assert "higher" not in printed
    assert "ends at 89.0%, GRPO at 35.0%" in printed
    # 0.05 + 0.28 a hundred responses reaches 0.26 after 75, 0.05 + 0.1 a hundred after 210.
    assert re.search(r"\| 26% \| 75 \| 210 \|", printed)


def test_a_run_that_has_not_been_measured_says_its_step_alone(monkeypatch, tmp_path):
    waiting = runs.Run("grpo", 0, tmp_path)
    assert runs._where(waiting, 24) == "grpo seed 0: step 0 of 24"
    monkeypatch.setattr(runs, "_progress", lambda _: (8, "held-out 9%"))
    assert runs._where(waiting, 24) == "grpo seed 0: step 8 of 24, held-out 9%"
