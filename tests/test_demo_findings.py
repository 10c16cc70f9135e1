"""The demonstration's report: its statistics, and that its sentence follows from the numbers."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from demo import findings
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


def frame(optimal, grpo):
    return pd.concat(
        run([0.05, 0.05 + rate, 0.05 + 2 * rate, 0.05 + 3 * rate], f"seed-{seed}", table)
        for table, rates in (("optimal", optimal), ("grpo", grpo))
        for seed, rate in enumerate(rates)
    )


@pytest.mark.parametrize(
    ("optimal", "grpo", "says"),
    [
        ([0.30, 0.31, 0.29], [0.20, 0.205, 0.195], "solved table is faster"),
        ([0.20, 0.205, 0.195], [0.30, 0.31, 0.29], "solved table is slower"),
        ([0.20, 0.30, 0.25], [0.25, 0.21, 0.29], "No difference in speed is shown"),
        ([0.01, 0.01, 0.01], [0.01, 0.01, 0.01], "No comparison of speed"),
    ],
)
def test_the_verdict_follows_from_the_numbers(optimal, grpo, says, tmp_path):
    tables = {"optimal": tmp_path / "table.json", "grpo": tmp_path / "grpo.json"}
    solve(Problem(0.01, 0.9, "effective")).table().save(tables["optimal"])
    named_table(WEIGHTINGS["grpo"], 16).save(tables["grpo"])
    printed = findings.write_report(tmp_path, frame(optimal, grpo), tables, {"training": 1.0})
    text = (tmp_path / "report.md").read_text()
    assert says in text
    assert says in printed
    assert "[table.json](table.json)" in text
    assert "training.png" in text


def test_a_seed_that_never_arrives_is_counted_not_averaged(tmp_path):
    tables = {"optimal": tmp_path / "table.json", "grpo": tmp_path / "grpo.json"}
    for name, path in tables.items():
        named_table(WEIGHTINGS["grpo" if name == "grpo" else "sqrt-r"], 16).save(path)
    printed = findings.write_report(tmp_path, frame([0.3, 0.3, 0.3], [0.3, 0.02, 0.3]), tables, {})
    assert "reached by 2 of 3 seeds" in printed


def test_one_seed_shows_no_winner(tmp_path):
    tables = {"optimal": tmp_path / "table.json", "grpo": tmp_path / "grpo.json"}
    for name, path in tables.items():
        named_table(WEIGHTINGS["grpo" if name == "grpo" else "sqrt-r"], 16).save(path)
    printed = findings.write_report(tmp_path, frame([0.30], [0.10]), tables, {}, (0.1, 0.2))
    assert "not which table is better" in printed
    assert "faster" not in printed
    assert "ends at 95.0%, GRPO's at 35.0%" in printed
    # 0.05 + 0.3 a hundred responses reaches 0.2 half way; with 0.1 it takes one and a half times a hundred.
    assert re.search(r"\| 20% \| 50 \| 150 \|", printed)
