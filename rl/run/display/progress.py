"""What a run shows while it goes: a live display on a terminal, a line per evaluation elsewhere, nothing when quiet."""

import math
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from rl.records.metrics import METRICS_FILE, STAGES, EvaluationRecord, StepRecord, TimingRecord, read_metrics
from weightopt.heartbeat import Heartbeat

# Steps over which throughput and seconds are averaged, and training reward and the groups by K are shown.
WINDOW = 20
# Columns of the labels, of the longest note, and of a chart where there is room.
LABEL, NOTE, SPARK = 15, 36, 40
# Bars of one character, from none to full.
BLOCKS = " ▁▂▃▄▅▆▇█"


class Progress:
    """Display of one run of so many steps, under the name of its weight table; by default on standard output."""

    def __init__(self, *, quiet: bool, name: str, steps: int, console: Console | None = None) -> None:
        self._console = console or Console(quiet=quiet, highlight=False)
        self._bar = Bar(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=SPARK),
            MofNCompleteColumn(),
            TextColumn("[dim]elapsed"),
            TimeElapsedColumn(),
            TextColumn("[dim]left"),
            TimeRemainingColumn(),
            console=self._console,
            # Steps may take minutes, and evaluations fall between them.
            speed_estimate_period=3600,
        )
        self._task = self._bar.add_task(name, total=steps)
        self._steps: deque[StepRecord] = deque(maxlen=WINDOW)
        self._timing: deque[TimingRecord] = deque(maxlen=WINDOW)
        self._rewards: list[float] = []
        self._evaluations: list[EvaluationRecord] = []
        self._supervised: EvaluationRecord | None = None
        drawn = self._console.is_terminal and not self._console.quiet
        self._live = Live(get_renderable=self.render, console=self._console, transient=True) if drawn else None
        self._steps_to_make, self._now = steps, "getting ready"
        # Between two evaluations of a large model there may be an hour, and a log should show it.
        active = not (drawn or self._console.quiet)
        self._beat = Heartbeat(lambda seconds: f"{self._now}, after {seconds:.0f} s", self.tell, active=active)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        self._beat.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._beat.__exit__()
        if self._live:
            self._live.stop()

    def catch_up(self, output: Path) -> None:
        """Take in what the files of a run that goes on hold."""
        if (output / METRICS_FILE).exists():
            metrics = read_metrics(output / METRICS_FILE)
            self._evaluations = list(metrics.evaluations)
            self._rewards = [record.reward for record in metrics.steps]
            self._steps.extend(metrics.steps[-WINDOW:])
        # The clock of the bar starts here, so that the time of a supervised phase is no step's.
        self._bar.reset(self._task, completed=len(self._rewards))

    def supervised(self, record: EvaluationRecord) -> None:
        """Show a measurement of the supervised phase."""
        self._supervised = record
        self._now = f"supervised step {record.step}, {_success(record)}"
        self._print(Text(f"supervised step {record.step:4d}  {_success(record)}"))

    def stepped(self, record: StepRecord) -> None:
        """Show an update."""
        self._steps.append(record)
        self._rewards.append(record.reward)
        self._bar.update(self._task, completed=record.step)
        self._now = f"step {record.step} of {self._steps_to_make}, training success {record.reward:.1%}"

    def timed(self, record: TimingRecord) -> None:
        """Show what an update took."""
        self._timing.append(record)

    def evaluated(self, record: EvaluationRecord) -> None:
        """Show a measurement of the run."""
        self._evaluations.append(record)
        self._print(Text(f"step {record.step:4d}  {record.responses_so_far:8,d} responses  {_success(record)}"))
        if record.warning:
            self.warn(record.warning)

    def tell(self, sentence: str) -> None:
        """Show a line, uncut."""
        self._console.print(Text(sentence), soft_wrap=True)

    def warn(self, sentence: str) -> None:
        """Show what the user should know and training does not stop for."""
        self._print(Text(f"warning: {sentence}", style="yellow"))

    def _print(self, line: Text) -> None:
        # A file or a pipe has no width, and what reads it reads line by line.
        self._console.print(line, soft_wrap=not self._console.is_terminal)
        self._beat.heard()

    def render(self) -> RenderableType:
        """The live display as it is now."""
        # What is left of a line beside the label and the longest note, so that nothing is cut at 80 characters.
        width = min(max(self._console.width - LABEL - NOTE, 9), SPARK)
        # A terminal of another encoding has no blocks: the numbers stay.
        blocks = self._console.encoding.lower().startswith("utf")
        chart = sparkline if blocks else lambda *_, **__: ""
        lines: list[Text] = []
        if self._supervised and not self._evaluations:
            note = f"step {self._supervised.step}: {self._supervised.success:.1%}"
            lines.append(_line("supervised", "", "", note, width=0))
        if self._evaluations:
            history = [record.success for record in self._evaluations]
            last, best = self._evaluations[-1], max(self._evaluations, key=lambda record: record.success)
            note = f"{last.success:.1%} [{last.success_low:.1%}, {last.success_high:.1%}]"
            note += f", best {best.success:.1%}" if best.success > last.success else ""
            lines.append(_line("held-out", chart(history, width=width), "green", note, width=width))
        if self._rewards:
            recent = self._rewards[-WINDOW:]
            note = f"{math.fsum(recent) / len(recent):.1%} in the last {len(recent)} steps"
            lines.append(_line("training", chart(self._rewards, width=width), "cyan", note, width=width))
        if self._steps:
            lines += _groups_by_successes(self._steps, width=width, blocks=blocks)
        if self._timing:
            lines += self._throughput()
        return Group(self._bar, *lines)

    def _throughput(self) -> list[Text]:
        """Rates over the last steps, evaluations left out, and the seconds of a step by stage."""
        steps = list(self._steps)[-len(self._timing) :]
        seconds = {stage: sum(getattr(record, stage) for record in self._timing) for stage in STAGES}
        responses = sum(sum(record.success_histogram) * (len(record.success_histogram) - 1) for record in steps)
        tokens = sum(record.tokens for record in steps)
        training = sum(seconds.values()) - seconds["evaluating"]
        rates = f"{responses / training:,.0f} responses/s, {tokens / training:,.0f} tokens/s" if training > 0 else ""
        each = {stage.replace("_", "-"): value / len(self._timing) for stage, value in seconds.items()}
        least = 0.005 * sum(each.values())  # less is noise, and the line is short
        shares = [f"{name} {value:{'.1f' if value >= 10 else '.2g'}}" for name, value in each.items() if value >= least]
        return [_line("throughput", "", "", rates, width=0), _line("seconds/step", "", "", ", ".join(shares), width=0)]


