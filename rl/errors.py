"""What can stop a run: bad input, numbers that are not finite, a stale engine, a full disk, another process."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# Characters of what a library says that are told.
LONGEST = 200


class UsageError(ValueError):
    """A run cannot start as asked; the message is one sentence naming the thing and its valid range."""


class DivergenceError(ArithmeticError):
    """A loss or a gradient is not finite; the message names the step; a saved checkpoint is intact.

    Attributes
    ----------
    responses
        What the step had to learn from, one document a response, as far as it is known.
    """

    responses: Iterable[Mapping[str, Any]] = ()


class SyncError(RuntimeError):
    """The sampling engine does not compute with the weights that are trained; a saved checkpoint is intact."""


class StorageError(RuntimeError):
    """Something could not be written in the middle of a run; a saved checkpoint is intact."""


class OtherRankError(RuntimeError):
    """Another process of the run has failed before this one, and says why."""


class LostRankError(RuntimeError):
    """Another process of the run is gone and has not said why; a saved checkpoint is intact."""


@contextmanager
def refusing(what: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of some kinds in a ``with`` block into a `UsageError` of one sentence: ``what``, and the reason."""
    try:
        yield
    except UsageError:
        raise
    except kinds as error:
        reason = one_line(error)
        if isinstance(error, OSError) and error.strerror:  # without a number, and the file if it is not named yet
            named = error.filename is None or str(error.filename) in what
            reason = error.strerror if named else f"{error.strerror}: {str(error.filename)!r}"
        raise UsageError(f"{what}: {reason}") from error


def one_line(error: BaseException, *, first: bool = False) -> str:
    """What an error says, on one line that is no longer than one reads; with ``first`` no more than its first line."""
    lines = [line for each in str(error).splitlines() if (line := " ".join(each.split()))]
    said = " ".join(lines[:1] if first else lines)
    return f"{said[:LONGEST].rstrip(': ')} …" if len(said) > LONGEST or (first and len(lines) > 1) else said
