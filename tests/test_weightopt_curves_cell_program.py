"""The finite problem: its methods against a convex program and a general optimiser, its bound against anything."""

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.amounts import examples
from weightopt.curves.cell_program import CellProgram, bound_cells, solve_cells
from weightopt.curves.interior_point import Prices


def instance(n=40, seed=0, spread=2.0):
    """Costs and masses that have no pattern."""
    rng = np.random.default_rng(seed)
    return np.exp(spread * rng.standard_normal(n)), rng.uniform(0.2, 1.0, n)


def by_convex_program(program):
    """The least time by cvxpy and Clarabel, in the program's own units."""
    w = cp.Variable(program.cost.size, pos=True)
    constraints = [program.mass @ w == program.budget, w >= program.lower]
    if np.isfinite(program.upper):
        constraints.append(w <= program.upper)
    if program.monotone is not None:
        sign = 1 if program.monotone == "increasing" else -1
        constraints.append(sign * cp.diff(w) >= 0)
    if np.isfinite(np.min(program.rise)):
        constraints.append(cp.abs(cp.diff(w)) <= program.rise)
    if np.isfinite(program.max_ratio):
        least = cp.Variable()
        constraints += [w >= least, w <= program.max_ratio * least]
    problem = cp.Problem(cp.Minimize(program.cost @ cp.inv_pos(w)), constraints)
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    assert isinstance(problem.value, float | np.floating)
    return float(problem.value)


CONSTRAINTS = [
    {},
    {"lower": 0.8, "upper": 2.0},
    {"monotone": "decreasing"},
    {"monotone": "increasing", "lower": 0.7, "upper": 2.5},
    {"rise": 0.3},
    {"rise": 0.05, "monotone": "decreasing"},
    {"max_ratio": 3.0},
    {"max_ratio": 1.5, "monotone": "increasing"},
    {"rise": 0.4, "lower": 0.6, "upper": 1.8, "max_ratio": 2.5},
    {"rise": 0.2, "lower": 0.9, "upper": 2.8, "monotone": "decreasing", "max_ratio": 2.0},
]


@pytest.mark.slow
@pytest.mark.parametrize("constraints", CONSTRAINTS, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_convex_program_agrees(constraints, seed):
    cost, mass = instance(seed=seed)
    program = CellProgram(cost, mass, budget=float(mass.sum()) * 1.4, **constraints)
    found = solve_cells(program)
    assert found.gap <= 1e-10
    assert found.violation <= 1e-12
    assert float(mass @ found.weight) == pytest.approx(program.budget, rel=1e-13)
    # 1e-7: what the other method's own tolerance leaves in its objective.
    assert found.time == pytest.approx(by_convex_program(program), rel=1e-7)


def test_the_formula_and_water_filling_by_hand():
    program = CellProgram(np.array([1.0, 4.0]), np.array([1.0, 1.0]), budget=3.0)
    assert solve_cells(program).weight == pytest.approx([1.0, 2.0])
    capped = CellProgram(np.array([1.0, 4.0]), np.array([1.0, 1.0]), budget=3.0, upper=1.75)
    assert solve_cells(capped).weight == pytest.approx([1.25, 1.75])
    assert solve_cells(capped).time == pytest.approx(1 / 1.25 + 4 / 1.75)


@st.composite
def programs(draw):
    n = draw(st.integers(1, 12))
    numbers = st.floats(0.01, 100)
    cost = np.array(draw(st.lists(numbers, min_size=n, max_size=n)))
    mass = np.array(draw(st.lists(st.floats(0.1, 10), min_size=n, max_size=n)))
    mean = draw(st.floats(0.1, 10))
    kind = {
        "lower": draw(st.sampled_from([0.0, 0.3, 0.95])) * mean,
        "upper": draw(st.sampled_from([1.05, 2.0, np.inf])) * mean,
        "monotone": draw(st.sampled_from([None, "decreasing", "increasing"])),
        "rise": draw(st.sampled_from([np.inf, 0.5, 0.01])) * mean,
        "max_ratio": draw(st.sampled_from([np.inf, 4.0, 1.1])),
    }
    return CellProgram(cost, mass, budget=mean * float(mass.sum()), **kind)


@pytest.mark.slow
@examples(40, 300, programs(), st.data())
def test_no_feasible_weights_beat_the_bound_and_the_answer_attains_it(program, data):
    found = solve_cells(program)
    assert found.violation <= 1e-9
    assert found.gap <= 1e-8
    # Feasible weights form a convex set that holds the answer and the constant weight.
    constant = np.full(program.cost.size, program.budget / program.mass.sum())
    share = data.draw(st.floats(0, 1))
    between = share * found.weight + (1 - share) * constant
    assert np.sum(program.cost / between) >= found.lower_bound * (1 - 1e-9)


@examples(25, 100, programs(), st.data())
def test_the_bound_holds_for_any_prices(program, data):
    n = program.cost.size
    best = solve_cells(program).time
    prices = st.floats(0, 5)
    drawn = Prices(
        data.draw(st.floats(0.01, 100)),
        np.array(data.draw(st.lists(st.floats(-5, 5), min_size=n - 1, max_size=n - 1)), dtype=float),
        np.zeros(n),
        np.array(data.draw(st.lists(prices, min_size=n, max_size=n))),
        np.array(data.draw(st.lists(prices, min_size=n, max_size=n))),
    )
    assert bound_cells(program, drawn)[0] <= best * (1 + 1e-8)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"cost": np.array([1.0, -1.0])}, "positive"),
        ({"mass": np.array([1.0])}, "one number a cell"),
        ({"budget": 0.0}, "budget"),
        ({"lower": 2.0}, "mean weight"),
        ({"upper": 0.5}, "mean weight"),
        ({"rise": np.array([-1.0])}, "rise"),
        ({"max_ratio": 0.9}, "max_ratio"),
        ({"monotone": "up"}, "monotone"),
    ],
)
def test_nonsense_is_refused(changed, word):
    fine = {"cost": np.array([1.0, 4.0]), "mass": np.array([1.0, 1.0]), "budget": 2.0}
    with pytest.raises(ValueError, match=word):
        CellProgram(**fine | changed)


def test_a_step_costs_the_order_of_the_cells():
    # Count, not seconds: a hundred times as many cells need two to three times as many steps, of O(n) each.
    from weightopt.curves import cell_program as cells

    counts = []
    for n in (100, 10_000):
        theta = np.linspace(-4, 2, n)
        cost, mass = np.exp(-1.5 * theta) / n, np.full(n, 1 / n)
        calls = 0
        original = cells.interior_point

        def counted(terms, *rest, original=original):
            def counting(w):
                nonlocal calls
                calls += 1
                return terms(w)

            original(counting, *rest)

        cells.interior_point = counted
        try:
            assert solve_cells(CellProgram(cost, mass, rise=6 / n)).gap <= 1e-9
        finally:
            cells.interior_point = original
        counts.append(calls)
    assert counts[1] <= 4 * counts[0]
