"""A dry run: it refuses what a run refuses, counts bytes that are right, is bounded, and leaves nothing behind."""

import dataclasses
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rl.preview
import rl.run.prepare
from rl import command
from rl.config import Config, parse_config
from rl.errors import UsageError
from rl.learning.loss import micro_batches
from rl.models.policy import free_memory, load_policy
from rl.preview import dry_run, probe_judging, probe_learning, probe_sampling, report
from rl.run.display import lines as text
from rl.samplers.rollout import Batch, Completion, Group
from rl.seeds import derive_seed
from rl.tasks.protocol import Prompt
from rl.tasks.registry import build_teaching_task
from rl.tasks.split import training_prompts
from rl.train import train
from tests.worlds import MODEL
from weightopt.table import TableError

pytestmark = pytest.mark.usefixtures("one_thread")

GROUP_SIZE = 4
SHAPE = {**MODEL, "layers": 2}
ALPHABET = "0123456789+="
TASK = {"name": "addition", "digits": {"1": 1}}


@pytest.fixture
def document(table_file: Callable[[str, int], Path]) -> dict[str, Any]:
    return {
        "table": str(table_file("linear-r", GROUP_SIZE)),
        "task": TASK,
        "model": SHAPE,
        "rollout": {"prompts_per_step": 8, "group_size": GROUP_SIZE, "max_new_tokens": 4},
        "optimizer": {"tokens_per_micro_batch": 100},
        "training": {"steps": 5, "evaluate_every": 2},
        "evaluation": {"prompts": 4, "samples": 2},
    }


@pytest.fixture
def started(document: dict[str, Any], start_model: Callable[..., Path]) -> dict[str, Any]:
    """The same from a start model."""
    return {**document, "start_model": str(start_model(ALPHABET, **SHAPE))}


def test_what_is_counted(started: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rl.preview, "SECONDS", np.inf)
    config = parse_config(started)
    found = dry_run(config)
    embedding, blocks = 14 * 16, 2 * (4 * 16 * 16 + 3 * 16 * 24 + 2 * 16)
    assert found.parameters == found.trained == embedding + blocks + 16
    assert found.memory["device"] == "cpu"
    memory = found.memory["phases"]["learning"]
    assert memory["weights"] == memory["gradients"] == memory["sampler"] == 4 * found.parameters
    assert memory["AdamW"] == 8 * found.parameters
    # A residual stream, two norms, q, k, v, the attention's and the MLP's products, in each of two layers: of the
    # order of 20 vectors of width 16 to 24 a token, and a micro-batch has 100 tokens.
    assert 2 * 10 * 16 * 4 * 100 < memory["activations"] < 2 * 60 * 24 * 4 * 100
    assert min(found.seconds["sampling"], found.seconds["learning"], found.seconds["update and hand-over"]) > 0
    assert found.evaluation > 0
    assert (found.probe["responses"], found.probe["new_tokens"]) == (8 * GROUP_SIZE, 4)
    prompts = training_prompts(build_teaching_task(config.task), count=8, seed=derive_seed(0, "prompts", 1))
    assert found.prompts == tuple(prompt.text for prompt in prompts[:3])
    assert len(found.responses) == 3
    assert found.verdict is None


@pytest.mark.slow
def test_only_an_adapter_has_gradients(started: dict[str, Any]) -> None:
    config = parse_config({**started, "lora": {"rank": 1}})
    found = dry_run(config)
    # q, k, v, o: 16 + 16; gate, up, down: 16 + 24; in each of two layers.
    assert found.trained == 2 * (4 * 32 + 3 * 40)
    memory = found.memory["phases"]["learning"]
    assert memory["gradients"] == 4 * found.trained
    assert memory["AdamW"] == 8 * found.trained
    # The sampler has the adapter merged in.
    assert memory["sampler"] == 4 * (found.parameters - found.trained) == memory["weights"] - 4 * found.trained


