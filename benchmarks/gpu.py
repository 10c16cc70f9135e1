"""What needs a GPU, in parts: learning, sampling, training runs, sharding, resuming, vLLM.

    python -m benchmarks.gpu --output DIR [--parts kernel learn-1.5b ...] [--small] [--model-folder SMOLLM2]

Each part is a process of its own with a time limit, so that none takes another down with it; those that tell most come
first. It prints one JSON line when it ends, which is also appended to DIR/gpu.jsonl with the card and the versions. A
part that cannot run says what it needs. Models have the shapes of published ones and random weights made on the card:
nothing is read or fetched. With `--small` all parts run on a CPU in seconds, at sizes that measure nothing.

Learning is `rl.learning.update.learn`: forward and backward passes, clipping and AdamW. Model operations are counted as
the gradient needs them, a prompt once for its group and no padding, three times those of a forward pass (with LoRA
twice), without what is computed again; utilisation is their rate over the card's rate in bfloat16, that of its data
sheet and that of square products measured in the same process. Weights and optimizer are float32, and torch's autocast
computes in bfloat16. Beside the peak of memory stands what `rl.models.memory` plans for packed texts.
"""

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import machine

PACKAGES = ("torch", "transformers", "triton", "peft", "numpy", "pydantic", "safetensors", "vllm")
FILE = "gpu.jsonl"
GIB = 2**30

# Dense bfloat16 of the data sheets, operations a second, by a word of the card's name.
SHEETS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12, "B200": 2250e12}

# hidden, intermediate, layers, heads, keys, vocabulary, tied
SHAPES: Mapping[str, tuple[str, int, int, int, int, int, int, bool]] = {
    "0.5b": ("qwen2", 896, 4864, 24, 14, 2, 151936, True),
    "1.5b": ("qwen2", 1536, 8960, 28, 12, 2, 151936, True),
    "3b": ("qwen2", 2048, 11008, 36, 16, 2, 151936, True),
    "8b": ("llama", 4096, 14336, 32, 32, 8, 128256, False),
    "tiny": ("llama", 64, 96, 2, 4, 2, 300, True),
}
ALPHABET = "0123456789+-*/()=, "


