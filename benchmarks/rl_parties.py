"""The parties of `benchmarks.rl_step` and the step they all make: a model, prompts, a reward.

Each party is a function that makes steps when it is told to, in a process of its own.
"""

import itertools
import json
import math
import os
import sys
import time
import tomllib
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

PROMPTS, GROUP, NEW_TOKENS = 16, 8, 32
NEVER = "<never>"
TASK = {"name": "addition", "digits": {"2": 1.0}}
COUNTDOWN = Path(__file__).parent.parent / "configs" / "demo.toml"
LEARNING_RATE = 1e-6  # the model stays what it is, so that all turns are alike
FOREVER = 10**6

# Rows at a time that are tried for the bare pass; the fastest is tried with both implementations of attention. Where
# the logits of so many rows would be more than this, they are not: the parties share the machine's memory.
BARE = (128, 32, 8)
LOGITS = 2**27


class Missing(Exception):
    """Something that is needed is not there; the message says how to get it."""


class Failed(Exception):
    """A party ended, or did not do what the others did."""


def end_never(folder: Path) -> None:
    """Give the tokenizer in a model's folder an end token that the model has no logit for."""
    from transformers import AutoTokenizer

    size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    tokenizer.add_special_tokens({"eos_token": NEVER})
    if tokenizer.eos_token_id < size:
        raise Missing(f"the model has {size} logits and {tokenizer.eos_token_id} tokens: name one without spare logits")
    tokenizer.save_pretrained(folder)
    file = folder / "generation_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps({**settings, "eos_token_id": tokenizer.eos_token_id}), encoding="utf-8")


def make_model(source: Path | None, folder: Path, *, heads: int = 4) -> None:
    """Put a model that never ends into a folder: a copy of ``source``, weights as links, or one with random weights."""
    from rl.models.config import ModelConfig
    from rl.models.policy import new_policy, save_policy
    from rl.tasks.addition import Addition
    from rl.tasks.registry import build_teaching_task

    if source is None:
        alphabet = build_teaching_task(Addition.model_validate(TASK)).alphabet
        save_policy(new_policy(ModelConfig(heads=heads), alphabet, seed=0), folder)
    else:
        if not (source / "config.json").is_file():
            raise Missing(f"model {str(source)!r} is not there: weightopt model smollm2 --output {source}")
        for file in source.iterdir():
            if file.suffix == ".safetensors":
                (folder / file.name).symlink_to(file.resolve())
            elif file.is_file():
                (folder / file.name).write_bytes(file.read_bytes())
    end_never(folder)


def reward(text: str) -> bool:
    """Whether a response is right: as good as a coin, but the same for everybody."""
    return zlib.crc32(text.encode()) % 2 == 1


def write_table(file: Path) -> None:
    """Advantage 1 for a right response and -1 for a wrong one, whatever the others are."""
    from weightopt.table import WeightTable

    inside = range(1, GROUP)
    rho = tuple(k / GROUP for k in inside)
    table = WeightTable(
        name="plus-minus-one",
        label="plus or minus one",
        group_size=GROUP,
        rho=rho,
        weight=tuple(2.0 for _ in inside),
        all_wrong_advantage=-1.0,
        all_right_advantage=1.0,
        advantage_correct=(0.0, *[1.0] * GROUP),
        advantage_wrong=(*[-1.0] * GROUP, 0.0),
    )
    table.save(file)


def make_countdown(folder: Path, table: Path) -> None:
    """Put the start model of ``configs/demo.toml`` into a folder, and write GRPO's table for it."""
    from rl.config import load_config
    from rl.supervised import make_start_model
    from theory.catalogue import WEIGHTINGS
    from weightopt.catalogue_tables import named_table

    config = load_config(COUNTDOWN)
    make_start_model(config, folder)
    named_table(WEIGHTINGS["grpo"], config.rollout.group_size).save(table)


