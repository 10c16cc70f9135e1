"""Drawing ahead: a step learns from what the weights before its own have drawn, in a process of its own.

What follows from it in a run is also tested with a sampler in this process, which draws at once when it is asked.
"""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import rl.samplers.registry
import rl.train
from rl.command import train as command
from rl.config import Config, parse_config
from rl.errors import DivergenceError, LostRankError, UsageError
from rl.learning.update import learn, new_optimizer
from rl.models.policy import load_policy
from rl.records.metrics import read_metrics
from rl.run.checkpoint import read_drawn
from rl.samplers.ahead import AheadSampler, shared_tensors
from rl.samplers.registry import check_backend
from rl.samplers.rollout import Batch, Completion, Group
from rl.samplers.torch_sampler import TorchSampler
from rl.seeds import derive_seed
from rl.step.advantage import weigh
from rl.step.success import judge
from rl.storage import write_checksums
from rl.tasks.protocol import Prompt
from rl.tasks.registry import build_teaching_task
from rl.tasks.split import training_prompts
from rl.train import train
from tests.worlds import GROUP_SIZE, MODEL, STEPS, assert_same_run, at_call, document, toml_of, train_until
from weightopt.table import WeightTable

pytestmark = pytest.mark.usefixtures("one_thread")

TASK = {"name": "addition", "digits": {"1": 1}}
OPTIONS = {"group_size": 2, "temperature": 1.0, "max_new_tokens": 4, "seed": 7}


class Here(AheadSampler):
    """Draws in this process when it is asked."""

    def __init__(self, config: Config, weights: Any, *, start: Path, **_: object) -> None:
        self._own = TorchSampler(load_policy(start, config.policy))
        self._own.publish(weights)
        self.ends, self.engine, self._line = self._own.ends, None, ""

    def begin(self, prompts: Any, **options: Any) -> None:
        self._line = json.dumps(self._own.sample(prompts, **options).to_json())

    def drawn(self) -> str:
        return self._line

    def publish(self, weights: Any) -> None:
        self._own.publish(weights)

    def close(self) -> None:
        pass


@pytest.fixture(params=["here", pytest.param("process", marks=pytest.mark.slow)])
def _placed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "here":
        monkeypatch.setattr(rl.samplers.registry, "AheadSampler", Here)


@pytest.fixture(scope="module")
def start(start_model: Callable[..., Path]) -> Path:
    alphabet = build_teaching_task(parse_config({"task": TASK}).task).alphabet
    return start_model(alphabet, **{**MODEL, "initializer_range": 0.3})


@pytest.fixture(scope="module")
def settings(table: Path, start: Path) -> dict[str, Any]:
    changes = {"sampler": {"ahead": "cpu"}, "training": {"rollout_share": 1.0}}
    return document(table, start_model=str(start), task=TASK, **changes)


@pytest.fixture
def sampler(settings: dict[str, Any], start: Path) -> Iterator[AheadSampler]:
    weights = load_policy(start).published_weights()
    with closing(AheadSampler(parse_config(settings), weights, start=start, probe=prompts("1"))) as opened:
        yield opened


def prompts(*texts: str) -> list[Prompt[None]]:
    return [Prompt(id=text, text=text, difficulty="", problem=None) for text in texts]


@pytest.mark.usefixtures("_placed")
def test_a_step_learns_from_what_the_weights_before_its_own_have_drawn(
    settings: dict[str, Any], start: Path, tmp_path: Path
) -> None:
    config, output = parse_config(settings), tmp_path / "run"
    train(config, output, quiet=True)
    assert config.table is not None
    policy, task = load_policy(start), build_teaching_task(config.task)
    optimizer, table = new_optimizer(policy, config.optimizer), WeightTable.load(config.table).for_group(GROUP_SIZE)
    written = [json.loads(line) for line in (output / "rollouts.jsonl").read_text().splitlines()]
    published = [{name: each.clone() for name, each in policy.model.state_dict().items()}]
    on_policy = 0
    for step in range(1, STEPS + 1):
        asked = training_prompts(task, count=4, seed=derive_seed(config.seed, "prompts", step))
        draws = []
        for weights in (published[max(step - 2, 0)], published[-1]):
            policy_then = load_policy(start)
            policy_then.model.load_state_dict(weights)
            seed = derive_seed(config.seed, "responses", step)
            options = {"group_size": GROUP_SIZE, "temperature": 1.0, "max_new_tokens": 4}
            draws.append(TorchSampler(policy_then).sample(asked, seed=seed, **options))
        texts = [[each.text for group in batch.groups for each in group.completions] for batch in draws]
        assert [line["response"] for line in written if line["step"] == step] == texts[0]
        on_policy += texts[0] == texts[1]
        advantages = weigh(table, judge(draws[0], task).correct, all_wrong_factor=1.0)
        sections = config.optimizer, config.rollout
        learn(policy, optimizer, draws[0], advantages, *sections, step=step, seed=config.seed, cap=2.0)
        published.append({name: each.clone() for name, each in policy.model.state_dict().items()})
    assert on_policy < 3  # else the test would not see which weights have drawn
    for name, value in load_file(output / "model" / "model.safetensors").items():
        assert torch.equal(value, published[-1][name])
    steps = read_metrics(output / "metrics.jsonl").steps
    assert [record.lag for record in steps] == [0, 1, 1, 1, 1]
    assert [(record.sampler_kl or 0) > 1e-4 for record in steps] == [False, True, True, True, True]


