"""Measured clocks, mobilities and budget densities: reading, and solving with them."""

import math

import mpmath as mp
import numpy as np
import pytest
from scipy.special import expit
from typer.testing import CliRunner

from tests.amounts import some_of
from theory.clocks import Tabulated
from theory.log_linear import LogLinear
from theory.quadrature import log_odds
from weightopt import Problem, solve
from weightopt.cli import app
from weightopt.columns import number, separated_by
from weightopt.convex import solve_curve
from weightopt.curves.measured_files import COARSE, coarseness, read_clock, read_density, read_mobility
from weightopt.errors import ProblemError
from weightopt.tabulate import even_grid
from weightopt.verify import verify

COSTS = LogLinear((0.005, 0.05, 0.2, 0.3, 0.5, 0.95), (50.0, 12.0, 9.0, 14.0, 3.0, 2.5))
DENSITY = LogLinear((0.001, 0.1, 0.999), (1.0, 3.0, 0.5))
CLOCK = Tabulated("csv", "costs.csv", COSTS)


def write(path, header, pairs):
    path.write_text(header + "\n" + "".join(f"{a},{b}\n" for a, b in pairs))
    return str(path)


def test_a_measured_power_law_is_the_named_clock():
    # 1/ρ known at 4001 points: log-linear interpolation in log-odds errs by (h²/8)·max|(ln ρ)''| = 4e-6·1/4.
    rho = even_grid(0.005, 0.95, 4001)
    clock = Tabulated("csv", "effective", LogLinear(tuple(rho), tuple(1 / rho)))
    assert solve(Problem(0.01, 0.9, clock)).time == pytest.approx(solve(Problem(0.01, 0.9, "effective")).time, rel=1e-6)


@some_of("monotone", [None, "decreasing", "increasing"], 2)
@pytest.mark.parametrize("bounds", [(0.0, np.inf), (0.4, 3.0)])
def test_direct_and_convex_agree_on_measured_quantities(monotone, bounds):
    problem = Problem(
        0.01, 0.9, CLOCK, budget=1.5, min_weight=bounds[0], max_weight=bounds[1], monotone=monotone,
        budget_density=DENSITY,
    )  # fmt: skip
    solution = solve(problem)
    assert solution.gap <= 1e-10
    # The other road has no panels split at pools and water levels: 1e-6 is its discretisation.
    assert solve_curve(problem).time == pytest.approx(solution.time, rel=1e-6)


def test_a_constant_density_only_rescales_the_budget():
    plain = solve(Problem(0.01, 0.9, "effective", budget=2))
    twice = solve(Problem(0.01, 0.9, "effective", budget=4, budget_density=LogLinear((0.001, 0.99), (2.0, 2.0))))
    assert twice.time == pytest.approx(plain.time, rel=1e-12)


def test_the_optimum_follows_its_law():
    # ω* ∝ √(c/(κ p)), at every ρ.
    solution = solve(Problem(0.01, 0.9, CLOCK, budget_density=DENSITY))
    rho = even_grid(0.01, 0.9, 50)
    law = np.sqrt(COSTS(rho) / (rho * (1 - rho) * DENSITY(rho)))
    ratio = solution.weighting(rho) / law
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-12)


