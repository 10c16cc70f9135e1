"""The plan of memory: counted parameters, phases, cards, and the peak that torch's own allocator reports."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from rl.config import Config, load_config, parse_config
from rl.errors import UsageError
from rl.learning.update import learn, new_optimizer
from rl.models.config import ModelConfig
from rl.models.memory import CARDS, GIB, KNOWN, MemoryPlan, ModelShape, plan_memory, shape_in, shape_of
from rl.models.packing import pack
from rl.models.policy import Policy, new_policy, save_policy
from rl.run import prepare
from rl.samplers.rollout import Batch, Completion, Group
from rl.samplers.torch_sampler import TorchSampler
from rl.step.schedule import TableSchedule
from rl.tasks.protocol import Prompt
from rl.tasks.registry import build_teaching_task
from rl.tasks.split import ProblemList
from tests.amounts import some_of

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIGS = Path(__file__).parent.parent / "configs"
TASK = {"name": "addition", "digits": {"1": 1}}

# What the cards of these models on the hub say of their number of parameters.
PARAMETERS = {
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
}


def settings(name: str = "hub:Qwen/Qwen2.5-1.5B", **sections: Any) -> Config:
    rollout = {"prompts_per_step": 32, "group_size": 8, "max_new_tokens": 256}
    return parse_config({"task": TASK, "start_model": name, "rollout": rollout, **sections})


@some_of("name", sorted(PARAMETERS), 2)
def test_known_shapes_have_the_parameters_of_the_published_models(name: str) -> None:
    assert KNOWN.keys() == PARAMETERS.keys()
    shape = shape_of(settings(f"hub:{name}-Instruct"))
    assert shape.parameters == PARAMETERS[name]
    assert shape.layers * shape.layer < shape.parameters


def test_a_shape_that_is_not_known_is_one_sentence() -> None:
    for name in ("hub:owner/absent", "absent"):
        with pytest.raises(UsageError, match=f"^it cannot be planned: the shape of start_model '{name}' is not known"):
            shape_of(settings(name))


def test_a_folder_has_the_shape_of_its_model(tmp_path: Path) -> None:
    model = ModelConfig(layers=3, hidden_size=16, intermediate_size=24, heads=2, context=32)
    policy = new_policy(model, "abc", seed=0)
    save_policy(policy, tmp_path / "model")
    made = parse_config({"task": TASK, "model": model.model_dump(exclude={"initializer_range"})})
    shape = shape_in(tmp_path / "model")
    assert shape == shape_of(settings(str(tmp_path / "model"))) == shape_of(made, alphabet="abc")
    assert shape.parameters == policy.model.num_parameters()
    # A shape is told without weights too, unless building it would take for ever.
    (tmp_path / "model" / "model.safetensors").unlink()
    assert shape_in(tmp_path / "model") == shape
    about = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(about | {"num_hidden_layers": 10**9}))
    with pytest.raises(UsageError, match=r"num_hidden_layers is 1000000000 .* must be between 1 and 1000$"):
        shape_in(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"^model '.*model' cannot be read: "):
        shape_of(settings(str(tmp_path / "model")))


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
def test_an_adapter_has_the_parameters_that_peft_gives_it(targets: Any) -> None:
    import peft

    about = AutoConfig.for_model("qwen2", vocab_size=50, **SIZES, num_key_value_heads=2, tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_config(about)
    config = settings(lora={"rank": 3, "targets": targets})
    wrapped: Any = peft.get_peft_model(
        model,
        peft.LoraConfig(task_type="CAUSAL_LM", r=3, target_modules=targets),  # type: ignore[arg-type]
    )
    assert ModelShape.of(about).adapter(config.lora) == sum(
        each.numel() for each in wrapped.parameters() if each.requires_grad
    )


# Against torch's own account of what it has allocated.

SIZES = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4}
PROMPTS, GROUP_SIZE, PROMPT_TOKENS, NEW_TOKENS = 4, 8, 8, 24

# Where most is activations; logits in pieces, with two places for one weight; layers that are computed again.
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "deep": ({**SIZES, "vocab_size": 100, "num_hidden_layers": 6}, {}),
    "a large vocabulary": ({**SIZES, "vocab_size": 12_000}, {"policy": {"logits_at_once": 2**20}}),
    "checkpointed": (
        {**SIZES, "vocab_size": 500, "num_hidden_layers": 12, "tie_word_embeddings": False},
        {"policy": {"gradient_checkpointing": True}},
    ),
}


def most_allocated(work: Callable[[], Any], trace: Path) -> int:
    """Most bytes of tensors at a time while ``work`` is done, beside those that were there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = work()
    profiler.export_chrome_trace(str(trace))
    events = [each for each in json.loads(trace.read_text())["traceEvents"] if each.get("name") == "[memory]"]
    held: dict[int, int] = {}
    now = most = 0
    for event in sorted(events, key=lambda event: event["ts"]):
        address, size = event["args"]["Addr"], event["args"]["Bytes"]
        if size > 0:
            held[address] = size
        now += size if size > 0 else -held.pop(address, 0)
        most = max(most, now)
    assert kept is not None
    return most


