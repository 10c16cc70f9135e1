"""A network with one embedding row for each prompt, trained by the gradients of sampled group advantages.

A response to a prompt is right or wrong. Right has the probability ρ = 1/(1 + exp(-x)) of a logit x, the number in the
prompt's row, or ρ = sin²(x/2) of an angle. Plain SGD on the logit moves success by dρ/dt = (ρ(1-ρ))² u(ρ), the mobility
``softmax-gradient``; on the angle, whose Fisher information is 1 everywhere, by ρ(1-ρ) u(ρ), the mobility ``natural``.

A response may make further choices between two words that do not matter for the verdict, from angles of their own in
the same row. They are what most of a long response is: their gradient has mean 0 and the size of the advantages, so
that noise dominates what an optimiser sees.

Rows may be mixed: then the parameters are the rows rotated by random orthogonal matrices, and each parameter serves all
prompts, as in a dense network, while prompts still share nothing. SGD does not notice; AdamW, which rescales every
parameter, does.

Many networks are trained side by side, which changes none of them: losses are sums, and AdamW works on each entry.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rl.supervised import BETAS
from sim.loops import Lengths

Array = NDArray[np.float64]
Coordinate = Literal["logit", "angle"]
Optimiser = Literal["sgd", "normalised", "adamw"]
MEMORY = 0.95  # of the mean squared advantage that normalised steps are divided by, a step
EDGE = 1e-12  # of a success probability, so that its logarithm is finite
LONGEST = 20  # times the steps that a run is meant to take, after which it counts as not arriving


class Rows(nn.Module):
    """Networks side by side.

    Parameters
    ----------
    rho
        Shape (P,). Success probabilities at the start.
    networks
        S.
    coordinate
        What the first number of a row is.
    choices
        D, choices that do not matter.
    rotation
        Orthogonal matrices (P, P) and (1 + D, 1 + D), or None.
    """

    def __init__(
        self,
        rho: Array,
        networks: int,
        coordinate: Coordinate,
        choices: int = 0,
        rotation: tuple[Array, Array] | None = None,
    ) -> None:
        super().__init__()
        place = np.log(rho / (1 - rho)) if coordinate == "logit" else 2 * np.arcsin(np.sqrt(rho))
        rows = np.hstack([place[:, None], np.full((rho.size, choices), math.pi / 2)])
        self.coordinate = coordinate
        self.rotation = None if rotation is None else tuple(torch.from_numpy(matrix) for matrix in rotation)
        if rotation is not None:
            rows = rotation[0].T @ rows @ rotation[1].T
        self.weight = nn.Parameter(torch.from_numpy(np.repeat(rows[None], networks, axis=0)))

    def forward(self) -> torch.Tensor:
        """Probability of right, and of the first word of each choice, shape (S, P, 1 + D)."""
        rows = self.weight if self.rotation is None else self.rotation[0] @ self.weight @ self.rotation[1]
        if self.coordinate == "logit":
            return torch.sigmoid(rows)
        return torch.sin(rows / 2) ** 2


def rotation(prompts: int, choices: int, seed: int) -> tuple[Array, Array]:
    """Random orthogonal matrices for `Rows`."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for size in (prompts, 1 + choices))
    return left, right


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
    """What a run does besides its table.

    Attributes
    ----------
    rho
        Shape (P,). Success probabilities at the start; every step draws a group for each prompt.
    target
        Mean success at which a network has arrived.
    lengths
        Of responses, in tokens.
    coordinate, choices, mixed
        Of the network, see `Rows`.
    optimiser
        "sgd"; "normalised", SGD whose steps are divided by the root of the mean squared advantage, averaged over the
        steps so far with weights 0.95^age; or "adamw" with the trainer's β and without decay.
    networks
        S.
    """

    rho: Array
    target: float
    lengths: Lengths
    coordinate: Coordinate
    optimiser: Optimiser
    choices: int = 0
    mixed: bool = False
    networks: int = 16


