"""Several processes are one run: the same weights as one process, one set of files, and they end together.

The processes are real and talk through gloo on this machine. They are forked from one interpreter that has imported
everything, but for the run that `torchrun` starts.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rl.learning.loss import Row, deal
from rl.processes.ranks import Ranks
from rl.records.metrics import read_metrics
from tests.worlds import MODEL, contents, toml_of

ROOT = Path(__file__).resolve().parent.parent
GROUP_SIZE, PROMPTS, STEPS = 4, 5, 3

# Reads jobs, a JSON object a line, and answers each with the exit status of its processes. A job names a function
# below, its arguments, and a folder for what the processes print.
DRIVER = '''
import json, os, resource, signal, sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

import rl.learning.reference
import rl.train
from weightopt.cli import main
from rl.errors import SyncError
from rl.learning.update import learn as learn_from, new_optimizer
from rl.run.checkpoint import open_policy
from rl.config import load_config, parse_config
from rl.processes.ranks import ALONE, open_ranks
from rl.models.policy import new_policy, save_policy
from rl.processes.sharded import gathered, own_part, shard, whole
from rl.learning.config import KlConfig
from rl.learning.reference import open_reference
from rl.samplers.rollout import Batch, Completion, Group
from rl.samplers.registry import open_sampler
from rl.step.success import judge
from rl.tasks.protocol import Prompt


def made_up(rng, prompts, group_size):
    """A batch of random tokens, some responses of one token."""
    def tokens(low, high):
        return tuple(rng.integers(2, 14, size=rng.integers(low, high)).tolist())
    def completion():
        response = tokens(1, 5)
        return Completion(tokens=response, log_probs=(-1.0,) * len(response), text="", finished=True)
    def prompt(number):
        return Prompt(id=str(number), text=str(number), difficulty="1", problem=None)
    return Batch(groups=tuple(
        Group(
            prompt=prompt(number),
            prompt_tokens=tokens(2, 6),
            completions=tuple(completion() for _ in range(group_size)),
        )
        for number in range(prompts)
    ))


def cut(completion):
    """Its first token."""
    return replace(completion, tokens=completion.tokens[:1], log_probs=completion.log_probs[:1])


def weights_after(ranks, config, start, silent, short):
    """The model after two steps, and what each said; the advantages of some groups are 0."""
    opened = partial(open_policy, start, None, config.policy, config.lora, device=config.device, seed=config.seed)
    policy = shard(opened, ranks)
    optimizer = new_optimizer(policy, config.optimizer)
    reference = open_reference(config.kl, config.lora, policy, start)
    updates = []
    for step in (1, 2):
        rng = np.random.default_rng(step)
        batch = made_up(rng, config.rollout.prompts_per_step, config.rollout.group_size)
        advantages = rng.normal(size=(config.rollout.prompts_per_step, config.rollout.group_size))
        advantages[silent] = 0
        batch = Batch(groups=tuple(
            replace(group, completions=tuple(cut(each) for each in group.completions)) if number in short else group
            for number, group in enumerate(batch.groups)
        ))
        updates.append(learn_from(
            policy, optimizer, batch, advantages, config.optimizer, config.rollout, step=step, seed=config.seed,
            cap=config.sampler.cap, reference=reference, ranks=ranks,
        ))
    plain = whole(policy)
    return None if plain is None else plain.model.state_dict(), updates


def learn(cases, folder):
    """Each case by two processes and by one: how far apart they are."""
    torch.set_num_threads(1)
    found = {}
    with open_ranks("cpu") as ranks:
        start = Path(folder) / "start"
        config = parse_config(next(iter(cases.values()))["config"])
        if ranks.leading:
            save_policy(new_policy(config.model, "0123456789+=", seed=0), start)
        ranks.wait()
        for name, case in cases.items():
            config = parse_config(case["config"])
            weights, updates = weights_after(ranks, config, start, case["silent"], case.get("short", []))
            if ranks.leading:
                alone, expected = weights_after(ALONE, config, start, case["silent"], case.get("short", []))
                norms = [[norm for update in each for norm in update.gradient_norms] for each in (updates, expected)]
                found[name] = {
                    "weights": max(float((weights[key] - alone[key]).abs().max()) for key in alone),
                    "names": weights.keys() == alone.keys(),
                    "norms": norms,
                    "clipped": sum(update.clipped for update in expected),
                    "seen": [repr((u.rows, u.seen.mismatch.tokens, u.seen.clipped.tokens)) for u in updates],
                    "expected": [repr((u.rows, u.seen.mismatch.tokens, u.seen.clipped.tokens)) for u in expected],
                }
        if ranks.leading:
            (Path(folder) / "found.json").write_text(json.dumps(found))


def start(cases, folder):
    """Each process's parts of a policy that the first has opened: whole again, are they what was read?"""
    torch.set_num_threads(1)
    found = {}
    with open_ranks("cpu") as ranks:
        for name, document in cases.items():
            config, read = parse_config(document), []
            folder = Path(folder)
            if ranks.leading:
                save_policy(new_policy(config.model, "0123456789+=", seed=0), folder / name)
            ranks.wait()
            def opened():
                read.append(1)
                return open_policy(folder / name, None, config.policy, config.lora, device="cpu", seed=0)
            policy = shard(opened, ranks)
            weights = {key: gathered(value) for key, value in policy.model.state_dict().items()}
            held = sum(own_part(value).numel() for value in policy.model.parameters())
            moulded = {value.device.type for value in policy.mould.model.parameters()}
            calls, expected = ranks.gather(len(read)), opened()
            referred, load = [], rl.learning.reference.load_policy
            rl.learning.reference.load_policy = lambda *given, **more: referred.append(1) or load(*given, **more)
            reference = open_reference(KlConfig(coefficient=0.1), config.lora, policy, folder / name).policy
            rl.learning.reference.load_policy = load
            kept, again = reference.model.state_dict(), load(folder / name, dtype=reference.model.dtype)
            same = again.model.state_dict()
            alone, expected = expected.published_weights(), expected.model
            found[name] = {
                "calls": calls,
                "equal": weights.keys() == expected.state_dict().keys() and all(
                    torch.equal(weights[key], value) for key, value in expected.state_dict().items()
                ),
                "buffers": all(
                    torch.equal(value, policy.model.get_buffer(key)) for key, value in expected.named_buffers()
                ),
                "types": [str(value.dtype) for value in weights.values()] ==
                    [str(value.dtype) for value in expected.state_dict().values()],
                "trained": sorted(policy.trained()) == sorted(
                    key for key, value in expected.named_parameters() if value.requires_grad
                ),
                "published": all(
                    torch.equal(value, alone[key]) for key, value in policy.published_weights().items()
                ),
                "tied": policy.model.get_input_embeddings().weight is policy.model.get_output_embeddings().weight,
                "share": held / expected.num_parameters(),
                "mould": sorted(moulded),
                "referred": ranks.gather(len(referred)),
                "reference": kept.keys() == same.keys() and all(torch.equal(kept[key], same[key]) for key in same)
                    and not any(value.requires_grad for value in reference.model.parameters()),
            }
            (folder / f"{name}-{ranks.rank}.json").write_text(json.dumps(found[name]))


