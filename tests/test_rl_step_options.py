"""The options of a run, one by one: schedules, dynamic sampling, pass@k, dumped responses."""

import json
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rl.config import Config, parse_config
from rl.errors import UsageError
from rl.learning.config import OptimizerConfig
from rl.processes.ranks import ALONE
from rl.records.metrics import Spent
from rl.run.checkpoint import kept_steps
from rl.run.rollouts import responses, rollouts, written
from rl.samplers.rollout import Batch, Completion, Group
from rl.seeds import derive_seed
from rl.step.advantage import weigh
from rl.step.config import EvaluationConfig, WeightingConfig
from rl.step.draw_groups import Collected, draw_groups
from rl.step.evaluate import evaluate, pass_at
from rl.step.loop import Stopwatch
from rl.step.schedule import TableSchedule, all_wrong_factor
from rl.step.success import histogram_by_difficulty
from rl.tasks.addition import Addition
from rl.tasks.protocol import Prompt
from rl.tasks.split import training_prompts
from theory.catalogue import WEIGHTINGS
from weightopt import GroupProblem, Problem, solve
from weightopt.adapters.weigher import GroupWeigher
from weightopt.catalogue_tables import named_table
from weightopt.table import TableError, WeightTable, group_table

TASK = Addition(name="addition", digits={1: 1.0, 2: 1.0})
SIZE = 4


class Chance:
    """A sampler that answers right with a fixed probability, and remembers what it was asked."""

    ends, engine = ("<end>",), None

    def __init__(self, rho: float) -> None:
        self.rho = rho
        self.asked: list[tuple[int, int]] = []

    def publish(self, weights: object) -> None:
        raise NotImplementedError

    def rest(self) -> None:
        raise NotImplementedError

    def sample(
        self, prompts: Sequence[Prompt[Any]], *, group_size: int, seed: int, temperature: float = 1.0, **_: object
    ) -> Batch:
        self.asked.append((len(prompts), seed))
        rng = Random(seed)

        def answer(prompt: Prompt[Any]) -> Completion:
            right = rng.random() < self.rho if temperature else self.rho > 0.5
            text = str(prompt.problem.total) if right else "x"
            return Completion(tokens=(1, 2), log_probs=(-1.0, -1.0), text=text, finished=True)

        return Batch(
            groups=tuple(
                Group(prompt=p, prompt_tokens=(0,), completions=tuple(answer(p) for _ in range(group_size)))
                for p in prompts
            )
        )


def config(**sections: Any) -> Config:
    rollout = {"prompts_per_step": 8, "group_size": SIZE, **sections.pop("rollout", {})}
    return parse_config({"task": {"name": "addition", "digits": {"1": 1}}, "rollout": rollout, **sections})


def schedule(**sections: Any) -> TableSchedule:
    settings = config(**sections)
    return TableSchedule.load(settings.table, settings.later_tables, group_size=settings.rollout.group_size)


def linear_r(size: int = SIZE) -> WeightTable:
    return ruled(-1.0, 0.0, size)


def ruled(all_wrong: float, all_right: float, size: int = SIZE) -> WeightTable:
    """Linear-R with other rules."""
    return group_table(
        lambda rho: 1 / rho,
        size,
        name="linear-r",
        label="Linear-R",
        all_wrong_advantage=all_wrong,
        all_right_advantage=all_right,
    )


# Tables of solved problems.


@pytest.mark.parametrize(
    ("clock", "size", "fixed", "refilled"),
    [("regular", SIZE, True, True), ("effective", SIZE, False, False), (f"refill:{SIZE},1,1", SIZE, False, True)],
)
def test_a_table_that_was_solved_for_another_loop_is_named(
    tmp_path: Path, clock: str, size: int, fixed: bool, refilled: bool
) -> None:
    solved = solve(GroupProblem(Problem(0.05, 0.9, clock), size)).table()
    solved.save(tmp_path / "solved.json")
    linear_r().save(tmp_path / "named.json")  # says nothing, and is not named
    later = [{"from_step": 3, "table": str(tmp_path / "named.json")}]
    tables = schedule(table=str(tmp_path / "solved.json"), later_tables=later)
    for dynamic_sampling, fine in ((False, fixed), (True, refilled)):
        said = tables.doubts(dynamic_sampling=dynamic_sampling)
        assert len(said) == (0 if fine else 1)
        assert all(repr(solved.label) in sentence and solved.made_for in sentence for sentence in said)