def _groups_by_successes(records: Sequence[StepRecord], *, width: int, blocks: bool) -> list[Text]:
    """Chart of the groups of some steps by their number K of correct responses, with its axis.

    All-wrong and all-right groups have a column of their own at either end; between them, K that are too many for a
    column each share one.
    """
    size = len(records[0].success_histogram) - 1
    counts = [sum(record.success_histogram[k] for record in records) for k in range(size + 1)]
    groups = max(sum(counts), 1)
    wrong, right = counts[0] / groups, counts[-1] / groups
    notes = [f"all wrong {wrong:.0%}", f"mixed {1 - wrong - right:.0%}", f"all right {right:.0%}"]
    label = f"groups, M={size}"
    if not blocks:
        return [_line(label, "", "", ", ".join(notes), width=0)]
    inner = min(size - 1, (width + 1) // 2 - 2)
    edges = [1 + round(i * (size - 1) / inner) for i in range(inner + 1)]
    bars = [counts[0], *(sum(counts[a:b]) for a, b in pairwise(edges)), counts[-1]]
    rows = [" ".join(row) for row in columns(bars, height=3)]
    axis = "0".ljust(len(rows[0]) - len(str(size))) + f"{size} right"
    chart = [
        _line("" if number else label, row, "cyan", note, width=width)
        for number, (row, note) in enumerate(zip(rows, notes, strict=True))
    ]
    return [*chart, _line("", axis, "dim", "", width=width)]


def _line(label: str, chart: str, style: str, note: str, *, width: int) -> Text:
    parts = ((f"{label:<{LABEL}}", "dim"), (f"{chart:<{width}}" + "  " * (width > 0), style), note)
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _success(record: EvaluationRecord) -> str:
    strata = ", ".join(f"{name} {value:.0%}" for name, value in record.by_difficulty.items())
    interval = f"[{record.success_low:.1%}, {record.success_high:.1%}]"
    return f"held-out success {record.success:5.1%} {interval}  ({strata})"


def sparkline(values: Sequence[float], *, width: int, top: float | None = None) -> str:
    """A row of bars, one a value, from 0 to ``top``.

    Parameters
    ----------
    values
        At least 0 each. More of them than ``width`` are averaged in ``width`` stretches of (nearly) equal length.
    width
        Characters, at least 1.
    top
        Value of a full bar, by default the largest one. A value above 0 shows as more than nothing.
    """
    if len(values) > width:
        edges = [round(i * len(values) / width) for i in range(width + 1)]
        values = [math.fsum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    return columns(values, height=1, top=top)[0]


def columns(values: Sequence[float], *, height: int, top: float | None = None) -> list[str]:
    """Upright bars, one character wide, as ``height`` lines from above; see `sparkline`."""
    full = max(values, default=0.0) if top is None else top
    levels = [min(max(math.ceil(8 * height * value / full), value > 0), 8 * height) if full else 0 for value in values]
    return ["".join(BLOCKS[min(max(level - 8 * row, 0), 8)] for level in levels) for row in reversed(range(height))]
