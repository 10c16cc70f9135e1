"""Verification of tables: fine on everything we build, and blind to nothing that was changed on purpose."""

import hashlib
import json
from typing import Any

import numpy as np
import pytest

from theory import catalogue, clocks
from theory.handbook import paper
from weightopt.build import budget_scale, named_table, solved_table
from weightopt.curve import solve
from weightopt.errors import ProblemError
from weightopt.problem import Problem
from weightopt.table import TableError, WeightTable
from weightopt.verify import verify

GRPO = catalogue.WEIGHTINGS["grpo"]
EFFECTIVE = solve(Problem(0.01, 0.9, "effective"))
# Both bounds bind: a bound that did not could be altered without changing anything that is claimed.
BOUNDED = solve(Problem(0.01, 0.9, "mixed:8", min_weight=0.95, max_weight=1.3, budget=0.95))
MONOTONE = solve(Problem(0.05, 0.95, "regular", monotone="decreasing"))
BOTH = solve(Problem(0.05, 0.95, "affine:1,0.5", "softmax-gradient", monotone="increasing", max_weight=2.0))

KINDS = {
    **{weighting.name: named_table(weighting) for weighting in paper.PLAIN},
    **{f"{weighting.name} in groups": named_table(weighting, 8) for weighting in paper.PLAIN},
    "power": named_table(catalogue.parse("power:0.3,0.7")),
    "power in pairs": named_table(catalogue.parse("power:1,0"), 2),
    "power with stated ends": named_table(catalogue.parse("power:2,2"), 8, -3.0, 2.0),
    "scaled": named_table(GRPO, 8, scale=0.37),
    "scaled curve": named_table(catalogue.WEIGHTINGS["plateau-r"], scale=12.5),
    "stated ends": named_table(GRPO, 8, all_wrong=-0.5),
    "read off a named curve": named_table(catalogue.WEIGHTINGS["rloo"]).for_group(8),
    "solved": solved_table(EFFECTIVE),
    "solved in groups": solved_table(EFFECTIVE, 16),
    "read off a solved curve": solved_table(EFFECTIVE).for_group(16),
    "solved with stated ends": solved_table(EFFECTIVE, 16, 0.0, 0.25),
    "solved, stated ends, read off": solved_table(EFFECTIVE, None, 0.0).for_group(5),
    "bounded": solved_table(BOUNDED),
    "bounded in groups": solved_table(BOUNDED, 8),
    "monotone": solved_table(MONOTONE, 8),
    "bounded and monotone": solved_table(BOTH),
    "whole numbers in the clock": solved_table(solve(Problem(0.1, 0.9, clocks.Affine(1, 2))), 4),
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


@pytest.mark.parametrize("kind", KINDS)
def test_every_table_we_build_is_verified(kind, tmp_path):
    path = tmp_path / "table.json"
    KINDS[kind].save(path)
    sentence = verify(WeightTable.load(path))
    assert "found equal" in sentence
    assert "\n" not in sentence


NUMBERS = [
    "grpo in groups",
    "scaled",
    "read off a solved curve",
    "solved in groups",
    "stated ends",
    "bounded in groups",
]


@pytest.mark.parametrize("kind", NUMBERS)
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
    assert "found equal" in verify(forged(values))


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
    weighting = catalogue.parse(name)
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
    steep = catalogue.parse("power:2,0")
    with pytest.raises(TableError, match="--all-wrong"):
        named_table(steep, 8)
    with pytest.raises(TableError, match="--all-right"):
        named_table(catalogue.parse("power:0,2"), 8)
    assert named_table(steep, 8, all_wrong=-2.0).all_wrong_advantage == -2.0


def test_a_scale_multiplies_weights_and_rules():
    one, tripled = (
        named_table(catalogue.WEIGHTINGS["uniform-r"], 8),
        named_table(catalogue.WEIGHTINGS["uniform-r"], 8, scale=3.0),
    )
    assert tripled.advantage_correct == pytest.approx([3 * a for a in one.advantage_correct or ()], rel=1e-15 * 4)
    assert tripled.advantage_wrong == pytest.approx([3 * a for a in one.advantage_wrong or ()], rel=1e-15 * 4)
