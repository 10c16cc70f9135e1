"""Advantages by group: against the statistics of explicit groups, subsets and all outcomes."""

import itertools
import math

import numpy as np
import pytest

from theory import catalogue, finite_group
from theory.weighting import GroupScheme

SCHEMES = catalogue.SCHEMES
SIZES = [2, 3, 5, 8]


def scheme(name) -> GroupScheme:
    member = catalogue.parse(name)
    assert isinstance(member, GroupScheme)
    return member


def groups(size):
    """Number correct and the rewards of one group with it."""
    for count in range(size + 1):
        yield count, np.array([1.0] * count + [0.0] * (size - count))


def assert_advantages(name, size, expected, tolerance):
    """`expected` maps rewards to advantages; compared response by response."""
    correct, wrong = scheme(name)(size)
    for count, rewards in groups(size):
        found = np.where(rewards == 1, correct[count], wrong[count])
        assert found == pytest.approx(expected(rewards), abs=tolerance)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "epsilon"), [("grpo-trl", 1e-4), ("grpo-verl", 1e-6)])
def test_grpo_as_coded_is_the_group_standardised_with_its_sample_deviation(name, epsilon, size):
    assert_advantages(name, size, lambda r: (r - r.mean()) / (r.std(ddof=1) + epsilon), 1e-13)


@pytest.mark.parametrize("size", SIZES)
def test_ngrpo_standardises_with_one_more_success(size):
    def expected(rewards):
        joined = np.append(rewards, 1.0)
        deviation = joined.std(ddof=1)
        return (rewards - joined.mean()) / deviation if deviation > 0 else np.zeros(size)

    assert_advantages("ngrpo", size, expected, 1e-13)
    assert SCHEMES["ngrpo"](size)[1][0] == pytest.approx(-1 / math.sqrt(size + 1), rel=1e-14)


def test_one_success_in_eight_gives_the_advantages_that_ngrpo_publishes():
    # arXiv 2509.18851, its case study: GRPO 2.47 and -0.35, NGRPO 1.76 and -0.50.
    printed = {"grpo-verl": ("2.47", "-0.35"), "ngrpo": ("1.76", "-0.50")}
    for name, expected in printed.items():
        correct, wrong = SCHEMES[name](8)
        assert (f"{correct[1]:.2f}", f"{wrong[1]:.2f}") == expected


@pytest.mark.parametrize("size", [2, 3, 5, 7])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_pass_at_k_training_is_grpo_over_all_subsets(size, k):
    """The mean, over the k-subsets that hold a response, of the standardised reward of the subset."""
    if k > size:
        with pytest.raises(ValueError, match=f"at least {k}"):
            scheme(f"pass-at-k-groups:{k}")(size)
        return
    subsets = [list(subset) for subset in itertools.combinations(range(size), k)]

    def expected(rewards):
        best = np.array([rewards[subset].max() for subset in subsets])
        if best.std() == 0:
            return np.zeros(size)
        standardised = (best - best.mean()) / best.std()
        return np.array(
            [np.mean([a for a, s in zip(standardised, subsets, strict=True) if i in s]) for i in range(size)]
        )

    assert_advantages(f"pass-at-k-groups:{k}", size, expected, 1e-13)


@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("k", [2, 3])
def test_pkpo_is_what_a_response_adds_to_the_best_of_the_others(size, k):
    def expected(rewards):
        advantages = []
        for i in range(size):
            others = [list(o) for o in itertools.combinations([j for j in range(size) if j != i], k - 1)]
            advantages.append(k * np.mean([max(rewards[i], rewards[o].max()) - rewards[o].max() for o in others]))
        return np.array(advantages)

    assert_advantages(f"pkpo:{k}", size, expected, 1e-13)


def gradient_moments(correct, wrong, rho, size):
    """Mean and second moment of (1/M) Σ A_i ∂ ln π(y_i)/∂θ over all 2^M sequences of outcomes; ∂ρ/∂θ = ρ(1-ρ)."""
    first = second = 0.0
    for outcomes in itertools.product((0, 1), repeat=size):
        count = sum(outcomes)
        probability = rho**count * (1 - rho) ** (size - count)
        score = sum(correct[count] * (1 - rho) if right else -wrong[count] * rho for right in outcomes) / size
        first += probability * score
        second += probability * score**2
    return first, second


