"""The world of kinds: its expected step by enumeration, its replicas against the mean field, the fit of a pilot."""

import dataclasses
import itertools
import json
import sys
from random import Random
from typing import Any

import numpy as np
import pytest

from rl.tasks.countdown import Countdown
from sim import forecast as forecasts
from sim.errors import UsageError
from sim.habits import Habits, State, lost, mean_field, sample, start
from sim.weighting import read
from weightopt import cli
from weightopt.table import TableError, WeightTable
from weightopt.verify import verify

TWO = Habits(
    shares=np.array([0.6, 0.4]),
    acts=np.array([0.2, 0.1, 0.7]),
    execution=np.array([0.8, 0.5]),
    skill=0.3,
    step_size=0.7,
    skill_rate=0.4,
    execution_rate=0.9,
    normalised=False,
)
THREE = Habits(
    shares=np.ones(3) / 3, acts=np.array([0.04, 0.035, 0.007, 0.918]), execution=np.full(3, 0.5), execution_rate=0.05
)


def _table(name, size) -> tuple[Any, Any]:
    weights = read(name, size)
    return weights.correct, weights.wrong


def _log_probabilities(parameters, kind) -> Any:
    """ln of the probabilities of the outcomes of one response: (act, right) for each act that may be right, act."""
    habit, skill, execution = parameters[:3], parameters[3:5], parameters[5:]
    logits: Any = habit.astype(complex)
    logits[kind] = logits[kind] + skill[kind]
    acts = logits - np.log(np.exp(logits).sum())
    done = -np.log(1 + np.exp(-execution[kind]))
    failed = -np.log(1 + np.exp(execution[kind]))
    others = [acts[a] for a in range(3) if a != kind]
    return np.array([acts[kind] + done, acts[kind] + failed, *others])


@pytest.mark.parametrize("name", ["grpo", "linear-r", "uniform-r"])
def test_expected_step_is_the_mean_over_all_groups(name):
    # Every group of three responses of each kind, with the gradient of ln p by a complex step: no formula in common.
    correct, wrong = _table(name, 3)
    state = start(TWO)
    parameters = np.concatenate([state.habit, state.skill, state.execution])
    expected = np.zeros(7)
    for kind, share in enumerate(TWO.shares):
        probability = np.exp(_log_probabilities(parameters, kind).real)
        rows = [_log_probabilities(parameters + 1e-30j * row, kind).imag / 1e-30 for row in np.eye(7)]
        gradient = np.array(rows).T  # (outcomes, parameters)
        for group in itertools.product(range(4), repeat=3):
            count = group.count(0)
            advantage = [correct[count] if outcome == 0 else wrong[count] for outcome in group]
            step = sum(a * gradient[outcome] for a, outcome in zip(advantage, group, strict=True)) / 3
            expected += share * np.prod(probability[list(group)]) * step
    expected *= 0.7 * np.array([1, 1, 1, 0.4, 0.4, 0.9, 0.9])
    moved = parameters + expected
    after = State(moved[:3], moved[3:5], moved[5:]).success()
    np.testing.assert_allclose(mean_field(TWO, correct, wrong, 1)[1], after, rtol=0, atol=1e-15)


@pytest.mark.slow
def test_replicas_of_short_steps_follow_the_mean_field():
    correct, wrong = _table("sqrt-r", 4)
    for normalised in (False, True):
        world = Habits(**{**vars(TWO), "step_size": 0.02, "normalised": normalised})
        drawn = sample(world, correct, wrong, 200, np.random.default_rng(1), replicas=400, prompts=16)
        error = drawn[-1].std(axis=0) / 20
        assert np.all(np.abs(drawn[-1].mean(axis=0) - mean_field(world, correct, wrong, 200)[-1]) < 5 * error)


def test_complex_rows_are_derivatives():
    correct, wrong = _table("grpo", 8)
    h, at = 1e-6, 2
    moved = [correct + sign * h * np.eye(9)[at] for sign in (1, -1)]
    ends = [mean_field(THREE, each, wrong, 50)[-1] for each in moved]
    exact = mean_field(THREE, correct + 1e-30j * np.eye(9)[at], wrong, 50)[-1].imag / 1e-30
    np.testing.assert_allclose(exact, (ends[0] - ends[1]) / (2 * h), rtol=1e-6)