def test_a_push_on_all_wrong_groups_that_was_solved_for_reaches_the_responses(tmp_path: Path) -> None:
    solved = solve(GroupProblem(Problem(0.05, 0.9, "regular"), 4, crowding=0.5, crowding_range=(0.3, 0.6))).table()
    assert solved.all_wrong_advantage < 0
    solved.save(tmp_path / "table.json")
    correct = np.array([[False] * 4, [True, False, False, False], [True] * 4])
    tables = schedule(table=str(tmp_path / "table.json"), rollout={"group_size": 4})
    advantages = tables.at(1).advantages(correct.sum(axis=1, keepdims=True), correct)
    np.testing.assert_array_equal(advantages[0], [solved.all_wrong_advantage] * 4)
    np.testing.assert_array_equal(advantages[2], [0.0] * 4)
    weighed, _ = GroupWeigher(tmp_path / "table.json")([0] * 4 + [1] * 4 + [2] * 4, correct.ravel().astype(float))
    np.testing.assert_array_equal(weighed.reshape(3, 4), advantages)


# Schedules.


def test_the_all_wrong_rule_over_steps() -> None:
    def factors(**rule: Any) -> list[float]:
        return [all_wrong_factor(WeightingConfig(**rule), step) for step in range(1, 7)]

    assert factors() == [1.0] * 6
    assert factors(all_wrong="off") == [0.0] * 6
    assert factors(all_wrong="hold", all_wrong_after=2) == [0, 0, 1, 1, 1, 1]
    assert factors(all_wrong="hold", all_wrong_after=0) == [1.0] * 6
    assert factors(all_wrong="ramp", all_wrong_after=1, all_wrong_full_at=5) == [0, 0.25, 0.5, 0.75, 1, 1]
    assert factors(all_wrong="ramp", all_wrong_after=2, all_wrong_full_at=3) == [0, 0, 1, 1, 1, 1]


def test_the_learning_rate_over_steps() -> None:
    def rates(**options: Any) -> list[float]:
        return [OptimizerConfig(learning_rate=0.8, **options).rate_at(step) for step in range(1, 9)]

    assert rates() == [0.8] * 8
    assert rates(warmup_steps=4) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8], rel=1e-15)


def test_tables_take_turns(tmp_path: Path) -> None:
    names = ("rloo", "grpo", "linear-r")
    for name in names:
        named_table(WEIGHTINGS[name]).save(tmp_path / f"{name}.json")
    files = [str(tmp_path / f"{name}.json") for name in names]
    later = [{"from_step": 4, "table": files[1]}, {"from_step": 9, "table": files[2]}]
    tables = schedule(table=files[0], later_tables=later)
    assert [tables.at(step).name for step in (1, 3, 4, 8, 9, 1000)] == [
        "rloo",
        "rloo",
        "grpo",
        "grpo",
        "linear-r",
        "linear-r",
    ]
    assert tables.name == "rloo → grpo → linear-r"
    assert [each["name"] for each in tables.describe()["later_tables"]] == ["grpo", "linear-r"]


def test_every_table_of_a_schedule_is_checked_at_the_door(tmp_path: Path) -> None:
    linear_r().save(tmp_path / "good.json")
    linear_r(8).save(tmp_path / "other.json")
    good = str(tmp_path / "good.json")
    with pytest.raises(UsageError, match="no weight table is given"):
        schedule()
    for name, sentence in (("other.json", "'group_size' is 8 but 4"), ("absent.json", "cannot be read")):
        later = [{"from_step": 5, "table": str(tmp_path / name)}]
        with pytest.raises(TableError, match=sentence):
            schedule(table=good, later_tables=later)


def test_groups_of_one_kind_keep_the_rules_of_the_table() -> None:
    table = ruled(-0.7, 0.3)
    correct = np.array([[False] * SIZE, [True] * SIZE, [True, False, False, True]])
    advantages = weigh(table, correct, all_wrong_factor=0.5)
    np.testing.assert_allclose(advantages[:2], [[-0.35] * SIZE, [0.3] * SIZE])
    np.testing.assert_array_equal(advantages[2], table.advantages(correct.sum(axis=1, keepdims=True), correct)[2])


# Dynamic sampling.


def collected(
    rho: float, *, step: int = 1, before: tuple[int, int] = (0, 0), **rollout: Any
) -> tuple[Collected, Chance]:
    sampler = Chance(rho)
    loop: Any = SimpleNamespace(
        config=config(rollout=rollout),
        task=TASK,
        verifier=TASK,
        sampler=sampler,
        before=before,
        drawn=None,
        ranks=ALONE,
    )
    return draw_groups(loop, step, Stopwatch()), sampler


