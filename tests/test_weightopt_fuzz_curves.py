"""Hundreds of odd calls that solve for a curve: each ends in an answer that holds, or in one sentence."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.special import expit, logit

from tests.independent import MOBILITIES, Physics, assert_certified, claim_of, clock_of, one, physics_of
from tests.odd_calls import BAD_CLOCKS, CLOCKS, EXPONENTS, corrupt, empty_folder, ends, fuzz, outcome, reals, run, words


@pytest.fixture(scope="module", autouse=True)
def folder():
    with empty_folder() as path:
        yield path


CONSTRAINTS = ("min_weight", "max_weight", "monotone", "max_ratio", "lipschitz", "lipschitz_in", "bins")
COMBINATIONS = [
    chosen
    for count in range(5)
    for chosen in itertools.combinations(CONSTRAINTS, count)
    if "lipschitz" in chosen or "lipschitz_in" not in chosen
]


@st.composite
def curves(draw):
    """Options of `solve` for a curve: a sound problem of any combination of constraints, sometimes spoilt."""
    start, target = draw(ends())
    options: dict[str, Any] = {"start": start, "target": target, "clock": draw(CLOCKS)}
    if draw(st.integers(0, 5)) == 0:
        options |= {"mobility": "softmax-gradient", "all_wrong": "-1", "all_right": "1"}
    elif draw(st.booleans()):
        options |= {"mobility": "natural"}
    budget = draw(st.sampled_from([None, 1.0, 0.5, 3.0, 1e-12, 1e12]))
    if budget is not None:
        options["budget"] = budget
    mean = (budget or 1.0) / (target - start)
    chosen = draw(st.sampled_from(COMBINATIONS))
    width = logit(target) - logit(start)
    slope = mean / (target - start if "lipschitz_in" in chosen else width)
    if "min_weight" in chosen:
        options["min_weight"] = mean * draw(st.sampled_from([0.0, 0.2, 0.9, 0.999, 1.0]))
    if "max_weight" in chosen:
        options["max_weight"] = mean * draw(st.sampled_from([1.0, 1.001, 1.5, 10.0]))
    if "monotone" in chosen:
        options["monotone"] = draw(st.sampled_from(["decreasing", "increasing"]))
    if "max_ratio" in chosen:
        options["max_ratio"] = draw(st.sampled_from([1.0, 1.1, 3.0, 50.0]))
    if "lipschitz" in chosen:
        options["lipschitz"] = slope * draw(st.sampled_from([0.0, 0.1, 0.5, 3.0, 100.0]))
    if "lipschitz_in" in chosen:
        options["lipschitz_in"] = "rho"
    if "bins" in chosen:
        shares = sorted(draw(st.sets(st.integers(1, 19), max_size=6)))
        options["bins"] = ",".join(repr(float(expit(logit(start) + width * share / 20))) for share in shares)
    return options, corrupt(draw, options, ("start", "target", "clock", "budget", *CONSTRAINTS), BAD_CLOCKS)


def hard(options) -> bool:
    """Whether an honest solver may fail to certify: Lipschitz bounds, bins, targets next to 1."""
    return "lipschitz" in options or "bins" in options or float(options["target"]) > 1 - 1e-6


@fuzz("curves", 20, 700, curves(), EXPONENTS)
def test_curves(case, exponents):
    options, spoilt = case
    ended = run("solve", *words(options), "--json")
    answered = outcome("curves", ended)
    if ended.status == 1:
        assert hard(options), ended
    if not spoilt:
        assert ended.status != 2, ended
    if answered:
        found = json.loads(ended.out)
        assert_certified(found, claim_of(found, options), physics_of(options), exponents)


# Measured clocks, mobilities and budget densities ---------------------------------------------------------------------


COLUMNS = {"csv": "cost", "tokens": "tokens", "tokens-effective": "tokens"} | {k: k for k in ("mobility", "density")}
CELLS = (
    "",
    "nan",
    "0",
    "-1",
    "1e-31",
    "1e31",
    "inf",
    "x",
    "½",
    "1_0",
    " 0.5 ",
    '"0.5"',
    "0x1",
    "1e-320",
    "0.5;0",
    "\x00",
)
HEADERS = ("", "rho", "rho;cost", "a,b", "cost,rho", "\ufeffx", "rho,cost,more", "0.1,0.2")


def interpolated(text: str):
    """A measured function from its file: the logarithm linear in log-odds, the ends kept."""
    rows = [line.replace('"', "").split(",") for line in text.replace("\r", "").split("\n") if line][1:]
    rho, value = np.array(rows, dtype=object).T.astype(float)
    return lambda x: np.exp(np.interp(logit(x), logit(rho), np.log(value)))


@st.composite
def measured_text(draw, kind: str, start: float, target: float):
    """A file that covers start to target, and whether it was spoilt."""
    count = draw(st.integers(0, 5))
    theta = np.linspace(logit(start) - draw(reals(0, 1)), logit(target) + draw(reals(0, 1)), count + 2)
    rho = [repr(float(x)) for x in expit(theta)]
    rho[0], rho[-1] = repr(min(start, float(rho[0]))), repr(max(target, float(rho[-1])))
    values = [f"{math.exp(draw(reals(-1.5, 1.5))):.6g}" for _ in rho]
    lines = [f"rho,{COLUMNS[kind]}", *(",".join(row) for row in zip(rho, values, strict=True))]
    change = draw(st.sampled_from(["none"] * 6 + ["cell", "cell", "swap", "drop", "double", "header", "column", "cut"]))
    at = draw(st.integers(1, len(lines) - 1))
    if change == "cell":
        cells = lines[at].split(",")
        cells[draw(st.integers(0, 1))] = draw(st.sampled_from(CELLS))
        lines[at] = ",".join(cells)
    elif change == "swap":
        other = draw(st.integers(0, len(lines) - 1))
        lines[at], lines[other] = lines[other], lines[at]
    elif change == "drop":
        del lines[at]
    elif change == "double":
        lines.insert(at, lines[at])
    elif change == "header":
        lines[0] = draw(st.sampled_from(HEADERS))
    elif change == "column":
        lines[at] += draw(st.sampled_from([",", ",1", '"', ",x"]))
    text = draw(st.sampled_from(["\n", "\r\n", "\n\n"])).join(lines) + draw(st.sampled_from(["", "\n"]))
    return (text[: len(text) // 2] if change == "cut" else text), change != "none"


@st.composite
def measured(draw):
    """Options of `solve` with one to three files, and their texts."""
    start, target = draw(ends())
    options: dict[str, Any] = {"start": start, "target": target, "clock": draw(CLOCKS)}
    kinds = draw(st.lists(st.sampled_from(list(COLUMNS)), min_size=1, max_size=2, unique=True))
    files, spoilt = {}, False
    for kind in kinds:
        files[kind], odd = draw(measured_text(kind, start, target))
        spoilt |= odd
        option = {"mobility": "mobility", "density": "budget_density"}.get(kind, "clock")
        options[option] = f"{kind}.csv" if kind == "density" else f"{'csv' if kind == 'mobility' else kind}:{kind}.csv"
    options |= {"all_wrong": "-1", "all_right": "1"}
    constraint = draw(st.sampled_from(["", "", "monotone", "max_ratio"]))
    if constraint:
        options[constraint] = {"monotone": "decreasing", "max_ratio": 2}[constraint]
    return options, files, spoilt


@fuzz("measured", 12, 320, measured(), EXPONENTS)
def test_measured(case, exponents):
    options, files, spoilt = case
    for kind, text in files.items():
        Path(f"{kind}.csv").write_bytes(text.encode())
    ended = run("solve", *words(options), "--json")
    answered = outcome("measured", ended)
    assert ended.status != 1
    if not answered:
        assert spoilt, ended
        assert ".csv: " in ended.err  # the sentence names the file
        return
    found = json.loads(ended.out)
    clock, mobility, density = functions_of(options, files)
    assert_certified(found, claim_of(found, options), Physics(clock, mobility, density), exponents)


def functions_of(options, files):
    kind = str(options["clock"]).partition(":")[0]
    if kind in files:
        values = interpolated(files[kind])
        clock = (lambda rho: values(rho) / rho) if kind == "tokens-effective" else values
    else:
        clock = clock_of(str(options["clock"]))
    mobility = interpolated(files["mobility"]) if "mobility" in options else MOBILITIES["natural"]
    return clock, mobility, interpolated(files["density"]) if "density" in files else one


# What an earlier version got wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", ["min_weight", "max_weight"])
@pytest.mark.parametrize("target", [0.5, 0.6, 0.7, 0.8])
def test_a_bound_may_equal_the_mean_weight_on_bins(bound, target):
    options = {"start": 0.01, "target": target, "clock": "regular", "bins": "0.4", bound: 1 / (target - 0.01)}
    found = json.loads(run("solve", *words(options), "--json").out)
    assert_certified(found, claim_of(found, options), physics_of(options), [(0.5, 0.5)])


# The checker itself ---------------------------------------------------------------------------------------------------


def assert_caught(found: dict, options, match: str | None = None) -> None:
    with pytest.raises(AssertionError, match=match):
        assert_certified(found, claim_of(found, options), physics_of(options), [(0.5, 0.0), (0.0, 0.0), (1.0, 0.5)])


WRONG = {
    "too fast": ({}, lambda f: f | {"time": f["time"] * 0.998, "lower_bound": f["lower_bound"] * 0.998}),
    "bound too high": ({}, lambda f: f | {"lower_bound": f["lower_bound"] * (1 + 1e-8)}),
    "gap not shown": ({}, lambda f: f | {"gap": 1e-3}),
    "not optimal": ({}, lambda f: f | {"status": "uncertified"}),
    "spends too much": ({}, lambda f: f | {"weight": [w * 1.002 for w in f["weight"]]}),
    "above a bound": ({"max_weight": 1.5}, lambda f: f | {"weight": [w * (1 + 1e-6) for w in f["weight"]]}),
    "not monotone": ({"monotone": "decreasing"}, lambda f: f | {"weight": [*f["weight"][:-1], 1.01 * f["weight"][-1]]}),
    "constant though better is known": ({"max_ratio": 4}, None),
    "constant though bins may differ": ({"bins": "0.2,0.5"}, None),
    "constant though it may slope": ({"lipschitz": 0.5}, None),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_checker_of_curves_catches(name):
    extra, spoil = WRONG[name]
    options = {"start": 0.05, "target": 0.8, "clock": "effective", **extra}
    found = json.loads(run("solve", *words(options), "--json").out)
    exponents = [(0.5, 0.0), (0.0, 0.0), (1.0, 0.5)]
    assert_certified(found, claim_of(found, options), physics_of(options), exponents)
    if spoil is None:  # the constant weight, consistently presented as the best
        constant = 1 / 0.75
        time = constant**-1 * (1 / 0.05 - 1 / 0.8 + logit(0.8) - logit(0.05))  # ∫ 1/(ρ²(1-ρ))
        found |= {"weight": [constant] * len(found["rho"]), "time": time, "lower_bound": time, "gap": 0.0}
    else:
        found = spoil(found)
    assert_caught(found, options)
