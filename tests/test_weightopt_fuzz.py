"""Thousands of odd calls of the command line: each ends in an answer that holds, or in one sentence.

Answers are certified again without `weightopt.curves.certificate` and without the project's quadrature: trapezoids on
the printed grid, Simpson's rule and `scipy.stats.binom` elsewhere, the constraints read off the printed weights, and
weak duality: no feasible competitor, a handful for each answer, may be faster than the printed lower bound.
"""

import contextlib
import copy
import csv
import functools
import hashlib
import io
import itertools
import json
import math
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.integrate import simpson
from scipy.special import expit, logit
from scipy.stats import binom

from theory import catalogue
from weightopt import cli

# How many cases each test throws.
CASES = {
    "curves": 700,
    "measured": 320,
    "groups": 500,
    "ranges": 50,
    "comparisons": 900,
    "group comparisons": 120,
    "tables": 1500,
    "shown": 450,
    "checked": 520,
    "sweeps": 80,
}
PROMISED = 5000
RARE = 0.02  # share of solves that may end "not certified", an honest answer that should be rare
LONGEST = 700  # characters that are still one sentence
COUNTS: Counter[str] = Counter()  # cases by test, and how they ended
QUADRATURE = 1e-3  # coarser than this the trapezoids would not check much; see `trapezoids`

NONSENSE = ("", " ", "nan", "inf", "-inf", "-1", "0", "1", "1e400", "-0.0", "0x1", "1e-320", "½", "٠٫٥", "1,5", "None")
NONSENSE += ("1e308", "5e-324", "x" * 300, "0.5\n", "9" * 400, "\u202e1", "true", "[b]0.5[/b]", "--", "2", "1e-12")


class Run(NamedTuple):
    status: int
    out: str
    err: str


@functools.cache
def command():
    """The commands of this package, built once: building them takes longer than most of the calls."""
    return typer.main.get_command(cli.app)


