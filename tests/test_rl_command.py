"""The command: one sentence and an exit status for whatever goes wrong, and nothing heavy before it is needed."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import rl.train
from rl import command
from rl.errors import DivergenceError, StorageError
from rl.records.metrics import EvaluationRecord
from rl.train import Outcome
from weightopt.table import group_table

ROOT = Path(__file__).parent.parent
CONFIG = """
[task]
name = "addition"
digits = { 1 = 1, 2 = 1 }
[model]
layers = 1
hidden_size = 16
intermediate_size = 24
heads = 2
context = 16
[supervised]
steps = 1
batch_size = 2
[rollout]
prompts_per_step = 2
group_size = 2
max_new_tokens = 4
[training]
steps = 1
[evaluation]
prompts = 2
samples = 1
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "a 'table'.json"
    group_table(
        lambda rho: 1 + 0 * rho, 2, name="rloo", label="RLOO", all_wrong_advantage=0.0, all_right_advantage=0.0
    ).save(path)
    return path


def invoke(function, *arguments: object):
    app = typer.Typer()
    app.command()(function)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_run_from_the_command_line(config: Path, table: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    result = invoke(command.train, "--config", config, "--table", table, "--output", output, "--set", "seed=3")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("held-out success") == 4  # supervised, step 0, step 1, outcome
    assert (output / "model" / "model.safetensors").is_file()
    arguments = ["--config", config, "--table", table, "--output", output, "--resume", "--quiet"]
    result = invoke(command.train, *arguments)
    assert result.exit_code == 2
    assert "'seed' was 3 and is now 0" in result.stderr
    more = ["--set", "seed=3", "--set", "training.steps=2", "--set", "training.checkpoint_every=20", "--keep", "2"]
    result = invoke(command.train, *arguments, *more)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("step 2: ")
    assert '"keep_checkpoints": 2' in (output / "run.json").read_text()
    result = invoke(command.train, *arguments, *more, "--keep", "0")
    assert result.exit_code == 2
    assert "'training.keep_checkpoints' is 0: " in result.stderr


def test_a_start_model_from_the_command_line(config: Path, table: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    result = invoke(command.supervise, "--config", config, "--output", start, "--quiet")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("start model after 1 steps: held-out success ")
    arguments = ["--config", config, "--table", table, "--set", f"start_model={start}", "--quiet"]
    result = invoke(command.train, *arguments, "--output", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert not (tmp_path / "run" / "start").exists()
    result = invoke(command.supervise, "--config", config, "--output", start, "--quiet")
    assert result.exit_code == 2
    assert result.stderr == f"output {str(start)!r} exists: name another folder for the start model\n"
    result = invoke(command.supervise, "--config", config, "--output", config / "start", "--quiet")
    assert result.exit_code == 2
    assert f"output {str(config / 'start')!r} cannot be written: " in result.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "no weight table is given"),
        (("--table", "absent.json"), "absent.json: cannot be read"),
        (("--table", "TABLE", "--set", "rollout.group_size=8"), "'group_size' is 2 but 8 responses"),
        (("--table", "TABLE", "--set", "task.name=chess"), "must be one of 'addition', 'countdown'"),
        (("--table", "TABLE", "--set", "optimiser.learning_rate=1"), "the nearest is 'optimizer'"),
        (("--table", "TABLE", "--set", "training.steps=0"), "greater than or equal to 1"),
        (("--table", "TABLE", "--set", "start_model=absent"), "'absent' has no readable model.safetensors"),
        (("--table", "TABLE", "--output", "TABLE/run"), "cannot be written: Not a directory"),
        (("--table", "TABLE", "--set", "evaluation.prompts=100000"), "evaluation.prompts is 100000, but"),
        (("--table", "TABLE", "--config", "absent.toml"), "config 'absent.toml' cannot be read"),
        (("--table", "TABLE", "--set", "model.context=8", "--set", "rollout.max_new_tokens=7"), "context of 8: lower"),
        (("--table", "TABLE", "--set", "later_tables=[{from_step=2, table='no.json'}]"), "no.json: cannot be read"),
        (("--table", "TABLE", "--set", "weighting.all_wrong=hold"), "all_wrong_after goes with"),
    ],
)
def test_misuse_is_status_2_and_one_sentence(
    config: Path, table: Path, tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    filled = [option.replace("TABLE", str(table)) for option in options]
    result = invoke(command.train, "--config", config, "--output", tmp_path / "run", *filled)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


EVALUATION = EvaluationRecord(
    step=0,
    responses_so_far=0,
    success=0.5,
    success_low=0.4,
    success_high=0.6,
    by_difficulty={},
    prompts=2,
    samples=1,
    temperature=1.0,
)


@pytest.mark.parametrize(
    ("answer", "status", "sentence"),
    [
        (
            Outcome(step=7, finished=False, evaluation=EVALUATION),
            130,
            "interrupted after step 7, which is saved",
        ),
        (KeyboardInterrupt(), 130, "--resume goes on after the last checkpoint"),
        (DivergenceError("step 3: the gradient is not finite"), 1, "step 3: the gradient is not finite"),
        (StorageError("step 3 could not be written (no room)"), 1, "step 3 could not be written"),
    ],
)
def test_how_a_run_ends_is_the_exit_status(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: object, status: int, sentence: str
) -> None:
    def run(*_: object, **__: object) -> object:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(rl.train, "train", run)
    result = invoke(command.train, "--config", config, "--output", tmp_path / "run")
    assert result.exit_code == status
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("missing", ["torch", "transformers", "safetensors"])
def test_a_missing_extra_is_named_with_the_install_line(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['train', '--config', 'c', '--output', 'o']; "
    result = python("-c", code + "import runpy; runpy.run_module('rl.train', run_name='__main__')")
    assert result.returncode == 2
    assert result.stderr == f"training needs {missing}, which is not installed: pip install 'weightopt[rl]'\n"


def test_another_missing_package_is_a_defect_and_shows_itself() -> None:
    result = python(
        "-c", "import sys; sys.modules['weightopt.table'] = None; from rl import command; command.train('c', 'o')"
    )
    assert result.returncode == 1
    assert "ModuleNotFoundError" in result.stderr


def test_what_loads_without_torch() -> None:
    light = "rl.command, rl.config, rl.records.metrics, rl.rollout, rl.success, rl.advantage, rl.evaluate"
    light += ", rl.tasks.registry"
    result = python("-c", f"import sys, {light}; print(*(sys.modules.keys() & {{'torch', 'transformers', 'scipy'}}))")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "\n"


def test_the_command_imports_nothing_heavy() -> None:
    result = python(
        "-c", "import sys, rl.command; print(*(sys.modules.keys() & {'torch', 'numpy', 'pydantic', 'weightopt.table'}))"
    )
    assert result.stdout == "\n"