def batch(vocabulary: int) -> Batch:
    rng = np.random.default_rng(0)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(rng.integers(2, vocabulary, length).tolist())

    return Batch(
        groups=tuple(
            Group(
                prompt=Prompt(id=str(number), text="", difficulty="", problem=None),
                prompt_tokens=tokens(PROMPT_TOKENS),
                completions=tuple(
                    Completion(tokens=tokens(NEW_TOKENS), log_probs=(-1.0,) * NEW_TOKENS, text="", finished=True)
                    for _ in range(GROUP_SIZE)
                ),
            )
            for number in range(PROMPTS)
        )
    )


def test_the_plan_bounds_texts_of_mixed_lengths(tmp_path: Path) -> None:
    """A response of full length in each group, and short ones that attention would pad to it."""
    about = AutoConfig.for_model("llama", **SIZES, vocab_size=100, tie_word_embeddings=True)
    rollout = {"prompts_per_step": PROMPTS, "group_size": GROUP_SIZE, "max_new_tokens": 160}
    config = parse_config({"task": TASK, "rollout": rollout, "optimizer": {"tokens_per_micro_batch": 400}})
    tokenizer = new_policy(ModelConfig(layers=1, hidden_size=8, intermediate_size=8, heads=1), "ab", seed=0).tokenizer
    rng = np.random.default_rng(0)

    def response(length: int) -> Completion:
        tokens = tuple(rng.integers(2, 100, length).tolist())
        return Completion(tokens=tokens, log_probs=(-1.0,) * length, text="", finished=True)

    mixed = Batch(
        groups=tuple(
            replace(group, completions=tuple(response(160 if not one else 4 + one) for one in range(GROUP_SIZE)))
            for group in batch(100).groups
        )
    )

    def work() -> Policy:
        model = AutoModelForCausalLM.from_config(about, attn_implementation="eager").eval()
        pack(model)
        policy = Policy(model=model, tokenizer=tokenizer, settings=config.policy)
        optimizer, sampler = new_optimizer(policy, config.optimizer), TorchSampler(policy)
        advantages = rng.normal(size=(PROMPTS, GROUP_SIZE))
        learn(policy, optimizer, mixed, advantages, config.optimizer, config.rollout, step=1, seed=0)
        assert sampler is not None
        return policy

    plan = plan_memory(config, ModelShape.of(about), device="cpu", prompt_tokens=PROMPT_TOKENS)
    assert most_allocated(work, tmp_path / "trace.json") < 1.05 * plan.peak_learning


