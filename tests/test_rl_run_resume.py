"""Going on with a run whose files are damaged or in use: one sentence, and nothing of it is touched."""

import errno
import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import rl.run.checkpoint
import rl.run.lock
import rl.run.prepare
import rl.run.run
import rl.train
from rl import command
from rl.config import Config, load_config
from rl.errors import UsageError
from rl.records.layout import CHECKPOINTS, LOCK, latest_checkpoint
from rl.records.metrics import read_metrics
from rl.run.check import check
from rl.run.checkpoint import kept_steps, prune
from rl.run.config import TrackingConfig
from rl.run.folder import ABOUT, run_folder
from rl.run.lock import check_unlocked, locked
from rl.run.prepare import prepare
from rl.run.records import Records
from rl.storage import write_checksums
from rl.train import train
from tests.amounts import some_of
from tests.worlds import document, toml_of
from weightopt.cli import main
from weightopt.commands.tables import check as check_file

ROOT = Path(__file__).parent.parent
SAVED = Path(CHECKPOINTS) / "step-000004"
OPTIMIZER, STATE = SAVED / "optimizer.safetensors", SAVED / "state.json"
METRICS, TIMING, ROLLOUTS = Path("metrics.jsonl"), Path("timing.jsonl"), Path("rollouts.jsonl")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def toml(tmp_path_factory: pytest.TempPathFactory, table_file: Callable[[str, int], Path]) -> Path:
    path = tmp_path_factory.mktemp("resume") / "run.toml"
    path.write_text(
        toml_of(
            document(
                table_file("linear-r", 2),
                task={"name": "addition", "digits": {"1": 1}},
                supervised={"steps": 1, "batch_size": 2},
                rollout={"prompts_per_step": 2, "group_size": 2},
                training={"steps": 4, "rollout_share": 1.0},
                evaluation={"prompts": 2, "samples": 1},
            )
        )
    )
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