@dataclasses.dataclass(frozen=True)
class Arrival:
    """What each network paid until it arrived, shape (S,); infinite where it did not.

    Attributes
    ----------
    tokens
        Mean tokens of a response, summed over steps.
    spent
        Mean squared advantage, summed over steps.
    steps
        Steps, the last one in part.
    """

    tokens: Array
    spent: Array
    steps: Array


def train(loop: Loop, correct: Array, wrong: Array, step_size: float, meant: int, seed: int) -> Arrival:
    """Train until every network has arrived.

    The random numbers that decide which responses are right are the same for every table, step by step.

    Parameters
    ----------
    loop
        Prompts, network and optimiser.
    correct, wrong
        Shape (M+1,). Advantages by the number correct.
    step_size
        Of the optimiser, for the sum over prompts of the mean over a group.
    meant
        Steps that it is meant to take; it is given up after `LONGEST` times as many.
    seed
        Of all draws.
    """
    size, prompts = correct.size - 1, loop.rho.size
    rights, words, lengths = (np.random.default_rng((seed, stream)) for stream in range(3))
    turned = rotation(prompts, loop.choices, seed) if loop.mixed else None
    net = Rows(loop.rho, loop.networks, loop.coordinate, loop.choices, turned)
    if loop.optimiser == "adamw":
        optimiser = torch.optim.AdamW(net.parameters(), lr=step_size, betas=BETAS, weight_decay=0.0)
    else:
        optimiser = torch.optim.SGD(net.parameters(), lr=step_size)
    shape = (loop.networks, prompts)
    share = np.arange(size + 1) / size
    moment = share * correct**2 + (1 - share) * wrong**2
    paid = np.zeros((3, loop.networks))  # tokens, spent, steps
    arrived = np.full((3, loop.networks), np.inf)
    held, before = np.zeros(loop.networks), np.full(loop.networks, float(loop.rho.mean()))
    last = np.zeros_like(paid)
    for step in range(LONGEST * meant + 1):
        probability = net()
        rho = probability[..., 0]
        now = rho.detach().numpy().mean(axis=1)
        if step > 0:
            fresh = (now >= loop.target) & np.isinf(arrived[0])
            part = (loop.target - before) / np.where(now > before, now - before, 1.0)
            arrived = np.where(fresh, last + part * (paid - last), arrived)
            if np.isfinite(arrived[0]).all():
                break
        before, last = now, paid.copy()
        seen = probability.detach().numpy()
        k = (rights.random((*shape, size)) < seen[..., :1]).sum(axis=-1)
        up, down = torch.from_numpy(correct[k]), torch.from_numpy(wrong[k])
        right = torch.from_numpy(k.astype(np.float64))
        rho = rho.clamp(EDGE, 1 - EDGE)
        gain = up * right * torch.log(rho) + down * (size - right) * torch.log1p(-rho)
        if loop.choices:
            chance = np.clip(seen[..., 1:], 0.0, 1.0)
            first = words.binomial(k[..., None], chance), words.binomial(size - k[..., None], chance)
            of_right, of_wrong = (torch.from_numpy(count.astype(np.float64)) for count in first)
            word = probability[..., 1:].clamp(EDGE, 1 - EDGE)
            up, down, right = up[..., None], down[..., None], right[..., None]
            said = up * of_right + down * of_wrong
            unsaid = up * (right - of_right) + down * (size - right - of_wrong)
            gain = gain + (said * torch.log(word) + unsaid * torch.log1p(-word)).sum(dim=-1)
        loss = -gain.sum() / size
        optimiser.zero_grad()
        loss.backward()
        spent = moment[k].mean(axis=1)
        if loop.optimiser == "normalised":
            held = MEMORY * held + (1 - MEMORY) * spent
            root = np.sqrt(held / (1 - MEMORY ** (step + 1)) + EDGE)
            assert net.weight.grad is not None
            net.weight.grad /= torch.from_numpy(root)[:, None, None]
        optimiser.step()
        paid += [loop.lengths.of_groups(k, size, lengths).mean(axis=1) / size, spent, np.ones(loop.networks)]
    return Arrival(*arrived)