def sample(config, folder):
    """Twice the same prompt, and a prompt for one process alone."""
    config = parse_config(config)
    policy = new_policy(config.model, "0123456789+=", seed=0)
    prompt = Prompt(id="1", text="1+1=", difficulty="1", problem=None)
    with open_ranks("cpu") as ranks, open_sampler(config, policy, {}, probe=[], ranks=ranks) as sampler:
        for name, prompts in {"two": [prompt, prompt], "one": [prompt]}.items():
            batch = sampler.sample(prompts, group_size=8, temperature=1.0, max_new_tokens=4, seed=0)
            judgement = judge(batch, Said(), ranks)
            texts = [[completion.text for completion in group.completions] for group in batch.groups]
            answer = {"texts": texts, "correct": judgement.correct.tolist()}
            (Path(folder) / f"{name}-{ranks.rank}.json").write_text(json.dumps(answer))


class Said:
    """A verifier for which every answer is right that begins with an even digit."""

    def verify(self, prompt, text):
        return text[:1] in tuple("02468")


def stale():
    raise SyncError("the engine of process 1 is stale")


# What breaks: a function of the loop, when it is called in step 2; in which process, None for all; how.
BREAKS = {
    "disk": ("learn", 0, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))),
    "sampler": ("draw_groups", 1, stale),
    "diverge": ("weigh", None, lambda: float("nan")),
    "crash": ("learn", 1, lambda: os.kill(os.getpid(), signal.SIGKILL)),
    "terminate": ("learn", 1, lambda: [os.kill(os.getpid(), signal.SIGTERM) for _ in range(2)] and None),
}


def train(arguments, broken=None):
    """The command; something may break in one process or in all."""
    if broken:
        name, where, act = BREAKS[broken]
        work, calls = getattr(rl.train, name), []
        def breaking(*args, **options):
            calls.append(1)
            factor = act() if len(calls) == 2 and where in (None, int(os.environ["RANK"])) else None
            return work(*args, **options) if factor is None else factor * work(*args, **options)
        setattr(rl.train, name, breaking)
    sys.argv = ["weightopt", "train", *arguments]
    main()


