"""The study: its plan, its statistics on worked cases, its prediction on a second road, and a run of it in small."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from figures.runs import load_runs
from studies.weightings import findings, prediction, report
from studies.weightings.__main__ import beyond
from studies.weightings.collect import collect
from studies.weightings.plan import HERE, Plan, load_plan
from studies.weightings.start_counts import write_rates
from studies.weightings.starts import make_start
from studies.weightings.work import run_job
from tests.amounts import some_of
from theory.catalogue import WEIGHTINGS
from theory.finite_group import binomial
from weightopt.catalogue_tables import named_table
from weightopt.table import WeightTable

PLAN = load_plan()
LADDER = load_plan(HERE.parent / "ladder" / "rung4.toml")
ASKED = load_plan(HERE.parent / "ladder" / "rung4-push.toml")
TINY = """
[task]
name = "countdown"
numbers = { 2 = 1 }
largest_number = 30
largest_target = 300

[model]
layers = 1
hidden_size = 16
intermediate_size = 16
heads = 2

[supervised]
steps = 2
check_every = 2

[rollout]
prompts_per_step = 2
group_size = 16
max_new_tokens = 4

[training]
steps = 4
evaluate_every = 2

[evaluation]
prompts = 8
samples = 2
keep_best = false
"""


def test_every_run_has_a_folder_of_its_own_and_tuning_never_sees_the_seeds_that_count() -> None:
    assert PLAN.reference in PLAN.methods
    assert set(PLAN.labels) == set(PLAN.methods)
    assert not set(PLAN.seeds) & set(PLAN.tuning_seeds)
    for setting in PLAN.settings.values():
        config = setting.load()
        assert config.rollout.group_size == PLAN.group_size
        assert sorted(setting.rates) == list(setting.rates)
        rates = dict.fromkeys(PLAN.methods, setting.rates[0])
        jobs = PLAN.tuning(setting) + PLAN.evaluation(setting, rates)
        assert len({job.folder for job in jobs}) == len(jobs)
        assert {job.seed for job in PLAN.evaluation(setting, rates)} == set(PLAN.seeds)


def test_the_study_for_a_gpu_is_the_same_but_for_its_setting() -> None:
    other = load_plan(HERE / "smollm2.toml")
    assert list(other.settings) == ["smollm2-countdown"]
    assert replace(other, settings=PLAN.settings) == PLAN
    assert str(other.settings["smollm2-countdown"].load().start_model) in (HERE / "smollm2.toml").read_text("utf-8")
    page = "<!-- countdown-scratch speed -->\nof the other plan\n<!-- end -->\n"
    assert report.rewrite(other, page) == page


def _run(method: str, seed: int, success: list[float]) -> pd.DataFrame:
    steps = np.arange(len(success)) * 10
    return pd.DataFrame({"method": method, "seed": seed, "step": steps, "responses": steps * 256, "success": success})


def test_a_crossing_is_read_from_the_smoothed_curve() -> None:
    run = _run("a", 0, [0.0, 0.3, 0.6, 0.9, 0.9])
    # Smoothed: 0.15, 0.3, 0.6, 0.8, 0.9; 0.5 lies two thirds of the way from 2560 to 5120.
    assert findings.responses_to(run, 0.5) == pytest.approx(2560 + 2560 * 2 / 3)
    assert math.isnan(findings.responses_to(run, 0.95))
    assert math.isnan(findings.responses_to(run, 0.1))  # it begins above


def test_a_ratio_is_of_pairs_and_only_where_all_arrive() -> None:
    slow = [0.0, 0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    fast = [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]
    never = [0.0] * 9
    frames = [_run("fast", seed, fast) for seed in (0, 1)] + [_run("slow", seed, slow) for seed in (0, 1)]
    runs = findings.measures(pd.concat(frames), [0.5])
    found = findings.ratio(runs, "slow", "fast", 0.5)
    assert found is not None
    assert found.mean == pytest.approx(2.0)
    assert (found.low, found.high) == pytest.approx((2.0, 2.0))
    assert findings.difference(runs, "slow", "fast", "area").mean == pytest.approx(np.mean(slow) - np.mean(fast))
    runs = findings.measures(pd.concat([*frames[:3], _run("slow", 1, never)]), [0.5])
    assert findings.ratio(runs, "slow", "fast", 0.5) is None
    assert findings.arrived(runs, "slow", 0.5) == (1, 2)


def test_the_bootstrap_is_paired_by_seed() -> None:
    easy, hard = [0.0, 0.5, 1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.1, 0.2, 0.3]
    frames = [
        _run(method, seed, [x + shift for x in curve])
        for seed, curve in enumerate((easy, hard))
        for method, shift in (("a", 0.0), ("b", 0.1))
    ]
    found = findings.difference(findings.measures(pd.concat(frames), []), "b", "a", "area")
    assert (found.low, found.mean, found.high) == pytest.approx((0.1, 0.1, 0.1))  # however different the seeds are


def test_silence_is_that_of_the_last_tenth_of_a_run() -> None:
    counts = np.zeros((20, 17))
    counts[:, 5] = 4
    counts[18:] = 0
    counts[18:, [0, 5, 16]] = [1, 2, 1]
    frame = pd.DataFrame(counts, columns=[f"k{k}" for k in range(17)])
    frame = frame.assign(method="a", seed=0, step=np.arange(1, 21), entropy=[1.0] * 18 + [0.5] * 2)
    found = findings.tails(frame, PLAN).loc["a"]
    assert found.to_dict() == pytest.approx({"entropy": 0.5, "silent": 0.5, "all_wrong": 0.25, "all_right": 0.25})


def test_under_equal_kl_all_tables_take_a_lone_prompt_along_the_angle_at_the_same_speed() -> None:
    def angle(rho: float) -> float:
        return 2 * math.asin(math.sqrt(rho))

    for name in ("rloo", "sqrt-r"):
        times = prediction.time_to_levels(np.array([0.02]), _table(name), [0.5, 0.8], "kl")
        assert times == pytest.approx([angle(0.5) - angle(0.02), angle(0.8) - angle(0.02)], rel=1e-6)


def test_the_other_scaling_agrees_with_small_steps_summed_over_all_groups() -> None:
    table = _table("linear-r")
    plus, minus = np.array(table.advantage_correct), np.array(table.advantage_wrong)
    share = np.arange(17) / 16
    rho, step, time = np.array([0.02, 0.3, 0.7]), 1e-3, 0.0
    levels = prediction.time_to_levels(rho, table, [0.5], "advantage")
    theta = np.log(rho / (1 - rho))
    while (now := 1 / (1 + np.exp(-theta))).mean() < 0.5:
        groups = binomial(now, 16)
        squared = groups @ (share * plus**2 + (1 - share) * minus**2)
        move = (groups * (share * plus / now[:, None] - (1 - share) * minus / (1 - now[:, None]))).sum(axis=1)
        theta = theta + step * move / math.sqrt(squared.mean())
        time += step
    assert levels[0] == pytest.approx(time, rel=2e-3)


def test_a_level_that_is_never_reached_is_nan() -> None:
    times = prediction.time_to_levels(np.array([0.3, 0.3]), _table("grpo"), [0.5, 0.2], "advantage")
    assert math.isfinite(times[0])
    assert math.isnan(times[1])


def _table(name: str) -> WeightTable:
    return named_table(WEIGHTINGS[name], 16)


@pytest.mark.slow
def test_the_study_in_small_is_resumed_collected_and_reported(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY, encoding="utf-8")
    setting = replace(
        PLAN.settings["countdown-scratch"],
        config=tmp_path / "tiny.toml",
        rates=(1e-3,),
        start_range=(0.0, 1.0),
        hide=None,
    )
    plan = replace(
        PLAN,
        seeds=(0,),
        tuning_seeds=(7,),
        methods={name: PLAN.methods[name] for name in ("grpo", "solved-effective")},
        labels={name: PLAN.labels[name] for name in ("grpo", "solved-effective")},
        settings={setting.name: setting},
    )
    output, results = tmp_path / "runs", tmp_path / "results"
    starts = output / setting.name / "starts"
    for seed in (0, 7):
        make_start(setting, seed, starts / f"seed-{seed}")
    jobs = plan.tuning(setting) + plan.evaluation(setting, dict.fromkeys(plan.methods, 1e-3))
    for job in jobs:
        table = tmp_path / f"{job.method}.json"
        if not table.exists():
            plan.make_table(job.method, setting, table, tmp_path / "no-rates.csv")
        run_job(setting, job, table, starts / f"seed-{job.seed}" / "model", output)
    before = (output / jobs[-1].folder / "metrics.jsonl").read_bytes()
    run_job(setting, jobs[-1], tmp_path / "grpo.json", starts / "seed-0" / "model", output)  # done: nothing happens
    assert (output / jobs[-1].folder / "metrics.jsonl").read_bytes() == before
    (output / setting.name / "rates.json").write_text('{"grpo": 0.001, "solved-effective": 0.001}', encoding="utf-8")
    collect(plan, setting, output, results)
    page = f"before\n<!-- {setting.name} level -->\nold\n<!-- end -->\nafter\n"
    written = report.rewrite(plan, page, results)
    assert written.startswith(f"before\n<!-- {setting.name} level -->\n| held-out success |")
    assert written.endswith("<!-- end -->\nafter\n")
    assert "old" not in written
    assert report.rewrite(plan, written, results) == written


@pytest.mark.slow
@pytest.mark.parametrize("plan", [PLAN, LADDER, ASKED], ids=["study", "ladder", "asked afterwards"])
def test_the_page_of_results_is_what_the_kept_results_give(plan: Plan) -> None:
    page = report.PAGE.read_text(encoding="utf-8")
    assert report.rewrite(plan, page, only=("speed", "level", "kinds", "tuned")) == page


def test_a_learning_rate_at_an_end_of_the_grid_is_tried_beyond_it() -> None:
    setting = PLAN.settings["countdown-scratch"]
    tuning = PLAN.tuning_at(setting, {"grpo": (1e-3, 2e-3, 4e-3), "rloo": (1e-3, 2e-3, 4e-3), "sqrt-r": (1e-3, 2e-3)})
    assert beyond(tuning, {"grpo": 2e-3, "rloo": 4e-3, "sqrt-r": 1e-3}) == {"rloo": [8e-3], "sqrt-r": [5e-4]}


def test_a_table_is_made_for_the_pass_rates_of_the_start_models(tmp_path: Path) -> None:
    starts = pd.DataFrame({"seed": 1, "samples": 64, "right": [0, 3, 40], "prompts": [5, 4, 1]})
    write_rates(starts, tmp_path / "rates.csv")
    plan = replace(LADDER, methods={"population": LADDER.methods["population"]})
    (table,) = plan.tables(LADDER.settings["letters-scratch"], starts).values()
    assert table.group_size == 16
    assert table.problem is not None
    assert table.problem["counts"] == [5, 4, 1]
    words = plan.command("population", LADDER.settings["letters-scratch"], tmp_path / "rates.csv")
    assert words[:3] == ["population", "--rates", str(tmp_path / "rates.csv")]


@some_of("name", PLAN.settings, 1)
def test_figures_can_read_what_is_kept(name: str) -> None:
    runs = load_runs(PLAN.results / name)
    assert [(run.table, run.seed) for run in runs] == sorted((m, f"seed-{s}") for m in PLAN.methods for s in PLAN.seeds)
    steps = PLAN.settings[name].load().training.steps
    for run in runs:
        assert run.evaluations["step"].iloc[-1] == steps
        assert run.histograms.shape == (steps, PLAN.group_size + 1)
        assert (run.histograms.sum(axis=1) == 16).all()
