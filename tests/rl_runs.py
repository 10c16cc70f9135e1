"""Runs of a world so small that many fit into a test: an addition task, a model of a thousand weights."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import rl.run.checkpoint
import rl.run.run
import rl.train
from rl.config import Config, parse_config
from rl.models.policy import new_policy, save_policy
from rl.records.metrics import read_metrics, read_timing
from rl.storage import whole_folder, write_checksums
from rl.supervised import make_start_model
from rl.tasks.registry import build_teaching_task
from rl.train import train
from weightopt.table import group_table

GROUP_SIZE = 4


STEPS = 5


@pytest.fixture(name="table", scope="module")
def fixture_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    """Every option that changes with the step; prompts come back, and the batch must be filled."""
    settings = document(table)
    changes: dict[str, Any] = {
        "start_model": None if start is None else str(start),
        "task": {"name": "addition", "digits": {"1": 1}},
        "supervised": {"steps": 40, "batch_size": 32, "solved_share": 1.0, "learning_rate": 1e-2, "stop_at": 0.3},
        "rollout": {"prompts_per_step": 8, "dynamic_sampling": True, "over_generation_limit": 4},
        "weighting": {"estimate": "leave-one-out"},
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


@pytest.fixture(name="config", scope="module")
def fixture_config(table: Path) -> Config:
    return parse_config(document(table))


@pytest.fixture(name="everything_on", scope="module")
def fixture_everything_on(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """A configuration with every option in use, and its run that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("everything")
    make_start_model(parse_config(everything(table, None)), folder / "start")
    config, output = parse_config(everything(table, folder / "start")), folder / "run"
    train(config, output, quiet=True)
    return config, output


@pytest.fixture(name="whole", scope="module")
def fixture_whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has interrupted."""
    output = tmp_path_factory.mktemp("whole") / "run"
    outcome = train(config, output, quiet=True)
    assert outcome.finished
    assert outcome.step == STEPS
    return output


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run but its seconds and their checksum, and what a diverged step has left."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in ("timing.jsonl", "records.json") and not path.name.startswith("diverged")
    }


def assert_same_run(one: Path, other: Path, *, but: Sequence[str] = ()) -> None:
    first, second = contents(one), contents(other)
    for name in but:
        first.pop(name)
        second.pop(name)
    assert first.keys() == second.keys()
    for name, data in first.items():
        assert data == second[name], name
    steps = list(range(1, len(read_metrics(one / "metrics.jsonl").steps) + 1))
    assert [record.step for record in read_timing(one / "timing.jsonl")] == steps
    assert [record.step for record in read_timing(other / "timing.jsonl")] == steps


class KilledError(BaseException):
    """Stands for the end of the process: nothing in the loop may catch it."""


def train_until(config: Config, output: Path, step: int) -> None:
    """Stop after ``step`` as an interrupt does: the step is finished and a checkpoint is saved."""

    def interrupting(work: Callable[..., Any]) -> Callable[..., Any]:
        def learn(*arguments: Any, **options: Any) -> Any:
            nonlocal step
            step -= 1
            if step == 0:
                os.kill(os.getpid(), signal.SIGINT)
            return work(*arguments, **options)

        return learn

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl.train, "learn", interrupting(rl.train.learn))
        wanted = step
        outcome = train(config, output, quiet=True)
    assert not outcome.finished
    assert outcome.step == wanted


def fresh_start(config: Config, folder: Path, **_: object) -> None:
    """A start model without a supervised phase."""
    with whole_folder(folder) as partial:
        save_policy(new_policy(config.model, build_teaching_task(config.task).alphabet, seed=0), partial)
        write_checksums(partial)
