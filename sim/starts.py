"""Where the success probabilities of a population of prompts start.

constant:R          every prompt at R
uniform:LOW,HIGH    uniform
beta:A,B[,LOW]      Beta(A, B), values below LOW or above 1-LOW moved there (default LOW = 0.001)
csv:FILE            the column rho of a file, drawn with replacement; all of them, in order, if there are as many
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.errors import UsageError
from weightopt.columns import number
from weightopt.files import read_file

CHOICES = "constant:R, uniform:LOW,HIGH, beta:A,B[,LOW] or csv:FILE"
DEFAULT_LOW = 1e-3
SMALLEST = 1e-12
LARGEST_FILE = 2**26


@dataclasses.dataclass(frozen=True)
class Start:
    """A distribution of success probabilities over prompts.

    Parameters
    ----------
    name
        What configurations call it.
    draw
        From a count n and a generator to success probabilities in (0, 1), shape (n,).
    checksum
        Of the numbers read from a file; empty where there is none.
    """

    name: str
    draw: Callable[[int, np.random.Generator], NDArray[np.float64]]
    checksum: str = ""


def parse(text: str) -> Start:
    """The start of that name.

    Raises
    ------
    UsageError
        With one sentence that names the choices or the range.
    """
    kind, _, arguments = text.partition(":")
    if kind == "csv":
        return _measured(text, Path(arguments))
    try:
        numbers = [float(word) for word in arguments.split(",")]
    except ValueError:
        numbers = []
    match kind, numbers:
        case "constant", [rho]:
            _within(text, rho, rho)
            return Start(text, lambda count, _: np.full(count, rho))
        case "uniform", [low, high]:
            _within(text, low, high)
            return Start(text, lambda count, rng: rng.uniform(low, high, count))
        case "beta", [a, b, *rest] if len(rest) <= 1:
            low = rest[0] if rest else DEFAULT_LOW
            _within(text, low, 1 - low)
            if not (0.01 <= a <= 1e4 and 0.01 <= b <= 1e4):
                raise UsageError(f"population {text!r}: A and B must be from 0.01 to 10000")
            return Start(text, lambda count, rng: np.clip(rng.beta(a, b, count), low, 1 - low))
        case _:
            raise UsageError(f"population {text!r} is none of {CHOICES}")


def _within(text: str, low: float, high: float) -> None:
    """Refuse a range that leaves (0, 1), not-a-number included."""
    if not SMALLEST <= low <= high <= 1 - SMALLEST:
        raise UsageError(
            f"population {text!r}: success probabilities must be from {SMALLEST:g} to 1-{SMALLEST:g}, in order"
        )


def _measured(text: str, path: Path) -> Start:
    try:
        data = read_file(path, LARGEST_FILE)
        if len(data) > LARGEST_FILE:
            raise UsageError(f"population {text!r}: the file is larger than {LARGEST_FILE >> 20} MiB")
        rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        rho = np.array([number(row["rho"]) for row in rows])
    except OSError as error:
        raise UsageError(f"population {text!r} cannot be read: {error.strerror}") from None
    except (AttributeError, KeyError, TypeError, ValueError, csv.Error):
        raise UsageError(f"population {text!r} needs a CSV file with a column rho of numbers") from None
    if rho.size == 0 or not all(math.isfinite(r) and SMALLEST <= r <= 1 - SMALLEST for r in rho.tolist()):
        raise UsageError(f"population {text!r}: column rho must hold numbers from {SMALLEST:g} to 1-{SMALLEST:g}")
    digest = "sha256:" + sha256(rho.tobytes()).hexdigest()
    return Start(text, lambda count, rng: rho.copy() if count == rho.size else rng.choice(rho, count), digest)
