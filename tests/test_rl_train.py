"""The loop as a whole: same seed, same bytes; stopped and resumed, the same bytes; trouble stops it cleanly."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import rl.checkpoint
import rl.train
from rl.checkpoint import latest_checkpoint, whole_folder
from rl.config import Config, parse_config
from rl.errors import DivergenceError, UsageError
from rl.metrics import read_metrics, read_timing
from rl.model import load_policy, new_policy
from rl.supervised import make_start_model
from rl.tasks.registry import build_task
from rl.train import train
from weightopt.table import TableError, group_table

GROUP_SIZE = 4
STEPS = 5


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The loop sets the number of threads of the process; put it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "linear-r.json"
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


@pytest.fixture(scope="module")
def config(table: Path) -> Config:
    return parse_config(document(table))


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has interrupted."""
    output = tmp_path_factory.mktemp("whole") / "run"
    outcome = train(config, output, quiet=True)
    assert outcome.finished
    assert outcome.step == STEPS
    return output


def assert_same_run(one: Path, other: Path) -> None:
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    for name in ("model/model.safetensors", f"checkpoints/step-{STEPS:06d}/optimizer.safetensors", "run.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert [record.step for record in read_timing(one / "timing.jsonl")] == list(range(1, STEPS + 1))
    assert [record.step for record in read_timing(other / "timing.jsonl")] == list(range(1, STEPS + 1))


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
STAGES = ["training_prompts", "verify", "learn", "append_record", "evaluate", "save_checkpoint", "make_start_model"]


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
    save_file = rl.checkpoint.save_file

    def half_written(tensors: dict[str, torch.Tensor], path: Path) -> None:
        save_file(tensors, path)
        if "step-000004" in str(path):
            path.write_bytes(path.read_bytes()[:100])
            shutil.copytree(path.parent, output / "what the kill left")
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(rl.checkpoint, "save_file", half_written)
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


def test_a_process_killed_by_the_system_resumes_bit_for_bit(
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
    command = [sys.executable, "-m", "rl.train", "--config", str(toml), "--table", str(table), "--output", str(output)]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        limit = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < limit:
            if (output / "checkpoints" / "step-000002").exists():
                break
            time.sleep(0.001)
    finally:
        process.kill()
        _, errors = process.communicate()
    assert (output / "checkpoints").is_dir(), errors.decode()
    outcome = train(config, output, resume=True, quiet=True)
    assert outcome.finished
    assert_same_run(whole, output)


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(config: Config, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    shutil.copytree(whole, output)
    assert train(config, output, resume=True, quiet=True).finished
    assert_same_run(whole, output)


def test_what_a_run_leaves(config: Config, whole: Path) -> None:
    assert sorted(path.name for path in whole.iterdir()) == [
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
    task = build_task(config.task)
    assert load_policy(whole / "model").encode(task.alphabet)


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


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_the_run(
    config: Config, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    look_up, calls = rl.train.look_up_advantages, 0

    def broken(*arguments: Any) -> np.ndarray:
        nonlocal calls
        calls += 1
        advantages = look_up(*arguments)
        return np.full_like(advantages, value) if calls == 4 else advantages

    with monkeypatch.context() as patch:
        patch.setattr(rl.train, "look_up_advantages", broken)
        with pytest.raises(DivergenceError, match=r"step 4: the gradient is not finite .* last checkpoint is intact"):
            train(config, tmp_path / "run", quiet=True)
    train(config, tmp_path / "run", resume=True, quiet=True)
    assert_same_run(whole, tmp_path / "run")


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
        rl.train.save_policy(new_policy(config.model, build_task(config.task).alphabet, seed=0), partial)


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
    with pytest.raises(UsageError, match=r"has no readable model\.safetensors"):
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
    rl.checkpoint.load_optimizer_state(latest, policy, optimizer)
    saved = load_file(latest / "optimizer.safetensors")
    names = {name for name, _ in policy.model.named_parameters()}
    assert {key.split("/", 1)[1] for key in saved} == names
    assert {key.split("/", 1)[0] for key in saved} == {"step", "exp_avg", "exp_avg_sq"}
    assert len(optimizer.state) == len(names)
