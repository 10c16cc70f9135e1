"""Tasks: problems are solvable, demonstrations are of the right form, verdicts are exact, sides are disjoint."""

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.errors import UsageError
from rl.tasks import arithmetic
from rl.tasks.addition import Addition
from rl.tasks.countdown import Countdown
from rl.tasks.letters import LETTERS, REWRITINGS, Letters
from rl.tasks.protocol import TeachingTask
from rl.tasks.split import HELD_OUT_SHARE, held_out_prompts, is_held_out, training_prompts
from tests.amounts import examples, some_of


def countdown(**keys: Any) -> Countdown:
    return Countdown(**{"name": "countdown", "largest_number": 25, "largest_target": 100, **keys})


ADDITION = Addition(name="addition", digits={1: 1.0, 2: 1.0, 5: 1.0})
COUNTDOWN = countdown(numbers={2: 1.0, 3: 1.0, 4: 1.0})
REWRITTEN = Letters(name="letters", kinds=dict.fromkeys(REWRITINGS, 1.0), habits={"copy": 3.0, "sort": 1.0})
TASKS = pytest.mark.parametrize("task", [ADDITION, COUNTDOWN, REWRITTEN], ids=["addition", "countdown", "letters"])


@TASKS
@given(seed=st.integers(0, 2**63 - 1))
@settings(max_examples=200, deadline=None)
def test_solved_demonstrations_verify_and_stay_in_the_alphabet(task: TeachingTask[Any], seed: int) -> None:
    rng = Random(seed)
    prompt = task.propose(rng)
    solution = task.demonstrate(prompt, rng, solved=True)
    attempt = task.demonstrate(prompt, rng, solved=False)
    assert task.verify(prompt, solution)
    assert set(prompt.text + solution + attempt) <= set(task.alphabet)
    assert task.verify(prompt, attempt) in (True, False, None)


@TASKS
def test_alphabet_has_no_repeats(task: TeachingTask[Any]) -> None:
    assert len(set(task.alphabet)) == len(task.alphabet)


@given(seed=st.integers(0, 2**63 - 1))
@settings(max_examples=200, deadline=None)
def test_countdown_problems_are_what_they_say(seed: int) -> None:
    rng = Random(seed)
    prompt = COUNTDOWN.propose(rng)
    problem = prompt.problem
    solution = arithmetic.evaluate(problem.solution)
    assert solution.value == problem.target
    assert Counter(solution.numbers) == Counter(problem.given)
    assert problem.target not in problem.given
    assert 1 <= problem.target <= COUNTDOWN.largest_target
    assert all(1 <= number <= COUNTDOWN.largest_number for number in problem.given)
    assert prompt.text == f"{' '.join(map(str, problem.given))}={problem.target}:"
    attempt = arithmetic.evaluate(COUNTDOWN.demonstrate(prompt, rng, solved=False))
    assert Counter(attempt.numbers) == Counter(problem.given)


def test_countdown_operators_are_evenly_used() -> None:
    rng = Random(0)
    task = countdown(numbers={2: 1.0})
    used = Counter(next(c for c in task.propose(rng).problem.solution if c in "+-*/") for _ in range(2000))
    # Each has probability 1/4 but for arrangements given up after 64 draws; 5 standard errors are 0.05.
    assert all(0.15 < count / 2000 < 0.35 for count in used.values())
    assert set(used) == set("+-*/")


def test_countdown_verdicts() -> None:
    rng = Random(0)
    task = countdown(numbers={3: 1.0})
    prompt = next(p for p in iter(lambda: task.propose(rng), None) if len(set(p.problem.given)) == 3)
    low, middle, high = prompt.problem.given
    target, solution = prompt.problem.target, prompt.problem.solution
    assert task.verify(prompt, solution)
    assert task.verify(prompt, f"({solution})")
    assert task.verify(prompt, solution.replace("*", "×").replace("/", "÷"))
    assert not task.verify(prompt, str(target))  # the target is not among the numbers
    assert not task.verify(prompt, f"{solution}+{low}-{low}")  # a number used three times
    assert not task.verify(prompt, f"{solution}={target}")
    assert not task.verify(prompt, f"{low}+{middle}+{high}+1000")


def test_countdown_may_leave_a_number_out() -> None:
    task = COUNTDOWN
    prompt = task.propose(Random(1))
    given_numbers = (3, 5, 8)
    problem = type(prompt.problem)(given=given_numbers, target=15, solution="3*5")
    prompt = type(prompt)(id="3 5 8=15", text="3 5 8=15:", difficulty="3 numbers", problem=problem)
    assert task.verify(prompt, "3*5")
    assert task.verify(prompt, "5×3")
    assert not task.verify(prompt, "3*5*8/8")


