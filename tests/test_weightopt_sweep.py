"""Sweeps: the rows are what single solves give, whatever the workers, and whatever interrupted them."""

import csv
import fcntl
import importlib.metadata
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.amounts import some_of
from weightopt import Problem, solve
from weightopt.errors import ProblemError
from weightopt.sweep import COLUMNS, Sweep, run_sweep, solve_row

ROOT = Path(__file__).parent.parent
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


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no way to see what a process ignores")
def test_workers_leave_ctrl_c_to_the_process_that_started_them(tmp_path):
    """A terminal sends it to all of them, also while they still load their libraries: none shows a traceback."""
    deaf = []

    def look(_rows):
        for path in Path("/proc").glob("[0-9]*/status"):
            try:
                status = dict(line.split(":\t", 1) for line in path.read_text().splitlines())
            except OSError:
                continue
            if int(status["PPid"]) == os.getpid():
                masks = int(status["SigBlk"], 16) | int(status["SigIgn"], 16)
                deaf.append(bool(masks >> (signal.SIGINT - 1) & 1))

    run_sweep(SWEEP, tmp_path / "sweep.csv", 2, look)
    assert len(deaf) >= 2
    assert all(deaf)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.slow
def test_workers_change_nothing(tmp_path):
    run_sweep(SWEEP, tmp_path / "one.csv", 1, ignore)
    run_sweep(SWEEP, tmp_path / "two.csv", 2, ignore)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The sweep's table, and what its journal held before its last row was there."""
    folder = tmp_path_factory.mktemp("whole")
    run_sweep(SWEEP, folder / "whole.csv", 1, ignore)
    return (folder / "whole.csv").read_bytes(), stopped(folder / "cut.csv", SWEEP.size - 1)


def stopped(path, after):
    """The journal of a sweep that is interrupted after so many rows."""
    seen = -after

    def stop(rows):
        nonlocal seen
        seen += rows
        if seen >= 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(SWEEP, path, 1, stop)
    assert not path.exists()
    return partial(path).read_bytes()


def partial(path):
    return path.with_name(path.name + ".partial")


@pytest.mark.slow
@some_of("after", [0, 1, 7, 23], 1)
def test_an_interrupted_sweep_goes_on_to_the_same_bytes(tmp_path, whole, after):
    path = tmp_path / "cut.csv"
    kept = stopped(path, after)
    assert kept.count(b"\n") == 1 + after  # what it is about, and the rows
    assert whole[1].startswith(kept)
    with open(partial(path), "ab") as file:
        file.write(b'{"sha256": "')  # what a full disk or a killed process leaves
    with pytest.raises(ProblemError, match="unfinished"):
        run_sweep(SWEEP, path, 1, ignore)
    with pytest.raises(ProblemError, match="options"):
        run_sweep(SWEEP._replace(start=(0.02,)), path, 1, ignore, resume=True)
    assert partial(path).read_bytes().startswith(kept)
    counts = []
    run_sweep(SWEEP, path, 2, counts.append, resume=True)
    assert counts == [after] + [1] * (SWEEP.size - after)  # none is solved again
    assert path.read_bytes() == whole[0]
    assert not partial(path).exists()
    with pytest.raises(ProblemError, match="there is no"):
        run_sweep(SWEEP, path, 1, ignore, resume=True)


def test_rows_of_another_version_are_not_mixed_in(tmp_path, monkeypatch):
    path = tmp_path / "cut.csv"
    kept = stopped(path, 3)
    real = importlib.metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.1" if name == "weightopt" else real(name))
    with pytest.raises(ProblemError, match="versions of weightopt, numpy, scipy"):
        run_sweep(SWEEP, path, 1, ignore, resume=True)
    assert partial(path).read_bytes() == kept


