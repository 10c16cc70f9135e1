"""The paper's weightings: values, end rules as limits, the family that holds them, and what users are told."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import catalogue
from theory.handbook import paper
from theory.weighting import Weighting

PAPER = {weighting.name: weighting for weighting in paper.PLAIN}
NAMES = list(PAPER)
# ω at ρ = 0.2 and ρ = 0.8, from the table of weightings by hand.
VALUES = {
    "rloo": (1.0, 1.0),
    "reinforce": (1.0, 1.0),
    "grpo": (2.5, 2.5),
    "linear-r": (5.0, 1.25),
    "sqrt-r": (5 / math.sqrt(0.8), 1.25 / math.sqrt(0.2)),
    "uniform-r": (6.25, 6.25),
    "plateau-r": (6.25, 2.5),
}
POWERS = {"rloo": (0, 0), "grpo": (0.5, 0.5), "linear-r": (1, 0), "sqrt-r": (1, 0.5), "uniform-r": (1, 1)}


@pytest.mark.parametrize("name", NAMES)
def test_weight_and_effective_weight_have_their_tabulated_values(name):
    weighting = PAPER[name]
    assert weighting([0.2, 0.8]) == pytest.approx(VALUES[name], rel=1e-15 * 8)  # a few roundings
    assert weighting.effective([0.2, 0.8]) == pytest.approx(np.multiply(VALUES[name], 0.16), rel=1e-15 * 8)


def test_plateau_is_a_plateau_up_to_its_threshold_and_continuous_there():
    plateau = PAPER["plateau-r"]
    (kink,) = plateau.kinks
    rho = np.linspace(0.001, kink, 50)
    assert plateau.effective(rho) == pytest.approx(np.ones(50), rel=1e-14)
    assert plateau.effective(kink + 1e-12) == pytest.approx(1.0, rel=1e-11)
    assert plateau.effective(0.75) == pytest.approx(0.5, rel=1e-14)


@pytest.mark.parametrize(("name", "exponents"), POWERS.items())
def test_the_two_parameter_family_holds_the_named_weightings(name, exponents):
    rho = np.geomspace(1e-6, 0.999, 40)
    member = catalogue.parse(f"power:{exponents[0]},{exponents[1]}")
    assert isinstance(member, Weighting)
    named = PAPER[name]
    assert member(rho) == pytest.approx(named(rho), rel=1e-13)  # powers of numbers near 1 round differently
    assert (member.all_wrong_advantage, member.all_right_advantage) == (
        named.all_wrong_advantage,
        named.all_right_advantage,
    )


@pytest.mark.parametrize("name", NAMES)
def test_end_rules_are_the_limits_of_the_advantages(name):
    weighting = PAPER[name]
    x = 1e-10
    # The slowest approach is √x = 1e-5 (GRPO at both ends, Sqrt-R at one).
    assert float(-x * weighting(x)) == pytest.approx(weighting.all_wrong_advantage, abs=2e-5)
    assert float(x * weighting(1 - x)) == pytest.approx(weighting.all_right_advantage, abs=2e-5)


@given(a=st.floats(-3, 3), b=st.floats(-3, 3))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_end_rules_of_the_family_follow_from_the_exponents(a, b):
    weighting = paper.power(a, b)
    for exponent, rule, sign in ((a, weighting.all_wrong_advantage, -1), (b, weighting.all_right_advantage, 1)):
        assert rule == (0.0 if exponent < 1 else sign * 1.0 if exponent == 1 else sign * math.inf)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_end_rules_of_the_family_are_seen_numerically(exponent):
    weighting = paper.power(exponent, exponent)
    x = 1e-12  # x^(1/2) = 1e-6 and x^(-1/2) = 1e6 tell the three cases apart; 1 - x rounds at 1e-4 of x
    for rule, value in (
        (weighting.all_wrong_advantage, float(-x * weighting(x))),
        (weighting.all_right_advantage, float(x * weighting(1 - x))),
    ):
        if math.isinf(rule):
            assert math.copysign(1, value) == math.copysign(1, rule)
            assert abs(value) > 1e5
        else:
            assert value == pytest.approx(rule, abs=2e-4)


def test_rules_of_the_paper_and_its_baselines_are_limits_and_not_overruled():
    assert not any(weighting.published_rules for weighting in PAPER.values())


def test_reconstructions_say_so_and_nothing_else_does():
    told = {name for name, weighting in PAPER.items() if "reconstruction" in weighting.label}
    assert told == {"uniform-r", "plateau-r"}
    assert told == {name for name, weighting in PAPER.items() if "reconstruction" in weighting.source}


def test_every_name_is_its_own_key_and_carries_a_source():
    for name, weighting in PAPER.items():
        assert weighting.name == name
        assert catalogue.parse(name) is weighting
        assert weighting.source
        assert weighting.formula


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [2, 3, 16])
def test_only_leave_one_out_carries_a_group_factor(name, size):
    expected = size / (size - 1) if name == "rloo" else 1.0
    assert PAPER[name].group_factor(size) == expected


def test_leave_one_out_factor_turns_the_group_mean_baseline_into_the_mean_of_the_others():
    rewards = np.array([1, 0, 0, 1, 0], dtype=float)
    size = rewards.size
    others = np.array([np.delete(rewards, i).mean() for i in range(size)])
    factor = PAPER["rloo"].group_factor(size)
    assert factor * (rewards - rewards.mean()) == pytest.approx(rewards - others, abs=1e-15)


@pytest.mark.parametrize("name", [n for n in NAMES if PAPER[n].all_wrong_advantage == -1])
def test_minus_one_rule_of_linear_weighting_makes_every_wrong_advantage_minus_one(name):
    # For ω = 1/ρ the advantage of a wrong response is -ρω = -1 at every success rate; the others tend to it.
    weighting = PAPER[name]
    rho = np.array([1e-9, 1e-8])
    assert -rho * weighting(rho) == pytest.approx([-1, -1], abs=2e-8)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GRPO",
        "grpo:1",
        "power",
        "power:",
        "power:1",
        "power:1,2,3",
        "power:x,1",
        "power:nan,0",
        "power:0,inf",
        "power:21,0",
        "power:0,-21",
    ],
)
def test_an_unknown_weighting_is_refused_in_one_sentence(text):
    with pytest.raises(ValueError, match="weighting") as caught:
        catalogue.parse(text)
    assert "\n" not in str(caught.value)


@given(a=st.floats(-20, 20), b=st.floats(-20, 20))
@settings(derandomize=True, max_examples=30, deadline=None)
def test_a_family_member_is_found_again_by_its_name(a, b):
    member = paper.power(a, b)
    again = catalogue.parse(member.name)
    assert isinstance(again, Weighting)
    rho = np.array([0.1, 0.5, 0.9])
    assert np.array_equal(again(rho), member(rho))
    assert again.name == member.name
