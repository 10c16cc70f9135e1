"""Worlds so small that many runs fit into a test: an addition task, a model of a few thousand weights.

The fixtures that train in them are in `conftest.py`.
"""

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import pytest

import rl.train
from rl.config import Config
from rl.models.config import ModelConfig
from rl.models.policy import Policy, new_policy, save_policy
from rl.records.metrics import read_metrics, read_timing
from rl.storage import whole_folder, write_checksums
from rl.tasks.registry import build_teaching_task
from rl.train import train

GROUP_SIZE = 4
STEPS = 5
MODEL = {"layers": 1, "hidden_size": 16, "intermediate_size": 24, "heads": 2, "context": 16}


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some keys of their sections changed; a task is replaced, since its keys depend on its name."""
    whole = dict(settings)
    for name, value in changes.items():
        part_of = isinstance(value, Mapping) and name in settings and name != "task"
        whole[name] = {**settings[name], **value} if part_of else value
    return whole


def document(table: Path, **changes: Any) -> dict[str, Any]:
    """The configuration of a run of a second or less, with some keys of its sections changed."""
    world = {
        "table": str(table),
        "task": {"name": "addition", "digits": {"1": 1, "2": 1}},
        "model": MODEL,
        "supervised": {"steps": 3, "batch_size": 8, "check_every": 2},
        "rollout": {"prompts_per_step": 4, "group_size": GROUP_SIZE, "max_new_tokens": 4},
        "optimizer": {"learning_rate": 1e-2, "max_grad_norm": 0.5, "tokens_per_micro_batch": 40},
        "training": {"steps": STEPS, "evaluate_every": 2, "checkpoint_every": 2},
        "evaluation": {"prompts": 4, "samples": 2},
    }
    return merged(world, changes)


def toml_of(settings: Mapping[str, Any]) -> str:
    """A configuration as TOML, in which JSON's numbers, strings and lists mean the same."""

    def written(value: Any) -> str:
        if isinstance(value, Mapping):
            return "{ " + ", ".join(f"{key} = {written(inner)}" for key, inner in value.items()) + " }"
        return json.dumps(value)

    return "".join(f"{key} = {written(value)}\n" for key, value in settings.items())


def tiny_policy(alphabet: str = "ab", *, seed: int = 3, **shape: Any) -> Policy:
    """Untrained; with an ``initializer_range`` of 0.3 and more its next-token distributions are far from uniform."""
    return new_policy(ModelConfig.model_validate({**MODEL, **shape}), alphabet, seed=seed)


def everything(table: Path, start: Path | None) -> dict[str, Any]:
    """Every option that changes with the step; prompts come back, and the batch must be filled."""
    changes: dict[str, Any] = {
        "start_model": None if start is None else str(start),
        "task": {"name": "addition", "digits": {"1": 1}},
        "supervised": {"steps": 40, "batch_size": 32, "solved_share": 1.0, "learning_rate": 1e-2, "stop_at": 0.3},
        "rollout": {"prompts_per_step": 8, "dynamic_sampling": True, "over_generation_limit": 4},
        "optimizer": {
            "warmup_steps": 2,
            "mini_batches": 2,
            "epochs": 2,
            "clip_low": 0.2,
            "clip_high": 0.28,
        },
        "training": {"keep_checkpoints": 2, "rollout_share": 0.5},
        "evaluation": {"samples": 3, "pass_at": [1, 2, 3], "greedy": True},
        "later_tables": [{"from_step": 3, "table": str(table.with_name(f"rloo-{GROUP_SIZE}.json"))}],
    }
    return document(table, **changes)


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


def at_call(
    work: Callable[..., Any], number: int, happens: Callable[[], object], *, after: bool = False
) -> Callable[..., Any]:
    """A function that does what ``work`` does; in its call of that number something happens before, or after it."""
    calls = count(1)

    def called(*arguments: Any, **options: Any) -> Any:
        now = next(calls) == number
        if now and not after:
            happens()
        answer = work(*arguments, **options)
        if now and after:
            happens()
        return answer

    return called


def raising(error: BaseException | type[BaseException]) -> Callable[[], NoReturn]:
    def happens() -> NoReturn:
        raise error

    return happens


def train_until(config: Config, output: Path, step: int) -> None:
    """Stop after ``step`` as an interrupt does: the step is finished and a checkpoint is saved."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl.train, "learn", at_call(rl.train.learn, step, lambda: os.kill(os.getpid(), signal.SIGINT)))
        outcome = train(config, output, quiet=True)
    assert not outcome.finished
    assert outcome.step == step


def fresh_start(config: Config, folder: Path, **_: object) -> None:
    """A start model without a supervised phase."""
    with whole_folder(folder) as partial:
        save_policy(new_policy(config.model, build_teaching_task(config.task).alphabet, seed=0), partial)
        write_checksums(partial)
