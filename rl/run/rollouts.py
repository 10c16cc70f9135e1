"""Responses as JSON, for people to read: a share of those of every step, and all of a step that diverged."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from rl.seeds import derive_seed
from rl.step.draw_groups import Collected
from weightopt.files import replace_file


def rollouts(
    collected: Collected, advantages: np.ndarray, *, step: int, share: float, seed: int
) -> Iterator[dict[str, Any]]:
    """The responses of a share of the groups drawn; which groups follows from seed and step.

    Parameters
    ----------
    advantages
        Shape (P, M), of the groups trained on; a group that was dropped shows null.
    share
        In [0, 1].
    """
    if not share:
        return
    rng = Random(derive_seed(seed, "rollouts", step))
    chosen = {index for index in range(len(collected.drawn.groups)) if rng.random() < share}
    yield from (line for line in responses(collected, advantages, step=step) if line["group"] in chosen)


def written(documents: Iterable[Mapping[str, Any]], folder: Path, *, step: int) -> str:
    """Write the responses with which a step diverged into ``folder``, as far as the disk lets us; says where."""
    path = folder / f"diverged-step-{step:06d}.jsonl"
    try:
        replace_file(path, "".join(json.dumps(document) + "\n" for document in documents).encode())
    except OSError:
        return ""
    return f"; its responses are in {str(path)!r}"


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
