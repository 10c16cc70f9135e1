"""From judged responses to the success count of each group."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np

from rl.processes.ranks import ALONE, Ranks
from rl.samplers.rollout import Batch
from rl.tasks.protocol import Verifier
from rl.verification.pool import VerifierPool
from rl.verification.verdict import Judged, Verdict

# A longer response is wrong, and no verifier is shown it: a token has about four characters, so this is far beyond what
# models are given.
LONGEST_RESPONSE = 2**20 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """The verdicts on a batch.

    Attributes
    ----------
    correct
        Which responses are correct, shape (P, M), bool. Nothing else is ever rewarded.
    parsable
        In which responses an answer could be read, right or wrong, shape (P, M), bool; False for truncated responses,
        which are not read.
    timed_out, failed
        Responses that count as wrong because the verifier ran out of time, and because it failed.
    reason
        Why the first of those failed; empty if none did.
    """

    correct: np.ndarray
    parsable: np.ndarray
    timed_out: int = 0
    failed: int = 0
    reason: str = ""

    @staticmethod
    def concatenate(parts: "Sequence[Judgement]") -> "Judgement":
        """The judgement on several batches, one after the other."""
        return Judgement(
            correct=np.concatenate([part.correct for part in parts]),
            parsable=np.concatenate([part.parsable for part in parts]),
            timed_out=sum(part.timed_out for part in parts),
            failed=sum(part.failed for part in parts),
            reason=next((part.reason for part in parts if part.reason), ""),
        )


def judge(batch: Batch, verifier: Verifier[Any] | VerifierPool, ranks: Ranks = ALONE) -> Judgement:
    """Judge every response, exactly: correct or not, nothing in between.

    A response that ran into the length limit is wrong: the policy has not said that it was done. Of several processes
    with the same batch each judges its part.
    """
    if ranks.size > 1:
        share = ranks.share(batch.groups)
        parts = ranks.gather(judge(Batch(groups=tuple(share)), verifier) if share else None)
        return Judgement.concatenate([part for part in parts if part is not None])
    responses = [(group.prompt, completion) for group in batch.groups for completion in group.completions]
    shown = [completion.finished and len(completion.text) <= LONGEST_RESPONSE for _, completion in responses]
    answers = [(prompt, completion.text) for prompt, completion in compress(responses, shown)]
    if isinstance(verifier, VerifierPool):
        judged = verifier.judge(answers)
    else:
        judged = [Judged.of(verifier.verify(prompt, text)) for prompt, text in answers]
    following = iter(judged)
    unread = Judged(verdict=Verdict.UNREADABLE)
    verdicts = [next(following) if each else unread for each in shown]
    shape = (len(batch.groups), len(verdicts) // len(batch.groups))
    return Judgement(
        correct=np.array([each.verdict is Verdict.RIGHT for each in verdicts]).reshape(shape),
        parsable=np.array([each.verdict in (Verdict.RIGHT, Verdict.WRONG) for each in verdicts]).reshape(shape),
        timed_out=sum(each.verdict is Verdict.TIMED_OUT for each in verdicts),
        failed=sum(each.verdict is Verdict.FAILED for each in verdicts),
        reason=next((each.reason for each in verdicts if each.verdict is Verdict.FAILED), ""),
    )


def count_successes(correct: np.ndarray) -> np.ndarray:
    """Number correct K of each group, shape (P,), int, in 0..M; ``correct`` has shape (P, M), bool."""
    return correct.sum(axis=1)


def success_histogram(successes: np.ndarray, group_size: int) -> tuple[int, ...]:
    """How many groups have K correct, for K = 0..M; length M + 1."""
    return tuple(int(count) for count in np.bincount(successes, minlength=group_size + 1))


def histogram_by_difficulty(batch: Batch, successes: np.ndarray, group_size: int) -> dict[str, tuple[int, ...]]:
    """The success histogram of each stratum of the task that was drawn, sorted by name."""
    strata = np.array([group.prompt.difficulty for group in batch.groups])
    return {str(name): success_histogram(successes[strata == name], group_size) for name in np.unique(strata)}


def tokens_by_successes(batch: Batch, correct: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Tokens of the right and of the wrong responses in groups with K = 0..M correct; ``correct`` has shape (P, M)."""
    lengths = np.array([[len(completion.tokens) for completion in group.completions] for group in batch.groups])
    successes, size = count_successes(correct), correct.shape[1]
    right, wrong = (np.bincount(successes, (lengths * of).sum(axis=1), size + 1) for of in (correct, ~correct))
    return tuple((int(a), int(b)) for a, b in zip(right, wrong, strict=True))