def test_tables_of_measured_problems_verify(tmp_path):
    clock = read_clock(
        "csv:" + write(tmp_path / "c.csv", "rho,cost", zip(COSTS.rho, COSTS.value, strict=True)), 0.01, 0.9
    )
    mobility = read_mobility("csv:" + write(tmp_path / "m.csv", "rho,mobility", [(0.01, 0.01), (0.9, 0.2)]), 0.01, 0.9)
    density = read_density(write(tmp_path / "d.csv", "rho,density", [(0.01, 1), (0.9, 4)]), 0.01, 0.9)
    problem = Problem(0.01, 0.9, clock, mobility, budget_density=density)
    table = solve(problem).table()
    path = tmp_path / "table.json"
    table.save(path)
    assert "certified: feasible" in verify(type(table).load(path))
    assert Problem.from_dict(problem.to_dict()) == problem


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rho,price\n0.01,1\n0.9,1\n", "line 1"),
        ("", "line 1"),
        ("rho,cost\n0.01,1\n", "from 2 to"),
        ("rho,cost\n0.01,1\n0.9\n", "line 3 has 1 columns"),
        ("rho,cost\n0.01,1\n0.9,x\n", "line 3, column cost"),
        ("rho,cost\n0.01,1\n1.5,2\n", "line 3, column rho"),
        ("rho,cost\n0.5,1\n0.4,2\n", "line 3, column rho"),
        ("rho,cost\n0.01,1\n0.9,-2\n", "line 3, column cost"),
        ("rho,cost\n0.01,nan\n0.9,2\n", "line 2, column cost"),
        ("rho,cost\n0.02,1\n0.9,2\n", "must cover"),
        ("rho,cost\n0.01,1\n0.8,2\n", "must cover"),
        ("\x00\x01", "line 1"),
    ],
)
def test_a_bad_file_is_refused_by_line_and_column(tmp_path, text, says):
    path = tmp_path / "c.csv"
    path.write_text(text)
    with pytest.raises(ProblemError, match=says) as caught:
        read_clock(f"csv:{path}", 0.01, 0.9)
    assert caught.value.field == "clock"
    assert "\n" not in str(caught.value)


def test_missing_files_and_unknown_names_are_refused(tmp_path):
    with pytest.raises(ProblemError, match="cannot be read"):
        read_clock(f"tokens:{tmp_path / 'none.csv'}", 0.01, 0.9)
    with pytest.raises(ProblemError, match="tokens-effective:FILE"):
        read_clock("lunar", 0.01, 0.9)
    with pytest.raises(ProblemError, match="csv:FILE"):
        read_mobility("lunar", 0.01, 0.9)


def test_tokens_per_success_divide_by_the_success_probability():
    tokens, effective = (Tabulated(kind, "t.csv", COSTS) for kind in ("tokens", "tokens-effective"))
    rho = even_grid(0.01, 0.9, 20)
    np.testing.assert_allclose(effective(rho), tokens(rho) / rho, rtol=1e-15)


@pytest.mark.parametrize("text", ["2_0", "\u0662\u0660", "nan", "inf", "1e999", "0x10", "", "1 2"])
def test_a_number_is_ascii_digits_and_finite(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number"):
        number(text)
    assert number(" -2.5e1 ") == -25.0


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_another_separator_is_named(mark: str, name: str) -> None:
    assert separated_by([f"rho{mark}cost"]) == f", separated by commas and not by {name}"
    assert separated_by(["rho", "price"]) == ""


@pytest.mark.parametrize(("rows", "coarse"), [(2, True), (3, True), (5, True), (40, False)])
def test_a_coarse_table_of_a_clock_is_told_on_standard_error(tmp_path, rows, coarse):
    rho = expit(np.linspace(log_odds(0.01), log_odds(0.9), rows))
    rho[0], rho[-1] = 0.01, 0.9
    path = tmp_path / "cost.csv"
    path.write_text("rho,cost\n" + "".join(f"{x!r},{1 / x!r}\n" for x in rho.tolist()))
    problem = Problem(0.01, 0.9, read_clock(f"csv:{path}", 0.01, 0.9))
    best = solve(Problem(0.01, 0.9, "effective")).time
    assert (coarseness(problem) > COARSE) == coarse
    assert (abs(solve(problem).time / best - 1) > COARSE / 4) == coarse  # the criterion tells what it is about
    run = CliRunner().invoke(app, ["solve", "--start", "0.01", "--target", "0.9", "--clock", f"csv:{path}"])
    assert run.exit_code == 0
    assert ("is coarse" in run.stderr) == coarse


def test_two_close_points_of_a_measured_clock_keep_their_digits():
    points = LogLinear((0.3, 0.3 + 1e-9), (1.0, 1e20))
    middle = 0.3 + 0.25e-9
    share = mp.mpf(middle) - mp.mpf(0.3)
    exact = 20 * float(share / (mp.mpf(0.3 + 1e-9) - mp.mpf(0.3)))  # log-odds are linear to 1e-9 here
    assert math.log10(float(points(np.array(middle)))) == pytest.approx(exact, rel=2e-9)
