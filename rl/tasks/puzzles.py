"""Any data set of reasoning-gym, by its name: endless puzzles from a generator, judged by their own scorer.

reasoning-gym (github.com/open-thought/reasoning-gym) gives scores between 0 and 1, some of them a little for a wrong
answer in the right form; here an answer is right if its score reaches a threshold. Some of its scorers evaluate the
text of the answer, so they only run in the sealed processes of `rl.verification.pool.VerifierPool`.
"""

import json
import math
import re
from functools import cache, cached_property
from hashlib import sha256
from random import Random
from typing import Annotated, Any

from pydantic import Field

from rl.errors import UsageError, refusing
from rl.seeds import derive_seed
from rl.tasks.config import NONE, ForeignTaskConfig, Parameters, Template
from rl.tasks.extraction import Form, extract
from rl.tasks.protocol import GeneratedTask, Prompt
from rl.tasks.split import ProblemList
from weightopt.settings import Integer, Number

LONGEST_ANSWER = 4096

# Comparisons with these let everything through, so no scorer is shown one that the puzzle does not ask for.
NO_NUMBER = re.compile(r"(?<![A-Za-z])(?:nan|inf|infinity)[ij]?(?![A-Za-z])", re.IGNORECASE)

# Most data sets make their problem i from a generator seeded with their seed plus i, whatever size they were asked
# for, so numbers out of a large range are as good as seeds; below 2**31 for those that hand them to numpy.
MOST_PROBLEMS = 2**31 - 1

# What rounding may add to a score.
SLACK = 1e-6

# A few draw something for each problem when they are made, and have no more than these, or ``parameters.size``.
USUAL_SIZE = 10_000


class ReasoningGymConfig(ForeignTaskConfig):
    """``[task]`` with ``name = "reasoning-gym"``: a data set of that library."""

    dataset: Annotated[str, Field(min_length=1)]
    """Name of the data set."""
    parameters: Parameters = NONE
    """Parameters of the data set."""
    problems: Annotated[Integer, Field(ge=16, le=10_000_000)] | None = None
    """So many are made at the start and drawn from ever after, for slow generators; unset, every prompt is new."""
    seed: Annotated[Integer, Field(ge=0, lt=2**31)] = 0
    """Seed of the data set."""
    threshold: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Score from which an answer is right."""
    difficulty_key: Annotated[str, Field(min_length=1)] | None = None
    """Entry of a puzzle's metadata that is its stratum."""
    answer: Form = "tags"
    """Where a response must give the answer."""
    template: Template = (
        "{question}\n\nThink step by step, and give the final answer alone between <answer> and </answer>.\n"
    )
    """Text of a prompt, with the question in the place of {question}."""

    def build(self) -> "GeneratedTask[dict[str, Any]] | ProblemList":
        """The puzzles: endless, or with ``problems`` a list that is made here and now.

        Raises
        ------
        UsageError
            If reasoning-gym does not know the data set or refuses its parameters.
        ModuleNotFoundError
            If it is not installed.
        """
        puzzles = Puzzles(self)
        if self.problems is None:
            return puzzles
        rng = Random(derive_seed(self.seed, "puzzles"))
        problems = ProblemList.divide([puzzles.propose(rng) for _ in range(self.problems)])
        if not problems.training:
            raise UsageError(f"task.problems is {self.problems}, which leaves no problem to train on")
        return problems

    def verifier(self) -> "Puzzles":
        """As `TaskConfig.verifier`."""
        return Puzzles(self)

    def packages(self) -> tuple[str, ...]:
        """As `TaskConfig.packages`."""
        return ("reasoning-gym", "sympy")


class Puzzles:
    """Endless puzzles of one data set, judged by its scorer; a `GeneratedTask` and a `Verifier`."""

    def __init__(self, config: ReasoningGymConfig) -> None:
        self._config = config
        self._dataset = _create(config.dataset, json.dumps(config.parameters, sort_keys=True), config.seed)

    @cached_property
    def _count(self) -> int:
        """How many there are."""
        try:
            self._dataset[MOST_PROBLEMS - 1]
        except IndexError:
            return len(self._dataset)
        return MOST_PROBLEMS

    def propose(self, rng: Random) -> Prompt[dict[str, Any]]:
        """Draw one puzzle."""
        entry = self._dataset[rng.randrange(self._count)]
        question = entry["question"]
        key = self._config.difficulty_key
        if key is not None and key not in entry["metadata"]:
            known = ", ".join(map(repr, entry["metadata"]))
            raise UsageError(f"task.difficulty_key is {key!r}; a puzzle of {self._config.dataset!r} has {known}")
        return Prompt(
            id=sha256(question.encode("utf-8", "surrogatepass")).hexdigest()[:16],
            text=self._config.template.replace("{question}", question),
            difficulty=f"{key} {entry['metadata'][key]}" if key else self._config.dataset,
            problem=entry,
        )

    def verify(self, prompt: Prompt[dict[str, Any]], response: str) -> bool | None:
        """Whether the score of the answer reaches the threshold; None if none stands in the form asked for.

        Raises
        ------
        ArithmeticError
            If the score is no number between 0 and 1.
        """
        answer = extract(self._config.answer, response, longest=LONGEST_ANSWER)
        if answer is None:
            return None
        if NO_NUMBER.search(answer) and not NO_NUMBER.search(str(prompt.problem.get("answer"))):
            return None
        score = float(self._dataset.score_answer(answer, prompt.problem))
        if not (math.isfinite(score) and -SLACK <= score <= 1 + SLACK):
            raise ArithmeticError(
                f"the scorer of {prompt.problem.get('metadata', {}).get('source_dataset')!r} gave {score}"
            )
        return score >= self._config.threshold


@cache
def _create(name: str, parameters: str, seed: int) -> Any:
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        from difflib import get_close_matches

        near = get_close_matches(name, DATASETS, n=3, cutoff=0.0)
        raise UsageError(f"task.dataset is {name!r}; the nearest that reasoning-gym has are {', '.join(near)}")
    refused = f"reasoning-gym refuses task.parameters for {name!r}"
    with refusing(refused, AssertionError, TypeError, ValueError, KeyError):
        return reasoning_gym.create_dataset(name, **{"size": USUAL_SIZE, **json.loads(parameters)}, seed=seed)