@pytest.mark.slow
def test_rloo_loses_kinds_that_linear_r_keeps():
    # Without skill RLOO's fitness rises with success, Linear-R's does not: theory of the replicator equation.
    runs = {
        name: sample(THREE, *_table(name, 16), 400, np.random.default_rng(0), replicas=32)
        for name in ("rloo", "linear-r")
    }
    assert lost(runs["rloo"]).mean() > 0.5
    assert lost(runs["linear-r"]).mean() == 0


def test_random_numbers_do_not_depend_on_the_table():
    first, second = np.random.default_rng(4), np.random.default_rng(4)
    sample(THREE, *_table("grpo", 4), 5, first, replicas=3)
    sample(THREE, *_table("linear-r", 4), 5, second, replicas=3)
    assert first.bit_generator.state == second.bit_generator.state


def _pilot(world: Habits, table: tuple[Any, Any], steps: int, seed: int) -> forecasts.Pilot:
    rng = np.random.default_rng(seed)
    success = mean_field(world, *table, steps)
    groups = np.zeros((steps, world.shares.size, 17))
    for step in range(steps):
        for kind in rng.choice(world.shares.size, 64, p=world.shares):
            groups[step, kind, rng.binomial(16, success[step, kind])] += 1
    return forecasts.Pilot(tuple("+-*"), groups, 64)


@pytest.mark.slow
def test_fit_finds_the_world_that_made_a_pilot():
    world = Habits(**{**vars(THREE), "step_size": 5.0, "skill_rate": 0.1})
    table = _table("grpo", 16)
    fitted = forecasts.fit(_pilot(world, table, 60, 5), *table)
    truth = np.array([*np.log(world.acts[:3] / world.acts[3]), 0.0, 0.0, *np.log([5.0, 0.1, 0.05])])
    distance = fitted.mean - truth
    assert distance @ np.linalg.solve(fitted.covariance, distance) < 26.1  # chi-square of 8, one in a thousand
    assert 0.5 < fitted.dispersion < 2
    expected = mean_field(world, *_table("sqrt-r", 16), 200)[-1] @ world.shares
    low, high = np.quantile(forecasts.forecast(fitted, *_table("sqrt-r", 16), 200).at_the_end(), [0.005, 0.995])
    assert low < expected < high


@pytest.mark.slow
def test_best_table_is_no_worse_than_those_it_starts_from():
    table = _table("grpo", 16)
    fitted = forecasts.fit(_pilot(THREE, table, 30, 6), *table)
    begin = [_table("grpo", 16), _table("sqrt-r", 16)]
    found, value = forecasts.best_table(fitted, 60, begin, draws=2)
    world = fitted.world(fitted.draws(2, np.random.default_rng(0)))
    named = [mean_field(world, *each, 60) @ fitted.pilot.shares for each in begin]
    assert value >= max(float(each.mean()) for each in named) - 1e-12
    again = mean_field(world, np.array(found.advantage_correct), np.array(found.advantage_wrong), 60)
    assert float((again @ fitted.pilot.shares).mean()) == pytest.approx(value, rel=1e-9)


def _step(groups, step=1):
    return json.dumps({"kind": "step", "step": step, "histogram_by_difficulty": groups})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "reports 0 kinds"),
        ("nonsense\n", "line 1 is no record"),
        ("[" * 10**5 + "\n", "line 1 is no record"),
        (_step({"a": [1, 0, 2]}) + "\n", "reports 1 kinds"),
        (_step({"a": [1, 0, 2], "b": [1, 0]}) + "\n", "line 1 is no record"),
        (_step({"a": [1, 0, 2], "b": [1, 0, 1, 0]}) + "\n", "one size"),
        (_step({"a": [1, 0, 2], "b": [1, -1, 1]}) + "\n", "line 1 is no record"),
        (_step({"a": [1, 0, 2], "b": [0, 0, 0]}) + "\n", "must have been drawn"),
    ],
)
def test_a_pilot_that_cannot_be_one_is_refused(tmp_path, text, words):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        forecasts.read_pilot(path)


