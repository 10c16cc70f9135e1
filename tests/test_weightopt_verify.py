"""Verification of tables: fine on everything we build, and blind to nothing that was changed on purpose."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.amounts import some_of
from theory import catalogue, clocks
from theory.handbook import paper
from theory.weighting import Weighting
from weightopt import GroupProblem, Problem, RangeProblem, solve
from weightopt.catalogue_tables import budget_scale, named_table
from weightopt.curves import curve
from weightopt.errors import ProblemError
from weightopt.groups import group, start_range
from weightopt.table import TableError, WeightTable
from weightopt.verify import verify

ROOT = Path(__file__).resolve().parent.parent
GRPO = catalogue.WEIGHTINGS["grpo"]
EFFECTIVE = solve(Problem(0.01, 0.9, "effective"))
# Both bounds bind: a bound that did not could be altered without changing anything that is claimed.
BOUNDED = solve(Problem(0.01, 0.9, "mixed:8", min_weight=0.95, max_weight=1.3, budget=0.95))
MONOTONE = solve(Problem(0.05, 0.95, "regular", monotone="decreasing"))
BOTH = solve(Problem(0.05, 0.95, "affine:1,0.5", "softmax-gradient", monotone="increasing", max_weight=2.0))


def parsed(name: str) -> Weighting:
    """A weighting of the catalogue that is a curve."""
    member = catalogue.parse(name)
    assert isinstance(member, Weighting)
    return member


KINDS = {
    **{weighting.name: named_table(weighting) for weighting in paper.PLAIN},
    **{f"{weighting.name} in groups": named_table(weighting, 8) for weighting in paper.PLAIN},
    "power": named_table(parsed("power:0.3,0.7")),
    "power in pairs": named_table(parsed("power:1,0"), 2),
    "power with stated ends": named_table(parsed("power:2,2"), 8, -3.0, 2.0),
    "scaled": named_table(GRPO, 8, scale=0.37),
    "scaled curve": named_table(catalogue.WEIGHTINGS["plateau-r"], scale=12.5),
    "stated ends": named_table(GRPO, 8, all_wrong=-0.5),
    "read off a named curve": named_table(catalogue.WEIGHTINGS["rloo"]).for_group(8),
    "solved": EFFECTIVE.table(),
    "solved in groups": EFFECTIVE.table(16),
    "read off a solved curve": EFFECTIVE.table().for_group(16),
    "solved with stated ends": EFFECTIVE.table(16, 0.0, 0.25),
    "solved, stated ends, read off": EFFECTIVE.table(None, 0.0).for_group(5),
    "bounded": BOUNDED.table(),
    "bounded in groups": BOUNDED.table(8),
    "monotone": MONOTONE.table(8),
    "bounded and monotone": BOTH.table(),
    "whole numbers in the clock": solve(Problem(0.1, 0.9, clocks.Affine(1, 2))).table(4),
}


def forged(values: dict[str, Any]) -> WeightTable:
    """The table of a document that was changed and sealed again."""
    rest = {key: value for key, value in values.items() if key != "checksum"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    checksum = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    return WeightTable.from_json(json.dumps({**rest, "checksum": checksum}))


def assert_found(values: dict[str, Any]) -> None:
    with pytest.raises(TableError) as caught:
        verify(forged(values))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_table_we_build_is_verified(kind, tmp_path):
    path = tmp_path / "table.json"
    KINDS[kind].save(path)
    sentence = verify(WeightTable.load(path))
    assert ("found equal" if KINDS[kind].problem is None else "certified: feasible") in sentence
    assert "\n" not in sentence


NUMBERS = [
    "grpo in groups",
    "scaled",
    "read off a solved curve",
    "solved in groups",
    "stated ends",
    "bounded in groups",
]


@some_of("kind", NUMBERS, 2)
def test_every_altered_number_is_found(kind):
    original = json.loads(KINDS[kind].to_json())

    def paths(value, path=()):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from paths(inner, (*path, key))
        elif isinstance(value, list):
            for at, inner in enumerate(value):
                yield from paths(inner, (*path, at))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path, value

    tried = 0
    for path, value in paths(original):
        if path in [("all_wrong_advantage",), ("all_right_advantage",)]:
            continue  # below, together with the entry that must equal them
        changed = json.loads(json.dumps(original))
        spot = changed
        for step in path[:-1]:
            spot = spot[step]
        # Entries that hold rounding noise may be any small number; no claim changes below a thousandth.
        spot[path[-1]] = value * 1.001 if abs(value) > 1e-6 else value + 1e-3
        assert_found(changed)
        tried += 1
    assert tried > 15


@pytest.mark.parametrize("side", ["wrong", "right"])
@pytest.mark.parametrize("kind", ["grpo in groups", "solved in groups", "read off a solved curve"])
def test_an_altered_end_rule_is_found_unless_it_is_declared(kind, side):
    values = json.loads(KINDS[kind].to_json())
    changed = values[f"all_{side}_advantage"] + 0.5
    values[f"all_{side}_advantage"] = changed
    values["advantage_wrong" if side == "wrong" else "advantage_correct"][0 if side == "wrong" else -1] = changed
    assert_found(values)
    values["provenance"]["end_rules"][0 if side == "wrong" else 1] = "given"
    assert "found equal" in verify(forged(values)) or "certified" in verify(forged(values))


@pytest.mark.slow
@pytest.mark.parametrize(
    "key", ["gap", "quadrature_error", "budget_error", "violation", "multiplier", "time", "lower_bound"]
)
@pytest.mark.parametrize(
    "value", [0.001, -5.0, True, None, "x", [], [1, [2]], {"a": 1}, 10**400, 1e300], ids=lambda value: repr(value)[:12]
)
def test_an_altered_certificate_is_found(key, value):
    values = json.loads(KINDS["solved in groups"].to_json())
    values["certificate"][key] = value
    assert_found(values)


def test_a_certificate_with_more_or_less_than_it_should_hold_is_found():
    for change in ({}, None, {"time": 1.0}):
        assert_found({**json.loads(KINDS["solved in groups"].to_json()), "certificate": change})
    values = json.loads(KINDS["solved in groups"].to_json())
    values["certificate"]["blessing"] = 1
    assert_found(values)
    assert_found({**json.loads(KINDS["grpo"].to_json()), "certificate": values["certificate"]})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        *(("uniform-r", "label", value) for value in ("Uniform-R", "GRPO")),
        *(("grpo", "name", value) for value in ("rloo", "optimal")),
        *(("scaled", "provenance.scale", value) for value in (1.0, 0, -1, None, "x", True, 10**400, 1e308, 1e-320, [])),
        *(("grpo", "provenance.weighting", value) for value in ("rloo", "foo", None, 3, "power:1", "a\nb", [])),
        *(("grpo", "provenance.end_rules", value) for value in (None, [], "limit", ["limit"], ["x", "y"], [[], []])),
        *(("grpo", "provenance.formula", value) for value in ("1/ρ", None, 3)),
        *(("grpo", "provenance.source", value) for value in ("us", None)),
        ("uniform-r", "provenance.source", "the paper"),
        ("solved", "provenance.method", "magic"),
        *(("solved", "problem.clock", value) for value in ("regular", "foo", 5, None, [], "mixed:1")),
        *(("solved", "problem.mobility", value) for value in ("softmax-gradient", "foo", 5, None, [])),
        *(("solved", "problem.start", value) for value in (0.02, 0.95, -1, None, "x", 10**400)),
        *(("solved", "problem.budget", value) for value in (2.0, 0, 1e308, 1e-320, None, 10**400)),
        *(("solved", "problem.max_weight", value) for value in (5.0, 0.1, 1e200, "x", 10**400)),
        *(("solved", "problem.min_weight", value) for value in (0.9, 5.0, -1, None)),
        *(("monotone", "problem.monotone", value) for value in (None, "increasing", [], "up")),
        ("solved", "problem.colour", "red"),
    ],
)
def test_an_altered_claim_is_found(kind, key, value):
    values = json.loads(KINDS[kind].to_json())
    spot, *rest = key.split(".")
    if rest:
        values[spot][rest[0]] = value
    else:
        values[spot] = value
    assert_found(values)


def test_a_curve_claimed_for_a_group_table_is_not_believed():
    # Read off the curve, numbers differ by the curve's interpolation.
    values = json.loads(KINDS["solved in groups"].to_json())
    values["provenance"]["curve"] = "sha256:" + "0" * 64
    assert_found(values)


@pytest.mark.parametrize("name", ["grpo", "plateau-r", "power:0.3,0.7"])
def test_budget_scale_makes_the_weighting_spend_the_budget(name):
    weighting = parsed(name)
    scale = budget_scale(weighting, 0.01, 0.9, 2.5)
    curve = named_table(weighting, scale=scale)
    # By the trapezoidal rule on the curve's own points: 680 panels, error of second order.
    rho = np.linspace(0.01, 0.9, 200_001)
    weight = curve(rho)
    spent = float(np.sum((weight[1:] + weight[:-1]) / 2) * (rho[1] - rho[0]))
    assert spent == pytest.approx(2.5, rel=1e-5)


def test_budget_scale_refuses_what_a_problem_refuses():
    for start, target, budget, field in (
        (0.9, 0.1, 1.0, "start"),
        (0.1, 1.0, 1.0, "target"),
        (0.1, 0.9, 0.0, "budget"),
    ):
        with pytest.raises(ProblemError) as caught:
            budget_scale(GRPO, start, target, budget)
        assert caught.value.field == field


def test_an_infinite_limit_needs_a_stated_rule():
    steep = parsed("power:2,0")
    with pytest.raises(TableError, match="--all-wrong"):
        named_table(steep, 8)
    with pytest.raises(TableError, match="--all-right"):
        named_table(parsed("power:0,2"), 8)
    assert named_table(steep, 8, all_wrong=-2.0).all_wrong_advantage == -2.0


def test_a_scale_multiplies_weights_and_rules():
    one, tripled = (
        named_table(catalogue.WEIGHTINGS["uniform-r"], 8),
        named_table(catalogue.WEIGHTINGS["uniform-r"], 8, scale=3.0),
    )
    assert tripled.advantage_correct == pytest.approx([3 * a for a in one.advantage_correct or ()], rel=1e-15 * 4)
    assert tripled.advantage_wrong == pytest.approx([3 * a for a in one.advantage_wrong or ()], rel=1e-15 * 4)


# Solved tables are certified from problem and weights: nothing is solved again ----------------------------------------

CURVE = Problem(0.01, 0.9, "effective")
CERTIFIED = {
    "group": solve(GroupProblem(CURVE, 8)).table(),
    "large group": solve(GroupProblem(CURVE, 64)).table(),
    "nonincreasing": solve(GroupProblem(CURVE, 6, shape="nonincreasing")).table(),
    "variance": solve(GroupProblem(CURVE, 8, budget_kind="advantage-variance", shape="free")).table(),
    "uncentred": solve(GroupProblem(CURVE, 3, "ratio", "advantage-variance", "free", False)).table(),
    "range": solve(RangeProblem(GroupProblem(CURVE, 4), 0.1)).table(),
    "lipschitz": solve(Problem(0.01, 0.9, "regular", lipschitz=0.5)).table(),
    "bins": solve(Problem(0.01, 0.9, "effective", bins=(0.05, 0.2, 0.5), max_ratio=5.0)).table(),
    "bins in groups": solve(Problem(0.01, 0.9, "effective", bins=(0.05, 0.2), lipschitz=1.0)).table(8),
    "ratio": solve(Problem(0.01, 0.9, "effective", max_ratio=5.0)).table(),
    "convex": solve(Problem(0.01, 0.9, "effective", monotone="decreasing", max_weight=4.0), "convex").table(),
    "convex group": solve(GroupProblem(CURVE, 8), "convex").table(),
}


def perturbed(table: WeightTable, size: float) -> WeightTable:
    """The table with weights, and what follows from them, that are off by about `size`, relatively."""
    rng = np.random.default_rng(0)
    values = json.loads(table.to_json())
    if "parameters" in values["provenance"]:  # a curve is its parameters
        parameters = values["provenance"]["parameters"]
        factors = 1 + size * rng.choice([-1.0, 1.0], len(table.weight))
        if "multiplier" in parameters:
            parameters["multiplier"] *= 1 + size
        else:
            parameters["weight"] = [x * (1 + size * rng.choice([-1.0, 1.0])) for x in parameters["weight"]]
            factors[:] = 1.0
        values["weight"] = [weight * factor for weight, factor in zip(table.weight, factors, strict=True)]
        return forged(values)
    correct, wrong = (
        [x * (1 + size * rng.choice([-1.0, 1.0])) for x in values[key]]
        for key in ("advantage_correct", "advantage_wrong")
    )
    if values["problem"]["centred"]:
        weight = [x * (1 + size * rng.choice([-1.0, 1.0])) for x in table.weight]
        correct[1:-1] = [x * (1 - rho) for x, rho in zip(weight, table.rho, strict=True)]
        wrong[1:-1] = [-x * rho for x, rho in zip(weight, table.rho, strict=True)]
    else:
        weight = [a - b for a, b in zip(correct[1:-1], wrong[1:-1], strict=True)]
    values |= {"weight": weight, "advantage_correct": correct, "advantage_wrong": wrong}
    values |= {"all_wrong_advantage": wrong[0], "all_right_advantage": correct[-1]}
    return forged(values)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CERTIFIED)
def test_weights_are_certified_whatever_their_last_digits_are(kind, monkeypatch):
    for module in (curve, group, start_range):  # nothing may be solved, but for the yardsticks of a range
        if not (kind == "range" and module is group):
            monkeypatch.setattr(module, "solve", None)
    monkeypatch.setattr(curve, "_solve", None)
    assert "certified: feasible" in verify(CERTIFIED[kind])
    assert "certified: feasible" in verify(perturbed(CERTIFIED[kind], 1e-15))


@pytest.mark.slow
@some_of("size", [1e-2, 1e-4, 1e-6], 1)
@pytest.mark.parametrize("kind", CERTIFIED)
def test_weights_that_are_really_off_are_found(kind, size):
    if ("range" in kind and size < 1e-4) or ("convex" in kind and size < 1e-2):
        size *= 1e2  # what is certified within 1e-7, or 1e-4, cannot tell less
    with pytest.raises(TableError):
        verify(perturbed(CERTIFIED[kind], size))


@pytest.mark.slow
def test_a_table_solved_on_one_processor_is_accepted_on_another(tmp_path):
    path = tmp_path / "t.json"
    CERTIFIED["large group"].save(path)
    for kernel in ("Nehalem", "Haswell"):  # of OpenBLAS; both run where AVX2 does, and elsewhere the name is ignored
        done = subprocess.run(
            [sys.executable, "-m", "weightopt", "check", str(path)],
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_CORETYPE": kernel},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")


OLDER = [kind for kind in CERTIFIED if "convex" not in kind]


@some_of("kind", [*OLDER, "solved", "solved in groups", "monotone"], 6)
def test_a_file_of_version_0_1_is_read_and_certified(kind):
    values = json.loads({**CERTIFIED, **KINDS}[kind].to_json())
    values["provenance"].pop("parameters", None)
    values["problem"].pop("kind")
    for key in ("checks", "prices"):
        values["certificate"].pop(key, None)
    assert "certified: feasible" in verify(forged(values))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["range", "lipschitz", "bins"])
def test_prices_that_prove_less_are_found_and_prices_that_are_none_are_refused(kind):
    original = json.loads(CERTIFIED[kind].to_json())
    prices = original["certificate"]["prices"]
    if kind == "range":
        changed = [prices[::-1], prices[1:], [-x for x in prices], [0.0] * 17, None, "x", [True] * 17]
    else:
        changed = [{**prices, "budget": value} for value in (prices["budget"] * 1.1, -1.0, None, "x", float(10**300))]
        changed += [
            {},
            None,
            [],
            {**prices, "more": 1.0},
            {**prices, "runs" if kind == "lipschitz" else "difference": 3},
        ]
        if kind == "lipschitz":
            changed += [
                {**prices, "runs": [[0.5, 0.2]]},
                {**prices, "runs": [[0.001, 0.5]]},
                {**prices, "runs": [[0.1]]},
            ]
        else:
            changed += [{**prices, "ratio_low": [-1.0] * 4}, {**prices, "ratio_low": [1.0]}]
    for value in changed:
        values = json.loads(json.dumps(original))
        values["certificate"]["prices"] = value
        assert_found(values)


@pytest.mark.parametrize(
    "value", [None, 3, [], {}, {"multiplier": "x"}, {"multiplier": 1.0, "low": 0.5}, {"edges": []}]
)
def test_parameters_that_are_none_are_refused(value):
    values = json.loads(KINDS["solved"].to_json())
    values["provenance"]["parameters"] = value
    assert_found(values)


def test_reading_a_curve_between_its_points_is_priced():
    sentence = verify(KINDS["solved"])
    cost = float(sentence.rpartition("takes ")[2].split()[0])
    # The error of log-linear reading is of second order in the spacing, its cost in time of fourth.
    assert 0 < cost < 1e-9
