"""Hundreds of odd calls that solve for a table of groups: each ends in an answer that holds, or in one sentence."""

import json
import math

import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.special import expit, logit

from tests.independent import ALL_RIGHT, ALL_WRONG, LAWS, advantages_of, assert_group, model_of, of_shape, rivals
from tests.odd_calls import (
    BAD_CLOCKS,
    GROUP_OPTIONS,
    NONSENSE,
    NUMBERS,
    corrupt,
    empty_folder,
    fuzz,
    group_options,
    outcome,
    reals,
    run,
    words,
)


@pytest.fixture(scope="module", autouse=True)
def folder():
    with empty_folder() as path:
        yield path


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


@fuzz("groups", 15, 500, groups(), NUMBERS)
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


@fuzz("ranges", 3, 50, ranges(), NUMBERS)
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


# Comparisons of tables for groups -------------------------------------------------------------------------------------


@st.composite
def group_comparisons(draw):
    options = draw(group_options(largest=8))
    if draw(st.integers(0, 3)) == 0:
        options["all"] = True
    return options, corrupt(draw, options, GROUP_OPTIONS[:-1], BAD_CLOCKS)


@fuzz("group comparisons", 8, 120, group_comparisons())
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


# The checker itself ---------------------------------------------------------------------------------------------------


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
