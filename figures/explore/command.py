"""The command ``weightopt explore``; nothing heavy is imported before it is called."""

from __future__ import annotations

import sys
import webbrowser
from importlib.util import find_spec
from typing import Annotated, NoReturn

import typer

INSTALL = "pip install 'weightopt[explore]'"


def explore(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the loopback address; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Play with the theory on a page in your browser; Ctrl-C ends it.

    Sliders for start, target, clock, group size, budget and bounds; the page shows weights, advantages, success over
    time and the named weightings beside the solved one, with its certificate. It saves the table that `solve` would
    write, and shows the command that writes it. The page is served to this machine alone and asks nobody else for
    anything.

    Examples:
        $ weightopt explore
          Opens the page.

        $ weightopt explore --port 5006 --no-browser
          Prints its address, for a browser at the other end of `ssh -L 5006:localhost:5006`.
    """
    if find_spec("panel") is None:
        _refuse(f"the page needs panel, which is not installed: {INSTALL}")
    from figures.explore.page import serve

    def opened(address: str) -> None:
        print(f"weightopt: {address}, until Ctrl-C", flush=True)
        if browser:
            webbrowser.open(address)

    try:
        serve(port, opened)
    except OSError as error:
        _refuse(f"--port: cannot have port {port} ({error.strerror}); give another one, or 0 for a free one")
    except KeyboardInterrupt:
        print(file=sys.stderr)


def _refuse(sentence: str) -> NoReturn:
    print(f"weightopt: {sentence}.", file=sys.stderr)
    raise typer.Exit(2)