def test_the_command_prints_and_writes_nothing(
    document: dict[str, Any], tmp_path: Path, invoke: Callable[..., Any]
) -> None:
    path = tmp_path / "run.toml"
    path.write_text("task = { name = 'addition', digits = { 1 = 1 } }\n")
    arguments = ["--config", path, "--table", document["table"], "--output", tmp_path / "run", "--dry-run"]
    for section in ("model", "rollout", "optimizer", "training", "evaluation"):
        for key, value in document[section].items():
            arguments += ["--set", f"{section}.{key}={json.dumps(value)}"]
    result = invoke(command.train, *arguments, "--answer", "nonsense")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert result.stderr == ""
    assert max(map(len, lines)) <= text.WIDTH
    labels = [line[: text.LABEL].rstrip() for line in lines if line[0] != " "]
    assert labels[:7] == ["model", "memory", "cards", "step", "run", "estimate", "seen"]
    assert labels[7:] == ["prompt 1", "response", "prompt 2", "response", "prompt 3", "response", "answer"]
    assert lines[-1].strip() == "to prompt 1 is wrong: no answer can be read in it"
    # A sum stands beside its parts, in one unit, and is their sum as it is shown.
    block = {
        label: [line[text.LABEL :] for line in lines[lines.index(first) : lines.index(last)]]
        for label, first, last in [
            (label, *(next(line for line in lines if line.startswith(each)) for each in (label, following)))
            for label, following in (("memory", "cards"), ("step", "run"))
        ]
    }
    # The plan is the same where no table is named, which is refused then.
    bare = [each for each in arguments if each not in ("--table", document["table"])]
    refused = invoke(command.train, *bare)
    assert "no weight table is given" in refused.stderr
    assert refused.stdout.splitlines() == lines[1 : next(n for n, line in enumerate(lines) if line.startswith("step"))]
    total, _, parts = " ".join(block["step"]).partition(": ")
    shown = [float(part.split()[-1]) for part in parts.split(", ")]
    assert len(shown) >= 3
    assert float(total.split()[0]) == pytest.approx(sum(shown), abs=0.05 * len(shown))
    assert block["memory"][0].split() == ["MiB", "a", "process,", "cpu", "sampling", "learning", "hand-over"]
    weights = next(line for line in block["memory"] if line.startswith("weights"))
    assert len(set(weights.split()[1:])) == 1
    assert block["memory"][-1].startswith("sum")
    prompt = next(line for line in lines if line.startswith("prompt 1")).partition("│ ")[2]
    left, right = prompt.rstrip("=").split("+")
    result = invoke(command.train, *arguments, "--answer", int(left) + int(right), "--json")
    assert json.loads(result.stdout)["verdict"] == "right"
    assert list(tmp_path.iterdir()) == [path]