@pytest.fixture(scope="module", autouse=True)
def folder():
    """An empty folder to be in, and the command line without the commands of other packages."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as path, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_add_commands", lambda: None)
        patch.setattr(cli, "app", command())
        os.chdir(path)
        Path("file.csv").write_text("rho,tokens\n0.01,900\n0.2,1400\n0.9,600\n")
        for name in FILES:
            table_file(name)
        yield Path(path)
        left = [name for name in os.listdir() if name.endswith((".tmp", ".partial"))]
        os.chdir(before)
        assert not left


def run(*arguments) -> Run:
    """Call the command line; warnings are errors here, so that what it prints is all that a user would see."""
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["weightopt", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stopped:
            cli.main()
    finally:
        sys.argv = argv
    return Run(int(stopped.value.code or 0), out.getvalue(), err.getvalue())


def outcome(kind: str, ended: Run) -> bool:
    """Whether it was an answer; anything else must be one sentence."""
    COUNTS[kind] += 1
    COUNTS[f"{kind}: status {ended.status}"] += 1
    if ended.status == 0:
        assert ended.err == "" or ended.err.startswith("weightopt: warning: the table of clock "), ended
        return True
    assert ended.status in (1, 2), ended
    assert ended.out == ""
    assert ended.err.startswith("weightopt: "), ended
    assert ended.err.endswith(".\n")
    assert ended.err.count("\n") == 1
    assert len(ended.err) < LONGEST
    assert "Traceback" not in ended.err
    assert "Error" not in ended.err.replace("SolverError", "")
    if ended.status == 1:
        assert "not certified" in ended.err, ended
    return False


def fuzz(kind: str):
    return settings(
        max_examples=CASES[kind],
        derandomize=True,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


# What a case asks for ------------------------------------------------------------------------------------------------


def reals(low, high):
    return st.floats(low, high, allow_nan=False).map(lambda x: round(x, 6))


START = st.one_of(reals(-13.8, 2.0), st.sampled_from([-9.2, -4.6, 0.0]))  # in log-odds: from 1e-6
WIDTH = st.one_of(reals(0.02, 9.0), st.sampled_from([0.1, 1e-3, 7.0]))
CLOCKS = st.sampled_from(["regular", "effective", "failures", "mixed:2", "mixed:16", "affine:1,0.5", "affine:0,2"])
BAD_CLOCKS = ("mixed:1", "mixed:x", "affine:1", "affine:0,0", "affine:nan,1", "affine:1e31,0", "csv:", "csv:absent.csv")
BAD_CLOCKS += ("tokens:.", "Regular", "mixed:70000", "affine:-1,2", "sgv:x", "tokens-effective:\x00")


@st.composite
def ends(draw):
    """Start and target, sound and not too close to 0 and 1 for the trapezoids of this file."""
    low = draw(START)
    start, target = float(f"{expit(low):.12g}"), float(f"{expit(low + draw(WIDTH)):.12g}")
    return start, target


def corrupt(draw, options: dict[str, Any], names: tuple[str, ...], special: tuple[str, ...] = ()) -> bool:
    """Replace one or two of the options by nonsense in two cases of five; whether it did."""
    if draw(st.integers(0, 4)) < 3:
        return False
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=2)):
        options[name] = draw(st.sampled_from(NONSENSE + (special if name == "clock" else ())))
    return True


def words(options: dict[str, Any]) -> list[str]:
    """Options as arguments; True is a flag, a list its words."""
    arguments = []
    for name, value in options.items():
        arguments.append("--" + name.replace("_", "-"))
        if value is not True:
            arguments += [str(x) for x in value] if isinstance(value, list) else [str(value)]
    return arguments


# The independent checker ---------------------------------------------------------------------------------------------


class Physics(NamedTuple):
    """c, κ and p of a case as functions of ρ, from the words it was given."""

    clock: Callable[[Any], Any]
    mobility: Callable[[Any], Any]
    density: Callable[[Any], Any]

    def cost(self, rho):
        """c/κ."""
        return self.clock(rho) / self.mobility(rho)


def clock_of(text: str):
    name, _, given_numbers = text.partition(":")
    if name == "mixed":
        size = int(given_numbers)
        return lambda rho: 1 / (1 - rho**size - (1 - rho) ** size)
    if name == "affine":
        a, b = map(float, given_numbers.split(","))
        return lambda rho: a + b / rho
    return {
        "regular": lambda rho: np.ones_like(rho),
        "effective": lambda rho: 1 / rho,
        "failures": lambda rho: (1 - rho) / rho,
    }[name]


def one(rho):
    return np.ones_like(rho)


MOBILITIES = {"natural": lambda rho: rho * (1 - rho), "softmax-gradient": lambda rho: (rho * (1 - rho)) ** 2}


def physics_of(options) -> Physics:
    return Physics(clock_of(str(options["clock"])), MOBILITIES[str(options.get("mobility", "natural"))], one)


class Claim(NamedTuple):
    """A curve as printed, with what it had to satisfy."""

    rho: np.ndarray
    weight: np.ndarray
    budget: float
    low: float
    high: float
    monotone: str | None
    ratio: float
    lipschitz: float
    in_rho: bool
    edges: np.ndarray | None


def claim_of(found: dict, options) -> Claim:
    def number(name, default):
        return float(options[name]) if name in options else default

    bins = options.get("bins")
    return Claim(
        np.array(found["rho"]),
        np.array(found["weight"]),
        number("budget", 1.0),
        number("min_weight", 0.0),
        number("max_weight", math.inf),
        options.get("monotone"),
        number("max_ratio", math.inf),
        number("lipschitz", math.inf),
        options.get("lipschitz_in") == "rho",
        None if bins is None else np.array([float(x) for x in bins.split(",")] if bins.strip() else []),
    )


def meets(claim: Claim, weight, slack=1e-8) -> bool:
    """Whether weights on the printed grid satisfy every constraint but the budget."""
    largest, change = float(np.max(weight)), np.diff(weight)
    fine = np.min(weight) >= claim.low * (1 - slack) and largest <= claim.high * (1 + slack)
    fine &= largest <= claim.ratio * np.min(weight) * (1 + slack)
    if claim.monotone is not None:
        fine &= bool(np.all(change * (1 if claim.monotone == "increasing" else -1) >= -slack * largest))
    first = np.zeros(1, dtype=int)  # the first point of every bin
    if claim.edges is not None:
        bins = np.searchsorted(claim.edges, claim.rho, side="right")
        first = np.searchsorted(bins, np.arange(claim.edges.size + 1))
        fine &= bool(np.all(np.abs(weight - weight[first][bins]) <= slack * largest))
    if math.isfinite(claim.lipschitz):
        jumps, x = change, claim.rho if claim.in_rho else logit(claim.rho)
        apart = np.diff(x)
        if claim.edges is not None:  # between the middles of neighbouring bins
            cuts = np.array([claim.rho[0], *claim.edges, claim.rho[-1]])
            cuts = cuts if claim.in_rho else logit(cuts)
            jumps, apart = np.diff(weight[first]), np.diff((cuts[1:] + cuts[:-1]) / 2)
        fine &= bool(np.all(np.abs(jumps) <= claim.lipschitz * apart * (1 + 1e-6) + slack * largest))
    return bool(fine)


def trapezoids(claim: Claim, values) -> tuple[float, float]:
    """∫ values dρ on the printed grid, even in log-odds, and how far off that may be.

    Second order, so that the difference to every other point is three times the error; but a kink inside a cell adds
    an eighth of its second difference times the spacing, and there may be eight of them.
    """
    rho = claim.rho
    step = math.log1p((rho[-1] - rho[0]) / (rho[0] * (1 - rho[-1]))) / (rho.size - 1)
    inner = values * rho * (1 - rho)
    fine = step * (np.sum(inner) - (inner[0] + inner[-1]) / 2)
    coarse = 2 * step * (np.sum(inner[::2]) - (inner[0] + inner[-1]) / 2)
    kinks = step * np.max(np.abs(np.diff(inner, 2)))
    return float(fine), float(1e-9 * abs(fine) + abs(fine - coarse) + kinks)


def on_bins(claim: Claim, function, by_bin) -> tuple[float, float]:
    """∫ function·by_bin dρ over bins that have a weight each."""
    assert claim.edges is not None
    cuts = np.array([claim.rho[0], *claim.edges, claim.rho[-1]])
    total = 0.0
    for left, right, value in zip(cuts[:-1], cuts[1:], by_bin, strict=True):
        theta = np.linspace(logit(left), logit(right), 401)
        rho = expit(theta)
        total += value * float(simpson(function(rho) * rho * (1 - rho), x=theta))
    return total, 1e-7 * total


def time_and_budget(claim: Claim, physics: Physics, weight) -> tuple[float, float, float]:
    """T, ∫pω and the relative error of the two together."""
    if claim.edges is None:
        time, time_error = trapezoids(claim, physics.cost(claim.rho) / weight)
        spent, spent_error = trapezoids(claim, physics.density(claim.rho) * weight)
    else:
        bins = np.searchsorted(claim.edges, claim.rho, side="right")
        by_bin = weight[np.searchsorted(bins, np.arange(claim.edges.size + 1))]
        time, time_error = on_bins(claim, physics.cost, 1 / by_bin)
        spent, spent_error = on_bins(claim, physics.density, by_bin)
    return time, spent, time_error / time + spent_error / spent


def competitor(claim: Claim, physics: Physics, a: float, b: float):
    """The weighting ρ^-a (1-ρ)^-b, mixed with the constant weight until every constraint is met; the budget spent."""
    rho = claim.rho
    shape = np.exp(-a * (np.log(rho) - np.log(rho[0])) - b * (np.log1p(-rho) - np.log1p(-rho[0])))
    if claim.edges is not None:
        bins = np.searchsorted(claim.edges, rho, side="right")
        shape = shape[np.searchsorted(bins, bins)]
    constant = claim.budget / time_and_budget(claim, physics, np.ones_like(rho))[1] * np.ones_like(rho)
    shape = shape * (claim.budget / time_and_budget(claim, physics, shape)[1])
    share, beyond = 1.0, 0.0
    if not meets(claim, shape, 0.0):
        share, beyond = 0.0, 1.0
        for _ in range(12):
            middle = (share + beyond) / 2
            inside = meets(claim, constant + middle * (shape - constant), 0.0)
            share, beyond = (middle, beyond) if inside else (share, middle)
    return constant + share * (shape - constant)


def assert_certified(found: dict, claim: Claim, physics: Physics, exponents) -> None:
    """Status, feasibility, time, budget and lower bound of a printed curve, none of it on the solver's word."""
    assert found["status"] == "optimal"
    assert 0 <= found["gap"] <= 1e-9
    assert found["lower_bound"] == pytest.approx(found["time"], rel=1e-9)
    assert np.all(np.diff(claim.rho) > 0)
    assert meets(claim, claim.weight)
    time, spent, error = time_and_budget(claim, physics, claim.weight)
    assert error < QUADRATURE
    assert spent == pytest.approx(claim.budget, rel=error)
    assert time == pytest.approx(found["time"], rel=error)
    if not (claim.low or math.isfinite(min(claim.high, claim.ratio, claim.lipschitz)) or claim.monotone):
        # Without constraints the least time is known: (∫√(c p/κ))²/B, by Cauchy and Schwarz.
        least, least_error = trapezoids(claim, np.sqrt(physics.cost(claim.rho) * physics.density(claim.rho)))
        if claim.edges is None:
            assert found["time"] == pytest.approx(least**2 / claim.budget, rel=2 * least_error / least + 1e-9)
    for a, b in exponents:
        other = competitor(claim, physics, a, b)
        for share in (1.0, 0.1):
            weight = share * other + (1 - share) * claim.weight
            rival, cost, rival_error = time_and_budget(claim, physics, weight)
            rival *= max(1.0, cost / claim.budget)  # what overspends is charged for it
            assert rival >= found["lower_bound"] * (1 - rival_error - 1e-9)


