"""Hundreds of odd calls that compare weightings or sweep over problems: the numbers hold, or there is one sentence."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.integrate import simpson
from scipy.special import expit, logit

from tests.independent import LAWS, physics_of
from tests.odd_calls import BAD_CLOCKS, CLOCKS, NONSENSE, corrupt, empty_folder, ends, fuzz, outcome, run, words
from theory import catalogue


@pytest.fixture(scope="module", autouse=True)
def folder():
    with empty_folder() as path:
        yield path


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


@fuzz("comparisons", 50, 900, comparisons())
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


# Sweeps ---------------------------------------------------------------------------------------------------------------


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


@fuzz("sweeps", 6, 80, sweeps())
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