def test_without_dynamic_sampling_one_draw_is_the_step() -> None:
    step, sampler = collected(0.1, step=3)
    assert sampler.asked == [(8, derive_seed(0, "responses", 3))]
    assert [group.prompt for group in step.batch.groups] == list(
        training_prompts(TASK, count=8, seed=derive_seed(0, "prompts", 3))
    )
    assert step.kept.tolist() == list(range(8))
    assert step.batch == step.drawn
    np.testing.assert_array_equal(step.correct[step.kept], step.correct)


def test_dynamic_sampling_keeps_the_first_mixed_groups() -> None:
    step, sampler = collected(0.05, dynamic_sampling=True, over_generation_limit=1000)
    assert len(sampler.asked) > 1
    assert sampler.asked[0][1] == derive_seed(0, "responses", 1)
    assert len({seed for _, seed in sampler.asked}) == len(sampler.asked)
    assert sum(count for count, _ in sampler.asked) == len(step.drawn.groups)
    right = step.correct.sum(axis=1)
    mixed = np.flatnonzero((right > 0) & (right < SIZE))
    assert (step.kept.tolist(), step.mixed) == (mixed[:8].tolist(), len(mixed))
    last = len(step.drawn.groups) - sampler.asked[-1][0]
    assert (mixed < last).sum() < 8  # or the last draw was one too many
    again, _ = collected(0.05, dynamic_sampling=True, over_generation_limit=1000)
    assert again.drawn == step.drawn


def test_a_draw_asks_for_what_should_fill_the_batch() -> None:
    """The mean number of groups, and half of the standard deviation of a negative binomial distribution."""
    for mixed, drawn in ((0, 0), (39, 98), (3, 398), (100, 100)):
        share = (mixed + 1) / (drawn + 2)
        _, sampler = collected(0.5, before=(mixed, drawn), dynamic_sampling=True, over_generation_limit=1000)
        assert sampler.asked[0][0] == math.ceil(8 / share + 0.5 * math.sqrt(8 * (1 - share)) / share)


@pytest.mark.slow
@pytest.mark.parametrize(("rho", "serial"), [(0.12, 7.5), (0.0545, 15.0)])
def test_drawing_ahead_takes_few_draws_and_few_groups(rho: float, serial: float) -> None:
    """40 and 20 % of the groups are mixed; asking for what is missing takes ``serial`` draws a step, and more."""
    mixed = 1 - rho**SIZE - (1 - rho) ** SIZE
    before, draws, groups, alone = (0, 0), 0, 0, 0
    rng = np.random.default_rng(0)
    for number in range(1, 61):
        step, sampler = collected(
            rho, step=number, before=before, prompts_per_step=64, dynamic_sampling=True, over_generation_limit=1000
        )
        before, draws, groups = (step.mixed, len(step.drawn.groups)), draws + len(sampler.asked), groups + before[1]
        missing = 64
        while missing:
            missing, alone = missing - rng.binomial(missing, mixed), alone + 1
    assert alone / 60 > serial
    assert draws / 60 < 1.8
    assert 1.0 < (groups + before[1]) / 60 * mixed / 64 < 1.2


def test_the_over_generation_limit_holds() -> None:
    step, sampler = collected(0.0, dynamic_sampling=True, over_generation_limit=3)
    assert (len(step.drawn.groups), len(step.batch.groups)) == (24, 0)
    assert step.correct[step.kept].shape == (0, SIZE)
    assert sum(count for count, _ in sampler.asked) == 24
    step, _ = collected(0.02, dynamic_sampling=True, over_generation_limit=3)
    assert len(step.drawn.groups) <= 24
    step, sampler = collected(0.1, dynamic_sampling=True, over_generation_limit=1)
    assert len(sampler.asked) == 1
    assert len(step.batch.groups) < 8


def test_groups_drawn_until_the_batch_is_full_are_what_the_mixed_clock_charges() -> None:
    """1/(1 - ρ^M - (1-ρ)^M) on average; over 100 steps of 8 the standard error of the ratio is under 5 %."""
    rho = 0.2
    steps = [collected(rho, step=s, dynamic_sampling=True, over_generation_limit=1000)[0] for s in range(100)]
    drawn = sum(int(step.kept[-1]) + 1 for step in steps)
    assert drawn / 800 == pytest.approx(1 / (1 - rho**SIZE - (1 - rho) ** SIZE), rel=0.15)