def test_memory_is_told_of_a_run_that_this_machine_cannot_make(
    table_file: Callable[[str, int], Path], invoke: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl.samplers.registry.find_spec", lambda _: None)
    arguments = ("--config", "tinyzero-countdown", "--table", table_file("linear-r", 16), "--dry-run")
    result = invoke(command.train, *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("weightopt: sampler.backend = 'vllm' needs vLLM")
    lines = result.stdout.splitlines()
    head = ["memory", "GiB", "a", "process,", "cuda", "sampling", "learning", "hand-over", "first", "hand-over"]
    assert lines[0].split() == head
    shown = {line.split()[0]: line.split()[1:] for line in lines}
    assert shown["weights"] == ["11.50"] * 4
    assert shown["gradients"] == ["11.50"] * 3  # there are none yet at the first hand-over
    cards = {line.split(" GB")[0].strip(): line.split(" GB")[1] for line in lines if " GB " in line}
    assert cards.keys() == {"24", "40", "80", "141"}
    assert "lacks" in cards["40"]
    assert "lacks" not in cards["80"]
    assert invoke(command.train, *arguments, "--json").stdout == ""
    unknown = invoke(command.train, *arguments, "--set", "start_model=hub:owner/absent")
    assert unknown.stdout.startswith("memory    it cannot be planned: the shape of start_model 'hub:owner/absent'")


def test_texts_are_shown_as_they_are(started: dict[str, Any]) -> None:
    found = dry_run(parse_config(started))
    lines = report(found, parse_config(started), answer="two \n\x1b[31mlines\n" + "x" * 3000)
    shown = [line[text.LABEL :] for line in lines[-4:-1]]
    assert shown == ["│ two·", "│ \\x1b[31mlines", f"│ {'x' * (text.SHOWN - 16)}…"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--answer", "4", "--output", "o"), "--answer goes with --dry-run.\n"),
        ((), "weightopt: missing option '--output'.\n"),
        (("--dry-run",), "no weight table is given"),
    ],
)
def test_misuse_is_one_sentence(
    tmp_path: Path, invoke: Callable[..., Any], arguments: tuple[str, ...], sentence: str
) -> None:
    path = tmp_path / "run.toml"
    path.write_text("task = { name = 'addition', digits = { 1 = 1 } }\n")
    result = invoke(command.train, "--config", path, *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"sampler": {"backend": "vllm"}},
        {"tracking": {"trackers": ["wandb"]}},
        {"evaluation": {"prompts": 1000}},
        {"table": None},
        {"table": "absent.json"},
        {"rollout": {"group_size": 5}},
        {"device": "cuda:7"},
        {"start_model": "absent"},
        {"start_model": None, "task": {"name": "countdown-text"}},
        {"task": {"name": "countdown", "numbers": {"2": 1}, "largest_number": 9, "largest_target": 99}},
        {"task": {"name": "countdown-text", "chat": True}},
        {"task": {"name": "import", "path": "rl_absent:task"}},
        {"lora": {"rank": 2, "targets": ["nothing"]}},
        {"kl": {"coefficient": 0.1, "reference": "absent"}},
        {"rollout": {"max_new_tokens": 99}},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_what_a_run_refuses_is_refused_in_its_words(
    started: dict[str, Any], changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for module in ("rl.samplers.registry", "rl.run.prepare"):
        monkeypatch.setattr(f"{module}.find_spec", lambda _: None)
    config = parse_config({**started, **changes, "verifier": {"workers": 1}})
    said = []
    for attempt in (lambda: train(config, tmp_path / "run", quiet=True), lambda: dry_run(config)):
        with pytest.raises(ValueError) as refusal:  # noqa: PT011
            attempt()
        said.append((type(refusal.value), str(refusal.value)))
    assert said[0] == said[1]


def test_the_folder_is_looked_at_and_left_alone(started: dict[str, Any], tmp_path: Path) -> None:
    config = parse_config({**started, "training": {"steps": 1}})
    output = tmp_path / "run"
    (tmp_path / "note").write_text("")
    with pytest.raises(UsageError, match=r"holds no run\.json"):
        dry_run(config, output=tmp_path, resume=True)
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        dry_run(config, output=tmp_path / "note" / "run")
    with pytest.raises(UsageError, match="cannot be written: File exists"):
        dry_run(config, output=tmp_path / "note")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="cannot be written: File exists"):
        dry_run(config, output=tmp_path / "link")
    train(config, output, quiet=True)
    with pytest.raises(UsageError, match="add --resume to go on"):
        dry_run(config, output=output)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    longer = parse_config({**started, "training": {"steps": 2}})
    assert dry_run(longer, output=output, resume=True)
    with pytest.raises(UsageError, match="'seed' was 0 and is now 1"):
        dry_run(parse_config({**started, "seed": 1}), output=output, resume=True)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_a_model_that_does_not_fit_is_refused(started: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rl.run.prepare, "free_memory", lambda _: 2**16)
    with pytest.raises(UsageError, match=r"^the run does not fit: sampling takes 0\.0 GiB .*cpu has 0\.0 GiB free; "):
        dry_run(parse_config(started))


def test_free_memory_is_some_of_what_the_machine_has() -> None:
    import torch

    free = free_memory(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50


@pytest.mark.parametrize(("limit", "left"), [(str(2**20), 2**20 - 2**18 + 2**16), ("max", None)])
def test_a_container_may_leave_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, left: int | None
) -> None:
    from rl.models import policy

    told = {"limit": limit, "used": str(2**18), "memory.stat": f"anon 7\ninactive_file {2**16}"}
    for name, line in told.items():
        (tmp_path / name).write_text(line + "\n")
    monkeypatch.setattr(policy, "CONTROL_GROUPS", [(tmp_path / "none", "a", "b"), (tmp_path, "limit", "used")])
    found = free_memory(policy.choose_device("cpu"))
    if found is not None:  # else this system says nothing at all
        assert found == left if left else found > 2**20


def test_long_runs_are_told_in_hours(started: dict[str, Any]) -> None:
    config = parse_config({**started, "training": {"steps": 10**9}})
    assert any(" h: 1,000,000,000 steps" in line for line in report(dry_run(config), config))


def test_a_sampler_that_draws_ahead_is_told_with_its_lag(started: dict[str, Any]) -> None:
    config = parse_config({**started, "sampler": {"ahead": "cpu"}, "training": {"steps": 1000, "evaluate_every": 1000}})
    found = dry_run(config)
    long = dataclasses.replace(found, seconds={"sampling": 30.0, "verifying": 10.0, "learning": 15.0}, evaluation=0.0)
    lines = report(long, config)
    assert "From step 2 on responses come from cpu with a lag of 1" in " ".join(" ".join(lines).split())
    assert any("8.3 h: 1,000 steps" in line for line in lines)
    assert any(
        "15.3 h: 1,000 steps" in line for line in report(long, parse_config({**config.to_json(), "sampler": {}}))
    )


# The probe, against clocks that are made to run.


class Clock:
    """Time that passes only where it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(rl.preview.time, "perf_counter", lambda: self.now)


class Steady:
    """A sampler that takes ``reading`` seconds a prompt and ``writing`` a token, and ends responses at ``length``."""

    def __init__(self, clock: Clock, *, reading: float, writing: float, length: int) -> None:
        self.clock, self.reading, self.writing, self.length = clock, reading, writing, length
        self.asked: list[tuple[int, int, int]] = []

    def sample(self, prompts: Any, *, group_size: int, max_new_tokens: int, **_: object) -> Batch:
        self.asked.append((len(prompts), group_size, max_new_tokens))
        tokens = min(self.length, max_new_tokens)
        self.clock.now += len(prompts) * (self.reading + group_size * tokens * self.writing)
        completion = Completion(
            tokens=(3,) * tokens, log_probs=(-1.0,) * tokens, text="1", finished=self.length <= max_new_tokens
        )
        return Batch(
            groups=tuple(Group(prompt=p, prompt_tokens=(2, 3), completions=(completion,) * group_size) for p in prompts)
        )


PROMPTS = tuple(Prompt(id=str(i), text=f"{i}+1=", difficulty="", problem=None) for i in range(8))


def asking(group_size: int, tokens: int) -> Config:
    rollout = {"prompts_per_step": 8, "group_size": group_size, "max_new_tokens": tokens}
    return parse_config({"task": TASK, "rollout": rollout})


def test_what_is_quick_is_measured_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler: Any = Steady(Clock(monkeypatch), reading=0.01, writing=1e-5, length=20)
    batch, seconds, found = probe_sampling(sampler, PROMPTS, asking(40, 100))
    assert sampler.asked[-2:] == [(4, 16, 64), (8, 16, 64)]
    assert (found["responses"], found["new_tokens"], found["finished"]) == (128, 64, 1.0)
    assert batch.responses == 128
    assert seconds == pytest.approx(0.01 / 16 + 20 * 1e-5)


def test_what_is_slow_stops_growing_and_is_counted_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    sampler: Any = Steady(clock, reading=0.1, writing=0.002, length=10_000)
    _, seconds, found = probe_sampling(sampler, PROMPTS[:4], asking(16, 1000))
    assert clock.now < 2 * rl.preview.SECONDS
    assert found["new_tokens"] < 1000
    # The prompt is read once a group, and a token more takes what a token takes: exact here, since nothing is uneven.
    assert seconds == pytest.approx(0.1 / 16 + 1000 * 0.002)


def test_a_verifier_that_takes_its_time_is_asked_for_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    sampler: Any = Steady(clock, reading=0.0, writing=0.0, length=5)

    class Slow:
        def verify(self, prompt: Prompt[Any], response: str) -> bool:  # noqa: ARG002
            clock.now += 1
            return True

    batch = sampler.sample(PROMPTS, group_size=8, max_new_tokens=4)
    assert probe_judging(batch, Slow()) == (0, 1)  # they were cut, and are judged all the same
    assert clock.now == 8
    assert probe_judging(sampler.sample(PROMPTS[:1], group_size=2, max_new_tokens=5), Slow())[0] == 1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_tokens_of_a_step_are_those_of_its_micro_batches(
    started: dict[str, Any], checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a count on the model itself: how many tokens it is given in a pass over every micro-batch of a step."""
    changes = {"policy": {"gradient_checkpointing": checkpointing}}
    config = parse_config({**started, **changes})
    policy = load_policy(Path(started["start_model"]), config.policy)
    prompts = training_prompts(build_teaching_task(config.task), count=8, seed=0)
    sampler: Any = Steady(Clock(monkeypatch), reading=0.0, writing=0.0, length=3)
    batch = sampler.sample(prompts, group_size=GROUP_SIZE, max_new_tokens=4)
    monkeypatch.undo()
    rng = np.random.default_rng(0)
    groups = tuple(
        Group(
            prompt=group.prompt,
            prompt_tokens=policy.encode_prompt(group.prompt.text),
            completions=tuple(
                Completion(tokens=tuple(rng.integers(2, 14, 3).tolist()), log_probs=(-1.0,) * 3, text="", finished=True)
                for _ in group.completions
            ),
        )
        for group in batch.groups
    )
    sampled = Batch(groups=groups)
    _, learnt = probe_learning(policy, sampled, config)
    rows = rl.preview.rows_of(sampled, np.ones((8, GROUP_SIZE)))
    seen = 0

    def count(_: Any, __: Any, arguments: dict[str, Any]) -> None:
        nonlocal seen
        seen += arguments["input_ids"].numel()

    policy.output_layer.decoder.register_forward_pre_hook(count, with_kwargs=True)
    for piece in micro_batches(rows, 100, layout=policy.layout):
        said = list({row.prompt: None for row in piece})
        policy.token_log_probs(said, [said.index(row.prompt) for row in piece], [row.response for row in piece])
    assert learnt["in_a_step"] == seen


def test_several_updates_and_a_reference_take_their_time(
    started: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(**changes: Any) -> float:
        config = parse_config({**started, **changes})
        policy = load_policy(Path(started["start_model"]), config.policy)
        prompts = training_prompts(build_teaching_task(config.task), count=8, seed=0)
        sampler: Any = Steady(Clock(monkeypatch), reading=0.0, writing=0.0, length=3)
        batch, _, _ = probe_sampling(sampler, prompts, config)
        monkeypatch.setattr(rl.preview, "_timed", lambda work: (work(), 1.0))
        return probe_learning(policy, batch, config)[0]

    once = seconds()
    assert seconds(optimizer={**started["optimizer"], "epochs": 3}) == pytest.approx(once * (3 + 1 / 3))
    assert seconds(optimizer={**started["optimizer"], "mini_batches": 4}) == pytest.approx(once * (1 + 1 / 4))
    assert seconds(kl={"coefficient": 0.1}) == pytest.approx(once * (1 + 1 / 3))


def test_of_a_huge_step_a_part_is_looked_at(started: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rl.preview, "SECONDS", np.inf)
    rollout = {"group_size": GROUP_SIZE, "max_new_tokens": 4}
    steps = {
        count: dry_run(parse_config({**started, "rollout": {**rollout, "prompts_per_step": count}}))
        for count in (64, 65536)
    }
    assert [len(found.prompts) for found in steps.values()] == [3, 3]
    assert steps[65536].probe["in_a_step"] == 1024 * steps[64].probe["in_a_step"]


def test_what_was_cut_counts_as_many_responses_of_full_length(started: dict[str, Any], monkeypatch: Any) -> None:
    """Responses cut after one token are equal, and what they would have become is not."""
    config = parse_config(started)
    policy = load_policy(Path(started["start_model"]), config.policy)
    sampler: Any = Steady(Clock(monkeypatch), reading=0.0, writing=0.0, length=10)
    batch = sampler.sample(PROMPTS[:1], group_size=GROUP_SIZE, max_new_tokens=1)
    _, learnt = probe_learning(policy, batch, config)
    # A prompt of 2 tokens, the first token of all its responses, and two more of each; the last of 4 is not read.
    assert learnt["in_a_step"] == 8 * (2 + 1 + GROUP_SIZE * 2)


def test_a_table_of_another_size_is_named(started: dict[str, Any], table_file: Callable[[str, int], Path]) -> None:
    other = str(table_file("rloo", 8))
    for changes, name in [
        ({"table": other}, "table"),
        ({"later_tables": [{"from_step": 2, "table": other}]}, "later_tables.0.table"),
    ]:
        with pytest.raises(TableError, match=f"^{name} '{re.escape(other)}': key 'group_size' is 8 but 4 responses"):
            dry_run(parse_config({**started, **changes}))


def test_an_interruption_is_one_sentence(
    started: dict[str, Any], tmp_path: Path, invoke: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rl.preview, "probe_learning", interrupted)
    path = tmp_path / "run.toml"
    path.write_text("task = { name = 'addition', digits = { 1 = 1 } }\n")
    options = ["--set", f"start_model={started['start_model']}", "--set", f"rollout.group_size={GROUP_SIZE}"]
    options += ["--set", "rollout.max_new_tokens=4", "--set", "evaluation.prompts=4"]
    before = threading.active_count()
    result = invoke(command.train, "--config", path, "--table", started["table"], "--dry-run", *options)
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "weightopt: interrupted; nothing was written.\n"
    assert threading.active_count() == before
