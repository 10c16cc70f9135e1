"""Success on held-out prompts, with an interval that says how much the choice of prompts matters.

All intervals of a run resample the same prompts, so two measurements can be compared prompt by prompt.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rl.processes.ranks import ALONE, Ranks
from rl.records.metrics import EvaluationRecord, Spent
from rl.samplers.rollout import Batch, Sampler
from rl.seeds import derive_seed
from rl.step.config import EvaluationConfig
from rl.step.success import Judgement, judge
from rl.tasks.protocol import Prompt, Verifier
from rl.verification.pool import VerifierPool

RESAMPLES = 1000

# Characters of a response or a prompt that a warning quotes.
SHOWN = 200


def evaluate(
    sampler: Sampler,
    verifier: Verifier[Any] | VerifierPool,
    prompts: Sequence[Prompt[Any]],
    config: EvaluationConfig,
    *,
    max_new_tokens: int,
    step: int,
    spent: Spent,
    seed: int,
    ranks: Ranks = ALONE,
) -> EvaluationRecord:
    """Sample ``config.samples`` responses to every held-out prompt and measure success; once more greedily if asked.

    Intervals are 95 % percentile-bootstrap intervals over prompts. ``seed`` is that of the sampling; ``step`` and
    ``spent`` are for the record. Of several processes each judges its part, and all get the record.
    """

    def sampled(samples: int, temperature: float) -> tuple[Batch, Judgement]:
        batch = sampler.sample(
            prompts, group_size=samples, temperature=temperature, max_new_tokens=max_new_tokens, seed=seed
        )
        return batch, judge(batch, verifier, ranks)

    def with_interval(values: np.ndarray) -> tuple[float, float, float]:
        return float(values.mean()), *bootstrap_interval(values, seed=derive_seed(config.seed, "bootstrap"))

    batch, judgement = sampled(config.samples, config.temperature)
    correct = judgement.correct
    per_prompt = correct.mean(axis=1)
    success, low, high = with_interval(per_prompt)
    right = correct.sum(axis=1)
    strata: dict[str, list[float]] = {}
    for prompt, share in zip(prompts, per_prompt.tolist(), strict=True):
        strata.setdefault(prompt.difficulty, []).append(share)
    return EvaluationRecord(
        step=step,
        **spent.so_far(),
        success=success,
        success_low=low,
        success_high=high,
        by_difficulty={name: float(np.mean(values)) for name, values in sorted(strata.items())},
        prompts=len(prompts),
        samples=config.samples,
        temperature=config.temperature,
        pass_at={str(k): with_interval(pass_at(k, right, config.samples)) for k in config.pass_at},
        greedy=with_interval(sampled(1, 0.0)[1].correct.mean(axis=1)) if config.greedy else None,
        finished=batch.share_finished(),
        parsable=float(judgement.parsable.mean()),
        timed_out=judgement.timed_out,
        failed=judgement.failed,
        warning=doubt(batch, judgement, sampler.ends, first=step == 0),
    )


def doubt(batch: Batch, judgement: Judgement, ends: Sequence[str], *, first: bool) -> str | None:
    """What is wrong, with an example, if the verifier hardly works or, of a run that begins, few answers can be read.

    Parameters
    ----------
    ends
        What ends a response, as a text shows it.
    first
        Whether this is the first measurement of a run: later its policy may well have come to write what has no answer.

    Returns
    -------
    str or None
        None if the verifier came to a verdict on half of what it was shown and, at first, read half of all responses.
    """
    flat = [(group.prompt, completion) for group in batch.groups for completion in group.completions]
    shown = sum(completion.finished for _, completion in flat)
    fails = 2 * (judgement.failed + judgement.timed_out) > shown
    if not fails and not (first and judgement.parsable.mean() < 0.5):
        return None
    prompt, example = next(
        each
        for each, read in zip(flat, judgement.parsable.flat, strict=True)
        if not read and (each[1].finished or not fails)
    )
    truncated = 1 - batch.share_finished()
    missed = " or ".join(map(repr, ends))
    failures = f"; the verifier failed on {judgement.failed}, at first: {judgement.reason}" if judgement.failed else ""
    return (
        f"in {1 - judgement.parsable.mean():.0%} of the responses no answer can be read ({truncated:.0%} were cut at "
        f"the length limit before {missed}, on {judgement.timed_out} the verifier ran out of time{failures}); "
        f"for example {_shown(example.text)} after {_shown(prompt.text)}"
    )


def _shown(text: str) -> str:
    """The end of a text on one line, in quotes, without characters that a terminal would act on."""
    return repr(text if len(text) <= SHOWN else "…" + text[-SHOWN:])


def pass_at(k: int, right: np.ndarray, samples: int) -> np.ndarray:
    """Unbiased estimate of pass@k, the chance that one of k responses is right: 1 - C(n-c, k) / C(n, k).

    Chen et al. 2021, arXiv 2107.03374, equation 1.

    Parameters
    ----------
    k
        1..n.
    right
        Correct responses c to each prompt, shape (P,), int, in 0..n.
    samples
        Responses n to each prompt.

    Returns
    -------
    numpy.ndarray
        Shape (P,), in [0, 1].
    """
    missed = np.array([math.comb(samples - c, k) / math.comb(samples, k) for c in range(samples + 1)])
    return 1 - missed[right]


def bootstrap_interval(values: np.ndarray, *, seed: int) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of the mean of ``values``, shape (n,), from 1000 resamples."""
    rng = np.random.default_rng(seed)
    resampled = rng.choice(values, size=(RESAMPLES, len(values)), replace=True).mean(axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)