def test_what_others_did_to_an_unfinished_sweep_is_noticed(tmp_path, whole):
    path = tmp_path / "cut.csv"
    lines = whole[1].splitlines(keepends=True)
    digit = whole[1].rindex(b"0.")
    for damaged in (
        lines[:3] + lines[4:],  # removed
        [*lines[:3], lines[4], lines[3], *lines[5:]],  # swapped
        [*lines[:4], *lines[3:]],  # doubled
        [*lines, lines[-1]],
        [*lines[:3], lines[3].replace(b', "', b', ["', 1), *lines[4:]],
        [*lines[:3], lines[3][: lines[3].rindex(b", ")] + b"]}\n", *lines[4:]],  # one column short
        [whole[1][:digit] + b"1" + whole[1][digit + 1 :]],  # edited
        [b"0.4,0.9,effective\n"],
    ):
        partial(path).write_bytes(b"".join(damaged))
        with pytest.raises(ProblemError, match=r"resume cannot be done: .*cut.csv.partial' is damaged: line \d"):
            run_sweep(SWEEP, path, 1, ignore, resume=True)
        assert partial(path).read_bytes() == b"".join(damaged)
        assert not path.exists()


def test_one_process_writes_a_sweep_at_a_time(tmp_path):
    path = tmp_path / "cut.csv"
    stopped(path, 3)
    with open(partial(path), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ProblemError, match="is being written by another process"):
            run_sweep(SWEEP, path, 1, ignore, resume=True)
    partial(path).write_bytes(b"")
    with open(partial(path), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ProblemError, match=r"output cannot be done: .* is being written by another process"):
            run_sweep(SWEEP, path, 1, ignore)


OPTIONS = ("--start", "0.01:0.4:60", "--target", "0.5,0.9", "--clock", "effective", "--clock", "regular")


def command_line(path, *more):
    return [sys.executable, "-m", "weightopt", "sweep", *OPTIONS, "--output", str(path), *more]


# The command line, in a process that is killed before it writes its twelfth line.
KILLED = """
import os, signal
from weightopt import cli
from weightopt.journal import Journal

append, written = Journal.append, 0

def killed(self, entry):
    global written
    if written == 11:
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, entry)
    written += 1

Journal.append = killed
cli.main()
"""


@pytest.mark.slow
def test_a_killed_sweep_keeps_every_row_it_had(tmp_path):
    path = tmp_path / "cut.csv"
    arguments = command_line(path, "--workers", "2")[3:]
    process = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, stderr=subprocess.PIPE, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    kept = partial(path).read_bytes()
    again = tmp_path / "again.csv"
    subprocess.run(command_line(path, "--resume", "--json"), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(command_line(again, "--json"), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert path.read_bytes() == again.read_bytes()
    rows = [json.loads(line)["entry"] for line in kept[: kept.rindex(b"\n")].splitlines()[1:]]
    assert len(rows) == 10  # after the line that says what they are about
    lines = path.read_text().splitlines()[1:]
    assert [",".join(row) for row in rows] == lines[: len(rows)]


@pytest.mark.slow
def test_a_full_disk_loses_no_row(tmp_path):
    path = tmp_path / "cut.csv"
    code = (
        "import resource, signal, sys; from weightopt.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY)); main()"
    )

    def limited(size, *more):
        arguments = [sys.executable, "-c", code, str(size), *command_line(path, "--workers", "1", "--json", *more)[3:]]
        return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)

    first = limited(3000)
    assert first.returncode == 1
    assert first.stderr.startswith("weightopt: cannot write ")
    assert "--resume goes on" in first.stderr
    kept = partial(path).read_bytes()
    assert kept.count(b"\n") > 5
    assert kept.endswith(b"\n")
    second = limited(3000, "--resume")  # still full
    assert second.returncode == 1
    assert partial(path).read_bytes() == kept
    assert limited(10**6, "--resume").returncode == 0
    assert path.read_bytes().count(b"\n") == 241


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


@pytest.mark.slow
def test_standard_output_takes_the_same_rows(tmp_path):
    path = tmp_path / "sweep.csv"
    arguments = ["sweep", "--start", "0.01,0.1", "--target", "0.5,0.9", "--clock", "regular", "--max-weight", "1.5,9"]

    def call(*more):
        command = [sys.executable, "-m", "weightopt", *arguments, "--workers", "1", *more]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert call("--output", str(path)).returncode == 0
    piped = call("--output", "-")
    assert (piped.returncode, piped.stdout) == (0, path.read_text())
    assert re.fullmatch(r"weightopt: 8 rows: (\d+ \w+(, )?)+\n", piped.stderr)
    for more in (["--json"], ["--resume"]):
        refused = call("--output", "-", *more)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == f"weightopt: {more[0]} needs --output FILE: standard output takes the rows alone.\n"
    assert not list(tmp_path.glob("*.partial"))
