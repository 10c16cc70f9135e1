"""Tasks for models that know language: prompts, answers, sides, data files and libraries."""

import itertools
import json
import re
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.config import Config, parse_config
from rl.errors import UsageError
from rl.samplers.rollout import Batch, Completion, Group
from rl.step.success import Judgement, judge
from rl.tasks import extraction
from rl.tasks.chat import chat_writer, in_chat
from rl.tasks.countdown import Numbers
from rl.tasks.countdown_text import CountdownText
from rl.tasks.math_file import READERS
from rl.tasks.protocol import GeneratedTask, ListedTask, Prompt, TeachingTask
from rl.tasks.registry import build_task, build_teaching_task, build_verifier, wants_chat
from rl.tasks.split import ProblemList, held_out_prompts, is_held_out, training_prompts
from rl.verification.pool import VerifierPool, open_verifier


def config(**task: Any) -> Config:
    return parse_config({"task": task, "verifier": {"workers": 1}})


def judged(settings: Config, prompt: Prompt[Any], responses: list[str], *, pool: bool = False) -> Judgement:
    """What the verifier says: in this process, which is quick, or in one of its own, as in a run."""
    completions = tuple(Completion(tokens=(1,), log_probs=(0.0,), text=text, finished=True) for text in responses)
    batch = Batch(groups=(Group(prompt=prompt, prompt_tokens=(0,), completions=completions),))
    if not pool:
        return judge(batch, build_verifier(settings.task))
    with open_verifier(settings) as verifier:
        assert isinstance(verifier, VerifierPool)
        return judge(batch, verifier)


# Where an answer stands.


@pytest.mark.parametrize(
    ("form", "text", "answer"),
    [
        ("boxed", r"so \boxed{1} or \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("boxed", r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        ("boxed", r"\boxed{\}}", r"\}"),
        ("boxed", r"\boxed{1} and \boxed{2", None),
        ("boxed", r"\boxed{\boxed{3}}", "3"),
        ("boxed", "no box", None),
        ("boxed", r"so $\boxed 2$.", "2"),
        ("boxed", r"so \boxed {5}, \fbox{6}", "6"),
        ("boxed", r"\boxed{5}, in a \boxed as asked", "5"),
        ("boxed", r"it is \boxed\frac{1}{2}", r"\frac{1}{2}"),
        ("boxed", r"\boxed{5} \boxed{}", None),
        ("boxed", "\\boxed{1\\", None),
        ("hashes", "2+2\n#### 1\n#### 4 \nbye", "4"),
        ("hashes", "4", None),
        ("hashes", "####", None),
        ("tags", "<answer>1</answer> no, <answer> 2 </answer> it is", "2"),
        ("tags", "<answer>1</answer> or <answer>2", "1"),
        ("tags", "</answer> 1 <answer>", None),
        ("tags", "<answer></answer>", None),
        ("line", " 5+8 \n\nNumbers", "5+8"),
        ("line", "\n5", None),
        ("whole", " a\nb ", "a\nb"),
        ("whole", "x" * 41, None),
        ("whole", "x" * 40, "x" * 40),
        ("whole", "٣", None),
        ("whole", "1２", None),
        ("whole", "x²+½", "x²+½"),
    ],
)
def test_extraction(form: extraction.Form, text: str, answer: str | None) -> None:
    assert extraction.extract(form, text, longest=40) == answer


@given(st.text("{}\\boxed#<answer>/\n 1٣", max_size=300))
@settings(max_examples=300, deadline=None)
def test_what_is_extracted_stands_in_the_text(text: str) -> None:
    for form in extraction.RULES:
        answer = extraction.extract(form, text, longest=1000)
        assert answer is None or (answer and answer in text and answer == answer.strip())


# Countdown in words.


def countdown(**options: Any) -> CountdownText:
    return CountdownText(
        name="countdown-text", numbers={2: 1.0, 3: 1.0}, largest_number=9, largest_target=40, **options
    )


