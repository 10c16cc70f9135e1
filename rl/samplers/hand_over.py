"""Handing the trained weights to an engine that keeps a copy of its own, and the proof that they have arrived.

An engine packs weights into the form its kernels like, so "loaded" is not "in use": a tied output layer that is not
named stays as it was, and nothing says so. After every hand-over the engine and the trained model therefore score the
same probe, a few fixed sequences of tokens, and a difference above the tolerance ends the run. What the proof cannot
see is below the tolerance: an error that small, on these tokens.

The measure is the root mean square. In bfloat16 a single unlikely token may be off by a nat with the right weights, so
the largest difference would need a tolerance that wrong weights pass; in float32 a single wrong token is still seen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

import numpy as np
from torch import Tensor

from rl.errors import SyncError, one_line

PROBE_PROMPTS = 8
# Drawn from the whole vocabulary: an unlikely token shows an error in any logit, a likely one only in its own.
PROBE_TOKENS = 8

LogProbs = Sequence[Sequence[float]]


class Engine(Protocol):
    """Something that keeps a copy of the policy's weights and computes with them."""

    def load(self, weights: Mapping[str, Tensor], *, version: int) -> None:
        """Take over weights under their Hugging Face names, and remember the number they go by."""

    def versions(self) -> Sequence[int]:
        """The number of the weights that each worker of the engine holds; 0 before the first."""
        ...

    def forget(self) -> None:
        """Drop what was computed with earlier weights: the cache of prompts."""

    def score(self, sequences: Sequence[Sequence[int]]) -> LogProbs:
        """Log-probability, at temperature 1, of each token after the first, for each sequence of length ≥ 2."""
        ...


@dataclass(eq=False)
class HandOver:
    """Owner of an engine's weights: nobody else gives it any.

    Attributes
    ----------
    score
        The same as `Engine.score`, by the model that is trained, with the weights that are handed over.
    probe
        Sequences of token ids to compare on, each of length ≥ 2.
    tolerance
        Root mean square of the differences of log-probabilities that still counts as agreement, nats, > 0.
    version, proven
        Number of the last hand-over, from 1, and of the last that was proven; 0 before the first.
    """

    engine: Engine
    score: Callable[[Sequence[Sequence[int]]], LogProbs]
    probe: Sequence[Sequence[int]]
    tolerance: float
    version: int = field(default=0, init=False)
    proven: int = field(default=0, init=False)

    def push(self, weights: Mapping[str, Tensor]) -> float:
        """Hand over weights and prove that the engine computes with them.

        Returns
        -------
        float
            Root mean square of the differences on the probe, nats.

        Raises
        ------
        SyncError
            If the engine refuses the weights, or if it then disagrees with the trained model.
        """
        self.version += 1
        try:
            self.engine.load(weights, version=self.version)
        except (ValueError, KeyError, RuntimeError) as error:
            raise SyncError(
                f"the engine does not take over the weights of hand-over {self.version}: {one_line(error)}"
            ) from error
        self.engine.forget()
        self._check_versions()
        differences = compare(self.engine.score(self.probe), self.score(self.probe))
        typical, largest = float(np.sqrt(np.mean(differences**2))), float(np.max(np.abs(differences)))
        if not typical <= self.tolerance:  # also if it is not a number
            raise SyncError(
                f"after hand-over {self.version} the log-probabilities of the probe batch by the sampling engine and "
                f"by the trained model differ by {typical:.3g} nats in root mean square, at most {largest:.3g}, "
                f"tolerance {self.tolerance:g} (sampler.sync_tolerance): the engine does not sample from the policy "
                "that is trained"
            )
        self.proven = self.version
        return typical

    def check(self) -> None:
        """Raise `SyncError` unless the engine holds the weights of the last hand-over, and that was proven."""
        if self.version == 0 or self.proven != self.version:
            raise SyncError(f"the engine's weights are not proven: hand-over {self.version} did not end well")
        self._check_versions()

    def _check_versions(self) -> None:
        held = list(self.engine.versions())
        if not held or any(version != self.version for version in held):
            raise SyncError(f"the engine holds weights of hand-over {held}, and the last one was {self.version}")


def compare(first: LogProbs, second: LogProbs) -> np.ndarray:
    """First minus second, place by place, shape (tokens,); raises ValueError if they are not of the same shape."""
    pairs = (pair for rows in zip(first, second, strict=True) for pair in zip(*rows, strict=True))
    return np.array([one - other for one, other in pairs])


def make_probe(
    prompts: Sequence[Sequence[int]], *, vocabulary: int, longest: int, seed: int
) -> tuple[tuple[int, ...], ...]:
    """The first few prompts, each followed by tokens drawn evenly from the vocabulary.

    Parameters
    ----------
    longest
        Tokens in a sequence at most, ≥ 2; of a prompt that is too long the beginning is left out.

    Returns
    -------
    tuple of tuples
        Token ids, each of length 2..``longest``.
    """
    rng = Random(seed)
    drawn = ([rng.randrange(vocabulary) for _ in range(PROBE_TOKENS)] for _ in range(PROBE_PROMPTS))
    return tuple((*prompt, *tokens)[-longest:] for prompt, tokens in zip(prompts, drawn, strict=False))
