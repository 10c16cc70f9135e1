"""What ``solve --plot`` draws: the clock as it was read, named weightings at the same budget, an axis in log-odds."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from theory.dynamics import update_budget
from weightopt import GroupProblem, palette
from weightopt.commands.solve import PICTURES
from weightopt.comparison import NAMES
from weightopt.curves.measured_files import read_clock
from weightopt.curves.problem import Problem
from weightopt.kinds import solve
from weightopt.plot import ENDINGS, draw_weights, weights_figure

ROWS = [(0.005, 300.0), (0.05, 60.0), (0.2, 20.0), (0.5, 9.0), (0.95, 6.0)]


@pytest.fixture(scope="module")
def panels(tmp_path_factory):
    path = tmp_path_factory.mktemp("clock") / "clock.csv"
    path.write_text("rho,cost\n" + "".join(f"{rho},{cost}\n" for rho, cost in ROWS))
    problem = Problem(0.01, 0.9, read_clock(f"csv:{path}", 0.01, 0.9), budget=2.5)
    answer = solve(problem)
    return weights_figure(answer, answer.table(8)).axes


def test_the_axes_are_even_in_log_odds_and_labelled(panels):
    assert len(panels) == 3
    for axes in panels:
        assert axes.get_xscale() == "logit"
        low, high = axes.get_xlim()
        assert 0.005 < low < 0.01
        assert 0.9 < high < 0.95
        assert "log-odds" in axes.get_xlabel()
        assert axes.get_ylabel()
        assert {"0.01", "0.9"} <= {tick.get_text() for tick in axes.get_xticklabels()}


def test_the_clock_is_the_file_that_was_read(panels):
    line, dots = panels[0].get_lines()
    rho, cost = line.get_data()
    # Between rows ln cost is linear in log-odds: numpy's interpolation, which shares no code with the clock.
    given = np.array(ROWS)
    odds = np.log(given[:, 0] / (1 - given[:, 0]))
    expected = np.exp(np.interp(np.log(rho / (1 - rho)), odds, np.log(given[:, 1])))
    assert cost == pytest.approx(expected, rel=1e-9)
    assert dots.get_xdata() == pytest.approx([rho for rho, _ in ROWS[1:4]])
    assert dots.get_ydata() == pytest.approx([cost for _, cost in ROWS[1:4]])


def test_every_named_weighting_is_there_at_the_same_budget(panels):
    from theory.catalogue import WEIGHTINGS

    lines = {line.get_label(): line.get_data() for line in panels[1].get_lines()}
    assert set(lines) == {*(WEIGHTINGS[name].label for name in NAMES), "best curve", "curve at K/8"}
    for name in NAMES:
        weighting = WEIGHTINGS[name]
        rho, values = lines[weighting.label]
        scale = 2.5 / update_budget(weighting, 0.01, 0.9)
        # Trapezoids on 1025 points, even in log-odds, make an error of about 5e-5 for these curves.
        assert values == pytest.approx(scale * weighting(rho), rel=2e-4)
    rho, _ = lines["curve at K/8"]
    assert rho == pytest.approx(np.arange(1, 8) / 8)
    for axes in panels[1:]:
        assert len(axes.get_lines()) == len(NAMES) + 2


def test_the_picture_of_a_table_states_its_gap_and_tells_the_table_from_the_curve():
    problem = Problem(0.01, 0.9, "regular")
    curve, best = solve(problem), solve(GroupProblem(problem, 8))
    figure = weights_figure(curve, best.table(), best)
    assert f"{best.gap:.1e}" != f"{curve.gap:.1e}"
    assert figure.get_suptitle().endswith(f"certified gap of the table {best.gap:.1e}")
    lines = {line.get_label(): line for line in figure.axes[1].get_lines()}
    assert lines["solved table at K/8"].get_ydata() == pytest.approx(best.table().weight)
    # GRPO is the best curve here: it is drawn later and thinner, so that both are seen, in the colours of the figures.
    order, solved, grpo = list(lines), lines["best curve"], lines["GRPO"]
    assert grpo.get_ydata() == pytest.approx(solved.get_ydata(), rel=2e-4)
    assert order.index("GRPO") > order.index("best curve")
    assert grpo.get_linewidth() < solved.get_linewidth() / 2
    assert to_hex(grpo.get_color()) == palette.COLOURS["grpo"].lower()
    assert to_hex(solved.get_color()) == palette.COLOURS["optimal"].lower()


@pytest.mark.parametrize(("ending", "begins"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_the_file_is_what_its_ending_says_and_the_same_each_time(ending, begins):
    assert tuple(ENDINGS) == PICTURES
    answer = solve(Problem(0.1, 0.9, "regular"))
    first, second = (draw_weights(answer, answer.table(8), ending=ending) for _ in range(2))
    assert first.startswith(begins)
    assert first == second
