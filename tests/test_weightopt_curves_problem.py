"""The problem says no at the door, naming the parameter, and comes back from its own description."""

import dataclasses
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import clocks, dynamics
from weightopt import Problem
from weightopt.curves.problem import LATER
from weightopt.errors import ProblemError

FINE = {"start": 0.01, "target": 0.9, "clock": "effective"}
OUT_OF_RANGE = [
    *(("start", value) for value in (0, 0.0, -0.1, 1.0, 1.5, math.nan, math.inf, -math.inf, 0.9, 0.95, 1e-13)),
    *(("start", value) for value in ("0.1", None, True, [0.1], 0.1 + 0j, 10**400)),
    *(("target", value) for value in (0.0, 1.0, 2, -1, math.nan, math.inf, "0.9", None, 10**400, 1 - 1e-15)),
    *(("budget", value) for value in (0, 0.0, -1, math.nan, math.inf, "1", None, True, 10**400)),
    *(("min_weight", value) for value in (-1, -1e-300, math.nan, math.inf, "0", None, 10**400)),
    *(("max_weight", value) for value in (0, -1, math.nan, -math.inf, "1", None)),
    *(("monotone", value) for value in ("up", "", "Decreasing", True, 1, [])),
    *(("clock", value) for value in ("", "foo", "mixed:1", "affine:0,0", "mixed:", "regular ", 5, None, [], 1.5)),
    *(("mobility", value) for value in ("", "foo", "Natural", 5, None, [])),
]


@pytest.mark.parametrize(("field", "value"), OUT_OF_RANGE, ids=lambda x: repr(x)[:24])
def test_a_parameter_out_of_range_is_named_in_one_sentence(field, value):
    with pytest.raises(ProblemError) as caught:
        Problem(**{**FINE, field: value})
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field} ")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_start_must_lie_below_target():
    for start, target in ((0.9, 0.1), (0.5, 0.5)):
        with pytest.raises(ProblemError, match="below the target") as caught:
            Problem(start, target, "regular")
        assert caught.value.field == "start"


@given(mean=st.floats(0.1, 10), factor=st.floats(1.0001, 100))
@settings(derandomize=True, max_examples=30, deadline=None)
def test_bounds_that_no_weighting_of_that_budget_meets_are_refused(mean, factor):
    budget = mean * (0.9 - 0.01)
    with pytest.raises(ProblemError) as caught:
        Problem(**FINE, budget=budget, min_weight=mean * factor)
    assert caught.value.field == "min_weight"
    with pytest.raises(ProblemError) as caught:
        Problem(**FINE, budget=budget, max_weight=mean / factor)
    assert caught.value.field == "max_weight"
    # And the other side is fine.
    Problem(**FINE, budget=budget, min_weight=mean / factor, max_weight=mean * factor)


CLOCKS = st.one_of(
    st.sampled_from(["regular", "effective", "failures"]),
    st.integers(2, 4096).map(lambda m: f"mixed:{m}"),
    st.tuples(st.floats(0.001, 100), st.floats(0.001, 100)).map(lambda ab: f"affine:{ab[0]!r},{ab[1]!r}"),
)


@given(
    start=st.floats(1e-9, 0.4),
    target=st.floats(0.41, 0.999),
    clock=CLOCKS,
    mobility=st.sampled_from(list(dynamics.MOBILITIES)),
    budget=st.floats(1e-3, 1e3),
    low=st.floats(0, 1),
    high=st.one_of(st.just(math.inf), st.floats(1.0, 50).map(lambda x: x * 1.001)),
    monotone=st.sampled_from([None, "decreasing", "increasing"]),
)
@settings(derandomize=True, max_examples=60, deadline=None)
def test_a_problem_comes_back_from_its_description(start, target, clock, mobility, budget, low, high, monotone):
    mean = budget / (target - start)
    problem = Problem(start, target, clock, mobility, budget, 0.999 * low * mean, high * mean, monotone)
    text = json.dumps(problem.to_dict(), allow_nan=False)
    again = Problem.from_dict(json.loads(text))
    assert again == problem
    assert hash(again) == hash(problem)
    assert again.to_dict() == problem.to_dict()
    assert pickle.loads(pickle.dumps(problem)) == problem
    assert len({problem, again}) == 1


def test_problems_that_differ_in_one_parameter_differ():
    other = {
        "start": 0.02,
        "target": 0.8,
        "clock": "regular",
        "mobility": "softmax-gradient",
        "budget": 2.0,
        "min_weight": 0.1,
        "max_weight": 5.0,
        "monotone": "decreasing",
    }
    problem = Problem(**FINE)
    assert {field.name for field in dataclasses.fields(Problem)} >= set(other)
    for field, value in other.items():
        changed = Problem(**{**FINE, field: value})
        assert changed != problem
        assert dataclasses.replace(problem, **{field: value}) == changed


def test_numbers_of_any_ordinary_type_make_the_same_problem():
    same = Problem(np.float64(0.01), 0.9, clocks.EFFECTIVE, dynamics.NATURAL, 1, 0, np.inf)  # pyright: ignore
    assert same == Problem(**FINE)
    assert same.to_dict() == Problem(**FINE).to_dict()
    assert all(isinstance(same.to_dict()[key], float) for key in ("start", "target", "budget", "min_weight"))


def test_a_problem_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Problem(**FINE).start = 0.5  # pyright: ignore[reportAttributeAccessIssue]


def test_a_description_from_before_a_constraint_existed_means_a_problem_without_it():
    values = Problem(**FINE).to_dict()
    for key in LATER:
        del values[key]
    assert Problem.from_dict(values) == Problem(**FINE)


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(Problem) if field.name not in LATER])
def test_a_description_with_a_missing_key_is_refused(key):
    values = Problem(**FINE).to_dict()
    del values[key]
    with pytest.raises(ProblemError) as caught:
        Problem.from_dict(values)
    assert caught.value.field == key


def test_a_description_with_an_unknown_key_is_refused():
    with pytest.raises(ProblemError, match="colour") as caught:
        Problem.from_dict({**Problem(**FINE).to_dict(), "colour": "red"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("clock", [5, None, [], {}, True])
def test_a_description_with_a_clock_that_is_no_name_is_refused(clock):
    with pytest.raises(ProblemError) as caught:
        Problem.from_dict({**Problem(**FINE).to_dict(), "clock": clock})
    assert caught.value.field == "clock"


def test_cost_density_is_clock_over_mobility():
    rho = np.array([0.1, 0.5])
    assert Problem(**FINE).cost_density(rho) == pytest.approx(1 / rho / (rho * (1 - rho)), rel=1e-15)
    assert Problem(0.1, 0.9, "regular", "softmax-gradient").cost_density(rho) == pytest.approx(
        (rho * (1 - rho)) ** -2, rel=1e-15 * 4
    )