@pytest.mark.parametrize("name", SHAPES)
def test_the_plan_is_within_15_percent_of_the_peak(name: str, tmp_path: Path) -> None:
    """Two steps and a hand-over, from the model's making on; what is sampled is given."""
    sizes, sections = SHAPES[name]
    about = AutoConfig.for_model("llama", **{"tie_word_embeddings": True, **sizes})
    rollout = {"prompts_per_step": PROMPTS, "group_size": GROUP_SIZE, "max_new_tokens": NEW_TOKENS}
    config = parse_config({"task": TASK, "rollout": rollout, **sections})
    tokenizer = new_policy(ModelConfig(layers=1, hidden_size=8, intermediate_size=8, heads=1), "ab", seed=0).tokenizer
    sampled, advantages = batch(about.vocab_size), np.random.default_rng(1).normal(size=(PROMPTS, GROUP_SIZE))

    def work() -> Policy:
        model = AutoModelForCausalLM.from_config(about, attn_implementation="eager").eval()
        if config.policy.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        pack(model)
        policy = Policy(model=model, tokenizer=tokenizer, settings=config.policy)
        optimizer, sampler = new_optimizer(policy, config.optimizer), TorchSampler(policy)
        for step in (1, 2):
            learn(policy, optimizer, sampled, advantages, config.optimizer, config.rollout, step=step, seed=0)
        sampler.publish(policy.published_weights())
        return policy

    plan = plan_memory(config, ModelShape.of(about), device="cpu", prompt_tokens=PROMPT_TOKENS)
    assert plan.peak_learning == pytest.approx(most_allocated(work, tmp_path / "trace.json"), rel=0.15)


# What the phases are made of.


def test_what_is_trained_is_shared_out_and_what_is_whole_is_not() -> None:
    config = settings(sampler={"backend": "vllm", "sleep": True, "kv_cache_gib": 4}, policy={"precision": "bf16"})
    shape = shape_of(config)
    one, four = (plan_memory(config, shape, ranks=ranks) for ranks in (1, 4))
    for phase in ("sampling", "learning", "hand-over"):
        for part, size in (("weights", 4), ("gradients", 4), ("AdamW", 8)):
            assert one.phases[phase][part] == size * shape.parameters
            assert four.phases[phase][part] == size * shape.parameters // 4
    assert one.phases["sampling"]["engine"] == four.phases["sampling"]["engine"] == 2 * shape.parameters
    assert "engine" not in one.phases["learning"]
    assert four.phases["start"]["weights"] == 4 * shape.parameters
    assert one.cache_tokens == 4 * GIB // (2 * 28 * 256 * 2)
    awake = settings(sampler={"backend": "vllm", "kv_cache_gib": 4}, policy={"precision": "bf16"})
    more = plan_memory(awake, shape).phases["learning"]
    assert sum(more.values()) - sum(one.phases["learning"].values()) == 4 * GIB + 2 * shape.parameters


@pytest.mark.parametrize("sampler", [{}, {"backend": "vllm"}], ids=["torch", "vllm"])
def test_a_sampler_that_draws_ahead_takes_nothing_of_the_gpu_that_trains(sampler: dict[str, Any]) -> None:
    config = settings(sampler=sampler)
    elsewhere = settings(sampler={**sampler, "ahead": "cuda:1"})
    shape = shape_of(config)
    here, apart = (plan_memory(each, shape) for each in (config, elsewhere))
    held = {"weights", "gradients", "AdamW", "CUDA"}
    assert [apart.phases[phase].keys() for phase in ("sampling", "hand-over")] == [held, held]
    assert apart.phases["learning"].keys() == held | {"activations", "logits"}
    for phase, parts in apart.phases.items():
        assert all(here.phases[phase][part] >= size for part, size in parts.items())
    assert apart.engine == here.engine


def test_a_process_that_draws_ahead_on_the_cpu_shares_weights_there() -> None:
    config, ahead = settings(), settings(sampler={"ahead": "cpu"})
    shape = shape_of(config)
    here, apart = (plan_memory(each, shape, device="cpu").phases["sampling"] for each in (config, ahead))
    assert apart == {**here, "sampler": here["sampler"] + 4 * shape.parameters}


def test_an_adapter_has_no_reference_and_a_penalty_has_one() -> None:
    shape = shape_of(settings())
    penalised: dict[str, Any] = {"kl": {"coefficient": 0.1}}
    adapted: dict[str, Any] = {"lora": {"rank": 8}, "policy": {"precision": "bf16"}}

    def bytes_of(sections: dict[str, Any], ranks: int = 1) -> Mapping[str, int]:
        return plan_memory(settings(**sections), shape, ranks=ranks).phases["sampling"]

    assert "reference" not in bytes_of({})
    assert bytes_of(penalised)["reference"] == 4 * shape.parameters
    assert "reference" not in bytes_of(adapted | penalised)
    assert bytes_of(adapted | penalised, ranks=2)["reference"] == 2 * shape.parameters
    adapter = shape.adapter(settings(**adapted).lora)
    assert bytes_of(adapted)["weights"] == 2 * shape.parameters + 4 * adapter
    assert bytes_of(adapted)["AdamW"] == 8 * adapter