def test_histograms_by_difficulty_add_up() -> None:
    batch = Chance(0.5).sample([TASK.propose(Random(i)) for i in range(40)], group_size=SIZE, seed=0)
    successes = np.arange(40) % 5
    parts = histogram_by_difficulty(batch, successes, SIZE)
    assert list(parts) == ["1 digit", "2 digits"]
    assert np.sum(list(parts.values()), axis=0).tolist() == [8] * 5


def test_stages_add_up() -> None:
    stopwatch = Stopwatch()
    for name in ("a", "b", "a"):
        with stopwatch.stage(name):
            pass
    assert set(stopwatch.seconds) == {"a", "b"}
    assert all(seconds >= 0 for seconds in stopwatch.seconds.values())


# Evaluation.


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one() -> None:
    """Unbiased since every subset of k of the n samples is k independent samples: counted one by one."""
    n = 6
    for k in range(1, n + 1):
        for c in range(n + 1):
            subsets = list(combinations(range(n), k))
            share = sum(any(i < c for i in subset) for subset in subsets) / len(subsets)
            assert pass_at(k, np.array([c]), n)[0] == pytest.approx(share, abs=1e-15)
    np.testing.assert_allclose(pass_at(1, np.arange(n + 1), n), np.arange(n + 1) / n, atol=1e-15)
    assert pass_at(500, np.array([0, 1, 1000]), 1000).tolist() == [0, 0.5, 1]


def test_pass_at_k_is_unbiased() -> None:
    """Mean over Bin(n, ρ) is 1 - (1-ρ)^k, exactly."""
    n, k, rho = 5, 3, 0.17
    chances = [math.comb(n, c) * rho**c * (1 - rho) ** (n - c) for c in range(n + 1)]
    mean = np.dot(chances, pass_at(k, np.arange(n + 1), n))
    assert mean == pytest.approx(1 - (1 - rho) ** k, abs=1e-14)


def test_an_evaluation_with_everything() -> None:
    prompts = [TASK.propose(Random(i)) for i in range(30)]
    settings = EvaluationConfig(prompts=30, samples=4, pass_at=(1, 4), greedy=True)
    sampler = Chance(0.4)
    record = evaluate(sampler, TASK, prompts, settings, max_new_tokens=8, step=2, spent=Spent(), seed=5)
    assert record.pass_at["1"] == pytest.approx((record.success, record.success_low, record.success_high), abs=1e-15)
    value, low, high = record.pass_at["4"]
    assert record.success < low <= value <= high
    assert record.greedy == (0, 0, 0)  # the more probable answer is wrong
    assert len(sampler.asked) == 2


# Files.


def test_a_share_of_the_groups_is_written_down() -> None:
    step, _ = collected(0.3, dynamic_sampling=True)
    advantages = np.arange(step.batch.responses).reshape(-1, SIZE).astype(float)

    def lines(share: float) -> list[dict[str, Any]]:
        return list(rollouts(step, advantages, step=1, share=share, seed=0))

    assert lines(0.0) == []
    assert [line["correct"] for line in lines(1.0)] == step.correct.ravel().tolist()
    assert [line["advantage"] for line in lines(1.0) if line["group"] in step.kept] == advantages.ravel().tolist()
    assert all(line["advantage"] is None for line in lines(1.0) if line["group"] not in step.kept)
    assert lines(0.5) == lines(0.5)
    assert 0 < len(lines(0.5)) < len(lines(1.0))


def test_a_diverged_step_is_written_down_where_there_is_room(tmp_path: Path) -> None:
    step, _ = collected(0.3)
    documents = list(responses(step, np.full((8, SIZE), math.nan), step=7, tokens=True))
    assert written(documents, tmp_path / "absent", step=7) == ""
    assert written(documents, tmp_path, step=7).endswith("diverged-step-000007.jsonl'")
    lines = (tmp_path / "diverged-step-000007.jsonl").read_text().splitlines()
    assert [json.loads(line)["advantage"] for line in lines] == ["nan"] * 8 * SIZE


def test_which_checkpoints_stay(tmp_path: Path) -> None:
    for step in (5, 10, 12, 15, 20, 23):
        (tmp_path / f"step-{step:06d}").mkdir()
    assert kept_steps(tmp_path, count=1, every=5, last=23) == {23}
    assert kept_steps(tmp_path, count=3, every=5, last=23) == {15, 20, 23}
    assert kept_steps(tmp_path, count=9, every=5, last=23) == {5, 10, 15, 20, 23}
    assert kept_steps(tmp_path / "absent", count=2, every=5, last=0) == {0}