def config_of(job: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of our run."""
    work: dict[str, Any] = {
        "task": TASK,
        "rollout": {"prompts_per_step": PROMPTS, "group_size": GROUP, "max_new_tokens": NEW_TOKENS},
    }
    if job["countdown"]:
        file = tomllib.loads(COUNTDOWN.read_text(encoding="utf-8"))
        work = {key: file[key] for key in work}
    sampler: dict[str, Any] = {"backend": job["sampler"]}
    if job["sampler"] == "vllm":
        sampler |= {"context": 64, "sleep": job["sleep"]}
    optimizer: dict[str, Any] = {"learning_rate": LEARNING_RATE, "max_grad_norm": 1.0}
    if job["micro_batch"]:
        optimizer["tokens_per_micro_batch"] = job["micro_batch"]
    return {
        "threads": job["threads"],
        "device": job["device"],
        "table": job["table"],
        "start_model": job["model"],
        **work,
        "policy": {"precision": job["precision"]},
        "sampler": sampler,
        "optimizer": optimizer,
        "training": {"steps": FOREVER, "evaluate_every": FOREVER, "checkpoint_every": FOREVER, "rollout_share": 0.0},
        "evaluation": {"prompts": 8, "samples": 1, "keep_best": False},
    }


def problems_of(job: Mapping[str, Any], step: int) -> tuple[Any, Sequence[Any]]:
    """The task, and the prompts that our run draws in a step, from 1."""
    from rl.config import parse_config
    from rl.seeds import derive_seed
    from rl.tasks.registry import build_teaching_task
    from rl.tasks.split import training_prompts

    config = parse_config(config_of(job))
    task = build_teaching_task(config.task)
    seed = derive_seed(config.seed, "prompts", step)
    return task, training_prompts(task, count=config.rollout.prompts_per_step, seed=seed)


def prompts_of(job: Mapping[str, Any], step: int) -> list[str]:
    """The texts of these prompts."""
    return [prompt.text for prompt in problems_of(job, step)[1]]


class Enough(BaseException):
    """The last turn is over; not an error that anybody on the way should handle."""


class Turns:
    """The side of a party: it waits to be told to go, and reports."""

    def __init__(self) -> None:
        # Whatever the libraries print goes elsewhere.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._began = self._spent = math.nan

    def wait(self) -> None:
        """Say that the last turn is over, or that all is prepared, and wait for the next one."""
        if sys.stdin.readline() != "go\n":
            raise Enough
        self._began, self._spent = time.perf_counter(), time.process_time()

    def elapsed(self) -> float:
        """Seconds since the turn began."""
        return time.perf_counter() - self._began

    def spent(self) -> float:
        """CPU seconds of all threads since the turn began."""
        return time.process_time() - self._spent

    def say(self, **what: Any) -> None:
        """Report."""
        self._out.write(json.dumps({**what, "peak_mib": peak_mib()}) + "\n")
        self._out.flush()


def peak_mib() -> float:
    """The most memory that this process has held, MiB; not that of the one it was started by, as getrusage has it."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return math.nan


def ours(job: Mapping[str, Any], turns: Turns) -> None:
    """Our training run, held up at the beginning of each step."""
    import numpy as np

    import rl.step.draw_groups
    import rl.train
    from rl.config import parse_config
    from rl.step.success import Judgement

    output = Path(job["folder"]) / "ours"
    draw_groups, last = rl.train.draw_groups, {}

    def judge(batch: Any, *_: Any, **__: Any) -> Judgement:
        # The loop's own rule is that a response which did not end is wrong, and here none ends.
        right = [[reward(completion.text) for completion in group.completions] for group in batch.groups]
        return Judgement(correct=np.array(right), parsable=np.array(right), timed_out=0, failed=0)

    def in_turn(loop: Any, step: int, stopwatch: Any) -> Any:
        if step == 1:
            turns.say(ready=True)
        else:
            timing, record = (
                json.loads((output / file).read_text(encoding="utf-8").splitlines()[-1])
                for file in ("timing.jsonl", "metrics.jsonl")
            )
            turns.say(
                seconds=turns.elapsed(),
                cpu=turns.spent(),
                computed=record["distinct_responses"],
                **last,
                **{stage: timing[stage] for stage in ("sampling", "learning", "hand_over")},
            )
        turns.wait()
        collected = draw_groups(loop, step, stopwatch)
        last.update(
            prompts=[list(group.prompt_tokens) for group in collected.drawn.groups], tokens=collected.drawn.tokens
        )
        return collected

    if job["sampler"] == "vllm":
        # The engine refuses a stop token that the model has no logit for, and without it nothing changes.
        from rl.samplers.vllm_sampler import _Engine

        run = _Engine._run

        def without_stop(self: Any, prompts: Any, settings: Any) -> Any:
            for each in settings:
                each.stop_token_ids = []
            return run(self, prompts, settings)

        _Engine._run = without_stop
    rl.train.draw_groups = in_turn
    if not job["countdown"]:
        rl.step.draw_groups.judge = judge
    rl.train.train(parse_config(config_of(job)), output, quiet=True)


def trl(job: Mapping[str, Any], turns: Turns) -> None:
    """TRL's training run, held up at the beginning of each step."""
    import torch
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports, reportPrivateImportUsage]

    torch.set_num_threads(job["threads"])
    found: dict[str, Any] = {}
    sizes = config_of(job)["rollout"]
    group, rows = sizes["group_size"], sizes["prompts_per_step"] * sizes["group_size"]
    steps = [problems_of(job, step) for step in range(1, job["rounds"] + 3)]
    known = {prompt.text: (task, prompt) for task, prompts in steps for prompt in prompts}

    class Timed(GRPOTrainer):
        def _generate(self, *arguments: Any, **others: Any) -> Any:
            began = time.perf_counter()
            result = super()._generate(*arguments, **others)
            prompts, responses = result[:2]
            found.update(
                sampling=time.perf_counter() - began,
                prompts=prompts[::group],
                tokens=sum(map(len, responses)),
                computed=len(responses),
            )
            return result

        def _generate_and_score_completions(self, *arguments: Any, **others: Any) -> Any:
            result = super()._generate_and_score_completions(*arguments, **others)
            found["prepared"] = turns.elapsed()
            return result

    class InTurn(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if found:
                seconds, cpu = turns.elapsed(), turns.spent()
                turns.say(seconds=seconds, cpu=cpu, learning=seconds - found.pop("prepared"), **found)
            else:
                turns.say(ready=True)
            turns.wait()

    def rewards(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
        if not job["countdown"]:
            return [float(reward(text)) for text in completions]
        judged = ((known[prompt], text) for prompt, text in zip(prompts, completions, strict=True))
        return [float(task.verify(problem, text) or 0) for (task, problem), text in judged]

    model = AutoModelForCausalLM.from_pretrained(
        job["model"], local_files_only=True, trust_remote_code=False, dtype=torch.float32
    )
    prompts = [prompt.text for _, some in steps for prompt in some]
    trainer = Timed(
        model=model,
        processing_class=AutoTokenizer.from_pretrained(job["model"], local_files_only=True, trust_remote_code=False),
        reward_funcs=rewards,  # pyright: ignore[reportArgumentType]
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        callbacks=[InTurn()],
        args=GRPOConfig(
            output_dir=str(Path(job["folder"]) / "trl"),
            per_device_train_batch_size=rows // job["accumulate"],
            gradient_accumulation_steps=job["accumulate"],
            num_generations=group,
            max_completion_length=sizes["max_new_tokens"],
            max_steps=job["rounds"] + 3,
            learning_rate=LEARNING_RATE,
            max_grad_norm=1.0,
            loss_type="dr_grpo",
            scale_rewards="group" if job["countdown"] else "none",
            shuffle_dataset=False,
            gradient_checkpointing=job["trl_checkpointing"],
            use_cpu=job["device"] == "cpu",
            bf16=job["precision"] == "bf16",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
    )
    trainer.train()


def bare(job: Mapping[str, Any], turns: Turns) -> None:
    """Forward and backward pass of the step's tokens, with no trainer around it, and the rate of matrix products."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(job["threads"])
    device = torch.device(job["device"])
    model = AutoModelForCausalLM.from_pretrained(
        job["model"], local_files_only=True, trust_remote_code=False, dtype=torch.float32
    )
    model.eval().to(device)  # type: ignore[arg-type]
    tokenizer = AutoTokenizer.from_pretrained(job["model"], local_files_only=True, trust_remote_code=False)
    generator = torch.Generator().manual_seed(0)
    prompts = [tokenizer.encode(text) for text in prompts_of(job, 1)]
    longest = max(map(len, prompts))
    sequences = torch.randint(model.config.vocab_size, (PROMPTS * GROUP, longest + NEW_TOKENS), generator=generator)
    sequences = sequences.to(device)
    advantages = torch.ones(len(sequences), device=device)

    def learn(rows: int, attention: str) -> None:
        model.set_attn_implementation(attention)
        model.zero_grad()
        for part, advantage in zip(sequences.split(rows), advantages.split(rows), strict=True):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=job["precision"] == "bf16"):
                logits = model(input_ids=part[:, :-1], use_cache=False).logits[:, longest - 1 :]
                chosen = torch.log_softmax(logits.float(), dim=-1).gather(-1, part[:, longest:, None]).squeeze(-1)
            (-(advantage[:, None] * chosen).sum() / len(sequences)).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(way: tuple[int, str]) -> float:
        began = time.perf_counter()
        learn(*way)
        return time.perf_counter() - began

    turns.say(ready=True)
    turns.wait()
    sizes = [rows for rows in BARE if rows * NEW_TOKENS * model.config.vocab_size <= LOGITS]
    seconds((sizes[0], "eager"))
    ways = {(rows, "eager"): seconds((rows, "eager")) for rows in sizes}
    rows, _ = min(ways, key=ways.__getitem__)
    ways[rows, "sdpa"] = seconds((rows, "sdpa"))
    best = min(ways, key=ways.__getitem__)
    while True:
        took = seconds(best)
        turns.say(seconds=took, learning=took, way=best, flops=matrix_rate(job["precision"], device))
        turns.wait()


def matrix_rate(precision: str, device: Any) -> float:
    """Floating-point operations a second of matrix products, the best of a few sizes."""
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    for size in (1024, 2048) if device.type == "cpu" else (4096, 8192):
        left, right = torch.randn(2, size, size, device=device).to(dtype)
        for _ in range(5):
            began = time.perf_counter()
            torch.matmul(left, right)
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def engine(job: Mapping[str, Any], turns: Turns) -> None:
    """vLLM's own generation, with nothing around it."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    import vllm  # pyright: ignore[reportMissingImports]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["model"], local_files_only=True, trust_remote_code=False)
    llm = vllm.LLM(
        model=job["model"],
        trust_remote_code=False,
        dtype={"fp32": "float32", "bf16": "bfloat16"}[job["precision"]],
        max_model_len=64,
        max_num_seqs=256,
        kv_cache_memory_bytes=2**30,
        enforce_eager=job["device"] == "cpu",
        generation_config="vllm",
        disable_log_stats=True,
    )
    settings = vllm.SamplingParams(n=GROUP, temperature=1.0, max_tokens=NEW_TOKENS, ignore_eos=True)
    turns.say(ready=True)
    for step in itertools.count(1):
        turns.wait()
        prompts = [tokenizer.encode(text) for text in prompts_of(job, step)]
        llm.reset_prefix_cache()
        began = time.perf_counter()
        outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], settings, use_tqdm=False)
        took = time.perf_counter() - began
        tokens = sum(len(response.token_ids) for output in outputs for response in output.outputs)
        turns.say(seconds=took, sampling=took, prompts=prompts, tokens=tokens)


PARTIES = {"ours": ours, "trl": trl, "bare": bare, "engine": engine}
NEEDS = {"ours": ("torch", "transformers"), "trl": ("trl", "accelerate", "datasets"), "bare": ("torch", "transformers")}
