"""Tasks in the loop, from the configuration to the records; the start model knows many characters and nothing else."""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl.config import parse_config
from rl.errors import UsageError
from rl.records.metrics import read_metrics
from rl.samplers.rollout import Batch, Completion, Group
from rl.step.evaluate import doubt
from rl.step.success import Judgement, judge
from rl.tasks.addition import Addition
from rl.tasks.protocol import Prompt
from rl.train import train

SHAPE = {"layers": 1, "hidden_size": 16, "intermediate_size": 16, "heads": 2, "context": 600}
CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def start(start_model: Callable[..., Path]) -> Path:
    return start_model(string.printable, chat_template=CHAT, **SHAPE)


@pytest.fixture(scope="module")
def table(table_file: Callable[[str, int], Path]) -> Path:
    return table_file("linear-r", 2)


def run(output: Path, table: Path, start: Path | None, task: dict[str, Any], *, quiet: bool = True, **rollout: Any):
    document: dict[str, Any] = {
        "device": "cpu",
        "table": str(table),
        "task": task,
        "rollout": {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 6, **rollout},
        "training": {"steps": 1, "rollout_share": 1.0},
        "evaluation": {"prompts": 4, "samples": 2},
        "verifier": {"workers": 1},
    }
    if start is not None:
        document["start_model"] = str(start)
    train(parse_config(document), output, quiet=quiet)
    return read_metrics(output / "metrics.jsonl")


def test_few_shot_countdown_with_a_stop_string(
    tmp_path: Path, table: Path, start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = {"name": "countdown-text", "numbers": {2: 1}, "examples": 2}
    metrics = run(tmp_path / "run", table, start, task, quiet=False, stop=["1", "2", "3", "4", "\n"])
    first, last = metrics.evaluations
    assert first.parsable is not None
    assert first.finished is not None
    assert first.parsable <= first.finished
    assert first.finished > 0
    assert first.warning is not None
    assert last.warning is None
    shown = " ".join(capsys.readouterr().out.split())
    assert f"warning: in {1 - first.parsable:.0%} of the responses no answer can be read" in shown
    assert " ='" in shown
    (step,) = metrics.steps
    assert step.parsable is not None
    assert step.reward <= step.parsable <= step.finished
    assert (step.timed_out, step.failed) == (0, 0)


@pytest.mark.slow
def test_a_run_with_verifier_processes_and_a_chat_template(
    tmp_path: Path, table: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "picky.py").write_text(
        "from random import Random\n"
        "from rl.tasks.protocol import Prompt\n"
        "def propose(rng):\n"
        "    n = rng.randrange(1000)\n"
        "    return Prompt(id=str(n), text=f'say {n}', difficulty='all', problem=n)\n"
        "class Picky:\n"
        "    def propose(self, rng): return propose(rng)\n"
        "    def verify(self, prompt, response):\n"
        "        if prompt.text != f'<user>say {prompt.problem}<assistant>': raise ValueError(prompt.text)\n"
        "        return len(response) == 3\n"
        "task = Picky()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("WEIGHTOPT_ALLOW_IMPORT", "picky")
    task = {"name": "import", "path": "picky:task", "chat": True}
    metrics = run(tmp_path / "run", table, start, task, stop=list(string.digits + string.ascii_letters))
    assert [record.warning for record in metrics.evaluations] == [None, None]
    assert all(record.parsable == record.finished for record in metrics.evaluations)
    assert (metrics.steps[0].timed_out, metrics.steps[0].failed) == (0, 0)


def test_tasks_that_need_a_start_model_say_so(tmp_path: Path, table: Path) -> None:
    with pytest.raises(
        UsageError, match=r"task 'countdown-text' cannot teach a new model its format: name a model with"
    ):
        run(tmp_path / "run", table, None, {"name": "countdown-text"})
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_without_a_chat_template_is_refused(
    tmp_path: Path, table: Path, start_model: Callable[..., Path]
) -> None:
    plain = start_model(string.printable, **SHAPE)
    with pytest.raises(UsageError, match=r"task\.chat is true, but the tokenizer of the start model has no chat templ"):
        run(tmp_path / "run", table, plain, {"name": "countdown-text", "chat": True})


def test_a_verifier_that_cannot_start_leaves_no_folder(tmp_path: Path, table: Path, start: Path) -> None:
    with pytest.raises(UsageError, match=r"No module named 'rl_absent'"):
        run(tmp_path / "run", table, start, {"name": "import", "path": "rl_absent:task"})
    assert not (tmp_path / "run").exists()


# The warning.


def batch(*texts: str, finished: int) -> Batch:
    prompt = Prompt(id="1+1", text="1+1=\x1b[31m", difficulty="", problem=None)
    completions = tuple(
        Completion(tokens=(1,), log_probs=(0.0,), text=text, finished=number < finished)
        for number, text in enumerate(texts)
    )
    return Batch(groups=(Group(prompt=prompt, prompt_tokens=(0,), completions=completions),))


ENDS = ("<end>", "\n")


class Digits(Addition):
    def verify(self, prompt: Prompt[Any], response: str) -> bool | None:  # noqa: ARG002
        return response == "2" if response.isdigit() else None


DIGITS = Digits(name="addition", digits={1: 1.0})


def test_the_warning_names_an_example_and_the_causes() -> None:
    bad = batch("2", "\x1b[2J\ud800" + "x" * 500 + "[/red]", "3", "4", finished=2)
    judgement = judge(bad, DIGITS)
    assert judgement.parsable.tolist() == [[True, False, False, False]]
    warning = doubt(bad, judgement, ENDS, first=True)
    assert doubt(bad, judgement, ENDS, first=False) is None
    assert warning is not None
    assert warning.startswith(
        "in 75% of the responses no answer can be read (50% were cut at the length limit before '<end>' or '\\n', "
    )
    assert warning.endswith("after '1+1=\\x1b[31m'")
    assert "xxx[/red]' after" in warning
    assert "\x1b" not in warning
    assert len(warning) < 500
    failed = Judgement(correct=judgement.correct, parsable=judgement.parsable, timed_out=1, failed=2, reason="E: why")
    assert "on 1 the verifier ran out of time; the verifier failed on 2, at first: E: why)" in str(
        doubt(bad, failed, ENDS, first=False)
    )


def test_half_is_enough() -> None:
    fair = batch("2", "3", "x", "4", finished=3)
    assert judge(fair, DIGITS).parsable.mean() == 0.5
    assert doubt(fair, judge(fair, DIGITS), ENDS, first=True) is None


@pytest.mark.parametrize(("timed_out", "failed", "warned"), [(0, 0, False), (1, 0, False), (1, 1, True), (0, 3, True)])
def test_a_verifier_that_hardly_works_is_told_at_any_evaluation(timed_out: int, failed: int, warned: bool) -> None:
    some = batch("1", "2", "3", "4", finished=3)
    parsable = np.arange(4).reshape(1, 4) < 3 - timed_out - failed
    judgement = Judgement(
        correct=parsable & False, parsable=parsable, timed_out=timed_out, failed=failed, reason="E: x"
    )
    warning = doubt(some, judgement, ENDS, first=False)
    assert (warning is not None) == warned
    assert not warned or (f"failed on {failed}, at first: E: x" in str(warning) and "'4'" not in str(warning))
