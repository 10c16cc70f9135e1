"""``python -m figures``: the command ``weightopt figures``."""

import typer

from figures.command import figures

if __name__ == "__main__":
    typer.run(figures)
