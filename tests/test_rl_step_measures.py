"""Counting, looking up, measuring and writing down: the parts of the loop without a model."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from rl.records.metrics import (
    EvaluationRecord,
    Spent,
    StepRecord,
    TimingRecord,
    append_lines,
    line_of,
    read_metrics,
    read_timing,
)
from rl.run.records import Records
from rl.samplers.rollout import Batch, Completion, Group
from rl.seeds import derive_seed
from rl.step.advantage import weigh
from rl.step.config import EvaluationConfig
from rl.step.evaluate import bootstrap_interval, evaluate
from rl.step.success import count_successes, judge, success_histogram
from rl.tasks.addition import Addition
from rl.tasks.protocol import Prompt
from weightopt.table import WeightTable, group_table

TASK = Addition(name="addition", digits={2: 1.0})
PROMPTS = tuple(TASK.propose(Random(seed)) for seed in range(20))


def completion(text: str, *, finished: bool = True) -> Completion:
    return Completion(tokens=(1, 2, 3), log_probs=(-0.5, -1.0, -1.5), text=text, finished=finished)


class Scripted:
    """A sampler whose first ``right`` responses to every prompt are correct, and the others are not."""

    ends, engine = ("<end>",), None

    def __init__(self, right: int) -> None:
        self.right = right

    def publish(self, weights: object) -> None:
        raise NotImplementedError

    def rest(self) -> None:
        raise NotImplementedError

    def sample(self, prompts: Sequence[Prompt[Any]], *, group_size: int, **_: object) -> Batch:
        return Batch(
            groups=tuple(
                Group(
                    prompt=prompt,
                    prompt_tokens=(0,),
                    completions=tuple(
                        completion(TASK.demonstrate(prompt, Random(0), solved=True) if i < self.right else "x")
                        for i in range(group_size)
                    ),
                )
                for prompt in prompts
            )
        )


def batch(right: int) -> Batch:
    return Scripted(right).sample(PROMPTS, group_size=4, temperature=1.0, max_new_tokens=8, seed=0)


@pytest.mark.parametrize("right", range(5))
def test_successes_are_counted(right: int) -> None:
    correct = judge(batch(right), TASK).correct
    assert correct.shape == (20, 4)
    assert correct.dtype == bool
    successes = count_successes(correct)
    assert (successes == right).all()
    assert success_histogram(successes, 4) == tuple(20 if k == right else 0 for k in range(5))


def test_a_response_that_was_cut_is_wrong() -> None:
    prompt = PROMPTS[0]
    text = TASK.demonstrate(prompt, Random(0), solved=True)
    cut = Group(prompt=prompt, prompt_tokens=(0,), completions=(completion(text), completion(text, finished=False)))
    assert judge(Batch(groups=(cut,)), TASK).correct.tolist() == [[True, False]]


def test_batches_know_their_size() -> None:
    assert batch(1).responses == 80
    assert batch(1).tokens == 240
    assert batch(1).mean_negative_log_prob() == pytest.approx(1.0)
    assert batch(1).share_finished() == 1.0


def table() -> WeightTable:
    return group_table(
        lambda rho: 1 / rho, 4, name="linear-r", label="Linear-R", all_wrong_advantage=-1.0, all_right_advantage=0.25
    )


def test_advantages_are_what_the_table_says() -> None:
    correct = np.array([[False] * 4, [True, False, False, False], [True, True, False, True], [True] * 4])
    advantages = weigh(table(), correct, all_wrong_factor=1.0)
    # Linear-R: -1 for a wrong response, (1-ρ)/ρ for a right one, and the two rules at the ends.
    expected = [[-1, -1, -1, -1], [3, -1, -1, -1], [1 / 3, 1 / 3, -1, 1 / 3], [0.25] * 4]
    np.testing.assert_allclose(advantages, expected, rtol=1e-15)


def test_an_evaluation() -> None:
    config = EvaluationConfig(prompts=20, samples=4)
    spent = Spent(groups=20, responses=80, tokens=240)
    record = evaluate(Scripted(3), TASK, PROMPTS, config, max_new_tokens=8, step=5, spent=spent, seed=1)
    assert record.success == record.success_low == record.success_high == 0.75
    assert record.by_difficulty == {"2 digits": 0.75}
    assert (record.step, record.responses_so_far, record.prompts, record.samples) == (5, 80, 20, 4)
    assert (record.timed_out, record.failed, record.warning) == (0, 0, None)
    assert (record.groups_so_far, record.tokens_so_far) == (20, 240)


@pytest.mark.slow
def test_the_bootstrap_interval_covers_as_it_says() -> None:
    """Of 300 intervals for the mean of 200 uniform numbers about 95 % hold it: 5 standard errors are 0.063."""
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.random(200), seed=seed) for seed in range(300)]
    assert np.mean([low <= 0.5 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.063)
    assert bootstrap_interval(np.arange(9.0), seed=1) == bootstrap_interval(np.arange(9.0), seed=1)


def test_seeds_are_distinct_and_fixed() -> None:
    seeds = {derive_seed(seed, name, step) for seed in range(10) for name in ("a", "b") for step in range(10)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    # A change here would change every run there is.
    assert derive_seed(0, "prompts", 1) == int.from_bytes(sha256(b"0/prompts/1").digest()[:8], "big") // 2


def step_record(step: int) -> StepRecord:
    return StepRecord(
        step=step,
        responses_so_far=8 * step,
        tokens=30,
        reward=0.1,
        success_histogram=(1, 0, 1),
        all_wrong=0.5,
        all_right=0.5,
        mean_abs_advantage=1 / 3,
        distinct_responses=3,
        gradient_norm=0.7,
        clipped=False,
        entropy=0.2,
        finished=1.0,
    )


def evaluation_record(step: int) -> EvaluationRecord:
    return EvaluationRecord(
        step=step,
        responses_so_far=8 * step,
        success=0.1,
        success_low=0.05,
        success_high=0.2,
        by_difficulty={"2 digits": 0.1},
        prompts=20,
        samples=4,
        temperature=1.0,
    )


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    path, timing = tmp_path / "metrics.jsonl", tmp_path / "timing.jsonl"
    records = Records(tmp_path, every=2)
    records.add(evaluation_record(0))
    known: list[Any] = []
    for step in (1, 2, 3):
        records.add(step_record(step))
        seconds = {"sampling": 1.0, "verifying": 0.5, "learning": 2.0, "evaluating": 0.25}
        records.add(TimingRecord.from_seconds(step, seconds))
        known.append(records.checksums())
    records.add(evaluation_record(3))
    metrics = read_metrics(path)
    assert metrics.steps == (step_record(1), step_record(2), step_record(3))
    assert metrics.evaluations == (evaluation_record(0), evaluation_record(3))
    assert read_timing(timing)[1] == TimingRecord(step=2, sampling=1.0, verifying=0.5, learning=2.0, evaluating=0.25)

    whole = path.read_bytes()
    with path.open("a") as file:
        file.write('{"kind": "step", "step": 4')
    assert read_metrics(path) == metrics
    ended = Records(tmp_path, every=2)
    ended.check(records.checksums(), step=3, ended=True)
    ended.cut()
    assert path.read_bytes() == whole
    earlier = Records(tmp_path, every=2)
    earlier.check(known[0], step=1, ended=False)
    earlier.cut()
    assert read_metrics(path).steps == (step_record(1),)
    assert len(read_timing(timing)) == 1
    assert not (tmp_path / "rollouts.jsonl").exists()


@pytest.mark.parametrize(
    "line", ['{"kind": "weather"}', '{"step": 1}', '{"kind": "evaluation", "step": 1}', "not json"]
)
def test_a_strange_line_is_an_error(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl: "):
        read_metrics(path)


def test_numbers_that_json_has_no_word_for_are_not_written(tmp_path: Path) -> None:
    bad = TimingRecord(step=1, sampling=float("nan"), verifying=0.0, learning=0.0, evaluating=0.0)
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_lines(tmp_path / "timing.jsonl", [line_of(bad)])
    assert not (tmp_path / "timing.jsonl").exists()
