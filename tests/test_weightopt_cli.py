"""The command line: what it prints, what it writes, and one sentence with an exit status when it cannot."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.amounts import some_of
from theory import catalogue, closed_forms
from weightopt.catalogue_tables import named_table
from weightopt.table import WeightTable
from weightopt.verify import verify

ROOT = Path(__file__).resolve().parent.parent
SOLVE = ["solve", "--start", "0.01", "--target", "0.9", "--clock", "effective"]
COMPARE = ["compare", "--start", "0.01", "--target", "0.9", "--clock", "effective"]


def document(result):
    status, out, err = result
    assert (status, err) == (0, "")
    return json.loads(out)


def assert_refused(result, *words, status=2):
    code, out, err = result
    assert code == status
    assert out == ""
    assert err.startswith("weightopt: ")
    assert err.endswith((".\n", "?\n"))
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_solve_prints_the_promised_keys(run):
    found = document(run(*SOLVE, "--json"))
    assert set(found) >= {"status", "time", "lower_bound", "gap", "rho", "weight"}
    assert found["status"] == "optimal"
    assert found["time"] == pytest.approx(closed_forms.optimal_time("effective", 0.01, 0.9), rel=1e-12)
    assert 0 <= found["gap"] <= 1e-10
    assert found["lower_bound"] <= found["time"] * (1 + 1e-12)
    assert len(found["rho"]) == len(found["weight"])
    assert (found["rho"][0], found["rho"][-1]) == (0.01, 0.9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "extra",
    [[], ["--budget", "7.5"], ["--max-weight", "3"], ["--monotone", "decreasing", "--min-weight", "0.9"]],
    ids=" ".join,
)
def test_the_printed_curve_spends_the_budget(run, extra):
    found = document(run(*SOLVE, *extra, "--json"))
    rho, weight = np.array(found["rho"]), np.array(found["weight"])
    budget = found["problem"]["budget"]
    spent = float(np.sum((weight[1:] + weight[:-1]) / 2 * np.diff(rho)))
    # Trapezoids on 1025 points, even in log-odds (spacing 0.0066): second order, about (0.0066)²/12 times a few.
    assert spent == pytest.approx(budget, rel=5e-5)
    cost = 1 / (rho**2 * (1 - rho) * weight)
    assert float(np.sum((cost[1:] + cost[:-1]) / 2 * np.diff(rho))) == pytest.approx(found["time"], rel=5e-5)


def test_solve_with_a_group_prints_the_group_table(run, tmp_path):
    found = document(run(*SOLVE, "--group-size", 8, "--output", "table.json", "--json"))
    table = WeightTable.load(tmp_path / "table.json")
    assert found["rho"] == pytest.approx(np.arange(1, 8) / 8)
    assert tuple(found["weight"]) == table.weight
    assert tuple(found["advantage_correct"]) == table.advantage_correct
    assert tuple(found["advantage_wrong"]) == table.advantage_wrong
    assert "certified: feasible" in verify(table)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        SOLVE,
        [*SOLVE, "--group-size", "4", "--plug-in", "--monotone", "decreasing", "--max-weight", "2"],
        [*SOLVE, "--group-size", "100"],
        COMPARE,
        ["table", "--weighting", "uniform-r", "--group-size", "4"],
        ["table", "--weighting", "power:0.5,0.5"],
    ],
    ids=" ".join,
)
def test_people_get_text(run, arguments):
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    assert len(out.splitlines()) > 5
    with pytest.raises(ValueError, match=r"Expecting|Extra"):
        json.loads(out)


def test_the_readable_summary_names_status_time_and_gap(run):
    _, out, _ = run(*SOLVE)
    for word in ("optimal", "28.4253762646", "gap", "effective"):
        assert word in out


def test_reconstructions_are_called_so_wherever_they_are_shown(run, tmp_path):
    assert "reconstruction" in run("table", "--weighting", "plateau-r", "--output", tmp_path / "t.json")[1]
    assert "reconstruction" in run("show", tmp_path / "t.json")[1]
    assert run(*COMPARE)[1].count("reconstruction") == 2


@pytest.mark.slow
@pytest.mark.parametrize("clock", ["regular", "effective", "failures", "mixed:16", "affine:1,0.5"])
def test_compare_has_a_row_for_every_named_weighting(run, clock):
    found = document(run("compare", "--start", 0.01, "--target", 0.9, "--clock", clock, "--json"))
    assert [row["weighting"] for row in found["rows"]] == [
        *("rloo", "grpo", "linear-r", "sqrt-r", "uniform-r", "plateau-r", "optimal")
    ]
    assert found["problem"]["clock"].partition(":")[0] == clock.partition(":")[0]
    for row in found["rows"]:
        assert set(row) == {"weighting", "time", "ratio"}
        assert row["time"] == pytest.approx(row["ratio"] * found["optimal_time"], rel=1e-13)
        assert row["ratio"] >= 1 - 1e-12


def test_compare_prints_the_reference_numbers(run):
    _, out, _ = run(*COMPARE)
    for number in ("3.309", "1.555", "1.075", "1.000"):
        assert number in out
    assert "made for: drawing for a prompt until one response is right" in out


@pytest.mark.slow
def test_table_and_show_print_the_file(run, tmp_path):
    status, out, _ = run("table", "--weighting", "grpo", "--group-size", 16, "--output", "grpo.json", "--json")
    assert status == 0
    assert out == (tmp_path / "grpo.json").read_text() == named_table(catalogue.WEIGHTINGS["grpo"], 16).to_json()
    assert run("show", "grpo.json", "--json") == (0, out, "")
    status, text, err = run("show", "grpo.json", "--csv", "grpo.csv")
    assert (status, err) == (0, "")
    assert "GRPO" in text
    assert (tmp_path / "grpo.csv").read_text() == WeightTable.load(tmp_path / "grpo.json").to_csv()


def test_table_with_a_budget_spends_it(run):
    found = document(
        run(
            "table", "--weighting", "grpo", "--budget", 2, "--start", 0.01, "--target", 0.9, "--group-size", 4, "--json"
        )
    )
    scale = 2 / (2 * math.asin(math.sqrt(0.9)) - 2 * math.asin(math.sqrt(0.01)))
    assert found["weight"] == pytest.approx([scale / math.sqrt(k / 4 * (1 - k / 4)) for k in (1, 2, 3)], rel=1e-12)


@pytest.mark.slow
def test_files_are_the_same_bytes_when_written_twice(run, tmp_path):
    for _ in range(2):
        names = [f"{len(list(tmp_path.iterdir()))}{kind}" for kind in ("table.json", "numbers.csv", "picture.png")]
        status, _, err = run(
            *SOLVE, "--group-size", 8, "--output", names[0], "--csv", names[1], "--plot", names[2], "--json"
        )
        assert (status, err) == (0, "")
    one, other = ([tmp_path / f"{n}{k}" for k in ("table.json", "numbers.csv", "picture.png")] for n in (0, 3))
    for a, b in zip(one, other, strict=True):
        assert a.read_bytes() == b.read_bytes()
    assert one[2].read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert len(list(tmp_path.iterdir())) == 6  # and no temporary file


REFUSED = {
    "start above target": ([*SOLVE[:2], "0.95", *SOLVE[3:]], ["--start", "0.9"]),
    "start zero": ([*SOLVE[:2], "0", *SOLVE[3:]], ["--start", "(0, 1)"]),
    "target one": ([*SOLVE[:4], "1", *SOLVE[5:]], ["--target", "(0, 1)"]),
    "start nan": ([*SOLVE[:2], "nan", *SOLVE[3:]], ["--start"]),
    "start a word": ([*SOLVE[:2], "x", *SOLVE[3:]], ["--start"]),
    "start missing": (["solve", *SOLVE[3:]], ["--start"]),
    "clock unknown": (
        [*SOLVE[:6], "foo"],
        ["--clock", "regular, effective, failures, both, variance, refill:M,a,b, affine:a,b, success:M, mixed:M"],
    ),
    "clock of one": ([*SOLVE[:6], "mixed:1"], ["--clock", "from 2"]),
    "clock of nothing": ([*SOLVE[:6], "affine:0,0"], ["--clock"]),
    "clock too large": ([*SOLVE[:6], "affine:1e308,1e308"], ["--clock"]),
    "clock too small": ([*SOLVE[:6], "affine:5e-324,5e-324"], ["--clock"]),
    "mobility unknown": ([*SOLVE, "--mobility", "x"], ["--mobility", "natural"]),
    "budget negative": ([*SOLVE, "--budget", "-1"], ["--budget", "positive"]),
    "budget zero": ([*SOLVE, "--budget", "0"], ["--budget"]),
    "budget infinite": ([*SOLVE, "--budget", "inf"], ["--budget"]),
    "budget too large": ([*SOLVE, "--budget", "1e308"], ["--budget"]),
    "budget too small": ([*SOLVE, "--budget", "1e-320"], ["--budget"]),
    "lower bound negative": ([*SOLVE, "--min-weight", "-1"], ["--min-weight"]),
    "lower bound too high": ([*SOLVE, "--min-weight", "2"], ["--min-weight", "1.1236"]),
    "upper bound too low": ([*SOLVE, "--max-weight", "1"], ["--max-weight", "1.1236"]),
    "upper bound absurd": ([*SOLVE, "--max-weight", "1e200"], ["--max-weight"]),
    "monotone unknown": ([*SOLVE, "--monotone", "up"], ["--monotone", "decreasing", "increasing"]),
    "group of one": ([*SOLVE, "--group-size", "1"], ["group", "size", "from 2 to"]),
    "group too large": (["table", "--weighting", "grpo", "--group-size", "65537"], ["group", "size", "65536"]),
    "group a fraction": (["table", "--weighting", "grpo", "--group-size", "2.5"], ["--group-size"]),
    "no limit": ([*SOLVE, "--mobility", "softmax-gradient"], ["--all-wrong"]),
    "rule not a number": ([*SOLVE, "--all-wrong", "nan"], ["--all-wrong"]),
    "weighting unknown": (["table", "--weighting", "foo"], ["--weighting", "grpo", "power:a,b"]),
    "weighting out of range": (["table", "--weighting", "power:99,0"], ["--weighting", "20"]),
    "weighting missing": (["table"], ["--weighting"]),
    "budget alone": (["table", "--weighting", "grpo", "--budget", "1"], ["--budget", "--start", "--target"]),
    "scaled budget absurd": (
        ["table", "--weighting", "grpo", "--budget", "1e308", "--start", "0.1", "--target", "0.9"],
        ["--budget"],
    ),
    "compare backwards": (["compare", "--start", "0.9", "--target", "0.1", "--clock", "regular"], ["--start"]),
    "command unknown": (["slove"], ["slove"]),
    "option unknown": ([*SOLVE, "--colour", "red"], ["--colour"]),
    "show nothing": (["show", "absent.json"], ["absent.json"]),
    "show no argument": (["show"], ["file"]),
    "output in no folder": ([*SOLVE, "--output", "absent/t.json"], ["--output", "absent/t.json"]),
    "csv in no folder": ([*SOLVE, "--csv", "absent/t.csv"], ["--csv"]),
    "plot in no folder": ([*SOLVE, "--plot", "absent/t.png"], ["--plot"]),
    "plot of no known kind": ([*SOLVE, "--plot", "t.txt"], ["--plot", ".png", ".svg"]),
    "output is a folder": ([*SOLVE, "--output", "."], ["--output"]),
}


@some_of("name", REFUSED, 15)
def test_bad_input_is_one_sentence_and_leaves_no_file(name, run, tmp_path):
    arguments, words = REFUSED[name]
    if "--output" not in arguments and arguments[0] in ("solve", "table"):
        # Where the failure is in another option, nothing may be written either.
        arguments = [*arguments, "--output", "left.json"] if "absent" not in " ".join(arguments) else arguments
    assert_refused(run(*arguments), *words)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(run, tmp_path, monkeypatch):
    import os

    (tmp_path / "table.json").write_text("old")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    assert_refused(run(*SOLVE, "--output", "table.json"), "--output", "No space left")
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]
    assert (tmp_path / "table.json").read_text() == "old"


@pytest.mark.slow
def test_check_accepts_what_was_written(run):
    run(*SOLVE, "--group-size", 8, "--output", "solved.json")
    run("table", "--weighting", "linear-r", "--output", "named.json")
    for name in ("solved.json", "named.json"):
        status, out, err = run("check", name)
        assert (status, err) == (0, "")
        assert out.startswith(f"{name}: fine")
        assert document(run("check", name, "--json"))["ok"] is True


@pytest.mark.slow
def test_check_refuses_a_changed_file_with_status_one(run, tmp_path):
    path = tmp_path / "table.json"
    run("table", "--weighting", "grpo", "--group-size", 4, "--output", path)
    path.write_text(path.read_text().replace("2.0", "2.1"))
    assert_refused(run("check", path), "checksum", str(path), status=1)
    status, out, _ = run("check", path, "--json")
    assert status == 1
    assert json.loads(out)["ok"] is False
    path.write_bytes(b"\xff")
    assert_refused(run("check", path), "UTF-8", status=1)
    path.unlink()
    for absent in (path, "a" * 300):
        assert_refused(run("check", absent), "give a table file or the folder of a training run", status=1)


def test_an_interruption_has_the_last_word(run, monkeypatch):
    """What comes after it would end the process by a signal, without the exit status."""
    before = signal.getsignal(signal.SIGINT)

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(WeightTable, "load", interrupted)
    try:
        assert run("show", "table.json") == (130, "", "weightopt: interrupted.\n")
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"certificate": {}},
        {"certificate": {"time": "x", "gap": 1}},
        {"provenance": {}},
        {"provenance": {"source": "x"}},
        {"provenance": {"source": "x", "formula": 3, "scale": "y"}},
        {"provenance": {"source": ["x"], "formula": None, "scale": None}},
        {"label": "two\nlines [bold]and markup[/nothing]"},
    ],
    ids=str,
)
def test_show_survives_odd_contents_with_a_valid_checksum(change, run, tmp_path):
    import dataclasses

    named = named_table(catalogue.WEIGHTINGS["grpo"], 4)
    dataclasses.replace(named, **change).save(tmp_path / "odd.json")
    status, _, err = run("show", "odd.json")
    assert status in (0, 2)
    assert err.count("\n") <= 1
    assert_refused(run("check", "odd.json"), status=1)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["solve", "--help"], ["check", "-h"]], ids=" ".join)
def test_help_is_printed(arguments, run):
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    assert "Usage" in out


def test_without_a_command_the_help_is_shown(run):
    status, out, err = run()
    assert status == 2
    assert "Usage" in out + err
    assert "weightopt: ." not in err


@pytest.mark.slow
def test_the_module_runs_as_a_program(tmp_path):
    def start(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "weightopt", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )

    done = start(*SOLVE, "--json", "--output", str(tmp_path / "table.json"))
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["status"] == "optimal"
    done = start("check", str(tmp_path / "table.json"))
    assert done.returncode == 0
    done = start("solve", "--start", "0.9", "--target", "0.1", "--clock", "regular")
    assert done.returncode == 2
    assert done.stderr.startswith("weightopt: --start")
    assert done.stderr.count("\n") == 1