EXPONENTS = st.lists(
    st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1.5]), st.sampled_from([-1.0, 0.0, 0.5, 1.0])),
    min_size=1,
    max_size=2,
)

# Curves --------------------------------------------------------------------------------------------------------------

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


@fuzz("curves")
@given(curves(), EXPONENTS)
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


# Measured clocks, mobilities and budget densities --------------------------------------------------------------------

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


@fuzz("measured")
@given(measured(), EXPONENTS)
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


# Tables for groups ---------------------------------------------------------------------------------------------------


class Model(NamedTuple):
    """What a table for groups is measured by: Simpson's rule in log-odds and `scipy.stats.binom`."""

    theta: np.ndarray
    rho: np.ndarray
    groups: np.ndarray  # (r, M+1)
    physics: Physics
    step_model: str
    budget_kind: str

    def integral(self, values) -> float:
        return float(simpson(values * self.rho * (1 - self.rho), x=self.theta))

    def speed(self, correct, wrong):
        share = np.arange(correct.size) / (correct.size - 1)
        if self.step_model == "ratio":
            by_group = self.groups * share / self.rho[:, None]
            return by_group @ correct - (self.groups * (1 - share) / (1 - self.rho[:, None])) @ wrong
        return self.groups[:, 1:] @ correct[1:] - self.groups[:, :-1] @ wrong[:-1]

    def time_and_budget(self, correct, wrong) -> tuple[float, float]:
        speed = self.speed(correct, wrong)
        if np.min(speed) <= 0:
            return math.inf, math.inf
        time = self.integral(self.physics.cost(self.rho) / speed)
        if self.budget_kind == "drift":
            return time, self.integral(self.physics.density(self.rho) * speed)
        share = np.arange(correct.size) / (correct.size - 1)
        squares = self.groups @ (share * correct**2 + (1 - share) * wrong**2)
        return time, self.integral(squares / self.physics.mobility(self.rho) / speed)


def model_of(options, start: float, target: float, physics: Physics | None = None) -> Model:
    theta = np.linspace(logit(start), logit(target), 801)
    rho = expit(theta)
    size = int(options["group_size"])
    groups = binom.pmf(np.arange(size + 1), size, rho[:, None])
    step_model, budget_kind = options.get("step_model", "ratio"), options.get("budget_kind", "advantage-variance")
    return Model(theta, rho, groups, physics or physics_of(options), str(step_model), str(budget_kind))


def advantages_of(weight):
    """Centred advantages of weights for K = 1..M-1."""
    share = np.arange(1, weight.size + 1) / (weight.size + 1)
    return np.array([0.0, *weight * (1 - share), 0.0]), np.array([0.0, *-weight * share, 0.0])


def of_shape(shape: str, weight) -> bool:
    slack = 1e-9 * float(np.max(weight))
    fine = np.min(weight) >= 0
    if shape == "nonincreasing":
        fine &= bool(np.all(np.diff(weight) <= slack))
    if shape == "convex":
        fine &= bool(np.all(np.diff(weight, 2) >= -slack))
    return bool(fine)


def rivals(shape: str, size: int, numbers):
    """Weights of that shape: powers, one made of the numbers, and the extreme ones, of which all others are sums.

    A table that is not the best is improved by adding a little of some extreme one.
    """
    share, k = np.arange(1, size) / size, np.arange(size - 1)
    yield share**-0.5 * (1 - share) ** -0.5 if shape != "nonincreasing" else share**-0.5
    yield 1 / share
    extreme = np.eye(size - 1)
    if shape == "nonincreasing":
        extreme = (k <= k[:, None]).astype(float)
    if shape == "convex":
        extreme = np.array([np.maximum(sign * (k - j), 0) for j in k for sign in (1, -1)])
        extreme = np.array([np.ones(size - 1), *extreme[extreme.any(axis=1)]])
    yield np.resize(np.array(numbers), len(extreme)) @ extreme + 1e-6
    yield from extreme


GROUP_OPTIONS = ("start", "target", "clock", "budget", "group_size", "step_model", "budget_kind", "shape", "all_wrong")


@st.composite
def group_options(draw, largest: int = 12):
    start, target = draw(ends())
    options: dict[str, Any] = {"start": start, "target": target, "clock": draw(CLOCKS)}
    options["group_size"] = draw(st.integers(2, largest))
    for name, choices in (
        ("step_model", ("ratio", "outcome")),
        ("budget_kind", ("drift", "advantage-variance")),
        ("shape", ("free", "convex", "nonincreasing")),
        ("mobility", ("natural", "softmax-gradient")),
        ("budget", (0.25, 4.0, 1e9, 1e-9)),
    ):
        if draw(st.booleans()):
            options[name] = draw(st.sampled_from(choices))
    return options


@st.composite
def groups(draw):
    """Options of `solve` for a table; --uncentred, --plug-in and rules for uniform groups now and then."""
    options = draw(group_options())
    extra = draw(st.sampled_from(["", "", "", "uncentred", "plug_in", "all_wrong"]))
    if extra == "uncentred":
        options |= {"uncentred": True, "budget_kind": "advantage-variance", "shape": "free"}
    if extra == "plug_in":
        options = {k: v for k, v in options.items() if k not in ("step_model", "budget_kind", "shape")}
        options |= {"plug_in": True, "all_wrong": "-0.25", "all_right": "0.5"}
    if extra == "all_wrong":
        options["all_wrong"] = draw(st.sampled_from(["-0.5", "0", "1e-3"]))
    return options, corrupt(draw, options, GROUP_OPTIONS, BAD_CLOCKS)