@pytest.mark.parametrize("rho", [0.05, 0.3, 0.8])
@pytest.mark.parametrize("size", [2, 4, 7])
def test_by_sign_rules_are_rloo_in_expectation_and_differ_in_variance(size, rho):
    share = np.arange(size + 1) / size
    factor = size / (size - 1)
    rloo = (factor * (1 - share), -factor * share)
    mean, square = gradient_moments(*rloo, rho, size)
    assert mean == pytest.approx(rho * (1 - rho), rel=1e-12)
    squares = {"rloo": square}
    for name, multiple in (("psr", 1), ("nsr", 1), ("w-reinforce:0.1", 1.1), ("w-reinforce:0.7", 1.7)):
        first, second = gradient_moments(*scheme(name)(size), rho, size)
        assert first == pytest.approx(multiple * mean, rel=1e-12)
        squares[name] = second / multiple**2
    # The rare outcome has the large score: PSR is the noisier where successes are rare, NSR where failures are.
    assert (squares["psr"] > squares["nsr"]) == (rho < 0.5)
    assert len({f"{value:.9f}" for value in squares.values()}) == len(squares)


@pytest.mark.parametrize("size", [4, 6, 9])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_pkpo_is_unbiased_at_every_group_size(size, k):
    rho = 0.3
    mean, _ = gradient_moments(*scheme(f"pkpo:{k}")(size), rho, size)
    assert mean == pytest.approx(rho * (1 - rho) * k * (1 - rho) ** (k - 1), rel=1e-12)


@pytest.mark.parametrize("name", list(SCHEMES))
@pytest.mark.parametrize("size", [4, 5, 16])
def test_the_speed_of_a_scheme_is_its_expected_gradient(name, size):
    """The exact-ratio step moves log-odds by the gradient over ρ(1-ρ): closed form against enumeration, M ≤ 5."""
    correct, wrong = SCHEMES[name](size)
    assert correct.shape == wrong.shape == (size + 1,)
    assert (correct[0], wrong[-1]) == (0, 0)
    assert np.all(correct[1:-1] >= wrong[1:-1])
    assert np.all(np.isfinite([correct, wrong]))
    if size <= 5:
        rho = 0.35
        mean, _ = gradient_moments(correct, wrong, rho, size)
        speed = finite_group.speed([rho], correct, wrong, "ratio")
        assert mean == pytest.approx(float(speed[0]) * rho * (1 - rho), rel=1e-12)


@pytest.mark.parametrize("name", ["grpo-trl", "grpo-verl", "pass-at-k-groups:1", "pass-at-k-groups:3"])
@pytest.mark.parametrize("size", [4, 9])
def test_standardised_advantages_of_a_group_add_up_to_nothing(name, size):
    correct, wrong = scheme(name)(size)
    count = np.arange(size + 1)
    assert count * correct + (size - count) * wrong == pytest.approx(np.zeros(size + 1), abs=1e-13 * size**2)


@pytest.mark.parametrize("name", list(SCHEMES))
def test_uniform_groups_get_what_is_stated(name):
    member = SCHEMES[name]
    correct, wrong = member(16)
    known = {"-1/√(M+1)": -1 / math.sqrt(17)}
    assert wrong[0] == pytest.approx(known.get(member.all_wrong_rule) or float(member.all_wrong_rule), abs=1e-15)
    assert correct[-1] == pytest.approx(float(member.all_right_rule), abs=1e-15)


@pytest.mark.parametrize(("name", "size"), [("psr", 1), ("pkpo:4", 3), ("pass-at-k-groups:4", 3)])
def test_a_group_too_small_is_refused(name, size):
    with pytest.raises(ValueError, match="at least") as caught:
        scheme(name)(size)
    assert "\n" not in str(caught.value)
