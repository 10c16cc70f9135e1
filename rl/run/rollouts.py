"""Responses written out, one JSON object a line, for people to read.

A share of the groups of every step goes to ``rollouts.jsonl`` if asked for, and the batch of a step that diverged to
``diverged-step-000007.jsonl``, with tokens.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from rl.errors import DivergenceError
from rl.records.metrics import append_lines
from rl.seeds import derive_seed
from rl.step.draw_groups import Collected
from weightopt.files import replace_file


def append_rollouts(
    path: Path, collected: Collected, advantages: np.ndarray, *, step: int, share: float, seed: int
) -> None:
    """Add the responses of a share of the groups drawn to a file; which groups follows from seed and step.

    Parameters
    ----------
    advantages
        Shape (P, M), of the groups trained on; a group that was dropped shows null.
    share
        In [0, 1]; at 0 nothing happens, and no file is made.
    seed
        Of the run.
    """
    if not share:
        return
    rng = Random(derive_seed(seed, "rollouts", step))
    chosen = {index for index in range(len(collected.drawn.groups)) if rng.random() < share}
    lines = responses(collected, advantages, step=step)
    append_lines(path, [line for line in lines if line["group"] in chosen])


@contextmanager
def dumping(folder: Path, collected: Collected, advantages: np.ndarray, *, step: int) -> Iterator[None]:
    """If the block diverges, write the batch into ``folder`` and say so, as far as the disk lets us."""
    try:
        yield
    except DivergenceError as error:
        path = folder / f"diverged-step-{step:06d}.jsonl"
        lines = (json.dumps(line) + "\n" for line in responses(collected, advantages, step=step, tokens=True))
        try:
            replace_file(path, "".join(lines).encode())
        except OSError:
            raise error from None
        raise DivergenceError(f"{error}; its batch is in {str(path)!r}") from error


def responses(
    collected: Collected, advantages: np.ndarray, *, step: int, tokens: bool = False
) -> Iterator[dict[str, Any]]:
    """One document for every response drawn, in order; a number that is not finite is written as text."""
    row = {int(index): place for place, index in enumerate(collected.kept)}
    for index, (group, correct) in enumerate(zip(collected.drawn.groups, collected.correct.tolist(), strict=True)):
        for number, completion in enumerate(group.completions):
            advantage = float(advantages[row[index], number]) if index in row else None
            line = {
                "step": step,
                "group": index,
                "prompt": group.prompt.text,
                "difficulty": group.prompt.difficulty,
                "response": completion.text,
                "finished": completion.finished,
                "correct": correct[number],
                "advantage": advantage if advantage is None or math.isfinite(advantage) else repr(advantage),
            }
            if tokens:
                line |= {"tokens": completion.tokens, "log_probs": completion.log_probs}
            yield line