def process(rank, size, port, job):
    signal.alarm(3000)  # a test that waits for ever is a test that fails; not one that a busy machine makes wait
    if size > 1:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
            TORCHELASTIC_USE_AGENT_STORE="True",
        )
    else:
        os.environ["RANK"] = "0"
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{job['folder']}/{name}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    try:
        globals()[job["call"]](*job["arguments"])
    except SystemExit as error:
        return error.code or 0
    except BaseException:
        import traceback
        traceback.print_exc()
        return 99
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun has one
    children = []
    for rank in range(job["size"]):
        child = os.fork()
        if not child:
            os._exit(process(rank, job["size"], store.port, job))
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes), flush=True)
os._exit(0)  # nothing is left to be tidied up
'''

Together = Callable[..., list[int]]


@pytest.fixture(scope="module")
def together() -> Any:
    """Call a function of the driver in some processes; the exit status of each."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TORCHELASTIC", "RANK"))}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        cwd=ROOT,
        env={**environment, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdin is not None
    assert driver.stdout is not None
    assert driver.stdout.readline() == "ready\n"

    def call(name: str, *arguments: Any, folder: Path, size: int = 2) -> list[int]:
        folder.mkdir(exist_ok=True)
        job = {"call": name, "arguments": arguments, "folder": str(folder), "size": size}
        print(json.dumps(job), file=driver.stdin, flush=True)
        return json.loads(driver.stdout.readline())  # type: ignore[union-attr]

    yield call
    driver.stdin.close()
    assert driver.wait() == 0
    driver.stdout.close()


# Learning: the same batch.

SHAPE = {**MODEL, "layers": 2}


def settings(*, optimizer: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    return {
        "task": {"name": "addition", "digits": {"1": 1}},
        "model": SHAPE,
        "rollout": {"prompts_per_step": 6, "group_size": GROUP_SIZE, "max_new_tokens": 4},
        # With so large an epsilon AdamW is nearly a gradient step: else it would hide a factor.
        "optimizer": {"learning_rate": 1e-2, "epsilon": 0.5, "tokens_per_micro_batch": 40, **(optimizer or {})},
        **sections,
    }


PPO = {"mini_batches": 2, "epochs": 2, "clip_low": 0.01, "clip_high": 0.01}
CASES: dict[str, dict[str, Any]] = {
    "plain": {"config": settings(), "silent": []},
    "rows dropped unevenly": {"config": settings(), "silent": [0, 1, 2]},
    "one process without a row": {"config": settings(), "silent": [0, 1, 2, 3, 4]},
    "no row at all": {"config": settings(), "silent": [0, 1, 2, 3, 4, 5]},
    "responses of one token in one process": {"config": settings(), "silent": [0, 1, 2, 3], "short": [5]},
    "clipped": {"config": settings(optimizer={"max_grad_norm": 0.1}), "silent": [1]},
    "AdamW as it is": {"config": settings(optimizer={"epsilon": 1e-8}), "silent": [1]},
    "mini-batches, epochs and PPO's clip": {"config": settings(optimizer=PPO), "silent": [2]},
    "importance sampling": {"config": settings(sampler={"importance_sampling": True}), "silent": [3]},
    "gradient checkpointing": {"config": settings(policy={"gradient_checkpointing": True}), "silent": [1]},
    "logits in pieces": {"config": settings(policy={"logits_at_once": 30}), "silent": [1]},
    "a penalty on the divergence": {"config": settings(kl={"coefficient": 0.1}, optimizer=PPO), "silent": [2]},
    "LoRA": {"config": settings(lora={"rank": 2}, optimizer={"epsilon": 1e-8}), "silent": [1]},
}


@pytest.fixture(scope="module")
def learnt(together: Together, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("learnt")
    codes = together("learn", CASES, str(folder), folder=folder)
    assert codes == [0, 0], (folder / "err-0").read_text() + (folder / "err-1").read_text()
    return json.loads((folder / "found.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_does(learnt: dict[str, Any], name: str) -> None:
    """Sums are taken in another order, in float32: 1e-6 was measured after two steps that moved weights by 1e-2."""
    found = learnt[name]
    assert found["names"]
    assert found["weights"] <= 1e-5
    norms, expected = found["norms"]
    assert norms == pytest.approx(expected, rel=1e-5, abs=1e-12)
    assert found["seen"] == found["expected"]
    assert (max(expected) > 0) == (name != "no row at all")
    assert (found["clipped"] > 0) == (name == "clipped")


STARTS = {
    "plain": settings(),
    "checkpointed": settings(policy={"gradient_checkpointing": True}),
    "LoRA": settings(lora={"rank": 2}),
}


def test_one_process_reads_the_model_and_all_have_their_part_of_it(together: Together, tmp_path: Path) -> None:
    assert together("start", STARTS, str(tmp_path), folder=tmp_path) == [0, 0], said(tmp_path)
    for name in STARTS:
        for rank in range(2):
            found = json.loads((tmp_path / f"{name}-{rank}.json").read_text())
            assert found["calls"] == [1, 0]
            assert all(found[each] for each in ("equal", "buffers", "types", "trained", "published", "tied"))
            assert 0.4 < found["share"] < 0.6
            assert found["mould"] == ["meta"]


@pytest.mark.slow
def test_each_process_samples_and_judges_its_part_and_knows_the_whole(together: Together, tmp_path: Path) -> None:
    assert together("sample", settings(), str(tmp_path), folder=tmp_path) == [0, 0], said(tmp_path)
    for name, groups in (("two", 2), ("one", 1)):
        first, second = (json.loads((tmp_path / f"{name}-{rank}.json").read_text()) for rank in range(2))
        assert first == second
        assert len(first["texts"]) == groups
        finished = [[text[:1] in tuple("02468") for text in texts] for texts in first["texts"]]
        assert all(
            not right or even
            for row, evens in zip(first["correct"], finished, strict=True)
            for right, even in zip(row, evens, strict=True)
        )
    # Two processes do not draw the same random numbers.
    one, other = json.loads((tmp_path / "two-0.json").read_text())["texts"]
    assert sum(a == b for a, b in zip(one, other, strict=True)) <= 4


def test_groups_are_dealt_whole_and_evenly() -> None:
    rows = [
        Row(prompt=(group,), response=(1,) * length, coefficient=1.0, occurrences=())
        for group, lengths in enumerate([(9, 9), (2,), (8, 8, 2), (3, 3), (1,), (5, 5)])
        for length in lengths
    ]
    for processes in (1, 2, 3, 7):
        hands = deal(rows, processes)
        assert sorted((row for hand in hands for row in hand), key=rows.index) == rows
        assert all(
            not ({row.prompt for row in one} & {row.prompt for row in other})
            for one in hands
            for other in hands
            if one is not other
        )
    held = [sum(len(row.response) for row in hand) for hand in deal(rows, 2)]
    assert max(held) - min(held) <= 3


def test_shares_are_consecutive_and_differ_by_one_at_most() -> None:
    for count in range(12):
        items = list(range(count))
        parts = [Ranks(rank=rank, size=5).share(items) for rank in range(5)]
        assert [item for part in parts for item in part] == items
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert all(
            part[:1] == items[Ranks(rank=rank, size=5).first(count) :][: len(part[:1])]
            for rank, part in enumerate(parts)
        )


# Whole runs.

RUN = {
    "task": {"name": "addition", "digits": {"1": 1}},
    "model": MODEL,
    "supervised": {
        "steps": 40,
        "batch_size": 32,
        "check_every": 2,
        "solved_share": 1.0,
        "learning_rate": 1e-2,
        "stop_at": 0.3,
    },
    "rollout": {
        "prompts_per_step": PROMPTS,
        "group_size": GROUP_SIZE,
        "max_new_tokens": 4,
        "dynamic_sampling": True,
        "over_generation_limit": 4,
    },
    "optimizer": {"max_grad_norm": 0.5, "tokens_per_micro_batch": 40, "mini_batches": 5, "clip_high": 0.2},
    "training": {"steps": STEPS, "evaluate_every": 3, "checkpoint_every": 1, "rollout_share": 1.0},
    "evaluation": {"prompts": 5, "samples": 2, "greedy": True},
}


@pytest.fixture(scope="module")
def arguments(table_file: Callable[[str, int], Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    config = tmp_path_factory.mktemp("config") / "run.toml"
    config.write_text(toml_of(RUN))
    return ["--config", str(config), "--table", str(table_file("linear-r", GROUP_SIZE)), "--output"]


def said(folder: Path) -> list[str]:
    return [(folder / f"err-{rank}").read_text() for rank in range(2)]


@pytest.fixture(scope="module")
def whole(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that torchrun has started, and nothing has interrupted."""
    output = tmp_path_factory.mktemp("whole") / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.run(
        [*command, "-m", "weightopt", "train", *arguments, str(output)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=3000,  # against waiting for ever, not against a busy machine
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count(f"step {STEPS}: held-out success") == 1  # of two processes one speaks
    return output


@pytest.mark.slow
def test_a_run_of_two_processes_leaves_what_a_run_leaves(whole: Path) -> None:
    assert sorted(path.name for path in whole.iterdir()) == [
        "best",
        "checkpoints",
        "metrics.jsonl",
        "model",
        "rollouts.jsonl",
        "run.json",
        "start",
        "timing.jsonl",
    ]
    assert json.loads((whole / "run.json").read_text())["processes"] == 2
    metrics = read_metrics(whole / "metrics.jsonl")
    assert [record.step for record in metrics.steps] == list(range(1, STEPS + 1))
    lines = [json.loads(line) for line in (whole / "rollouts.jsonl").read_text().splitlines()]
    for record in metrics.steps:
        responses = [line for line in lines if line["step"] == record.step]
        assert record.groups_drawn is not None
        assert len(responses) == record.groups_drawn * GROUP_SIZE
        assert sum(record.success_histogram) == record.groups_drawn >= PROMPTS
        assert record.reward == pytest.approx(sum(line["correct"] for line in responses) / len(responses))
    assert metrics.steps[-1].responses_so_far == len(lines)
    assert all(record.prompts == 5 for record in metrics.evaluations)
    assert any(record.distinct_responses for record in metrics.steps)
    AutoModelForCausalLM.from_pretrained(whole / "model")
    last = whole / "checkpoints" / f"step-{STEPS:06d}"
    assert load_file(last / "optimizer.safetensors").keys() == {
        f"{entry}/{name}"
        for entry in ("step", "exp_avg", "exp_avg_sq")
        for name in load_file(whole / "model" / "model.safetensors")
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "codes", "speaker", "sentence"),
    [
        ("disk", [1, 1], 0, "could not be written ([Errno 27] File too large"),
        ("sampler", [1, 1], 1, "step 2: the engine of process 1 is stale; the last checkpoint is intact"),
        ("diverge", [1, 1], 0, "step 2: the gradient is not finite (norm nan); its responses are in "),
        ("crash", [1, -9], 0, "another process of the run has ended and not said why"),
        ("terminate", [130, 130], 0, "interrupted after step 2, which is saved; go on with --resume"),
    ],
)
def test_when_one_process_ends_all_do_and_one_says_why_and_the_run_goes_on(
    together: Together,
    arguments: list[str],
    whole: Path,
    tmp_path: Path,
    broken: str,
    codes: list[int],
    speaker: int,
    sentence: str,
) -> None:
    output, folder = tmp_path / "run", tmp_path / "said"
    call = [*arguments, str(output), "--quiet", "--resume"]
    shutil.copytree(whole / "start", output / "start")  # a run that has made its start model, and nothing else
    shutil.copy(whole / "run.json", output)
    assert together("train", call, broken, folder=folder) == codes, said(folder)
    words = said(folder)
    assert sentence in words[speaker]
    assert words[speaker].count("\n") == 1
    assert words[1 - speaker] == ""
    if broken == "terminate":
        shutil.copytree(output, tmp_path / "alone")
    assert together("train", call, folder=folder) == [0, 0], said(folder)
    assert contents(output) == contents(whole)
    if broken == "terminate":
        # One process can go on as well. Not with the same numbers: the torch sampler draws otherwise.
        call = [*arguments, str(tmp_path / "alone"), "--quiet", "--resume"]
        assert together("train", call, folder=folder, size=1) == [0], said(folder)
        assert "processes" not in json.loads((tmp_path / "alone" / "run.json").read_text())
        two, one = read_metrics(whole / "metrics.jsonl"), read_metrics(tmp_path / "alone" / "metrics.jsonl")
        assert two.steps[:2] == one.steps[:2]
        assert len(one.steps) == STEPS


@pytest.mark.slow
def test_a_mistake_is_one_sentence(together: Together, arguments: list[str], whole: Path, tmp_path: Path) -> None:
    before = contents(whole)
    for change, sentence in [
        (["--set", "seed=1"], "is not empty: add --resume"),
        (["--set", "sead=1"], "config key 'sead' is unknown"),
        (["--set", "device=cuda:1"], "use 'auto', 'cuda' or 'cpu'"),
    ]:
        codes = together("train", [*arguments, str(whole), *change], folder=tmp_path)
        words = said(tmp_path)
        assert codes == [2, 1], words
        assert sentence in words[0]
        assert words[0].count("\n") == 1
        assert words[1] == ""
    assert contents(whole) == before
