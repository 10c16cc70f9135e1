"""What a step has done, and how it is written down."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rl.learning.update import Update
from rl.records.metrics import Spent, StepRecord
from rl.step.draw_groups import Collected
from rl.step.success import count_successes, histogram_by_difficulty, success_histogram, tokens_by_successes
from weightopt.table import WeightTable


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a step has done.

    Attributes
    ----------
    all_wrong_factor, lag
        As in a `StepRecord`.
    advantages
        Of the groups trained on, shape (P, M).
    responses
        Of a full step: the denominator of the loss.
    drawn
        What has been drawn for the next step, as JSON; None if that draws its own.
    """

    number: int
    collected: Collected
    table: WeightTable
    all_wrong_factor: float
    advantages: np.ndarray
    responses: int
    update: Update
    lag: int
    drawn: str | None
    seconds: Mapping[str, float]

    def spent(self, before: Spent) -> Spent:
        """What training has drawn after this step, with what it had drawn ``before``."""
        drawn = self.collected.drawn
        return Spent(
            groups=before.groups + len(drawn.groups),
            responses=before.responses + drawn.responses,
            tokens=before.tokens + drawn.tokens,
            updates=before.updates + len(self.update.gradient_norms),
        )

    def record(self, spent: Spent) -> StepRecord:
        """The step as it is written down; ``spent`` is what training has drawn up to and including it."""
        drawn, judgement, update = self.collected.drawn, self.collected.judgement, self.update
        seen = update.seen
        successes, size = count_successes(judgement.correct), judgement.correct.shape[1]
        return StepRecord(
            step=self.number,
            **spent.so_far(),
            tokens=drawn.tokens,
            groups_drawn=len(drawn.groups),
            groups_trained=len(self.collected.kept),
            left_out=self.collected.left_out,
            reward=float(judgement.correct.mean()),
            success_histogram=success_histogram(successes, size),
            histogram_by_difficulty=histogram_by_difficulty(drawn, successes, size),
            tokens_by_successes=tokens_by_successes(drawn, judgement.correct),
            all_wrong=float((successes == 0).mean()),
            all_right=float((successes == size).mean()),
            table=self.table.name,
            table_checksum=self.table.checksum,
            all_wrong_factor=self.all_wrong_factor,
            mean_abs_advantage=float(np.abs(self.advantages).sum() / self.responses),
            lag=self.lag,
            distinct_responses=update.rows,
            learning_rate=update.learning_rate,
            gradient_norm=update.gradient_norm,
            clipped=update.clipped > 0,
            clip_factor=update.clip_factor,
            updates_clipped=update.clipped,
            ratio_clipped=seen.clipped.share,
            log_ratio_mean=seen.mismatch.mean,
            log_ratio_max=seen.mismatch.max_abs,
            sampler_kl=seen.mismatch.kl,
            importance_truncated=seen.mismatch.share_truncated,
            kl_per_token=seen.divergence.per_token,
            kl_per_response=seen.divergence.per_response,
            entropy=drawn.mean_negative_log_prob(),
            finished=drawn.share_finished(),
            parsable=float(judgement.parsable.mean()),
            timed_out=judgement.timed_out,
            failed=judgement.failed,
        )
