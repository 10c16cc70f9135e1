"""Clocks against exact arithmetic, adaptive quadrature and their own stated limits."""

import decimal
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from theory import clocks, dynamics

PLAIN = ["regular", "effective", "failures", "both", "variance"]
ALL = [
    clocks.parse(name)
    for name in (
        *(*PLAIN, "mixed:2", "mixed:3", "mixed:64", "success:1", "success:16", "affine:1,0.5"),
        *("refill:2,1,0", "refill:16,0,3", "refill:64,5,2"),
    )
]
EDGES = [clocks.Affine(2.0, 0.0), clocks.Affine(0.0, 3.0)]


@pytest.mark.parametrize("size", [2, 3, 16, 1024, 65536])
@pytest.mark.parametrize(
    "rho", [1e-300, 1e-16, 1e-12, 1e-5, 0.01, 0.3, 0.5, 0.5 + 2**-53, 0.7, 0.999, 1 - 1e-12, 1 - 2**-53]
)
def test_mixed_clock_is_the_naive_formula_in_exact_arithmetic(rho, size):
    with decimal.localcontext() as context:
        context.prec = 700  # 1 - 1e-300 and its power need 300 digits, the difference another 300
        p = decimal.Decimal(rho)
        exact = float(1 / (1 - p**size - (1 - p) ** size))
    # A handful of roundings; the power of the rare outcome multiplies them by at most a few.
    assert float(clocks.Mixed(size)(np.asarray(rho))) == pytest.approx(exact, rel=4e-15)


@given(size=st.integers(2, 5000), rho=st.floats(1e-6, 0.5))
@settings(derandomize=True, max_examples=40, deadline=None)
def test_mixed_clock_is_symmetric_and_decreasing_towards_one_half(size, rho):
    clock = clocks.Mixed(size)
    at, mirrored, half = (float(clock(np.asarray(x))) for x in (rho, 1 - rho, 0.5))
    assert mirrored == pytest.approx(at, rel=1e-9)  # 1 - ρ rounds at 1e-16, relative to ρ ≥ 1e-6 that is 1e-10
    assert at >= half * (1 - 1e-14) >= 1 - 1e-14


@pytest.mark.parametrize("clock", [*ALL, *EDGES], ids=lambda clock: clock.name)
def test_leading_terms_are_the_limits_of_the_clock(clock):
    for end, (coefficient, exponent) in (("zero", clock.at_zero), ("one", clock.at_one)):
        errors = []
        for x in (1e-5, 1e-7):
            rho = np.asarray(x if end == "zero" else 1 - x)
            errors.append(abs(float(clock(rho)) / (coefficient * x**exponent) - 1))
        # First-order terms are at most M/2 = 32 times the distance, with refilling bM/a = 26 times; 1 - x itself rounds
        # at 1e-16/x.
        assert errors[0] <= 40 * 1e-5, (end, errors)
        assert errors[1] <= 40 * 1e-7, (end, errors)


@pytest.mark.parametrize("clock", [clocks.Affine(1.0, 0.5), clocks.Affine(0.01, 7.0), *EDGES], ids=lambda c: c.name)
def test_time_on_the_affine_clock_agrees_with_adaptive_quadrature(clock):
    def integrand(rho):
        return (clock.update + clock.response / rho) / math.sqrt(rho * (1 - rho))

    reference, error = quad(integrand, 0.01, 0.9, epsabs=0, epsrel=1e-12, limit=200)
    time = dynamics.crossing_time(lambda rho: 1 / np.sqrt(rho * (1 - rho)), clock, dynamics.NATURAL, 0.01, 0.9)
    assert abs(time - reference) <= error + 1e-12 * reference


def test_affine_clock_interpolates_between_regular_and_effective():
    rho = np.linspace(0.01, 0.99, 23)
    assert np.array_equal(clocks.Affine(1.0, 0.0)(rho), clocks.REGULAR(rho))
    assert np.array_equal(clocks.Affine(0.0, 1.0)(rho), clocks.EFFECTIVE(rho))


@given(a=st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), b=st.floats(1e-6, 1e6), size=st.integers(2, 65536))
@settings(derandomize=True, max_examples=40, deadline=None)
def test_a_clock_is_found_again_by_its_name(a, b, size):
    for clock in (clocks.Affine(a, b), clocks.Mixed(size), clocks.Success(size), clocks.Refill(size, a, b)):
        assert clocks.parse(clock.name) == clock
        assert hash(clocks.parse(clock.name)) == hash(clock)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_clocks_are_found_by_their_own_name(name):
    assert clocks.parse(name).name == name


@pytest.mark.parametrize(
    "clock", [clocks.Affine(1, 2), clocks.Affine(np.float64(1), np.float64(2)), clocks.Affine(1.0, 2)]
)
def test_equal_affine_clocks_have_equal_names_whatever_the_number_type(clock):
    assert clock == clocks.Affine(1.0, 2.0)
    assert clock.name == clocks.Affine(1.0, 2.0).name


@pytest.mark.parametrize("size", [2.5, 1, 0, -3, 65537, True])
def test_a_mixed_clock_needs_a_whole_group_size_in_range(size):
    with pytest.raises(ValueError, match="mixed"):
        clocks.Mixed(size)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "foo",
        "regular:",
        "REGULAR",
        "mixed",
        "mixed:",
        "mixed:x",
        "mixed:1",
        "mixed:65537",
        "mixed:2.5",
        "mixed:1e3",
        "affine",
        "affine:1",
        "affine:1,2,3",
        "affine:x,1",
        "affine:nan,1",
        "affine:inf,1",
        "affine:-1,2",
        "affine:0,0",
        "refill:16",
        "refill:16,1",
        "refill:1,1,1",
        "refill:16,0,0",
        "refill:x,1,1",
        "refill:16,-1,1",
    ],
)
def test_an_unknown_clock_is_refused_in_one_sentence(text):
    with pytest.raises(ValueError, match="clock") as caught:
        clocks.parse(text)
    assert "\n" not in str(caught.value)


def test_refilling_is_regular_where_updates_are_free_and_pairs_pay_the_variance():
    rho = np.linspace(0.01, 0.99, 23)
    np.testing.assert_array_equal(clocks.Refill(16, 2.0, 0.0)(rho), 2 * clocks.REGULAR(rho))
    np.testing.assert_allclose(clocks.Refill(2, 0.0, 0.5)(rho), clocks.VARIANCE(rho), rtol=1e-13)
    np.testing.assert_allclose(clocks.Refill(7, 0.0, 1.0)(rho) * clocks.Mixed(7)(rho), 1, rtol=1e-14)


@pytest.mark.parametrize(
    ("clock", "size", "loops"),
    [
        ("regular", 16, {"fixed-batch", "refill"}),
        ("regular", None, {"fixed-batch", "refill"}),
        ("effective", None, {"until-success"}),
        ("effective", 16, {clocks.NO_LOOP}),  # no update by one success is made of groups
        ("refill:16,1,1", 16, {"refill"}),
        ("refill:16,1,1", 8, {clocks.NO_LOOP}),
        ("variance", 2, {"refill"}),
        ("variance", 4, {clocks.NO_LOOP}),
        ("mixed:16", 16, {clocks.NO_LOOP}),
    ],
)
def test_a_table_is_made_for_the_loops_that_pay_its_clock(clock, size, loops):
    named, line = clocks.made_for(clocks.parse(clock), size)
    assert set(named) == loops
    assert ("no loop in use" in line) == (clocks.NO_LOOP in loops)
