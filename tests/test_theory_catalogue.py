"""The catalogue: formulas as printed, surrogates, ties, limits, and no weighting faster than the optimum."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import beta as beta_function
from scipy.special import betainc

from theory import catalogue, clocks, dynamics, finite_group
from theory.handbook import batches, paper, published
from theory.weighting import Formula, GroupScheme, Weighting
from weightopt import Problem, compare


def surrogate_of(weighting: Weighting) -> Formula:
    """A surrogate that is known."""
    assert weighting.surrogate is not None
    return weighting.surrogate


ENTRIES = {**catalogue.WEIGHTINGS, **catalogue.BATCH_EXAMPLES}
CLOCKS = ["regular", "effective", "failures", "mixed:4", "affine:1,2.0"]


def entry(name) -> Weighting:
    member = catalogue.parse(name)
    assert isinstance(member, Weighting)
    return member


def numbers(low, high):
    # Three digits: a parameter is something one types.
    return st.floats(low, high).map(lambda x: float(f"{x:.3g}"))


whole = st.integers(1, 30)
MEMBERS = st.one_of(
    st.sampled_from(list(catalogue.WEIGHTINGS)),
    st.builds("power:{},{}".format, numbers(-1, 0.95), numbers(-1, 0.95)),
    st.builds("grpo-stabilised:{}".format, numbers(1e-6, 0.5)),
    st.builds("grpo-epsilon:{}".format, numbers(1e-6, 0.45)),
    st.builds("clipped-mean:{}".format, numbers(0.01, 0.9)),
    st.builds("tsallis:{}".format, numbers(0, 1)),
    st.builds("f-grpo:{}".format, numbers(0, 4)),
    st.builds("rs-grpo:{}".format, numbers(0.01, 10)),
    st.builds("pass-at-k:{}".format, whole),
    st.builds("pass-at-k-training:{}".format, whole),
    st.builds("maxrl-order:{}".format, whole),
    st.builds(lambda m, share: f"bnpo:{m!r},{share * m * (1 - m)!r}", numbers(0.1, 0.9), numbers(0.3, 0.95)),
    st.lists(st.integers(1, 99), min_size=1, max_size=15).map(lambda c: "curverl:" + ",".join(map(str, c))),
    st.builds("batch-std:{}".format, numbers(0.01, 0.99)),
).map(entry)


@st.composite
def spans(draw):
    low, width = draw(st.floats(-8, 3)), draw(st.floats(0.05, 4))
    return 1 / (1 + math.exp(-low)), 1 / (1 + math.exp(-(low + width)))


def evaluate(formula, rho):
    """A printed formula as numbers: the notation of a page turned into Python."""
    names = {"√": "sqrt", "ρ": "r", "^": "**", "·": "*", "π": "pi", "½": "0.5"}
    text = formula.translate(str.maketrans(names))
    text = text.replace("ln ", "ln").replace("asin ", "asin")
    text = re.sub(r"(sqrt|ln|asin)r", r"\1(r)", text)
    text = re.sub(r"asinsqrt(\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))", r"asin(sqrt\1)", text)
    text = re.sub(r"(?<=[0-9)r]) *(?=(?:r|sqrt|ln|asin|\())", "*", text)  # 2(…, )(…, ρ(…: implicit products
    text = re.sub(r"(ln|asin|sqrt|artanh)\*\(", r"\1(", text)
    scope = {"sqrt": np.sqrt, "r": rho, "pi": np.pi, "ln": np.log, "asin": np.arcsin, "e": math.e}
    scope |= {"max": np.maximum, "min": np.minimum, "B": lambda *_: np.nan}
    return eval(text, {"__builtins__": {}}, scope) * np.ones_like(rho)


def test_the_reader_of_formulas_reads():
    rho = np.array([0.2, 0.7])
    assert evaluate("2(1-ρ)^3/√(ρ(1-ρ))", rho) == pytest.approx(2 * (1 - rho) ** 3 / np.sqrt(rho * (1 - rho)))
    assert evaluate("0.5 asin √(1-(1-ρ)^4)", rho) == pytest.approx(0.5 * np.arcsin(np.sqrt(1 - (1 - rho) ** 4)))
    assert evaluate("√ρ (1-ρ)^1.5", rho) == pytest.approx(np.sqrt(rho) * (1 - rho) ** 1.5)


@given(member=MEMBERS)
@settings(derandomize=True, max_examples=150, deadline=None)
def test_formulas_as_printed_are_the_functions(member):
    rho = np.linspace(0.03, 0.97, 9)
    weight = member(rho)
    assert member.effective(rho) == pytest.approx(rho * (1 - rho) * weight, rel=1e-15 * 4)
    if member.name.startswith("curverl"):
        return  # words, checked by its own test
    # Printed numbers have at least four digits; e^β carries the rounding of β = 10 into ten times as much.
    tolerance = 1e-2 if member.name.startswith("rs-grpo") else 2e-3
    if not member.name.startswith("bnpo"):
        printed = member.formula.partition(" = ")[0].partition("  (")[0]
        assert evaluate(printed, rho) == pytest.approx(weight, rel=tolerance)
        assert evaluate(member.effective_formula, rho) == pytest.approx(rho * (1 - rho) * weight, rel=tolerance)


SIMPLE_SURROGATES = [
    name
    for name, member in ENTRIES.items()
    if not any(
        word in catalogue.describe(member)["surrogate"] for word in ("B(", "up to", "Σ", "artanh", "t =", "linear")
    )
]


@pytest.mark.parametrize("name", SIMPLE_SURROGATES)
def test_surrogates_as_printed_are_the_functions(name):
    member = ENTRIES[name]
    assert member.surrogate is not None
    rho = np.linspace(0.05, 0.95, 7)
    assert np.diff(evaluate(catalogue.describe(member)["surrogate"], rho)) == pytest.approx(
        np.diff(member.surrogate(rho)), rel=1e-3
    )


def test_most_surrogates_are_checked_as_printed():
    assert len(SIMPLE_SURROGATES) >= 14


@pytest.mark.slow
@given(member=MEMBERS, theta=st.floats(-9, 5))
@settings(derandomize=True, max_examples=300, deadline=None)
def test_derivative_of_the_surrogate_is_the_weighting(member, theta):
    rho = 1 / (1 + math.exp(-theta))
    step = 1e-5 * rho * (1 - rho)
    if any(abs(rho - kink) <= 2 * step for kink in member.kinks):
        return
    h = member.surrogate
    if h is None:
        assert member.name.startswith(("bnpo", "power"))
        return
    low, high = h(np.array([rho - step, rho + step]))
    slope = (high - low) / ((rho + step) - (rho - step))
    # Truncation: 1e-10/6 times (third log-derivative of h, at most 30³ for order 30, over ω). Rounding: a few units in
    # the last place of h over the step.
    rounding = 2e-15 * max(1.0, abs(high)) / step
    assert slope == pytest.approx(float(member(rho)), rel=1e-6, abs=rounding)


@pytest.mark.slow
@given(member=MEMBERS, span=spans())
@settings(derandomize=True, max_examples=200, deadline=None)
def test_gain_of_the_surrogate_is_the_budget_spent(member, span):
    if member.surrogate is None:
        return
    start, target = span
    low, high = member.surrogate(np.array(span))
    spent = dynamics.update_budget(member, start, target, member.kinks)
    # Surrogates of size up to 1e2 round at 1e-14; near ρ = 1 the end itself rounds at 1e-16 of 1e-3.
    assert spent == pytest.approx(high - low, rel=1e-9, abs=4e-14 * max(1.0, abs(high)))


@given(member=MEMBERS, span=spans(), clock=st.sampled_from(CLOCKS), scale=st.floats(1e-3, 1e3))
@settings(derandomize=True, max_examples=100, deadline=None)
def test_time_at_equal_budget_is_that_of_its_partner_and_of_every_multiple(member, span, clock, scale):
    """T·B is the same for ω, for f/ω and for any multiple of ω."""
    w, clock = member, clocks.parse(clock)
    start, target = span

    def cost(weight):
        time = dynamics.crossing_time(weight, clock, dynamics.NATURAL, start, target, w.kinks)
        return time * dynamics.update_budget(weight, start, target, w.kinks)

    def partner(rho):
        return dynamics.cost_density(rho, clock, dynamics.NATURAL) / w(rho)

    assert cost(partner) == pytest.approx(cost(w), rel=1e-12)  # two quadratures, exact to rounding
    assert cost(lambda rho: scale * w(rho)) == pytest.approx(cost(w), rel=1e-12)


@given(member=MEMBERS, span=spans(), clock=st.sampled_from(CLOCKS))
@settings(derandomize=True, max_examples=100, deadline=None)
def test_no_weighting_beats_the_square_of_the_integral(member, span, clock):
    """Cauchy-Schwarz: T·B ≥ (∫√f dρ)², both by adaptive quadrature in log-odds, another road than the panels."""
    w, clock = member, clocks.parse(clock)
    low, high = (math.log(rho / (1 - rho)) for rho in span)
    kinks = sorted(math.log(k / (1 - k)) for k in w.kinks if span[0] < k < span[1]) or None

    def integral(function):
        def integrand(theta):
            rho = np.array(1 / (1 + math.exp(-theta)))
            return float(function(rho) * rho * (1 - rho))

        return quad(integrand, low, high, points=kinks, epsrel=1e-11, epsabs=0, limit=400)[0]

    def density(rho):
        return dynamics.cost_density(rho, clock, dynamics.NATURAL)

    product = integral(lambda rho: density(rho) / w(rho)) * integral(w)
    assert product >= integral(lambda rho: np.sqrt(density(rho))) ** 2 * (1 - 1e-9)


@given(span=spans(), clock=st.sampled_from(CLOCKS))
@settings(derandomize=True, max_examples=15, deadline=None)
def test_no_weighting_beats_the_certified_optimum(span, clock):
    start, target = span
    solution, rows = compare(Problem(start, target, clock), tuple(catalogue.WEIGHTINGS))
    assert [row.weighting for row in rows] == [*catalogue.WEIGHTINGS, "optimal"]
    assert all(row.time >= solution.lower_bound * (1 - 1e-12) for row in rows)
    found = {row.weighting: row.ratio for row in rows}
    for tied in (
        ("rloo", "reinforce", "dr-grpo"),
        ("grpo", "dapo"),
        ("linear-r", "maxrl"),
        ("uniform-r", "dgpo"),
    ):
        assert [found[name] for name in tied] == pytest.approx([found[tied[0]]] * len(tied), rel=1e-12)
    if clock == "regular":
        assert found["dgpo"] == pytest.approx(found["rloo"], rel=1e-12)
    if clock == "effective":
        assert found["dgpo"] == pytest.approx(found["maxrl"], rel=1e-12)


TIES = [
    ("one-sided-grpo", "tsallis:0.5", 1),
    ("tsallis:0", "rloo", 1),
    ("tsallis:1", "linear-r", 1),
    ("maxrl-order:1", "rloo", 1),
    ("pass-at-k:1", "rloo", 1),
    ("pass-at-k-training:1", "grpo", 1),
    ("f-grpo:0", "grpo", 1),
    ("f-grpo:0.5", "one-sided-grpo", 1),
    ("dgpo", "uniform-r", 0.5),
    ("batch-std:0.2", "rloo", 2.5),
    ("bnpo:0.5,0.0625", "grpo", beta_function(1.5, 1.5)),  # Beta(3/2, 3/2) fitted gives α = β = 3/2
    ("power:0.5,0.5", "grpo", 1),
]


@pytest.mark.parametrize(("one", "other", "factor"), TIES)
def test_members_that_are_one_law(one, other, factor):
    rho = np.geomspace(1e-6, 0.999, 60)
    assert entry(one)(rho) == pytest.approx(factor * entry(other)(rho), rel=1e-12)


@pytest.mark.parametrize("beta", [1e-3, 1e-2])
def test_risk_seeking_tends_to_rloo_at_first_order(beta):
    rho = np.array([0.1, 0.5, 0.9])
    assert entry(f"rs-grpo:{beta}")(rho) == pytest.approx(1 + beta * (0.5 - rho), abs=beta**2)


def test_orders_and_clips_tend_to_linear():
    rho = np.array([0.02, 0.3, 0.9])
    assert entry("maxrl-order:4096")(rho) == pytest.approx(1 / rho, rel=1e-15)  # (0.98)^4096 = 1e-36
    assert entry("clipped-mean:0.01")(rho) == pytest.approx(1 / rho, rel=1e-15)


def test_curverl_is_the_share_of_a_bin_among_those_up_to_it():
    member = entry("curverl:5,1,4")
    assert member([0.25, 0.5, 0.75]) == pytest.approx([1, 1 / 6, 4 / 10], rel=1e-15)
    assert member([0.01, 0.39, 0.41, 0.59, 0.61, 0.99]) == pytest.approx([1, 1, 1 / 6, 1 / 6, 0.4, 0.4])
    # A flat window is Linear-R read at K/M, up to a factor: 1/K.
    for size in (2, 3, 8, 16):
        flat = batches.curverl(*[7.0] * (size - 1))
        assert flat(np.arange(1, size) / size) == pytest.approx(1 / np.arange(1, size), rel=1e-15 * 2)


@given(mean=st.floats(0.1, 0.9), share=st.floats(0.1, 0.9))
@settings(derandomize=True, max_examples=40, deadline=None)
def test_shape_of_bnpo_fits_the_moments_and_minimises_the_variance(mean, share):
    variance = share * mean * (1 - mean)
    alpha, beta = batches.beta_shape(mean, variance)
    a, b = 3 * (alpha - 1), 3 * (beta - 1)
    assert a / (a + b) == pytest.approx(mean, rel=1e-12)
    assert a * b / ((a + b) ** 2 * (a + b + 1)) == pytest.approx(variance, rel=1e-12)

    def log_variance(alpha, beta):
        # ∫ p(1-p)/BetaPDF(p; α, β)² Beta(p; a, b) dp, by adaptive quadrature.
        def integrand(p):
            return beta_function(alpha, beta) ** 2 * p ** (a - 2 * alpha + 2) * (1 - p) ** (b - 2 * beta + 2)

        return math.log(quad(integrand, 0, 0.5)[0] + quad(integrand, 0.5, 1)[0])

    least = log_variance(alpha, beta)
    # The exponent a-2α+2 = a/3 is positive, so steps of a tenth leave the integral finite.
    for da, db in ((0.1, 0), (-0.1, 0), (0, 0.1), (0, -0.1), (0.07, 0.07), (-0.07, -0.07)):
        assert log_variance(alpha + da, beta + db) > least


def test_incomplete_beta_surrogate_at_a_known_value():
    # B(1/4; 1/2, 3/2) = asin ½ + ½√(3/4): ∫√((1-x)/x) dx.
    expected = math.asin(0.5) + 0.5 * math.sqrt(0.75)
    assert float(surrogate_of(published.f_grpo(1.0))(np.asarray(0.25))) == pytest.approx(expected, rel=1e-14)
    assert float(betainc(0.5, 1.5, 0.25) * beta_function(0.5, 1.5)) == pytest.approx(expected, rel=1e-14)


@given(member=MEMBERS)
@settings(derandomize=True, max_examples=150, deadline=None)
def test_end_rules_are_limits_unless_the_published_method_does_otherwise(member):
    w = member
    near, nearer = 1e-7, 1e-13
    ends = [
        (w.all_wrong_advantage, lambda x: float(-x * w(x))),
        (w.all_right_advantage, lambda x: float(x * w(1 - x))),
    ]
    for rule, advantage in ends:
        if w.published_rules:
            assert rule == 0
            continue
        # The slowest approach is x^(1-p) with p ≤ 1, which need not be small yet but must shrink, or be exact.
        far, close = abs(advantage(near) - rule), abs(advantage(nearer) - rule)
        exponent = math.log(far / close) / math.log(near / nearer) if close > 1e-9 else 1.0
        assert exponent > 5e-4 or close < 1e-3  # a parameter of three digits is 0.001 from 1 or further


def test_published_rules_are_where_the_limit_is_another_or_a_statistic_decides():
    told = {name.partition(":")[0] for name, member in ENTRIES.items() if member.published_rules}
    assert told == {"maxrl", "dgpo", "bnpo"}
    x = 1e-9
    assert float(-x * entry("maxrl")(x)) == pytest.approx(-1)
    assert float(-x * entry("dgpo")(x)) == pytest.approx(-0.5)
    assert entry("maxrl").all_wrong_rule == "0 (published)"
    assert entry("linear-r").all_wrong_rule == "-1 (limit)"
    assert entry("dapo").all_wrong_rule == "group is drawn again"
    assert entry("power:2,0").all_wrong_rule.startswith("no finite limit")


GROUPS = [
    name for name, member in catalogue.EVERYTHING.items() if not name.startswith("curverl") and name != "plateau-r"
]


def speeds(member, size, rho):
    """Expected log-odds speed of a member in groups of `size`: of its formula at K/M, or of its advantages."""
    if isinstance(member, GroupScheme):
        return finite_group.speed(rho, *member(size), "ratio")
    w = member
    weight = w.group_factor(size) * w(np.arange(1, size) / size)
    return finite_group.weight_speeds(rho, size, "ratio") @ weight


EXACT = {"rloo", "psr", "nsr", "w-reinforce:0.1", "pkpo:4"}
# 1/K and 1/(K(M-K)) average to 1/ρ and 1/(ρ(1-ρ)) up to uniform groups, whose probability falls exponentially.
EXPONENTIAL = {"linear-r", "maxrl", "uniform-r", "dgpo", "clipped-mean:0.125"}


@pytest.mark.parametrize("name", GROUPS)
def test_groups_tend_to_the_curve_at_first_order_in_the_group_size(name):
    member = catalogue.EVERYTHING[name]
    limit = member if isinstance(member, Weighting) else member.limit
    rho = np.array([0.35])
    errors = [abs(float(speeds(member, size, rho)[0] / limit(rho)[0]) - 1) for size in (128, 256, 512)]
    if name in EXACT:
        assert max(errors) < 1e-12  # rounding of up to 512 binomial weights
    elif name in EXPONENTIAL:
        # A clip at 1/8 is met from 0.35 with probability e^(-0.13 M).
        assert errors[0] < 1e-6
        assert errors[-1] < 1e-12
    else:
        # First order: halved when M doubles; the second order in 1/M is below a tenth of it from M = 128.
        assert np.divide(errors[:-1], errors[1:]) == pytest.approx([2, 2], rel=0.12)


def test_kinks_and_steps_converge_too():
    rho = np.array([0.5])  # the kink itself, where convergence is slowest
    plateau = catalogue.WEIGHTINGS["plateau-r"]
    errors = [abs(float(speeds(plateau, m, rho)[0] / plateau(rho)[0]) - 1) for m in (64, 256, 1024)]
    # A kink met by a binomial of width M^(-1/2): order one half, so halved when M grows fourfold.
    assert np.divide(errors[:-1], errors[1:]) == pytest.approx([2, 2], rel=0.12)


@pytest.mark.parametrize("size", [2, 5, 16])
def test_linear_weighting_in_groups_is_the_truncated_logarithm(size):
    """-1 on all-wrong groups gives order M exactly; 0 there, as in MaxRL, order M-1."""
    rho = np.array([0.001, 0.05, 0.4, 0.9])
    share = np.arange(size + 1) / size
    correct = np.concatenate([[0], 1 / share[1:] - 1])
    for all_wrong, order in ((-1.0, size), (0.0, size - 1)):
        wrong = np.array([all_wrong, *[-1.0] * (size - 1), 0.0])
        expected = entry(f"maxrl-order:{order}")(rho)
        assert finite_group.speed(rho, correct, wrong, "ratio") == pytest.approx(expected, rel=1e-12)


@given(member=MEMBERS)
@settings(derandomize=True, max_examples=100, deadline=None)
def test_a_member_is_found_again_by_its_name(member):
    again = entry(member.name)
    assert again.name == member.name
    rho = np.linspace(0.05, 0.95, 11)
    assert np.array_equal(again(rho), member(rho))
    assert catalogue.describe(again) == catalogue.describe(member)


def test_the_catalogue_holds_what_it_says():
    assert len(catalogue.EVERYTHING) == len(catalogue.WEIGHTINGS) + len(catalogue.BATCH_EXAMPLES) + len(
        catalogue.SCHEMES
    )
    assert len(catalogue.EVERYTHING) >= 25
    assert {member.name for member in paper.PLAIN} <= set(catalogue.WEIGHTINGS)
    for name, member in catalogue.EVERYTHING.items():
        assert catalogue.parse(name) is member
        text = catalogue.describe(member)
        assert all(text[key] for key in ("name", "label", "formula", "all_wrong", "all_right", "source"))
        known = re.search(r"arXiv \d{4}\.\d{5}|Williams 1992|derived|reconstruction|no publication", member.source)
        assert known
    told = {name for name, member in catalogue.EVERYTHING.items() if "reconstruction" in member.label}
    assert told == {"uniform-r", "plateau-r"}


@pytest.mark.parametrize("family", [f for f in catalogue.FAMILIES.values() if f.bare])
def test_the_name_of_a_family_is_the_member_that_the_catalogue_shows(family):
    assert catalogue.parse(family.name).name in catalogue.EVERYTHING


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("foo", ["unknown", "weightopt list"]),
        ("", ["unknown"]),
        ("foo:1", ["unknown"]),
        ("x" * 1000, ["unknown"]),
        ("power", ["power:a,b"]),
        ("bnpo", ["bnpo:mean,variance"]),
        ("batch-std", ["batch-std:mean"]),
        ("curverl", ["curverl:n1,n2"]),
        ("tsallis:", ["tsallis:Q"]),
        ("tsallis:1.5", ["from 0 to 1"]),
        ("tsallis:nan", ["from 0 to 1"]),
        ("tsallis:0.5,0.5", ["one number"]),
        ("grpo-stabilised:0", ["from 1e-12 to 1"]),
        ("grpo-epsilon:0.5", ["to 0.49"]),
        ("clipped-mean:1", ["to 0.999"]),
        ("f-grpo:-1", ["from 0 to 20"]),
        ("rs-grpo:1000", ["to 50"]),
        ("pass-at-k:0", ["from 1 to 4096"]),
        ("pass-at-k:2.5", ["one whole number"]),
        ("pass-at-k-training:5000", ["from 1 to 4096"]),
        ("maxrl-order:-3", ["from 1 to 4096"]),
        ("bnpo:0.5,0.25", ["variance in (0, mean(1-mean))"]),
        ("bnpo:nan,0.1", ["mean in (0, 1)"]),
        ("bnpo:0.5,0.0001", ["larger variance"]),
        ("curverl:1,0,2", ["positive"]),
        ("curverl:inf", ["1e12"]),
        ("batch-std:1", ["(0, 1)"]),
        ("w-reinforce:2", ["from 0 to 1"]),
        ("pkpo:0", ["from 1 to 4096"]),
        ("pass-at-k-groups:x", ["one whole number"]),
    ],
)
def test_a_name_that_names_nothing_is_refused_in_one_sentence(text, words):
    with pytest.raises(ValueError, match="weighting") as caught:
        catalogue.parse(text)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 300
    for word in words:
        assert word in sentence
