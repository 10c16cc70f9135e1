"""The page: controls on the left, the answer with its proof, the named weightings and the charts on the right.

Panel serves it to this machine alone, and the page's security policy lets a browser ask nobody else for anything.
Whatever a user types is shown as text and never as markup.
"""

from __future__ import annotations

import html
import io
import math
import shlex
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import panel as pn
from panel.io.server import get_server

from figures.explore.charts import COLOURS, Charts, dash, width
from figures.explore.question import FILE, FORMS, Form, Question
from figures.explore.study import OWN, Study, study
from theory.clocks import made_for
from weightopt.errors import ProblemError, SolverError
from weightopt.groups.group import BUDGET_KINDS, SHAPES
from weightopt.table import TableError

HERE = Path(__file__).resolve().parent
ADDRESS = "127.0.0.1"
STARTS = (
    "0.0001", "0.0003", "0.001", "0.002", "0.005", "0.01", "0.02", "0.05", "0.1", "0.15", "0.2", "0.3", "0.4", "0.5",
    "0.6", "0.7", "0.8",
)  # fmt: skip
TARGETS = (
    "0.05", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.85", "0.9", "0.95", "0.97", "0.99", "0.999",
)  # fmt: skip
SIZES = ("2", "3", "4", "5", "6", "8", "10", "12", "16", "20", "24", "32", "40", "48", "64")
BUDGETS = ("0.1", "0.2", "0.3", "0.5", "1", "2", "3", "5", "10")
LEAST = ("", "0.01", "0.02", "0.05", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1")
LARGEST = ("1.2", "1.3", "1.5", "1.7", "2", "2.5", "3", "4", "5", "7", "10", "20", "")
RATIOS = ("1", "1.5", "2", "3", "4", "5", "7", "10", "20", "50", "100", "")
OTHER = "other"
CLOCKS = {
    "regular: a fixed batch": "regular",
    "effective: draws until a success": "effective",
    "failures: wrong draws before a success": "failures",
    "both: draws until a success and a failure": "both",
    "variance: updates from mixed pairs": "variance",
    "refill: groups drawn and groups trained on": "refill:16,1,1",
    "affine: an update and its draws": "affine:1,0.1",
    "another, or measured": OTHER,
}
MONOTONE = {"free": "", "decreasing": "decreasing", "increasing": "increasing"}


class Dial:
    """A number as text, with a slider for what people mostly choose; the text is what counts.

    Attributes
    ----------
    text
        The widget that holds the value.
    """

    def __init__(self, name: str, value: str, choices: tuple[str, ...], sheet: str) -> None:
        self.text = pn.widgets.TextInput(
            name=_spoken(name), value=value, placeholder="none", margin=0, sizing_mode="stretch_width",
            stylesheets=[sheet], css_classes=["dial", name],
        )  # fmt: skip
        self._choices = choices
        self._slider = pn.widgets.IntSlider(
            start=0, end=len(choices) - 1, value=self._nearest(value), show_value=False, tooltips=False,
            margin=(8, 7, 14, 7), sizing_mode="stretch_width", stylesheets=[sheet], css_classes=["slider", name],
        )  # fmt: skip
        self.box = pn.Column(self.text, self._slider, sizing_mode="stretch_width")
        self._slider.param.watch(self._slid, "value")
        self.text.param.watch(self._typed, "value")

    def _slid(self, event: Any) -> None:
        if event.new != self._nearest(self.text.value):  # not where the text has put it
            self.text.value = self._choices[event.new]

    def _typed(self, event: Any) -> None:
        self._slider.value = self._nearest(event.new)

    def _nearest(self, text: str) -> int:
        """The choice next to a text."""
        if text.strip() in self._choices:
            return self._choices.index(text.strip())
        try:
            value = float(text)
        except ValueError:
            return self._slider.value if hasattr(self, "_slider") else 0
        numbers = [(i, float(choice)) for i, choice in enumerate(self._choices) if choice]
        return min(numbers, key=lambda each: abs(each[1] - value) if math.isfinite(value) else -each[1])[0]


class Page:
    """One visitor's page; ``template`` is what Panel serves."""

    def __init__(self) -> None:
        sheet = (HERE / "parts.css").read_text(encoding="utf-8")
        first = Question()
        dials = {
            "start": STARTS, "target": TARGETS, "group_size": SIZES, "budget": BUDGETS, "min_weight": LEAST,
            "max_weight": LARGEST, "max_ratio": RATIOS,
        }  # fmt: skip
        self._dials = {name: Dial(name, getattr(first, name), choices, sheet) for name, choices in dials.items()}

        def choice(name: str, options: Any, value: str) -> Any:
            return pn.widgets.Select(
                name=_spoken(name), options=options, value=value, sizing_mode="stretch_width", margin=(0, 0, 12, 0),
                stylesheets=[sheet], css_classes=[name],
            )  # fmt: skip

        self._form = choice("form", {label: form for form, label in FORMS.items()}, first.form)
        self._clock = choice("clock", CLOCKS, first.clock)
        self._other = pn.widgets.TextInput(
            value="tokens:lengths.csv", sizing_mode="stretch_width", margin=(0, 0, 12, 0), visible=False,
            stylesheets=[sheet], css_classes=["other"],
        )  # fmt: skip
        self._monotone = choice("monotone", MONOTONE, first.monotone)
        self._shape = choice("shape", list(SHAPES), first.shape)
        self._budget_kind = choice("budget_kind", list(BUDGET_KINDS), first.budget_kind)
        self._pays = pn.pane.HTML("", sizing_mode="stretch_width", margin=(-6, 0, 14, 0), stylesheets=[sheet])
        self._curve_only = pn.Column(
            *(self._dials[name].box for name in ("min_weight", "max_weight", "max_ratio")), self._monotone
        )
        self._table_only = pn.Column(self._shape, self._budget_kind)
        self._groups_only = pn.Column(self._dials["group_size"].box)
        controls = pn.Column(
            self._form, self._groups_only, self._dials["start"].box, self._dials["target"].box, self._clock,
            self._other, self._pays, self._dials["budget"].box, self._curve_only, self._table_only,
            sizing_mode="stretch_width",
        )  # fmt: skip

        def shown() -> Any:
            return pn.pane.HTML("", sizing_mode="stretch_width", margin=0, stylesheets=[sheet])

        self._answer, self._comparison, self._command = shown(), shown(), shown()
        self._charts = Charts()
        self._save = pn.widgets.FileDownload(
            callback=self._file, filename=FILE, label="Save table", margin=(8, 10, 0, 0),
            stylesheets=[sheet], css_classes=["save"],
        )  # fmt: skip
        self._copy = pn.widgets.Button(
            name="Copy command", margin=(8, 0, 0, 0), stylesheets=[sheet], css_classes=["copy"]
        )
        self._line = pn.widgets.TextInput(visible=False)
        self._copy.jscallback(args={"line": self._line}, clicks="navigator.clipboard.writeText(line.value)")
        self._study: Study | None = None

        page = (HERE / "page.html").read_text(encoding="utf-8")
        page = page.replace("@@STYLE@@", (HERE / "page.css").read_text(encoding="utf-8"))
        self.template = pn.Template(page)
        keep = pn.Column(self._command, pn.Row(self._save, self._copy, self._line), sizing_mode="stretch_width")
        for name, part in (
            ("controls", controls),
            ("answer", self._answer),
            ("comparison", self._comparison),
            ("success", self._charts.success),
            ("weight", self._charts.weight),
            ("advantage", self._charts.advantage),
            ("keep", keep),
        ):
            self.template.add_panel(name, part)
        texts = [*(dial.text for dial in self._dials.values()), self._other]
        for widget in (*texts, self._form, self._clock, self._monotone, self._shape, self._budget_kind):
            widget.param.watch(lambda _: self.update(), "value")
        self.update()

    def question(self) -> Question:
        """What the controls say."""
        return Question(
            form=cast(Form, self._form.value),
            clock=self._other.value if self._clock.value == OTHER else self._clock.value,
            monotone=self._monotone.value,
            shape=self._shape.value,
            budget_kind=self._budget_kind.value,
            **{name: dial.text.value for name, dial in self._dials.items()},
        )

    def update(self) -> None:
        """Answer what is asked, or say in one sentence why not; the page draws it in one go."""
        with pn.io.hold():
            self._update()

    def _update(self) -> None:
        form = self._form.value
        self._groups_only.visible = form != "curve"
        self._curve_only.visible = form != "table"
        self._table_only.visible = form == "table"
        self._other.visible = self._clock.value == OTHER
        try:
            found = study(self.question())
        except (ProblemError, TableError, SolverError) as error:
            self._refuse(error)
            return
        self._study = found
        self._answer.object = _facts(found)
        self._comparison.object = _comparison(found)
        problem = found.question.problem()
        loop = made_for(problem.clock, found.table.group_size if form == "table" else None)[1]
        self._pays.object = f'<p class="note">Paid by {html.escape(loop)}.</p>'
        self._charts.fill(found)
        line = shlex.join(["weightopt", *found.question.words()])
        self._command.object = f"<pre>{html.escape(line)}</pre>"
        self._line.value = line
        self._save.disabled = self._copy.disabled = False

    def _refuse(self, error: Exception) -> None:
        """One sentence; what was drawn before stays, but is not to be kept."""
        said = f"{error.field.replace('_', ' ')} {error.sentence}" if isinstance(error, ProblemError) else str(error)
        said = said[:1].upper() + said[1:].rstrip(".") + "."
        self._study = None
        self._answer.object = (
            f'<p class="refused" role="alert">{html.escape(said)}</p><p class="status">Below is the last answer.</p>'
        )
        self._command.object = self._line.value = ""
        self._save.disabled = self._copy.disabled = True

    def _file(self) -> io.BytesIO:
        assert self._study is not None
        return io.BytesIO(self._study.file())


def _spoken(name: str) -> str:
    """What the page calls an option."""
    words = {"form": "What to solve for", "group_size": "Group size M", "clock": "Clock: what time costs"}
    return words.get(name, name.replace("_", " ").capitalize())


def _facts(found: Study) -> str:
    """Time, bound and gap, and what they prove."""
    answer, own = found.answer, found.own
    certificate = answer.certificate
    facts = {
        "Time": f"{certificate.objective:.6g}",
        "Certified lower bound": f"{certificate.lower_bound:.6g}",
        "Certified gap": f"{certificate.gap:.1e}",
        "Over the least possible time": f"{own.ratio:.3f}",
    }
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    status, _, more = answer.status.value.partition(":")
    notes = []
    if found.question.form == "plug-in":
        notes.append("Time, bound and gap are the curve's, for very large groups; the charts show it read at K/M.")
    if found.table.group_size and 0 in found.table.weight:
        notes.append("Groups whose weight is 0 are not learned from; they have no point in the chart of the weights.")
    note = "".join(f'<p class="status">{html.escape(each)}</p>' for each in notes)
    return (
        f'<dl class="facts">{cells}</dl><p class="status"><b>{html.escape(status.capitalize())}</b>:'
        f"{html.escape(more)}. Found by {html.escape(answer.method)}.</p>{note}"
    )


def _comparison(found: Study) -> str:
    """A row for each weighting with its look, a bar, and its time over the least possible one; fastest first."""
    lines = sorted(found.lines, key=lambda line: (round(line.ratio, 9), line.name != OWN))
    longest = lines[-1].ratio
    rows = []
    for line in lines:
        dashes = " ".join(map(str, dash(line.name)))
        colour = COLOURS[line.name]
        sample = (
            f'<svg width="30" height="10" aria-hidden="true"><line x1="0" x2="30" y1="5" y2="5" stroke="{colour}" '
            f'stroke-width="{width(line.name)}" stroke-dasharray="{dashes}"/></svg>'
        )
        bar = f'<div style="width:{100 * line.ratio / longest:.1f}%;background:{colour}"></div>'
        rows.append(
            f'<tr{" class=own" if line.name == OWN else ""} data-name="{line.name}"><td class="sample">{sample}</td>'
            f'<td class="name">{html.escape(line.label)}</td><td class="bar">{bar}</td>'
            f'<td class="ratio">{line.ratio:.3f}</td></tr>'
        )
    foot = f'<p class="note" style="margin-top:6px">Relative to {html.escape(found.reference)}; equal budget.'
    foot += " * Our reconstruction: the name is the paper's, the form ours.</p>"
    return f"<table>{''.join(rows)}</table>{foot}"


def serve(port: int, opened: Callable[[str], None]) -> None:
    """Serve the page to this machine until it is interrupted.

    Parameters
    ----------
    port
        Of the loopback address; 0 for a free one.
    opened
        Called with the address of the page when it can be asked for.

    Raises
    ------
    OSError
        If the port cannot be had.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((ADDRESS, port))
        port = probe.getsockname()[1]
    pn.config.sizing_mode = None
    server = get_server(
        lambda: Page().template, port=port, address=ADDRESS, show=False, start=False, title="weightopt explore",
        websocket_origin=[f"{ADDRESS}:{port}", f"localhost:{port}"],
    )  # fmt: skip
    server.start()
    opened(f"http://{ADDRESS}:{port}")
    server.io_loop.start()
