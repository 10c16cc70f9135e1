"""The ladder: its networks against enumeration, its statistics on worked cases, its files, and its kept results."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from sim.loops import Lengths, moves
from sim.weighting import read
from studies.ladder import __main__ as command
from studies.ladder import report, rows, rung1, rung2, rung3, rung4, runs
from studies.ladder.network import Loop, Rows, rotation, train
from studies.weightings.plan import load_plan
from tests.amounts import some_of
from weightopt import compare

RHO = np.array([0.2, 0.5, 0.9])


def _step(coordinate, size, choices=0, mixed=False, step_size=1e-6, rho=RHO, networks=20_000):
    """Mean change of log-odds in one step, over the step size, and its standard error, shape (P,)."""
    weights = read("uniform-r", size)
    moved = []

    class Stop(Exception):
        pass

    def once(self):
        found = forward(self)
        moved.append(found.detach()[..., 0].numpy())
        if len(moved) == 2:
            raise Stop
        return found

    forward = Rows.forward
    loop = Loop(
        rho=rho, target=0.99, lengths=Lengths(1, 2), coordinate=coordinate, optimiser="sgd",
        choices=choices, mixed=mixed, networks=networks,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rows, "forward", once)
        with pytest.raises(Stop):
            train(loop, weights.correct, weights.wrong, step_size, 10, seed=1)
    odds = [np.log(p / (1 - p)) for p in moved]
    change = (odds[1] - odds[0]) / step_size
    return change.mean(axis=0), change.std(axis=0) / np.sqrt(networks)


@pytest.mark.parametrize(("coordinate", "mobility"), [("logit", RHO * (1 - RHO)), ("angle", 1.0)])
def test_a_step_of_sgd_moves_log_odds_by_the_mobility_times_the_expected_speed(coordinate, mobility):
    size = 4
    weights = read("uniform-r", size)
    # Every group of four responses, with its probability.
    expected = np.zeros(3)
    for group in itertools.product((0, 1), repeat=size):
        chance = np.prod([RHO if right else 1 - RHO for right in group], axis=0)
        expected += chance * np.array([moves(weights, float(rho))[sum(group)] for rho in RHO])
    mean, error = _step(coordinate, size)
    assert np.all(np.abs(mean - mobility * expected) < 5 * error)


def test_choices_without_consequence_and_mixed_rows_leave_the_mean_step_of_sgd_as_it_is():
    plain, error = _step("angle", 4)
    mixed, other = _step("angle", 4, choices=3, mixed=True, networks=4000)
    assert np.all(np.abs(plain - mixed) < 5 * np.hypot(error, other))


def test_rotations_are_orthogonal_and_mixed_rows_begin_where_plain_ones_do():
    turned = rotation(3, 2, seed=4)
    for matrix in turned:
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-12)
    with torch.no_grad():
        plain, mixed = Rows(RHO, 2, "angle", 2)(), Rows(RHO, 2, "angle", 2, turned)()
    np.testing.assert_allclose(mixed.numpy(), plain.numpy(), atol=1e-12)
    np.testing.assert_allclose(plain.numpy()[0, :, 0], RHO)


def test_networks_side_by_side_do_not_touch_each_other():
    weights = read("grpo", 4)
    loop = Loop(rho=RHO, target=0.7, lengths=Lengths(1, 2), coordinate="angle", optimiser="normalised", networks=3)
    paid = train(loop, weights.correct, weights.wrong, 0.02, 40, seed=0)
    assert np.isfinite(paid.tokens).all()
    # Normalised steps: the scale of a table does not matter.
    again = train(loop, 3 * weights.correct, 3 * weights.wrong, 0.02, 40, seed=0)
    np.testing.assert_allclose(again.steps, paid.steps, rtol=1e-9)
    assert len(set(paid.steps.tolist())) == 3


def test_rung_1_predicts_what_compare_prints():
    setting = rung1.SETTINGS[2]
    _, listed = compare(setting.problem, list(rung1.NAMED))
    ratio = {row.weighting: row.ratio for row in listed} | {"table": 1.0}
    ratio["curve"] = ratio.pop("plug-in")
    for method in rung1.METHODS:
        assert setting.predicted(method) / setting.predicted("table") == pytest.approx(ratio[method], rel=1e-9)


def test_the_committed_predictions_are_what_the_command_predicts():
    kept: Any = pd.read_csv(rows.RESULTS / rows.PREDICTIONS)
    told = kept.set_index(["rung", "setting", "method", "measure"])["predicted"]
    setting = rung1.SETTINGS[1]
    for method in ("curve", "grpo", "maxrl"):
        ratio = setting.predicted(method) / setting.predicted("table")
        assert told[1, "angles", method, "cost"] == pytest.approx(ratio, rel=1e-7)
    world = rung3.WORLDS["λ .01 η 6, scratch"]
    for measure, value in zip(rung3.MEASURES, rung3.predicted(world, "rloo"), strict=True):
        assert told[3, "λ .01 η 6, scratch", "rloo", measure] == pytest.approx(value, rel=1e-6)
    other = rung2.SETTINGS[1]
    ratio = other.predicted("rloo") / other.predicted("population")
    assert told[2, other.name, "rloo", "cost"] == pytest.approx(ratio, rel=1e-4)  # a local optimum


def _tau(first, second) -> float:
    found: Any = stats.kendalltau(first, second)
    return float(found.statistic)


def test_intervals_and_ranks():
    values = np.array([1.0, 2.0, 4.0])
    mean, low, high = rows.interval(values)
    half = stats.t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    assert (mean, low, high) == pytest.approx((7 / 3, 7 / 3 - half, 7 / 3 + half))
    row = rows.ratio_row(1, "s", "m", "cost", 2.0, np.log(values))
    assert row.measured == pytest.approx(2.0)
    assert rows.wider(row, 1) == pytest.approx((row.low, row.high))
    low, high = rows.wider(row, 10)
    assert low < row.low < row.high < high

    rng = np.random.default_rng(0)
    told = {name: float(at) for at, name in enumerate("abcde")}
    found = {name: rng.normal(at, 1.5, 6) for name, at in told.items()}
    rank = rows.rank_correlation(1, "s", "cost", told, found)
    means = [values.mean() for values in found.values()]
    assert rank.tau == pytest.approx(_tau(list(told.values()), means))
    assert rank.low <= rank.tau <= rank.high
    tied = np.array([1.0, 1.0, 2.0, 3.0])
    other = np.array([0.0, 1.0, 1.0, 2.0])
    assert rows._tau(tied, other) == pytest.approx(_tau(tied, other))


def _rows(rung, count):
    return [rows.Row(rung, "s", f"m{at}", "cost", 1.0, 1.1, 1.05, 1.15, 5) for at in range(count)]


def test_rows_of_a_rung_replace_its_own_and_leave_the_others(tmp_path):
    rank = rows.Rank(1, "s", "cost", 1.0, 0.5, 1.0, 3)
    rows.write_rows(_rows(1, 3), [rank], tmp_path)
    rows.write_rows(_rows(4, 2), [rank._replace(rung=4)], tmp_path)
    rows.write_rows(_rows(1, 1), [rank], tmp_path)
    assert rows.read_rows(tmp_path) == [*_rows(1, 1), *_rows(4, 2)]
    assert [each.rung for each in rows.read_ranks(tmp_path)] == [1, 4]
    page = "<!-- ladder 1 -->\nold\n<!-- end -->\n<!-- ladder 2 -->\nkept\n<!-- end -->\n"
    text = report.rewrite(page, tmp_path)
    assert "**1.000 → 1.100 [1.050, 1.150]**" in text or "[1.050, 1.150]*" in text
    assert "\nkept\n" in text
    assert "old" not in text


def test_a_cell_says_which_interval_misses():
    inside = rows.Row(1, "s", "grpo", "cost", 1.1, 1.1, 1.05, 1.15, 20)
    alone = inside._replace(method="rloo", predicted=1.16)
    both = inside._replace(method="maxrl", predicted=1.5)
    cells = report.table([inside, alone, both], "cost", 40)["s"].to_list()
    assert [cell[:1] == "*" for cell in cells] == [False, False, True]
    assert [cell[-1:] for cell in cells] == ["]", "*", "*"]


def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    made = []

    def job(method):
        def run():
            made.append(method)
            return pd.DataFrame({"x": [1.0]})

        return runs.Job(1, "s", method, run)

    monkeypatch.setattr(command, "jobs", lambda _: [job("a"), job("b")])
    monkeypatch.setattr(command, "collect", lambda *_: None)
    rows.write_frame(job("a").file(tmp_path), pd.DataFrame({"x": [2.0]}))
    command.run(1, tmp_path)
    command.run(1, tmp_path)
    assert made == ["b"]


@some_of("rung", [1, 3, 2], 1)
def test_kept_rows_follow_from_kept_results(rung):
    found, ranks = runs.rows_of(rung)
    kept = [row for row in rows.read_rows() if row.rung == rung]
    assert [row[1:4] for row in kept] == [row[1:4] for row in found]
    np.testing.assert_allclose([row[4:] for row in kept], [row[4:] for row in found], rtol=1e-6, atol=1e-7)
    assert [rank[:3] for rank in rows.read_ranks() if rank.rung == rung] == [rank[:3] for rank in ranks]


@pytest.mark.slow
def test_a_small_rung_1_gives_the_certified_ratio():
    setting = dataclasses.replace(rung1.SETTINGS[1], steps=60)
    loop = dataclasses.replace(setting.loop, rho=np.full(64, setting.start), networks=16)
    cost = {}
    for method in ("table", "linear-r"):
        paid = [
            train(loop, *setting.advantages(method), setting.step_size(h), 60 * 2**h, seed=5).tokens * 0.5**h
            for h in (0, 1)
        ]
        cost[method] = 2 * np.log(paid[1]) - np.log(paid[0])
    mean, low, high = rows.interval(cost["linear-r"] - cost["table"], 1000)
    predicted = np.log(setting.predicted("linear-r") / setting.predicted("table"))
    assert low - 0.02 < predicted < high + 0.02  # long steps: what extrapolation leaves is below 2 %
    assert mean > 0.1


def test_the_command_refuses_a_rung_that_it_does_not_run(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ladder", "--rungs", "7"])
    with pytest.raises(SystemExit) as refused:
        command.main()
    assert refused.value.code == 2
    assert "7" in capsys.readouterr().err
    assert not Path("out/studies/ladder/rung7").exists()


def test_the_rows_of_rung_four_are_what_its_runs_give() -> None:
    plan = load_plan(Path(rung4.__file__).with_name("rung4.toml"))
    found, ranks = rung4.rows_of(plan, plan.results)
    kept = [row for row in rows.read_rows() if row.rung == 4]
    assert [row[:4] for row in found] == [row[:4] for row in kept]
    for row, other in zip(found, kept, strict=True):
        assert row[4:] == pytest.approx(other[4:], rel=1e-6)
    assert [rank[:3] for rank in ranks] == [rank[:3] for rank in rows.read_ranks() if rank.rung == 4]