@pytest.mark.parametrize("options", [{}, {"chat": True}, {"examples": 3}], ids=str)
def test_countdown_prompts_say_what_is_asked(options: dict[str, Any]) -> None:
    task = countdown(**options)
    rng = Random(0)
    for _ in range(200):
        prompt = task.propose(rng)
        last = prompt.text.splitlines()[-1] if "examples" in options else prompt.text
        assert str(prompt.problem.target) in last
        assert ", ".join(map(str, prompt.problem.given)) in last
        solution = prompt.problem.solution
        assert task.verify(prompt, f"{solution}\nmore" if "examples" in options else f"<answer>{solution}</answer>")
    assert not isinstance(task, TeachingTask)


def test_examples_are_solved_and_never_asked() -> None:
    task = countdown(examples=3)
    rng = Random(0)
    shown: dict[int, set[tuple[str, ...]]] = {}
    for _ in range(300):
        prompt = task.propose(rng)
        *examples, question = prompt.text.splitlines()
        assert len(examples) == 3
        numbers, target = ", ".join(str(number) for number in prompt.problem.given), prompt.problem.target
        assert question == f"Make {target} from {numbers}: {target} ="
        shown.setdefault(len(prompt.problem.given), set()).add(tuple(examples))
        for line in examples:
            match = re.fullmatch(r"Make (\d+) from ([\d, ]+): (\d+) = (\S+)", line)
            assert match
            target, numbers, again, solution = match.groups()
            assert again == target
            asked = sorted(int(number) for number in numbers.split(","))
            # A road of its own to the value: Python's, which is safe on what we wrote.
            assert eval(solution.replace("/", "//") if "/" in solution else solution) == int(target)
            assert sorted(int(n) for n in "".join(c if c.isdigit() else " " for c in solution).split()) == asked
            assert (asked, int(target)) != (sorted(prompt.problem.given), prompt.problem.target)
    assert {count: len(sets) for count, sets in shown.items()} == {2: 1, 3: 1}
    operators = [frozenset(line) & frozenset("+-*/") for line in next(iter(shown[2]))]
    assert len(set(operators)) == 3


def test_countdown_answers_use_each_number_exactly_once() -> None:
    """Against all expressions of two numbers, valued with Python's own fractions."""
    task, few_shot = countdown(), countdown(examples=2)
    for first, second, target in itertools.product((2, 3, 4), (2, 6), (1, 2, 4, 6, 8, 12)):
        problem = Numbers(given=(first, second), target=target, solution="")
        prompt = Prompt(id="", text="", difficulty="", problem=problem)
        for a, b in [(first, second), (second, first), (first, first), (first, 1)]:
            uses = Counter((a, b)) == Counter((first, second))
            values = {"+": a + b, "-": a - b, "*": a * b, "/": Fraction(a, b)}
            for operator, value in values.items():
                expression = f"{a}{operator}{b}"
                assert task.verify(prompt, f"think <answer>{expression}</answer>") == (uses and value == target)
                assert few_shot.verify(prompt, f" {expression}\nMake 1 from 1") == (uses and value == target)
        assert task.verify(prompt, f"<answer>{first}</answer>") is False
        for unreadable in ("", "2+2", f"<answer>{first}+{second}={target}</answer>", "<answer>two</answer>"):
            assert task.verify(prompt, unreadable) is None
        assert few_shot.verify(prompt, "\n2*2") is None


def test_countdown_text_from_a_configuration() -> None:
    task = build_task(config(name="countdown-text").task)
    assert isinstance(task, CountdownText)
    assert (set(task.problems.numbers), task.problems.largest_number, task.problems.largest_target) == ({3, 4}, 99, 100)
    with pytest.raises(UsageError, match="examples are a text to be continued and chat is a conversation"):
        config(name="countdown-text", examples=1, chat=True)
    with pytest.raises(
        UsageError, match=r"task 'countdown-text' cannot teach a new model .*: name a model with start_"
    ):
        build_teaching_task(config(name="countdown-text").task)


# Files of problems.


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def gsm8k(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"question": f"Tom has {n} apples and buys 1,000. How many?", "answer": f"{n}+1000=<<{n}>>\n#### {n + 1000:,}"}
        for n in range(start, start + count)
    ]