NUMBERS = st.lists(reals(0, 1), min_size=1, max_size=4)


@fuzz("groups")
@given(groups(), NUMBERS)
def test_groups(case, numbers):
    options, spoilt = case
    ended = run("solve", *words(options), "--json")
    answered = outcome("groups", ended)
    assert ended.status != 1, ended
    if "all_wrong" in options and "plug_in" not in options:  # no certificate would be about that table
        assert ended.status == 2
    elif not spoilt:
        assert ended.status == 0, ended
    if answered:
        assert_group(json.loads(ended.out), options, numbers)


def assert_group(found: dict, options, numbers) -> None:
    size, start, target = int(options["group_size"]), float(options["start"]), float(options["target"])
    budget = float(options.get("budget", 1.0))
    weight = np.array(found["weight"])
    correct, wrong = np.array(found["advantage_correct"]), np.array(found["advantage_wrong"])
    assert found["status"] == "optimal"
    assert found["rho"] == pytest.approx(np.arange(1, size) / size, rel=1e-15)
    assert (correct[0], wrong[-1]) == (0, 0)
    assert correct - wrong == pytest.approx(np.array([-wrong[0], *weight, correct[-1]]), rel=1e-12, abs=1e-300)
    for name, value in (("all_wrong", wrong[0]), ("all_right", correct[-1])):
        assert found[f"{name}_advantage"] == value
        if name in options:
            assert value == float(options[name])
    if "plug_in" in options:
        physics = physics_of(options)
        rho = np.array(found["rho"])
        law = np.sqrt(physics.cost(rho))  # up to the multiplier
        assert weight / law == pytest.approx(weight[0] / law[0], rel=1e-9)
        return
    if "uncentred" not in options:
        centred = advantages_of(weight)
        assert correct[1:-1] == pytest.approx(centred[0][1:-1], rel=1e-12, abs=1e-300)
        assert wrong[1:-1] == pytest.approx(centred[1][1:-1], rel=1e-12, abs=1e-300)
        assert of_shape(str(options.get("shape", "convex")), weight)
    assert np.min(correct) >= 0
    assert np.max(wrong) <= 0
    model = model_of(options, start, target)
    time, spent = model.time_and_budget(correct, wrong)
    # Simpson's rule on 801 points is good for 1e-8 and better on what is this smooth.
    assert spent == pytest.approx(budget, rel=1e-7)
    assert time == pytest.approx(found["time"], rel=1e-7)
    assert found["lower_bound"] == pytest.approx(found["time"], rel=1.1e-8)
    assert 0 <= found["gap"] <= 1e-8
    for rival in rivals(str(options.get("shape", "convex")), size, numbers):
        shape = advantages_of(rival / np.sum(rival) * np.sum(correct - wrong))
        for share in (1.0, 0.1, 0.01):
            other = [share * mine + (1 - share) * best for mine, best in zip(shape, (correct, wrong), strict=True)]
            product = math.prod(model.time_and_budget(*other))
            assert product / budget >= found["lower_bound"] * (1 - 2e-7)


@st.composite
def ranges(draw):
    options = draw(group_options(largest=5))
    start, target = float(options.pop("start")), float(options["target"])
    last = float(expit(logit(start) + draw(reals(0.05, 0.95)) * (logit(target) - logit(start))))
    options["start_range"] = [start, last]
    if draw(st.integers(0, 2)) == 0:
        options["start_range"][draw(st.integers(0, 1))] = draw(st.sampled_from([*NONSENSE, "0.999999"]))
        return options, True
    return options, corrupt(draw, options, ("target", "clock", "group_size", "shape"), BAD_CLOCKS)


@fuzz("ranges")
@given(ranges(), NUMBERS)
def test_ranges(case, numbers):
    options, spoilt = case
    ended = run("solve", *words(options), "--json")
    answered = outcome("ranges", ended)
    if not spoilt:
        assert ended.status == 0, ended
    if not answered:
        return
    found = json.loads(ended.out)
    size, budget, shape = int(options["group_size"]), float(options.get("budget", 1)), options.get("shape", "convex")
    target = float(options["target"])
    assert found["starts"][0] == float(options["start_range"][0])
    assert found["starts"][-1] == float(options["start_range"][1])
    weight = np.array(found["weight"])
    assert of_shape(str(shape), weight)
    assert found["worst_ratio"] == pytest.approx(max(found["ratios"]), rel=1e-12)
    assert found["lower_bound"] == pytest.approx(found["worst_ratio"], rel=1e-7)
    assert found["worst_ratio"] >= 1 - 1e-7
    others = [weight, *rivals(str(shape), size, numbers)]
    others += [0.1 * w / w.sum() + 0.9 * weight / weight.sum() for w in others[1:]]
    worst = np.zeros(len(others))
    for start, ratio in zip(found["starts"], found["ratios"], strict=True):
        model = model_of(options, start, target)
        products = [math.prod(model.time_and_budget(*advantages_of(w))) for w in others]
        own = products[0] / budget / ratio  # what the answer takes the best table for this start to need
        assert min(products) / budget >= own * (1 - 1e-6)
        worst = np.maximum(worst, np.array(products) / budget / own)
    assert np.min(worst) >= found["lower_bound"] * (1 - 1e-6)


# Comparisons ---------------------------------------------------------------------------------------------------------

LAWS = {
    "rloo": np.ones_like,
    "grpo": lambda rho: 1 / np.sqrt(rho * (1 - rho)),
    "linear-r": lambda rho: 1 / rho,
    "sqrt-r": lambda rho: 1 / (rho * np.sqrt(1 - rho)),
    "uniform-r": lambda rho: 1 / (rho * (1 - rho)),
    "plateau-r": lambda rho: np.minimum(1, 2 * (1 - rho)) / (rho * (1 - rho)),
}
ALL_WRONG = {"linear-r": -1.0, "sqrt-r": -1.0, "uniform-r": -1.0, "plateau-r": -1.0}
ALL_RIGHT = {"uniform-r": 1.0}


