"""The command ``weightopt figures``: draw figures by name into a folder, and write the page that shows them all.

Only the standard library and typer are imported here, so that the command line starts fast.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn

import typer

from weightopt.heartbeat import Heartbeat

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

NAMES = (
    "overview",
    "weights",
    "surrogates",
    "trajectories",
    "relative-cost",
    "cost-map",
    "group-tables",
    "group-loss",
    "population",
    "advice-over-m",
    "cost-per-loop",
    "coexistence",
    "predicted-measured",
    "simulation",
    "regimes",
    "all-wrong",
    "training",
    "histograms",
)
FROM_RUNS = ("training", "histograms")
INSTALL = "pip install 'weightopt[sim]'"
# The packages of the extra; any other missing import is a defect and shows its traceback.
EXTRA = frozenset({"llvmlite", "numba"})
PAGE_DPI = 120  # of the pictures on the page, which people have to download


class Drawn(NamedTuple):
    """A figure: its module, the plotted numbers and the picture."""

    module: Any
    frame: pd.DataFrame
    figure: Figure


class MissingError(Exception):
    """Something that a figure needs is missing: the sentence tells the user, and the page, what to do."""

    def __init__(self, sentence: str, title: str, on_the_page: str) -> None:
        super().__init__(sentence)
        self.title, self.on_the_page = title, on_the_page


def figures(
    names: Annotated[list[str] | None, typer.Argument(help=f"Which: {', '.join(NAMES)}.  [default: all]")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the PNG, PDF and CSV files.")] = Path("out/figures"),
    runs: Annotated[
        Path,
        typer.Option(
            help=f"Training runs for {' and '.join(FROM_RUNS)}: TABLE/SEED folders, or a study's results of a setting."
        ),
    ] = Path("out/demo/runs"),
    captions: Annotated[
        Path | None,
        typer.Option(
            help="Write the page of all figures there, such as docs/figures.md, its pictures in a folder beside."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the files written as one JSON document.")] = False,
) -> None:
    """Draw figures: PNG, PDF and the plotted numbers as CSV each, byte-identical when repeated."""
    for name in names or ():
        if name not in NAMES:
            _refuse(f"unknown figure {name!r}; choose one of {', '.join(NAMES)}")
    if captions is not None and names:
        _refuse("--captions writes the page of all figures: leave the names out")
    _check(output, "--output")
    if captions is not None:
        if captions.is_dir():
            _refuse(f"--captions: {captions} is a folder; give a Markdown file")
        _check(captions.parent / captions.stem, "--captions")
    written: dict[str, list[str]] = {}
    sections = []
    for name in names or NAMES:
        beat = Heartbeat(lambda seconds, name=name: f"weightopt: still drawing {name} after {seconds:.0f} s")
        try:
            with beat:
                drawn = _draw(name, runs)
                files = _write(output, name, drawn)
                if captions is not None:
                    sections.append(_section(name, drawn, captions))
        except MissingError as error:
            if names:
                _refuse(f"figure {name!r}: {error}")
            print(f"{name}: left out, {error}", file=sys.stderr)
            if captions is not None:
                sections.append(_empty_section(name, error))
            continue
        except (OSError, ValueError) as error:
            _refuse(f"figure {name!r}: {error}")
        written[name] = files
        if not as_json:
            print("\n".join(files))
    if captions is not None:
        from figures.captions import page
        from weightopt.files import replace_file

        captions.parent.mkdir(parents=True, exist_ok=True)
        replace_file(captions, page(sections).encode())
        if not as_json:
            print(captions)
    if as_json:
        print(json.dumps(written))


def _draw(name: str, runs: Path) -> Drawn:
    import importlib

    try:
        module = importlib.import_module(f"figures.{name.replace('-', '_')}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA:
            raise
        sentence = f"it needs {package}, which is not installed: {INSTALL}"
        raise MissingError(sentence, name, f"Not drawn here: {sentence}.") from None
    try:
        frame = module.data(runs) if name in FROM_RUNS else module.data()
    except FileNotFoundError as error:
        if name not in FROM_RUNS:
            raise MissingError(str(error), module.TITLE, f"Not drawn here: {error}.") from None
        sentence = f"{error}; `make demo` makes some, --runs names others"
        raise MissingError(sentence, module.TITLE, "Not drawn here: it needs training runs (`--runs`).") from None
    return Drawn(module, frame, module.draw(frame))


def _write(output: Path, name: str, drawn: Drawn) -> list[str]:
    from figures.output import write

    output.mkdir(parents=True, exist_ok=True)
    return [str(path) for path in write(output, name, drawn.figure, drawn.frame)]


def _section(name: str, drawn: Drawn, captions: Path) -> Any:
    from figures.captions import Section
    from figures.output import png
    from weightopt.files import replace_file

    folder = captions.parent / captions.stem
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / f"{name}.png", png(drawn.figure, PAGE_DPI))
    module = drawn.module
    table = module.table(drawn.frame) if hasattr(module, "table") else None
    return Section(name, module.TITLE, module.caption(drawn.frame), f"{captions.stem}/{name}.png", table)


def _empty_section(name: str, error: MissingError) -> Any:
    from figures.captions import Section

    return Section(name, error.title, error.on_the_page)


def _check(folder: Path, option: str) -> None:
    """Refuse a folder that cannot be made, before anything is drawn; it is made with its first file."""
    try:
        there = next(each for each in (folder, *folder.parents) if each.exists())
        why = "" if there.is_dir() and os.access(there, os.W_OK) else f"{there} is no folder that can be written"
    except (OSError, ValueError) as error:  # a name too long, links in a circle, a null byte
        why = getattr(error, "strerror", None) or str(error)
    if why:
        _refuse(f"{option}: cannot make the folder {folder} ({why})")


def _refuse(sentence: str) -> NoReturn:
    print(f"weightopt: {sentence}.", file=sys.stderr)
    raise typer.Exit(2)
