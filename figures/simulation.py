"""Simulated groups against theory: many prompts from one start, and the curves that the theory gives for them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from figures import style
from figures.estimates import crossing, interval
from figures.frames import groups, part
from sim import weighting
from sim.binary import Binary
from sim.engine import FiniteSample
from theory.catalogue import WEIGHTINGS
from theory.clocks import REGULAR
from theory.dynamics import update_budget
from theory.finite_group import speed
from weightopt.ode import trajectory

TITLE = "Simulation against theory"
START, TARGET = 0.01, 0.9
NAMES = ("grpo", "linear-r", "sqrt-r")
SIZES = (8, 64)
STEP_SIZE, STEPS, EVERY = 0.02, 400, 8
PROMPTS, SEEDS = 100, 10
LEVEL = 0.5
SPREAD = (0.1, 0.9)


def data() -> pd.DataFrame:
    """Columns group_size, weighting, time, large_group, theory, mean, low, high, spread_low, spread_high, hit, ….

    Time is η times steps, regular clock. ``large_group`` is ρ(t) for infinitely many responses, ``theory`` with the
    expected speed of groups of M; mean success of the simulation has a 95 % t-interval over seeds; the spread is from
    the 10 % to the 90 % quantile of prompts, mean over seeds. ``hit`` and its interval: when mean success reaches ½.
    """
    return pd.concat([_run(name, size) for size in SIZES for name in NAMES], ignore_index=True)


def _run(name: str, size: int) -> pd.DataFrame:
    read = weighting.read(name, size)
    weights = read.times(1 / read.drift_budget(START, TARGET, "ratio"))
    steps = np.arange(0, STEPS + 1, EVERY)
    found = np.empty((SEEDS, 3, steps.size))
    for seed in range(SEEDS):
        rng = np.random.default_rng([seed, size])
        world = Binary(np.full(PROMPTS, START), size, lambda w: FiniteSample(w, STEP_SIZE))
        world.use(weights)
        for step in range(STEPS + 1):
            if step % EVERY == 0:
                success = world.success()
                found[seed, :, step // EVERY] = success.mean(), *np.quantile(success, SPREAD)
            world.advance(rng)
    times = STEP_SIZE * steps
    w = WEIGHTINGS[name]

    def expected(rho: np.ndarray) -> np.ndarray:
        return speed(rho.ravel(), weights.correct, weights.wrong, "ratio").reshape(rho.shape)

    scale = 1 / update_budget(w, START, TARGET, w.kinks)
    mean, low, high = interval(found[:, 0])
    hit = interval(np.array([crossing(times, curve, LEVEL) for curve in found[:, 0]]))
    return pd.DataFrame(
        {
            "group_size": size,
            "weighting": name,
            "time": times,
            "large_group": trajectory(lambda rho: scale * w(rho), REGULAR, START, times),
            "theory": trajectory(expected, REGULAR, START, times),
            "mean": mean,
            "low": low,
            "high": high,
            "spread_low": found[:, 1].mean(axis=0),
            "spread_high": found[:, 2].mean(axis=0),
            "hit": hit[0],
            "hit_low": hit[1],
            "hit_high": hit[2],
        }
    )


def draw(frame: pd.DataFrame) -> Figure:
    """One row per group size, one column per weighting: theories as lines, the simulation as points and bands."""
    figure = style.page(style.WIDTH, 3.9)
    sizes, names = frame["group_size"].unique(), frame["weighting"].unique()
    grid = figure.subplots(len(sizes), len(names), sharex=True, sharey=True, squeeze=False)
    for axes, ((size, name), rows) in zip(grid.flat, groups(frame, "group_size", "weighting"), strict=True):
        colour, time = style.COLOURS[str(name)], rows["time"]
        axes.fill_between(time, rows["spread_low"], rows["spread_high"], color=colour, alpha=0.2, linewidth=0)
        axes.plot(time, rows["large_group"], color=style.INK, linewidth=1, linestyle=(0, (4, 2)))
        axes.plot(time, rows["theory"], color=style.dark(colour), linewidth=1.4)
        few = rows.iloc[::2]
        error = np.array([few["mean"] - few["low"], few["high"] - few["mean"]])
        axes.errorbar(few["time"], few["mean"], error, fmt="o", color=colour, markersize=2.5, elinewidth=0.9)
        axes.set_xlim(0, time.max())
        axes.set_ylim(0, 1)
        style.panel(axes, f"{style.short(str(name))}, M = {size}", "", small=True)
    for axes in grid[-1]:
        axes.set_xlabel("update time, η · steps", fontsize=8)
    for axes in grid[:, 0]:
        axes.set_ylabel("mean success", fontsize=8)
    axes = grid[0, 0]
    keys = [
        axes.plot([], [], color=style.INK, linewidth=1, linestyle=(0, (4, 2)), label="theory, M = ∞")[0],
        axes.plot([], [], color=style.INK, linewidth=1.4, label="theory, groups of M")[0],
        axes.errorbar([], [], [], fmt="o", color=style.INK, markersize=2.5, label="simulation"),
        axes.fill_between([], [], [], color=style.INK, alpha=0.2, linewidth=0, label="80 % of the prompts"),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def caption(frame: pd.DataFrame) -> str:
    """What is shown, with its numbers."""
    first = frame.groupby(["group_size", "weighting"])[["hit", "hit_low", "hit_high"]].first()
    small = min(SIZES)
    rows = part(frame, group_size=small, weighting="grpo")
    large, theory = (
        crossing(rows["time"].to_numpy(), rows[name].to_numpy(), LEVEL) for name in ("large_group", "theory")
    )
    hit, low, high = first.loc[(small, "grpo")]
    return (
        f"{PROMPTS} prompts from ρ = {START:g}, groups drawn at every step, model S (exact-ratio step), η = "
        f"{STEP_SIZE:g}, regular clock; every weighting spends the drift budget ∫u dρ = 1 from {START:g} to "
        f"{TARGET:g}. Points: mean success with 95 % t-interval over {SEEDS} seeds, smaller than the points; bands: "
        f"from the 10 % to the 90 % quantile of prompts. Read at K/M in groups of {small}, GRPO reaches {LEVEL:g} at "
        f"{hit:.2f} [{low:.2f}, {high:.2f}]; the theory of infinitely many responses says {large:.2f}, that of groups "
        f"of {small} {theory:.2f}. The theory follows one prompt with the mean step: what lies between line and points "
        f"is due to steps of finite size, which spread prompts."
    )


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Update time until mean success ½: two theories and the simulation."""
    found = {}
    for (size, name), rows in groups(frame, "group_size", "weighting"):
        time = rows["time"].to_numpy()
        hit, low, high = rows[["hit", "hit_low", "hit_high"]].iloc[0]
        found[f"{style.label(str(name))}, M = {size}"] = {
            "theory, M = ∞": f"{crossing(time, rows['large_group'].to_numpy(), LEVEL):.2f}",
            "theory, groups of M": f"{crossing(time, rows['theory'].to_numpy(), LEVEL):.2f}",
            "simulation [95 %]": f"{hit:.2f} [{low:.2f}, {high:.2f}]",
        }
    return pd.DataFrame(found).T.rename_axis(f"time to mean success {LEVEL:g}")