@st.composite
def comparisons(draw):
    start, target = draw(ends())
    options: dict[str, Any] = {"start": start, "target": target, "clock": draw(CLOCKS)}
    if draw(st.booleans()):
        options["mobility"] = draw(st.sampled_from(["natural", "softmax-gradient", "mirror", ""]))
    if draw(st.booleans()):
        options["budget"] = draw(st.sampled_from([0.1, 7.0, 1e20, 1e-20]))
    if draw(st.booleans()):
        options["all"] = True
    odd = draw(st.sampled_from([{}] * 8 + [{"shape": "free"}, {"step_model": "x"}]))
    spoilt = corrupt(draw, options, ("start", "target", "clock", "budget"), BAD_CLOCKS)
    return options | odd, spoilt or bool(odd) or options.get("mobility") in ("mirror", "")


@fuzz("comparisons")
@given(comparisons())
def test_comparisons(case):
    options, spoilt = case
    ended = run("compare", *words(options), "--json")
    answered = outcome("comparisons", ended)
    assert ended.status != 1
    if not spoilt:
        assert ended.status == 0, ended
    if not answered:
        return
    found = json.loads(ended.out)
    physics, budget = physics_of(options), float(options.get("budget", 1))
    theta = np.linspace(logit(float(options["start"])), logit(float(options["target"])), 2001)
    rho = expit(theta)

    def integral(values) -> float:
        return float(simpson(values * rho * (1 - rho), x=theta))

    least = integral(np.sqrt(physics.cost(rho))) ** 2 / budget
    assert found["optimal_time"] == pytest.approx(least, rel=1e-8)
    assert found["lower_bound"] <= found["optimal_time"] * (1 + 1e-10)
    rows = {row["weighting"]: row for row in found["rows"]}
    assert set(LAWS) <= set(rows)
    assert len(rows) == len(found["rows"]) == (len(catalogue.WEIGHTINGS) if "all" in options else len(LAWS)) + 1
    for name, row in rows.items():
        assert row["ratio"] >= 1 - 1e-10
        assert row["time"] == pytest.approx(row["ratio"] * found["optimal_time"], rel=1e-12)
        if name in LAWS:
            law = LAWS[name](rho)
            # The kink of Plateau-R costs Simpson's rule two orders: up to a few times (7/2000)².
            rel = 1e-4 if name == "plateau-r" else 1e-8
            assert row["time"] == pytest.approx(integral(physics.cost(rho) / law) * integral(law) / budget, rel=rel)


@st.composite
def group_comparisons(draw):
    options = draw(group_options(largest=8))
    if draw(st.integers(0, 3)) == 0:
        options["all"] = True
    return options, corrupt(draw, options, GROUP_OPTIONS[:-1], BAD_CLOCKS)


@fuzz("group comparisons")
@given(group_comparisons())
def test_group_comparisons(case):
    options, spoilt = case
    ended = run("compare", *words(options), "--json")
    answered = outcome("group comparisons", ended)
    if not spoilt:
        assert ended.status == 0, ended
    if not answered:
        return
    found = json.loads(ended.out)
    size, start, target = int(options["group_size"]), float(options["start"]), float(options["target"])
    budget, shape = float(options.get("budget", 1)), str(options.get("shape", "convex"))
    rows = {row["weighting"]: row for row in found["rows"]}
    assert len(rows) == len(found["rows"])
    assert rows["optimal"]["ratio"] == pytest.approx(1, rel=1e-12)
    share = np.arange(1, size) / size
    models = {1.0: (model_of(options, start, target), found["optimal_time"])}
    for name, law in LAWS.items():
        row, weight = rows[name], law(share)
        correct, wrong = advantages_of(weight)
        wrong[0], correct[-1] = ALL_WRONG.get(name, 0.0), ALL_RIGHT.get(name, 0.0)
        assert row["all_wrong_advantage"] == wrong[0]
        time, cost = models[1.0][0].time_and_budget(correct, wrong)
        if row["time"] is None:
            assert math.isinf(time)
            continue
        assert row["time"] == pytest.approx(time * cost / budget, rel=1e-6)
        assert row["ratio"] == pytest.approx(row["time"] / found["optimal_time"], rel=1e-12)
        if not wrong[0] and not correct[-1] and of_shape(shape, weight):
            assert row["ratio"] >= 1 - 1e-8
        for at in row["robustness"]:
            true_start = at["start_factor"] * start
            assert (at["reached"] is None) == (true_start >= target or true_start < 1e-12)
            if at["ratio"] is not None and not wrong[0] and not correct[-1] and of_shape(shape, weight):
                assert at["ratio"] >= 1 - 1e-8


# Tables of named weightings ------------------------------------------------------------------------------------------

NAMES = [*catalogue.EVERYTHING, *(f"{name}:" for name in catalogue.FAMILIES), *catalogue.FAMILIES]
PARAMETERS = ("", "0", "1", "2", "0.5", "-1", "1e9", "nan", "0.3,0.06", "1,1", "20,-20", "1,", "x", "1_0", "0.3,0.3")
PARAMETERS += (",", "3,0,2", "5,4,3", "1e-9", "0.49", "inf", "4096", "65536", "1e400", "2.5", "0x10", "9" * 400)
SIZES = ("0", "1", "65537", "x", "2.5", "")


@st.composite
def tables(draw):
    name = draw(st.sampled_from(NAMES))
    if name.endswith(":"):
        name += draw(st.sampled_from(PARAMETERS))
    elif draw(st.integers(0, 19)) == 0:
        name = draw(st.sampled_from([*NONSENSE, name + ":1", name.upper(), f" {name}"]))
    options: dict[str, Any] = {"weighting": name}
    if draw(st.booleans()):
        options["group_size"] = draw(st.one_of(st.integers(2, 12), st.sampled_from(SIZES)))
    if draw(st.integers(0, 2)) == 0:
        options |= dict(zip(("start", "target"), draw(ends()), strict=True))
        options["budget"] = draw(st.sampled_from(["1", "0.5", "1e9", *NONSENSE]))
        if draw(st.integers(0, 4)) == 0:
            options[draw(st.sampled_from(["start", "target"]))] = draw(st.sampled_from(NONSENSE))
        if draw(st.integers(0, 9)) == 0:
            del options[draw(st.sampled_from(["start", "target", "budget"]))]
    for rule in ("all_wrong", "all_right"):
        if draw(st.integers(0, 3)) == 0:
            options[rule] = draw(st.sampled_from(["-0.5", "0", "3", *NONSENSE]))
    return options


