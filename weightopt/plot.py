"""The picture of one solved weighting; the figures of the project live in `figures`."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory import catalogue
from theory.clocks import Tabulated
from weightopt.comparison import NAMES
from weightopt.curves.curve import CurveAnswer
from weightopt.table import WeightTable

INK, ACCENT, DOT = "#222222", "#0072B2", "#D55E00"  # Okabe-Ito: readable in print and by the colour-blind
# The named weightings behind it, told apart by dashes too; those of `weightopt compare`.
BEHIND = ("#999999", "#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#8C6D31")
DASHES: tuple[Any, ...] = ("-", (0, (6, 1.5)), (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)), (0, (5, 1, 1, 1, 1, 1)))
TICKS = (1e-6, 1e-5, 1e-4, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)


def draw_weights(answer: CurveAnswer, table: WeightTable) -> bytes:
    """The picture of `weights_figure` as PNG bytes."""
    buffer = io.BytesIO()
    weights_figure(answer, table).savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def weights_figure(answer: CurveAnswer, table: WeightTable) -> Any:
    """Clock, weight and effective weight over success probability, the axis even in log-odds; a matplotlib figure.

    The named weightings stand behind the solved one, each scaled to the same budget. Dots show where a group of M looks
    the table up, or the rows of a measured clock.
    """
    from matplotlib.figure import Figure

    problem = answer.problem
    figure = Figure(figsize=(9.0, 3.4), dpi=200, layout="constrained")
    panels = figure.subplots(1, 3)
    rho = answer.grid()
    _clock(panels[0], answer, rho)
    weight = answer.weighting(rho)
    named = [(catalogue.WEIGHTINGS[name], _scaled(answer, catalogue.WEIGHTINGS[name], rho)) for name in NAMES]
    group = np.array(table.rho) if table.group_size is not None else np.array([])
    at_group = np.array(table.weight) if table.group_size is not None else group
    inside = (group >= problem.start) & (group <= problem.target)
    for ax, power, title in ((panels[1], 0, "prompt weight ω"), (panels[2], 1, "effective weight ρ(1-ρ) ω")):
        factor = (rho * (1 - rho)) ** power
        for (weighting, values), colour, dash in zip(named, BEHIND, DASHES, strict=True):
            ax.plot(rho, factor * values, color=colour, linestyle=dash, linewidth=1, label=weighting.label)
        ax.plot(rho, factor * weight, color=ACCENT, linewidth=2.2, label="solved")
        if inside.any():
            at = (group * (1 - group)) ** power * at_group
            ax.plot(
                group[inside],
                at[inside],
                "o",
                color=DOT,
                markersize=3.5,
                label=f"table, K/{table.group_size}",
                zorder=5,
            )
        ax.set_title(title, loc="left", fontsize=10, color=INK)
        ax.set_yscale("log" if power == 0 and weight.min() > 0 else "linear")
        if power:
            ax.set_ylim(bottom=0)
    for ax in panels:
        _log_odds(ax, problem.start, problem.target)
    panels[1].set_ylabel("ω", fontsize=9, color=INK)
    panels[2].set_ylabel("ρ(1-ρ) ω", fontsize=9, color=INK)
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.suptitle(
        f"{problem.clock.name} clock, {problem.start:g} → {problem.target:g}, all at budget {problem.budget:g}, "
        f"certified gap {answer.gap:.1e}",
        fontsize=9,
        color=INK,
    )
    return figure


def _clock(ax: Any, answer: CurveAnswer, rho: NDArray[np.float64]) -> None:
    """What a unit of update time costs; of a measured clock its rows, and what is taken to be between them."""
    clock = answer.problem.clock
    ax.plot(rho, clock(rho), color=INK, linewidth=1.6)
    title = "clock c(ρ)"
    if isinstance(clock, Tabulated):
        at = np.array([each for each in clock.measured.rho if rho[0] <= each <= rho[-1]])
        ax.plot(at, clock(at), "o", color=INK, markersize=3.5)
        title = "clock c(ρ), as read"
    ax.set_title(title, loc="left", fontsize=10, color=INK)
    ax.set_ylabel("cost of a unit of update time", fontsize=9, color=INK)
    values = clock(rho)
    ax.set_yscale("log" if values.max() > 5 * values.min() else "linear")
    if ax.get_yscale() == "linear":
        ax.set_ylim(bottom=0)


def _scaled(answer: CurveAnswer, weighting: Any, rho: NDArray[np.float64]) -> NDArray[np.float64]:
    """A named weighting that spends the budget of the problem, to the accuracy of a picture."""
    problem = answer.problem
    values = np.asarray(weighting(rho), dtype=float)
    density = 1.0 if problem.budget_density is None else problem.budget_density(rho)
    return values * problem.budget / float(np.trapezoid(values * density, rho))


def _log_odds(ax: Any, start: float, target: float) -> None:
    """Success probabilities as ticks of an axis even in log-odds."""
    ax.set_xscale("logit")
    span = np.log(target / (1 - target)) - np.log(start / (1 - start))
    odds = np.exp(0.03 * span)
    low, high = start / (1 - start) / odds, target / (1 - target) * odds
    ax.set_xlim(low / (1 + low), high / (1 + high))
    ticks = sorted({tick for tick in TICKS if start < tick < target} | {start, target})
    kept = [tick for tick in ticks if tick in (start, target) or _apart(tick, (start, target), span)]
    ax.set_xticks(kept, [f"{tick:g}" for tick in kept])
    ax.minorticks_off()
    ax.tick_params(labelsize=8)
    ax.set_xlabel("success probability ρ, even in log-odds", color=INK, fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)


def _apart(tick: float, ends: tuple[float, float], span: float) -> bool:
    """Whether the label of a tick has room beside those of the ends."""
    return all(abs(np.log(tick / (1 - tick)) - np.log(end / (1 - end))) > 0.09 * span for end in ends)