@pytest.mark.slow
def test_gsm8k_from_a_file(tmp_path: Path) -> None:
    settings = config(name="gsm8k", train=write_jsonl(tmp_path / "a.jsonl", gsm8k(200)))
    task = build_task(settings.task)
    assert isinstance(task, ListedTask)
    assert len(task.training) + len(task.held_out) == 200
    assert all(is_held_out(prompt.id) for prompt in task.held_out)
    assert not any(is_held_out(prompt.id) for prompt in task.training)
    held_out = held_out_prompts(task, count=len(task.held_out), seed=1)
    assert {prompt.id for prompt in held_out} == {prompt.id for prompt in task.held_out}
    assert len({prompt.id for prompt in held_out}) == len(held_out) > 10
    train = training_prompts(task, count=300, seed=4)
    assert train == training_prompts(task, count=300, seed=4) != training_prompts(task, count=300, seed=5)
    assert {prompt.id for prompt in train} <= {prompt.id for prompt in task.training}
    with pytest.raises(UsageError, match=rf"evaluation\.prompts is 500, but the task has {len(held_out)} held-out"):
        held_out_prompts(task, count=500, seed=1)
    prompt = next(p for p in [*task.training, *task.held_out] if "has 7 apples" in p.text)
    assert prompt.problem.answer == "1,007"
    assert prompt.text.startswith("Tom has 7 apples and buys 1,000. How many?\n\nThink step by step")
    assert r"\boxed{}" in prompt.text
    responses = [r"\boxed{1007}", r"\boxed{1,007}", r"\boxed{\$1007.00}", r"\boxed{1008}", "1007", r"\boxed{1007", ""]
    judgement = judged(settings, prompt, responses, pool=True)
    assert judgement.correct.tolist() == [[True, True, True, False, False, False, False]]
    assert judgement.parsable.tolist() == [[True, True, True, True, False, False, False]]
    assert (judgement.timed_out, judgement.failed) == (0, 0)