def other_state(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return put


def without_norms(tensors: dict[str, torch.Tensor]) -> None:
    for key in [key for key in tensors if "norm" in key]:
        del tensors[key]


def flipped(path: Path) -> None:
    """One bit in the middle of the file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def summed_again(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """A change whose checksums have been brought up to date: it must be found in what it is."""

    def put(path: Path) -> None:
        change(path)
        write_checksums(path.parent)

    return put


def state(**changes: Any) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return put


NOT_OURS = r"its state\.json is not one that a run has written"
DAMAGE = [
    *(
        (file, change, rf"its {name} is {what}")
        for file, name in (
            (OPTIMIZER, r"optimizer\.safetensors"),
            (SAVED / "model" / "model.safetensors", r"model/model\.safetensors"),
        )
        for change, what in ((cut, "damaged"), (empty, "damaged"), (flipped, "damaged"), (Path.unlink, "missing"))
    ),
    (SAVED / "model" / "config.json", replaced("16", "32"), r"its model/config\.json is damaged"),
    (SAVED / "SHA256SUMS", Path.unlink, r"its SHA256SUMS cannot be read"),
    (SAVED / "SHA256SUMS", empty, r"its model/config\.json was not written by the run"),
    (Path("start") / "model.safetensors", flipped, r"run/start': its model\.safetensors is damaged"),
    (
        OPTIMIZER,
        summed_again(other_state(lambda tensors: tensors.update({"exp_avg/foreign": torch.zeros(1)}))),
        r"its optimizer\.safetensors is not that of its model: 'exp_avg/foreign'",
    ),
    (
        OPTIMIZER,
        summed_again(other_state(without_norms)),
        r"its optimizer\.safetensors is not that of its model: 'exp_avg/model\.layers\.0\.input_layernorm",
    ),
    (STATE, Path.unlink, r"its state\.json cannot be read"),
    (STATE, state(best_success=math.inf), r"its state\.json is not one that a run has written"),
    (STATE, state(step="4"), NOT_OURS),
    (STATE, state(best_success=2.0), NOT_OURS),
    (STATE, state(evaluated=-2), NOT_OURS),
    (STATE, replaced('"groups"', '"grps"'), NOT_OURS),
    (STATE, state(step=99), r"its state\.json is that of step 99"),
    (STATE, replaced("rl.checkpoint/4", "rl.checkpoint/3"), r"another version wrote it"),
    (STATE, state(best_success=0.5), r"its state\.json is damaged"),
    (SAVED / "records.json", cut, r"its records\.json cannot be read"),
    (SAVED / "records.json", replaced("timing.jsonl", "t.jsonl"), r"step 4 lacks checksums of records"),
    (METRICS, line(b"\xff\xfe"), r"metrics\.jsonl is not what the run had written"),
    (METRICS, line(b"[" * 100_000), r"metrics\.jsonl is not what the run had written"),
    (METRICS, replaced('"tokens": ', '"tokens": 1'), r"metrics\.jsonl is not what the run had written"),
    (METRICS, half, r"metrics\.jsonl has 3 of the 7 lines that the run had written, and the checkpoint is of step 4"),
    (METRICS, empty, r"metrics\.jsonl has 0 of the 7 lines"),
    (METRICS, Path.unlink, r"metrics\.jsonl is missing"),
    (METRICS, without("step", 2), r"metrics\.jsonl has 6 of the 7 lines"),
    (METRICS, without("evaluation", 4), r"metrics\.jsonl has 6 of the 7 lines"),
    (TIMING, replaced('"sampling": 0', '"sampling": 1'), r"timing\.jsonl is not what the run had written"),
    (ROLLOUTS, replaced('"step": 3', '"step": 2'), r"rollouts\.jsonl is not what the run had written"),
]


@pytest.mark.slow
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
    assert "its optimizer.safetensors is damaged" in result.stderr
    assert result.stderr.count("\n") == 1


def test_what_is_whole_is_prolonged(run: Path, longer: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    told, open_trackers = [], rl.run.run.Trackers

    def opened(config: TrackingConfig, output: Path, **how: Any) -> Any:
        told.append(json.loads((output / "run.json").read_text())["config"]["training"]["steps"])
        return open_trackers(config, output, **how)

    monkeypatch.setattr(rl.run.run, "Trackers", opened)
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
    for name in (TIMING, SAVED / "records.json"):  # with the checksum of the seconds
        before.pop(str(name))
        after.pop(str(name))
    assert before == after


@pytest.mark.parametrize("cosine_until", [None, 100])
def test_a_run_of_a_version_before_goes_on_unless_it_used_what_is_gone(
    run: Path, longer: Config, cosine_until: int | None
) -> None:
    about = json.loads((run / ABOUT).read_text(encoding="utf-8"))
    del about["config"]["rollout"]["include_stop"], about["config"]["sampler"]["threads"]
    about["config"]["optimizer"] |= {"cosine_until": cosine_until, "final_share": 0.1}
    about["config"]["kl"]["estimator"] = "score"
    about["config"]["weighting"]["estimate"] = "group"
    (run / ABOUT).write_text(json.dumps(about), encoding="utf-8")
    with nullcontext() if cosine_until is None else pytest.raises(UsageError, match="cosine_until' was 100"):
        train(longer, run, resume=True, quiet=True)


@pytest.mark.parametrize("change", ["sampler.ahead=cpu", "task.digits={1=1,2=5}"])
def test_what_a_run_never_had_is_no_key_of_a_version_before(run: Path, toml: Path, change: str) -> None:
    with pytest.raises(UsageError, match="was None and is now"):
        train(load_config(toml, [change]), run, resume=True, quiet=True)


def test_another_process_is_kept_out(run: Path, longer: Config, toml: Path, invoke: Callable[..., Any]) -> None:
    before = contents(run)
    arguments = ["--config", toml, "--output", run, "--resume", "--quiet"]
    with locked(run):
        for more in ([], ["--dry-run"]):
            result = invoke(command.train, *arguments, *more)
            assert result.exit_code == 2
            assert result.stderr == f"weightopt: output {str(run)!r} is in use: another process trains there.\n"
        assert (run / LOCK).exists()
    assert contents(run) == before
    config = load_config(toml, [])
    with run_folder(run, config, prepare(config), resume=True), pytest.raises(UsageError, match="in use"):
        train(longer, run, resume=True, quiet=True)


def test_two_processes_do_not_begin_one_run(toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, output = load_config(toml, []), tmp_path / "deep" / "run"

    def meanwhile(*_: object, **__: object) -> None:
        with pytest.raises(UsageError, match="is in use"):
            train(config, output, resume=True, quiet=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(rl.run.run, "make_start_model", meanwhile)
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


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as in a terminal; a shell lets the programs that it starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
@some_of("number", [signal.SIGINT, signal.SIGTERM], 1)
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
    owner = rl.run.prepare if stage == "build_teaching_task" else rl.run.run
    work, calls, before = getattr(owner, stage), 0, signal.getsignal(signal.SIGTERM)

    def struck(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
        return work(*arguments, **options)

    monkeypatch.setattr(owner, stage, struck)
    arguments = ["--config", toml, "--output", tmp_path / "run", "--quiet", "--set", "training.evaluate_every=1"]
    result = invoke(command.train, *arguments)
    assert result.exit_code == 130
    assert result.stderr == f"weightopt: {sentence}.\n"
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "run").exists() == (stage != "build_teaching_task")


@pytest.mark.slow
def test_a_second_signal_says_where_resuming_begins(
    toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke: Callable[..., Any]
) -> None:
    work, calls = rl.train.learn, 0

    def struck(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return work(*arguments, **options)

    monkeypatch.setattr(rl.train, "learn", struck)
    result = invoke(command.train, "--config", toml, "--output", tmp_path / "run", "--quiet")
    assert result.exit_code == 130
    assert result.stderr == "weightopt: interrupted; --resume goes on after step 2, the last checkpoint.\n"


def test_without_a_checkpoint_none_is_called_intact(
    toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke: Callable[..., Any]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Records, "add", full)
    result = invoke(command.train, "--config", toml, "--output", tmp_path / "run", "--quiet")
    assert result.exit_code == 1
    assert result.stderr == (
        "weightopt: step 0 could not be written ([Errno 28] No space left on device); there is no checkpoint yet: "
        "make room and go on with --resume.\n"
    )


@pytest.mark.slow
def test_lines_beyond_the_checkpoint_are_written_again(run: Path, longer: Config, tmp_path: Path) -> None:
    for name in (METRICS, TIMING, ROLLOUTS):
        with (run / name).open("ab") as file:
            file.write(b'{"kind": "step", "step": 77}\nhalf a li')
    train(longer, run, resume=True, quiet=True)
    train(longer, tmp_path / "at once", quiet=True)
    for name in (METRICS, ROLLOUTS):
        assert (run / name).read_bytes() == (tmp_path / "at once" / name).read_bytes()


@pytest.mark.slow
def test_the_records_of_another_seed_are_refused(run: Path, longer: Config, toml: Path, tmp_path: Path) -> None:
    train(load_config(toml, ["seed=1"]), tmp_path / "other", quiet=True)
    shutil.copy(tmp_path / "other" / METRICS, run / METRICS)
    with pytest.raises(UsageError, match=r"metrics\.jsonl is not what the run had written"):
        train(longer, run, resume=True, quiet=True)


def test_a_run_is_checked_from_outside(run: Path) -> None:
    facts = check(run)
    assert facts["step"] == 4
    assert facts["files"] > 20
    for path in (run / "best").rglob("model.safetensors"):
        flipped(path)
    with pytest.raises(UsageError, match=r"best/step-\d+': its model\.safetensors is damaged"):
        check(run)
    with pytest.raises(UsageError, match="holds no run"):
        check(run / "best")


def test_weightopt_check_takes_the_folder_of_a_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["weightopt", "check", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    status, out, err = said(run)
    assert (status, err) == (0, "")
    assert out.startswith(f"{run}: fine: a run, at step 4; ")
    flipped(run / OPTIMIZER)
    status, out, err = said(run)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "optimizer.safetensors is damaged" in err
    status, out, err = said(run, "--json")
    assert (status, json.loads(out)["ok"], err) == (1, False, "")
    status, out, err = said(run / "best")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err == f"weightopt: folder '{run / 'best'}' holds no run: it has no run.json.\n"


@pytest.mark.parametrize("installed", [[], [EntryPoint("folder", "rl.command:gone", "weightopt.checks")]], ids=len)
def test_a_folder_that_nothing_can_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], installed: list[EntryPoint]
) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: installed)
    with pytest.raises(SystemExit) as ended:
        check_file(tmp_path)
    assert ended.value.code == 2
    assert "is a folder, and " in (said := capsys.readouterr().err)
    assert said.count("\n") == 1


@pytest.mark.slow
def test_a_model_that_the_hub_has_changed_is_named_as_the_run_began(
    run: Path, toml: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The run began with a model of the hub; its name leads to another one by now, and with the revision to its own."""
    hub = {None: "new", "0ld": "0ld", "new": "new"}
    for revision in ("0ld", "new"):
        shutil.copytree(run / "start", tmp_path / "hub" / revision)
    flipped(tmp_path / "hub" / "new" / "model.safetensors")

    def snapshot(name: str, *, revision: str | None, **_: object) -> str:
        assert name == "owner/name"
        return str(tmp_path / "hub" / hub[revision])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    hub[None] = "0ld"
    output, config = tmp_path / "from-hub", load_config(toml, ['start_model="hub:owner/name"', "training.steps=2"])
    train(config, output, quiet=True)
    assert json.loads((output / "run.json").read_text())["revisions"] == {"start_model": "0ld"}
    hub[None] = "new"
    with pytest.raises(UsageError, match=r"'start_model\..*; the hub has changed it: name it hub:owner/name@0ld, as"):
        train(config, output, resume=True, quiet=True)
    pinned = ['start_model="hub:owner/name@0ld"', "training.steps=3"]
    assert train(load_config(toml, pinned), output, resume=True, quiet=True).step == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", ["threads=2", "verifier.seconds_per_answer=9.0", "optimizer.tokens_per_micro_batch=100"]
)
def test_what_lets_a_run_go_on_may_change(run: Path, toml: Path, change: str) -> None:
    assert train(load_config(toml, ["training.steps=5", change]), run, resume=True, quiet=True).finished
    assert change.partition("=")[2] in (run / "run.json").read_text()


def test_files_may_move(run: Path, toml: Path, tmp_path: Path) -> None:
    table = Path(shutil.copy(load_config(toml, []).table or "", tmp_path / "elsewhere.json"))
    assert train(load_config(toml, [f"table={table}"]), run, resume=True, quiet=True).finished
    table.write_text(table.read_text().replace("linear-r", "other"))


def test_best_and_lock_may_be_removed_while_a_run_goes(
    toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, output = rl.train.learn, tmp_path / "run"

    def removing(*arguments: Any, **options: Any) -> Any:
        shutil.rmtree(output / "best", ignore_errors=True)
        (output / LOCK).unlink(missing_ok=True)
        return work(*arguments, **options)

    monkeypatch.setattr(rl.train, "learn", removing)
    assert train(load_config(toml, ["training.evaluate_every=1"]), output, quiet=True).finished
