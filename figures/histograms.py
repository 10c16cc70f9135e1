"""How success spreads over prompts in training: the share of groups with K correct responses, by update."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from figures import style
from figures.frames import groups, part
from figures.runs import best_first, load_runs

TITLE = "Success histograms through training"
SLICES = 40  # of a run, over which updates are pooled
COLUMNS, TITLE_WIDTH = 3, 22


def data(runs: Path) -> pd.DataFrame:
    """Columns table, label, seeds, group_size, first, last (update of a slice), successes, share; pooled over seeds.

    Tables stand in the order of their success at the end, as in the figure of training.

    Raises
    ------
    FileNotFoundError
        If there is no run, or none has made an update.
    ValueError
        If a metrics file cannot be understood, or runs of a table differ in group size.
    """
    tables: dict[str, list[np.ndarray]] = {}
    labels: dict[str, str] = {}
    loaded = load_runs(runs)
    for run in loaded:
        if len(run.histograms):
            tables.setdefault(run.table, []).append(run.histograms)
            labels[run.table] = run.label
    if not tables:
        raise FileNotFoundError(f"no updates in the runs under {runs}")
    frames = []
    for table, counts in ((table, tables[table]) for table in best_first(loaded) if table in tables):
        if len({each.shape[1] for each in counts}) > 1:
            raise ValueError(f"runs of table {table!r} differ in group size")
        updates = min(len(each) for each in counts)  # what all seeds have
        total = np.sum([each[:updates] for each in counts], axis=0)
        for slice_ in np.array_split(np.arange(updates), min(SLICES, updates)):
            pooled = total[slice_].sum(axis=0)
            frames.append(
                pd.DataFrame(
                    {
                        "table": table,
                        "label": labels[table],
                        "seeds": len(counts),
                        "group_size": pooled.size - 1,
                        "first": slice_[0] + 1,
                        "last": slice_[-1] + 1,
                        "successes": np.arange(pooled.size),
                        "share": pooled / pooled.sum(),
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def draw(frame: pd.DataFrame) -> Figure:
    """One panel per table: dark where many groups are, with a line for their mean."""
    tables = list(dict.fromkeys(frame["table"]))
    tints = style.colours(sorted(tables))
    columns = min(COLUMNS, len(tables))
    rows = -(-len(tables) // columns)
    figure = style.page(max(3.3, style.WIDTH * columns / COLUMNS), 0.5 + 2.1 * rows)
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    mesh = None
    for axes, table in zip(grid.flat, tables, strict=False):
        of = part(frame, table=table)
        size = int(of["group_size"].iloc[0])
        share = of.pivot_table(index="successes", columns="first", values="share").to_numpy()
        edges = np.append(of["first"].unique() - 1, of["last"].iloc[-1])
        norm = PowerNorm(0.5, vmin=0, vmax=1)
        mesh = axes.pcolormesh(edges, np.arange(size + 2) - 0.5, share, cmap="Greys", norm=norm)
        mesh.set_rasterized(True)
        mean = np.arange(size + 1) @ share
        axes.plot((edges[1:] + edges[:-1]) / 2, mean, color=tints[table], linewidth=1.8)
        axes.set_yticks([0, size // 2, size])
        axes.locator_params(axis="x", nbins=5)
        label = str(of["label"].iloc[0]).replace(" (reconstruction)", "*")
        style.panel(axes, textwrap.fill(label, TITLE_WIDTH), "", small=True)
    for axes in grid.flat[len(tables) :]:
        axes.set_axis_off()
    for axes in grid.flat[max(0, len(tables) - columns) : len(tables)]:
        axes.set_xlabel("updates", fontsize=8)
    for axes in grid[:, 0]:
        axes.set_ylabel("correct in a group, K", fontsize=8)
    if mesh is not None:
        bar = figure.colorbar(mesh, ax=grid, ticks=[0, 0.05, 0.2, 0.5, 1], pad=0.02, aspect=25)
        bar.set_label("share of groups", fontsize=8, color=style.INK)
        bar.ax.tick_params(labelsize=style.SMALL)
        bar.ax.set_yticklabels(["0", "5 %", "20 %", "50 %", "all"])
    if frame["label"].str.contains("(reconstruction)", regex=False).any():
        style.foot(figure)
    return figure


def caption(frame: pd.DataFrame) -> str:
    """What is shown, with its numbers."""
    parts = []
    for _, of in groups(frame, "table"):
        size = int(of["group_size"].iloc[0])
        ends = [part(of, last=last) for last in (of["last"].min(), of["last"].max())]
        silent = [float(end[end["successes"].isin([0, size])]["share"].sum()) for end in ends]
        wrong = [float(part(end, successes=0)["share"].sum()) for end in ends]
        parts.append(
            f"{of['label'].iloc[0]}, {of['seeds'].iloc[0]} seeds, {of['last'].max()} updates: all-wrong groups "
            f"from {wrong[0]:.0%} to {wrong[1]:.0%}, all-wrong and all-right ones together from {silent[0]:.0%} to "
            f"{silent[1]:.0%}"
        )
    return (
        f"Share of the groups of an update with K correct responses, pooled over seeds and over slices of the run "
        f"(at most {SLICES}), best at the end first; line: the mean of K. The responses of a group at either edge all "
        f"have one advantage. "
        f"From the first to the last slice: {'; '.join(parts)}."
    )
