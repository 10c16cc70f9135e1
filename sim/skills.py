"""The world of shared parameters: θ_i = b_i + φ_i·w, skills w that all prompts learn together.

A prompt needs a few of d skills: φ_i has so many entries ±1/√s, else 0. Prompts whose features agree help each other,
φ_i·φ_j > 0; where signs differ they hurt. With K_i of M responses correct the step model asks for a move m_i of θ_i
(`theory.finite_group`); its gradient is g_i = ρ_i(1-ρ_i) m_i. One update of all prompts together is

    vanilla    w += η Φᵀg/n
    natural    w += η (F + λ tr(F)/d I)⁻¹ Φᵀg/n, F = Φᵀ diag(ρ(1-ρ)) Φ/n     the moves m, fitted by least squares

With as many skills as prompts, each prompt its own (Φ = I, λ = 0), natural is `sim.engine.FiniteSample` again.

Two starts. From scratch w = 0 and nobody has the skills. After supervised fine-tuning (SFT) likelihood ascent on the
correct responses of a share of the prompts has raised mean success to a stated level: success is high, spread out, and
highest where the skills were taught.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from sim.engine import Tally, sample_groups
from sim.errors import UsageError
from sim.kernels import LOG_ODDS_LIMIT
from sim.weighting import PromptWeights
from sim.world import Gradient
from theory.finite_group import StepModel
from theory.quadrature import log_odds

SUPERVISED_STEPS = 10_000
SUPERVISED_MOVE = 0.05  # log-odds a step of a prompt that is always wrong, about


def features(
    prompts: int, skills: int, skills_per_prompt: int, conflict: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Φ, shape (n, d): each prompt loads on so many skills at random, each sign negative with probability `conflict`.

    Parameters
    ----------
    prompts, skills
        n and d.
    skills_per_prompt
        s, from 1 to d.
    conflict
        From 0, where no prompt hurts another, to 1/2, where as many hurt as help.
    rng
        Draws skills and signs.
    """
    phi = np.zeros((prompts, skills))
    for row in phi:
        chosen = rng.choice(skills, skills_per_prompt, replace=False)
        row[chosen] = np.where(rng.random(skills_per_prompt) < conflict, -1.0, 1.0) / np.sqrt(skills_per_prompt)
    return phi


class Skills:
    """Prompts that share skills.

    Parameters
    ----------
    rho
        Shape (n,). Success probabilities without any skill (w = 0), in (0, 1).
    phi
        Shape (n, d). Φ.
    group_size
        M.
    step_size
        η > 0.
    gradient
        "natural" or "vanilla".
    step_model
        "ratio" or "outcome".
    damping
        λ ≥ 0 of the natural gradient; 0 needs d independent features.
    most_groups, threads
        As `sim.engine.FiniteSample`.
    """

    def __init__(
        self,
        rho: NDArray[np.float64],
        phi: NDArray[np.float64],
        group_size: int,
        step_size: float,
        *,
        gradient: Gradient = "natural",
        step_model: StepModel = "ratio",
        damping: float = 1e-3,
        most_groups: int = 1,
        threads: int = 0,
    ) -> None:
        self.group_size = group_size
        self._offset, self._phi, self._skills = log_odds(rho), phi, np.zeros(phi.shape[1])
        self._step_size, self._natural, self._ratio = step_size, gradient == "natural", step_model == "ratio"
        self._damping, self._most, self._threads = damping, most_groups, threads

    @property
    def prompts(self) -> int:
        """As `World`."""
        return self._offset.size

    def use(self, weights: PromptWeights) -> None:
        """As `World`."""
        self._weights = weights

    def supervise(self, success: float, share: float) -> None:
        """Raise mean success to `success` by likelihood ascent on correct responses to the first `share` of prompts.

        Raises
        ------
        UsageError
            If that level is below the start, or out of reach for these features.
        """
        taught = max(1, round(share * self.prompts))
        phi = self._phi[:taught]
        # What one step moves a taught prompt's θ by, were all of them always wrong.
        scale = np.mean(phi @ phi.mean(axis=0))
        if self.success().mean() > success:
            raise UsageError(f"shared.sft_success {success:g} is below mean success at the start")
        for _ in range(SUPERVISED_STEPS):
            rho = self.success()
            if rho.mean() >= success:
                return
            self._skills += SUPERVISED_MOVE / scale * (phi.T @ (1 - rho[:taught])) / taught
        raise UsageError(
            f"shared.sft_success {success:g} was not reached: mean success stands at {self.success().mean():.3f} after "
            f"{SUPERVISED_STEPS} supervised steps; lower it, or teach more prompts, with less conflict"
        )

    def advance(self, rng: np.random.Generator) -> Tally:
        """As `World`."""
        theta = self._log_odds()
        successes, tally = sample_groups(theta, self.group_size, rng, self._most, self._threads)
        share = successes / self.group_size
        correct, wrong = self._weights.correct[successes], self._weights.wrong[successes]
        rho, failure = expit(theta), expit(-theta)
        if self._ratio:
            gradient = share * correct * failure - (1 - share) * wrong * rho
        else:
            gradient = rho * failure * (np.where(share > 0, correct, 0) - np.where(share < 1, wrong, 0))
        pull = self._phi.T @ gradient / self.prompts
        if self._natural:
            fisher = self._phi.T @ ((rho * failure)[:, None] * self._phi) / self.prompts
            fisher[np.diag_indices_from(fisher)] += self._damping * np.trace(fisher) / pull.size
            pull = np.linalg.solve(fisher, pull)
        self._skills += self._step_size * pull
        return tally

    def success(self) -> NDArray[np.float64]:
        """As `World`."""
        return expit(self._log_odds())

    def state(self) -> Mapping[str, NDArray[np.float64]]:
        """As `World`."""
        return {"skills": self._skills}

    def _log_odds(self) -> NDArray[np.float64]:
        return np.clip(self._offset + self._phi @ self._skills, -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT)