def test_addition_verdicts() -> None:
    rng = Random(3)
    prompt = ADDITION.propose(rng)
    total = str(prompt.problem.total)
    assert ADDITION.verify(prompt, total)
    for wrong in ("", " " + total, total + " ", "+" + total, "0" + total, total + "0", total + ".0", total + "\n"):
        assert not ADDITION.verify(prompt, wrong)


@pytest.mark.slow
@TASKS
@examples(100, 1500, response=st.text() | st.text("0123456789+-*/() ", max_size=200))
def test_any_string_has_a_verdict(task: TeachingTask[Any], response: str) -> None:
    assert task.verify(task.propose(Random(0)), response) in (True, False, None)


@TASKS
@pytest.mark.parametrize(
    "response", ["9" * 10**6, "(" * 10**6, "٣" * 10, "１", "9**9**9", "True", "None", "1e3", "\x00"]
)
def test_hostile_strings_are_wrong(task: TeachingTask[Any], response: str) -> None:
    assert not task.verify(task.propose(Random(0)), response)


@some_of("task", [ADDITION, COUNTDOWN], 1, ids=["addition", "countdown"])
def test_sides_are_disjoint_and_deterministic(task: TeachingTask[Any]) -> None:
    held_out = held_out_prompts(task, count=100, seed=0)
    assert held_out == held_out_prompts(task, count=100, seed=0)
    assert held_out != held_out_prompts(task, count=100, seed=1)
    assert len({prompt.id for prompt in held_out}) == 100
    train = training_prompts(task, count=2000, seed=5)
    assert train == training_prompts(task, count=2000, seed=5)
    assert not {prompt.id for prompt in train} & {prompt.id for prompt in held_out}
    assert all(is_held_out(prompt.id) for prompt in held_out)


def test_the_name_of_a_problem_forgets_the_order_of_its_numbers() -> None:
    by_id: dict[str, set[str]] = {}
    for prompt in training_prompts(countdown(numbers={2: 1.0}, largest_number=9), count=2000, seed=0):
        by_id.setdefault(prompt.id, set()).add(prompt.text)
    assert max(len(texts) for texts in by_id.values()) == 2
    for prompt in training_prompts(Addition(name="addition", digits={1: 1.0}), count=50, seed=0):
        assert prompt.id == f"{min(prompt.problem.terms)}+{max(prompt.problem.terms)}"


def test_the_held_out_share() -> None:
    share = sum(is_held_out(f"{a}+{b}") for a in range(100) for b in range(100)) / 10_000
    assert abs(share - HELD_OUT_SHARE) < 0.02  # 6 standard errors


def test_too_few_held_out_problems_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"evaluation\.prompts is 100, but"):
        held_out_prompts(Addition(name="addition", digits={1: 1.0}), count=100, seed=0)


def test_rewritings_do_what_their_names_say() -> None:
    assert [REWRITINGS[kind]("hbda") for kind in ("reverse", "sort", "rotate", "next", "copy")] == [
        "adbh",
        "abdh",
        "bdah",
        "aceb",
        "hbda",
    ]


def test_a_word_tells_its_kinds_apart() -> None:
    rng, seen = Random(1), Counter[str]()
    for _ in range(400):
        prompt = REWRITTEN.propose(rng)
        seen[prompt.difficulty] += 1
        answers = {rewrite(prompt.problem.word) for rewrite in REWRITINGS.values()}
        assert len(answers) == len(REWRITINGS)
        assert sum(bool(REWRITTEN.verify(prompt, answer)) for answer in answers) == 1
        for malformed in ("", "abc", "abcde", "abcz", prompt.problem.answer.upper(), prompt.problem.answer + "\n"):
            assert REWRITTEN.verify(prompt, malformed) is None
    assert seen.keys() == set(REWRITINGS)
    assert min(seen.values()) > 400 / 5 - 5 * (400 / 5 * 4 / 5) ** 0.5


def test_demonstrations_of_letters_follow_the_habits_whatever_is_asked() -> None:
    rng, copies = Random(2), 0
    for _ in range(400):
        prompt = REWRITTEN.propose(rng)
        shown = REWRITTEN.demonstrate(prompt, rng, solved=False)
        assert shown in (prompt.problem.word, "".join(sorted(prompt.problem.word)))
        copies += shown == prompt.problem.word
    assert abs(copies - 300) < 5 * (400 * 3 / 16) ** 0.5
    assert set(LETTERS) <= set(REWRITTEN.alphabet)