def test_a_pilot_that_cannot_be_read_is_refused_in_words(tmp_path):
    with pytest.raises(UsageError, match=r"holds no metrics\.jsonl"):
        forecasts.read_pilot(tmp_path)
    with pytest.raises(UsageError, match=r"none' cannot be read \(No such file"):
        forecasts.read_pilot(tmp_path / "none")
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        forecasts.read_pilot(tmp_path)


def test_a_pilot_is_read(tmp_path):
    lines = [_step({"+": [2, 0, 1], "-": [1, 1, 0]}, 1), json.dumps({"kind": "evaluation", "step": 1})]
    half_written = _step({"+": [0, 0, 3]}, 3)[:-9]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, _step({"+": [0, 0, 3]}, 2), half_written]))
    pilot = forecasts.read_pilot(tmp_path)
    assert (pilot.kinds, pilot.group_size, pilot.prompts) == (("+", "-"), 2, 4)
    np.testing.assert_allclose(pilot.shares, [0.75, 0.25])
    np.testing.assert_allclose(pilot.success(), [[1 / 3, 0.25], [1, np.nan]])


@pytest.fixture
def recorded(tmp_path):
    """The folder of a run of 20 steps in a world of kinds."""
    pilot = _pilot(THREE, _table("grpo", 16), 20, 7)
    lines = [
        _step({kind: row.astype(int).tolist() for kind, row in zip(pilot.kinds, step, strict=True)}, number) + "\n"
        for number, step in enumerate(pilot.groups, 1)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line: exit status, standard output."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["weightopt", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code, capsys.readouterr().out

    return call


@pytest.mark.slow
def test_forecast_command_tells_fit_and_gains(recorded, run):
    names = ["--weighting", "grpo", "--weighting", "linear-r", "--replicas", 8, "--level", 0.1, "--steps", 30]
    status, out = run("forecast", "--pilot", recorded, "--trained-with", "grpo", *names, "--json")
    assert not status
    document = json.loads(out)
    assert document["fit"]["kinds"] == ["*", "+", "-"]
    first, second = document["forecasts"]
    assert (first["weighting"], second["weighting"]) == ("grpo", "linear-r")
    assert first["gain_at_the_end"] == [0, 0, 0]
    difference = second["success_at_the_end"][0] - first["success_at_the_end"][0]
    assert second["gain_at_the_end"][0] == pytest.approx(difference, abs=1e-12)


@pytest.mark.slow
def test_the_best_table_of_a_forecast_is_checked_for_its_form_and_says_its_loop(recorded, run):
    best = recorded / "best.json"
    options = ["--trained-with", "grpo", "--weighting", "grpo", "--steps", 20, "--replicas", 8, "--best", best]
    assert not run("forecast", "--pilot", recorded, *options)[0]
    status, said = run("check", best)
    assert not status
    assert "nothing about them is certified" in said
    table = WeightTable.load(best)
    assert table.advantage_correct is not None
    assert table.loops == ("fixed-batch",)
    assert f"20 of them in the world fitted to 20 steps of {recorded.name}" in run("show", best)[1]
    correct = (*table.advantage_correct[:3], 1.01 * table.advantage_correct[3], *table.advantage_correct[4:])
    with pytest.raises(TableError, match="advantage_correct"):
        verify(dataclasses.replace(table, advantage_correct=correct))


@pytest.mark.parametrize("operators", ["+-*/", "+"])
def test_countdown_reports_operators_as_kinds(operators):
    task = Countdown(
        name="countdown",
        numbers={2: 1.0, 3: 1.0},
        largest_number=25,
        largest_target=100,
        operators=dict.fromkeys(operators, 1.0),
        strata="operators",
    )
    prompts = [task.propose(Random(seed)) for seed in range(40)]
    for prompt in prompts:
        assert set(prompt.difficulty) == set(prompt.problem.solution) & set("+-*/")