def test_the_first_hand_over_finds_keys_and_values() -> None:
    """Beside an adapter, whose gradients are small, it takes more than sampling."""
    engine = {"backend": "vllm", "sleep": True, "kv_cache_gib": 4, "context": 1024}
    config = settings(sampler=engine, lora={"rank": 8}, policy=CHECKPOINTED)
    plan = plan_memory(config, shape_of(config))
    first, later = (plan.phases[phase] for phase in ("first hand-over", "hand-over"))
    assert first.keys() == (later.keys() | {"KV cache"}) - {"gradients"}
    assert all(first[part] == size for part, size in later.items() if part != "gradients")
    assert plan.peak >= sum(first.values()) > sum(plan.phases["sampling"].values())


def test_a_merged_copy_is_planned_where_it_is_made() -> None:
    shape = shape_of(settings())
    adapted = settings(lora={"rank": 8}, policy={"precision": "bf16"})
    for device, beside in (
        ("cuda", 0),
        ("cpu", plan_memory(adapted, shape, device="cpu").phases["learning"]["sampler"]),
    ):
        merging = plan_memory(adapted, shape, device=device).phases["merging"]
        assert merging["merged copy"] == 4 * shape.parameters
        assert merging.get("sampler", 0) == beside
    engine = settings(lora={"rank": 8}, policy=CHECKPOINTED, sampler={"backend": "vllm"})
    assert "merging" not in plan_memory(engine, shape).phases


def test_an_evaluation_that_samples_more_than_a_step_is_planned() -> None:
    shape = shape_of(settings())

    def keys(**evaluation: int) -> int:
        return plan_memory(settings(evaluation=evaluation), shape, device="cpu").phases["sampling"]["KV cache"]

    assert keys(prompts=64, samples=4) == keys(prompts=8, samples=1)  # a step's 32 groups of 8
    assert keys(prompts=64, samples=8) == 2 * keys(prompts=64, samples=4)


def test_attention_with_a_cap_is_planned_as_plain_products() -> None:
    whole = {"tokens_per_micro_batch": 2**20}  # or probabilities would count as tokens of it
    config = settings(policy={"precision": "bf16"}, optimizer=whole)
    shape = shape_of(config)
    assert not shape.capped
    plain = plan_memory(settings(policy={"precision": "bf16", "attention": "eager"}, optimizer=whole), shape)
    assert plan_memory(config, replace(shape, capped=True)).phases == plain.phases
    assert plain.peak_learning > plan_memory(config, shape).peak_learning
    assert ModelShape.of(AutoConfig.for_model("gemma2", **SIZES, vocab_size=50, head_dim=16)).capped


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("mamba2", {"num_heads": 4, "head_dim": 8, "n_groups": 1, "hidden_size": 16, "state_size": 8}),
        ("lfm2", {"layer_types": ["conv", "full_attention"], "hidden_size": 16, "num_attention_heads": 2}),
    ],
)
def test_a_model_that_keeps_a_state_is_refused_without_its_weights(
    kind: str, sizes: dict[str, Any], tmp_path: Path
) -> None:
    AutoConfig.for_model(kind, num_hidden_layers=2, vocab_size=50, **sizes).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=f"^a model of type '{kind}' cannot be trained: .* more than keys and values"):
        shape_in(tmp_path)


def test_more_tokens_are_more_memory_and_pieces_bound_the_logits() -> None:
    shape = shape_of(settings())
    plans = [plan_memory(settings(), shape, tokens=tokens).peak_learning for tokens in (1024, 2048, 4096)]
    assert plans[0] < plans[1] < plans[2]
    pieces = [
        plan_memory(settings(policy={"logits_at_once": bound}), shape, device="cpu", tokens=64).phases["learning"][
            "logits"
        ]
        for bound in (2**20, 2**22)
    ]
    assert pieces[1] - pieces[0] == 4 * (2**22 - 2**20)


CHECKPOINTED = {"precision": "bf16", "gradient_checkpointing": True}