class Needs(Exception):
    """Something is missing; the message says what."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """How a part runs.

    Attributes
    ----------
    device
        "cuda" or "cpu".
    small
        Whether sizes are those of a test.
    folder
        For files of the part, its own.
    model_folder
        A real model; None if none was named.
    result
        File for what has been found so far, should the part not come to its end; None for none.
    """

    device: str
    small: bool
    folder: Path
    model_folder: Path | None
    result: Path | None = None

    def tell(self, found: Mapping[str, Any]) -> None:
        """Keep what has been found so far."""
        if self.result is not None:
            self.result.write_text(json.dumps(found), encoding="utf-8")


# Learning.


def make_model(shape: str, device: str, *, dtype: Any) -> Any:
    """A model with random weights, made on the device."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    kind, hidden, intermediate, layers, heads, keys, vocabulary, tied = SHAPES[shape]
    config = {"qwen2": Qwen2Config, "llama": LlamaConfig}[kind](
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    with torch.device(device):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval()  # pyright: ignore[reportAttributeAccessIssue]


def make_policy(shape: str, job: Job, *, packed: bool, checkpointing: bool = False, lora: int = 0) -> Any:
    """A policy with random weights; with an adapter what is frozen is bfloat16."""
    import torch

    from rl.models.config import ModelConfig, PolicyConfig
    from rl.models.lora import Adapter
    from rl.models.packing import pack
    from rl.models.policy import Policy, new_policy

    precision = "fp32" if job.device == "cpu" else "bf16"
    frozen = torch.bfloat16 if lora and job.device != "cpu" else torch.float32
    model = make_model(shape, job.device, dtype=frozen)
    if packed:
        pack(model)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.disable_input_require_grads()
    tokenizer = new_policy(
        ModelConfig(layers=1, hidden_size=8, heads=1, intermediate_size=8), ALPHABET, seed=0
    ).tokenizer
    settings = PolicyConfig(precision=precision, gradient_checkpointing=checkpointing)
    policy = Policy(model=model, tokenizer=tokenizer, settings=settings)
    if not lora:
        return policy
    try:
        import peft
    except ImportError as error:
        raise Needs("peft, for an adapter") from error
    about = peft.LoraConfig(task_type="CAUSAL_LM", r=lora, lora_alpha=2 * lora, target_modules="all-linear")
    wrapped: Any = peft.get_peft_model(model, about)
    wrapped.base_model.model.eval()
    return policy.with_adapter(Adapter(wrapped=wrapped, base=Path(), base_weights=""))


def run_config(**sections: Any) -> Any:
    """The configuration of a run, for those who read no more of it than these sections."""
    from rl.config import TASK, parse_config

    return parse_config({"task": TASK, **sections})


def planned_gib(policy: Any, job: Job, sizes: Mapping[str, Any], *, tokens: int, lora: int) -> float:
    """What is planned for the tensors of a step of learning, GiB."""
    from rl.models.memory import ModelShape, plan_memory

    config = run_config(
        policy=policy.settings.model_dump(),
        lora={"rank": lora},
        rollout={
            "prompts_per_step": sizes["groups"],
            "group_size": sizes["size"],
            "max_new_tokens": sizes["responses"][1],
        },
        optimizer={"tokens_per_micro_batch": tokens},
        sampler={"backend": "vllm", "sleep": True},  # asleep it has no tensors, and here there is no sampler
    )
    shape = ModelShape.of(policy.model.config)
    return plan_memory(config, shape, device=job.device, prompt_tokens=sizes["prompt"]).peak_learning / GIB


def make_batch(vocabulary: int, *, groups: int, size: int, prompt: int, responses: tuple[int, int]) -> Any:
    """Groups of random tokens, lengths of responses even between two bounds."""
    import numpy as np

    from rl.samplers.rollout import Batch, Completion, Group
    from rl.tasks.protocol import Prompt

    rng = np.random.default_rng(0)

    def completion() -> Any:
        length = int(rng.integers(responses[0], responses[1] + 1))
        tokens = tuple(rng.integers(2, vocabulary, length).tolist())
        log_probs = (-math.log(vocabulary),) * length
        return Completion(tokens=tokens, log_probs=log_probs, text="", finished=True)

    return Batch(
        groups=tuple(
            Group(
                prompt=Prompt(id=str(number), text=str(number), difficulty="", problem=None),
                prompt_tokens=tuple(rng.integers(2, vocabulary, prompt).tolist()),
                completions=tuple(completion() for _ in range(size)),
            )
            for number in range(groups)
        )
    )


def operations(shape: str, batch: Any, *, passes: int) -> float:
    """Floating-point operations of a gradient: two for each weight that multiplies a token, four for each feature of a
    key that it sees; ``passes`` times those of the forward pass."""
    _, width, intermediate, layers, heads, keys, vocabulary, _ = SHAPES[shape]
    head = width // heads
    layer = width * head * (2 * heads + 2 * keys) + 3 * width * intermediate
    tokens = seen = told = 0.0
    for group in batch.groups:
        prompt = len(group.prompt_tokens)
        tokens, seen = tokens + prompt, seen + prompt**2 / 2
        for each in group.completions:
            length = len(each.tokens)
            tokens, told = tokens + length - 1, told + length
            seen += (length - 1) * (prompt + length / 2)
    return passes * (layers * (2 * layer * tokens + 4 * heads * head * seen) + 2 * width * vocabulary * told)


def matrix_rate(device: str) -> float:
    """Floating-point operations a second of square products in bfloat16, the mean of ten after three."""
    import torch

    size = 8192 if device == "cuda" else 256
    left, right = torch.randn(2, size, size, device=device).bfloat16()
    for count in (3, 10):
        synchronize(device)
        began = time.perf_counter()
        for _ in range(count):
            torch.matmul(left, right)
        synchronize(device)
    return 10 * 2 * size**3 / (time.perf_counter() - began)


def synchronize(device: str) -> None:
    """Wait for the device."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


@contextmanager
def peak_of(device: str) -> Iterator[dict[str, float]]:
    """The most that torch holds on the card during a ``with`` block, and reserves for it, GiB."""
    import torch

    found: dict[str, float] = {}
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    yield found
    if device == "cuda":
        torch.cuda.synchronize()
        found["peak_gib"] = torch.cuda.max_memory_allocated() / GIB
        found["reserved_gib"] = torch.cuda.max_memory_reserved() / GIB


def timed_steps(policy: Any, batch: Any, job: Job, *, tokens: int, steps: int, ranks: Any = None) -> dict[str, Any]:
    """Seconds of steps of learning after one to warm up, those of the optimizer apart, and the peak of memory."""
    import numpy as np

    from rl.learning.config import OptimizerConfig
    from rl.learning.update import learn, new_optimizer
    from rl.processes.ranks import ALONE
    from rl.samplers.config import RolloutConfig

    settings = OptimizerConfig(learning_rate=1e-6, tokens_per_micro_batch=tokens, max_grad_norm=1.0)
    rollout = RolloutConfig(prompts_per_step=len(batch.groups), group_size=len(batch.groups[0].completions))
    advantages = np.where(np.arange(batch.responses) % 2, 1.0, -1.0).reshape(len(batch.groups), -1)
    optimizer = new_optimizer(policy, settings)
    updating: list[float] = []
    step = optimizer.step

    def timed_step(*arguments: Any, **options: Any) -> Any:
        synchronize(job.device)
        began = time.perf_counter()
        answer = step(*arguments, **options)
        synchronize(job.device)
        updating.append(time.perf_counter() - began)
        return answer

    optimizer.step = timed_step  # type: ignore[method-assign]
    seconds = []
    with peak_of(job.device) as peak:
        for number in range(1, steps + 2):
            synchronize(job.device)
            began = time.perf_counter()
            learn(policy, optimizer, batch, advantages, settings, rollout, step=number, seed=0, ranks=ranks or ALONE)
            synchronize(job.device)
            seconds.append(time.perf_counter() - began)
    return {"seconds": seconds[1:], "first": seconds[0], "optimizer_seconds": min(updating), **peak}


def learning(
    job: Job,
    shape: str,
    *,
    checkpointing: bool = False,
    lora: int = 0,
    compiled: bool = False,
    look: bool = False,
) -> dict[str, Any]:
    """A step of learning with texts of up to 2,048 tokens: packed ones that are all so long, others packed and padded.

    "Ragged" is 4 prompts of 256 tokens with 8 responses of 256 to 1,792; "full" is 16 texts of 2,048 tokens.
    """

    from rl.models.packing import varlen

    if job.small:
        shape, sizes = "tiny", {"groups": 2, "size": 3, "prompt": 5}
        ragged, full = {**sizes, "responses": (2, 12)}, {**sizes, "size": 2, "responses": (9, 9)}
        micro_batch, steps = 60, 1
    else:
        ragged = {"groups": 4, "size": 8, "prompt": 256, "responses": (256, 1792)}
        full = {"groups": 8, "size": 2, "prompt": 64, "responses": (1984, 1984)}
        micro_batch, steps = 8192, 2
    vocabulary = SHAPES[shape][6]
    passes = 2 if lora else 3
    rate = matrix_rate(job.device)
    found: dict[str, Any] = {
        "shape": shape,
        "micro_batch": micro_batch,
        "checkpointing": checkpointing,
        "lora": lora,
        "compiled": compiled,
        "varlen": varlen() is not None,
        "matrix_rate": rate,
        "sheet_rate": sheet_rate(job),
        "cases": {},
    }
    ways = [("packed, full", full, True), ("packed, ragged", ragged, True), ("padded, ragged", ragged, False)]
    for name, sizes, packed in ways:
        if compiled and not packed:
            continue
        batch = make_batch(vocabulary, **sizes)
        texts = sum(len(g.prompt_tokens) + len(c.tokens) for g in batch.groups for c in g.completions)
        case: dict[str, Any] = {}
        try:
            policy = make_policy(shape, job, packed=packed, checkpointing=checkpointing, lora=lora)
            found["parameters"] = policy.model.num_parameters()
            if compiled and not job.small:
                compile_layers(policy.model)
            case = timed_steps(policy, batch, job, tokens=micro_batch, steps=steps)
            needed = operations(shape, batch, passes=passes) / min(case["seconds"])
            case |= {"tokens": texts, "tokens_a_second": texts / min(case["seconds"]), "rate": needed}
            case |= {"share_of_products": needed / rate}
            case["planned_gib"] = planned_gib(policy, job, sizes, tokens=micro_batch, lora=lora)
            if "peak_gib" in case:
                case["peak_over_plan"] = case["peak_gib"] / case["planned_gib"]
            if found["sheet_rate"]:
                case |= {"utilisation": needed / found["sheet_rate"]}
            if look and sizes is full and job.device == "cuda":
                case["kernels_ms"] = kernels(policy, batch, job, micro_batch)
        except Exception as error:  # a case that does not fit is a finding, and the next may
            case["failed"] = sentence(error)
        found["cases"][name] = case
        job.tell(found)
        policy = None
        release()
    return found


def compile_layers(model: Any) -> None:
    """Let torch compile each layer but its attention."""
    import torch
    from transformers.modeling_layers import GradientCheckpointingLayer

    from rl.models import packing

    packing.packed_attention = torch.compiler.disable(packing.packed_attention)
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.compile(dynamic=True)


def kernels(policy: Any, batch: Any, job: Job, micro_batch: int) -> dict[str, float]:
    """Milliseconds of a step by kernel, those that take the longest."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        timed_steps(policy, batch, job, tokens=micro_batch, steps=0)
    times: dict[str, float] = {}
    for event in profile.key_averages():
        times[event.key[:80]] = times.get(event.key[:80], 0.0) + event.self_device_time_total / 1000
    longest = sorted(times, key=lambda name: -times[name])[:16]
    return {"all": sum(times.values()), **{name: times[name] for name in longest}}


def sheet_rate(job: Job) -> float | None:
    """The card's rate in bfloat16 by its data sheet; None for one that is not known here."""
    import torch

    if job.device != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((rate for word, rate in SHEETS.items() if word in name), None)


def release() -> None:
    """Give back what nobody holds."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def kernel(job: Job) -> dict[str, Any]:
    """Attention of packed texts against plain products in float64: values and gradients, largest errors.

    Beside each error stands that of the plain products in the kernel's own precision, over the same padded rows.
    """
    import torch

    from rl.models.packing import Packed, varlen

    lengths = [(5, (3, 9)), (12, (1, 20, 7))] if job.small else [(37, (1, 300, 64)), (256, (700, 2)), (1, (129,))]
    packed = Packed(
        [range(length) for length, _ in lengths],
        [number for number, (_, some) in enumerate(lengths) for _ in some],
        [range(length) for _, some in lengths for length in some],
        device=torch.device(job.device),
    )
    found: dict[str, Any] = {"varlen": varlen() is not None, "cases": {}}
    for heads, keys, width in ((12, 2, 128), (14, 2, 64), (4, 4, 32)):
        for window in (None, 16):
            exact, fused, plain, again = (
                attention(packed, way, dtype, heads, keys, width, window)
                for way, dtype in (
                    ("packed_eager", torch.float64),
                    ("packed_sdpa", torch.bfloat16),
                    ("packed_eager", torch.bfloat16),
                    ("packed_sdpa", torch.bfloat16),
                )
            )
            found["cases"][f"{heads} heads, {keys} keys, {width} wide, window {window}"] = {
                "kernel": [float((a - b).abs().max()) for a, b in zip(fused, exact, strict=True)],
                "products": [float((a - b).abs().max()) for a, b in zip(plain, exact, strict=True)],
                "repeats": all(torch.equal(a, b) for a, b in zip(fused, again, strict=True)),
            }
    found["worst"] = max(
        error / plain
        for case in found["cases"].values()
        for error, plain in zip(case["kernel"], case["products"], strict=True)
    )
    return found


def attention(
    packed: Any, way: str, dtype: Any, heads: int, keys: int, width: int, window: int | None
) -> tuple[Any, ...]:
    """Values of an implementation, and gradients of queries, keys and values: float64, of numbers in bfloat16."""
    import torch
    from transformers import AttentionInterface

    device, total = packed.tokens.device, packed.tokens.shape[1]
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Any:
        return torch.randn(shape, generator=generator, device=device).bfloat16().to(dtype)

    leaves = [draw(1, count, total, width).requires_grad_() for count in (heads, keys, keys)]
    answer, _ = AttentionInterface()[way](
        torch.nn.Identity(), *leaves, None, scaling=width**-0.5, sliding_window=window, packed=packed
    )
    answer.backward(draw(1, total, heads, width))
    return (answer.detach().double(), *(leaf.grad.double() for leaf in leaves))


# Sampling.


def sampling(job: Job) -> dict[str, Any]:
    """Tokens a second of the torch sampler: the character model, and a model of 0.5B parameters."""
    from rl.models.config import ModelConfig
    from rl.models.policy import new_policy
    from rl.samplers.torch_sampler import TorchSampler
    from rl.tasks.protocol import Prompt

    found: dict[str, Any] = {}
    character = new_policy(ModelConfig(), ALPHABET, seed=0)
    character.model.to(job.device)  # pyright: ignore[reportArgumentType]
    sizes = {"character": (64, 16, 16), "0.5b": (32, 16, 128)}
    for name, (count, size, new) in sizes.items():
        if job.small:
            count, size, new = 3, 4, 5
        policy = character if name == "character" else make_policy("tiny" if job.small else name, job, packed=True)
        sampler = TorchSampler(policy)
        prompts = [Prompt(id=str(n), text=f"{n}+{n}=", difficulty="", problem=None) for n in range(count)]
        seconds, tokens = [], 0
        with peak_of(job.device) as peak:
            for seed in range(2 if job.small else 4):
                synchronize(job.device)
                began = time.perf_counter()
                batch = sampler.sample(prompts, group_size=size, temperature=1.0, max_new_tokens=new, seed=seed)
                synchronize(job.device)
                seconds.append(time.perf_counter() - began)
                tokens = batch.tokens
        found[name] = {"responses": count * size, "new_tokens": new, "tokens": tokens, "seconds": seconds[1:]}
        found[name] |= {"tokens_a_second": tokens / statistics.median(seconds[1:]), **peak}
        policy = sampler = None
        release()
    return found


# Runs.


def toml_of(*path: str) -> dict[str, Any]:
    """A file of the project."""
    import tomllib

    return tomllib.loads(Path(__file__).resolve().parent.parent.joinpath(*path).read_text(encoding="utf-8"))


def changed(document: Mapping[str, Any], job: Job, **sections: Any) -> Any:
    """A configuration with other keys in some sections, with the table of GRPO, on the device of the job."""
    from rl.config import parse_config
    from theory.catalogue import WEIGHTINGS
    from weightopt.catalogue_tables import named_table

    sections |= {"device": job.device, "threads": 1 if job.small else 4}
    found = {
        name: {**document.get(name, {}), **section} if isinstance(section, dict) else section
        for name, section in sections.items()
    }
    found = {**document, **found}
    size = found["rollout"]["group_size"]
    table = job.folder / f"grpo-{size}.json"
    if not table.exists():
        named_table(WEIGHTINGS["grpo"], size).save(table)
    return parse_config({**found, "table": str(table)})


def study_config(job: Job, *, steps: int, **sections: Any) -> Any:
    """The study's Countdown from nothing, on the device."""
    if job.small:
        sections = {
            "rollout": {"prompts_per_step": 4, "group_size": 4},
            "evaluation": {"prompts": 8, "samples": 2},
            "supervised": {"steps": 2, "batch_size": 8, "check_every": 2},
            "model": {"hidden_size": 32, "intermediate_size": 48},
            **sections,
        }
    training = {"steps": steps, "evaluate_every": 2 if job.small else 10}
    return changed(toml_of("studies", "weightings", "countdown-scratch.toml"), job, training=training, **sections)


def countdown(job: Job) -> dict[str, Any]:
    """The character model on Countdown from its supervised start to 28 % on held-out prompts, or 400 steps."""
    most, stretch = (4, 2) if job.small else (400, 100)
    return run_until(0.28, lambda steps: study_config(job, steps=steps), job, most=most, stretch=stretch)


def smollm2(job: Job) -> dict[str, Any]:
    """SmolLM2-135M on few-shot Countdown, sampled with torch, to 28 % on held-out prompts, or 60 steps."""
    if job.model_folder is None or not (job.model_folder / "config.json").exists():
        raise Needs("the weights of SmolLM2-135M: --model-folder FOLDER with config.json, model.safetensors, tokenizer")
    document = toml_of("configs", "smollm2-countdown.toml")
    sections: dict[str, Any] = {"start_model": str(job.model_folder)}
    if job.small:
        sections |= {"rollout": {"prompts_per_step": 2, "group_size": 2}, "evaluation": {"prompts": 2, "samples": 2}}
    most, stretch = (2, 1) if job.small else (60, 20)
    every = stretch if job.small else 10

    def config(steps: int) -> Any:
        return changed(document, job, training={"steps": steps, "evaluate_every": every}, **sections)

    return run_until(0.28, config, job, most=most, stretch=stretch)


def run_until(aim: float, config: Callable[[int], Any], job: Job, *, most: int, stretch: int) -> dict[str, Any]:
    """A run, prolonged until it reaches a success on held-out prompts; ``config`` is that of a number of steps."""
    from rl.train import train

    output, found, began = job.folder / "run", dict[str, Any](), time.perf_counter()
    with peak_of(job.device) as peak:
        for steps in range(stretch, most + 1, stretch):
            train(config(steps), output, resume=output.exists(), quiet=True)
            found = progress(output, aim) | {"wall_seconds": time.perf_counter() - began}
            job.tell(found)
            release()
            if found["reached_at_step"] is not None:
                break
    return found | peak


def progress(output: Path, aim: float) -> dict[str, Any]:
    """When a run reached a success, and what the steps until then took, stage by stage."""
    from rl.records.metrics import METRICS_FILE, read_metrics

    evaluations = read_metrics(output / METRICS_FILE).evaluations
    reached = next((each.step for each in evaluations if each.success >= aim), None)
    stages = [json.loads(line) for line in (output / "timing.jsonl").read_text(encoding="utf-8").splitlines()]
    until = [each for each in stages if reached is None or each["step"] <= reached]
    sums = {
        name: sum(each.get(name) or 0.0 for each in until)
        for name in ("sampling", "verifying", "learning", "hand_over", "evaluating")
    }
    return {
        "aim": aim,
        "reached_at_step": reached,
        "steps": len(until),
        "seconds_to_aim": sum(sums.values()) if reached is not None else None,
        "stages": sums,
        "success": [[each.step, each.success] for each in evaluations],
    }


def resuming(job: Job) -> dict[str, Any]:
    """Whether a run in two parts ends bit for bit as one in one, with deterministic kernels and without."""
    import torch

    from rl.train import train

    found: dict[str, Any] = {}
    steps = 4 if job.small else 8
    for name, deterministic in (("as it is", False), ("deterministic", True)):
        for precision in ("fp32", "bf16"):
            if job.device == "cpu" and precision == "bf16":
                continue
            # Where an operation has no such kernel, it says so and goes on.
            torch.use_deterministic_algorithms(deterministic, warn_only=True)
            folders = [job.folder / f"{name}-{precision}-{part}".replace(" ", "-") for part in ("whole", "parts")]
            sections = {"policy": {"precision": precision}, "supervised": {"steps": 10, "check_every": 10}}
            try:
                with warnings.catch_warnings(record=True) as said:
                    warnings.simplefilter("always")
                    train(study_config(job, steps=steps, **sections), folders[0], quiet=True)
                    train(study_config(job, steps=steps // 2, **sections), folders[1], quiet=True)
                    train(study_config(job, steps=steps, **sections), folders[1], resume=True, quiet=True)
                told = sorted({str(each.message)[:200] for each in said if "eterministic" in str(each.message)})
                whole, parts = (
                    [(folder / file).read_bytes() for file in ("model/model.safetensors", "metrics.jsonl")]
                    for folder in folders
                )
                same = {"weights": whole[0] == parts[0], "metrics": whole[1] == parts[1]}
                found[f"{name}, {precision}"] = {**same, "not_deterministic": told}
                if deterministic and not all(same.values()):
                    found[f"{name}, {precision}"]["failed"] = "a run in two parts does not end as one in one"
            except Exception as error:  # the other ways may do
                found[f"{name}, {precision}"] = {"failed": sentence(error)}
            job.tell(found)
    torch.use_deterministic_algorithms(False)
    return found


def sharding(job: Job) -> dict[str, Any]:
    """FSDP2 over a single process: the step it takes, beside that of a policy that is not sharded."""
    import torch.distributed as dist

    from rl.processes.ranks import Ranks
    from rl.processes.sharded import shard_over, whole

    backend = "cpu:gloo,cuda:nccl" if job.device == "cuda" else "gloo"
    store = dist.FileStore(str(job.folder / "store"), 1)  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    shape = "tiny" if job.small else "0.5b"
    sizes = (
        {"groups": 2, "size": 3, "prompt": 5, "responses": (1, 9)}
        if job.small
        else {"groups": 4, "size": 8, "prompt": 256, "responses": (64, 768)}
    )
    batch = make_batch(SHAPES[shape][6], **sizes)
    ranks = Ranks(rank=0, size=1, group=dist.new_group(backend="gloo"))
    found: dict[str, Any] = {"backend": backend, "shape": shape}
    weights = {}
    for name in ("plain", "sharded"):
        policy = make_policy(shape, job, packed=True)
        if name == "sharded":
            policy = shard_over(lambda made=policy: made, ranks)
        found[name] = timed_steps(policy, batch, job, tokens=60 if job.small else 8192, steps=1 if job.small else 3)
        plain = whole(policy)
        assert plain is not None
        weights[name] = {key: value.detach().cpu() for key, value in plain.model.state_dict().items()}
        policy = plain = None
        release()
    gaps = [float((weights["plain"][key] - weights["sharded"][key]).abs().max()) for key in weights["plain"]]
    found["largest_gap_of_a_weight"] = max(gaps)
    found["slower"] = min(found["sharded"]["seconds"]) / min(found["plain"]["seconds"])
    dist.destroy_process_group()
    return found


def engine(job: Job) -> dict[str, Any]:
    """VLLM samples from 1.5B parameters: hand-over with sleep and wake, and rollout over the bare engine."""
    from importlib.util import find_spec

    if find_spec("vllm") is None:
        raise Needs("vLLM: pip install 'weightopt[rl,vllm]'")
    import torch

    from rl.models.memory import ModelShape, plan_memory
    from rl.samplers.vllm_sampler import VllmSampler
    from rl.tasks.protocol import Prompt

    shape = "tiny" if job.small else "1.5b"
    count, size, new = (2, 2, 4) if job.small else (32, 8, 256)
    policy = make_policy(shape, job, packed=True)
    prompts = [Prompt(id=str(n), text=f"{n}+{n}=", difficulty="", problem=None) for n in range(count)]
    config = run_config(
        policy=policy.settings.model_dump(),
        rollout={"prompts_per_step": count, "group_size": size, "max_new_tokens": new},
        sampler={
            "backend": "vllm",
            "kv_cache_gib": 0.25 if job.small else 8,
            "context": 512,
            "sleep": job.device == "cuda",
            "sync_tolerance": 0.5,
        },
    )
    share = None
    if job.device == "cuda":  # vLLM's own, 0.92, is more than the policy leaves
        plan = plan_memory(config, ModelShape.of(policy.model.config))
        share = plan.utilization(torch.cuda.mem_get_info()[1])
    found: dict[str, Any] = {"shape": shape, "responses": count * size, "new_tokens": new, "utilization": share}
    began = time.perf_counter()
    sampler = VllmSampler(
        policy, config.sampler, weights=policy.published_weights(), probe=prompts[:4], seed=0, utilization=share
    )
    found["open_seconds"] = time.perf_counter() - began
    sleeps, hand_overs, rollouts, tokens = [], [], [], 0
    for seed in range(1 if job.small else 3):
        began = time.perf_counter()
        sampler.rest()
        sleeps.append(time.perf_counter() - began)
        began = time.perf_counter()
        sampler.publish(policy.published_weights())
        synchronize(job.device)
        hand_overs.append(time.perf_counter() - began)
        began = time.perf_counter()
        batch = sampler.sample(prompts, group_size=size, temperature=1.0, max_new_tokens=new, seed=seed)
        rollouts.append(time.perf_counter() - began)
        tokens = batch.tokens
    sampler.close()
    found |= {"sleep": sleeps, "hand_over_with_wake_and_proof": hand_overs, "rollout": rollouts, "tokens": tokens}
    job.tell(found)
    release()
    rate = bare_engine(policy, [policy.encode_prompt(prompt.text) for prompt in prompts], size, new, job, share)
    found["bare_tokens_a_second"] = rate
    found["rollout_over_bare"] = tokens / min(rollouts) / rate
    return found


def bare_engine(
    policy: Any, prompts: Sequence[Sequence[int]], size: int, new: int, job: Job, share: float | None
) -> float:
    """Tokens a second of vLLM's own generation, without seeds and log-probabilities."""
    import vllm  # pyright: ignore[reportMissingImports]

    folder = job.folder / "bare"
    policy.model.config.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    llm = vllm.LLM(
        model=str(folder),
        load_format="dummy",
        dtype="bfloat16" if job.device == "cuda" else "float32",
        max_model_len=512,
        max_num_seqs=256,
        kv_cache_memory_bytes=int((0.25 if job.small else 8) * GIB),
        **({} if share is None else {"gpu_memory_utilization": share}),
        enforce_eager=job.device == "cpu",
        generation_config="vllm",
        disable_log_stats=True,
    )
    settings = vllm.SamplingParams(n=size, temperature=1.0, max_tokens=new, ignore_eos=True, detokenize=False)
    rates = []
    for _ in range(1 if job.small else 3):
        llm.reset_prefix_cache()
        began = time.perf_counter()
        outputs = llm.generate([{"prompt_token_ids": list(each)} for each in prompts], settings, use_tqdm=False)
        tokens = sum(len(each.token_ids) for output in outputs for each in output.outputs)
        rates.append(tokens / (time.perf_counter() - began))
    return max(rates)


# A part: what it does, and the seconds after which it is ended. Those that tell most come first: the time may run out.
PARTS: Mapping[str, tuple[Callable[[Job], dict[str, Any]], int]] = {
    "kernel": (kernel, 60),
    "learn-1.5b": (partial(learning, shape="1.5b", look=True), 90),
    "learn-3b": (partial(learning, shape="3b", checkpointing=True), 75),
    "learn-8b-lora": (partial(learning, shape="8b", checkpointing=True, lora=32), 90),
    "vllm": (engine, 240),
    "countdown": (countdown, 120),
    "smollm2": (smollm2, 120),
    "resume": (resuming, 90),
    "learn-1.5b-compiled": (partial(learning, shape="1.5b", compiled=True), 100),
    "sample": (sampling, 60),
    "fsdp": (sharding, 60),
    "learn-0.5b": (partial(learning, shape="0.5b"), 60),
}
# Of all parts together, unless more is allowed.
SECONDS = 470
# A part is not begun with fewer seconds left.
LEAST = 15


def sentence(error: BaseException) -> str:
    """What an error says, in one line of bounded length."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def about(device: str) -> dict[str, Any]:
    """The card, its driver and the versions."""
    found: dict[str, Any] = dict(machine(PACKAGES))
    if device == "cuda":
        import torch

        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        try:
            found["nvidia-smi"] = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            found["nvidia-smi"] = "not found"
        found |= {"card": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
        found["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
    return found


def run_part(name: str, options: argparse.Namespace, device: str, *, limit: float) -> dict[str, Any]:
    """Run a part in a process of its own, and return what it found or why it did not, with what it found until then."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--output", str(options.output), "--work", name]
    command += ["--device", device, *(["--small"] if options.small else [])]
    if options.model_folder is not None:
        command += ["--model-folder", str(options.model_folder)]
    environment = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if name.startswith("learn"):  # not where vLLM sleeps, which cannot do it
        environment |= {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    log, result = (options.output / f"{name}.{ending}" for ending in ("log", "json"))
    result.unlink(missing_ok=True)
    began = time.perf_counter()
    failed = None
    with log.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=said, env={**os.environ, **environment}, start_new_session=True
        )
        try:
            if status := process.wait(None if math.isinf(limit) else limit):
                failed = f"ended with status {status}: {last_line(log)}"
        except subprocess.TimeoutExpired:
            failed = f"took more than {limit:.0f} s"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    found = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {}
    result.unlink(missing_ok=True)
    if failed is not None:
        found["failed"] = failed
    return {**found, "wall_seconds": time.perf_counter() - began}


def has_failed(found: Any) -> bool:
    """Whether a part has failed, or anything in what it has found."""
    return isinstance(found, Mapping) and ("failed" in found or any(map(has_failed, found.values())))


def last_line(file: Path) -> str:
    """The last line of a log that is not empty."""
    lines = [line for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:500] if lines else "it said nothing"


def work(options: argparse.Namespace) -> int:
    """The part itself, in its process."""
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            device=options.device,
            small=options.small,
            folder=Path(folder),
            model_folder=options.model_folder,
            result=options.output / f"{options.work}.json",
        )
        try:
            job.tell(PARTS[options.work][0](job))
        except Needs as error:
            job.tell({"needs": str(error)})
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run parts; 1 where one fails, or a case in it, 2 where there is no GPU, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument("--output", type=Path, required=True, help=f"folder for {FILE} and logs")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of all parts, by default %(default)s")
    parser.add_argument("--small", action="store_true", help="tiny sizes, on a CPU too")
    parser.add_argument("--model-folder", type=Path, help="SmolLM2-135M, for its part")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto", help=argparse.SUPPRESS)
    parser.add_argument("--work", choices=list(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        return work(options)
    import torch

    device = options.device if options.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu" and not options.small:
        print("benchmarks.gpu: torch finds no GPU here; --small runs the parts on a CPU", file=sys.stderr)
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    place, failed, began = about(device), False, time.perf_counter()
    for name in options.parts:
        # On a CPU nothing is measured, and nobody knows how busy it is.
        limit = math.inf if options.small else min(PARTS[name][1], options.seconds + began - time.perf_counter())
        if limit < LEAST:
            found = {"needs": f"more time than --seconds {options.seconds:.0f}, which the parts before it took"}
        else:
            found = run_part(name, options, device, limit=limit)
        line = json.dumps({"part": name, "small": options.small, **found, "about": place})
        with (options.output / FILE).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)
        failed = failed or has_failed(found)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
