"""Ten thousand hostile answers: every verifier says no, in bounded time, and does nothing that an answer asks for.

All of them go through the verifiers that run in this process, the first of them through the processes of the others,
where each costs milliseconds and a bomb its limit of computing time.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

from rl.config import Config, parse_config
from rl.samplers.rollout import Batch, Completion, Group
from rl.step.success import Judgement, judge
from rl.tasks.math_verifier import Reference
from rl.tasks.protocol import GeneratedTask, Prompt
from rl.tasks.registry import build_task
from rl.verification.pool import VerifierPool, open_verifier
from tests.amounts import some_of

COUNT = 10_000
MEGABYTE = 10**6

# Every prompt below asks for a whole number between 1 and a million, and none of these is one.
ODD = [
    "",
    " ",
    "\x00",
    "\ud800",
    "\udfff\ud800",
    "\u202e",
    "\ufeff",
    "True",
    "None",
    "nan",
    "inf",
    "-0",
    "1e3",
    "0x10",
    "1_0",
]
DIGITS = ["٣", "１２", "४२", "𝟙𝟚", "²", "Ⅷ", "½", "٣٤+١", "৩×৪"]
POWERS = [
    "9**9**9**9",
    "9^{9^{9^9}}",
    "2^{2^{2^{2^{2^{2}}}}}",
    "10^{10^{10}}-10^{10^{10}}",
    "(9!)!",
    "100!!!",
    "((3!)!)!",
]
BOMBS = [
    r"\sum_{n=1}^{10^{12}} n^{n}",
    r"\prod_{k=1}^{99999999} k",
    r"\int_0^{\infty} e^{-x^{x^{x}}} dx",
    r"\lim_{x \to \infty} \left(1+\frac{1}{x}\right)^{x^{x}}",
    r"\binom{10^{9}}{5 \cdot 10^{8}}",
    r"\sqrt[9^{9^9}]{9^{9^{9}}!}",
    r"\begin{pmatrix}" + r"9 & 9 \\" * 30 + r"\end{pmatrix}^{99999}",
    r"x^{9999}=(x+1)^{9999}",
    r"\sin(\cos(\tan(" * 8 + "x" + ")))" * 8,
    "(x+1)^{200}(x-1)^{200}-(x^2-1)^{200}",
]
CODE = [
    "open('{canary}', 'w')",
    "open({canary!r},'w').write('x')",
    "__import__('os').system('touch {canary}')",
    "__import__('pathlib').Path('{canary}').touch()",
    "exec(\"open('{canary}', 'w')\")",
    "eval(\"open('{canary}', 'w')\")",
    "[open('{canary}', 'w') for _ in (1,)]",
    "(lambda: open('{canary}', 'w'))()",
    "().__class__.__base__.__subclasses__()",
    "lambdify('x', \"open('{canary}', 'w')\")(1)",
    "sympify(\"open('{canary}', 'w')\")",
    "preview(x, output='png', filename='{canary}')",
    "Symbol(\"x\").__init__.__globals__['os'].system('touch {canary}')",
    "__import__('os')._exit(0)",
    "__import__('os').kill(__import__('os').getppid(), 9)",
    "\\input{{|touch {canary}}}",
    "\\write18{{touch {canary}}}",
    "import os; os.system('touch {canary}')",
    "$(touch {canary})",
    "`touch {canary}`",
    "'; touch {canary}; '",
    "{{\"__reduce__\": \"open('{canary}', 'w')\"}}",
    "cos.__class__",
    "f\"{{open('{canary}', 'w')}}\"",
]
NESTS = [
    "(",
    "[",
    "{",
    "((",
    "-(",
    "\\frac{",
    "\\sqrt{",
    "{{",
    "((1+",
    "<answer>",
    "\\boxed{",
    "\\left(",
    "not ",
    "-",
    "+",
    "####",
]
ALPHABET = "0123456789+-*/^!(){}[]\\ _.,=<>&$#%'\"abxfracsqrt\n\x00é٣"


def hostile(canary: Path) -> Iterator[str]:
    """Endless, each kind in turn, never the same for long."""
    rng = Random(0)
    kinds = [ODD, DIGITS, POWERS, BOMBS, [line.format(canary=canary) for line in CODE]]
    while True:
        for kind in kinds:
            yield rng.choice(kind)
            yield rng.choice(kind) + rng.choice(["+", "*", "=", " ", "\n"]) + rng.choice(kind)
        opening = rng.choice(NESTS)
        yield opening * rng.choice([3, 20, 100, 2000])
        yield opening * 100 + "1" + rng.choice([")", "}", "]"]) * 100
        yield "9" * rng.choice([20, 1000, 5000])
        yield "".join(rng.choices(ALPHABET, k=rng.randint(1, 200)))
        if rng.random() < 0.03:
            yield rng.choice([*"9( é٣", "\x00", "1+", "\\boxed{", "<answer>1", "$x^"]) * MEGABYTE


WRAPPED = ["{}", "<answer>{}</answer>", "\\boxed{{{}}}", "#### {}", "<answer>{}", "$${}$$"]


def answers(canary: Path, count: int) -> list[str]:
    """The first so many, as they are and where an answer would be looked for."""
    each = islice(hostile(canary), count)
    return [WRAPPED[number % len(WRAPPED)].format(answer) for number, answer in enumerate(each)]


def judged(verifier: Any, prompt: Prompt[Any], responses: list[str]) -> Judgement:
    completions = tuple(Completion(tokens=(1,), log_probs=(0.0,), text=text, finished=True) for text in responses)
    return judge(Batch(groups=(Group(prompt=prompt, prompt_tokens=(0,), completions=completions),)), verifier)


def config(**task: Any) -> Config:
    return parse_config({"task": task, "verifier": {"workers": 1, "seconds_per_answer": 0.05, "memory_mib": 256}})


@some_of(
    "task",
    [
        {"name": "addition", "digits": {3: 1}},
        {"name": "countdown", "numbers": {4: 1}, "largest_number": 99, "largest_target": 300},
        {"name": "countdown-text"},
        {"name": "countdown-text", "examples": 3},
    ],
    2,
    ids=["addition", "countdown", "tags", "examples"],
)
def test_our_verifiers(task: dict[str, Any], tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    settings = config(**task)
    source = build_task(settings.task)
    assert isinstance(source, GeneratedTask)
    prompt = source.propose(Random(0))
    with open_verifier(settings) as verifier:  # what backtracks would never come back
        judgement = judged(verifier, prompt, answers(canary, COUNT))
    assert judgement.correct.shape == (1, COUNT)
    assert not judgement.correct.any()
    assert (judgement.timed_out, judgement.failed) == (0, 0)
    assert not canary.exists()


NUMBER = Prompt(id="", text="", difficulty="", problem=Reference(answer="1234567"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "count"),
    [
        ({"name": "math", "train": "none.jsonl"}, 100),
        ({"name": "reasoning-gym", "dataset": "countdown", "answer": "whole"}, 20),  # hands answers to sympy's parser
        ({"name": "reasoning-gym", "dataset": "n_queens", "answer": "whole"}, 0),  # hands them to eval
    ],
    ids=["math", "countdown", "n_queens"],
)
def test_the_verifiers_of_others(task: dict[str, Any], count: int, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    settings = config(**task)
    prompt = NUMBER
    if task["name"] != "math":
        source = build_task(settings.task)
        assert isinstance(source, GeneratedTask)
        prompt = source.propose(Random(0))
    responses = [line.format(canary=canary) for line in CODE] + answers(canary, count)
    if task["name"] == "math":
        responses = [f"\\boxed{{{text}}}" for text in responses]
    with open_verifier(settings) as pool:
        assert isinstance(pool, VerifierPool)
        judgement = judged(pool, prompt, responses)
    assert not judgement.correct.any(), [t for t, c in zip(responses, judgement.correct.flat, strict=True) if c]
    assert not canary.exists()
    # And it judges, where there is time for it: five seconds for what takes milliseconds.
    with open_verifier(parse_config({"task": task, "verifier": {"workers": 1}})) as pool:
        assert isinstance(pool, VerifierPool)
        plain = judged(
            pool, prompt, [f"\\boxed{{{number}}}" if task["name"] == "math" else str(number) for number in range(3)]
        )
    assert plain.timed_out == 0
    assert not plain.correct.any()