def test_a_device_that_is_too_small_is_refused_with_numbers() -> None:
    config = settings(sampler={"backend": "vllm", "sleep": True, "kv_cache_gib": 4}, policy=CHECKPOINTED)
    plan = plan_memory(config, shape_of(config))
    total = int(CARDS[40] * GIB)
    plan.check(total, what="cuda:0 has {} free")
    with pytest.raises(
        UsageError,
        match=r"^the run does not fit: \w+ takes \d\d\.\d GiB \(most are AdamW 11\.5, weights 5\.8, .*22\.0 GiB free; ",
    ):
        plan.check(int(CARDS[24] * GIB), what="cuda:0 has {} free")
    share = plan.utilization(total)
    assert plan.engine <= share * total < plan.engine + total / 5000
    alone = plan_memory(settings(), shape_of(settings()), device="cpu")
    with pytest.raises(UsageError, match=r"; train with \[lora\], or lower optimizer\.tokens_per_micro_batch$"):
        alone.check(GIB, what="cpu has {} free")


def test_a_run_is_refused_before_its_model_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_policy(new_policy(ModelConfig(), "0123456789+=", seed=0), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    config = settings(str(tmp_path / "model"))
    short, long = (Prompt(id=text, text=text, difficulty="", problem=0) for text in ("1", "1" * 40))
    listed = prepare.Prepared(
        task=ProblemList(training=(short, long), held_out=(short,)), held_out=(short,), tables=TableSchedule(tables={})
    )
    lengths: list[int] = []
    planned = prepare.plan_memory

    def plan(*arguments: Any, prompt_tokens: int, **options: Any) -> MemoryPlan:
        lengths.append(prompt_tokens)
        return planned(*arguments, prompt_tokens=prompt_tokens, **options)

    monkeypatch.setattr(prepare, "plan_memory", plan)
    check = partial(prepare.check_memory, config, tmp_path / "model", listed)
    monkeypatch.setattr(prepare, "free_memory", lambda _: GIB)
    check()  # on a CPU it is left to --dry-run
    monkeypatch.setattr(prepare, "choose_device", lambda _: torch.device("cuda:3"))
    with pytest.raises(
        UsageError, match=r"^the run does not fit: \w+ takes 1\.\d GiB .*, and cuda:3 has 1\.0 GiB free; "
    ):
        check()
    assert lengths == [40]  # the longest is a training problem


# What the configurations say of the machine that they are for.

MACHINE = re.compile(
    r"^# Machine: (?:(?P<gpus>\d+) GPUs? of (?P<card>\d+) GB|CPU, (?P<cpu>\d+) GB)(?: with (?P<change>\S+=\S+))?\.$",
    re.MULTILINE,
)


def plan_of(config: Config, *, ranks: int, device: str) -> MemoryPlan:
    alphabet = build_teaching_task(config.task).alphabet if config.start_model is None else ""
    return plan_memory(config, shape_of(config, alphabet=alphabet), ranks=ranks, device=device)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_config_fits_the_machine_that_it_names_and_so_does_its_resume(path: Path) -> None:
    machines = list(MACHINE.finditer(path.read_text(encoding="utf-8")))
    assert machines
    for machine in machines:
        config = load_config(path, [machine["change"]] if machine["change"] else [])
        if machine["cpu"]:
            for precision in ("fp32", "bf16") if config.policy.precision == "auto" else (config.policy.precision,):
                policy = config.policy.model_copy(update={"precision": precision})
                plan = plan_of(config.model_copy(update={"policy": policy}), ranks=1, device="cpu")
                # Beside its tensors a process takes a gigabyte for the libraries.
                assert plan.peak <= (int(machine["cpu"]) - 1) * 1e9
            continue
        ranks, total = int(machine["gpus"]), int(CARDS[int(machine["card"])] * GIB)
        plan = plan_of(config, ranks=ranks, device="cuda")
        plan.check(total, what=f"{path.stem} has {{}}")
        # The resumed start, by hand: the engine comes when weights and AdamW's means are there already.
        there = sum(plan.phases["sampling"][part] for part in ("weights", "AdamW", "CUDA"))
        assert total - there >= plan.utilization(total) * total
        # And half as many would not do.
        if ranks > 1:
            assert plan_of(config, ranks=ranks // 2, device="cuda").peak > total
