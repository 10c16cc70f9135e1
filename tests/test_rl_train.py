"""The loop as a whole: same seed, same bytes; what it writes adds up, and what it is told it does."""

import json
import math
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import rl.run.checkpoint
import rl.run.run
import rl.train
from rl.config import Config, parse_config
from rl.errors import StorageError, UsageError
from rl.learning.update import new_optimizer
from rl.models.policy import load_policy
from rl.records.layout import latest_checkpoint
from rl.records.metrics import read_metrics
from rl.run.checkpoint import read_state
from rl.supervised import make_start_model
from rl.tasks.registry import build_teaching_task
from rl.train import train
from tests.worlds import GROUP_SIZE, STEPS, KilledError, assert_same_run, document

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(config: Config, whole: Path, tmp_path: Path) -> None:
    torch.rand(7)  # the state of the global generators must not matter
    np.random.default_rng()
    train(config, tmp_path / "run", quiet=True)
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.slow
def test_another_seed_gives_another_run(table: Path, whole: Path, tmp_path: Path) -> None:
    train(parse_config({**document(table), "seed": 1}), tmp_path / "run", quiet=True)
    assert (whole / "metrics.jsonl").read_bytes() != (tmp_path / "run" / "metrics.jsonl").read_bytes()


def test_what_a_run_leaves(config: Config, whole: Path) -> None:
    assert sorted(path.name for path in whole.iterdir()) == [
        "best",
        "checkpoints",
        "metrics.jsonl",
        "model",
        "run.json",
        "start",
        "timing.jsonl",
    ]
    assert not [path for path in whole.rglob("*") if path.suffix in (".pt", ".bin", ".pkl", ".tmp")]
    run = json.loads((whole / "run.json").read_text())
    assert parse_config(run["config"]) == config
    assert run["table"]["name"] == "linear-r"
    assert run["versions"]["torch"] == torch.__version__.partition("+")[0] or torch.__version__
    task = build_teaching_task(config.task)
    assert load_policy(whole / "model").encode(task.alphabet)


@pytest.mark.slow
def test_every_option_does_something(everything_on: tuple[Config, Path]) -> None:
    config, whole = everything_on
    metrics = read_metrics(whole / "metrics.jsonl")
    assert [record.table for record in metrics.steps] == ["linear-r", "linear-r", "rloo", "rloo", "rloo"]
    rates = [record.learning_rate or 0.0 for record in metrics.steps]
    assert rates == [0.005, 0.01, 0.01, 0.01, 0.01]
    groups = responses = tokens = 0
    for record in metrics.steps:
        assert record.groups_drawn is not None
        groups, tokens = groups + record.groups_drawn, tokens + record.tokens
        responses += record.groups_drawn * GROUP_SIZE
        assert (record.groups_so_far, record.responses_so_far, record.tokens_so_far) == (groups, responses, tokens)
        histogram = np.array(record.success_histogram)
        assert histogram.sum() == record.groups_drawn
        assert record.groups_trained == min(histogram[1:-1].sum(), config.rollout.prompts_per_step)
        assert record.histogram_by_difficulty == {"1 digit": tuple(histogram)}
        assert record.reward == pytest.approx(histogram @ np.arange(GROUP_SIZE + 1) / (GROUP_SIZE * histogram.sum()))
        assert record.clip_factor is not None
        assert record.clip_factor == pytest.approx(min(1, 0.5 / record.gradient_norm))
        assert record.clipped == (record.clip_factor < 1)
        assert record.updates_so_far == 4 * record.step
        assert (record.updates_clipped or 0) >= record.clipped
        assert 0 <= (record.ratio_clipped or 0) < 1
    assert any(record.ratio_clipped for record in metrics.steps)
    assert any(record.groups_drawn != record.groups_trained for record in metrics.steps)
    for record in metrics.evaluations:
        assert record.greedy is not None
        assert record.pass_at["1"] == pytest.approx((record.success, record.success_low, record.success_high))
        assert record.pass_at["1"][0] <= record.pass_at["2"][0] <= record.pass_at["3"][0]
    assert metrics.evaluations[-1].tokens_so_far == tokens
    assert all(record.all_wrong_factor == 1 for record in metrics.steps)
    assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == ["step-000004", "step-000005"]
    rollouts = [json.loads(line) for line in (whole / "rollouts.jsonl").read_text().splitlines()]
    assert {line["step"] for line in rollouts} == {1, 2, 3, 4, 5}
    assert 0.2 < len(rollouts) / responses < 0.8
    assert {line["correct"] for line in rollouts} == {True, False}
    assert {line["advantage"] is None for line in rollouts} == {True, False}