def checksum_of(document: dict) -> str:
    """What a table file's last line must be: sha256 over everything else, canonically."""
    rest = {key: value for key, value in document.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@fuzz("tables")
@given(tables())
def test_tables(options):
    ended = run("table", *words(options), "--json")
    answered = outcome("tables", ended)
    assert ended.status != 1
    name = options["weighting"]
    if name in catalogue.WEIGHTINGS and set(options) <= {"weighting", "group_size"}:
        assert answered == (str(options.get("group_size", 2)) not in SIZES), ended
    if not answered:
        return
    found = json.loads(ended.out)
    assert found["checksum"] == checksum_of(found)
    rho, weight = np.array(found["rho"]), np.array(found["weight"])
    for rule in ("all_wrong", "all_right"):
        if rule in options:
            assert found[f"{rule}_advantage"] == float(options[rule])
    scale = 1.0
    if "budget" in options:
        if found["group_size"] is None and rho[0] <= float(options["start"]) and float(options["target"]) <= rho[-1]:
            theta = np.linspace(logit(float(options["start"])), logit(float(options["target"])), 4001)
            dense = expit(theta)
            between = np.exp(np.interp(theta, logit(rho), np.log(weight)))
            spent = float(simpson(between * dense * (1 - dense), x=theta))
            # Tables are linear between points in log-log, which the steps of CurveRL are not.
            assert spent == pytest.approx(float(options["budget"]), rel=0.05 if "curverl" in name else 2e-3)
        scale = found["provenance"]["scale"]
    if name in LAWS:
        factor = found["group_size"] / (found["group_size"] - 1) if name == "rloo" and found["group_size"] else 1.0
        assert weight == pytest.approx(scale * factor * LAWS[name](rho), rel=1e-12)
    if found["group_size"] is None:
        assert np.min(weight) > 0
        return
    assert rho == pytest.approx(np.arange(1, found["group_size"]) / found["group_size"], rel=1e-15)
    correct, wrong = np.array(found["advantage_correct"]), np.array(found["advantage_wrong"])
    assert (correct[0], wrong[-1]) == (0, 0)
    assert (correct - wrong)[1:-1] == pytest.approx(weight, rel=1e-12, abs=1e-12 * float(np.max(np.abs(correct))))
    if found["name"] not in catalogue.SCHEMES and found["provenance"]["weighting"].partition(":")[0] not in (
        *("w-reinforce", "pkpo", "pass-at-k-groups"),
    ):
        centred = advantages_of(weight)
        assert correct[1:-1] == pytest.approx(centred[0][1:-1], rel=1e-12)
        assert wrong[1:-1] == pytest.approx(centred[1][1:-1], rel=1e-12)


# Table files ---------------------------------------------------------------------------------------------------------

WAY = "--start 0.05 --target 0.8 --clock"
FILES = {
    "named curve": "table --weighting plateau-r --all-wrong -0.5",
    "named table": "table --weighting grpo --group-size 4",
    "scheme": "table --weighting ngrpo --group-size 5 --budget 2 --start 0.1 --target 0.8",
    "curve": f"solve {WAY} effective",
    "bounded": f"solve {WAY} affine:1,1 --max-weight 2",
    "lipschitz": f"solve {WAY} effective --lipschitz 0.3",
    "bins": f"solve {WAY} regular --bins 0.1,0.5",
    "measured": f"solve {WAY} tokens:file.csv --monotone decreasing",
    "plug-in": f"solve {WAY} regular --group-size 4 --plug-in",
    "group": f"solve {WAY} effective --group-size 5",
    "uncentred": f"solve {WAY} regular --group-size 3 --uncentred --budget-kind advantage-variance --shape free",
    "range": "solve --start-range 0.1 0.2 --target 0.8 --clock regular --group-size 3",
}
DRAWN = [*FILES, *("named table", "scheme", "plug-in", "group", "uncentred") * 3]  # the short ones more often
ITERATIVE = ("group", "uncentred", "range")  # certified from their weights, which the time fixes to its root only
JUNK = (None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e308, 5e-324, 10**30, 10**400, 2**63, math.nan, math.inf, "", "x")
JUNK += ("0.5", "\u202e", "\x00", "\ud800", [], {}, [[]], {"": None}, [1, "x"], {"rho": [], "value": []}, "a\nb", [0.5])
JUNK += ({"rho": [0.01, 0.9], "value": [1, 1]}, "x" * 300, "solved", "limit", "given", "regular", "mixed:2", "csv:x", 9)
WILD = ("", "null", "[]", "1", '"x"', "[" * 100_000, '{"a":' * 5000, "9" * 5000, "\ufeff{}")


@functools.cache
def table_file(name: str) -> str:
    ended = run(*FILES[name].split(), "--output", "file.json")
    assert ended.status == 0, ended
    return Path("file.json").read_text()


class Mutated(NamedTuple):
    """A table file's name and bytes after some mutation, and what was done to it."""

    name: str
    data: bytes
    story: str

    def __repr__(self) -> str:  # the bytes would be too long to print
        return f"{self.name}: {self.story}"


@st.composite
def edits(draw, document: Any) -> str:
    """Change one thing somewhere in a document, in place; what was done."""
    where = ""
    node: Any = document
    while True:
        keys = list(node) if isinstance(node, dict) else [*range(min(len(node), 3)), len(node) - 1]
        key = draw(st.sampled_from(keys))
        inner: Any = node[key]
        where += f"[{key!r}]"
        if not (isinstance(inner, dict | list) and inner) or draw(st.integers(0, 3)) == 0:
            break
        node = inner
    kind = draw(st.sampled_from(["junk", "junk", "junk", "nudge", "nudge", "delete", "again", "text", "nest"]))
    if kind == "delete":
        del node[key]
    elif kind == "again" and isinstance(node, list):
        node.insert(key, inner)
    elif kind == "again":
        node[draw(st.sampled_from([f"{key}s", "", "checksum", "a\nb", "rates", "last_start", "curve"]))] = inner
    elif kind == "nudge" and isinstance(inner, float | int) and inner is not True and abs(inner) < 1e300:
        near = (inner * 1.001, inner * (1 + 1e-12), -inner, inner + 1, inner * 10, int(inner))
        node[key] = draw(st.sampled_from(near))
    elif kind == "text":
        node[key] = json.dumps(inner)[:2000]
    elif kind == "nest":
        node[key] = [inner] if draw(st.booleans()) else {"x": inner}
    else:
        node[key] = copy.deepcopy(draw(st.sampled_from(JUNK)))
    return f"{kind} {where}: {str(node)[:200]}"


@st.composite
def files(draw):
    name = draw(st.sampled_from(DRAWN))
    text = table_file(name)
    kind = draw(st.sampled_from(["forged"] * 10 + ["changed", "cut", "doubled", "wild", "none", "none"]))
    story = [kind]
    if kind in ("forged", "changed"):
        document = json.loads(text)
        for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
            if document:
                story.append(draw(edits(document)))
        if kind == "forged":
            with contextlib.suppress(UnicodeEncodeError):
                document["checksum"] = checksum_of(document)
        text = json.dumps(document, ensure_ascii=draw(st.booleans()))
    elif kind == "cut":
        text = text[: draw(st.integers(0, len(text)))]
    elif kind == "doubled":
        text = text.replace("{\n", '{\n"name": "x",', 1)
    elif kind == "wild":
        text = draw(st.sampled_from(WILD))
    return Mutated(name, text.encode("utf-8", "surrogatepass"), "; ".join(story))


def close(stated, true, tolerance: float) -> bool:
    stated, true = np.atleast_1d(stated), np.atleast_1d(true)
    allowed = tolerance * np.maximum(np.abs(true), 1e-6 * np.max(np.abs(true), initial=0.0))
    return stated.shape == true.shape and bool(np.all(np.abs(stated - true) <= allowed))


def assert_the_same(name: str, stated: dict, true: dict) -> None:
    """What `check` lets pass says the same as the file that was written, within the tolerances that it states."""
    unstated = "parameters" not in stated["provenance"]  # then they are solved for, as for a file of version 0.1
    tolerance = 1.01e-4 if name in ITERATIVE or unstated else 1.01e-9
    rules = zip(("all_wrong_advantage", "all_right_advantage"), true["provenance"]["end_rules"], strict=True)
    computed = [rule for rule, source in rules if source != "given"]  # what a user gave may be any number
    for key in ("rho", "weight", "advantage_correct", "advantage_wrong", *computed):
        assert true[key] is stated[key] is None or close(stated[key], true[key], tolerance), key
    for key in ("schema", "name", "label", "group_size"):
        assert stated[key] == true[key], key
    for key, value in (true["certificate"] or {}).items():
        if key == "prices":  # what the proof was made from; any that prove as much are as good
            assert stated["certificate"].get(key, value).__class__ is value.__class__
        elif key == "checks":
            assert stated["certificate"].get(key, value) == value
        elif key in ("gap", "quadrature_error", "budget_error", "violation"):
            assert abs(stated["certificate"][key]) <= 1e-7
        else:
            assert close(stated["certificate"][key], value, tolerance if key == "multiplier" else 1.01e-8), key
    problem, claimed = true["problem"] or {}, {"kind": (true["problem"] or {}).get("kind"), **(stated["problem"] or {})}
    for key in {*problem, *claimed}:  # absent and null mean the same
        value = problem.get(key)
        assert claimed.get(key) == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value), key
    said, known = ({**document["provenance"], "versions": 0, "curve": 0} for document in (stated, true))
    parameters, own = said.pop("parameters", None), known.pop("parameters", None)
    assert said == known
    if parameters is not None:
        assert parameters.keys() == own.keys()
        for key, value in own.items():
            assert parameters[key] == value if isinstance(value, str) else close(parameters[key], value, 1.01e-9), key