@pytest.mark.slow
def test_math_from_parquet_with_a_held_out_file(tmp_path: Path) -> None:
    answers = [r"\frac{1}{2}", r"(1, \infty)", r"x^2+2x+1", r"\text{yes}", r"2\sqrt{2}"]
    rows = [
        {"problem": f"Problem {n}?", "solution": rf"As \boxed{{0}}, it is $\boxed{{{answer}}}$.", "level": f"Level {n}"}
        for n, answer in enumerate(answers)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    again = [{**rows[1], "problem": " problem  1?"}, rows[4]]
    settings = config(
        name="math",
        train=str(tmp_path / "train.parquet"),
        held_out=write_jsonl(tmp_path / "test.jsonl", again),
        difficulty_column="level",
        template="Q: {question}\nA:",
        answer="line",
    )
    task = build_task(settings.task)
    assert isinstance(task, ListedTask)
    # Blanks and case do not make another problem: what is held out is not trained on.
    assert [prompt.text for prompt in task.training] == [f"Q: Problem {n}?\nA:" for n in (0, 2, 3)]
    assert [prompt.difficulty for prompt in task.held_out] == ["Level 1", "Level 4"]
    right = {0: "0.5", 2: "(x+1)^2", 3: r"\text{yes}"}
    wrong = {0: "2", 2: "(x+2)^2", 3: r"\text{no}"}
    for n, prompt in zip((0, 2, 3), task.training, strict=True):
        assert prompt.problem.answer == answers[n]
        assert judged(settings, prompt, [right[n], wrong[n], answers[n]]).correct.tolist() == [[True, False, True]]


def test_columns_may_be_nested_and_numbers(tmp_path: Path) -> None:
    rows = [{"q": f"{n}?", "reward": {"truth": n}} for n in range(40)]
    task = build_task(
        config(
            name="math",
            train=write_jsonl(tmp_path / "a.jsonl", rows),
            question_column="q",
            answer_column="reward.truth",
            reference="whole",
        ).task
    )
    assert isinstance(task, ListedTask)
    assert {prompt.problem.answer for prompt in [*task.training, *task.held_out]} == {str(n) for n in range(40)}


def test_rows_as_they_are_published(tmp_path: Path) -> None:
    boxes = [r"$\boxed 2$", r"$\boxed{}$", *(rf"$\boxed{{{n}}}$" for n in range(30))]
    rows = [{"problem": f"{n}?", "solution": f"It is {box}."} for n, box in enumerate(boxes)]
    source = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(UsageError, match=r"row 2 of .* has no answer .* task\.without_answer = \"drop\""):
        build_task(config(name="math", train=source).task)
    task = build_task(config(name="math", train=source, without_answer="drop").task)
    assert isinstance(task, ProblemList)
    assert len(task.training) + len(task.held_out) == 31
    assert task.notes == (f"1 of 32 rows of {source!r} are left out: they have no answer",)
    assert "2" in {prompt.problem.answer for prompt in (*task.training, *task.held_out) if prompt.text.startswith("0?")}


def test_numbers_of_a_file_keep_their_digits(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    options = {"question_column": "q", "answer_column": "a", "reference": "whole"}
    path.write_text("".join(f'{{"q": "{n}", "a": 0.00001}}\n' for n in range(20)))
    task = build_task(config(name="math", train=str(path), **options).task)
    assert isinstance(task, ListedTask)
    assert task.training[0].problem.answer == "0.00001"
    for gold in ("NaN", "true", "Infinity", "1e999999999", '"nan"'):
        path.write_text(f'{{"q": "1", "a": {gold}}}\n')
        with pytest.raises(UsageError, match=r"row 1 of .* has .* in column 'a'"):
            build_task(config(name="math", train=str(path), **options).task)


def test_lines_of_a_file_end_where_json_says(tmp_path: Path) -> None:
    questions = [f"a{mark}b" for mark in ("\u2028", "\u2029", "\x85", "\v")]
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"question": each, "answer": "#### 1"}, ensure_ascii=False) for each in questions[:3]]
    lines.append(json.dumps({"question": questions[3], "answer": "#### 1"}))
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert list(READERS[path.suffix](path)) == [{"question": each, "answer": "#### 1"} for each in questions]


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        (None, {}, r"data file '.*a.jsonl' cannot be read: No such file"),
        ("{}\n", {}, r"row 1 of '.*' has no column 'question'; it has $"),
        (
            '{"question": "a", "answer": "5"}\n',
            {},
            r"row 1 of .* has no answer in column 'answer' where task.reference",
        ),
        ('{"question": "a", "answer": "#### 5"}\n{"question', {}, r"line 2 of '.*' is not JSON"),
        ("[" * 100_000, {}, r"line 1 of '.*' is not JSON"),
        ("[1]\n", {}, r"line 1 of '.*' is not a JSON object"),
        (
            '{"question": [1], "answer": "#### 5"}\n',
            {},
            r"row 1 of .* has \[1\] in column 'question': text or a finite number",
        ),
        ("[\n", {}, r"line 1 of '.*' is not JSON: .* must be JSON lines, one object a line and no array around them"),
        ("\n", {}, r"'.*a.jsonl' is empty"),
        (
            '{"question": "a", "answer": "#### 5"}\n',
            {"difficulty_column": "level"},
            r"has no column 'level'; it has 'q",
        ),
    ],
)
def test_bad_data_is_one_sentence(tmp_path: Path, content: str | None, options: dict[str, Any], sentence: str) -> None:
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=sentence):
        build_task(config(name="gsm8k", train=str(path), **options).task)


def test_bad_files_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no")
    (tmp_path / "b.jsonl").write_bytes(b"\xff")
    (tmp_path / "c.csv").write_text("question,answer\n")
    for name, sentence in [
        ("a.parquet", "is not a parquet file"),
        ("b.jsonl", "is not UTF-8 text"),
        ("c.csv", "is of another kind, or not there: files are read that end in .jsonl, .json or .parquet"),
        ("openai/gsm8k", "is of another kind, or not there: .*; a data set of the hub is named hub:OWNER/NAME"),
    ]:
        with pytest.raises(UsageError, match=sentence):
            build_task(config(name="gsm8k", train=str(tmp_path / name)).task)
    with pytest.raises(UsageError, match=r"'task\.template' is 'no question': it must hold \{question\} exactly once"):
        config(name="gsm8k", train="a.jsonl", template="no question")
    with pytest.raises(UsageError, match=r"'task\.trian' is unknown; the nearest is 'task\.train'"):
        config(name="math", train="a.jsonl", trian="b")


