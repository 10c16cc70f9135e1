"""Sweeps: the rows are what single solves give, whatever the workers, and whatever interrupted them."""

import csv
import math

import pytest

from weightopt import Problem, solve
from weightopt.errors import ProblemError
from weightopt.sweep import COLUMNS, Sweep, run_sweep, solve_row

SWEEP = Sweep(
    start=(0.01, 0.4),
    target=(0.3, 0.9),
    clock=("effective", "affine:1,0.1"),
    max_weight=(1.5, math.inf),
    monotone=(None, "decreasing"),
)


def ignore(_):
    pass


def test_rows_are_single_solves_in_order(tmp_path):
    counts = run_sweep(SWEEP, tmp_path / "sweep.csv", 1, ignore)
    with open(tmp_path / "sweep.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == SWEEP.size == sum(counts.values())
    assert counts["infeasible"] > 0
    for row, values in zip(rows, SWEEP.combinations(), strict=True):
        assert float(row["start"]) == values["start"]
        assert row["clock"] == values["clock"]
        if row["status"] == "infeasible":
            with pytest.raises(ProblemError):
                Problem(**values)
        else:
            assert float(row["time"]) == solve(Problem(**values)).time


def test_workers_change_nothing(tmp_path):
    run_sweep(SWEEP, tmp_path / "one.csv", 1, ignore)
    run_sweep(SWEEP, tmp_path / "two.csv", 2, ignore)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


@pytest.mark.parametrize("after", [0, 1, 7, 23])
def test_an_interrupted_sweep_goes_on_to_the_same_bytes(tmp_path, after):
    run_sweep(SWEEP, tmp_path / "whole.csv", 1, ignore)
    path = tmp_path / "cut.csv"
    seen = 0

    def stop(rows):
        nonlocal seen
        seen += rows
        if seen > after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(SWEEP, path, 1, stop)
    assert not path.exists()
    partial = tmp_path / "cut.csv.partial"
    with open(partial, "ab") as file:
        file.write(b"0.4,0.9,eff")  # what a full disk or a killed process leaves
    with pytest.raises(ProblemError, match="unfinished"):
        run_sweep(SWEEP, path, 1, ignore)
    with pytest.raises(ProblemError, match="options"):
        run_sweep(SWEEP._replace(start=(0.02,)), path, 1, ignore, resume=True)
    run_sweep(SWEEP, path, 1, ignore, resume=True)
    assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not partial.exists()


def test_what_is_wrong_in_itself_is_refused_before_anything_is_written(tmp_path):
    for changed, field in (
        ({"start": (0.0,)}, "start"),
        ({"target": (1.5,)}, "target"),
        ({"clock": ("sundial",)}, "clock"),
        ({"mobility": ("none",)}, "mobility"),
        ({"max_ratio": (0.5,)}, "max_ratio"),
        ({"max_weight": (-1.0,)}, "max_weight"),
        ({"min_weight": (-1.0,)}, "min_weight"),
        ({"clock": ()}, "clock"),
        ({"start": (0.1,) * 1_000_001}, "start"),
    ):
        with pytest.raises(ProblemError) as caught:
            run_sweep(SWEEP._replace(**changed), tmp_path / "sweep.csv", 1, ignore)
        assert caught.value.field == field
    assert list(tmp_path.iterdir()) == []


def test_an_uncertified_row_says_so():
    # Within 1e-6 of ρ = 1 the digits of 1-ρ run out: bounds there cannot be certified.
    row = dict(
        zip(
            COLUMNS,
            solve_row(
                {
                    **dict(
                        zip(
                            Sweep._fields,
                            (0.5, 1 - 1e-11, "regular", "natural", 0.0, 2.05, math.inf, None),
                            strict=True,
                        )
                    )
                }
            ),
            strict=True,
        )
    )
    assert row["status"] in ("uncertified", "optimal")
    assert (float(row["gap"]) > 1e-10) == (row["status"] == "uncertified")
