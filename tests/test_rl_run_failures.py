"""Mistakes, full disks and numbers that are not finite: one sentence, and nothing is lost."""

import json
import math
import shutil
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

import rl.run.checkpoint
import rl.run.prepare
import rl.run.run
import rl.train
from rl.config import Config, parse_config
from rl.errors import DivergenceError, StorageError, UsageError
from rl.models.policy import new_policy, save_policy
from rl.records.metrics import read_metrics, read_timing
from rl.run.prepare import prepare
from rl.samplers.torch_sampler import TorchSampler
from rl.step.evaluate import evaluate
from rl.storage import whole_folder
from rl.supervised import make_start_model
from rl.tasks.addition import Addition
from rl.tasks.split import ProblemList
from rl.train import train
from tests.amounts import some_of
from tests.worlds import (
    GROUP_SIZE,
    STEPS,
    assert_same_run,
    at_call,
    contents,
    document,
    fresh_start,
    raising,
    train_until,
)
from weightopt.table import TableError, group_table

pytestmark = pytest.mark.usefixtures("one_thread")


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


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rollout": {"max_new_tokens": 14}}, r"do not fit into the model's context of 16"),
        ({"start_model": "START", "model": {}}, r"cannot write all of"),
    ],
)
@some_of("made_before", [True, False], 1)
def test_a_mistake_that_is_found_late_leaves_the_folder_to_the_corrected_call(
    table: Path, tmp_path: Path, change: dict[str, Any], sentence: str, made_before: bool
) -> None:
    settings, output = document(table), tmp_path / "run"
    if "start_model" in change:
        with whole_folder(tmp_path / "start") as partial:
            save_policy(new_policy(parse_config(settings).model, "xyz", seed=0), partial)
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


