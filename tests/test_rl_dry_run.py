"""A dry run: it says what a run would be, counts bytes that are right, and leaves nothing behind."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from rl import command
from rl.config import ModelConfig, parse_config
from rl.dry_run import dry_run, report
from rl.models.policy import new_policy, save_policy
from rl.seeds import derive_seed
from rl.tasks.registry import build_teaching_task
from rl.tasks.split import training_prompts
from weightopt.table import group_table

GROUP_SIZE = 4


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    table = tmp_path / "table.json"
    group_table(
        lambda rho: 1 / rho, GROUP_SIZE, name="linear-r", label="x", all_wrong_advantage=-1.0, all_right_advantage=0.0
    ).save(table)
    return {
        "table": str(table),
        "task": {"name": "addition", "digits": {"1": 1}},
        "model": {"layers": 2, "hidden_size": 16, "intermediate_size": 24, "heads": 2, "context": 16},
        "rollout": {"prompts_per_step": 8, "group_size": GROUP_SIZE, "max_new_tokens": 4},
        "optimizer": {"tokens_per_micro_batch": 100},
        "training": {"steps": 5, "evaluate_every": 2},
        "evaluation": {"prompts": 4, "samples": 2},
    }


def with_start(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    config = parse_config(document)
    policy = new_policy(
        ModelConfig(**document["model"]), build_teaching_task(config.task).alphabet, seed=derive_seed(0, "model")
    )
    save_policy(policy, folder)
    return {**document, "start_model": str(folder)}


def test_what_is_counted(document: dict[str, Any], tmp_path: Path) -> None:
    config = parse_config(with_start(document, tmp_path / "start"))
    found = dry_run(config)
    embedding, blocks = 14 * 16, 2 * (4 * 16 * 16 + 3 * 16 * 24 + 2 * 16)
    assert found.parameters == found.trained == embedding + blocks + 16
    memory = found.memory
    assert memory.weights == memory.gradients == memory.sampler == 4 * found.parameters
    assert memory.optimizer == 8 * found.parameters
    assert memory.together == sum(
        (memory.weights, memory.gradients, memory.optimizer, memory.sampler, memory.activations, memory.logits)
    )
    assert 0 < memory.logits <= 4 * 4 * 100 * 14
    # A residual stream, two norms, q, k, v, the attention's and the MLP's products, in each of two layers: of the
    # order of 20 vectors of width 16 to 24 a token, and a micro-batch has 100 tokens.
    assert 2 * 10 * 16 * 4 * 100 < memory.activations < 2 * 60 * 24 * 4 * 100
    seconds = found.seconds
    assert min(seconds.sampling, seconds.learning, seconds.updating, seconds.evaluation) > 0
    assert found.groups == 4
    prompts = training_prompts(build_teaching_task(config.task), count=8, seed=derive_seed(0, "prompts", 1))
    assert found.prompts == tuple(prompt.text for prompt in prompts[:3])
    assert found.verdict is None


def test_only_an_adapter_has_gradients(document: dict[str, Any], tmp_path: Path) -> None:
    config = parse_config({**with_start(document, tmp_path / "start"), "lora": {"rank": 1}})
    found = dry_run(config)
    # q, k, v, o: 16 + 16; gate, up, down: 16 + 24; in each of two layers.
    assert found.trained == 2 * (4 * 32 + 3 * 40)
    assert found.memory.gradients == 4 * found.trained
    assert found.memory.optimizer == 8 * found.trained
    # The sampler has the adapter merged in.
    assert found.memory.sampler == 4 * (found.parameters - found.trained) == found.memory.weights - 4 * found.trained


def test_fewer_logits_at_once_are_less_memory(document: dict[str, Any], tmp_path: Path) -> None:
    started = with_start(document, tmp_path / "start")
    whole = dry_run(parse_config(started)).memory
    pieces = dry_run(parse_config({**started, "policy": {"logits_at_once": 30}})).memory
    assert pieces.logits == 4 * 4 * 30 < whole.logits
    assert pieces.activations < whole.activations


def test_the_command_prints_and_writes_nothing(document: dict[str, Any], tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(command.train)
    path = tmp_path / "run.toml"
    path.write_text('[task]\nname = "addition"\ndigits = { 1 = 1 }\n')
    changes = [
        f"{section}.{key}={json.dumps(value)}"
        for section in ("model", "rollout", "optimizer", "training", "evaluation")
        for key, value in document[section].items()
    ]
    arguments = ["--config", str(path), "--table", document["table"], "--dry-run"]
    for change in changes:
        arguments += ["--set", change]
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(app, [*arguments, "--answer", "nonsense"])
    assert result.exit_code == 0, result.stderr
    for part in ("parameters", "memory: ", "s a step", "no start model is given"):
        assert part in result.stdout
    assert "the answer given to prompt 1 is wrong" in result.stdout
    first = next(line for line in result.stdout.splitlines() if line.startswith("prompt 1: "))
    left, right = first.removeprefix("prompt 1: ").strip("'").rstrip("=").split("+")
    solution = str(int(left) + int(right))
    result = CliRunner().invoke(app, [*arguments, "--answer", solution, "--json"])
    assert json.loads(result.stdout)["verdict"] == "is right"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--answer", "4", "--output", "o"), "--answer goes with --dry-run\n"),
        ((), "Missing option '--output'.\n"),
        (("--dry-run",), "no weight table is given"),
    ],
)
def test_misuse_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    app = typer.Typer()
    app.command()(command.train)
    path = tmp_path / "run.toml"
    path.write_text('[task]\nname = "addition"\ndigits = { 1 = 1 }\n')
    result = CliRunner().invoke(app, ["--config", str(path), *arguments])
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def test_long_runs_are_told_in_hours(document: dict[str, Any], tmp_path: Path) -> None:
    config = parse_config({**with_start(document, tmp_path / "start"), "training": {"steps": 10**9}})
    assert any(" h" in line for line in report(dry_run(config), config))
