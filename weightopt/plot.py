"""The picture of one solved weighting; the figures of the project live in `figures`."""

from __future__ import annotations

import io

import numpy as np

from weightopt.curves.curve import CurveAnswer
from weightopt.table import WeightTable

INK, ACCENT, DOT = "#222222", "#0072B2", "#D55E00"  # Okabe-Ito: readable in print and by the colour-blind


def draw_weights(answer: CurveAnswer, table: WeightTable) -> bytes:
    """Weight and effective weight over success probability as PNG bytes; dots where a group of M looks the table up."""
    from matplotlib.figure import Figure

    problem = answer.problem
    figure = Figure(figsize=(7.0, 2.9), dpi=200, layout="constrained")
    axes = figure.subplots(1, 2)
    rho = answer.grid()
    weight = answer.weighting(rho)
    group = np.array(table.rho) if table.group_size is not None else np.array([])
    at_group = np.array(table.weight) if table.group_size is not None else group
    for ax, power, label in ((axes[0], 0, "prompt weight ω"), (axes[1], 1, "effective weight ρ(1-ρ) ω")):
        ax.plot(rho, (rho * (1 - rho)) ** power * weight, color=ACCENT)
        if group.size:
            at = (group * (1 - group)) ** power * at_group
            ax.plot(group, at, "o", color=DOT, markersize=3.5, label=f"K/{table.group_size}")
            ax.legend(frameon=False, handletextpad=0.2)
        ax.set_xlabel("success probability ρ", color=INK)
        ax.set_title(label, loc="left", fontsize=10, color=INK)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_yscale("log")
    axes[1].set_ylim(bottom=0)
    figure.suptitle(
        f"{problem.clock.name} clock, {problem.start:g} → {problem.target:g}, certified gap {answer.gap:.1e}",
        fontsize=9,
        color=INK,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