def test_attention_that_is_used_instead_has_to_fit_too(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = []

    def check(config: Config, *_: Any, **__: Any) -> None:
        planned.append(config.policy.attention)
        if config.policy.attention == "eager":
            raise UsageError("the run does not fit")

    monkeypatch.setattr("rl.models.policy.ATTENTION_ON_CPU", "sdpa")
    monkeypatch.setattr("rl.models.policy.is_capped", lambda _: True)
    monkeypatch.setattr("rl.run.run.check_memory", check)
    with pytest.raises(UsageError, match=r"^the run does not fit$"):
        train(parse_config(document(table)), tmp_path / "run", quiet=True)
    assert planned == ["auto", "eager"]


@pytest.mark.parametrize("text", ["[]", "{}", "", '{"schema": 1}', '{"schema": "rl.run/4", "config": []}', "\x00"])
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
    (output / "run.json").write_text((whole / "run.json").read_text().replace("rl.run/4", "rl.run/3"))
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
    with pytest.raises(UsageError, match=r"^cannot resume from '.*': its model/.*\.json is missing; put a") as caught:
        train(config, output, resume=True, quiet=True)
    assert "\n" not in str(caught.value)


def test_a_start_model_that_could_not_be_saved_is_not_begun(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl.supervised.new_policy", lambda *_, **__: pytest.fail("training has begun"))
    with pytest.raises(UsageError, match="output '/proc/start' cannot be written: No such file"):
        make_start_model(config, Path("/proc/start"))


@some_of("value", [math.nan, math.inf], 1)
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


# A limit on the size of files stands for a full disk: both end in an OSError while a file is being written.
FULL = """
import json, resource, sys
from pathlib import Path
from weightopt.cli import main
limits = int(sys.argv.pop()), resource.RLIM_INFINITY
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
sys.argv.insert(1, "train")
main()
"""


@pytest.mark.slow
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
    assert process.stderr.endswith("the last checkpoint is intact: make room and go on with --resume.\n")
    assert process.stderr.count("\n") == 1
    after = contents(output)
    assert {name: data for name, data in after.items() if name != "metrics.jsonl"} == {
        name: data for name, data in before.items() if name != "metrics.jsonl"
    }
    train(config, output, resume=True, quiet=True)
    assert_same_run(whole, output)


@some_of("function", ["save_file", "save_policy"], 1)
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    config: Config, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    work, output = getattr(rl.run.checkpoint, function), tmp_path / "run"

    def fail(first: Any, path: Path, **options: Any) -> None:
        if "step-000004" in str(path):
            raise SafetensorError("I/O error:\nNo space left on device")
        work(first, path, **options)

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
    monkeypatch.setattr(rl.run.run, "make_start_model", fresh_start)
    with pytest.raises(DivergenceError, match="step 1: a weight is not finite"):
        train(config, tmp_path / "run", quiet=True)


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
    with pytest.raises(UsageError, match="is no folder here"):
        train(parse_config({**settings, "start_model": str(tmp_path / "absent")}), tmp_path / "other", quiet=True)


def test_an_output_that_cannot_be_written_is_refused(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        train(config, tmp_path / "file" / "run", quiet=True)


@pytest.mark.slow
@some_of("error", [UsageError("a bad row"), RuntimeError("a defect")], 1)
@some_of("stage", ["draw_groups", "weigh"], 1)
def test_a_step_that_fails_leaves_those_before_it_and_the_run_goes_on(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, stage: str
) -> None:
    """Before the first checkpoint; afterwards the run is the one that nothing has stopped."""
    settings = document(table)
    settings["training"] = {"steps": STEPS, "evaluate_every": 2, "checkpoint_every": 100}
    config, output = parse_config(settings), tmp_path / "run"

    with monkeypatch.context() as patch:
        patch.setattr(rl.train, stage, at_call(getattr(rl.train, stage), 4, raising(error)))
        sentence = "step 4: a bad row; step 3 is saved: mend that and go on with --resume"
        with pytest.raises(type(error), match=sentence if isinstance(error, UsageError) else "a defect"):
            train(config, output, quiet=True)
    assert len(read_metrics(output / "metrics.jsonl").steps) == len(read_timing(output / "timing.jsonl")) == 3
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-000003"]
    assert (output / "best").is_dir()
    train(config, output, resume=True, quiet=True)
    train(config, tmp_path / "whole", quiet=True)
    assert_same_run(tmp_path / "whole", output)


@pytest.mark.slow
def test_a_measurement_that_fails_is_made_when_the_run_goes_on(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, output = parse_config(document(table)), tmp_path / "run"

    with monkeypatch.context() as patch:
        patch.setattr(rl.run.run, "evaluate", at_call(evaluate, 2, raising(RuntimeError("no memory"))))
        with pytest.raises(RuntimeError, match="no memory"):
            train(config, output, quiet=True)
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-000002"]
    train(config, output, resume=True, quiet=True)
    train(config, tmp_path / "whole", quiet=True)
    assert_same_run(tmp_path / "whole", output)


def test_after_an_update_nothing_is_saved_for_a_step_that_fails(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are those of a step that is not written down: the last checkpoint is the place to go on from."""
    config, output = parse_config(document(table)), tmp_path / "run"

    with monkeypatch.context() as patch:
        patch.setattr(TorchSampler, "publish", at_call(TorchSampler.publish, 4, raising(RuntimeError("no memory"))))
        patch.setattr(rl.run.run, "make_start_model", fresh_start)
        with pytest.raises(RuntimeError, match="no memory"):
            train(config, output, quiet=True)
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-000002"]


TEMPLATE = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
TEMPLATES = {
    "": "has no chat template",
    "{{ 'x' * 1000000000 }}": "it takes more memory than it may",
    "{{ 'x' * 2000000 }}": "it makes 2,000,000 characters of a prompt of",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}": "more than 5 seconds of comp",
    "{{ raise_exception('no system role') }}": "TemplateError: no system role",
    "{% for m in messages %}{{ m.content }": "TemplateSyntaxError",
    "{{ unknown.attribute }}": "'unknown' is undefined",
    "{{ ''.__class__.__mro__ }}": "SecurityError",
    "the same for all": "it leaves out what the user says",
    "{{ messages.append(1) }}": "SecurityError|ImmutableSandbox|not safely callable",
}


def chatting(start: Path, table: Path) -> dict[str, Any]:
    return {
        **{key: value for key, value in document(table).items() if key not in ("model", "supervised")},
        "start_model": str(start),
        "task": {"name": "countdown-text", "chat": True},
    }


@pytest.mark.slow
@some_of("template", TEMPLATES, lambda template: "99999" not in template)
def test_a_chat_template_that_fails_is_one_sentence_and_leaves_no_folder(
    table: Path, tmp_path: Path, start_model: Callable[..., Path], template: str
) -> None:
    start = start_model(string.printable, chat_template=template or None, context=512, **TINY)
    with pytest.raises(UsageError, match=TEMPLATES[template]) as caught:
        train(parse_config(chatting(start, table)), tmp_path / "run", quiet=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_template_with_the_date_keeps_that_of_the_first_day(
    table: Path, tmp_path: Path, start_model: Callable[..., Path]
) -> None:
    template = "Today is {{ strftime_now('%d %b %Y') }}." + TEMPLATE
    start = start_model(string.printable, chat_template=template, context=512, **TINY)
    settings = chatting(start, table)
    settings["training"] = {"steps": 2, "rollout_share": 1.0}
    output = tmp_path / "run"
    train(parse_config(settings), output, quiet=True)
    about = json.loads((output / "run.json").read_text())
    (output / "run.json").write_text(json.dumps({**about, "date": "2020-02-29T12:00:00"}))
    settings["training"]["steps"] = 3
    train(parse_config(settings), output, resume=True, quiet=True)
    prompts = {
        line["step"]: line["prompt"] for line in map(json.loads, (output / "rollouts.jsonl").read_text().splitlines())
    }
    assert prompts[3].startswith("Today is 29 Feb 2020.<")
    assert not prompts[2].startswith("Today is 29 Feb 2020.<")


TINY = {"layers": 1, "hidden_size": 16, "intermediate_size": 24, "heads": 2}


def test_a_model_without_layers_and_one_that_changes_are_refused(
    table: Path, tmp_path: Path, start_model: Callable[..., Path]
) -> None:
    start = Path(shutil.copytree(start_model("0123456789+=", context=16, **TINY), tmp_path / "start"))
    settings = {**document(table), "start_model": str(start), "training": {"steps": 1}}
    train(parse_config(settings), tmp_path / "run", quiet=True)
    about = json.loads((start / "config.json").read_text())
    for change, output, sentence in (
        ({"rope_theta": 7.0}, "run", r"'start_model\.config\.json' was 'sha256:"),
        ({"num_hidden_layers": 0}, "other", r"num_hidden_layers is 0 in its config\.json; it must be between 1 and"),
    ):
        (start / "config.json").write_text(json.dumps(about | change))
        with pytest.raises(UsageError, match=sentence):
            train(parse_config(settings), tmp_path / output, resume=True, quiet=True)
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_prompts_that_do_not_fit_are_left_out_and_counted(
    table: Path, tmp_path: Path, start_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of 1 to 3 digits have prompts of 4 to 8 characters, of which the context has room for 6."""
    start = start_model("0123456789+=", context=10, **TINY)
    settings = {**document(table), "start_model": str(start)}
    settings["task"] = {"name": "addition", "digits": {"1": 1, "2": 1, "3": 1}}
    train(parse_config(settings), tmp_path / "run", quiet=True)
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert sum(record.left_out or 0 for record in metrics.steps) > 0
    settings["task"] = {"name": "addition", "digits": {"6": 1}}  # the shortest prompt has 9 characters
    with pytest.raises(
        UsageError, match=r"a prompt of \d+ tokens and 4 new ones do not fit into the model's context of 10"
    ):
        train(parse_config(settings), tmp_path / "none", quiet=True)
    assert not (tmp_path / "none").exists()
    addition = Addition(name="addition", digits={1: 1.0, 3: 1.0})
    rng = Random(0)
    listed = ProblemList.divide(addition.propose(rng) for _ in range(60))
    monkeypatch.setattr(rl.run.prepare, "build_task", lambda _: listed)
    ready = prepare(parse_config(settings))
    assert isinstance(ready.task, ProblemList)
    assert {len(prompt.text) for prompt in (*ready.task.training, *ready.task.held_out)} <= {4, 5, 6}
    left_out = sum(len(prompt.text) > 6 for prompt in listed.training)
    assert ready.notes[0].startswith(f"{left_out} of {len(listed.training)} training problems and ")