@pytest.mark.usefixtures("_placed")
def test_with_weights_that_stay_it_is_the_run_without(settings: dict[str, Any], tmp_path: Path) -> None:
    still = {**settings, "optimizer": {**settings["optimizer"], "learning_rate": 1e-60}}
    train(parse_config(still), tmp_path / "ahead", quiet=True)
    train(parse_config({**still, "sampler": {"importance_sampling": True}}), tmp_path / "plain", quiet=True)
    for name in ("metrics.jsonl", "rollouts.jsonl", "model/model.safetensors"):
        one, other = ((tmp_path / run / name).read_bytes() for run in ("ahead", "plain"))
        assert one.replace(b'"lag": 1', b'"lag": 0') == other
    assert (tmp_path / "ahead" / "metrics.jsonl").read_bytes().count(b'"lag": 1') == STEPS - 1


@pytest.mark.usefixtures("_placed")
def test_stopped_or_prolonged_it_is_the_run_that_nothing_has_stopped(settings: dict[str, Any], tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    train(parse_config(settings), whole, quiet=True)
    train_until(parse_config(settings), tmp_path / "stopped", 3)
    assert json.loads(read_drawn(tmp_path / "stopped" / "checkpoints" / "step-000003"))
    train(parse_config(settings), tmp_path / "stopped", resume=True, quiet=True)
    assert_same_run(whole, tmp_path / "stopped")
    shorter = {**settings, "training": {**settings["training"], "steps": 3}}
    train(parse_config(shorter), tmp_path / "prolonged", quiet=True)
    train(parse_config(settings), tmp_path / "prolonged", resume=True, quiet=True)
    assert_same_run(whole, tmp_path / "prolonged")


def test_what_a_checkpoint_has_drawn_is_looked_at(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rl.samplers.registry, "AheadSampler", Here)
    train_until(parse_config(settings), tmp_path / "run", 1)
    file = tmp_path / "run" / "checkpoints" / "step-000001" / "drawn.json"
    for text, sentence in (('[[[1], [[[2], ["a"], "", true]]]]', "not one that a run has written"), ("", "written")):
        file.write_text(text)
        write_checksums(file.parent)
        with pytest.raises(UsageError, match=f"its drawn.json is .*{sentence}"):
            train(parse_config(settings), tmp_path / "run", resume=True, quiet=True)


@pytest.mark.slow
def test_a_run_whose_process_is_killed_ends_in_one_sentence_and_goes_on(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.toml").write_text(toml_of(settings))
    opened: list[AheadSampler] = []

    class Watched(AheadSampler):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            opened.append(self)

    monkeypatch.setattr(rl.samplers.registry, "AheadSampler", Watched)

    def end() -> None:
        opened[-1]._process.kill()
        opened[-1]._process.wait()

    # While a step learns what came before the last checkpoint is safe; before it learns, all is.
    for stage, call, sentence in (
        ("learn", 4, "step 4: the process that draws ahead has ended by SIGKILL; the last checkpoint is intact"),
        ("draw_groups", 2, "step 4: the process that draws ahead has ended by SIGKILL; the last checkpoint is intact"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(rl.train, stage, at_call(getattr(rl.train, stage), call, end))
            with pytest.raises(SystemExit) as stop:
                command(tmp_path / "run.toml", tmp_path / "run", resume=stage != "learn", quiet=True)
        assert stop.value.code == 1
        assert capsys.readouterr().err == f"weightopt: {sentence}.\n"
        saved = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
        assert saved == ["step-000002" if stage == "learn" else "step-000003"]
    train(parse_config(settings), tmp_path / "run", resume=True, quiet=True)
    assert all(each._process.poll() is not None for each in opened)
    train(parse_config(settings), tmp_path / "whole", quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
def test_a_process_that_cannot_be_opened_is_no_failure_of_a_step(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl.samplers.ahead.STARTER", "raise SystemExit(3)")
    sentence = (
        "the engine that samples could not be opened: the process that draws ahead has ended with exit status 3; "
    )
    with pytest.raises(LostRankError, match=f"^{sentence}there is no checkpoint yet$"):
        train(parse_config(settings), tmp_path / "run", quiet=True)


@pytest.mark.slow
def test_what_the_process_refuses_is_said_here(sampler: AheadSampler) -> None:
    assert os.getsid(sampler._process.pid) != os.getsid(0)  # Ctrl-C does not reach it
    weights = {name: each.clone() for name, each in sampler._weights.items()}
    first = sampler.sample(prompts("1+1=", "2+3="), **OPTIONS)
    assert [group.prompt.text for group in first.groups] == ["1+1=", "2+3="]
    sampler.publish({name: each * 0.5 for name, each in weights.items()})
    assert sampler.sample(prompts("1+1=", "2+3="), **OPTIONS) != first
    sampler.publish(weights)
    assert sampler.sample(prompts("1+1=", "2+3="), **OPTIONS) == first
    with pytest.raises(UsageError, match="a prompt of 15 tokens and 4 new ones do not fit"):
        sampler.sample(prompts("1" * 15), **OPTIONS)
    with pytest.raises(LostRankError, match="has ended with exit status 1"):
        sampler.sample(prompts("1"), **OPTIONS)


@pytest.mark.slow
def test_weights_that_are_not_finite_are_a_divergence(sampler: AheadSampler) -> None:
    sampler.publish({name: each * math.nan for name, each in sampler._weights.items()})
    with pytest.raises(DivergenceError, match="not finite"):
        sampler.sample(prompts("1"), **OPTIONS)


@pytest.mark.slow
def test_a_defect_in_the_process_is_one_sentence(sampler: AheadSampler) -> None:
    with pytest.raises(LostRankError, match=r"has failed \(TypeError: .*unexpected keyword argument 'size'\)"):
        sampler.sample(prompts("1"), **OPTIONS, size=3)


ORPHAN = """
import json, os, signal, sys
from pathlib import Path
from rl.config import parse_config
from rl.models.policy import load_policy
from rl.samplers.ahead import AheadSampler
from rl.tasks.protocol import Prompt

prompt = Prompt(id="1", text="1", difficulty="", problem=None)
start = Path(sys.argv[2])
sampler = AheadSampler(
    parse_config(json.loads(sys.argv[1])), load_policy(start).published_weights(), start=start, probe=[prompt]
)
sampler.begin([prompt] * 64, group_size=4096, temperature=1.0, max_new_tokens=1000, seed=1)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_the_process_ends_with_a_run_that_is_killed(settings: dict[str, Any], start_model: Callable[..., Path]) -> None:
    """In the middle of a draw that would take hours: its standard error, which is read here, closes when it ends."""
    start = start_model("0123456789+=ab", layers=2, context=1024)
    arguments = [sys.executable, "-c", ORPHAN, json.dumps(settings), str(start)]
    process = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr


def test_a_batch_travels_to_the_last_bit() -> None:
    texts = ["", "\ud800\u2028\x00", "é\n"]
    completions = tuple(
        Completion(tokens=(1, 2), log_probs=(-1e-45, -math.pi / 3), text=text, finished=bool(text)) for text in texts
    )
    asked = prompts("a", "b")
    batch = Batch(groups=tuple(Group(prompt=each, prompt_tokens=(5,), completions=completions) for each in asked))
    assert Batch.from_json(asked, json.loads(json.dumps(batch.to_json()))) == batch


def test_two_views_of_a_file_are_of_the_same_tensors(tmp_path: Path) -> None:
    layout = [("a", "float32", [3, 5]), ("b", "bfloat16", []), ("c", "int64", [1]), ("d", "float32", [2])]
    with (tmp_path / "weights").open("w+b") as file:
        one, other = (shared_tensors(file.fileno(), layout) for _ in range(2))
    for number, (name, dtype, shape) in enumerate(layout, start=1):
        one[name].fill_(number)
        assert (other[name].dtype, list(other[name].shape)) == (getattr(torch, dtype), shape)
    assert all((other[name] == number).all() for number, (name, *_) in enumerate(layout, start=1))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sampler": {"ahead": "cuda"}}, "sampler.ahead.*it must be cpu or cuda:N"),
        ({"sampler": {"threads": 2}}, "threads goes with ahead"),
        ({"sampler": {"ahead": "cpu", "importance_sampling": False}}, "only importance_sampling = true corrects"),
        ({"sampler": {"ahead": "cpu", "backend": "vllm", "sleep": True}}, "sleep does not go with ahead"),
        ({"sampler": {"ahead": "cpu"}, "rollout": {"dynamic_sampling": True}}, "follows from the verdicts on those"),
    ],
)
def test_what_does_not_go_with_it_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse_config({"task": {"name": "addition", "digits": {"1": 1}}, **changes})


def test_machines_without_a_place_for_it_are_refused(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu = {"device": "auto", "sampler": {"ahead": "cuda:0"}}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(
        UsageError, match=r"sampler\.ahead = 'cuda:0' is the GPU that trains: name another one, or 'cpu'"
    ):
        train(parse_config({**settings, **on_gpu}), tmp_path / "run", quiet=True)
    with pytest.raises(UsageError, match=r"'sampler\.ahead' is 'cuda:1', and torch finds 1 GPUs here"):
        check_backend(parse_config({**settings, "sampler": {"ahead": "cuda:1"}}))
    check_backend(parse_config({**settings, **on_gpu, "device": "cpu"}))
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"sampler\.ahead is for one process, and torchrun started 2"):
        check_backend(parse_config(settings))
    assert not (tmp_path / "run").exists()
