"""Crowding limits: kept on the whole range, certified from both sides, against the convex road, priced and refused."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from typing import Any

import numpy as np
import pytest

from theory import crowding
from weightopt import GroupProblem, Problem, RangeProblem, cli, solve
from weightopt.answer import Status
from weightopt.commands.output import describe
from weightopt.convex import best_group
from weightopt.curves.certificate import certify as certify_curve
from weightopt.errors import ProblemError, SolverError
from weightopt.groups.group import certify_group
from weightopt.table import TableError, WeightTable
from weightopt.verify import verify

REGULAR = Problem(0.02, 0.9, "regular")
PUSH = {"crowding_range": (0.02, 0.7), "crowding_measure": "push"}
LEAD = GroupProblem(REGULAR, 16, crowding=0.3, **PUSH)


@pytest.mark.parametrize(("limit", "time", "push"), [(0.5, 5.73, 0.084), (0.3, 6.29, 0.114), (0.15, 6.97, 0.136)])
def test_reference_tables(limit, time, push):
    # From a prototype that shares no code (a convex program on a grid): two decimals, and the push over ω_1.
    found = solve(dataclasses.replace(LEAD, crowding=limit))
    assert found.time == pytest.approx(time, abs=6e-3)
    assert -found.advantage_wrong[0] / found.weight[0] == pytest.approx(push, abs=1e-3)


def test_without_a_limit_the_push_is_worth_little():
    # The same prototype: 5.37 with the push free, 5.41 without it.
    assert solve(dataclasses.replace(LEAD, crowding=16.0)).time == pytest.approx(5.37, abs=6e-3)
    assert solve(GroupProblem(REGULAR, 16)).time == pytest.approx(5.41, abs=6e-3)


CASES = [
    GroupProblem(REGULAR, 2, crowding=0.8, crowding_range=(0.2, 0.6)),
    GroupProblem(REGULAR, 3, shape="nonincreasing", crowding=0.5, crowding_range=(0.25, 0.6)),
    GroupProblem(REGULAR, 4, shape="free", crowding=0.4, crowding_range=(0.3, 0.5)),
    GroupProblem(Problem(0.01, 0.9, "effective"), 8, budget_kind="drift", crowding=0.2),
    GroupProblem(REGULAR, 16, crowding=0.15),
    GroupProblem(Problem(0.05, 0.8, "regular", budget=3.0), 16, shape="free", crowding=0.0, **PUSH),
    GroupProblem(REGULAR, 6, "ratio", "advantage-variance", "free", False, 0.4, (0.2, 0.6)),
    GroupProblem(REGULAR, 64, shape="nonincreasing", crowding=0.5),
]


@pytest.mark.slow
@pytest.mark.parametrize("problem", CASES, ids=lambda p: f"{p.group_size}-{p.shape}-{p.crowding}")
def test_limits_are_kept_between_all_places_and_certified(problem):
    found = solve(problem)
    assert found.gap <= 1e-8
    low, high = problem.limited_on
    # A grid that nothing was solved on; the elasticity is a difference of sums, exact to about 1e-12.
    rho = np.linspace(low, high, 5003)
    elasticity = crowding.group_elasticity(
        rho, found.advantage_correct, found.advantage_wrong, problem.crowding_measure
    )
    assert problem.crowding - 1e-5 < np.max(elasticity) <= problem.crowding + 1e-11
    assert found.time > solve(dataclasses.replace(problem, crowding=float(problem.group_size))).time * (1 - 1e-8)
    assert verify(found.table()).startswith(f"{len(found.weight)} weights certified")


@pytest.mark.slow
@pytest.mark.parametrize(
    "problem",
    [
        dataclasses.replace(LEAD, group_size=6),
        GroupProblem(REGULAR, 8, crowding=0.5, budget_kind="drift"),
        GroupProblem(REGULAR, 5, crowding=0.4, shape="nonincreasing"),
    ],
    ids=["push", "gradient-drift", "gradient-nonincreasing"],
)
def test_the_convex_road_agrees(problem):
    one, other = solve(problem), solve(problem, "convex")
    # The limit of the other road is tighter by 5e-5/M and asked for at places.
    assert other.time == pytest.approx(one.time, rel=2e-5)
    assert best_group(problem).time == pytest.approx(one.time, rel=2e-5)
    assert verify(other.table())


def test_no_table_that_keeps_the_limit_beats_the_bound():
    problem = GroupProblem(REGULAR, 8, shape="free", crowding=0.5)
    found = solve(problem)
    rng, kept = np.random.default_rng(2), 0
    best = np.array([-found.advantage_wrong[0], *found.weight])
    for scale in (1e-4, 1e-2, 0.3):
        for _ in range(60):
            y = np.abs(best * (1 + scale * rng.normal(size=8)))
            rough = certify_group(problem, y)
            if rough.violation == 0:
                kept += 1
                assert rough.time * min(1, 1 + rough.budget_error) >= found.lower_bound
    assert kept > 10


def test_the_excess_of_a_table_is_what_a_grid_says():
    problem = GroupProblem(REGULAR, 8, crowding=0.5)
    y = np.array([0.05, *np.linspace(3, 1, 7)])
    correct = np.array([0.0, *(y[1:] * (1 - np.arange(1, 8) / 8)), 0.0])
    wrong = np.array([-y[0], *(-y[1:] * np.arange(1, 8) / 8), 0.0])
    worst = np.max(crowding.group_elasticity(np.linspace(*problem.limited_on, 20001), correct, wrong)) - 0.5
    assert certify_group(problem, y).violation == pytest.approx(worst, abs=1e-8)  # the grid's spacing, squared


def test_prices_from_a_file_prove_or_are_refused():
    table = solve(GroupProblem(REGULAR, 4, crowding=0.5)).table()
    document = json.loads(table.to_json())

    def with_prices(prices):
        certificate = {**document["certificate"], "prices": prices}
        return dataclasses.replace(table, certificate=certificate)

    prices = document["certificate"]["prices"]
    for wrong in (
        None,
        {},
        {"rho": prices["rho"]},
        {**prices, "rho": [0.9] * len(prices["rho"])},
        {**prices, "price": [-1.0] * len(prices["price"])},
        {**prices, "price": prices["price"][:-1]},
    ):
        with pytest.raises(TableError, match="prices"):
            verify(with_prices(wrong))
    with pytest.raises(TableError):  # a weak bound is no proof of the stated gap
        verify(with_prices({**prices, "price": [0.0] * len(prices["price"])}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"crowding": 0.5, "crowding_range": (0.02, 0.7)}, "0.693878"),
        ({"crowding": 17.0}, "at most 16"),
        ({"crowding": float("nan")}, "number"),
        ({"crowding": 0.5, "crowding_range": (0.5, 0.4)}, "two success probabilities"),
        ({"crowding": 0.5, "crowding_range": (0.4,)}, "two success probabilities"),
        ({"crowding": 0.5, "crowding_measure": "x"}, "gradient, push"),
        ({"crowding_range": (0.1, 0.4)}, "needs --crowding"),
        ({"crowding_measure": "push"}, "needs --crowding"),
        ({"crowding": 0.5, "step_model": "outcome"}, "ratio step"),
    ],
)
def test_limits_that_cannot_be_are_refused_in_one_sentence(change, words):
    with pytest.raises(ProblemError, match=words):
        GroupProblem(REGULAR, 16, **change)


def test_a_limit_that_cannot_be_held_names_ends_that_can_and_a_tight_one_what_is_to_blame():
    impossible: dict[str, Any] = {"crowding": 0.3, "crowding_range": (0.02, 0.5)}
    with pytest.raises(ProblemError, match="raise it to") as caught:
        GroupProblem(REGULAR, 8, **impossible)
    limit, low = map(float, re.findall(r"to (0\.\d+)", caught.value.sentence))
    changes: tuple[dict[str, Any], ...] = ({"crowding": limit}, {"crowding_range": (low, 0.5)})
    for change in changes:
        assert solve(GroupProblem(REGULAR, 8, **impossible | change)).status is Status.OPTIMAL
    tight = GroupProblem(REGULAR, 16, crowding=0.3, crowding_range=(0.0447, 0.7))
    with pytest.raises(SolverError, match=r"within 0\.0019 of the least that these groups can hold"):
        solve(tight)


def test_a_limit_is_for_one_start():
    with pytest.raises(ProblemError, match="one start"):
        RangeProblem(GroupProblem(REGULAR, 8, crowding=0.5), 0.1)


def test_the_smallest_limit_is_the_smallest_there_is():
    least = crowding.smallest_limit(8, 0.2)
    near = solve(GroupProblem(REGULAR, 8, crowding=least + 0.02, crowding_range=(0.2, 0.5)), throw=False)
    far = solve(GroupProblem(REGULAR, 8, crowding=least + 0.2, crowding_range=(0.2, 0.5)))
    assert near.time > 2 * far.time
    # Nearly all of what is left is the push on all-wrong groups.
    assert -near.advantage_wrong[0] > 5 * max(near.weight[:4])


# Curves.

CURVES = [
    Problem(0.02, 0.9, "regular", crowding=0.3),
    Problem(0.02, 0.9, "effective", crowding=0.3),
    Problem(0.02, 0.9, "regular", crowding=0.2, crowding_range=(0.05, 0.5)),
    Problem(0.02, 0.9, "effective", crowding=0.0, crowding_range=(0.02, 0.7), budget=2.5),
    Problem(0.3, 0.95, "failures", "softmax-gradient", crowding=-0.7),
    Problem(0.01, 0.99, "refill:16,0.0,1.0", crowding=0.9),
]


@pytest.mark.parametrize("problem", CURVES, ids=lambda p: f"{p.clock.name}-{p.crowding}-{p.crowding_range}")
def test_curves_keep_the_limit_and_are_certified(problem):
    found = solve(problem)
    assert found.status is Status.OPTIMAL
    assert found.gap < 1e-10
    low, high = problem.pooled_on
    rho = np.geomspace(low, high, 4001)
    tilted = found.weighting(rho) * rho ** (1 - problem.crowding)
    assert np.all(np.diff(tilted) <= 1e-13 * tilted[:-1])
    assert found.time >= solve(problem.unconstrained).time * (1 - 1e-12)
    # With κ < 0 the weight grows so fast towards 0 that the push on all-wrong groups has to be stated.
    stated = 0.0 if problem.crowding < 0 else None
    assert verify(found.table(all_wrong=stated))
    # Constant cells of 1/32 in log-odds: off by the square of their width.
    other = solve(problem, "convex")
    assert found.time <= other.time <= found.time * (1 + 5e-5)
    assert verify(other.table(all_wrong=stated))


def test_no_other_curve_that_keeps_the_limit_beats_the_bound():
    problem = CURVES[2]
    found = solve(problem)
    for m, top in ((0.8, 0.5), (0.9, 0.6), (1.2, 0.5), (0.8, 0.9)):

        def other(rho, m=m, top=top):
            return np.where(rho < 0.05, 1 / np.sqrt(rho * (1 - rho)), np.minimum(rho, top) ** -m)

        certificate = certify_curve(problem, other, (0.05, top))
        assert certificate.violation < 1e-12
        assert certificate.time * (1 + certificate.budget_error) >= found.lower_bound
        assert certificate.lower_bound == pytest.approx(found.lower_bound, rel=1e-9)


def test_a_limit_that_asks_nothing_changes_nothing():
    free, idle = solve(REGULAR), solve(Problem(0.02, 0.9, "regular", crowding=5.0))
    assert idle.time == pytest.approx(free.time, rel=1e-13)
    assert Problem(0.02, 0.9, "regular", crowding=1.0).pooled_on == (0.02, 0.9)
    decreasing, neutral = (
        solve(problem)
        for problem in (
            Problem(0.02, 0.9, "regular", monotone="decreasing"),
            Problem(0.02, 0.9, "regular", crowding=1.0),
        )
    )
    assert neutral.time == pytest.approx(decreasing.time, rel=1e-13)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"crowding": 11}, "-10 to 10"),
        ({"crowding": 0.5, "max_weight": 3.0}, "only constraint"),
        ({"crowding": 0.5, "monotone": "decreasing"}, "only constraint"),
        ({"crowding": 0.5, "crowding_range": (0.01, 0.5)}, "from 0.02 to 0.9"),
        ({"crowding_range": (0.1, 0.5)}, "needs --crowding"),
    ],
)
def test_curve_limits_that_cannot_be_are_refused(values, words):
    with pytest.raises(ProblemError, match=words):
        Problem(0.02, 0.9, "regular", **values)


# The command.

WAY = ["solve", "--start", "0.02", "--target", "0.9", "--clock", "regular"]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line: exit status, standard output, standard error."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["weightopt", *WAY, *words])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return call


def test_the_command_prints_the_price_and_check_certifies_the_file(run, tmp_path, capsys):
    file = tmp_path / "table.json"
    words = ["--group-size", "8", "--crowding", "0.4", "--crowding-range", "0.1", "0.5", "--output", str(file)]
    status, out, _ = run(*words)
    assert not status
    price = next(line for line in out.splitlines() if line.startswith("  limit"))
    ratio = float(price.split()[1])
    problem = GroupProblem(REGULAR, 8, crowding=0.4, crowding_range=(0.1, 0.5))
    free = dataclasses.replace(problem, crowding=8.0)
    assert ratio == pytest.approx(solve(problem).time / solve(free).time, abs=5e-5)
    plain = solve(GroupProblem(REGULAR, 8)).time
    assert f"{solve(free).time:.6g} with the all-wrong push free ({plain:.6g} without a push)" in price
    assert "made for     a fixed batch" in out
    table = WeightTable.load(file)
    assert verify(table)
    assert table.all_wrong_advantage < 0
    assert table.loops == ("fixed-batch", "refill")
    describe(table)
    assert "elasticity of φ = ρu at most 0.4 from 0.1 to 0.5" in capsys.readouterr().out


def test_the_command_says_where_a_limit_is_idle(run):
    assert "idle" in run("--group-size", "4", "--crowding", "3.9")[1]
    assert "idle" in run("--crowding", "6")[1]
    assert "times the time" in run("--crowding", "0.2")[1]


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--group-size", "16", "--crowding", "0.5", "--crowding-range", "0.02", "0.7"], "--crowding"),
        (["--crowding", "0.5", "--crowding-measure", "push"], "--crowding-measure"),
        (["--crowding-range", "0.1", "0.5"], "--crowding-range"),
        (["--group-size", "4", "--crowding", "0.5", "--all-wrong", "-1"], "--all-wrong"),
    ],
)
def test_the_command_refuses_in_the_name_of_the_option(run, words, option):
    status, _, said = run(*words)
    assert status == 2
    assert option in said
    assert said.count("\n") == 1