@fuzz("shown")
@given(files(), st.booleans())
def test_show(file, as_json):
    data = file.data
    Path("shown.json").write_bytes(data)
    ended = run("show", "shown.json", *(["--json"] if as_json else []))
    answered = outcome("shown", ended)
    assert ended.status != 1
    if not answered:
        return
    document = json.loads(data)
    assert document["checksum"] == checksum_of(document)
    if as_json:
        printed = json.loads(ended.out)
        assert printed["checksum"] == checksum_of(printed)
        # Whole numbers become floats, which are equal and yet another text to hash.
        assert {**printed, "checksum": 0} == {**document, "checksum": 0}


@fuzz("checked")
@given(files(), st.booleans())
def test_check(file, as_json):
    name, data, _ = file
    Path("checked.json").write_bytes(data)
    ended = run("check", "checked.json", *(["--json"] if as_json else []))
    COUNTS["checked"] += 1
    COUNTS[f"checked: status {ended.status}"] += 1
    assert ended.status in (0, 1)
    if as_json:
        said = json.loads(ended.out)
        assert said["ok"] is (ended.status == 0)
        sentence = said["message"]
    else:
        sentence = (ended.out or ended.err).removesuffix("\n")
        assert (ended.err == "") is (ended.status == 0)
    assert "\n" not in sentence
    assert 10 < len(sentence) < LONGEST
    if ended.status == 0:
        assert_the_same(name, json.loads(data), json.loads(table_file(name)))


# Sweeps --------------------------------------------------------------------------------------------------------------


@st.composite
def sweeps(draw):
    grid = st.sampled_from(["0.1", "0.3", "0.1,0.4", "0.05:0.2:2", "0.2,0.2"])
    options: dict[str, Any] = {"start": draw(grid), "target": draw(st.sampled_from(["0.5", "0.9,0.3", "0.6:0.8:2"]))}
    options["clock"] = draw(CLOCKS)
    if draw(st.booleans()):
        options["max_weight"] = draw(st.sampled_from(["2", "1,4", "1:8:2"]))
    if draw(st.booleans()):
        options["min_weight"] = draw(st.sampled_from(["0.5", "0", "1,3"]))
    if draw(st.booleans()):
        options["monotone"] = draw(st.sampled_from(["free", "decreasing", "increasing"]))
    options |= {"workers": "1", "output": "sweep.csv"}
    special = ("0.1:0.2", "0.2:0.1:3", "0.1:0.2:1", "0.1:0.2:1e9", "0:1:3", "a:b:c", ":", "1:2:3:4", "0.1:0.2:2.5")
    spoilt = draw(st.booleans())
    if spoilt:
        name = draw(st.sampled_from(["start", "target", "clock", "max_weight", "min_weight", "monotone", "workers"]))
        options[name] = draw(st.sampled_from(NONSENSE + special + BAD_CLOCKS))
    return options, spoilt


