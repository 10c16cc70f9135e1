"""Killed, interrupted or prolonged: a run that goes on leaves the files of one that nothing has stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import rl.run.checkpoint
import rl.run.run
import rl.train
from rl.config import Config, parse_config
from rl.errors import UsageError
from rl.records.layout import latest_checkpoint
from rl.records.metrics import read_metrics
from rl.run.records import Records
from rl.run.run import Run
from rl.run.signals import interruption
from rl.train import train
from tests.amounts import some_of
from tests.worlds import STEPS, KilledError, assert_same_run, at_call, contents, document, raising, train_until

pytestmark = pytest.mark.usefixtures("one_thread")


# Where the process ends: in the stage of that name, before or after its work is done.
STAGES: dict[str, Any] = {
    "draw_groups": rl.train,
    "weigh": rl.train,
    "learn": rl.train,
    "add": Records,
    "evaluate": rl.run.run,
    "checkpoint": Run,
    "save_checkpoint": rl.run.run,
    "make_start_model": rl.run.run,
}
LATER_STAGES: dict[str, Any] = {
    "add_rollouts": Records,
    "save_model": rl.run.run,
    "measure": Run,
    "cut": Records,
    "prune": rl.run.run,
}


@pytest.mark.slow
@some_of("stage", STAGES, lambda stage: stage == "learn")
@some_of("call", [1, 3], lambda call: call == 3)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_run_resumes_bit_for_bit(
    config: Config, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, call: int, when: str
) -> None:
    work, output = getattr(STAGES[stage], stage), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(STAGES[stage], stage, at_call(work, call, raising(KilledError), after=when == "after"))
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


@pytest.mark.slow
def test_a_line_cut_in_half_is_dropped(config: Config, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    train_until(config, output, 3)
    with (output / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "st')
    assert len(read_metrics(output / "metrics.jsonl").steps) == 3
    train(config, output, resume=True, quiet=True)
    assert_same_run(whole, output)


@some_of("step", [1, 2, 3], 1)
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


@pytest.mark.slow
def test_a_run_killed_at_stage_after_stage_resumes_bit_for_bit(
    everything_on: tuple[Config, Path], tmp_path: Path
) -> None:
    """With every option on: each process that goes on is killed as well, in another stage, until one is spared."""
    config, whole = everything_on
    output = tmp_path / "run"
    killed = 0
    for stage, owner in (STAGES | LATER_STAGES).items():
        for call in (1, 3):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(owner, stage, at_call(getattr(owner, stage), call, raising(KilledError), after=True))
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


@pytest.mark.slow
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
        timeout=3000,  # against waiting for ever, not against a busy machine
    )
    assert process.returncode == 0, process.stderr
    finished = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert {path.name for path in finished} >= {"undisturbed", "finished-last"}
    for run in finished:
        assert_same_run(whole, run)


@pytest.mark.slow
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_the_second_one_acts_as_usual(number: signal.Signals) -> None:
    heard: list[int] = []
    before = signal.signal(number, lambda received, _: heard.append(received))
    try:
        with interruption() as interrupted:
            assert not interrupted()
            os.kill(os.getpid(), number)
            assert interrupted()
            assert heard == []
            os.kill(os.getpid(), number)
            assert heard == [number]
        assert signal.getsignal(number) is not before
    finally:
        signal.signal(number, before)


@pytest.mark.slow
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
        patch.setattr(rl.run.run, "interruption", at_once)
        assert not train(config, output, resume=True, quiet=True).finished
    assert contents(output) == before
    train(config, output, resume=True, quiet=True)
    assert_same_run(whole, output)


@pytest.mark.slow
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


@pytest.mark.slow
def test_raising_the_number_of_steps_prolongs_a_run(table: Path, whole: Path, tmp_path: Path) -> None:
    """A run of 3 steps, made longer, is the run of 5: its end at step 3 called for an evaluation that is dropped."""
    settings, output = document(table), tmp_path / "run"
    short = {**settings, "training": {**settings["training"], "steps": 3}}
    train(parse_config(short), output, quiet=True)
    assert [record.step for record in read_metrics(output / "metrics.jsonl").evaluations] == [0, 2, 3]
    train(parse_config(settings), output, resume=True, quiet=True)
    made = ("start/supervised.json", "start/SHA256SUMS")  # it says truly that the configuration was then one of 3 steps
    assert_same_run(whole, output, but=made)
    with pytest.raises(UsageError, match=r"'training.steps' was 5 and is now 3 \(it can only be raised\)"):
        train(parse_config(short), output, resume=True, quiet=True)
    assert_same_run(whole, output, but=made)


@pytest.mark.slow
def test_prolonging_does_not_move_schedules(everything_on: tuple[Config, Path], tmp_path: Path) -> None:
    config, whole = everything_on
    short = config.model_copy(update={"training": config.training.model_copy(update={"steps": 3})})
    train(short, tmp_path / "run", quiet=True)
    train(config, tmp_path / "run", resume=True, quiet=True)
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.slow
def test_how_many_checkpoints_are_kept_may_change(table: Path, whole: Path, tmp_path: Path) -> None:
    settings, output = document(table), tmp_path / "run"
    train_until(parse_config(settings), output, 3)
    more = {**settings, "training": {**settings["training"], "keep_checkpoints": 9}}
    train(parse_config(more), output, resume=True, quiet=True)
    # That of step 2 was gone, and that of step 3 was the interruption's.
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == ["step-000004", "step-000005"]
    train(parse_config(settings), output, resume=True, quiet=True)
    assert_same_run(whole, output)
