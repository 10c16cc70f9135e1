"""The loop as a whole: same seed, same bytes; stopped and resumed, the same bytes; trouble stops it cleanly."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import rl.run.checkpoint
import rl.train
from rl.config import Config, parse_config
from rl.errors import DivergenceError, StorageError, UsageError
from rl.models.policy import load_policy, new_policy
from rl.records.layout import latest_checkpoint
from rl.records.metrics import read_metrics, read_timing
from rl.run.checkpoint import read_state
from rl.storage import whole_folder
from rl.supervised import make_start_model
from rl.tasks.registry import build_teaching_task
from rl.train import train
from weightopt.table import TableError, group_table

GROUP_SIZE = 4
STEPS = 5


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    group_table(
        lambda rho: 1 + 0 * rho, GROUP_SIZE, name="rloo", label="RLOO", all_wrong_advantage=0, all_right_advantage=0
    ).save(folder / "rloo.json")
    path = folder / "linear-r.json"
    group_table(
        lambda rho: 1 / rho,
        GROUP_SIZE,
        name="linear-r",
        label="Linear-R",
        all_wrong_advantage=-1.0,
        all_right_advantage=0.0,
    ).save(path)
    return path


def document(table: Path) -> dict[str, Any]:
    return {
        "table": str(table),
        "task": {"name": "addition", "digits": {"1": 1, "2": 1}},
        "model": {"layers": 1, "hidden_size": 16, "intermediate_size": 24, "heads": 2, "context": 16},
        "supervised": {"steps": 3, "batch_size": 8, "check_every": 2},
        "rollout": {"prompts_per_step": 4, "group_size": GROUP_SIZE, "max_new_tokens": 4},
        "optimizer": {"learning_rate": 1e-2, "max_grad_norm": 0.5, "tokens_per_micro_batch": 40},
        "training": {"steps": STEPS, "evaluate_every": 2, "checkpoint_every": 2},
        "evaluation": {"prompts": 4, "samples": 2},
    }


def everything(table: Path, start: Path | None) -> dict[str, Any]:
    """Every option that has a state, or that changes with the step; prompts come back, and the batch must be filled."""
    settings = document(table)
    changes: dict[str, Any] = {
        "start_model": None if start is None else str(start),
        "task": {"name": "addition", "digits": {"1": 1}},
        "supervised": {"steps": 40, "batch_size": 32, "solved_share": 1.0, "learning_rate": 1e-2, "stop_at": 0.3},
        "rollout": {"prompts_per_step": 8, "dynamic_sampling": True, "over_generation_limit": 4},
        "weighting": {
            "estimate": "beta",
            "prior_failures": 3.0,
            "visit_discount": 0.9,
            "normaliser": "response",
        },
        "optimizer": {
            "warmup_steps": 2,
            "cosine_until": 6,
            "final_share": 0.2,
            "mini_batches": 2,
            "epochs": 2,
            "clip_low": 0.2,
            "clip_high": 0.28,
        },
        "training": {"keep_checkpoints": 2, "rollout_share": 0.5},
        "evaluation": {"samples": 3, "pass_at": [1, 2, 3], "greedy": True},
        "later_tables": [{"from_step": 3, "table": str(table.with_name("rloo.json"))}],
    }
    for section, values in changes.items():
        both = isinstance(values, dict) and section in settings and section != "task"
        settings[section] = {**settings[section], **values} if both else values
    return settings


@pytest.fixture(scope="module")
def config(table: Path) -> Config:
    return parse_config(document(table))


@pytest.fixture(scope="module")
def everything_on(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """A configuration with every option in use, and its run that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("everything")
    make_start_model(parse_config(everything(table, None)), folder / "start")
    config, output = parse_config(everything(table, folder / "start")), folder / "run"
    train(config, output, quiet=True)
    return config, output


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has interrupted."""
    output = tmp_path_factory.mktemp("whole") / "run"
    outcome = train(config, output, quiet=True)
    assert outcome.finished
    assert outcome.step == STEPS
    return output


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run but its timing; also not what a diverged step has left."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name != "timing.jsonl" and not path.name.startswith("diverged")
    }


def assert_same_run(one: Path, other: Path, *, but: str = "") -> None:
    first, second = contents(one), contents(other)
    first.pop(but, None)
    second.pop(but, None)
    assert first.keys() == second.keys()
    for name, data in first.items():
        assert data == second[name], name
    steps = list(range(1, len(read_metrics(one / "metrics.jsonl").steps) + 1))
    assert [record.step for record in read_timing(one / "timing.jsonl")] == steps
    assert [record.step for record in read_timing(other / "timing.jsonl")] == steps


def test_the_same_seed_gives_the_same_bytes(config: Config, whole: Path, tmp_path: Path) -> None:
    torch.rand(7)  # the state of the global generators must not matter
    np.random.default_rng()
    train(config, tmp_path / "run", quiet=True)
    assert_same_run(whole, tmp_path / "run")


def test_another_seed_gives_another_run(table: Path, whole: Path, tmp_path: Path) -> None:
    train(parse_config({**document(table), "seed": 1}), tmp_path / "run", quiet=True)
    assert (whole / "metrics.jsonl").read_bytes() != (tmp_path / "run" / "metrics.jsonl").read_bytes()


class KilledError(BaseException):
    """Stands for the end of the process: nothing in the loop may catch it."""


# Where the process ends: in the stage of that name, before or after its work is done.
STAGES = [
    "collect",
    "weigh",
    "learn",
    "append_record",
    "evaluate",
    "_checkpoint",
    "save_checkpoint",
    "make_start_model",
]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("call", [1, 3])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_run_resumes_bit_for_bit(
    config: Config, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, call: int, when: str
) -> None:
    work = getattr(rl.train, stage)
    calls = 0

    def interrupted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and when == "before":
            raise KilledError
        answer = work(*arguments, **options)
        if calls == call:
            raise KilledError
        return answer

    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(rl.train, stage, interrupted)
        try:
            train(config, output, quiet=True)
        except KilledError:
            assert not (output / "model").exists()
        else:
            assert stage == "make_start_model"  # it is called once only
            assert call == 3
    outcome = train(config, output, resume=True, quiet=True)
    assert outcome.finished
    assert_same_run(whole, output)


def test_a_run_killed_while_it_writes_a_checkpoint_resumes_from_the_one_before(
    config: Config, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    save_file = rl.run.checkpoint.save_file

    def half_written(tensors: dict[str, torch.Tensor], path: Path) -> None:
        save_file(tensors, path)
        if "step-000004" in str(path):
            path.write_bytes(path.read_bytes()[:100])
            shutil.copytree(path.parent, output / "what the kill left")
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(rl.run.checkpoint, "save_file", half_written)
        with pytest.raises(KilledError):
            train(config, output, quiet=True)
    # A real kill leaves the unfinished folder behind, which the exception above has removed.
    shutil.move(output / "what the kill left", output / "checkpoints" / ".step-000004.partial")
    latest = latest_checkpoint(output / "checkpoints")
    assert latest is not None
    assert latest.name == "step-000002"
    train(config, output, resume=True, quiet=True)
    assert_same_run(whole, output)
    assert [path.name for path in (output / "checkpoints").iterdir()] == [f"step-{STEPS:06d}"]


def test_a_line_cut_in_half_is_dropped(config: Config, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    train_until(config, output, 3)
    with (output / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')
    assert len(read_metrics(output / "metrics.jsonl").steps) == 3
    train(config, output, resume=True, quiet=True)
    assert_same_run(whole, output)


def train_until(config: Config, output: Path, step: int) -> None:
    """Stop after ``step`` as an interrupt does: the step is finished and a checkpoint is saved."""

    def interrupting(work: Callable[..., Any]) -> Callable[..., Any]:
        def learn(*arguments: Any) -> Any:
            nonlocal step
            step -= 1
            if step == 0:
                os.kill(os.getpid(), signal.SIGINT)
            return work(*arguments)

        return learn

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl.train, "learn", interrupting(rl.train.learn))
        wanted = step
        outcome = train(config, output, quiet=True)
    assert not outcome.finished
    assert outcome.step == wanted


@pytest.mark.parametrize("step", [1, 2, 3])
def test_an_interrupt_finishes_the_step_and_saves_a_checkpoint(
    config: Config, whole: Path, tmp_path: Path, step: int
) -> None:
    before = signal.getsignal(signal.SIGINT)
    output = tmp_path / "run"
    train_until(config, output, step)
    assert signal.getsignal(signal.SIGINT) is before
    assert not (output / "model").exists()
    latest = latest_checkpoint(output / "checkpoints")
    assert latest is not None
    assert latest.name == f"step-{step:06d}"
    train(config, output, resume=True, quiet=True)
    assert_same_run(whole, output)


def test_a_run_killed_at_stage_after_stage_resumes_bit_for_bit(
    everything_on: tuple[Config, Path], tmp_path: Path
) -> None:
    """With every option on: each process that goes on is killed as well, in another stage, until one is spared."""
    config, whole = everything_on
    output = tmp_path / "run"
    killed = 0
    for stage in (*STAGES, "append_rollouts", "save_model", "_keep_best", "truncate_records", "prune"):
        for call in (1, 3):
            work, calls = getattr(rl.train, stage), 0

            def interrupted(*arguments: Any, work: Callable[..., Any] = work, call: int = call, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                answer = work(*arguments, **options)
                if calls == call:
                    raise KilledError
                return answer

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(rl.train, stage, interrupted)
                try:
                    train(config, output, resume=True, quiet=True)
                except KilledError:
                    killed += 1
            if (output / "model").exists():
                assert_same_run(whole, output)
                shutil.rmtree(output)
    assert killed > 12
    train(config, output, resume=True, quiet=True)
    assert_same_run(whole, output)


# Imports once and forks: a child goes on with the run and is killed after a random time, twenty times.
KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
from rl.config import parse_config
from rl.train import train

config, output = parse_config(json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2])
rng, killed = random.Random(int(sys.argv[3])), 0

def child():
    process = os.fork()
    if not process:
        train(config, output, resume=True, quiet=True)
        os._exit(0)
    return process

began = time.monotonic()
os.waitpid(child(), 0)
longest = time.monotonic() - began
os.rename(output, output.with_name("undisturbed"))
while killed < int(sys.argv[4]):
    process = child()
    time.sleep(rng.uniform(0, 0.4 * longest))
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    killed += os.WIFSIGNALED(status)
    if (output / "model").exists():
        os.rename(output, output.with_name(f"finished-{killed}"))
os.waitpid(child(), 0)
os.rename(output, output.with_name("finished-last"))
"""


