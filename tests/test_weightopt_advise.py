"""Advice: what is recommended, what its interval holds, when it says that nothing will help, and the command."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binom

from weightopt import cli
from weightopt.commands import advise as command
from weightopt.populations.advice import EVIDENCE, LIMIT, advise, default_limit, default_target
from weightopt.populations.lengths import Lengths
from weightopt.populations.starts import Counts, estimate
from weightopt.table import WeightTable

DOCS = Path(__file__).parents[1] / "docs"
LONG_WRONG = Lengths("made up", (0.5,), (100.0,), (2000.0,))


def counts_of(rho, responses=16, seed=0):
    correct = np.random.default_rng(seed).binomial(responses, rho)
    seen, prompts = np.unique(correct, return_counts=True)
    return Counts("drawn", seen, np.full(seen.size, responses), prompts)


def starts_of(a, b, prompts, **more):
    return estimate(counts_of(np.random.default_rng(1).beta(a, b, prompts)), resamples=100, **more)


def test_the_interval_is_that_of_the_tables_on_starts_drawn_anew():
    starts = starts_of(0.3, 3.0, 200)
    (choice,) = advise(starts, [8], 0.5, lengths=LONG_WRONG).choices
    assert choice.low <= choice.saving <= choice.high
    assert choice.saving == pytest.approx(1 - choice.answer.time / choice.named.time)
    # By the road of one population at a time.
    flow, table = choice.answer.problem.flow(), choice.answer.vector
    alone = np.array([flow.time(table, share, 0.5) for share in starts.resampled[:5]])
    np.testing.assert_allclose(flow.times(table, starts.resampled[:5], 0.5), alone, rtol=1e-3)


@pytest.mark.slow
def test_it_says_that_no_table_will_help_and_hands_out_the_named_one():
    advice = advise(starts_of(2.0, 2.0, 60), [16], 0.75)
    assert not advice.choice.helps
    assert advice.verdict.startswith("No table will help here")
    assert advice.choice.table().problem is None
    assert advice.choice.table().name == advice.choice.named.weighting
    assert not any("does not hold" in caution for caution in advice.cautions)


def test_from_hard_starts_it_promises_nothing_and_keeps_the_group_size_of_the_pilot():
    starts = starts_of(0.3, 6.0, 60)
    for crowding in (None, LIMIT):
        kept = advise(starts, [8, 16], used=8, crowding=crowding)
        assert kept.choices[0].cost > 1.02 * kept.choices[1].cost  # elsewhere the run would change to 16
        assert kept.choice.group_size == kept.table().group_size == 8
        assert kept.verdict.startswith(
            "No table is shown to help over the best named weighting from starts as hard as these."
        )
        assert EVIDENCE in kept.verdict
        assert "Use Sqrt-R or MaxRL" in kept.verdict
        assert "does not hold from such starts: keep the pilot's 8" in kept.cautions[0]
        assert kept.to_dict()["helps"] is False
    free = advise(starts, [8, 16])
    assert free.choice.group_size == 16
    assert "does not hold from such starts: 16 is what it would take" in free.cautions[0]


def test_from_hard_starts_the_table_has_a_crowding_limit_and_its_price_is_the_models():
    starts = starts_of(0.3, 6.0, 60)
    assert default_limit(starts.mean()[0]) == LIMIT
    assert default_limit(0.1) is None
    advice = advise(starts, [8], crowding=LIMIT)
    table, problem = advice.table(), advice.choice.answer.problem
    assert table.certificate is not None
    assert table.advantage_wrong is not None
    assert advice.limited is not None
    assert f"κ = {LIMIT:g} would cost" in advice.cautions[1]
    # The elasticity of the push, from its definition: E[-A⁻_K] over the other responses of a group.
    wrong = -np.array(table.advantage_wrong[:-1])

    def push(rho):
        return float(binom.pmf(np.arange(8), 7, rho) @ wrong)

    for rho in (0.06, 0.2, 0.4, 0.69):
        slope = (np.log(push(rho * 1.0001)) - np.log(push(rho / 1.0001))) / (2 * np.log(1.0001))
        assert slope <= LIMIT + 1e-4
    assert advice.limited.cost >= advice.choice.answer.lower_bound
    alone = starts.share @ np.eye(starts.share.size)
    vector = np.array([-table.all_wrong_advantage, *table.weight, 0.0])
    assert advice.limited.cost == pytest.approx(problem.flow().time(vector, alone, problem.target), rel=1e-6)
    assert advise(starts_of(9.0, 2.0, 60), [8], crowding=LIMIT).limited is None
    asked_for = advise(starts_of(1.0, 2.0, 60), [8], crowding=LIMIT)
    assert f"κ = {LIMIT:g} would cost" in asked_for.verdict
    assert "has not been trained" in asked_for.verdict


@pytest.mark.slow
def test_it_recommends_the_table_where_its_interval_lies_above_the_threshold():
    advice = advise(starts_of(0.4, 3.0, 400), [8], 0.5, lengths=LONG_WRONG, threshold=0.005)
    assert advice.choice.low > 0
    assert advice.choice.helps
    assert "saves" in advice.verdict
    assert advice.choice.table().problem is not None
    held_to_more = advise(starts_of(0.4, 3.0, 400), [8], 0.5, lengths=LONG_WRONG, threshold=0.5)
    assert "below the threshold" in held_to_more.verdict


@pytest.mark.slow
def test_larger_groups_never_cost_more_and_the_run_keeps_its_own_if_it_is_near():
    starts = starts_of(0.5, 2.0, 100)
    advice = advise(starts, [64, 4, 32, 16])
    costs = [choice.answer.time for choice in advice.choices]
    assert costs == sorted(costs, reverse=True)
    assert advice.choice.group_size < 64
    assert advise(starts, [4, 16, 32, 64], used=64).choice.group_size == 64


def test_targets_by_default():
    assert default_target(0.1) == 0.55
    assert default_target(0.87) == 0.9
    assert 0.95 < default_target(0.95) < 1


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["weightopt", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return call


def write_counts(path, prompts=80):
    correct = np.random.default_rng(2).binomial(16, np.random.default_rng(3).beta(0.4, 2.0, prompts))
    path.write_text("correct,responses\n" + "".join(f"{k},16\n" for k in correct))
    return correct


def line_of(step, histogram, **more):
    tokens = [[30 * k * n, 90 * (len(histogram) - 1 - k) * n] for k, n in enumerate(histogram)]
    record = {"kind": "step", "step": step, "success_histogram": histogram, "tokens_by_successes": tokens}
    return json.dumps({**record, "groups_drawn": 99, "groups_trained": 99, **more}) + "\n"


@pytest.mark.slow
def test_the_command_prints_costs_and_a_verdict_and_writes_a_table_that_checks(run, tmp_path):
    write_counts(tmp_path / "c.csv")
    status, out, _ = run("advise", "--pass-rates", "c.csv", "--group-sizes", "4,8", "--output", "t.json")
    assert status == 0
    for words in (
        "80 prompts",
        "M = 4",
        "M = 8",
        "95 % interval",
        "lower bound",
        "leaves out",
        "share habits",
        "Written",
    ):
        assert words in " ".join(out.split())
    assert WeightTable.load(tmp_path / "t.json").group_size in (4, 8)
    assert run("check", "t.json")[0] == 0


@pytest.mark.slow
def test_the_command_takes_starts_lengths_and_loop_from_a_run(run, tmp_path):
    histogram = [20, 8, 4, 2, 1, 1, 2, 1, 1]
    (tmp_path / "metrics.jsonl").write_text(line_of(1, histogram) + line_of(2, [10] * 9, groups_drawn=120))
    status, out, _ = run("advise", "--metrics", ".", "--group-sizes", "4", "--json")
    document = json.loads(out)
    assert status == 0
    assert [choice["group_size"] for choice in document["group_sizes"]] == [4, 8]
    assert document["lengths"]["wrong"][0] == pytest.approx(90)
    assert document["dynamic_sampling"] is False
    status, out, _ = run("advise", "--metrics", ".", "--group-sizes", "8", "--json", "--step", 2, "--pool", 3)
    assert json.loads(out)["dynamic_sampling"] is True
    assert json.loads(out)["prompts"] == 90


@pytest.mark.slow
def test_the_worked_example_prints_what_its_page_shows(run, monkeypatch):
    page = (DOCS / "advice.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^    weightopt (advise --pass-rates docs.*)$", page, re.MULTILINE)
    (shown,) = re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(DOCS.parent)
    status, out, _ = run(*command.split())
    assert status == 0
    assert [line.rstrip() for line in out.splitlines()] == [line.rstrip() for line in shown.splitlines()]


@pytest.fixture
def follow(run, monkeypatch, tmp_path):
    """Follow a run that makes a stage between two looks, each of them a text to add to its metrics, and then ends."""
    folder = tmp_path / "run"
    folder.mkdir()

    def call(*stages):
        stages, now = list(stages), [0.0]

        def go_on(seconds):
            now[0] += seconds
            if not stages:
                (folder / "model").mkdir()
            elif text := stages.pop(0):
                with (folder / "metrics.jsonl").open("a") as file:
                    file.write(text)

        monkeypatch.setattr(command, "time", SimpleNamespace(sleep=go_on, monotonic=lambda: now[0]))
        return run("advise", "--follow", "run", "--output", "t.json", "--every", 25, "--pool", 1)

    return call


EASY, HARD = [20, 8, 4, 2, 1, 1, 2, 1, 1], [60, 6, 3, 1, 0, 0, 0, 0, 0]
NOTHING = [9] + [0] * 8


@pytest.mark.slow
def test_it_follows_a_run_until_the_run_ends(follow, tmp_path):
    begins = '{"kind": "evaluation", "step": 0}\n'
    status, out, err = follow(begins, line_of(1, EASY), line_of(2, NOTHING), line_of(3, EASY)[:-30])
    assert status == 0
    one, two = out.splitlines()
    assert one.startswith(("step 1: No table", "step 1: Use groups of 8"))
    assert two.startswith("step 2: no advice, the counts must not be all wrong")
    assert "no metrics" not in err
    assert WeightTable.load(tmp_path / "t.json").group_size == 8


@pytest.mark.slow
def test_the_limit_is_decided_at_the_first_look_and_kept(follow, tmp_path):
    status, out, _ = follow(line_of(1, HARD), line_of(2, EASY))
    assert status == 0
    one, two = out.splitlines()
    assert one.startswith("step 1: No table is shown to help over the best")
    assert two.startswith(f"step 2: In groups of 8 the table with the crowding limit κ = {LIMIT:g}")
    assert (WeightTable.load(tmp_path / "t.json").problem or {})["crowding"] == LIMIT


@pytest.mark.slow
def test_a_folder_without_metrics_is_worth_a_word_after_a_minute(follow):
    status, _, err = follow("", "", "", "", line_of(1, EASY))
    assert status == 0
    assert err.count("no metrics.jsonl yet in run") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ["--metrics", "--pass-rates", "--follow"]),
        (["--metrics", "m", "--pass-rates", "c.csv"], ["one of them"]),
        (["--pass-rates", "none.csv"], ["--pass-rates", "none.csv"]),
        (["--pass-rates", "c.csv", "--step", "2"], ["--step", "--metrics"]),
        (["--pass-rates", "c.csv", "--group-sizes", "4.5"], ["--group-sizes", "whole"]),
        (["--pass-rates", "c.csv", "--group-sizes", "x"], ["--group-sizes"]),
        (["--pass-rates", "c.csv", "--group-sizes", "1"], ["--group-size", "2 to 256"]),
        (["--pass-rates", "c.csv", "--group-sizes", "2,3,4,5,6,7,8,9,10"], ["--group-sizes", "1 to 8"]),
        (["--pass-rates", "c.csv", "--target", "0.01"], ["--target", "mean success"]),
        (["--pass-rates", "c.csv", "--budget-kind", "x"], ["--budget-kind", "kl"]),
        (["--pass-rates", "c.csv", "--threshold", "2"], ["--threshold", "0.5"]),
        (["--pass-rates", "c.csv", "--floor", "0"], ["--floor"]),
        (["--pass-rates", "c.csv", "--resamples", "1"], ["--resamples", "20"]),
        (["--pass-rates", "c.csv", "--seed", "-1"], ["--seed"]),
        (["--pass-rates", "c.csv", "--tokens", "none.csv"], ["--tokens", "none.csv"]),
        (["--pass-rates", "c.csv", "--output", "absent/t.json"], ["--output"]),
        (["--metrics", "none"], ["--metrics", "none"]),
        (["--metrics", "."], ["--metrics . holds no metrics.jsonl"]),
        (["--pass-rates", "c.csv", "--tokens", "."], ["--tokens . holds no metrics.jsonl"]),
        (["--follow", "none"], ["--follow", "--output"]),
        (["--follow", "none", "--output", "t.json", "--every", "0"], ["--every"]),
        (["--follow", "none", "--output", "t.json", "--group-sizes", "4"], ["--group-sizes"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and str(value[:1]).startswith("['--") else None,
)
def test_bad_input_is_one_sentence_with_status_two(run, tmp_path, options, words):
    write_counts(tmp_path / "c.csv", 12)
    status, out, err = run("advise", *options)
    assert (status, out) == (2, "")
    assert err.startswith("weightopt: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert [path.name for path in tmp_path.iterdir()] == ["c.csv"]