@fuzz("sweeps")
@given(sweeps())
def test_sweeps(case):
    options, spoilt = case
    Path("sweep.csv").unlink(missing_ok=True)
    ended = run("sweep", *words(options), "--json")
    answered = outcome("sweeps", ended)
    assert not Path("sweep.csv.partial").exists()
    assert Path("sweep.csv").exists() is answered
    assert spoilt or answered, ended
    if not answered:
        return
    rows = list(csv.DictReader(Path("sweep.csv").read_text().splitlines()))
    found = json.loads(ended.out)
    assert found["rows"] == len(rows) == found["optimal"] + found["infeasible"] + found["uncertified"]
    assert found["uncertified"] == 0
    for row in rows:
        start, target = float(row["start"]), float(row["target"])
        low, high = float(row["min_weight"]), float(row["max_weight"] or "inf")
        if row["status"] == "infeasible":
            assert start >= target or not low <= 1 / (target - start) <= high
            continue
        assert start < target
        assert low <= 1 / (target - start) * (1 + 1e-12)
        assert high >= 1 / (target - start) * (1 - 1e-12)
        physics = physics_of(row)
        theta = np.linspace(logit(start), logit(target), 1001)
        rho = expit(theta)
        least = float(simpson(np.sqrt(physics.cost(rho)) * rho * (1 - rho), x=theta)) ** 2
        time = float(row["time"])
        assert time >= least * (1 - 1e-8)
        # The constant weight meets every constraint that is not contradictory.
        assert time <= float(simpson(physics.cost(rho) * rho * (1 - rho), x=theta)) * (target - start) * (1 + 1e-8)
        assert float(row["lower_bound"]) == pytest.approx(time, rel=1e-9)
        if low == 0 and math.isinf(high) and row["monotone"] in ("", "free"):
            assert time == pytest.approx(least, rel=1e-8)


# What earlier versions got wrong -------------------------------------------------------------------------------------

REFUSED = {
    "a folder": "sweep --start 0.1 --target 0.9 --clock regular --workers 1 --output .",
    "the folder above": "sweep --start 0.1 --target 0.9 --clock regular --workers 1 --output ..",
    "links in a circle": f"solve {WAY} regular --output circle",
    "a long name": f"solve {WAY} regular --output {'x' * 300}/table.json",
    "a long clock": f"solve {WAY} {'x' * 9000}",
    "a long group of a clock": f"solve {WAY} mixed:{'9' * 4000}",
    "a long parameter": f"table --weighting pkpo:{'9' * 4000} --group-size 8",
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_sentence(name):
    Path("circle").unlink(missing_ok=True)
    Path("circle").symlink_to("circle")
    assert not outcome("", run(*REFUSED[name].split()))


@pytest.mark.parametrize("bound", ["min_weight", "max_weight"])
@pytest.mark.parametrize("target", [0.5, 0.6, 0.7, 0.8])
def test_a_bound_may_equal_the_mean_weight_on_bins(bound, target):
    options = {"start": 0.01, "target": target, "clock": "regular", "bins": "0.4", bound: 1 / (target - 0.01)}
    found = json.loads(run("solve", *words(options), "--json").out)
    assert_certified(found, claim_of(found, options), physics_of(options), [(0.5, 0.5)])


# The checker itself --------------------------------------------------------------------------------------------------


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


WRONG_TABLES = {
    "bound too high": lambda f: f | {"lower_bound": f["lower_bound"] * (1 + 1e-7)},
    "too fast": lambda f: f | {"time": f["time"] * (1 - 1e-6), "lower_bound": f["lower_bound"] * (1 - 1e-6)},
    "not centred": lambda f: f | {"advantage_wrong": [*f["advantage_wrong"][:1], -1.0, *f["advantage_wrong"][2:]]},
    "another table": None,
}


@pytest.mark.parametrize("name", WRONG_TABLES)
def test_the_checker_of_tables_catches(name):
    options = {"start": 0.05, "target": 0.8, "clock": "effective", "group_size": 4}
    found = json.loads(run("solve", *words(options), "--json").out)
    assert_group(found, options, [0.5])
    if name == "another table":  # Linear-R's weights, consistently presented as the best
        weight = 1 / (np.arange(1, 4) / 4)
        model = model_of(options, 0.05, 0.8)
        weight /= model.time_and_budget(*advantages_of(weight))[1]
        time = model.time_and_budget(*advantages_of(weight))[0]
        correct, wrong = (x.tolist() for x in advantages_of(weight))
        found |= {"weight": weight.tolist(), "advantage_correct": correct, "advantage_wrong": wrong}
        found |= {"time": time, "lower_bound": time, "gap": 0.0}
    else:
        found = WRONG_TABLES[name](found)
    with pytest.raises(AssertionError):
        assert_group(found, options, [0.5])


def test_the_checker_of_files_catches_a_changed_number():
    true = json.loads(table_file("curve"))
    assert_the_same("curve", copy.deepcopy(true), true)
    for change in (
        {"weight": [true["weight"][0] * (1 + 1e-8), *true["weight"][1:]]},
        {"certificate": {**true["certificate"], "lower_bound": true["certificate"]["lower_bound"] * (1 + 1e-7)}},
        {"problem": {**true["problem"], "budget": 2.0}},
    ):
        with pytest.raises(AssertionError):
            assert_the_same("curve", true | change, true)


@pytest.mark.parametrize(
    "ended",
    [
        Run(2, "", "weightopt: no full stop\n"),
        Run(2, "", "weightopt: one.\nweightopt: two.\n"),
        Run(2, "half an answer", "weightopt: no.\n"),
        Run(0, "fine", "a warning\n"),
        Run(1, "", "weightopt: no such file.\n"),
        Run(3, "", "weightopt: no.\n"),
    ],
    ids=str,
)
def test_the_checker_of_sentences_catches(ended):
    before = Counter(COUNTS)
    with pytest.raises(AssertionError):
        outcome("nothing", ended)
    COUNTS.clear()
    COUNTS.update(before)


def test_enough_was_thrown():
    """Last in this file: what the others did, where all of them ran."""
    if set(CASES) - set(COUNTS):
        pytest.skip("counts the cases of the other tests in this file, and they did not all run")
    for kind, least in CASES.items():
        assert COUNTS[kind] >= least
        assert COUNTS[f"{kind}: status 0"] >= 0.05 * least, kind  # neither all refused
        assert COUNTS[f"{kind}: status {1 if kind == 'checked' else 2}"] >= 0.05 * least, kind  # nor all answered
    assert sum(COUNTS[kind] for kind in CASES) >= PROMISED
    solves = [kind for kind in CASES if kind in ("curves", "measured", "groups", "ranges")]
    uncertified = sum(COUNTS[f"{kind}: status 1"] for kind in solves)
    assert uncertified <= RARE * sum(COUNTS[kind] for kind in solves)
