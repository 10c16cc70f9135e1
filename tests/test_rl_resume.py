"""Going on with a run whose files are damaged or in use: one sentence, and nothing of it is touched."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import rl.run.checkpoint
import rl.run.lock
import rl.train
from rl import command
from rl.config import Config, load_config
from rl.errors import UsageError
from rl.records.layout import CHECKPOINTS, LOCK, latest_checkpoint
from rl.records.metrics import read_metrics
from rl.run.checkpoint import kept_steps, prune
from rl.run.folder import run_folder
from rl.run.lock import check_unlocked, locked
from rl.train import train

ROOT = Path(__file__).parent.parent
SAVED = Path(CHECKPOINTS) / "step-000004"
OPTIMIZER, STATE = SAVED / "optimizer.safetensors", SAVED / "state.json"
METRICS, TIMING, ROLLOUTS = Path("metrics.jsonl"), Path("timing.jsonl"), Path("rollouts.jsonl")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def toml(tmp_path_factory: pytest.TempPathFactory, table_file: Callable[[str, int], Path]) -> Path:
    path = tmp_path_factory.mktemp("resume") / "run.toml"
    path.write_text(f"""
        table = {json.dumps(str(table_file("linear-r", 2)))}
        task = {{ name = "addition", digits = {{ 1 = 1 }} }}
        model = {{ layers = 1, hidden_size = 16, intermediate_size = 24, heads = 2, context = 16 }}
        supervised = {{ steps = 1, batch_size = 2 }}
        rollout = {{ prompts_per_step = 2, group_size = 2, max_new_tokens = 4 }}
        training = {{ steps = 4, evaluate_every = 2, checkpoint_every = 2, rollout_share = 1.0 }}
        evaluation = {{ prompts = 2, samples = 1 }}
    """)
    return path


@pytest.fixture(scope="module")
def finished(toml: Path) -> Path:
    """A run of four steps that has ended."""
    output = toml.parent / "finished"
    train(load_config(toml, []), output, quiet=True)
    return output


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def longer(toml: Path) -> Config:
    return load_config(toml, ["training.steps=5"])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def half(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: len(lines) // 2]))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def line(text: bytes) -> Callable[[Path], None]:
    """Puts a line in the place of the third."""

    def put(path: Path) -> None:
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*lines[:2], text + b"\n", *lines[3:]]))

    return put


def without(kind: str, step: int) -> Callable[[Path], None]:
    def drop(path: Path) -> None:
        lines = [json.loads(text) for text in path.read_text().splitlines()]
        kept = [each for each in lines if (each["kind"], each["step"]) != (kind, step)]
        assert len(kept) == len(lines) - 1
        path.write_text("".join(json.dumps(each) + "\n" for each in kept))

    return drop


def replaced(before: str, after: str) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))

    return put


def twice(path: Path) -> None:
    path.write_bytes(2 * path.read_bytes())


def other_state(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return put


def without_norms(tensors: dict[str, torch.Tensor]) -> None:
    for key in [key for key in tensors if "norm" in key]:
        del tensors[key]


DAMAGE = [
    (OPTIMIZER, cut, r"file '.*step-000004/optimizer\.safetensors' is damaged \("),
    (OPTIMIZER, empty, r"file '.*step-000004/optimizer\.safetensors' is damaged \("),
    (OPTIMIZER, Path.unlink, r"file '.*step-000004/optimizer\.safetensors' is missing"),
    (
        OPTIMIZER,
        other_state(lambda tensors: tensors.update({"exp_avg/foreign": torch.zeros(1)})),
        r"its optimizer\.safetensors is not that of its model: 'exp_avg/foreign'",
    ),
    (
        OPTIMIZER,
        other_state(without_norms),
        r"its optimizer\.safetensors is not that of its model: 'exp_avg/model\.layers\.0\.input_layernorm",
    ),
    (
        OPTIMIZER,
        other_state(lambda tensors: tensors.update({"exp_avg/lm_head.weight": torch.zeros(1)})),
        r"its optimizer\.safetensors is not that of its model: 'exp_avg/lm_head\.weight'",
    ),
    (SAVED / "model" / "model.safetensors", cut, r"file '.*step-000004/model/model\.safetensors' is damaged \("),
    (STATE, Path.unlink, r"its state\.json cannot be read"),
    (STATE, replaced('"step": 4', '"step": "4"'), r"its state\.json is not one that a run has written"),
    (STATE, replaced('"visits": {}', '"visits": {"a": 3}'), r"its state\.json is not one that a run has written"),
    (STATE, replaced('"groups"', '"grps"'), r"its state\.json is not one that a run has written"),
    (STATE, replaced('"step": 4', '"step": 99'), r"its state\.json is that of step 99"),
    (STATE, replaced("rl.checkpoint/3", "rl.checkpoint/2"), r"another version wrote it"),
    (METRICS, line(b"\xff\xfe"), r"metrics\.jsonl: line 3 is not JSON"),
    (METRICS, line(b"[" * 100_000), r"metrics\.jsonl: line 3 is not JSON"),
    (METRICS, line(b"3"), r"metrics\.jsonl: line 3 is no record"),
    (METRICS, line(b"{}"), r"metrics\.jsonl: line 3 is no record"),
    (METRICS, line(b'{"kind": "weather", "step": 1}'), r"metrics\.jsonl: line 3 is of unknown kind 'weather'"),
    (METRICS, line(b'{"kind": "step", "step": 2}'), r"metrics\.jsonl: line 3 has other keys"),
    (METRICS, replaced('"finished"', '"finish"'), r"metrics\.jsonl: line 1 has other keys .*: 'finish'"),
    (METRICS, replaced('"tokens": ', '"tokens": -0.5e'), r"metrics\.jsonl: line 2 has a 'tokens' that cannot be one"),
    (METRICS, half, r"metrics\.jsonl lacks step 3, and the checkpoint is of step 4"),
    (METRICS, empty, r"metrics\.jsonl lacks step 1"),
    (METRICS, Path.unlink, r"metrics\.jsonl lacks step 1"),
    (METRICS, without("step", 2), r"metrics\.jsonl lacks step 2"),
    (METRICS, without("evaluation", 0), r"metrics\.jsonl lacks the evaluation of step 0"),
    (METRICS, without("evaluation", 4), r"metrics\.jsonl lacks the evaluation of step 4"),
    (METRICS, twice, r"metrics\.jsonl has its steps twice"),
    (TIMING, line(b'{"kind": "timing", "step": 2}'), r"timing\.jsonl: line 3 has other keys"),
    (ROLLOUTS, line(b'{"step": "3"}'), r"rollouts\.jsonl: line 3 is no record"),
]


@pytest.mark.parametrize(("name", "damage", "sentence"), DAMAGE)
def test_damage_is_one_sentence_and_nothing_is_touched(
    run: Path, longer: Config, name: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    damage(run / name)
    before = contents(run)
    with pytest.raises(UsageError, match=sentence) as caught:
        train(longer, run, resume=True, quiet=True)
    assert "\n" not in str(caught.value)
    assert contents(run) == before


def test_damage_is_exit_status_2(run: Path, toml: Path, invoke: Callable[..., Any]) -> None:
    cut(run / OPTIMIZER)
    result = invoke(
        command.train, "--config", toml, "--output", run, "--resume", "--quiet", "--set", "training.steps=5"
    )
    assert result.exit_code == 2
    assert "optimizer.safetensors' is damaged" in result.stderr
    assert result.stderr.count("\n") == 1


def test_what_is_whole_is_prolonged(run: Path, longer: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    told, open_trackers = [], rl.train.open_trackers

    def opened(config: Config, output: Path, **how: Any) -> Any:
        told.append(json.loads((output / "run.json").read_text())["config"]["training"]["steps"])
        return open_trackers(config, output, **how)

    monkeypatch.setattr(rl.train, "open_trackers", opened)
    (run / CHECKPOINTS / "step-000009").write_text("a file that somebody has left there")
    train(longer, run, resume=True, quiet=True)
    assert [record.step for record in read_metrics(run / METRICS).steps] == [1, 2, 3, 4, 5]
    assert told == [5]
    assert (run / CHECKPOINTS / "step-000009").is_file()
    latest = latest_checkpoint(run / CHECKPOINTS)
    assert latest is not None
    assert latest.name == "step-000005"
    assert kept_steps(run / CHECKPOINTS, count=9, every=1, last=9) == {5, 9}
    prune(run / CHECKPOINTS, lambda _: False)
    assert [path.name for path in (run / CHECKPOINTS).iterdir()] == ["step-000009"]


def test_records_may_be_ahead_of_the_checkpoint(run: Path, finished: Path, toml: Path) -> None:
    """Without its checkpoints a run begins again, as one that was killed before it saved the first."""
    shutil.rmtree(run / CHECKPOINTS)
    train(load_config(toml, []), run, resume=True, quiet=True)
    before, after = contents(finished), contents(run)
    before.pop(TIMING.name)
    after.pop(TIMING.name)
    assert before == after


def test_another_process_is_kept_out(run: Path, longer: Config, toml: Path, invoke: Callable[..., Any]) -> None:
    before = contents(run)
    arguments = ["--config", toml, "--output", run, "--resume", "--quiet"]
    with locked(run):
        for more in ([], ["--dry-run"]):
            result = invoke(command.train, *arguments, *more)
            assert result.exit_code == 2
            assert result.stderr == f"output {str(run)!r} is in use: another process trains there\n"
        assert (run / LOCK).exists()
    assert contents(run) == before
    with run_folder(run, load_config(toml, []), described(run), resume=True), pytest.raises(UsageError, match="in use"):
        train(longer, run, resume=True, quiet=True)


def described(run: Path) -> dict[str, Any]:
    """What a run says of its tables."""
    about = json.loads((run / "run.json").read_text())
    return {key: about[key] for key in ("table", "later_tables") if key in about}


def test_two_processes_do_not_begin_one_run(toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, output = load_config(toml, []), tmp_path / "deep" / "run"

    def meanwhile(*_: object, **__: object) -> None:
        with pytest.raises(UsageError, match="is in use"):
            train(config, output, resume=True, quiet=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(rl.train, "make_start_model", meanwhile)
    with pytest.raises(KeyboardInterrupt):
        train(config, output, quiet=True)
    assert [path.name for path in output.iterdir()] == ["run.json"]


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from rl.run.lock import locked\n"
    code += "with locked(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    check_unlocked(tmp_path)
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_that_was_removed_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process before removes it between the opening and the locking of this one."""
    flock, calls = fcntl.flock, 0

    def late(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            (tmp_path / LOCK).unlink()
        flock(*arguments)

    monkeypatch.setattr(rl.run.lock.fcntl, "flock", late)
    with locked(tmp_path), pytest.raises(UsageError, match="is in use"):
        check_unlocked(tmp_path)
    assert calls == 3


def test_a_file_system_without_locks_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(rl.run.lock.fcntl, "flock", refuse)
    check_unlocked(tmp_path)
    with locked(tmp_path):
        check_unlocked(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("stage", "call", "sentence"),
    [
        ("build_teaching_task", 1, "interrupted; nothing was written"),
        ("make_start_model", 1, "interrupted before the first checkpoint; --resume starts from the beginning"),
        ("evaluate", 1, "interrupted before the first checkpoint; --resume starts from the beginning"),
        ("evaluate", 4, "interrupted after step 3, which is saved; go on with --resume"),
    ],
)
def test_a_signal_is_one_true_sentence(
    toml: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    invoke: Callable[..., Any],
    number: signal.Signals,
    stage: str,
    call: int,
    sentence: str,
) -> None:
    work, calls, before = getattr(rl.train, stage), 0, signal.getsignal(signal.SIGTERM)

    def struck(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
        return work(*arguments, **options)

    monkeypatch.setattr(rl.train, stage, struck)
    arguments = ["--config", toml, "--output", tmp_path / "run", "--quiet", "--set", "training.evaluate_every=1"]
    result = invoke(command.train, *arguments)
    assert result.exit_code == 130
    assert result.stderr == sentence + "\n"
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "run").exists() == (stage != "build_teaching_task")


def test_a_second_signal_says_where_resuming_begins(
    toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke: Callable[..., Any]
) -> None:
    work, calls = rl.train.learn, 0

    def struck(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return work(*arguments)

    monkeypatch.setattr(rl.train, "learn", struck)
    result = invoke(command.train, "--config", toml, "--output", tmp_path / "run", "--quiet")
    assert result.exit_code == 130
    assert result.stderr == "interrupted; --resume goes on after step 2, the last checkpoint\n"


def test_without_a_checkpoint_none_is_called_intact(
    toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke: Callable[..., Any]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rl.train, "append_record", full)
    result = invoke(command.train, "--config", toml, "--output", tmp_path / "run", "--quiet")
    assert result.exit_code == 1
    assert result.stderr == (
        "step 0 could not be written ([Errno 28] No space left on device); there is no checkpoint yet: "
        "make room and go on with --resume\n"
    )