def test_a_process_killed_by_the_system_again_and_again_resumes_bit_for_bit(
    everything_on: tuple[Config, Path], tmp_path: Path
) -> None:
    config, whole = everything_on
    (tmp_path / "run.json").write_text(json.dumps(config.to_json()))
    process = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path / "run.json"), str(tmp_path / "run"), "0", "20"],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    finished = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert {path.name for path in finished} >= {"undisturbed", "finished-last"}
    for run in finished:
        assert_same_run(whole, run)


def test_a_run_killed_before_its_first_file_was_whole_can_be_resumed(
    config: Config, whole: Path, tmp_path: Path
) -> None:
    (tmp_path / ".run.json.x7.tmp").write_text('{"sche')
    train(config, tmp_path, resume=True, quiet=True)
    assert_same_run(whole, tmp_path)


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(config: Config, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    shutil.copytree(whole, output)
    (output / ".metrics.jsonl.5ddmmfh6.tmp").write_text("what a kill has left")
    assert train(config, output, resume=True, quiet=True).finished
    assert_same_run(whole, output)


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


def test_every_option_does_something(everything_on: tuple[Config, Path]) -> None:
    config, whole = everything_on
    metrics = read_metrics(whole / "metrics.jsonl")
    assert [record.table for record in metrics.steps] == ["linear-r", "linear-r", "rloo", "rloo", "rloo"]
    rates = [record.learning_rate or 0.0 for record in metrics.steps]
    assert rates[:2] == [0.005, 0.01]
    assert rates[1] > rates[2] > rates[3] > rates[4] > 0.002
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
    state = read_state(whole / "checkpoints" / "step-000005")
    assert len(state.visits) > 10
    assert max(right + wrong for right, wrong in state.visits.values()) > GROUP_SIZE  # some came back
    rollouts = [json.loads(line) for line in (whole / "rollouts.jsonl").read_text().splitlines()]
    assert {line["step"] for line in rollouts} == {1, 2, 3, 4, 5}
    assert 0.2 < len(rollouts) / responses < 0.8
    assert {line["correct"] for line in rollouts} == {True, False}
    assert {line["advantage"] is None for line in rollouts} == {True, False}


def test_a_ramp_of_the_all_wrong_rule_resumes_where_it_was(table: Path, whole: Path, tmp_path: Path) -> None:
    rule = {"all_wrong": "ramp", "all_wrong_after": 1, "all_wrong_full_at": 4}
    config = parse_config({**document(table), "weighting": rule})
    train(config, tmp_path / "one", quiet=True)
    records = read_metrics(tmp_path / "one" / "metrics.jsonl").steps
    assert [record.all_wrong_factor for record in records] == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    assert records[0].all_wrong > 0
    assert records[0].mean_abs_advantage < read_metrics(whole / "metrics.jsonl").steps[0].mean_abs_advantage
    train_until(config, tmp_path / "two", 2)
    train(config, tmp_path / "two", resume=True, quiet=True)
    assert_same_run(tmp_path / "one", tmp_path / "two")


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
        state = read_state(run / "checkpoints" / f"step-{STEPS:06d}")
        assert (state.best_step, state.best_success) == (best.step, best.success)


@pytest.mark.parametrize("normaliser", ["step", "response", "group"])
def test_a_step_whose_groups_are_all_dropped_still_counts(table: Path, tmp_path: Path, normaliser: str) -> None:
    settings = document(table)
    settings["rollout"] = {**settings["rollout"], "dynamic_sampling": True, "over_generation_limit": 2}
    settings["supervised"] = {**settings["supervised"], "steps": 1}  # a model that knows nothing
    settings["training"] = {"steps": 2}
    settings["weighting"] = {"normaliser": normaliser}
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


def test_a_run_from_a_start_model_equals_the_run_that_made_it(
    table: Path, config: Config, whole: Path, tmp_path: Path
) -> None:
    make_start_model(config, tmp_path / "start")
    outcome = train(
        parse_config({**document(table), "start_model": str(tmp_path / "start")}), tmp_path / "run", quiet=True
    )
    assert outcome.finished
    assert (whole / "metrics.jsonl").read_bytes() == (tmp_path / "run" / "metrics.jsonl").read_bytes()


def test_a_folder_in_use_is_refused(config: Config, whole: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="is not empty: add --resume"):
        train(config, whole, quiet=True)
    assert before == {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    (tmp_path / "letter.txt").touch()
    with pytest.raises(UsageError, match=r"holds no run\.json"):
        train(config, tmp_path, resume=True, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_resuming_with_another_configuration_is_refused(table: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    shutil.copytree(whole, output)
    other = document(table)
    other["optimizer"] = {**other["optimizer"], "learning_rate": 0.5}
    with pytest.raises(UsageError, match=r"'optimizer.learning_rate' was 0.01 and is now 0.5"):
        train(parse_config(other), output, resume=True, quiet=True)
    assert_same_run(whole, output)


def test_resuming_with_another_table_under_the_same_name_is_refused(table: Path, tmp_path: Path) -> None:
    output, moved = tmp_path / "run", tmp_path / "table.json"
    settings = {**document(table), "table": str(moved), "training": {"steps": 1}}
    shutil.copy(table, moved)
    train(parse_config(settings), output, quiet=True)
    group_table(
        lambda rho: 1 + 0 * rho, GROUP_SIZE, name="linear-r", label="x", all_wrong_advantage=0, all_right_advantage=0
    ).save(moved)
    with pytest.raises(UsageError, match=r"'table.checksum' was "):
        train(parse_config(settings), output, resume=True, quiet=True)


def test_raising_the_number_of_steps_prolongs_a_run(table: Path, whole: Path, tmp_path: Path) -> None:
    """A run of 3 steps, made longer, is the run of 5: its end at step 3 called for an evaluation that is dropped."""
    settings, output = document(table), tmp_path / "run"
    short = {**settings, "training": {**settings["training"], "steps": 3}}
    train(parse_config(short), output, quiet=True)
    assert [record.step for record in read_metrics(output / "metrics.jsonl").evaluations] == [0, 2, 3]
    train(parse_config(settings), output, resume=True, quiet=True)
    made = "start/supervised.json"  # it says truly that the configuration was then one of 3 steps
    assert_same_run(whole, output, but=made)
    with pytest.raises(UsageError, match=r"'training.steps' was 5 and is now 3 \(it can only be raised\)"):
        train(parse_config(short), output, resume=True, quiet=True)
    assert_same_run(whole, output, but=made)


def test_prolonging_does_not_move_schedules(everything_on: tuple[Config, Path], tmp_path: Path) -> None:
    config, whole = everything_on
    short = config.model_copy(update={"training": config.training.model_copy(update={"steps": 3})})
    train(short, tmp_path / "run", quiet=True)
    train(config, tmp_path / "run", resume=True, quiet=True)
    assert_same_run(whole, tmp_path / "run")


def test_how_many_checkpoints_are_kept_may_change(table: Path, whole: Path, tmp_path: Path) -> None:
    settings, output = document(table), tmp_path / "run"
    train_until(parse_config(settings), output, 3)
    more = {**settings, "training": {**settings["training"], "keep_checkpoints": 9}}
    train(parse_config(more), output, resume=True, quiet=True)
    # That of step 2 was gone, and that of step 3 was the interruption's.
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == ["step-000004", "step-000005"]
    train(parse_config(settings), output, resume=True, quiet=True)
    assert_same_run(whole, output)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rollout": {"max_new_tokens": 14}}, r"do not fit into the model's context of 16"),
        ({"start_model": "START", "model": {}}, r"cannot write all of"),
    ],
)
@pytest.mark.parametrize("made_before", [True, False])
def test_a_mistake_that_is_found_late_leaves_the_folder_to_the_corrected_call(
    table: Path, tmp_path: Path, change: dict[str, Any], sentence: str, made_before: bool
) -> None:
    settings, output = document(table), tmp_path / "run"
    if "start_model" in change:
        with whole_folder(tmp_path / "start") as partial:
            rl.train.save_policy(new_policy(parse_config(settings).model, "xyz", seed=0), partial)
        change = {**change, "start_model": str(tmp_path / "start")}
    if made_before:
        output.mkdir()
    both = {key: {**settings[key], **value} if isinstance(value, dict) else value for key, value in change.items()}
    with pytest.raises(UsageError, match=sentence):
        train(parse_config({**settings, **both}), output, quiet=True)
    assert output.exists() == made_before
    assert not made_before or list(output.iterdir()) == []
    settings["training"] = {"steps": 1}
    assert train(parse_config(settings), output, quiet=True).finished


@pytest.mark.parametrize("text", ["[]", "{}", "", '{"schema": 1}', '{"schema": "rl.run/3", "config": []}', "\x00"])
def test_a_garbled_run_json_is_one_sentence(config: Config, tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(
        UsageError, match=r"^cannot resume '.*': its run\.json is not that of a run; start in a new fold"
    ):
        train(config, tmp_path, resume=True, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_run_of_another_version_is_one_sentence(config: Config, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    shutil.copytree(whole, output)
    (output / "run.json").write_text((whole / "run.json").read_text().replace("rl.run/3", "rl.run/2"))
    with pytest.raises(UsageError, match="another version wrote it"):
        train(config, output, resume=True, quiet=True)
    shutil.copy(whole / "run.json", output)
    (output / "checkpoints" / f"step-{STEPS:06d}" / "state.json").write_text('{"schema": "rl.checkpoint/2", "step": 5}')
    with pytest.raises(UsageError, match=r"step-000005': another version wrote it"):
        train(config, output, resume=True, quiet=True)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json", "tokenizer*"])
def test_a_checkpoint_without_its_tokenizer_is_one_sentence(
    config: Config, whole: Path, tmp_path: Path, name: str
) -> None:
    output = tmp_path / "run"
    shutil.copytree(whole, output)
    for path in (output / "checkpoints" / f"step-{STEPS:06d}" / "model").glob(name):
        path.unlink()
    with pytest.raises(
        UsageError, match=r"^model '.*' (cannot be read|is not a folder|has a tokenizer without)"
    ) as caught:
        train(config, output, resume=True, quiet=True)
    assert "\n" not in str(caught.value)


def test_a_start_model_that_could_not_be_saved_is_not_begun(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl.supervised.new_policy", lambda *_, **__: pytest.fail("training has begun"))
    with pytest.raises(UsageError, match="output '/proc/start' cannot be written: No such file"):
        make_start_model(config, Path("/proc/start"))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_the_run(
    config: Config, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    weigh, calls = rl.train.weigh, 0

    def broken(*arguments: Any, **options: Any) -> np.ndarray:
        nonlocal calls
        calls += 1
        advantages = weigh(*arguments, **options)
        return np.full_like(advantages, value) if calls == 4 else advantages

    with monkeypatch.context() as patch:
        patch.setattr(rl.train, "weigh", broken)
        with pytest.raises(DivergenceError, match=r"step 4: the gradient is not finite .* last checkpoint is intact"):
            train(config, tmp_path / "run", quiet=True)
    dump = tmp_path / "run" / "diverged-step-000004.jsonl"
    lines = [json.loads(line) for line in dump.read_text().splitlines()]
    assert len(lines) == config.rollout.prompts_per_step * GROUP_SIZE
    assert {line["advantage"] for line in lines} == {repr(value)}
    assert all(len(line["tokens"]) == len(line["log_probs"]) for line in lines)
    train(config, tmp_path / "run", resume=True, quiet=True)
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_the_second_one_acts_as_usual(number: signal.Signals) -> None:
    heard: list[int] = []
    before = signal.signal(number, lambda received, _: heard.append(received))
    try:
        with rl.train._interruption() as interrupted:
            assert not interrupted()
            os.kill(os.getpid(), number)
            assert interrupted()
            assert heard == []
            os.kill(os.getpid(), number)
            assert heard == [number]
        assert signal.getsignal(number) is not before
    finally:
        signal.signal(number, before)


def test_an_interrupt_before_the_first_step_after_resuming_changes_nothing(
    config: Config, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    train_until(config, output, 3)
    before = contents(output)

    @contextmanager
    def at_once() -> Iterator[Callable[[], bool]]:
        yield lambda: True

    with monkeypatch.context() as patch:
        patch.setattr(rl.train, "_interruption", at_once)
        assert not train(config, output, resume=True, quiet=True).finished
    assert contents(output) == before
    train(config, output, resume=True, quiet=True)
    assert_same_run(whole, output)


# A limit on the size of files stands for a full disk: both end in an OSError while a file is being written.
FULL = """
import json, resource, sys
from pathlib import Path
from rl import command
limits = int(sys.argv.pop()), resource.RLIM_INFINITY
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
command.run_alone(command.train)
"""


def test_a_full_disk_ends_with_a_sentence_and_an_intact_checkpoint(
    table: Path, config: Config, whole: Path, tmp_path: Path
) -> None:
    output, toml = tmp_path / "run", tmp_path / "run.toml"
    toml.write_text(
        'task = { name = "addition", digits = { 1 = 1, 2 = 1 } }\n'
        + "\n".join(
            f"[{section}]\n" + "\n".join(f"{key} = {value}" for key, value in values.items())
            for section, values in document(table).items()
            if isinstance(values, dict) and section != "task"
        )
    )
    train_until(config, output, 2)
    before = contents(output)
    room = (output / "metrics.jsonl").stat().st_size + 10  # not enough for another line, and too little for a model
    arguments = ["--config", str(toml), "--table", str(table), "--output", str(output), "--resume", "--quiet"]
    process = subprocess.run(
        [sys.executable, "-c", FULL, *arguments, str(room)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1, process.stderr
    assert "step 3 could not be written ([Errno 27] File too large" in process.stderr
    assert process.stderr.endswith("the last checkpoint is intact: make room and go on with --resume\n")
    assert process.stderr.count("\n") == 1
    after = contents(output)
    assert {name: data for name, data in after.items() if name != "metrics.jsonl"} == {
        name: data for name, data in before.items() if name != "metrics.jsonl"
    }
    train(config, output, resume=True, quiet=True)
    assert_same_run(whole, output)


@pytest.mark.parametrize("function", ["save_file", "save_policy"])
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    config: Config, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    work, output = getattr(rl.run.checkpoint, function), tmp_path / "run"

    def fail(first: Any, path: Path) -> None:
        if "step-000004" in str(path):
            raise SafetensorError("I/O error:\nNo space left on device")
        work(first, path)

    with monkeypatch.context() as patch:
        patch.setattr(rl.run.checkpoint, function, fail)
        with pytest.raises(StorageError, match=r"^step 4 could not be written \(I/O error: No space left on device\)"):
            train(config, output, quiet=True)
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-000002"]
    train(config, output, resume=True, quiet=True)
    assert_same_run(whole, output)


def test_weights_that_are_not_finite_stop_the_run(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def explode(self: torch.optim.AdamW) -> None:
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(math.inf)

    monkeypatch.setattr(torch.optim.AdamW, "step", explode)
    monkeypatch.setattr(rl.train, "make_start_model", fresh_start)
    with pytest.raises(DivergenceError, match="step 1: a weight is not finite"):
        train(config, tmp_path / "run", quiet=True)


def fresh_start(config: Config, folder: Path, **_: object) -> None:
    """A start model without a supervised phase."""
    with whole_folder(folder) as partial:
        rl.train.save_policy(new_policy(config.model, build_teaching_task(config.task).alphabet, seed=0), partial)


def test_a_table_for_other_groups_is_refused(table: Path, tmp_path: Path) -> None:
    settings = document(table)
    settings["rollout"] = {**settings["rollout"], "group_size": 8}
    with pytest.raises(TableError, match="group_size"):
        train(parse_config(settings), tmp_path / "run", quiet=True)
    with pytest.raises(UsageError, match="no weight table"):
        train(parse_config({**document(table), "table": None}), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_start_model_for_another_task_is_refused(table: Path, tmp_path: Path) -> None:
    fresh_start(parse_config(document(table)), tmp_path / "start")
    settings = {
        **document(table),
        "start_model": str(tmp_path / "start"),
        "task": {"name": "countdown", "numbers": {"2": 1}, "largest_number": 9, "largest_target": 50},
    }
    with pytest.raises(UsageError, match="cannot write all of"):
        train(parse_config(settings), tmp_path / "run", quiet=True)
    with pytest.raises(UsageError, match=r"start_model '.*absent' is no folder here"):
        train(parse_config({**settings, "start_model": str(tmp_path / "absent")}), tmp_path / "other", quiet=True)


def test_an_output_that_cannot_be_written_is_refused(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        train(config, tmp_path / "file" / "run", quiet=True)


def test_optimizer_state_comes_back_whole(config: Config, whole: Path) -> None:
    latest = latest_checkpoint(whole / "checkpoints")
    assert latest is not None
    policy = load_policy(latest / "model")
    optimizer = rl.train.new_optimizer(policy, config.optimizer)
    rl.run.checkpoint.load_optimizer_state(latest, policy, optimizer)
    saved = load_file(latest / "optimizer.safetensors")
    names = {name for name, _ in policy.model.named_parameters()}
    assert {key.split("/", 1)[1] for key in saved} == names
    assert {key.split("/", 1)[0] for key in saved} == {"step", "exp_avg", "exp_avg_sq"}
    assert len(optimizer.state) == len(names)