def test_a_hub_name_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        UsageError, match=r"'hub:openai/gsm8k', a data set of the hub, the package datasets is needed: pip install"
    ):
        build_task(config(name="gsm8k", train="hub:openai/gsm8k").task)


def test_a_hub_data_set_is_read_by_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        @staticmethod
        def load_dataset(name: str, subset: str | None, *, split: str, revision: str | None) -> list[dict[str, Any]]:
            if name != "openai/gsm8k.json":
                raise ConnectionError("no\nway")
            assert (subset, revision) == ("main", "v1")
            return gsm8k(30) if split == "train" else gsm8k(20, start=20)

    monkeypatch.setitem(sys.modules, "datasets", Library)
    task = build_task(config(name="gsm8k", train="hub:openai/gsm8k.json@v1", subset="main", held_out_split="test").task)
    assert isinstance(task, ListedTask)
    assert (len(task.training), len(task.held_out)) == (20, 20)
    with pytest.raises(UsageError, match="data set 'hub:who/else' cannot be loaded: no way"):
        build_task(config(name="gsm8k", train="hub:who/else").task)
    with pytest.raises(UsageError, match="data set 'hub:else' is no name on the hub: it must be hub:OWNER/NAME"):
        build_task(config(name="gsm8k", train="hub:else").task)


# reasoning-gym.


def gym(dataset: str, **options: Any) -> Config:
    return config(name="reasoning-gym", dataset=dataset, **options)


def test_reasoning_gym_by_name() -> None:
    settings = gym("chain_sum", parameters={"max_terms": 3}, difficulty_key="num_terms")
    task = build_task(settings.task)
    assert isinstance(task, GeneratedTask)
    prompts = training_prompts(task, count=60, seed=0)
    assert prompts == training_prompts(build_task(settings.task), count=60, seed=0)
    assert len({prompt.id for prompt in prompts}) == 60
    assert {prompt.difficulty for prompt in prompts} == {"num_terms 2", "num_terms 3"}
    held_out = held_out_prompts(task, count=30, seed=0)
    assert not {prompt.id for prompt in held_out} & {prompt.id for prompt in prompts}
    prompt = prompts[0]
    answer = prompt.problem["answer"]
    terms = prompt.problem["metadata"]["expression"].replace(" - ", " + -").split(" + ")
    assert sum(int(term) for term in terms) == int(answer)
    assert "<answer>" in prompt.text
    judgement = judged(settings, prompt, [f"so <answer>{answer}</answer>", f"<answer>{answer}1</answer>", answer])
    assert judgement.correct.tolist() == [[True, False, False]]
    assert judgement.parsable.tolist() == [[True, True, False]]


def test_reasoning_gym_scores_are_made_binary() -> None:
    """A right word among others has a score between 0 and 1."""
    for threshold, expected in [(1.0, [True, False, False]), (0.2, [True, True, False])]:
        settings = gym("letter_counting", threshold=threshold, answer="whole")
        task = build_task(settings.task)
        assert isinstance(task, GeneratedTask)
        prompt = task.propose(Random(0))
        answer = prompt.problem["answer"]
        assert judged(settings, prompt, [answer, f"{answer} ok", "none"]).correct.tolist() == [expected]


@pytest.mark.slow
def test_scorers_that_reward_nonsense_are_refused() -> None:
    halting = gym("game_of_life_halting")
    with (
        pytest.raises(UsageError, match=r"the scorer of task 'reasoning-gym' rewards nonsense: .*'I do not know"),
        open_verifier(halting),
    ):
        raise AssertionError("the verifier was opened")
    with open_verifier(gym("game_of_life_halting", allow_nonsense=True)):
        pass
    settings = gym("complex_arithmetic", answer="whole")
    task = build_task(settings.task)
    assert isinstance(task, GeneratedTask)
    prompt = task.propose(Random(0))
    answers = [prompt.problem["answer"], "nan", "nanj", "1+nanj", "-inf"]
    assert judged(settings, prompt, answers).correct.tolist() == [[True, False, False, False, False]]


