"""The two sides of a task: prompts to train on and prompts held out, disjoint by construction.

The side of a problem is read off a hash of its canonical name, so it depends on nothing else: no list is kept, no seed
moves a problem across, and reordering the numbers of a problem does not either. A task that is a list of problems
brings its two sides along.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from random import Random
from typing import Any, Self

from rl.errors import UsageError
from rl.seeds import derive_seed
from rl.tasks.protocol import ListedTask, Prompt, Task

HELD_OUT_SHARE = 1 / 8

# Proposals in a row that bring no new held-out problem before a task counts as too small for the request: one in eight
# is expected to be held out, so hardly any of the held-out problems is then left to be found.
FRUITLESS_PROPOSALS = 10_000


def is_held_out(prompt_id: str) -> bool:
    """Whether the problem with this canonical name is held out of training."""
    return int.from_bytes(sha256(prompt_id.encode()).digest()[:8], "big") < HELD_OUT_SHARE * 2**64


@dataclass(frozen=True, kw_only=True)
class ProblemList:
    """Problems to train on and held-out problems; a `rl.tasks.protocol.ListedTask`.

    Of prompts with the same name the first counts, and one that is held out is never trained on. ``notes`` are
    sentences for the user about how the list came about.
    """

    training: tuple[Prompt[Any], ...]
    held_out: tuple[Prompt[Any], ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def divide(cls, prompts: Iterable[Prompt[Any]], *, notes: Iterable[str] = ()) -> Self:
        """Put each problem on the side that its name decides; see `is_held_out`."""
        each = tuple(prompts)
        return cls.of_two_sides(each, (prompt for prompt in each if is_held_out(prompt.id)), notes=notes)

    @classmethod
    def of_two_sides(
        cls, training: Iterable[Prompt[Any]], held_out: Iterable[Prompt[Any]], *, notes: Iterable[str] = ()
    ) -> Self:
        """Keep the sides as given, but for training problems that are held out as well: those are dropped."""
        measured: dict[str, Prompt[Any]] = {}
        trained: dict[str, Prompt[Any]] = {}
        for prompt in held_out:
            measured.setdefault(prompt.id, prompt)
        for prompt in training:
            if prompt.id not in measured:
                trained.setdefault(prompt.id, prompt)
        return cls(training=tuple(trained.values()), held_out=tuple(measured.values()), notes=tuple(notes))


def training_prompts(task: Task[Any], *, count: int, seed: int) -> tuple[Prompt[Any], ...]:
    """Draw ``count`` independent prompts from the training side; a pure function of its arguments."""
    rng = Random(seed)
    if isinstance(task, ListedTask):
        return tuple(rng.choices(task.training, k=count))
    proposed = iter(lambda: task.propose(rng), None)
    return tuple(islice((prompt for prompt in proposed if not is_held_out(prompt.id)), count))


def held_out_prompts(task: Task[Any], *, count: int, seed: int) -> tuple[Prompt[Any], ...]:
    """Draw ``count`` distinct prompts from the held-out side; a pure function of its arguments.

    Raises
    ------
    UsageError
        If the task does not have that many held-out problems.
    """
    rng = Random(derive_seed(seed, "held-out"))
    if isinstance(task, ListedTask):
        if count > len(task.held_out):
            raise UsageError(f"evaluation.prompts is {count}, but the task has {len(task.held_out)} held-out problems")
        return tuple(rng.sample(task.held_out, count))
    prompts: dict[str, Prompt[Any]] = {}
    fruitless = 0
    while fruitless < FRUITLESS_PROPOSALS:
        prompt = task.propose(rng)
        if is_held_out(prompt.id) and prompt.id not in prompts:
            prompts[prompt.id] = prompt
            fruitless = 0
        else:
            fruitless += 1
        if len(prompts) == count:
            return tuple(prompts.values())
    raise UsageError(
        f"evaluation.prompts is {count}, but the task has only about {len(prompts)} held-out problems: "
        "ask for fewer or widen the task"
    )
