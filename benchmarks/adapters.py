"""Milliseconds of CPU time that weighing a step takes, beside what the hosts' own advantages take.

    python -m benchmarks.adapters [--groups N] [--group-size M] [--json FILE]

`GroupWeigher` weighs 1,024 groups of 16 by ids of several kinds. TRL computes its advantages inside a long method that
cannot be called alone: beside it stands group-wise standardisation in torch, which is what that method does there.
Where verl is installed its own two GRPO estimators are called. One thread; the aim is under 1 ms for integer ids and
for the strings that verl has.
"""

import argparse
import importlib.util
import time
import timeit
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import introduce, machine, on_one_thread, save, spread, verdict
from weightopt.adapters import GroupWeigher
from weightopt.table import group_table

AIM = 1.0
ROUNDS, CALLS = 15, 10


def milliseconds(call: Callable[[], Any]) -> list[float]:
    """One number a round, the mean of `CALLS` calls."""
    call()
    times = timeit.repeat(call, number=CALLS, repeat=ROUNDS, timer=time.process_time)
    return [1e3 * seconds / CALLS for seconds in times]


def standardise(rewards: torch.Tensor, size: int) -> torch.Tensor:
    """Rewards less their group's mean, over its standard deviation; groups are rows in order."""
    groups = rewards.view(-1, size)
    centred = groups - groups.mean(dim=1, keepdim=True)
    return (centred / (groups.std(dim=1, keepdim=True) + 1e-4)).flatten()


def parties(groups: int, size: int) -> dict[str, tuple[Callable[[], Any], float | None]]:
    """Name to what is timed and its aim."""
    rng = np.random.default_rng(0)
    table = group_table(
        lambda rho: 1 / rho, size, name="linear-r", label="Linear-R", all_wrong_advantage=-1, all_right_advantage=0
    )
    weigher = GroupWeigher(table)
    rows = np.repeat(np.arange(groups), size)
    scores = (rng.random(len(rows)) < rng.random(groups)[rows]).astype(np.float32)
    names = np.array([str(uuid.UUID(bytes=rng.bytes(16))) for _ in range(groups)], dtype=object)
    order = rng.permutation(len(rows))
    some_unscorable = np.where(rng.random(len(rows)) < 0.05, np.nan, scores)
    curve = GroupWeigher(
        type(table)(
            name="linear-r",
            label="Linear-R",
            group_size=None,
            rho=table.rho,
            weight=table.weight,
            all_wrong_advantage=-1,
            all_right_advantage=0,
        )
    )
    uids, shuffled = names[rows][order], rows[order]
    found: dict[str, tuple[Callable[[], Any], float | None]] = {
        "ours, integers in order (TRL)": (lambda: weigher(rows, scores), AIM),
        "ours, integers shuffled": (lambda: weigher(shuffled, scores), AIM),
        "ours, strings shuffled (verl)": (lambda: weigher(uids, scores), None),
        "ours, a curve, one in 20 unscorable": (lambda: curve(shuffled, some_unscorable), None),
    }
    rewards = torch.from_numpy(scores)
    found["torch, standardised in groups (TRL)"] = (lambda: standardise(rewards, size), None)
    if importlib.util.find_spec("verl") is not None:
        from verl.trainer.ppo import core_algos  # pyright: ignore[reportMissingImports]

        given = {
            "token_level_rewards": torch.from_numpy(scores[order])[:, None],
            "response_mask": torch.ones(len(rows), 1),
            "index": uids,
        }
        for name in ("compute_grpo_outcome_advantage", "compute_grpo_vectorized_outcome_advantage"):
            estimator = getattr(core_algos, name, None)
            if estimator is not None:
                found[f"verl, {name}"] = (lambda estimator=estimator: estimator(**given), None)
    return found


def main() -> None:
    """Time all parties and print medians with their ranges."""
    on_one_thread()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=1024)
    parser.add_argument("--group-size", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    about = machine(("weightopt", "numpy", "torch", "verl"), threads=1)
    introduce(about)
    print(f"{options.groups:,} groups of {options.group_size}, CPU milliseconds: median of {ROUNDS} rounds (range)")
    results = []
    for name, (call, aim) in parties(options.groups, options.group_size).items():
        times = milliseconds(call)
        reached = None if aim is None else float(np.median(times)) < aim
        print(f"  {name:<44} {spread(times)}{verdict(aim, reached, ' ms')}", flush=True)
        results.append({"party": name, "milliseconds": times, "aim": aim, "reached": reached})
    save(options.json, about, results)


if __name__ == "__main__":
    main()