@pytest.mark.slow
def test_slow_generators_may_make_a_list() -> None:
    settings = gym("countdown", problems=24, parameters={"min_numbers": 3, "max_numbers": 3}, answer="whole")
    task = build_task(settings.task)
    assert isinstance(task, ListedTask)
    assert len(task.training) + len(task.held_out) == 24
    assert task.training == build_task(settings.task).training  # pyright: ignore[reportAttributeAccessIssue]
    prompt = task.training[0]
    expression = prompt.problem["metadata"]["expression"]
    answers = [expression, f"{expression}+0", "1+"]
    judgement = judged(settings, prompt, answers, pool=True)  # the scorer goes through sympy's parser
    assert judgement.correct.tolist() == [[True, False, False]]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"dataset": "chain_sums"},
            r"task\.dataset is 'chain_sums'; the nearest that reasoning-gym has are chain_sum,",
        ),
        (
            {"dataset": "chain_sum", "parameters": {"min_terms": 9}},
            r"refuses task\.parameters for 'chain_sum': max_terms",
        ),
        ({"dataset": "chain_sum", "parameters": {"terms": 9}}, r"refuses task\.parameters for 'chain_sum': .*'terms'"),
        (
            {"dataset": "chain_sum", "difficulty_key": "size"},
            r"task\.difficulty_key is 'size'; a puzzle .* 'num_terms'",
        ),
    ],
)
def test_what_reasoning_gym_does_not_know_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        training_prompts(build_task(gym(**options).task), count=1, seed=0)


def test_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(
        UsageError, match=r"task 'math' needs math_verify, which is not installed: pip install 'weightopt"
    ):
        build_verifier(config(name="math", train="a.jsonl").task)


# A task of one's own, and chat templates.


def test_an_imported_task_may_be_a_list_or_teach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "two_tasks.py").write_text(
        "from rl.tasks.addition import Addition as teacher\n"
        "from rl.tasks.split import ProblemList\n"
        "from rl.tasks.protocol import Prompt\n"
        "class Listed(ProblemList):\n"
        "    def verify(self, prompt, response): return response == prompt.problem\n"
        "def listed(count) -> Listed:\n"
        "    return Listed.divide(Prompt(id=str(n), text='?', difficulty='', problem=str(n)) for n in range(count))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("WEIGHTOPT_ALLOW_IMPORT", "two_tasks")
    settings = config(name="import", path="two_tasks:listed", parameters={"count": 50})
    task = build_task(settings.task)
    assert isinstance(task, ListedTask)
    assert judged(settings, task.training[0], [task.training[0].id, "x"]).correct.tolist() == [[True, False]]
    teacher = config(name="import", path="two_tasks:teacher", parameters={"name": "addition", "digits": {1: 1.0}})
    assert set(build_teaching_task(teacher.task).alphabet) == set("0123456789+=")
    with pytest.raises(UsageError, match=r"task 'import' cannot teach a new model"):
        build_teaching_task(settings.task)
    with pytest.raises(UsageError, match=r"'task\.path' is 'two_tasks'"):
        config(name="import", path="two_tasks")


class Chatty:
    chat_template: Any = "{{ messages }}"

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> str:
        assert options == {"tokenize": False, "add_generation_prompt": True}
        return "".join(f"<|{turn['role']}|>{turn['content']}<|end|>" for turn in conversation) + "<|assistant|>"


def test_prompts_in_a_chat_template(tmp_path: Path) -> None:
    write = chat_writer(Chatty())
    endless = in_chat(countdown(chat=True), write)
    (prompt,) = training_prompts(endless, count=1, seed=0)
    (plain,) = training_prompts(countdown(chat=True), count=1, seed=0)
    assert prompt.text == f"<|user|>{plain.text}<|end|><|assistant|>"
    assert (prompt.id, prompt.problem) == (plain.id, plain.problem)
    settings = config(name="gsm8k", train=write_jsonl(tmp_path / "a.jsonl", gsm8k(50)), chat=True)
    listed = in_chat(build_task(settings.task), write)
    assert isinstance(listed, ListedTask)
    assert all(p.text.startswith("<|user|>Tom") for p in [*listed.training, *listed.held_out])
    assert wants_chat(settings.task)
    assert not wants_chat(config(name="addition", digits={"1": 1}).task)
    mute = Chatty()
    mute.chat_template = None
    with pytest.raises(
        UsageError, match=r"task\.chat is true, but the tokenizer .* has no chat template: set task\.chat"
    ):
        chat_writer(mute)
