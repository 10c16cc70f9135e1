"""What can go wrong outside a table file: a problem that makes no sense, a solver that could not prove its answer."""

from __future__ import annotations


class ProblemError(ValueError):
    """A parameter outside its valid range.

    Parameters
    ----------
    field
        The parameter, as in `Problem`'s signature.
    sentence
        What it must be and what was given; follows the field's name.
    """

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(f"{field} {sentence}")
        self.field = field
        self.sentence = sentence


class SolverError(RuntimeError):
    """A method did not reach its certified tolerance; the message is the status text of the solution."""
