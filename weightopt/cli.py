"""The command line: parse, call one ordinary function, show its answer, turn it into an exit status.

Exit status 0: done. 1: the answer is no (`check` found something off, a solve could not be certified). 2: bad input,
one sentence on standard error. Solvers and plotting are imported by the command that needs them, so that help is fast.
Other packages hand in subcommands through the entry-point group ``weightopt.commands``.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from weightopt.commands.advise import advise
from weightopt.commands.compare import compare
from weightopt.commands.doctor import doctor
from weightopt.commands.help import Command, Group
from weightopt.commands.output import fail, refuse
from weightopt.commands.population import population
from weightopt.commands.solve import solve
from weightopt.commands.sweep import sweep
from weightopt.commands.tables import check, list_weightings, show, table
from weightopt.heartbeat import Heartbeat

app = typer.Typer(
    name="weightopt",
    cls=Group,
    help="Time-optimal prompt weights for reinforcement learning with verifiable rewards.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, command in (
    ("solve", solve),
    ("compare", compare),
    ("population", population),
    ("advise", advise),
    ("sweep", sweep),
    ("table", table),
    ("list", list_weightings),
    ("show", show),
    ("check", check),
    ("doctor", doctor),
):
    app.command(name, cls=Command)(command)

INTERRUPTED = 130  # typer's, too, for a command that Ctrl-C has ended

# Commands that may think for minutes and have nothing to show before the end.
SOLVERS = ("solve", "compare", "population", "advise", "check", "forecast")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"weightopt {version('weightopt')}")
        raise typer.Exit


@app.callback()
def _weightopt(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 its callback has acted
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    if context.invoked_subcommand in SOLVERS:
        beat = Heartbeat(lambda seconds: f"weightopt: still at it after {seconds:.0f} s; Ctrl-C ends it")
        context.call_on_close(lambda: beat.__exit__(None))
        beat.__enter__()


@contextmanager
def _last_word() -> Iterator[None]:
    """After an interruption has had its sentence, let no further one end the process without its exit status.

    The interpreter needs a moment to end, tenths of a second with torch, and who is impatient presses Ctrl-C again.
    """
    try:
        yield
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise


@_last_word()
def main() -> None:
    """Run the command line; every failure a user can cause is one sentence and an exit status."""
    # Before numpy is loaded: our matrices are small, and more threads make them slower, on a busy machine threefold.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name, or a terminal, need not know every character
            stream.reconfigure(errors="backslashreplace")
    _refuse_shell(sys.argv[1:])
    _add_commands(sys.argv[1:])
    try:
        status = app(args=_with_address(sys.argv[1:]), standalone_mode=False)
        sys.stdout.flush()
        if status == INTERRUPTED:
            raise KeyboardInterrupt
    except typer.TyperException as error:
        sentence = _sentence(error)
        if not sentence:  # called without a command: the help has been printed
            raise SystemExit(2) from None
        fail(sentence, 2)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(141) from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left has nowhere to go
        fail("the disk is full; what was printed is not whole", 1)
    except (ValueError, RuntimeError) as error:
        # Numpy, which tables need, is not loaded for a help that is only printed.
        from weightopt.errors import ProblemError, SolverError
        from weightopt.table import TableError

        if isinstance(error, ProblemError):
            fail(f"--{error.field.replace('_', '-')} {error.sentence}", 2)
        if not isinstance(error, TableError | SolverError):
            raise
        fail(str(error), 2 if isinstance(error, TableError) else 1)
    raise SystemExit(status if isinstance(status, int) else 0)


def _open_standard_streams() -> None:
    """Open a standard stream that was closed (``>&-``) on nothing: else the next file that is written would be it."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115 for the process


def _with_address(words: list[str]) -> list[str]:
    """The command line with ``--ray auto`` for a ``--ray`` that no address follows."""
    said = []
    for word, following in zip(words, [*words, "-"][1:], strict=True):
        said += [word, "auto"] if word == "--ray" and following.startswith("-") else [word]
    return said


def _add_commands(arguments: list[str]) -> None:
    """Attach the subcommands of the other packages; one that cannot be loaded says so when it is called.

    Looking for them takes longer than the rest of the start, so a command of our own does without.
    """
    known = {command.name for command in app.registered_commands}
    if arguments and arguments[0] in known:
        return
    import importlib.metadata

    for entry in sorted(importlib.metadata.entry_points(group="weightopt.commands"), key=lambda entry: entry.name):
        if entry.name in known:
            continue
        try:
            command = entry.load()
        except (ImportError, AttributeError) as error:
            command = _unavailable(entry.name, error)
        app.command(entry.name, cls=Command)(command)


def _unavailable(name: str, error: Exception) -> Any:
    def command() -> None:
        refuse(f"the command '{name}' cannot be loaded ({error}); install the project again")

    command.__doc__ = "Not available in this installation."
    return command


def _refuse_shell(words: list[str]) -> None:
    """Refuse the name of a shell, which the options for completion do not read: they ask which shell this is."""
    if len(words) > 1 and words[0] in ("--show-completion", "--install-completion"):
        refuse(f"{words[0]} is for the shell that it is called from and takes no value, got {words[1]!r}")


def _sentence(error: typer.TyperException) -> str:
    """What the option parser has to say, on one line; the option that may have been meant for one there is not."""
    if isinstance(error, typer.BadParameter) and (said := _of_a_number(error)):
        return said
    text = " ".join((error.format_message() if isinstance(error, typer.BadParameter) else str(error)).split())
    if meant := getattr(error, "possibilities", None):
        text += f". Did you mean {' or '.join(map(repr, meant))}?"
    return text[:1].lower() + text[1:]


def _of_a_number(error: typer.BadParameter) -> str | None:
    """What a number must be, if that is what the parser has refused."""
    found = next(iter(getattr(error.__cause__, "errors", list)()), None)
    if found is None or error.param is None:
        return None
    low, high = getattr(error.param, "min", None), getattr(error.param, "max", None)
    kind, one = found["type"], error.param.nargs == 1
    if kind.startswith(("int_", "float_")):
        number = "whole number" if kind.startswith("int_") else "number"
        must = f"a {number}" if one else f"{number}s"
    elif kind.startswith(("less_than", "greater_than")) and (low, high) != (None, None):
        must = f"at least {low}" if high is None else f"at most {high}" if low is None else f"from {low} to {high}"
    else:
        return None
    return f"{max(error.param.opts, key=len)} must be {must}, got {found['input']!r}"