@pytest.mark.slow
def test_the_scheduled_learning_rate_is_the_one_that_is_used(table: Path, tmp_path: Path) -> None:
    settings = {**document(table), "training": {"steps": 1}}
    for name, options in (
        ("warming", {"learning_rate": 0.008, "warmup_steps": 4}),
        ("plain", {"learning_rate": 0.002}),
    ):
        config = parse_config({**settings, "optimizer": {**settings["optimizer"], **options}})
        train(config, tmp_path / name, quiet=True)
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("warming", "plain"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not all(torch.equal(value, one[key]) for key, value in load_file(start_of(tmp_path / "plain")).items())


def start_of(run: Path) -> Path:
    return run / "start" / "model.safetensors"


def test_the_best_model_is_kept(everything_on: tuple[Config, Path], whole: Path) -> None:
    for run in (everything_on[1], whole):
        regular = [record for record in read_metrics(run / "metrics.jsonl").evaluations if record.step % 2 == 0]
        best = max(regular, key=lambda record: (record.success, -record.step))
        (kept,) = (run / "best").iterdir()
        assert kept.name == f"step-{best.step:06d}"
        load_policy(kept)
        state, _ = read_state(run / "checkpoints" / f"step-{STEPS:06d}")
        assert (state.best_step, state.best_success) == (best.step, best.success)


def test_a_step_whose_groups_are_all_dropped_still_counts(table: Path, tmp_path: Path) -> None:
    settings = document(table)
    # A response of one token cannot be right.
    settings["rollout"] = {
        **settings["rollout"],
        "dynamic_sampling": True,
        "over_generation_limit": 2,
        "max_new_tokens": 1,
    }
    settings["training"] = {"steps": 2}
    train(parse_config(settings), tmp_path / "run", quiet=True)
    for record in read_metrics(tmp_path / "run" / "metrics.jsonl").steps:
        assert (record.groups_drawn, record.groups_trained, record.reward) == (8, 0, 0.0)
        assert record.responses_so_far == 32 * record.step
        assert (record.mean_abs_advantage, record.gradient_norm, record.distinct_responses) == (0, 0, 0)


def test_metrics_add_up(config: Config, whole: Path) -> None:
    metrics = read_metrics(whole / "metrics.jsonl")
    assert [record.step for record in metrics.steps] == list(range(1, STEPS + 1))
    assert [record.step for record in metrics.evaluations] == [0, 2, 4, 5]
    groups = config.rollout.prompts_per_step
    for record in metrics.steps:
        histogram = np.array(record.success_histogram)
        assert histogram.shape == (GROUP_SIZE + 1,)
        assert histogram.sum() == groups
        assert record.reward == pytest.approx(histogram @ np.arange(GROUP_SIZE + 1) / (groups * GROUP_SIZE))
        assert record.all_wrong == histogram[0] / groups
        assert record.all_right == histogram[-1] / groups
        assert record.responses_so_far == record.step * groups * GROUP_SIZE
        assert groups * GROUP_SIZE <= record.tokens <= groups * GROUP_SIZE * config.rollout.max_new_tokens
        assert record.clipped == (record.gradient_norm > 0.5)
        assert 0 < record.entropy < math.log(14)
    for record in metrics.evaluations:
        assert record.success_low <= record.success <= record.success_high
        assert record.prompts == 4
        assert record.samples == 2


@pytest.mark.slow
def test_success_rises_on_an_easy_task(table: Path, tmp_path: Path) -> None:
    """One-digit sums with a small model: reward more than doubles in sixty steps; half of that is asked for."""
    settings = {
        **document(table),
        "task": {"name": "addition", "digits": {"1": 1}},
        "model": {"layers": 1, "hidden_size": 32, "intermediate_size": 64, "heads": 2, "context": 16},
        "supervised": {"steps": 200, "batch_size": 64, "check_every": 20, "solved_share": 0.3, "learning_rate": 3e-3},
        "rollout": {"prompts_per_step": 64, "group_size": GROUP_SIZE, "max_new_tokens": 4},
        "optimizer": {"learning_rate": 3e-3, "betas": (0.9, 0.95)},
        "training": {"steps": 60, "evaluate_every": 60, "checkpoint_every": 60},
        "evaluation": {"prompts": 4, "samples": 16},
    }
    train(parse_config(settings), tmp_path / "run", quiet=True)
    rewards = [record.reward for record in read_metrics(tmp_path / "run" / "metrics.jsonl").steps]
    assert np.mean(rewards[-10:]) > 1.5 * np.mean(rewards[:10])


def test_a_start_model_is_made_whole_or_not_at_all(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("rl.supervised.save_policy", fail)
        with pytest.raises(KilledError):
            make_start_model(config, tmp_path / "start")
    assert list(tmp_path.iterdir()) == []
    full = SafetensorError("I/O error:\nNo space left on device")
    with monkeypatch.context() as patch:
        patch.setattr("rl.supervised.save_policy", Mock(side_effect=full))
        with pytest.raises(
            StorageError, match=r"could not be written \(I/O error: No space left on device\); none was l"
        ):
            make_start_model(config, tmp_path / "start")
    assert list(tmp_path.iterdir()) == []
    record = make_start_model(config, tmp_path / "start")
    made = json.loads((tmp_path / "start" / "supervised.json").read_text())
    assert made["steps"] == record.step == 3
    assert parse_config(made["config"]) == config
    with pytest.raises(UsageError, match="exists: name another folder"):
        make_start_model(config, tmp_path / "start")


@pytest.mark.slow
def test_a_run_from_a_start_model_equals_the_run_that_made_it(
    table: Path, config: Config, whole: Path, tmp_path: Path
) -> None:
    make_start_model(config, tmp_path / "start")
    outcome = train(
        parse_config({**document(table), "start_model": str(tmp_path / "start")}), tmp_path / "run", quiet=True
    )
    assert outcome.finished
    assert (whole / "metrics.jsonl").read_bytes() == (tmp_path / "run" / "metrics.jsonl").read_bytes()


def test_optimizer_state_comes_back_whole(config: Config, whole: Path) -> None:
    latest = latest_checkpoint(whole / "checkpoints")
    assert latest is not None
    policy = load_policy(latest / "model")
    optimizer = new_optimizer(policy, config.optimizer)
    rl.run.checkpoint.load_optimizer_state(latest, policy, optimizer)
    saved = load_file(latest / "optimizer.safetensors")
    names = {name for name, _ in policy.model.named_parameters()}
    assert {key.split("/", 1)[1] for key in saved} == names
    assert {key.split("/", 1)[0] for key in saved} == {"step", "exp_avg", "exp_avg_sq"}
    assert len(optimizer.state) == len(names)
